"""Draws the figures of the documentation with the package itself.

Run from the repository: `python docs/figures.py`, or with the names of some of them. Needs
matplotlib, of the `docs` extra.
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

import rvq
from rvq.codec.files import read_audio

REPOSITORY = Path(__file__).parents[1]
DOCS = REPOSITORY / "docs"
CLIP = REPOSITORY / "tests" / "data" / "english_24khz.ogg"
SAMPLES = REPOSITORY / "src" / "rvq" / "web" / "samples"
COLOURS = ("#4a50c0", "#b04f9c", "#e5735c")


def spectrogram(axis: plt.Axes, audio: np.ndarray, sample_rate: int, title: str) -> None:
    """Log power spectrogram with the same colours for all panels."""
    axis.specgram(audio, NFFT=512, Fs=sample_rate, noverlap=384, cmap="magma", vmin=-130, vmax=-30)
    axis.set(ylabel="kHz", yticks=[0, 4000, 8000, 12000], yticklabels=["0", "4", "8", "12"])
    axis.set_title(title, loc="left", fontsize=10)


def codes() -> None:
    """A sentence, its codes, and what comes back at three bitrates."""
    audio, sample_rate = read_audio(CLIP)
    codec = rvq.Codec.load()
    figure, axes = plt.subplots(5, 1, figsize=(9, 9), sharex=True, layout="constrained")
    spectrogram(axes[0], audio[0], sample_rate, "recording, 384 kbps")
    encoded = codec.encode(audio, sample_rate)
    n_codebooks = encoded.n_codebooks
    duration = audio.shape[1] / sample_rate
    axes[1].imshow(
        encoded.indices[0].T,
        aspect="auto",
        interpolation="nearest",
        cmap="twilight",
        extent=(0, encoded.indices.shape[1] / codec.runtime.frame_rate, n_codebooks + 0.5, 0.5),
    )
    axes[1].set(ylabel="codebook", yticks=[1, 6, 12, 18])
    title = f"its codes: 75 frames a second, up to {n_codebooks} × 10 bits"
    axes[1].set_title(title, loc="left", fontsize=10)
    for axis, bitrate in zip(axes[2:], (12, 6, 1.5), strict=True):
        data = codec.compress(audio, sample_rate, bitrate=bitrate)
        title = f"decoded from {bitrate:g} kbps, {len(data)} bytes"
        spectrogram(axis, codec.decompress(data)[0], sample_rate, title)
    axes[-1].set(xlabel="seconds", xlim=(0, duration))
    figure.savefig(DOCS / "codes.png", dpi=100)
    image = Image.open(DOCS / "codes.png").convert("RGB")  # in fewer colours, a third of the size
    image.quantize(128).save(DOCS / "codes.png", optimize=True)


def points() -> np.ndarray:
    """Four clouds of the plane."""
    rng = np.random.default_rng(7)
    clouds = [(-0.42, -0.28, 0.17), (0.4, 0.3, 0.14), (0.48, -0.48, 0.1), (-0.52, 0.55, 0.08)]
    sizes = (920, 540, 340, 200)
    parts = [
        rng.normal((x, y), spread, (n, 2)) for (x, y, spread), n in zip(clouds, sizes, strict=True)
    ]
    return np.concatenate(parts).astype(np.float32)


def rvq_figure() -> None:
    """The places that one, two and three codebooks of four codewords can say."""
    x = points()
    quantizer = rvq.ResidualQuantizer(n_codebooks=3, codebook_size=4).fit(x)
    shown = quantizer.encode(x)
    figure, axes = plt.subplots(1, 3, figsize=(10, 3.6), sharex=True, sharey=True)
    error = quantizer.reconstruction_error(x)
    for n, axis in enumerate(axes, start=1):
        places = quantizer.decode(np.unique(shown[:, :n], axis=0))
        axis.scatter(*x.T, s=2, color="#c9c2b6")
        axis.scatter(*places.T, s=26, color=COLOURS[n - 1], zorder=3)
        left = f"{np.ravel(error)[n - 1]:.1%} of the variance left"
        axis.set_title(f"{n} codebook{'s' * (n > 1)}, {2 * n} bits\n{left}", fontsize=10)
        axis.set(xticks=[], yticks=[], aspect="equal")
    figure.tight_layout()
    figure.savefig(DOCS / "how-rvq.png", dpi=80)


def distortion() -> None:
    """Error by bits on latents of speech, for four quantizers."""
    parts = []
    codec = rvq.Codec.load()
    for path in sorted([*CLIP.parent.glob("*.ogg"), *SAMPLES.glob("*.flac")]):
        audio, sample_rate = read_audio(path)
        encoded = codec.encode(audio, sample_rate).indices[0]
        stages = np.arange(encoded.shape[1])
        parts.append(codec.runtime.codebooks[stages, encoded].sum(axis=1))
    latents = np.concatenate(parts)
    train, test = latents[::2], latents[1::2]
    figure, axis = plt.subplots(figsize=(7, 4))
    sizes = [4, 8, 16]
    product = [rvq.ProductQuantizer(n_codebooks=n, codebook_size=64).fit(train) for n in sizes]
    axis.plot([6 * n for n in sizes], [loss(q, test) for q in product], "o-", label="product")
    for beam, name in ((1, "residual, greedy"), (8, "residual, beam of 8")):
        settings = {"codebook_size": 64, "beam_size": beam}
        trained = [rvq.ResidualQuantizer(n_codebooks=n, **settings).fit(train) for n in sizes]
        axis.plot([6 * n for n in sizes], [loss(q, test) for q in trained], "o-", label=name)
    axis.set(xlabel="bits a frame", ylabel="error over variance, dB", xticks=[6 * n for n in sizes])
    axis.legend()
    axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(DOCS / "how-distortion.png", dpi=80)


def loss(quantizer: rvq.ResidualQuantizer | rvq.ProductQuantizer, x: np.ndarray) -> float:
    """Mean squared error over variance in dB."""
    error = np.mean((x - quantizer.decode(quantizer.encode(x))) ** 2)
    return float(10 * np.log10(error / x.var(axis=0).mean()))


FIGURES = {"codes": codes, "rvq": rvq_figure, "distortion": distortion}

if __name__ == "__main__":
    for name in sys.argv[1:] or FIGURES:
        FIGURES[name]()
