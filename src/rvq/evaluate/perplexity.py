"""How many of its codewords a codebook really uses."""

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
    return perplexity_of_counts(code_counts(codes, codebook_size))


def code_counts(codes: npt.NDArray[np.integer], codebook_size: int) -> npt.NDArray[np.int64]:
    """How often each codeword was used: codes `[n, n_codebooks]` -> `[n_codebooks, size]`."""
    return np.array([np.bincount(column, minlength=codebook_size) for column in codes.T])


def perplexity_of_counts(counts: npt.NDArray[np.integer]) -> npt.NDArray[np.float64]:
    """Perplexities `[n_codebooks]` of the numbers that `code_counts` gives, which may be added."""
    share = counts / counts.sum(axis=1, keepdims=True)
    logs = np.log(share, out=np.zeros_like(share), where=share > 0)
    return np.exp(-np.sum(share * logs, axis=1))
