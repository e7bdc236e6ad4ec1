"""Codes of packed recordings, for what learns from them."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from rvq.codec.codec import Codec
from rvq.errors import InputError
from rvq.progress import Progress
from rvq.train.data import load_sources

Integers = npt.NDArray[np.int64]

_PIECE_SECONDS = 20
_SHARE_OF_SILENCE = 0.02


def gather(
    codec: Codec,
    data: list[Path],
    minutes: float,
    *,
    n_frames: int,
    progress: Progress = lambda share: None,
) -> Integers:
    """Codes of packed recordings in stretches, `[n, n_frames, n_codebooks]`, some of silence.

    They are those that files have: of a beam search over all codebooks.

    Args:
        codec: whose codes.
        data: folders written by `rvq data prepare`.
        minutes: of audio to encode, shared by the sources as training does.
        n_frames: of a stretch, at most those of 10 s.
        progress: called as work is done.

    Raises:
        InputError: nothing packed there, or less than a stretch.
    """
    rate = codec.runtime.sample_rate
    sources = load_sources(data, rate)
    weights = sum(source.weight for source in sources)
    parts: list[Integers] = []
    for done, source in enumerate(sources):
        wanted = int(minutes * 60 * rate * source.weight / weights)
        parts += _encode(codec, source.samples, wanted, n_frames)
        progress((done + 1) / len(sources))
    if not parts:
        raise InputError(f"the packed recordings are shorter than {n_frames} frames")
    silence = codec.encode(np.zeros((1, 10 * rate), np.float32), rate).indices[0]
    n_silent = int(len(parts) * _SHARE_OF_SILENCE) + 1
    silence = np.resize(silence, (n_silent, n_frames, len(silence[0])))
    return np.concatenate([np.stack(parts), silence])


def _encode(
    codec: Codec, packed: npt.NDArray[np.int16], wanted: int, n_frames: int
) -> list[Integers]:
    """Stretches of up to `wanted` samples, in pieces spread over the recordings."""
    piece = _PIECE_SECONDS * codec.runtime.sample_rate
    n = max(1, min(wanted, len(packed)) // piece)
    stretches: list[Integers] = []
    for start in np.linspace(0, max(0, len(packed) - piece), n).astype(int):
        audio = packed[start : start + piece].astype(np.float32)[None] / np.float32(32768)
        codes = codec.encode(np.asarray(audio), codec.runtime.sample_rate).indices[0]
        whole = len(codes) // n_frames * n_frames
        stretches += list(codes[:whole].reshape(-1, n_frames, codes.shape[1]))
    return stretches
