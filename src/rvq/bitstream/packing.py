"""Integers of 1 to 16 bits <-> bytes, most significant bit first."""

import numpy as np
import numpy.typing as npt

MAX_BITS = 16


def packed_size(n: int, bits: int) -> int:
    """Bytes that `n` integers of `bits` bits fill, the last byte padded with zeros."""
    return -(-n * bits // 8)


def pack(values: npt.NDArray[np.integer], bits: int) -> npt.NDArray[np.uint8]:
    """Pack every row of integers, each row starting at a byte.

    Args:
        values: integers in [0, 2**bits), which the caller has checked, shape `[..., n]`.
        bits: width of each integer, 1 to 16.

    Returns:
        Bytes of shape `[..., packed_size(n, bits)]`; the padding bits are zero.
    """
    as_bits = np.unpackbits(values.astype(">u2")[..., np.newaxis].view(np.uint8), axis=-1)
    low = as_bits[..., MAX_BITS - bits :]
    return np.packbits(low.reshape(*values.shape[:-1], values.shape[-1] * bits), axis=-1)


def unpack(packed: npt.NDArray[np.uint8], n: int, bits: int) -> npt.NDArray[np.int64]:
    """Undo `pack`: bytes `[..., packed_size(n, bits)]` -> integers `[..., n]`."""
    # An integer of at most 16 bits starts at one of 8 places in its first byte, so that it ends
    # within 23 bits: read the three bytes from there, shift what follows out, mask what precedes.
    start = np.arange(n) * bits
    padded = np.zeros((*packed.shape[:-1], packed.shape[-1] + 2), np.uint32)
    padded[..., :-2] = packed
    windows = padded[..., :-2] << 16 | padded[..., 1:-1] << 8 | padded[..., 2:]
    shift = (24 - bits - start % 8).astype(np.uint32)
    mask = np.uint32((1 << bits) - 1)
    return (windows[..., start // 8] >> shift & mask).astype(np.int64)
