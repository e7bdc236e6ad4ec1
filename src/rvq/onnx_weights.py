"""The weights in an ONNX file, read without the onnx package.

An ONNX file is one protocol buffer (https://protobuf.dev/programming-guides/encoding): fields of
a number, a wire type and a value. Only those on the way to the initialisers are looked at.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from rvq.errors import ModelError

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_GRAPH, _INITIALIZER = 7, 5
_DIMS, _DATA_TYPE, _NAME, _RAW_DATA = 1, 2, 8, 9
_TYPES: dict[int, npt.DTypeLike] = {1: "<f4", 10: "<f2"}
"""Of TensorProto.data_type; the integers among the initialisers are no weights."""


def read_weights(network: bytes) -> dict[str, npt.NDArray[np.float32]]:
    """Floating-point initialisers by name, without the suffix of those stored in half precision.

    Raises:
        ModelError: this is not an ONNX file.
    """
    weights = {}
    try:
        for graph in _fields(memoryview(network), _GRAPH):
            for tensor in _fields(graph, _INITIALIZER):
                (data_type,) = _numbers(tensor, _DATA_TYPE)
                if data_type in _TYPES:
                    (name,) = _fields(tensor, _NAME)
                    (data,) = _fields(tensor, _RAW_DATA)
                    values = np.frombuffer(data, _TYPES[data_type]).reshape(_numbers(tensor, _DIMS))
                    weights[bytes(name).decode().removesuffix("_half")] = values.astype(np.float32)
    except (IndexError, ValueError) as error:
        raise ModelError(f"a network of the model cannot be read: {error}") from None
    return weights


def _fields(message: memoryview, wanted: int) -> list[memoryview]:
    """The values of a field of bytes, in order."""
    return [value for number, value in _parse(message) if number == wanted]


def _numbers(message: memoryview, wanted: int) -> list[int]:
    """The values of a field of integers, packed or not."""
    numbers = []
    for packed in _fields(message, wanted):
        at = 0
        while at < len(packed):
            value, at = _varint(packed, at)
            numbers.append(value)
    return numbers


def _parse(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, wire_type = key >> 3, key & 7
        start = at
        if wire_type == _VARINT:
            _, at = _varint(message, at)
        elif wire_type == _BYTES:
            size, start = _varint(message, at)
            at = start + size
        elif wire_type in (_FIXED32, _FIXED64):
            at += 4 if wire_type == _FIXED32 else 8
        else:
            raise ValueError(f"wire type {wire_type}")
        if at > len(message):
            raise ValueError("it ends too early")
        yield number, message[start:at]


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A base-128 integer, and where the next value starts."""
    value = shift = 0
    while True:
        byte = message[at]
        if shift > 63:
            raise ValueError("an integer of more than 64 bits")
        value |= (byte & 127) << shift
        at += 1
        if byte < 128:
            return value, at
        shift += 7
