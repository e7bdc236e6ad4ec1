"""What a recording is to a classifier: codes, latents or log-mel spectra, pooled over time."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import soxr

from rvq.codec.codec import Codec
from rvq.corpus.audio import open_recording
from rvq.errors import InputError
from rvq.mel import mel_filterbank

Floats = npt.NDArray[np.float32]

N_MELS = 80
_N_FFT = 1024


def read_mono(path: str, sample_rate: int) -> Floats:
    """The mean of a recording's channels, `[n_samples]` at a rate.

    Raises:
        InputError: not to be read, or not finite.
    """
    with open_recording(path) as recording:
        blocks = [block.mean(0) for block in recording.blocks]
        audio = np.concatenate(blocks) if blocks else np.empty(0, np.float32)
        rate = recording.sample_rate
    if not len(audio) or not np.isfinite(audio).all():
        raise InputError("holds no audio, or NaN")
    return soxr.resample(audio, rate, sample_rate).astype(np.float32)


def log_mel(audio: Floats, sample_rate: int, hop_length: int) -> Floats:
    """Log-mel spectrum `[n_frames, 80]` of audio `[n_samples]`: the usual input of classifiers."""
    padded = np.pad(audio, (_N_FFT // 2, _N_FFT // 2))
    windows = np.lib.stride_tricks.sliding_window_view(padded, _N_FFT)[::hop_length]
    power = np.abs(np.fft.rfft(windows * np.hanning(_N_FFT), axis=1)) ** 2
    filters = mel_filterbank(sample_rate, _N_FFT, N_MELS)
    return np.log10(np.maximum(power @ filters, 1e-8)).astype(np.float32)


def pool(frames: Floats, segments: int) -> Floats:
    """Mean over each of so many equal parts of `[n_frames, dim]`, and deviation over all frames."""
    parts = np.array_split(frames, segments)
    means = [part.mean(0) if len(part) else frames.mean(0) for part in parts]
    return np.concatenate([*means, frames.std(0)])


def pooled_features(
    codec: Codec, audio: Floats, n_codebooks: Sequence[int], segments: int
) -> dict[str, Floats]:
    """All features of audio `[n_samples]` at the codec's rate, a vector each.

    - `log-mel`: 80 bands.
    - `latents`: what the encoder makes of it, before quantization.
    - `codes n`: the codewords of the first n codebooks, summed.
    - `layer n`: the codewords of the n-th codebook alone.
    """
    runtime = codec.runtime
    hop = runtime.hop_length
    n_frames = max(-(-len(audio) // hop), runtime.first_frames)
    whole = np.pad(audio, (0, n_frames * hop - len(audio)))
    latents = runtime.encode_whole(whole[None])[0]
    codes = runtime.search(1)(latents, len(runtime.codebooks))
    layers = np.stack([book[codes[:, q]] for q, book in enumerate(runtime.codebooks)])
    features = {
        "log-mel": log_mel(audio, runtime.sample_rate, hop),
        "latents": latents,
    }
    sums = np.cumsum(layers, axis=0)
    features |= {f"codes {n}": sums[n - 1] for n in n_codebooks}
    features |= {f"layer {q + 1}": layer for q, layer in enumerate(layers)}
    return {name: pool(frames, segments) for name, frames in features.items()}
