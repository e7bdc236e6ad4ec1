"""Nearest codewords of vectors in a stack of codebooks: the one interface to every search."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rvq.errors import InputError
from rvq.quantize.kernels import blas


@dataclass(frozen=True, eq=False)
class SearchResult:
    """Codes of vectors and what they leave over.

    Attributes:
        codes: `[n, n_codebooks]`.
        residual: vectors less their codewords, `[n, dim]`.
    """

    codes: npt.NDArray[np.int64]
    residual: npt.NDArray[np.float32]


def search(
    x: npt.NDArray[np.float32], codebooks: npt.NDArray[np.float32], *, beam_size: int = 1
) -> SearchResult:
    """Find one codeword per codebook whose sum is near each vector.

    Args:
        x: vectors, `[n, dim]`, float32.
        codebooks: `[n_codebooks, codebook_size, dim]`, float32.
        beam_size: code sequences followed at once; 1 is greedy search.

    A vector's codes do not depend on the other vectors of the call. Memory beyond the result is
    bounded whatever n.
    """
    if beam_size < 1:
        raise InputError(f"beam_size must be at least 1, got {beam_size}")
    if beam_size == 1:
        codes, residual = blas.greedy(x, codebooks)
    else:
        codes, residual = blas.beam(x, codebooks, beam_size)
    return SearchResult(codes, residual)
