"""Probabilities of codes, in integers: what entropy coding makes codes smaller by.

For every layer a small network looks at what a decoder knows: the codewords of the layers below, in
this frame and those around it, and the layer's own codewords in the frames before. It has one
hidden layer of integer units; its outputs are the logits of the codewords. Weights are integers,
sums are exact, so that every machine gets the same frequencies. A block starts from nothing, and no
layer looks at layers above it.
"""

import hashlib
import math
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rvq.bitstream import coder
from rvq.bitstream.tables import ABSENT, Linear, Tables
from rvq.errors import InputError, ModelError

FORMAT = 1
FILE = "entropy.safetensors"
MAX_REACH = 8
"""Frames before and after that a network may look at."""

_SHAPES = {
    "features": ("int8", "LKF"),
    "around": ("int32", "O"),
    "lower": ("int16", "LOFH"),
    "own": ("int16", "LMFH"),
    "offset": ("int32", "LH"),
    "weights": ("int8", "LKH"),
    "bias": ("int32", "LK"),
    "precision": ("int32", "L"),
    "shift": ("int32", "L"),
}


class EntropyModel:
    """Frequencies of the codes of a model.

    Args:
        data: the bytes of an `entropy.safetensors`; `docs/format.md` names its tensors.

    Attributes:
        tag: first 4 bytes of the hash of these bytes; files coded by the model name it.
        model_hash: of the model whose codes it learned.

    Raises:
        ModelError: bytes that are no entropy model, or one whose sums could overflow.
    """

    def __init__(self, data: bytes) -> None:
        from safetensors import SafetensorError
        from safetensors.numpy import load

        self.tag = hashlib.sha256(data).digest()[:4]
        try:
            arrays = load(data)
            self.model_hash = bytes(arrays["model"]).hex()
            sizes: dict[str, int] = {}
            for name, (dtype, axes) in _SHAPES.items():
                array = arrays[name]
                if array.dtype != dtype or array.ndim != len(axes):
                    raise ValueError(name)
                for axis, size in zip(axes, array.shape, strict=True):
                    if sizes.setdefault(axis, size) != size or (size == 0 and axis not in "OM"):
                        raise ValueError(name)
        except (SafetensorError, KeyError, ValueError) as error:
            raise ModelError(f"the entropy model is damaged ({error}): install it again") from None
        self._features = arrays["features"]
        self._around = [int(offset) for offset in arrays["around"]]
        self._lower = arrays["lower"]
        self._own = arrays["own"]
        self._offset = arrays["offset"]
        self._weights = arrays["weights"]
        self._bias = arrays["bias"]
        self._precision = arrays["precision"]
        self._shift = arrays["shift"]
        self._check_sums()

    @classmethod
    def load(cls, path: Path) -> "EntropyModel":
        """Read a file.

        Raises:
            ModelError: it cannot be read, or is no entropy model.
        """
        try:
            return cls(path.read_bytes())
        except OSError as error:
            raise ModelError(f"no entropy model at {path}: {error.strerror}") from None

    @property
    def n_codebooks(self) -> int:
        """Layers it knows."""
        return self._features.shape[0]

    @property
    def codebook_size(self) -> int:
        """Codewords per layer."""
        return self._features.shape[1]

    @property
    def width(self) -> int:
        """Features of a codeword."""
        return self._features.shape[2]

    def bits(
        self, layer: int, base: npt.NDArray[np.int32], codes: npt.NDArray[np.uint16]
    ) -> npt.NDArray[np.float64]:
        """What every codeword of a layer would cost in the frame after `codes`.

        Args:
            layer: from 0.
            base: of that frame, `[hidden]`; see `base`.
            codes: of the layer in the frames before, `ABSENT` for none.

        Returns:
            `[codebook_size]`.
        """
        counts = coder.frequencies(self.tables(layer), base, codes)
        return np.log2(counts.sum(dtype=np.float64) / counts)

    def check(self, n_codebooks: int, codebook_size: int) -> None:
        """Refuse codes of another shape.

        Raises:
            InputError: more codebooks than it knows, or of another size.
        """
        if n_codebooks > self.n_codebooks or codebook_size != self.codebook_size:
            raise InputError(
                f"the entropy model is for {self.n_codebooks} codebooks of {self.codebook_size}, "
                f"not for {n_codebooks} of {codebook_size}"
            )

    def encode(self, indices: npt.NDArray[np.integer], *, variable: bool) -> list[bytes]:
        """Codes of one block `[channels, n_frames, layers]`, -1 for none, as bytes per layer."""
        channels, n_frames, _ = indices.shape
        state = LayerState(self, channels, n_frames, variable=variable)
        return [state.encode(codes) for codes in np.moveaxis(indices, 2, 0)]

    def decoder(self, channels: int, n_frames: int, *, variable: bool) -> "LayerState":
        """What decodes a block, layer by layer."""
        return LayerState(self, channels, n_frames, variable=variable)

    @cached_property
    def _tables(self) -> dict[int, Tables]:
        return {}

    def tables(self, layer: int) -> Tables:
        """What the range coder needs of a layer."""
        if layer not in self._tables:
            lower, offset = self._lower[layer], self._offset[layer]
            n_hidden = len(offset)
            here = np.zeros(lower.shape[1:], np.int16)
            if layer and 0 in self._around:
                here = lower[self._around.index(0)]
            # float64 holds integers below 2**53 exactly, and is quick.
            past = self._features[layer].astype(np.float64) @ self._own[layer].astype(np.float64)
            self._tables[layer] = Tables(
                below=Linear(lower.reshape(-1, n_hidden).T, offset),
                here=Linear(here.T, np.zeros_like(offset)),
                logits=Linear(self._weights[layer].astype(np.int16), self._bias[layer]),
                past=np.ascontiguousarray(past.astype(np.int32)),
                precision=int(self._precision[layer]),
                shift=int(self._shift[layer]),
            )
        return self._tables[layer]

    def base(self, layer: int, known: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        """What the layers below add to the hidden units.

        Args:
            layer: from 0.
            known: sums of the features of the codewords below, `[channels, n_frames, F]`.

        Returns:
            `[channels * n_frames, hidden]`.
        """
        channels, n_frames, _ = known.shape
        if not layer or not self._around:
            return np.tile(self._offset[layer], (channels * n_frames, 1))
        reach = max(map(abs, self._around))
        padded = np.pad(known.astype(np.int16), ((0, 0), (reach, reach), (0, 0)))
        seen = [padded[:, reach + offset :][:, :n_frames] for offset in self._around]
        inputs = np.concatenate(seen, axis=2).reshape(channels * n_frames, -1)
        return coder.apply(self.tables(layer).below, inputs)

    def base_here(self, layer: int, known: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        """What the layers below add in the frame itself, part of `base`: `[..., hidden]`.

        Args:
            layer: from 0.
            known: sums of the features of the codewords below, or differences of such sums,
                `[..., F]`.
        """
        inputs = known.astype(np.int16).reshape(-1, self.width)
        return coder.apply(self.tables(layer).here, inputs).reshape(*known.shape[:-1], -1)

    def features(self, layer: int, codes: npt.NDArray[np.integer]) -> npt.NDArray[np.int32]:
        """Features of codewords `[...]` -> `[..., F]`; zeros for -1."""
        found = self._features[layer][codes].astype(np.int32)
        found[codes < 0] = 0
        return found

    def _check_sums(self) -> None:
        largest = np.abs(self._features.astype(np.int64)).max(axis=1)  # [L, F]
        below = np.cumsum(largest, axis=0) - largest
        hidden = np.abs(self._offset.astype(np.float64)) + np.einsum(
            "lf,lofh->lh", below.astype(np.float64), np.abs(self._lower.astype(np.float64))
        )
        hidden += np.einsum(
            "lf,lmfh->lh", largest.astype(np.float64), np.abs(self._own.astype(np.float64))
        )
        logits = np.abs(self._bias.astype(np.float64)) + 1023.0 * np.abs(
            self._weights.astype(np.float64)
        ).sum(axis=2)
        in_range = ((self._shift >= 0) & (self._shift < 32)).all()
        in_range &= ((self._precision >= 8) & (self._precision <= 24)).all()
        size, width = self._weights.shape[1:]
        in_range &= max(map(abs, self._around), default=0) <= MAX_REACH
        in_range &= self._own.shape[1] <= MAX_REACH
        fits = 2 <= size <= 2**15 and 2 <= width <= 128 and width % 2 == 0
        sums = below.max(initial=0)
        if (
            sums >= 2**14
            or hidden.max() >= 2**31
            or logits.max() >= 2**30
            or not in_range
            or not fits
        ):
            raise ModelError("the entropy model is damaged (its sums could overflow)")


class LayerState:
    """One block on its way through the layers, in either direction."""

    def __init__(
        self, model: EntropyModel, channels: int, n_frames: int, *, variable: bool
    ) -> None:
        self._model = model
        self._shape = channels, n_frames
        self._variable = variable
        self._layer = 0
        self._known = np.zeros((channels, n_frames, model._features.shape[2]), np.int32)
        self._below = np.ones(channels * n_frames, bool)

    def encode(self, codes: npt.NDArray[np.integer]) -> bytes:
        """Codes of the next layer, `[channels, n_frames]`, -1 for none, as bytes."""
        flat = np.where(codes < 0, ABSENT, codes).astype(np.uint16).reshape(-1)
        data = coder.encode(
            self._model.tables(self._layer),
            self._model.base(self._layer, self._known),
            self._below,
            flat,
            n_frames=self._shape[1],
            optional=self._optional,
        )
        self.skip(codes)
        return data

    def decode(self, data: bytes) -> npt.NDArray[np.int64] | None:
        """Bytes of the next layer as codes `[channels, n_frames]`, or None if damaged."""
        if not self._variable and len(self._below) > self._most_codes(len(data)):
            return None
        flat, exact = coder.decode(
            self._model.tables(self._layer),
            self._model.base(self._layer, self._known),
            self._below,
            data,
            n_frames=self._shape[1],
            optional=self._optional,
        )
        if not exact:
            return None
        codes = flat.astype(np.int64).reshape(self._shape)
        codes[codes == ABSENT] = -1
        self.skip(codes)
        return codes

    def skip(self, codes: npt.NDArray[np.integer]) -> None:
        """Go on to the layer above codes that are known."""
        self._known += self._model.features(self._layer, codes)
        self._below = (codes >= 0).reshape(-1)
        self._layer += 1

    def _most_codes(self, n_bytes: int) -> float:
        """How many codes so many bytes can hold: the likeliest has 65537 counts, others one."""
        least_bits = math.log2(1 + (self._model.codebook_size - 1) / 65537)
        return (8 * n_bytes + 16) / least_bits

    @property
    def _optional(self) -> bool:
        # Every frame has the first layer.
        return self._variable and self._layer > 0
