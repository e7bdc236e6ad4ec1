"""Codebook learning: k-means++ and Lloyd's iterations, dead codewords reseeded."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rvq.errors import InputError
from rvq.quantize.kernels import blas

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class KMeans:
    """A learned codebook.

    Attributes:
        codebook: `[k, dim]`.
        counts: vectors nearest to each codeword, `[k]`.
        error: mean squared distance of the vectors to their codewords.
    """

    codebook: Floats
    counts: npt.NDArray[np.int64]
    error: float


def seed_codewords(x: Floats, k: int, random: np.random.Generator) -> Floats:
    """k-means++ (Arthur & Vassilvitskii 2007): each codeword is a vector drawn with probability
    proportional to its squared distance from those before it.
    """  # noqa: D205
    chosen = np.empty((k, x.shape[1]), np.float32)
    norms = np.square(x).sum(axis=1)
    distances = np.full(len(x), np.inf, np.float32)
    pick = int(random.integers(len(x)))
    for i in range(k):
        chosen[i] = x[pick]
        to_last = np.maximum(norms - 2 * (x @ chosen[i]) + np.square(chosen[i]).sum(), 0)
        np.minimum(distances, to_last, out=distances)
        cumulated = np.cumsum(distances, dtype=np.float64)
        if cumulated[-1] <= 0:  # every distinct vector is a codeword already
            pick = int(random.integers(len(x)))
        else:
            draw = random.random() * cumulated[-1]
            pick = min(int(np.searchsorted(cumulated, draw, side="right")), len(x) - 1)
    return chosen


def kmeans(x: Floats, k: int, *, n_iterations: int = 25, seed: int | list[int] = 0) -> KMeans:
    """Learn `k` codewords for the vectors `x [n, dim]`.

    Codewords that no vector chooses are moved to the vectors farthest from their codewords. With
    fewer than k distinct vectors some codewords coincide and stay unused.

    Raises:
        InputError: fewer vectors than codewords.
    """
    if len(x) < k:
        raise InputError(
            f"{len(x)} vectors are too few for {k} codewords; pass at least as many vectors as "
            "codewords or ask for a smaller codebook"
        )
    random = np.random.default_rng(seed)
    # k-means++ costs n * k; a sample of a few dozen vectors per codeword seeds as well.
    sample = x if len(x) <= 32 * k else x[random.choice(len(x), 32 * k, replace=False)]
    codebook = seed_codewords(sample, k, random)
    codes, distances = blas.nearest(x, codebook)
    for _ in range(n_iterations):
        counts = np.bincount(codes, minlength=k)
        order = np.argsort(codes, kind="stable")
        starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
        used = counts > 0
        sums = np.add.reduceat(x[order].astype(np.float64), starts[used], axis=0)
        codebook[used] = sums / counts[used, None]
        dead = np.flatnonzero(~used)
        farthest = np.argsort(-distances, kind="stable")[: len(dead)]
        codebook[dead] = x[farthest]
        previous, (codes, distances) = codes, blas.nearest(x, codebook)
        if np.array_equal(previous, codes):
            break
    return KMeans(codebook, np.bincount(codes, minlength=k), float(distances.mean()))
