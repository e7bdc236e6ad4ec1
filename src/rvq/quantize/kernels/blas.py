"""Search by matrix products: all codewords of a codebook scored against a block of vectors at once.

Rows are processed in blocks of one fixed size, the last one padded, because a BLAS picks its
algorithm by the shape of the operands: only so does a vector get the same codes alone or in a
batch.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

BLOCK = 256
"""Rows per block: large enough for the matrix product, small enough for the cache."""


def blocks(x: Floats) -> Iterator[tuple[slice, Floats]]:
    """Blocks of exactly BLOCK rows and the slice of `x` that each one stands for."""
    for start in range(0, len(x), BLOCK):
        block = x[start : start + BLOCK]
        where = slice(start, start + len(block))
        if len(block) < BLOCK:
            block = np.concatenate([block, np.zeros((BLOCK - len(block), x.shape[1]), x.dtype)])
        yield where, block


def half_norms(codebooks: Floats) -> Floats:
    """|c|^2 / 2 of every codeword: |x - c|^2 is least where x.c - |c|^2 / 2 is greatest."""
    return np.square(codebooks).sum(axis=-1) / 2


def nearest(x: Floats, codebook: Floats) -> tuple[Integers, Floats]:
    """Nearest codeword of every vector and the squared distance to it, `[n]` each."""
    codes, distances = np.empty(len(x), np.int64), np.empty(len(x), np.float32)
    halves = half_norms(codebook)
    for where, block in blocks(x):
        scores = block @ codebook.T
        scores -= halves
        best = scores.argmax(axis=1)
        distance = np.square(block).sum(axis=1) - 2 * scores[np.arange(BLOCK), best]
        n = where.stop - where.start
        codes[where], distances[where] = best[:n], distance[:n]
    return codes, np.maximum(distances, 0)


def greedy(x: Floats, codebooks: Floats) -> tuple[Integers, Floats]:
    """Greedy residual search; arguments and results as in `reference.greedy`, in float32."""
    codes = np.empty((len(x), len(codebooks)), np.int64)
    left = np.empty(x.shape, np.float32)
    halves = half_norms(codebooks)
    for where, block in blocks(x):
        residual = block.copy()
        n = where.stop - where.start
        for stage, codebook in enumerate(codebooks):
            scores = residual @ codebook.T
            scores -= halves[stage]
            best = scores.argmax(axis=1)
            residual -= codebook[best]
            codes[where, stage] = best[:n]
        left[where] = residual[:n]
    return codes, left


def beam(x: Floats, codebooks: Floats, beam_size: int) -> tuple[Integers, Floats]:
    """Residual search that follows the `beam_size` best code sequences of every vector.

    Sequences are compared by the squared error they have reached; of equal ones the first stays.
    """
    n_codebooks, size, dim = codebooks.shape
    codes = np.empty((len(x), n_codebooks), np.int64)
    left = np.empty(x.shape, np.float32)
    halves = half_norms(codebooks)
    rows = np.arange(BLOCK)[:, None]
    for where, block in blocks(x):
        paths = np.empty((BLOCK, 1, 0), np.int64)
        residuals = block[:, None]
        error = np.square(block).sum(axis=1, keepdims=True) / 2
        for stage, codebook in enumerate(codebooks):
            scores = (residuals.reshape(-1, dim) @ codebook.T).reshape(BLOCK, -1, size)
            errors = (error[:, :, None] + halves[stage] - scores).reshape(BLOCK, -1)
            keep = min(beam_size, errors.shape[1])
            # Sorted by index before the stable sort by error, so that ties keep the lowest index.
            best = np.sort(np.argpartition(errors, keep - 1, axis=1)[:, :keep], axis=1)
            order = np.argsort(errors[rows, best], axis=1, kind="stable")
            best = np.take_along_axis(best, order, axis=1)
            error = errors[rows, best]
            parents, chosen = np.divmod(best, size)
            residuals = residuals[rows, parents] - codebook[chosen]
            paths = np.concatenate([paths[rows, parents], chosen[:, :, None]], axis=2)
        n = where.stop - where.start
        codes[where], left[where] = paths[:n, 0], residuals[:n, 0]
    return codes, left
