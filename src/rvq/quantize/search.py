"""Nearest codewords of vectors in a stack of codebooks: the one interface to every search."""

from copy import copy
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rvq.errors import InputError
from rvq.quantize.kernels import blas, native
from rvq.quantize.kernels.books import Books
from rvq.quantize.kernels.native import n_cores

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class SearchResult:
    """Codes of vectors and what they leave over.

    Attributes:
        codes: `[n, n_codebooks]`.
        residual: vectors less their codewords, `[n, dim]`.
    """

    codes: Integers
    residual: Floats


class Search:
    """Finds one codeword per codebook whose sum is near each vector.

    Made once for a stack of codebooks, called for any number of vectors. A vector's codes do not
    depend on the other vectors of a call, nor on the number of threads. Greedy codes are the same
    on every machine; those of beam search on every machine that compiled the kernels, elsewhere
    near ties may fall the other way. Memory beyond the result is bounded whatever n.

    Args:
        codebooks: `[n_codebooks, codebook_size, dim]`, float32.
        beam_size: code sequences followed at once; 1 is greedy search.
        penalties: squared distance added to each codeword, `[n_codebooks, codebook_size]`: λ times
            its bits makes this an entropy-constrained search (Chou, Lookabaugh & Gray 1989).
        fast: search by bf16 products where the processor has them and nothing exact is as fast: the
            error grows by a thousandth or so, and codes are no longer the same on every machine.
        threads: that share the vectors of a call; 0 for all cores.

    Raises:
        InputError: beam_size out of range, or too many codebooks.
    """

    def __init__(
        self,
        codebooks: Floats,
        *,
        beam_size: int = 1,
        penalties: npt.NDArray[np.float64] | float = 0.0,
        fast: bool = False,
        threads: int = 1,
    ) -> None:
        check_beam_size(beam_size)
        check_n_codebooks(len(codebooks))
        self.books = Books.of(np.ascontiguousarray(codebooks, np.float32), penalties)
        self.beam_size = beam_size
        self.fast = fast
        self.threads = threads or n_cores()

    def __call__(self, x: Floats) -> SearchResult:
        """Search for vectors `[n, dim]`, finite float32."""
        x = np.ascontiguousarray(x, np.float32)
        if self.beam_size > 1:
            codes = self.paths(x, 1)[:, 0]
            return SearchResult(codes, x - decode(codes, self.books.codebooks))
        if native.available():
            found = native.greedy(x, self.books, fast=self.fast, threads=self.threads)
        else:
            found = blas.greedy(x, self.books)
        return SearchResult(*found)

    def prefix(self, n: int) -> "Search":
        """The same search with the first `n` codebooks only, in the same memory."""
        search = copy(self)
        search.books = self.books.prefix(n)
        return search

    def paths(self, x: Floats, kept: int) -> Integers:
        """The `kept` best code sequences of the beam, best first: `[n, kept, n_codebooks]`."""
        x = np.ascontiguousarray(x, np.float32)
        if native.available():
            return native.beam(
                x, self.books, self.beam_size, kept=kept, fast=self.fast, threads=self.threads
            )
        return blas.beam(x, self.books, self.beam_size, kept)


def check_beam_size(beam_size: int) -> None:
    """Refuse a beam wider than searches can follow.

    Raises:
        InputError: so it is, or narrower than one.
    """
    if not 1 <= beam_size <= native.MAX_BEAM:
        raise InputError(f"beam_size must be in 1..{native.MAX_BEAM}, got {beam_size}")


def check_n_codebooks(n: int) -> None:
    """Refuse more codebooks than searches can follow.

    Raises:
        InputError: so many they are.
    """
    if n > native.MAX_STAGES:
        raise InputError(f"at most {native.MAX_STAGES} codebooks, got {n}")


def nearest(x: Floats, codebook: Floats, *, threads: int = 1) -> Integers:
    """Nearest codewords of `[n, dim]` in `[codebook_size, dim]` -> `[n]`; threads 0: all cores."""
    if native.available():
        return native.nearest(x, codebook, threads=threads or n_cores())
    return blas.greedy(x, Books.of(codebook[None]))[0][:, 0]


def decode(codes: Integers, codebooks: Floats) -> Floats:
    """Sums of the codewords that codes in range name: `[..., any prefix]` -> `[..., dim]`.

    A code of -1 adds nothing.
    """
    if codes.size and codes.min() == -1:
        vectors = np.zeros((*codes.shape[:-1], codebooks.shape[2]), np.float32)
        for codebook, column in zip(codebooks, np.moveaxis(codes, -1, 0), strict=False):
            vectors[column >= 0] += codebook[column[column >= 0]]
        return vectors
    flat = np.ascontiguousarray(codes, np.int64).reshape(-1, codes.shape[-1])
    kernel = native if native.available() else blas
    return kernel.decode(flat, codebooks).reshape(*codes.shape[:-1], codebooks.shape[2])


def sums_by_code(x: Floats, codes: Integers, size: int) -> npt.NDArray[np.float64]:
    """Sum of the vectors `[n, dim]` that have each code, codes `[n]` -> `[size, dim]`."""
    kernel = native if native.available() else blas
    return kernel.sums_by_code(np.ascontiguousarray(x), np.ascontiguousarray(codes), size)
