"""Range coding of one layer in numpy and Python integers: the definition of `native/coder.c`.

It also does the work where that was not compiled.

A range coder (Martin 1979) narrows an interval of integers by every symbol, in proportion to the
symbol's frequency. The interval's 48 highest bits that are not settled yet are kept; a byte is
written as soon as the interval is shorter than 2**40.
"""

import numpy as np
import numpy.typing as npt

from rvq.bitstream.tables import ABSENT, TOP, Linear, Tables

Codes = npt.NDArray[np.uint16]
Counts = npt.NDArray[np.int64]

WINDOW = 48
_FULL = 1 << WINDOW
_LEAST = 1 << (WINDOW - 8)
_PART = np.arange(256, dtype=np.int64)
_HALVING = 65536 - (_PART * (44012 - 44 * _PART) >> 8)
"""65536 * 2**(-i / 256), by a parabola."""


def apply(linear: Linear, inputs: npt.NDArray[np.integer]) -> npt.NDArray[np.int32]:
    """See `coder.apply`."""
    # Products of float64 that hold integers below 2**53 are exact, and quick.
    products = inputs.astype(np.float64) @ linear.weights.T.astype(np.float64)
    return products.astype(np.int32) + linear.bias


def frequencies(tables: Tables, activations: npt.NDArray[np.int64]) -> Counts:
    """Frequencies of all codewords for activations `[..., hidden]`: `[..., codebook_size]`."""
    logits = apply(tables.logits, activations).astype(np.int64)
    below = np.minimum((logits.max(axis=-1, keepdims=True) - logits) >> tables.precision - 8, 8191)
    return (_HALVING[below & 255] >> (below >> 8)) + 1


def activations(
    tables: Tables, base: npt.NDArray[np.int32], codes: Codes, before: int
) -> npt.NDArray[np.int64]:
    """What the hidden units say after `codes[:before]` of a channel, `[hidden]`."""
    total = base.astype(np.int64)
    for back in range(1, min(len(tables.past), before) + 1):
        if codes[before - back] != ABSENT:
            total += tables.past[back - 1, codes[before - back]]
    return np.clip(total >> tables.shift, 0, TOP)


class _Encoder:
    def __init__(self) -> None:
        self.settled = 0  # all bytes written so far, as one integer, so that carries are additions
        self.n = 0
        self.low = 0
        self.range = _FULL

    def put(self, start: int, count: int, total: int) -> None:
        unit = self.range // total
        self.low += unit * start
        self.range = unit * count
        while self.range < _LEAST:
            self.settled = (self.settled << 8) + (self.low >> (WINDOW - 8))
            self.low &= _LEAST - 1
            self.low <<= 8
            self.range <<= 8
            self.n += 1

    def finish(self) -> bytes:
        for size in (_FULL, _LEAST):
            value = -(-self.low // size) * size
            if value < self.low + self.range:
                break
        number = (self.settled << WINDOW) + value
        return number.to_bytes(self.n + WINDOW // 8, "big").rstrip(b"\0")


class _Decoder:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = WINDOW // 8
        self.value = int.from_bytes(data[: self.at].ljust(self.at, b"\0"), "big")
        self.range = _FULL

    def target(self, total: int) -> int:
        return min(self.value // (self.range // total), total - 1)

    def take(self, start: int, count: int, total: int) -> None:
        unit = self.range // total
        self.value -= unit * start
        self.range = unit * count
        while self.range < _LEAST:
            byte = self.data[self.at] if self.at < len(self.data) else 0
            self.value = (self.value << 8 | byte) & (_FULL - 1)
            self.range <<= 8
            self.at += 1

    def exact(self) -> bool:
        """Whether the bytes are those that `_Encoder.finish` leaves."""
        first = self.at - WINDOW // 8
        window = self.data[max(0, first) : self.at].ljust(WINDOW // 8, b"\0")
        low = (int.from_bytes(window, "big") - self.value) % _FULL
        whole = -low % _FULL < self.range
        rest = -low % (_FULL if whole else _LEAST)
        written = first + (not whole)
        return self.value == rest and len(self.data) <= written and self.data[-1:] != b"\0"


class _Presence:
    """Whether frames have a code, counted in four contexts; see `docs/format.md`."""

    def __init__(self) -> None:
        self.counts = [[6, 1], [1, 6], [6, 1], [1, 6]]

    def context(self, below: npt.NDArray[np.bool_], codes: Codes, at: int, before: int) -> list:
        if not before:
            return self.counts[0]
        return self.counts[2 * bool(below[at - 1]) + (codes[at - 1] != ABSENT)]


def encode(
    tables: Tables,
    base: npt.NDArray[np.int32],
    below: npt.NDArray[np.bool_],
    codes: Codes,
    n_frames: int,
    optional: bool,
) -> bytes:
    """See `coder.encode`."""
    coder, presence = _Encoder(), _Presence()
    for at in range(len(codes)):
        before = at % n_frames
        if not below[at]:
            continue
        if optional:
            seen = presence.context(below, codes, at, before)
            there = int(codes[at] != ABSENT)
            coder.put(seen[0] * there, seen[there], sum(seen))
            seen[there] += 2
            if not there:
                continue
        active = activations(tables, base[at], codes[at - before : at], before)
        counts = frequencies(tables, active)
        code = int(codes[at])
        coder.put(int(counts[:code].sum()), int(counts[code]), int(counts.sum()))
    return coder.finish()


def decode(
    tables: Tables,
    base: npt.NDArray[np.int32],
    below: npt.NDArray[np.bool_],
    data: bytes,
    n_frames: int,
    optional: bool,
) -> tuple[Codes, bool]:
    """See `coder.decode`."""
    coder, presence = _Decoder(data), _Presence()
    codes = np.full(len(base), ABSENT, np.uint16)
    for at in range(len(codes)):
        before = at % n_frames
        if not below[at]:
            continue
        if optional:
            seen = presence.context(below, codes, at, before)
            total = sum(seen)
            there = int(coder.target(total) >= seen[0])
            coder.take(seen[0] * there, seen[there], total)
            seen[there] += 2
            if not there:
                continue
        active = activations(tables, base[at], codes[at - before : at], before)
        ends = np.cumsum(frequencies(tables, active))
        total = int(ends[-1])
        code = int(np.searchsorted(ends, coder.target(total), side="right"))
        start = int(ends[code - 1]) if code else 0
        coder.take(start, int(ends[code]) - start, total)
        codes[at] = code
    return codes, coder.exact()


def _crc_table(polynomial: int, width: int) -> list[int]:
    """What every byte becomes in a CRC with the polynomial `2**width + ...`."""
    table = []
    for value in range(256):
        value <<= width - 8
        for _ in range(8):
            value = value << 1 ^ (polynomial if value >> width - 1 & 1 else 0)
        table.append(value)
    return table


_CRC8 = _crc_table(0x107, 8)
_CRC24 = _crc_table(0x1864CFB, 24)


def crc8(data: bytes) -> int:
    """See `coder.crc8`."""
    check = 0
    for byte in data:
        check = _CRC8[check ^ byte]
    return check


def crc24(data: bytes) -> int:
    """See `coder.crc24`."""
    check = 0xB704CE
    for byte in data:
        check = (check << 8 & 0xFFFFFF) ^ _CRC24[check >> 16 ^ byte]
    return check
