"""Codes of one layer <-> bytes: the C coder, or the same in numpy where it was not compiled."""

from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

from rvq.bitstream import reference
from rvq.bitstream.tables import ABSENT, Linear, Tables

try:
    _native: Any = import_module("rvq.bitstream._native")
except ImportError:  # installed without a compiler
    _native = None

KERNELS: tuple[str, ...] = _native.kernels() if _native is not None else ()
"""Of the C coder, those that run on this processor, fastest first; all give the same."""

Codes = npt.NDArray[np.uint16]


def encode(
    tables: Tables,
    base: npt.NDArray[np.int32],
    below: npt.NDArray[np.bool_],
    codes: Codes,
    *,
    n_frames: int,
    optional: bool,
) -> bytes:
    """Code one layer of a block.

    Args:
        tables: of the layer.
        base: what other layers add to the hidden units of each frame, `[channels * n_frames,
            hidden]`.
        below: whether each frame has the layer below, `[channels * n_frames]`.
        codes: `[channels * n_frames]`, `ABSENT` for none.
        n_frames: of one channel.
        optional: whether frames may lack this layer; if not, all have it.
    """
    if _native is None:
        return reference.encode(tables, base, below, codes, n_frames, optional)
    return _native.encode(*_arguments(tables, base, below, n_frames, optional), codes)


def decode(
    tables: Tables,
    base: npt.NDArray[np.int32],
    below: npt.NDArray[np.bool_],
    data: bytes,
    *,
    n_frames: int,
    optional: bool,
) -> tuple[Codes, bool]:
    """Undo `encode`; arguments as there.

    Returns:
        The codes, and whether the bytes are what `encode` makes of them: others are damaged, and
        give any codes in range.
    """
    if _native is None:
        return reference.decode(tables, base, below, data, n_frames, optional)
    codes = np.full(len(base), ABSENT, np.uint16)
    exact = _native.decode(*_arguments(tables, base, below, n_frames, optional), codes, data)
    return codes, exact


def frequencies(
    tables: Tables, base: npt.NDArray[np.int32], codes: Codes, *, kernel: int = 0
) -> npt.NDArray[np.uint32]:
    """Frequencies of all codewords in the frame after `codes`, `[codebook_size]`.

    Args:
        tables: of the layer.
        base: what other layers add to the hidden units of that frame, `[hidden]`.
        codes: of this layer in the frames before, oldest first; the newest are looked at.
        kernel: index of one of `KERNELS`.
    """
    codes = codes[max(0, len(codes) - len(tables.past)) :]
    if _native is None:
        active = reference.activations(tables, base, codes, len(codes))
        return reference.frequencies(tables, active).astype(np.uint32)
    n = len(codes) + 1
    bases = np.zeros((n, len(base)), np.int32)
    bases[-1] = base
    padded = np.append(codes, np.uint16(ABSENT))
    found = np.empty(len(tables.logits.bias), np.uint32)
    arguments = _arguments(tables, bases, np.ones(n, bool), n, False)
    _native.frequencies(*arguments, padded, found, kernel)
    return found


def apply(
    linear: Linear, inputs: npt.NDArray[np.int16], *, kernel: int = 0
) -> npt.NDArray[np.int32]:
    """Products of rows `[n, n_inputs]` with the weights, and the bias: `[n, n_outputs]`."""
    if _native is None:
        return reference.apply(linear, inputs)
    weights, bias = linear.packed
    n, pairs = len(inputs), weights.shape[1]
    if inputs.shape[1] % 2:
        inputs = np.pad(inputs, ((0, 0), (0, 1)))
    sums = np.empty((n, len(linear.bias)), np.int32)
    shape = (kernel, n, pairs, len(linear.bias))
    _native.apply(shape, weights, bias, np.ascontiguousarray(inputs), sums)
    return sums


def crc8(data: bytes) -> int:
    """CRC-8 with the polynomial x^8 + x^2 + x + 1, start 0, most significant bit first."""
    return reference.crc8(data) if _native is None else _native.crc8(data)


def crc24(data: bytes) -> int:
    """CRC-24 of OpenPGP (RFC 4880): polynomial 0x1864CFB, start 0xB704CE, highest bit first."""
    return reference.crc24(data) if _native is None else _native.crc24(data)


def _arguments(
    tables: Tables,
    base: npt.NDArray[np.int32],
    below: npt.NDArray[np.bool_],
    n_frames: int,
    optional: bool,
) -> tuple:
    memory, size, hidden = tables.past.shape
    shape = (len(base), n_frames, size, hidden, tables.shift, memory, tables.precision, optional)
    return shape, *tables.logits.packed, tables.past, base, below
