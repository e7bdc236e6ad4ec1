"""Search by matrix products, for machines where the C kernels could not be compiled.

Rows are processed in blocks, all codewords of a codebook scored against a block at once. Scores
closer than the rounding of a matrix product are settled in float64, so greedy codes depend neither
on the BLAS nor on the other rows of a block.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from rvq.quantize.kernels.books import Books
from rvq.quantize.kernels.reference import in_order

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

BLOCK = 256
"""Rows per block: large enough for the matrix product, small enough for the cache."""


def blocks(x: Floats) -> Iterator[tuple[slice, Floats]]:
    """Blocks of exactly BLOCK rows and the slice of `x` that each one stands for.

    The last one is padded, because a BLAS picks its algorithm by the shape of the operands: only so
    does beam search give a vector the same codes alone or in a batch.
    """
    for start in range(0, len(x), BLOCK):
        block = x[start : start + BLOCK]
        where = slice(start, start + len(block))
        if len(block) < BLOCK:
            block = np.concatenate([block, np.zeros((BLOCK - len(block), x.shape[1]), x.dtype)])
        yield where, block


def greedy(x: Floats, books: Books) -> tuple[Integers, Floats]:
    """Greedy residual search; the codes and residuals of `reference.greedy`."""
    n_codebooks, size, dim = books.codebooks.shape
    codes = np.empty((len(x), n_codebooks), np.int64)
    left = np.empty(x.shape, np.float32)
    rows = np.arange(BLOCK)
    rounding = np.float32((dim + 8) * np.finfo(np.float32).eps)
    for where, block in blocks(x):
        residual = block.copy()
        n = where.stop - where.start
        for stage, codebook in enumerate(books.codebooks):
            scores = residual @ codebook.T
            scores += books.offsets[stage, :size]
            best = scores.argmax(axis=1)
            norm, cost = books.reach[stage]
            margin = (np.linalg.norm(residual, axis=1) * norm + cost) * rounding
            close = scores >= (scores[rows, best] - margin)[:, None]
            for row in np.flatnonzero(np.count_nonzero(close, axis=1) > 1):
                rivals = np.flatnonzero(close[row])
                terms = residual[row].astype(np.float64) * codebook[rivals]
                best[row] = rivals[(in_order(terms) - books.costs[stage, rivals]).argmax()]
            residual -= codebook[best]
            codes[where, stage] = best[:n]
        left[where] = residual[:n]
    return codes, left


def beam(x: Floats, books: Books, width: int, kept: int = 1) -> Integers:
    """Residual search that follows the `width` best code sequences of every vector.

    Sequences are compared by the cost they have reached; of equal ones the first stays. Results as
    in `native.beam`.
    """
    n_codebooks, size, dim = books.codebooks.shape
    codes = np.empty((len(x), kept, n_codebooks), np.int64)
    rows = np.arange(BLOCK)[:, None]
    for where, block in blocks(x):
        paths = np.empty((BLOCK, 1, 0), np.int64)
        residuals = block[:, None]
        reached = np.zeros((BLOCK, 1), np.float32)
        for stage, codebook in enumerate(books.codebooks):
            scores = (residuals.reshape(-1, dim) @ codebook.T).reshape(BLOCK, -1, size)
            costs = (reached[:, :, None] - books.offsets[stage, :size] - scores).reshape(BLOCK, -1)
            keep = min(width, costs.shape[1])
            # Sorted by index before the stable sort by cost, so that ties keep the lowest index.
            best = np.sort(np.argpartition(costs, keep - 1, axis=1)[:, :keep], axis=1)
            order = np.argsort(costs[rows, best], axis=1, kind="stable")
            best = np.take_along_axis(best, order, axis=1)
            reached = costs[rows, best]
            parents, chosen = np.divmod(best, size)
            residuals = residuals[rows, parents] - codebook[chosen]
            paths = np.concatenate([paths[rows, parents], chosen[:, :, None]], axis=2)
        found = paths[:, np.minimum(np.arange(kept), paths.shape[1] - 1)]
        codes[where] = found[: where.stop - where.start]
    return codes


def decode(codes: Integers, codebooks: Floats) -> Floats:
    """Sums of codewords: `[n, any prefix]` -> `[n, dim]`."""
    vectors = codebooks[0][codes[:, 0]]
    for stage in range(1, codes.shape[1]):
        vectors += codebooks[stage][codes[:, stage]]
    return vectors


def scan(
    codes: npt.NDArray[np.unsignedinteger],
    table: Floats,
    norms: Floats,
    distances: Floats,
    ids: Integers,
) -> None:
    """The smallest  norms[i] - sum_m table[m, codes[i, m]];  see `native.scan`."""
    values = np.zeros(len(codes), np.float32)
    for stage, products in enumerate(table):
        values += products[codes[:, stage]]
    values = norms - values
    order = np.argsort(values, kind="stable")[: len(ids)]
    distances[:], ids[:] = values[order], order


def sums_by_code(x: Floats, codes: Integers, size: int) -> npt.NDArray[np.float64]:
    """Sum of the vectors of every code: `[n, dim]`, `[n]` -> `[size, dim]`."""
    counts = np.bincount(codes, minlength=size)
    used = counts > 0
    starts = np.cumsum(counts) - counts
    sums = np.zeros((size, x.shape[1]))
    ordered = x[np.argsort(codes, kind="stable")]
    sums[used] = np.add.reduceat(ordered, starts[used], axis=0, dtype=np.float64)
    return sums
