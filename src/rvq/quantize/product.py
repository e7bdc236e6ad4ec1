"""What residual quantization is compared with: product and scalar quantizers."""

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from rvq.errors import InputError
from rvq.quantize.estimator import Estimator
from rvq.quantize.kmeans import kmeans
from rvq.quantize.search import Search
from rvq.quantize.vectors import as_codes, as_vectors

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


class ProductQuantizer(Estimator):
    """Product quantizer (Jégou, Douze & Schmid 2011): a codebook for every part of the vector.

    Args:
        n_codebooks: parts; must divide the dimension.
        codebook_size: codewords per part.
        n_iterations: k-means iterations.
        threads: that share the search; 0 for all cores.
        seed: of everything random.

    Attributes:
        codebooks_: after `fit`, `[n_codebooks, codebook_size, dim / n_codebooks]`.
        n_features_in_: dimension of the vectors.
    """

    codebooks_: Floats

    _least: ClassVar = {
        "n_codebooks": 1,
        "codebook_size": 2,
        "n_iterations": 0,
        "threads": 0,
        "seed": 0,
    }

    def __init__(
        self,
        *,
        n_codebooks: int = 8,
        codebook_size: int = 256,
        n_iterations: int = 25,
        threads: int = 1,
        seed: int = 0,
    ) -> None:
        self.n_codebooks = n_codebooks
        self.codebook_size = codebook_size
        self.n_iterations = n_iterations
        self.threads = threads
        self.seed = seed
        self._check(self.get_params())

    @property
    def n_features_in_(self) -> int:
        """Dimension of the vectors."""
        n, _, part = self._learned("codebooks_").shape
        return n * part

    def fit(self, x: npt.ArrayLike, y: None = None) -> "ProductQuantizer":
        """Learn the codebooks from vectors `[..., dim]`.

        Raises:
            InputError: not finite numbers, longer than 1e18, fewer vectors than codewords, or a
                dimension that n_codebooks does not divide.
        """
        vectors = as_vectors(x)
        if vectors.shape[-1] % self.n_codebooks:
            raise InputError(
                f"n_codebooks {self.n_codebooks} must divide the dimension {vectors.shape[-1]}"
            )
        self.codebooks_ = np.stack(
            [
                kmeans(
                    part,
                    self.codebook_size,
                    n_iterations=self.n_iterations,
                    seed=[self.seed, i],
                    threads=self.threads,
                ).codebook
                for i, part in enumerate(_parts(vectors, self.n_codebooks))
            ]
        )
        return self

    def encode(self, x: npt.ArrayLike) -> Integers:
        """Codes of vectors: `[..., dim]` -> `[..., n_codebooks]`."""
        codebooks: Floats = self._learned("codebooks_")
        vectors = as_vectors(x, self.n_features_in_)
        codes = [
            Search(codebook[None], threads=self.threads)(part).codes[:, 0]
            for codebook, part in zip(codebooks, _parts(vectors, len(codebooks)), strict=True)
        ]
        return np.stack(codes, axis=1).reshape(*vectors.shape[:-1], len(codebooks))

    def decode(self, codes: npt.ArrayLike) -> Floats:
        """Vectors of codes: `[..., n_codebooks]` -> `[..., dim]`."""
        codebooks: Floats = self._learned("codebooks_")
        indices = as_codes(codes, most=len(codebooks), codebook_size=codebooks.shape[1])
        if indices.shape[-1] != len(codebooks):
            raise InputError(f"codes must be [..., {len(codebooks)}], got {indices.shape}")
        parts = [book[indices[..., i]] for i, book in enumerate(codebooks)]
        return np.concatenate(parts, axis=-1)


def _parts(vectors: Floats, n: int) -> list[Floats]:
    """The n parts of vectors `[..., dim]`, each `[n_vectors, dim / n]`."""
    flat = vectors.reshape(-1, vectors.shape[-1])
    return [np.ascontiguousarray(part) for part in np.split(flat, n, axis=1)]


class ScalarQuantizer(Estimator):
    """Uniform scalar quantizer of every component, over the range that `fit` saw.

    Args:
        n_bits: bits per component, 1 to 16.

    Attributes:
        low_: centre of the lowest cell of every component, `[dim]`.
        step_: distance of cells, `[dim]`.
        n_bits_: bits per component of the codes.
        n_features_in_: dimension of the vectors.
    """

    low_: Doubles
    step_: Doubles
    n_bits_: int

    _least: ClassVar = {"n_bits": 1}

    def __init__(self, *, n_bits: int = 8) -> None:
        self.n_bits = n_bits
        self._check(self.get_params())

    def _check(self, parameters: dict[str, Any]) -> None:
        super()._check(parameters)
        if parameters["n_bits"] > 16:
            raise InputError(f"n_bits must be at most 16, got {parameters['n_bits']}")

    @property
    def n_features_in_(self) -> int:
        """Dimension of the vectors."""
        return len(self._learned("low_"))

    def fit(self, x: npt.ArrayLike, y: None = None) -> "ScalarQuantizer":
        """Learn the range of every component of vectors `[..., dim]`."""
        vectors = as_vectors(x, distances=False)
        flat = vectors.reshape(-1, vectors.shape[-1])
        # In float64, for the range of float32 numbers may be beyond float32.
        low, high = flat.min(axis=0).astype(np.float64), flat.max(axis=0).astype(np.float64)
        self.step_ = np.maximum((high - low) / 2**self.n_bits, np.finfo(np.float32).tiny)
        self.low_ = low + self.step_ / 2
        self.n_bits_ = self.n_bits
        return self

    def encode(self, x: npt.ArrayLike) -> Integers:
        """Codes of vectors: `[..., dim]` -> `[..., dim]`, each in [0, 2^n_bits_)."""
        vectors = as_vectors(x, self.n_features_in_, distances=False)
        cells = np.rint((vectors - self.low_) / self.step_)
        return cells.clip(0, 2**self.n_bits_ - 1).astype(np.int64)

    def decode(self, codes: npt.ArrayLike) -> Floats:
        """Vectors of codes: `[..., dim]` -> `[..., dim]`."""
        dim = self.n_features_in_
        indices = as_codes(codes, most=dim, codebook_size=2**self.n_bits_)
        if indices.shape[-1] != dim:
            raise InputError(f"codes must be [..., {dim}], got {indices.shape}")
        return (self.low_ + indices * self.step_).astype(np.float32)
