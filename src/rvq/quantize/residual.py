"""ResidualQuantizer: an estimator that turns vectors into a few integers each, and back."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from rvq.errors import InputError, ModelError
from rvq.quantize.checksum import checksum
from rvq.quantize.estimator import Estimator
from rvq.quantize.kmeans import kmeans
from rvq.quantize.refine import refine
from rvq.quantize.search import Search, check_beam_size, check_n_codebooks, decode, sums_by_code
from rvq.quantize.vectors import as_codes, as_number, as_vectors, squared_norms, variance
from rvq.replacing import replacing

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

_FORMAT = "rvq.ResidualQuantizer/2"
_READABLE = (_FORMAT, "rvq.ResidualQuantizer/1")
_DEAD_SHARE = 0.02
"""`partial_fit` moves codewords used less than this fraction of the uniform share."""


class ResidualQuantizer(Estimator):
    """Residual vector quantizer (Juang & Gray 1982) on numpy arrays.

    Each codebook quantizes what the codebooks before it left over, so that any prefix of a
    vector's codes describes it more coarsely. Follows the conventions of scikit-learn's
    transformers: parameters as given, what was learned in attributes that end in an underscore.

    Args:
        n_codebooks: stages.
        codebook_size: codewords per codebook, K.
        beam_size: code sequences followed by the search, in `fit` and `encode`, up to 32; 1 is
            greedy. A wider beam costs time and lowers the error.
        n_iterations: k-means iterations per codebook.
        refinement_rounds: rounds of joint refinement of all codebooks after stage-wise learning,
            each a search and a least-squares solution; see `rvq.quantize.refine`.
        refine_for: `prefixes` weighs the relative errors of the prefixes of the codebooks so that
            every doubling of the bitrate counts alike and lower bitrates stay good; `full`
            minimises the error of all codebooks together.
        fast: `encode` by bf16 products where the processor has them, with codes that may differ
            between machines; see `rvq.quantize.search.Search`.
        threads: that share the work; 0 for all cores. Results do not depend on it.
        seed: of everything random; the same seed and vectors give the same codebooks.

    Attributes:
        codebooks_: `[n_codebooks, codebook_size, dim]`; read-only once `encode` was called, assign
            other ones instead.
        counts_: training vectors that chose each codeword, `[n_codebooks, codebook_size]`.
        n_features_in_: dimension of the vectors.

    Example:
        >>> import numpy as np, rvq
        >>> x = np.random.default_rng(0).normal(size=(2000, 8)).astype(np.float32)
        >>> quantizer = rvq.ResidualQuantizer(n_codebooks=4, codebook_size=64).fit(x)
        >>> codes = quantizer.encode(x)
        >>> codes.shape
        (2000, 4)
        >>> bool(quantizer.score(x) > 0.8)
        True
    """

    codebooks_: Floats
    counts_: Doubles

    _least: ClassVar = {
        "n_codebooks": 1,
        "codebook_size": 2,
        "beam_size": 1,
        "n_iterations": 0,
        "refinement_rounds": 0,
        "threads": 0,
        "seed": 0,
    }

    def __init__(
        self,
        *,
        n_codebooks: int = 8,
        codebook_size: int = 1024,
        beam_size: int = 1,
        n_iterations: int = 25,
        refinement_rounds: int = 0,
        refine_for: Literal["prefixes", "full"] = "prefixes",
        fast: bool = False,
        threads: int = 1,
        seed: int = 0,
    ) -> None:
        self.n_codebooks = n_codebooks
        self.codebook_size = codebook_size
        self.beam_size = beam_size
        self.n_iterations = n_iterations
        self.refinement_rounds = refinement_rounds
        self.refine_for = refine_for
        self.fast = fast
        self.threads = threads
        self.seed = seed
        self._check(self.get_params())

    def _check(self, parameters: dict[str, Any]) -> None:
        super()._check(parameters)
        if parameters["refine_for"] not in ("prefixes", "full"):
            raise InputError(
                f"refine_for must be 'prefixes' or 'full', got {parameters['refine_for']!r}"
            )

    @classmethod
    def from_codebooks(cls, codebooks: Floats, *, beam_size: int = 1) -> "ResidualQuantizer":
        """A quantizer of given codebooks `[n_codebooks, codebook_size, dim]`, which are copied.

        Raises:
            InputError: not finite as float32, codewords longer than 1e18, or of another shape.
        """
        with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused
            copied = np.array(codebooks, np.float32, order="C")
        if copied.ndim != 3 or not copied.size or not np.isfinite(copied).all():
            raise InputError(
                "codebooks must be finite, [n_codebooks, codebook_size, dim]; "
                f"got shape {copied.shape}"
            )
        squared_norms(copied, "codebooks")
        n_codebooks, codebook_size, _ = copied.shape
        quantizer = cls(n_codebooks=n_codebooks, codebook_size=codebook_size, beam_size=beam_size)
        quantizer.codebooks_ = copied
        quantizer.counts_ = np.ones((n_codebooks, codebook_size))
        return quantizer

    @property
    def n_features_in_(self) -> int:
        """Dimension of the vectors."""
        return self._learned("codebooks_").shape[2]

    # -- learning ----------------------------------------------------------------------------

    def fit(
        self,
        x: npt.ArrayLike,
        y: None = None,
        *,
        warm_start: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> "ResidualQuantizer":
        """Learn the codebooks from vectors `[..., dim]`, stage by stage on what is left over.

        Args:
            x: vectors, finite.
            y: ignored; scikit-learn passes it.
            warm_start: let k-means go on from the codebooks there are.
            progress: called with stages and rounds done, and how many there are.

        Raises:
            InputError: not finite numbers, longer than 1e18, fewer vectors than codewords, a beam
                or codebooks beyond what searches follow, or a warm start from codebooks of another
                codebook_size or dimension.
        """
        check_beam_size(self.beam_size)
        check_n_codebooks(self.n_codebooks)
        vectors = as_vectors(x)
        vectors = vectors.reshape(-1, vectors.shape[-1])
        before: Floats | None = self._learned("codebooks_") if warm_start else None
        if before is not None and before.shape[2] != vectors.shape[1]:
            raise InputError(f"vectors must be [..., {before.shape[2]}], got {vectors.shape}")
        if before is not None and before.shape[1] != self.codebook_size:
            raise InputError(
                f"a warm start goes on from {before.shape[1]} codewords per codebook, but "
                f"codebook_size is {self.codebook_size}; fit without warm_start"
            )
        total = self.n_codebooks + self.refinement_rounds
        dim = vectors.shape[1]
        residual, codebooks = vectors, np.empty((0, self.codebook_size, dim), np.float32)
        for stage in range(self.n_codebooks):
            learned = kmeans(
                residual,
                self.codebook_size,
                n_iterations=self.n_iterations,
                start=before[stage] if before is not None and stage < len(before) else None,
                seed=[self.seed, stage],
                threads=self.threads,
            )
            codebooks = np.concatenate([codebooks, learned.codebook[None]])
            if self.beam_size == 1:  # the stages before need no second search
                residual = Search(codebooks[-1:], threads=self.threads)(residual).residual
            elif stage + 1 < self.n_codebooks:  # the next codebook serves every path of the beam
                search = Search(codebooks, beam_size=self.beam_size, threads=self.threads)
                paths = search.paths(vectors, self.beam_size)
                residual = (vectors[:, None] - decode(paths, codebooks)).reshape(-1, dim)
            if progress is not None:
                progress(stage + 1, total)
        self.codebooks_ = codebooks
        if self.refinement_rounds:
            self._refine(vectors, progress)
        # No search that is kept: codebooks stay writable until the first `encode`.
        search = Search(
            self.codebooks_, beam_size=self.beam_size, fast=self.fast, threads=self.threads
        )
        codes = search(vectors).codes
        counts = [np.bincount(column, minlength=self.codebook_size) for column in codes.T]
        self.counts_ = np.array(counts, np.float64)
        return self

    def _refine(self, vectors: Floats, progress: Callable[[int, int], None] | None) -> None:
        weights = np.zeros(self.n_codebooks)
        weights[-1] = 1.0
        if self.refine_for == "prefixes":
            # Relative errors, each prefix counted as part of a doubling of the bitrate.
            errors = np.maximum(self.reconstruction_error(vectors), 1e-9)
            weights = 1 / (errors * np.arange(1, self.n_codebooks + 1))

        def report(done: int, rounds: int) -> None:
            if progress is not None:
                progress(self.n_codebooks + done, self.n_codebooks + rounds)

        self.codebooks_ = refine(
            vectors,
            self.codebooks_,
            n_rounds=self.refinement_rounds,
            beam_size=self.beam_size,
            prefix_weights=weights,
            threads=self.threads,
            seed=self.seed,
            progress=report,
        ).codebooks

    def partial_fit(self, x: npt.ArrayLike, y: None = None) -> "ResidualQuantizer":
        """Learn from one more batch of vectors, for data that do not fit into memory.

        The first batch starts the codebooks as `fit` does; later ones move each codeword to the
        mean of all vectors that have chosen it so far (mini-batch k-means, Sculley 2010), and
        codewords that hardly any chooses onto vectors of the batch.

        Raises:
            InputError: not finite numbers, longer than 1e18, another dimension, or a first batch of
                fewer vectors than codewords.
        """
        if not hasattr(self, "codebooks_"):
            return self.fit(x)
        vectors = as_vectors(x, self.n_features_in_)
        residual = vectors.reshape(-1, self.n_features_in_)
        seen = int(self.counts_.sum())
        random = np.random.default_rng([self.seed, seen])
        # Copies: prepared searches belong to the old ones, and users may hold them.
        codebooks, all_counts = self.codebooks_.copy(), self.counts_.copy()
        size = codebooks.shape[1]
        for codebook, counts in zip(codebooks, all_counts, strict=True):
            codes = Search(codebook[None], threads=self.threads)(residual).codes[:, 0]
            chosen = np.bincount(codes, minlength=size)
            counts += chosen
            used = chosen > 0
            step = sums_by_code(residual, codes, size) - chosen[:, None] * codebook
            codebook[used] += (step[used] / counts[used, None]).astype(np.float32)
            dead = np.flatnonzero(counts < _DEAD_SHARE * counts.mean())[: len(residual)]
            codebook[dead] = residual[random.choice(len(residual), len(dead), replace=False)]
            counts[dead] = 1  # the next vectors that choose it place it
            residual = Search(codebook[None], threads=self.threads)(residual).residual
        self.codebooks_, self.counts_ = codebooks, all_counts
        return self

    # -- vectors <-> codes -------------------------------------------------------------------

    def encode(
        self, x: npt.ArrayLike, n_codebooks: int | None = None, *, lagrangian: float = 0.0
    ) -> Integers:
        """Codes of vectors: `[..., dim]` -> `[..., n_codebooks]`, each in [0, codebook_size).

        Args:
            x: vectors.
            n_codebooks: how many codebooks to use, from the first; default all.
            lagrangian: λ of the cost  squared error + λ bits, with the bits that an ideal entropy
                coder spends on each codeword at its frequency in training (entropy-constrained
                vector quantization, Chou, Lookabaugh & Gray 1989); 0 minimises the error alone.

        Raises:
            InputError: not fitted, not finite, longer than 1e18, another dimension, or a number of
                codebooks that is no integer or too large.
        """
        codebooks: Floats = self._learned("codebooks_")
        n = len(codebooks)
        if n_codebooks is not None:
            n = as_number(n_codebooks, "n_codebooks", most=n)
        if not 0 <= lagrangian < np.inf:
            raise InputError(f"lagrangian must be at least 0 and finite, got {lagrangian}")
        vectors = as_vectors(x, codebooks.shape[2])
        found = self._search(n, lagrangian)(vectors.reshape(-1, codebooks.shape[2]))
        return found.codes.reshape(*vectors.shape[:-1], n)

    def _search(self, n: int, lagrangian: float) -> Search:
        """The search for these settings; the last one is kept, for its preparation takes time."""
        penalties = np.asarray(lagrangian * self.bits()[:n] if lagrangian else 0.0)
        key = (n, penalties.tobytes(), self.beam_size, self.fast, self.threads)
        kept = getattr(self, "_kept", None)
        if kept is None or kept[0] is not self.codebooks_ or kept[1] != key:
            self.codebooks_.flags.writeable = False  # the search works in the same memory
            search = Search(
                self.codebooks_[:n],
                beam_size=self.beam_size,
                penalties=penalties,
                fast=self.fast,
                threads=self.threads,
            )
            self._kept = kept = (self.codebooks_, key, search)
        return kept[2]

    def __getstate__(self) -> dict[str, Any]:
        """For pickles and copies: all but the prepared search, which has locks."""
        return {name: value for name, value in vars(self).items() if name != "_kept"}

    def bits(self) -> Doubles:
        """Ideal code length of every codeword, `[n_codebooks, codebook_size]`, from `counts_`.

        Raises:
            InputError: not fitted.
        """
        counts = self._learned("counts_") + 0.5  # Krichevsky & Trofimov 1981: none is impossible
        return np.log2(counts.sum(axis=1, keepdims=True) / counts)

    def decode(self, codes: npt.ArrayLike) -> Floats:
        """Vectors of codes: `[..., n]` -> `[..., dim]`, for any n up to n_codebooks.

        Raises:
            InputError: not fitted, not integers, out of range, or too many codebooks.
        """
        codebooks: Floats = self._learned("codebooks_")
        indices = as_codes(codes, most=len(codebooks), codebook_size=codebooks.shape[1])
        return decode(indices, codebooks)

    # -- quality -----------------------------------------------------------------------------

    def reconstruction_error(self, x: npt.ArrayLike) -> Doubles:
        """Distortion over variance of vectors `[..., dim]` after each stage, `[n_codebooks]`.

        Prefixes of the codes that all codebooks together give, as a file cut short has them.
        """
        vectors = as_vectors(x, self.n_features_in_).reshape(-1, self.n_features_in_)
        codes = self.encode(vectors)
        errors = []
        for n in range(1, codes.shape[1] + 1):
            left = vectors - self.decode(codes[:, :n])
            errors.append(np.einsum("nd,nd->", left, left, dtype=np.float64) / len(vectors))
        return np.array(errors) / variance(vectors)

    # -- files -------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write codebooks and parameters to a safetensors file; sizes are those of the codebooks.

        Raises:
            InputError: not fitted, or the file cannot be written.
        """
        from safetensors.numpy import save

        n_codebooks, codebook_size, _ = self._learned("codebooks_").shape
        sizes = {"n_codebooks": n_codebooks, "codebook_size": codebook_size}
        settings = {**self.get_params(), **sizes}
        plain = json.dumps(settings, default=lambda number: number.item())  # numpy's numbers
        tensors: dict[str, npt.NDArray[Any]] = {
            "codebooks": self.codebooks_,
            "counts": self._learned("counts_"),
        }
        sha256 = checksum(plain, *tensors.values())
        metadata = {"format": _FORMAT, "settings": plain, "sha256": sha256}
        with replacing(Path(path)) as temporary:
            temporary.write_bytes(save(tensors, metadata=metadata))

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
                if metadata.get("format") not in _READABLE:
                    raise ModelError(f"{path} holds no quantizer of this version of rvq")
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                settings = json.loads(metadata["settings"])
            if "sha256" in metadata:  # older files have none
                stored = checksum(metadata["settings"], tensors["codebooks"], tensors["counts"])
                if stored != metadata["sha256"]:
                    raise InputError("its contents are not those that were saved")
            quantizer = cls.from_codebooks(tensors["codebooks"])
            if not isinstance(settings, dict):
                raise InputError(f"its settings must be named, got {settings!r}")
            quantizer.set_params(**settings)
            sizes = n, size = quantizer.codebooks_.shape[:2]
            if (quantizer.n_codebooks, quantizer.codebook_size) != sizes:
                raise InputError(
                    f"its settings name {quantizer.n_codebooks} codebooks of "
                    f"{quantizer.codebook_size} codewords, it holds {n} of {size}"
                )
            if "counts" in tensors:
                quantizer.counts_ = tensors["counts"].astype(np.float64).reshape(sizes)
            if not (np.isfinite(quantizer.counts_) & (quantizer.counts_ >= 0)).all():
                raise InputError("its counts are no counts")
        except FileNotFoundError:
            raise ModelError(f"no quantizer at {path}") from None
        except (SafetensorError, OSError, KeyError, ValueError, InputError) as error:
            raise ModelError(f"{path} is damaged or no quantizer: {error}") from None
        return quantizer
