"""Nearest neighbours among vectors that are kept as codes."""

import json
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from rvq.errors import InputError, ModelError
from rvq.quantize.checksum import checksum
from rvq.quantize.kernels import blas, native
from rvq.quantize.residual import ResidualQuantizer
from rvq.quantize.vectors import as_codes, as_number, as_vectors, squared_norms
from rvq.replacing import replacing

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

_FORMAT = 1


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Nearest vectors of an index, best first.

    Attributes:
        ids: in the order of `Index.add`, `[n_queries, k]`.
        distances: squared distances to the decoded vectors, or negative inner products with them,
            `[n_queries, k]`; smaller is nearer.
    """

    ids: Integers
    distances: Floats


class Index:
    """Exact search for the decoded vectors nearest to a query, without decoding them.

    The product of a query with a decoded vector is a sum of its products with codewords, so one
    small table per query serves all vectors (asymmetric distances, Jégou, Douze & Schmid 2011);
    squared norms are kept beside the codes. A vector takes one byte per codebook of up to 256
    codewords (else two) and four bytes for its norm.

    Args:
        quantizer: fitted; the index keeps a copy of it.
        metric: `l2` for Euclidean distance, `ip` for the greatest inner product.
        threads: that share the queries; 0 for all cores.

    Raises:
        InputError: no fitted `ResidualQuantizer`, more than 65536 codewords, or another metric.

    Example:
        >>> import numpy as np, rvq
        >>> x = np.random.default_rng(0).normal(size=(2000, 16)).astype(np.float32)
        >>> index = rvq.Index(rvq.ResidualQuantizer(n_codebooks=8, codebook_size=64).fit(x))
        >>> index.add(x)
        >>> index.search(x[:3], k=1).ids.ravel().tolist()
        [0, 1, 2]
    """

    def __init__(
        self,
        quantizer: ResidualQuantizer,
        *,
        metric: Literal["l2", "ip"] = "l2",
        threads: int = 1,
    ) -> None:
        if metric not in ("l2", "ip"):
            raise InputError(f"metric must be 'l2' or 'ip', got {metric!r}")
        if not isinstance(quantizer, ResidualQuantizer):
            raise InputError(
                f"an index needs a ResidualQuantizer, got a {type(quantizer).__name__}; fit one"
            )
        n, size, _ = quantizer._learned("codebooks_").shape
        if size > 65536:
            raise InputError(f"codebooks of at most 65536 codewords, got {size}")
        self._quantizer = deepcopy(quantizer)
        self.metric = metric
        self.threads = threads or native.n_cores()
        self.codes: npt.NDArray[np.unsignedinteger] = np.empty(
            (0, n), np.uint8 if size <= 256 else np.uint16
        )
        self.norms: Floats = np.empty(0, np.float32)

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def quantizer(self) -> ResidualQuantizer:
        """A copy of the quantizer, as it was when the index was made."""
        return deepcopy(self._quantizer)

    def add(self, x: npt.ArrayLike) -> None:
        """Encode vectors `[n, dim]` and keep their codes."""
        self.add_codes(self._quantizer.encode(x))

    def add_codes(self, codes: npt.ArrayLike) -> None:
        """Keep vectors that are codes already, `[n, n_codebooks]`.

        Raises:
            InputError: codes out of range, of another number of codebooks, or of vectors longer
                than 1e18.
        """
        n, size, _ = self._quantizer.codebooks_.shape
        indices = as_codes(codes, most=n, codebook_size=size)
        if indices.ndim != 2 or indices.shape[1] != n:
            raise InputError(f"codes must be [n, {n}], got {indices.shape}")
        norms = [
            squared_norms(self._quantizer.decode(indices[i : i + 65536]), "vectors")
            for i in range(0, len(indices), 65536)  # no more decoded at once
        ]
        self.codes = np.concatenate([self.codes, indices.astype(self.codes.dtype)])
        self.norms = np.concatenate([self.norms, *norms])

    def search(self, queries: npt.ArrayLike, k: int = 10) -> Neighbours:
        """The k nearest vectors of every query, `[n_queries, dim]`; of equally near ones the first.

        Raises:
            InputError: queries of another dimension or longer than 1e18, or k no integer or beyond
                the number of vectors.
        """
        vectors = as_vectors(queries, self._quantizer.n_features_in_, distances=False)
        if vectors.ndim != 2:
            raise InputError(f"queries must be [n, dim], got {vectors.shape}")
        squares = squared_norms(vectors, "queries")
        if not len(self):
            raise InputError("the index is empty: add vectors first")
        k = as_number(k, "k", most=len(self))
        codebooks = self._quantizer.codebooks_
        factor = 2 if self.metric == "l2" else 1
        norms = self.norms if self.metric == "l2" else np.zeros_like(self.norms)
        ids = np.empty((len(vectors), k), np.int64)
        distances = np.empty((len(vectors), k), np.float32)
        scan = native.scan if native.available() else blas.scan

        def work(start: int, stop: int) -> None:
            for i in range(start, stop):
                table = factor * (codebooks @ vectors[i])
                scan(self.codes, table, norms, distances[i], ids[i])

        native.in_chunks(work, len(vectors), self.threads, grain=1)
        if self.metric == "l2":
            distances += squares[:, None]
            np.maximum(distances, 0, out=distances)
        return Neighbours(ids, distances)

    def save(self, folder: str | Path) -> None:
        """Write the index into a folder: quantizer, codes and norms, each a file.

        Raises:
            InputError: the folder cannot be made, or a file not written.
        """
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot make the folder {folder}: {error.strerror}") from None
        self._quantizer.save(folder / "quantizer.safetensors")
        for name, array in (("codes", self.codes), ("norms", self.norms)):
            with replacing(folder / f"{name}.npy") as temporary:
                np.save(temporary, array)
        sha256 = checksum(self.metric, self.codes, self.norms)
        settings = {"format": _FORMAT, "metric": self.metric, "sha256": sha256}
        with replacing(folder / "index.json") as temporary:
            temporary.write_text(json.dumps(settings))

    @classmethod
    def load(cls, folder: str | Path, *, memory_map: bool = False, threads: int = 1) -> "Index":
        """Read an index that `save` wrote.

        Args:
            folder: of the index.
            memory_map: leave codes and norms on disk; they are read once here, to check them, and
                as a search passes over them.
            threads: as in the constructor.

        Raises:
            ModelError: the folder holds no index, or a damaged one.
        """
        folder = Path(folder)
        try:
            settings = json.loads((folder / "index.json").read_text())
            if not isinstance(settings, dict) or settings.get("format") != _FORMAT:
                raise ModelError(f"{folder} holds no index of this version of rvq")
            quantizer = ResidualQuantizer.load(folder / "quantizer.safetensors")
            index = cls(quantizer, metric=settings["metric"], threads=threads)
            mode: Literal["r"] | None = "r" if memory_map else None
            codes = np.load(folder / "codes.npy", mmap_mode=mode, allow_pickle=False)
            norms = np.load(folder / "norms.npy", mmap_mode=mode, allow_pickle=False)
        except FileNotFoundError as error:
            raise ModelError(f"no index at {folder}: {error.filename} is missing") from None
        except (OSError, EOFError, ValueError, KeyError, InputError) as error:
            raise ModelError(f"the index at {folder} is damaged: {error}") from None
        n, size, _ = quantizer.codebooks_.shape
        fit = norms.ndim == 1 and codes.shape == (len(norms), n)
        same_kind = codes.dtype == index.codes.dtype and norms.dtype == index.norms.dtype
        if not (fit and same_kind and codes.flags.c_contiguous):
            raise ModelError(f"the index at {folder} is damaged: its files do not fit together")
        if len(codes) and int(codes.max()) >= size:
            raise ModelError(f"the index at {folder} is damaged: it has codes out of range")
        # Older indexes have none.
        if settings.get("sha256") not in (None, checksum(index.metric, codes, norms)):
            raise ModelError(f"the index at {folder} is damaged: its files are not those saved")
        index.codes, index.norms = codes, norms
        return index
