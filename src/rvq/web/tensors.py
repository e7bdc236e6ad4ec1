"""Arrays and facts in one body: how page and server, or page and host, talk about sound.

A body is a safetensors file with facts as JSON in its metadata; `page/codec/tensors.js` reads and
writes the same.
"""

import json
import math

import numpy as np
import numpy.typing as npt
import safetensors.numpy
from safetensors import SafetensorError

from rvq.errors import InputError


def pack(arrays: dict[str, npt.NDArray], **facts: object) -> bytes:
    """Arrays by name, and facts that JSON can hold or nan, which becomes null."""
    facts = {
        key: None if isinstance(value, float) and math.isnan(value) else value
        for key, value in facts.items()
    }
    return safetensors.numpy.save(
        {name: np.ascontiguousarray(array) for name, array in arrays.items()},
        metadata={"facts": json.dumps(facts)},
    )


def unpack(data: bytes, name: str) -> npt.NDArray[np.float32]:
    """The float32 array of that name.

    Raises:
        InputError: no such body, or no such array in it.
    """
    try:
        tensor = safetensors.numpy.load(data)[name]
    except (SafetensorError, KeyError):
        raise InputError(f"expected a safetensors body with {name!r}") from None
    if tensor.dtype != np.float32:
        raise InputError(f"{name} must be float32, got {tensor.dtype}")
    return tensor
