"""Draws the picture of the README: a sentence, its codes, and what comes back at three bitrates.

Run from the repository: `python docs/figures.py`. Needs matplotlib, of the `dev` extra.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import rvq
from rvq.codec.files import read_audio

REPOSITORY = Path(__file__).parents[1]
CLIP = REPOSITORY / "tests" / "data" / "english_24khz.ogg"


def spectrogram(axis: plt.Axes, audio: np.ndarray, sample_rate: int, title: str) -> None:
    """Log power spectrogram with the same colours for all panels."""
    axis.specgram(audio, NFFT=512, Fs=sample_rate, noverlap=384, cmap="magma", vmin=-130, vmax=-30)
    axis.set(ylabel="kHz", yticks=[0, 4000, 8000, 12000], yticklabels=["0", "4", "8", "12"])
    axis.set_title(title, loc="left", fontsize=10)


def main() -> None:
    """Write `docs/codes.png`."""
    audio, sample_rate = read_audio(CLIP)
    codec = rvq.Codec.load()
    figure, axes = plt.subplots(5, 1, figsize=(9, 9), sharex=True, layout="constrained")
    spectrogram(axes[0], audio[0], sample_rate, "recording, 384 kbps")
    codes = codec.encode(audio, sample_rate, bitrate=12)
    duration = audio.shape[1] / sample_rate
    axes[1].imshow(
        codes.indices[0].T,
        aspect="auto",
        interpolation="nearest",
        cmap="twilight",
        extent=(0, codes.indices.shape[1] / codec.runtime.frame_rate, 16.5, 0.5),
    )
    axes[1].set(ylabel="codebook", yticks=[1, 4, 8, 12, 16])
    axes[1].set_title("its codes: 75 frames a second, up to 16 × 10 bits", loc="left", fontsize=10)
    for axis, bitrate in zip(axes[2:], (12, 6, 1.5), strict=True):
        data = codec.compress(audio, sample_rate, bitrate=bitrate)
        title = f"decoded from {bitrate:g} kbps, {len(data)} bytes"
        spectrogram(axis, codec.decompress(data)[0], sample_rate, title)
    axes[-1].set(xlabel="seconds", xlim=(0, duration))
    figure.savefig(REPOSITORY / "docs" / "codes.png", dpi=100)


if __name__ == "__main__":
    main()
