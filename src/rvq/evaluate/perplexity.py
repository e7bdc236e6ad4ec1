"""How many of its codewords a codebook really uses."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rvq.errors import InputError


def perplexity(codes: npt.ArrayLike, codebook_size: int) -> npt.NDArray[np.float64]:
    """Exponential of the entropy of each codebook's codes: its effective number of codewords.

    `codebook_size` means that all codewords are used equally often, 1 that only one is used. The
    entropy is the plug-in estimate; with m codewords in use among n codes it is about
    (m - 1) / (2 n) nats too low (Miller 1955), so give at least ten codes per codeword before
    reading a small value as collapse.

    Args:
        codes: integers in [0, codebook_size), shape `[n, n_codebooks]`; codes of a recording,
            `[channels, n_frames, n_codebooks]`, become that by `reshape(-1, n_codebooks)`.
        codebook_size: number of codewords K of every codebook.

    Returns:
        Perplexities in [1, codebook_size], shape `[n_codebooks]`.

    Raises:
        InputError: codes that are empty, not integers, not two-dimensional or out of range.

    Example:
        >>> perplexity([[0, 3], [1, 3], [0, 3], [1, 3]], codebook_size=4)
        array([2., 1.])
    """
    codes = np.asarray(codes)
    if codes.ndim != 2 or codes.size == 0:
        raise InputError(f"codes must be [n, n_codebooks] and not empty, got shape {codes.shape}")
    if not np.issubdtype(codes.dtype, np.integer):
        raise InputError(f"codes must be integers, got {codes.dtype}")
    if codes.min() < 0 or codes.max() >= codebook_size:
        raise InputError(
            f"codes must lie in 0..{codebook_size - 1}, got {codes.min()}..{codes.max()}"
        )
    return np.array([_perplexity(column, codebook_size) for column in codes.T])


def codebook_use(model: str | Path, clips: Iterable[Path]) -> npt.NDArray[np.float64]:
    """Perplexity of every codebook of a model over recordings, as a share of its size.

    Args:
        model: name or folder, for `Codec.load`.
        clips: audio files.

    Returns:
        Shares in (0, 1], shape `[n_codebooks]`.

    Raises:
        InputError: there are no recordings, or one cannot be read.
    """
    from rvq.codec.codec import Codec
    from rvq.codec.files import read_audio

    codec = Codec.load(model)
    parts = []
    for clip in clips:
        codes = codec.encode(*read_audio(clip)).indices
        parts.append(codes.reshape(-1, codes.shape[2]))
    if not parts:
        raise InputError("no recordings to count the use of codebooks on")
    return perplexity(np.concatenate(parts), codec.codebook_size) / codec.codebook_size


def _perplexity(column: npt.NDArray[np.integer], codebook_size: int) -> float:
    counts = np.bincount(column, minlength=codebook_size)
    used = counts[counts > 0] / len(column)
    return float(np.exp(-np.sum(used * np.log(used))))
