"""Whether recordings for measuring occur among those learned from.

    python benchmarks/unseen.py --data data_audio --dev music-flare --dev music-horizons

Every recording's contour of levels (75 a second) is laid against the contours of all packed
recordings, and where it fits best in each source the waveforms are: a copy has a correlation near 1
there, at any volume and in either polarity, which a stretch of a packed source shows. Recordings at
another speed are not found.
"""

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
from scipy.signal import fftconvolve

HOP = 320
RATE = 24_000
AROUND = RATE // 2
"""Samples around the best place in which waveforms are compared."""

Floats = npt.NDArray[np.floating]


def levels(samples: npt.NDArray[np.int16]) -> Floats:
    """Logarithm of the level of every hop."""
    n = len(samples) // HOP
    found = np.empty(n, np.float32)
    for start in range(0, n, 100_000):  # packed sources are large
        hops = samples[start * HOP : min(n, start + 100_000) * HOP].reshape(-1, HOP)
        power = np.square(hops.astype(np.float32)).mean(1)
        found[start : start + len(hops)] = np.log10(np.sqrt(power) + 3)
    return found


def correlations(pattern: Floats, signal: Floats) -> Floats:
    """Correlation coefficients of a pattern with every stretch of a signal."""
    n = len(pattern)
    pattern = (pattern - pattern.mean()) / (pattern.std() + 1e-6) / n
    sums = np.cumsum(np.pad(signal.astype(np.float64), (1, 0)))
    squares = np.cumsum(np.pad(np.square(signal, dtype=np.float64), (1, 0)))
    mean = (sums[n:] - sums[:-n]) / n
    deviation = np.sqrt(np.maximum((squares[n:] - squares[:-n]) / n - mean**2, 1e-8))
    return fftconvolve(signal, pattern[::-1], mode="valid") / deviation


def likeness(clip: npt.NDArray[np.int16], source: npt.NDArray[np.int16], contour: Floats) -> float:
    """Greatest correlation of waveforms where the contour of levels fits best."""
    wanted = levels(clip)
    if len(contour) <= len(wanted):
        return 0.0
    at = int(correlations(wanted, contour).argmax()) * HOP
    near = source[max(0, at - AROUND) : at + len(clip) + AROUND].astype(np.float32)
    return float(np.abs(correlations(clip.astype(np.float32), near)).max(initial=0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="written by `rvq data prepare`")
    parser.add_argument("--dev", action="append", help="development sources; default all")
    arguments = parser.parse_args()
    names = arguments.dev or sorted(p.name for p in (arguments.data / "dev").iterdir())
    paths = [p for name in names for p in sorted((arguments.data / "dev" / name).glob("*.flac"))]
    clips = {f"{p.parent.name}/{p.name}": soundfile.read(p, dtype="int16")[0] for p in paths}
    nearest = dict.fromkeys(clips, (0.0, "nothing"))
    sources = sorted((arguments.data / "train").glob("*.npy"))
    found, n_samples = [], 0
    for path in sources:
        source = np.load(path, mmap_mode="r")
        n_samples += len(source)
        contour = levels(source)
        stretch = np.asarray(source[len(source) // 2 :][: 6 * RATE + 111]) // 2
        found.append(likeness(stretch, source, contour))
        for name, clip in clips.items():
            nearest[name] = max(nearest[name], (likeness(clip, source, contour), path.stem))
    hours = n_samples / RATE / 3600
    print(f"{len(clips)} recordings against {hours:.1f} hours of {len(sources)} sources")
    print(f"stretches of the sources themselves: {min(found):.3f} and more")
    for name, (value, source_name) in sorted(nearest.items(), key=lambda item: -item[1][0])[:10]:
        print(f"{value:.3f} {name} in {source_name}")


if __name__ == "__main__":
    main()
