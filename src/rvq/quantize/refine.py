"""Joint refinement: all codebooks of a residual quantizer improved at once.

Stage by stage, a codebook only ever sees what is left of the ones before it. Here codes are fixed
and all codewords solve one least-squares problem (Babenko & Lempitsky 2014, additive quantization;
Martinez et al. 2016 and 2018, LSQ), then codes are searched anew, and so on.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rvq.quantize.search import Search, decode, sums_by_code

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

_NOISE = 1.25
"""Noise of the first search, relative to what the starting codebooks leave of the vectors."""


@dataclass(frozen=True, eq=False)
class Refined:
    """Refined codebooks.

    Attributes:
        codebooks: `[n_codebooks, codebook_size, dim]`; those it started from where refinement made
            none better.
        before, after: the objective, with codes as the search finds them.
    """

    codebooks: Floats
    before: float
    after: float


def refine(
    x: Floats,
    codebooks: Floats,
    *,
    n_rounds: int,
    beam_size: int,
    prefix_weights: npt.ArrayLike,
    ridge: float = 1.0,
    threads: int = 1,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Refined:
    """Alternate searching for codes and solving for codewords.

    Codes are searched for vectors with noise on them, less in every round and none in the last:
    codes and codewords then settle less early (stochastic relaxation, Zeger, Vaisey & Gersho 1992;
    for additive codebooks Martinez et al. 2018).

    Args:
        x: vectors, `[n, dim]`.
        codebooks: to start from, `[n_codebooks, codebook_size, dim]`.
        n_rounds: of search and solution; more anneal more slowly, and end lower.
        beam_size: of the search.
        prefix_weights: weight of the error after the first, second, ... codebook, `[n_codebooks]`.
        ridge: how many vectors' worth of confidence each codeword has in where it stands; keeps
            rarely used ones from following a few vectors.
        threads: of the search.
        seed: of the noise.
        progress: called with rounds done and all.
    """
    weights = np.asarray(prefix_weights, np.float64)
    weights = weights / weights.sum()

    def search(vectors: Floats, books: Floats) -> Integers:
        return Search(books, beam_size=beam_size, threads=threads)(vectors).codes

    start = codebooks
    codes = search(x, start)
    before = prefix_objective(x, start, codes, weights)
    spread = _NOISE * (x - decode(codes, start)).std(axis=0)
    random = np.random.default_rng(seed)
    for done in range(n_rounds):
        codebooks = solve(x, codes, codebooks, weights, ridge)
        if progress is not None:
            progress(done + 1, n_rounds)
        temperature = np.float32(max(0, 1 - (done + 2) / n_rounds) ** 0.5)
        noisy = x
        if temperature:
            noisy = x + random.standard_normal(x.shape, np.float32) * (spread * temperature)
        codes = search(noisy, codebooks)
    after = prefix_objective(x, codebooks, codes, weights)
    if after < before:
        return Refined(codebooks, before, after)
    return Refined(start, before, before)


def prefix_objective(
    x: Floats, codebooks: Floats, codes: Integers, weights: npt.NDArray[np.float64]
) -> float:
    """Weighted mean squared error of the prefixes of the codebooks."""
    total = 0.0
    for n in np.flatnonzero(weights):
        left = x - decode(codes[:, : n + 1], codebooks)
        total += weights[n] * np.einsum("nd,nd->", left, left, dtype=np.float64)
    return float(total) / len(x)


def solve(
    x: Floats,
    codes: Integers,
    codebooks: Floats,
    weights: npt.NDArray[np.float64],
    ridge: float,
) -> Floats:
    """Codewords of least weighted squared error for fixed codes.

    With B_j the one-hot matrix of the codes of stage j and w_m the weight of prefix m, the normal
    equations are  Σ_l W_max(j,l) B_j'B_l C_l = W_j B_j'X,  W_j = Σ_{m >= j} w_m:  codewords of
    stages j and l meet in every prefix that has both.
    """
    n_codebooks, size, dim = codebooks.shape
    tail = np.cumsum(weights[::-1])[::-1]
    left = np.empty((n_codebooks * size, n_codebooks * size))
    right = np.empty((n_codebooks * size, dim))
    for j in range(n_codebooks):
        rows = slice(j * size, (j + 1) * size)
        right[rows] = tail[j] * sums_by_code(x, codes[:, j], size)
        for other in range(j, n_codebooks):
            pairs = np.bincount(codes[:, j] * size + codes[:, other], minlength=size * size)
            block = tail[other] * pairs.reshape(size, size)
            columns = slice(other * size, (other + 1) * size)
            left[rows, columns] = block
            left[columns, rows] = block.T
    start = codebooks.reshape(-1, dim).astype(np.float64)
    right -= left @ start
    left[np.diag_indices(len(left))] += ridge * np.repeat(tail, size)
    solution = start + np.linalg.solve(left, right)
    return solution.reshape(codebooks.shape).astype(np.float32)
