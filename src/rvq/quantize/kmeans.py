"""Codebook learning: k-means++ and Lloyd's iterations, dead codewords reseeded."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rvq.errors import InputError
from rvq.quantize.search import nearest, sums_by_code

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

_MOST_PER_CODEWORD = 256
"""Vectors per codeword to learn from; of more than that a random choice is taken."""


@dataclass(frozen=True, eq=False)
class KMeans:
    """A learned codebook.

    Attributes:
        codebook: `[k, dim]`.
        counts: vectors learned from that are nearest to each codeword, `[k]`.
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


def progressive_start(x: Floats, k: int, *, seed: int | list[int], threads: int) -> Floats:
    """Codewords learned on the first principal components, then on more and more of them.

    Few dimensions have few bad optima, and every step starts from the one before; with as few as
    thirty vectors a codeword this generalises far better than k-means++ on all dimensions (Liu et
    al. 2015, improved residual vector quantization; FAISS trains so too).
    """
    dim = x.shape[1]
    mean = x.mean(axis=0)
    _, axes = np.linalg.eigh(np.cov((x - mean).T).reshape(dim, dim))
    axes = axes[:, ::-1].astype(np.float32)
    turned = (x - mean) @ axes
    codebook = np.empty((k, 0), np.float32)
    for dims in sorted({max(1, round(dim ** (i / 8))) for i in range(1, 8)}):
        part = np.ascontiguousarray(turned[:, :dims])
        if codebook.shape[1]:
            padding = np.zeros((k, dims - codebook.shape[1]), np.float32)
            start = np.concatenate([codebook, padding], axis=1)
        else:
            random = np.random.default_rng(seed)
            few = part[random.choice(len(x), min(len(x), 8 * k), replace=False)]
            start = seed_codewords(few, k, random)
        codebook = kmeans(part, k, n_iterations=5, start=start, threads=threads).codebook
    padding = np.zeros((k, dim - codebook.shape[1]), np.float32)
    return np.concatenate([codebook, padding], axis=1) @ axes.T + mean


def kmeans(
    x: Floats,
    k: int,
    *,
    n_iterations: int = 25,
    start: Floats | None = None,
    seed: int | list[int] = 0,
    threads: int = 1,
) -> KMeans:
    """Learn `k` codewords for the vectors `x [n, dim]`.

    Codewords that no vector chooses are moved to the vectors farthest from their codewords. With
    fewer than k distinct vectors some codewords coincide and stay unused.

    Args:
        x: vectors.
        k: codewords.
        n_iterations: at most; fewer where no vector changes its codeword any more.
        start: codewords to start from, `[k, dim]`; default `progressive_start`.
        seed: of the random start.
        threads: of the search.

    Raises:
        InputError: fewer vectors than codewords.
    """
    if len(x) < k:
        raise InputError(
            f"{len(x)} vectors are too few for {k} codewords; pass at least as many vectors as "
            "codewords or ask for a smaller codebook"
        )
    if len(x) > _MOST_PER_CODEWORD * k:  # more move codewords by next to nothing
        random = np.random.default_rng(seed)
        x = x[random.choice(len(x), _MOST_PER_CODEWORD * k, replace=False)]
    if start is None:
        start = progressive_start(x, k, seed=seed, threads=threads)
    codebook = start.copy()
    codes = nearest(x, codebook, threads=threads)
    for _ in range(n_iterations):
        counts = np.bincount(codes, minlength=k)
        used = counts > 0
        farthest = _farthest(x, codebook, codes, k - int(used.sum()))
        codebook[used] = sums_by_code(x, codes, k)[used] / counts[used, None]
        codebook[~used] = x[farthest]
        previous = codes
        codes = nearest(x, codebook, threads=threads)
        if np.array_equal(previous, codes):
            break
    error = float(_distances(x, codebook, codes).mean())
    return KMeans(codebook, np.bincount(codes, minlength=k), error)


def _distances(x: Floats, codebook: Floats, codes: Integers) -> Floats:
    """Squared distance of every vector to its codeword, `[n]`."""
    left = x - codebook[codes]
    return np.einsum("nd,nd->n", left, left)


def _farthest(x: Floats, codebook: Floats, codes: Integers, n: int) -> Integers:
    """The `n` vectors farthest from their codewords."""
    if not n:
        return np.empty(0, np.int64)
    return np.argsort(-_distances(x, codebook, codes), kind="stable")[:n]
