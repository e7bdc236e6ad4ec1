"""How near a model's codebooks come to what rate-distortion theory allows for its latents.

    python benchmarks/bounds.py data/dev --model speech_24khz

For every number of codebooks the error that beam search leaves, relative to the latents' energy,
beside the least error of Gaussian vectors with the same covariance at as many bits (reverse
water-filling, Cover & Thomas 2006, theorem 10.3.3): of single frames, of two and of three frames
coded together, and of what two past frames, known exactly, leave to be told of a frame. Latents are
not Gaussian, so that codebooks may pass the first of these.
"""

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt

import rvq
from rvq.codec.files import find_recordings, read_audio
from rvq.quantize.search import decode

Doubles = npt.NDArray[np.float64]


def latents_of(codec: rvq.Codec, path: Path) -> Doubles:
    """Latents of a recording's first channel at the model's rate, `[n_frames, dim]`."""
    audio, rate = read_audio(path)
    runtime = codec.runtime
    if rate != runtime.sample_rate:
        raise SystemExit(f"{path} is not at {runtime.sample_rate} Hz")
    whole = audio[:1, : audio.shape[1] // runtime.hop_length * runtime.hop_length]
    return runtime.encode_whole(whole)[0].astype(float)


def bound(covariance: Doubles, bits: float) -> float:
    """Least squared error of Gaussian vectors at `bits` a vector."""
    variances = np.linalg.eigvalsh(covariance).clip(min=1e-12)
    low, high = 1e-12, float(variances.max())
    for _ in range(100):  # for the level of the water, on a logarithmic scale
        level = (low * high) ** 0.5
        rate = 0.5 * np.log2((variances / level).clip(min=1)).sum()
        low, high = (level, high) if rate > bits else (low, level)
    return float(np.minimum(variances, level).sum())


def stacked(clips: list[Doubles], n: int) -> Doubles:
    """Covariance of n frames in a row, as one vector."""
    rows = [clip[: len(clip) // n * n].reshape(-1, n * clip.shape[1]) for clip in clips]
    return np.cov(np.concatenate(rows).T)


def innovation(clips: list[Doubles], n_past: int = 2) -> Doubles:
    """Covariance of what the best linear prediction from the frames before leaves."""
    clips = [clip for clip in clips if len(clip) > n_past]
    past = np.concatenate(
        [
            np.concatenate([clip[n_past - 1 - j : len(clip) - 1 - j] for j in range(n_past)], 1)
            for clip in clips
        ]
    )
    now = np.concatenate([clip[n_past:] for clip in clips])
    ridge = 1e-4 * np.square(past).sum() / past.shape[1] * np.eye(past.shape[1])
    return np.cov((now - past @ np.linalg.solve(past.T @ past + ridge, past.T @ now)).T)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("recordings", type=Path, nargs="+")
    parser.add_argument("--model", default="speech_24khz")
    options = parser.parse_args()
    codec = rvq.Codec.load(options.model, threads=0)
    paths = [path for folder in options.recordings for path in find_recordings(folder)]
    clips = [latents_of(codec, path) for path in paths]
    whole = np.concatenate(clips)
    energy, mean = np.square(whole).sum(1).mean(), whole.mean(0)
    centred = [clip - mean for clip in clips]
    covariances = {n: stacked(centred, n) for n in (1, 2, 3)}
    left = innovation(centred)
    codebooks = codec.runtime.codebooks
    bits = int(np.log2(codebooks.shape[1]))
    print(f"{len(whole)} latents of {len(clips)} recordings")
    print("| codebooks | beam search | one frame | two | three | known past |")
    print("|---:|---:|---:|---:|---:|---:|")
    for n in (2, 4, 8, 16):
        if n > len(codebooks):
            break
        codes = codec.runtime.search(8)(whole.astype(np.float32), n)
        error = np.square(whole - decode(codes, codebooks)).sum(1).mean()
        cells = [error, *(bound(c, n * bits * k) / k for k, c in covariances.items())]
        cells.append(bound(left, n * bits))
        print(f"| {n} | " + " | ".join(f"{cell / energy:.4f}" for cell in cells) + " |")


if __name__ == "__main__":
    main()
