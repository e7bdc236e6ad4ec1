"""Integers of a few bits each <-> bytes, most significant bit first."""

import numpy as np
import numpy.typing as npt


def packed_size(n: int, bits: int) -> int:
    """Bytes that `n` integers of `bits` bits take, padded to a whole byte."""
    return -(-n * bits // 8)


def pack(values: npt.NDArray[np.integer], bits: int) -> bytes:
    """Pack integers in [0, 2**bits), `[n]`, bits 1 to 16."""
    places = np.arange(bits - 1, -1, -1, dtype=np.uint16)
    return np.packbits((values.astype(np.uint16)[:, None] >> places) & 1).tobytes()


def unpack(data: bytes, n: int, bits: int) -> npt.NDArray[np.int64]:
    """The `n` integers that `pack` made `data` of."""
    digits = np.unpackbits(np.frombuffer(data, np.uint8), count=n * bits).reshape(n, bits)
    return digits.astype(np.int64) @ (1 << np.arange(bits - 1, -1, -1, dtype=np.int64))
