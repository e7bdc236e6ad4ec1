"""An evaluation as one HTML file: curves, the table, players with spectrograms, blind listening.

The file holds everything it shows, sound included, so it can be sent and kept.
"""

import base64
import io
import json
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rvq.codec.files import read_audio
from rvq.evaluate.baselines import System
from rvq.evaluate.cache import finite_or_none
from rvq.evaluate.metrics import SMALLER_IS_BETTER, align
from rvq.evaluate.report import LABELS, by_family, caption, headings, row, title
from rvq.evaluate.results import Evaluation, SystemInfo

Audio = npt.NDArray[np.float32]

_SECONDS = 12
"""How much of a clip is put into the file."""
_WINDOW = 512
_FLOOR, _CEILING = -105.0, -25.0
"""dB of the darkest and the lightest colour of a spectrogram."""


def to_html(
    evaluation: Evaluation,
    systems: Sequence[System],
    *,
    clips: int = 4,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> str:
    """The page.

    Args:
        evaluation: what was measured.
        systems: the same systems, to make the sound of the players.
        clips: how many clips can be heard, evenly chosen.
        progress: called with (recordings made, recordings in all).
    """
    measured = list(dict.fromkeys(record.clip for record in evaluation.records))
    chosen = [measured[i * len(measured) // clips] for i in range(min(clips, len(measured)))]
    heard = []
    order = {info.name: place for place, info in enumerate(by_family(evaluation))}
    ordered = sorted(systems, key=lambda system: order[system.name])
    for i, clip in enumerate(dict.fromkeys(chosen)):
        heard.append(_players(clip, ordered))
        progress(i + 1, len(chosen))
    content = {
        "title": title(evaluation),
        "caption": caption(evaluation),
        "metrics": [
            {"name": name, "label": LABELS[name], "smaller": name in SMALLER_IS_BETTER}
            for name in evaluation.metrics
        ],
        "systems": [_system(evaluation, info) for info in by_family(evaluation)],
        "headings": headings(evaluation),
        "clips": heard,
        "failures": [vars(failure) for failure in evaluation.failures],
    }
    template = (Path(__file__).parent / "page.html").read_text()
    # "</" would end the script element that holds the data.
    return template.replace("/*DATA*/", json.dumps(content, allow_nan=False).replace("</", "<\\/"))


def _system(evaluation: Evaluation, info: SystemInfo) -> dict[str, Any]:
    intervals = {metric: evaluation.summary(info.name, metric) for metric in evaluation.metrics}
    return {
        "name": info.name,
        "family": info.family,
        "kbps": finite_or_none(evaluation.file_kbps(info.name)),
        "row": row(evaluation, info),
        "scores": {
            metric: [finite_or_none(i.mean), finite_or_none(i.half_width)]
            for metric, i in intervals.items()
        },
    }


def _players(clip: str, systems: Sequence[System]) -> dict[str, Any]:
    audio, sample_rate = read_audio(Path(clip))
    audio = audio[:, : _SECONDS * sample_rate]
    versions = [_version("original", audio, sample_rate)]
    for system in systems:
        try:
            decoded = align(audio, system.roundtrip(audio, sample_rate).audio, sample_rate)
        except Exception:
            continue  # it is among the failures already
        versions.append(_version(system.name, decoded, sample_rate))
    return {"name": Path(clip).name, "versions": versions}


def _version(name: str, audio: Audio, sample_rate: int) -> dict[str, str]:
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, np.clip(audio, -1, 1).T, sample_rate, format="FLAC", subtype="PCM_16")
    return {
        "name": name,
        "sound": base64.b64encode(file.getvalue()).decode(),
        "picture": base64.b64encode(spectrogram_png(audio[0])).decode(),
    }


def spectrogram_png(samples: Audio, columns: int = 360) -> bytes:
    """Log power spectrogram of samples `[n]` as a PNG, 128 rows, 0 Hz at the bottom."""
    hop = max(1, len(samples) // columns)
    padded = np.pad(samples, _WINDOW // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::hop][:columns]
    power = np.abs(np.fft.rfft(frames * np.hanning(_WINDOW))[:, 1:]) ** 2 / (_WINDOW / 4) ** 2
    power = power.reshape(len(power), -1, 2).mean(axis=2)
    level = 10 * np.log10(power + 1e-12)
    shade = np.clip((level - _FLOOR) / (_CEILING - _FLOOR), 0, 1) * 255
    return _png(shade.T[::-1].astype(np.uint8))


def _png(shades: npt.NDArray[np.uint8]) -> bytes:
    """A picture of palette indices `[height, width]`: night, violet, red, amber, near white."""
    stops = np.array([[13, 12, 20], [70, 20, 110], [190, 50, 90], [250, 150, 60], [255, 250, 220]])
    x = np.linspace(0, len(stops) - 1, 256)
    palette = np.stack([np.interp(x, range(len(stops)), stops[:, c]) for c in range(3)], axis=1)
    height, width = shades.shape
    rows = np.hstack([np.zeros((height, 1), np.uint8), shades])  # every row begins with its filter

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
            chunk(b"PLTE", palette.astype(np.uint8).tobytes()),
            chunk(b"IDAT", zlib.compress(rows.tobytes(), 9)),
            chunk(b"IEND", b""),
        ]
    )
