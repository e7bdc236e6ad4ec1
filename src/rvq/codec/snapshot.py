"""What a stream remembers, as bytes: arrays in safetensors, with model and version; a CRC-32."""

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from rvq.errors import FormatError, ModelError

Layout = Mapping[str, tuple[type[np.generic], tuple[int | None, ...]]]
"""Type and shape of arrays by name; None for any length."""

VERSION = 1
"""Raised when an older reader could not go on from what is saved."""


def save_state(kind: str, model_hash: str, arrays: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """Arrays, named and with what they belong to."""
    from safetensors.numpy import save

    about: dict[str, npt.NDArray[Any]] = {
        f"{kind}.version": np.array([VERSION], np.int64),
        "model": np.frombuffer(bytes.fromhex(model_hash), np.uint8),
    }
    data = save(about | {name: np.ascontiguousarray(value) for name, value in arrays.items()})
    return data + zlib.crc32(data).to_bytes(4, "big")


def load_state(
    data: bytes, kind: str, model_hash: str, layout: Layout
) -> dict[str, npt.NDArray[Any]]:
    """Undo `save_state`.

    Args:
        data: the bytes.
        kind: of stream.
        model_hash: of the model that shall go on.
        layout: of the arrays.

    Raises:
        FormatError: damaged, not finite, of another kind, layout or version.
        ModelError: of another model.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    if zlib.crc32(data[:-4]).to_bytes(4, "big") != data[-4:]:
        raise FormatError("this is not the saved state of a stream, or it is damaged")
    try:
        arrays = load(data[:-4])
    except (SafetensorError, ValueError, KeyError):
        raise FormatError("this is not the saved state of a stream") from None
    version = arrays.pop(f"{kind}.version", None)
    if version is None:
        raise FormatError(f"this is not the saved state of a stream's {kind}")
    if version.tolist() != [VERSION]:
        raise FormatError("the saved state is of another version of rvq; start the stream anew")
    if arrays.pop("model", np.empty(0)).tobytes() != bytes.fromhex(model_hash):
        raise ModelError("the saved state is of another model; start the stream anew")
    for name, (dtype, shape) in layout.items():
        array = arrays.get(name)
        if (
            array is None
            or array.dtype != dtype
            or array.ndim != len(shape)
            or any(want not in (None, n) for n, want in zip(array.shape, shape, strict=True))
        ):
            found = "missing" if array is None else f"{array.dtype} {array.shape}"
            raise FormatError(
                f"the saved state does not fit this stream: {name} should be "
                f"{np.dtype(dtype)} {shape}, is {found}"
            )
        check_state(name, bool(np.isfinite(array).all()))
    return arrays


def check_state(name: str, valid: bool) -> None:
    """Refuse a value that no stream has.

    Raises:
        FormatError: it is not valid.
    """
    if not valid:
        raise FormatError(f"the saved state is damaged: no stream has such {name}")
