"""ResidualQuantizer: an estimator that turns vectors into a few integers each, and back."""

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rvq.errors import InputError, ModelError
from rvq.quantize.kmeans import kmeans
from rvq.quantize.search import search

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]


class ResidualQuantizer:
    """Residual vector quantizer (Juang & Gray 1982) on numpy arrays.

    Each codebook quantizes what the codebooks before it left over, so that any prefix of a
    vector's codes describes it more coarsely.

    Args:
        n_codebooks: stages.
        codebook_size: codewords per codebook, K.
        beam_size: code sequences followed by `encode`; 1 is greedy. A wider beam costs time and
            lowers the error. Codebooks are always learned on greedy residuals.
        n_iterations: k-means iterations per codebook.
        seed: of everything random; the same seed and vectors give the same codebooks.

    Attributes:
        codebooks_: after `fit`, `[n_codebooks, codebook_size, dim]`.

    Example:
        >>> import numpy as np, rvq
        >>> x = np.random.default_rng(0).normal(size=(2000, 8)).astype(np.float32)
        >>> quantizer = rvq.ResidualQuantizer(n_codebooks=4, codebook_size=64).fit(x)
        >>> codes = quantizer.encode(x)
        >>> codes.shape
        (2000, 4)
        >>> bool(np.square(x - quantizer.decode(codes)).mean() < 0.2)
        True
    """

    codebooks_: Floats

    def __init__(
        self,
        *,
        n_codebooks: int = 8,
        codebook_size: int = 1024,
        beam_size: int = 1,
        n_iterations: int = 25,
        seed: int = 0,
    ) -> None:
        least = {"n_codebooks": 1, "codebook_size": 2, "beam_size": 1, "n_iterations": 0, "seed": 0}
        given = (n_codebooks, codebook_size, beam_size, n_iterations, seed)
        for (name, minimum), value in zip(least.items(), given, strict=True):
            if not isinstance(value, int | np.integer) or value < minimum:
                raise InputError(f"{name} must be an integer of at least {minimum}, got {value!r}")
        self.n_codebooks = n_codebooks
        self.codebook_size = codebook_size
        self.beam_size = beam_size
        self.n_iterations = n_iterations
        self.seed = seed

    @classmethod
    def from_codebooks(cls, codebooks: Floats, *, beam_size: int = 1) -> "ResidualQuantizer":
        """A quantizer of given codebooks `[n_codebooks, codebook_size, dim]`."""
        if codebooks.ndim != 3 or not np.isfinite(codebooks).all():
            raise InputError(
                "codebooks must be finite, [n_codebooks, codebook_size, dim]; "
                f"got shape {codebooks.shape}"
            )
        n_codebooks, codebook_size, _ = codebooks.shape
        quantizer = cls(n_codebooks=n_codebooks, codebook_size=codebook_size, beam_size=beam_size)
        quantizer.codebooks_ = np.ascontiguousarray(codebooks, np.float32)
        return quantizer

    def fit(self, x: npt.ArrayLike) -> "ResidualQuantizer":
        """Learn the codebooks from vectors `[..., dim]`, stage by stage on what is left over.

        Raises:
            InputError: not finite numbers, or fewer vectors than codewords.
        """
        residual = self._vectors(x).reshape(-1, np.shape(x)[-1]).copy()
        codebooks = []
        for stage in range(self.n_codebooks):
            learned = kmeans(
                residual,
                self.codebook_size,
                n_iterations=self.n_iterations,
                seed=[self.seed, stage],
            )
            codebooks.append(learned.codebook)
            residual = search(residual, learned.codebook[None]).residual
        self.codebooks_ = np.stack(codebooks)
        return self

    def encode(self, x: npt.ArrayLike, n_codebooks: int | None = None) -> Integers:
        """Codes of vectors: `[..., dim]` -> `[..., n_codebooks]`, each in [0, codebook_size).

        Args:
            x: vectors.
            n_codebooks: how many codebooks to use, from the first; default all.

        Raises:
            InputError: not fitted, not finite, another dimension, or too many codebooks.
        """
        codebooks = self._fitted()
        n = self.n_codebooks if n_codebooks is None else n_codebooks
        if not 1 <= n <= self.n_codebooks:
            raise InputError(f"n_codebooks must be in 1..{self.n_codebooks}, got {n}")
        vectors = self._vectors(x)
        dim = codebooks.shape[2]
        if vectors.shape[-1] != dim:
            raise InputError(f"vectors must be [..., {dim}] as in fit, got shape {vectors.shape}")
        found = search(vectors.reshape(-1, dim), codebooks[:n], beam_size=self.beam_size)
        return found.codes.reshape(*vectors.shape[:-1], n)

    def decode(self, codes: npt.ArrayLike) -> Floats:
        """Vectors of codes: `[..., n]` -> `[..., dim]`, for any n up to n_codebooks.

        Raises:
            InputError: not fitted, not integers, out of range, or too many codebooks.
        """
        codebooks = self._fitted()
        indices = np.asarray(codes)
        if indices.ndim == 0 or not 1 <= indices.shape[-1] <= self.n_codebooks:
            raise InputError(f"codes must be [..., 1 to {self.n_codebooks}], got {indices.shape}")
        if not np.issubdtype(indices.dtype, np.integer):
            raise InputError(f"codes must be integers, got {indices.dtype}")
        if indices.size and not 0 <= indices.min() <= indices.max() < self.codebook_size:
            raise InputError(
                f"codes must be in 0..{self.codebook_size - 1}, "
                f"got {indices.min()}..{indices.max()}"
            )
        vectors = np.zeros((*indices.shape[:-1], codebooks.shape[2]), np.float32)
        for stage in range(indices.shape[-1]):
            vectors += codebooks[stage][indices[..., stage]]
        return vectors

    def reconstruction_error(self, x: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Distortion over variance of vectors `[..., dim]` after each stage, `[n_codebooks]`."""
        vectors = self._vectors(x).reshape(-1, np.shape(x)[-1])
        codes = self.encode(vectors)
        variance = np.square(vectors - vectors.mean(axis=0)).sum(axis=1, dtype=np.float64).mean()
        errors = []
        for n in range(1, self.n_codebooks + 1):
            left = vectors - self.decode(codes[:, :n])
            errors.append(np.square(left).sum(axis=1, dtype=np.float64).mean())
        return np.array(errors) / max(variance, np.finfo(np.float64).tiny)

    def save(self, path: str | Path) -> None:
        """Write codebooks and settings to a safetensors file."""
        from safetensors.numpy import save

        settings = {"beam_size": self.beam_size, "seed": self.seed}
        metadata = {"format": "rvq.ResidualQuantizer/1", "settings": json.dumps(settings)}
        data = save({"codebooks": self._fitted()}, metadata=metadata)
        temporary = Path(f"{path}.tmp")
        try:
            temporary.write_bytes(data)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | Path) -> "ResidualQuantizer":
        """Read a quantizer that `save` wrote.

        Raises:
            ModelError: the file is missing, damaged, or something else.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="numpy") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != "rvq.ResidualQuantizer/1":
                    raise ModelError(f"{path} holds no quantizer of this version of rvq")
                codebooks = file.get_tensor("codebooks")
                settings = json.loads(metadata["settings"])
        except FileNotFoundError:
            raise ModelError(f"no quantizer at {path}") from None
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise ModelError(f"{path} is damaged or no quantizer: {error}") from None
        quantizer = cls.from_codebooks(codebooks, beam_size=settings["beam_size"])
        quantizer.seed = settings["seed"]
        return quantizer

    def _fitted(self) -> Floats:
        if not hasattr(self, "codebooks_"):
            raise InputError("the quantizer has no codebooks yet; call fit or load first")
        return self.codebooks_

    @staticmethod
    def _vectors(x: npt.ArrayLike) -> Floats:
        """`x` as float32 `[..., dim]`, refused if it is empty or not finite."""
        array = np.asarray(x)
        if array.ndim < 2 or array.size == 0:
            raise InputError(f"vectors must be a non-empty [..., dim] array, got {array.shape}")
        if not np.issubdtype(array.dtype, np.floating):
            raise InputError(f"vectors must be floating point, got {array.dtype}")
        array = np.ascontiguousarray(array, np.float32)
        if not np.isfinite(array).all():
            raise InputError(f"vectors contain NaN or infinity (shape {array.shape})")
        return array
