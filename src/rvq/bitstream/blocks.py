"""Blocks of a file: for each layer its size, a check, and its bytes; and finding them again."""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from rvq.bitstream.framing import (
    LONGEST_MENDED,
    MAX_DIGITS,
    Framing,
    Framing2,
    read_size,
    write_size,
)
from rvq.bitstream.header import CRC, Header

_READ_SIZE = 2**16
_SEARCHED = 2**17
"""Bytes behind damage in which the next whole block is looked for."""
_EXAMINED, _EXAMINED_PER_BYTE = 2**28, 2**12
"""Bytes of what may be layers that searches in a file examine, and for each byte passed: more only
where somebody made long layers for it."""
_AHEAD = 128
"""How many blocks may be missing where that search finds one."""


@dataclass(frozen=True, eq=False)
class StoredBlock:
    """One block, still coded.

    Attributes:
        index: its number in the file, from 0.
        n_frames: frames per channel.
        layers: bytes of every layer, coarsest first; None where damaged or missing.
        end: whether the file ends inside this block, so that none follows.
    """

    index: int
    n_frames: int
    layers: tuple[bytes | None, ...]
    end: bool = False

    @property
    def intact(self) -> bool:
        """Whether all layers are there and their checks agree."""
        return None not in self.layers


def write_layers(block: StoredBlock) -> bytes:
    """A block as it stands in the file; lost layers are empty, with a check that is wrong."""
    framing = Framing()
    parts = []
    for layer, data in enumerate(block.layers):
        stored = data or b""
        size = write_size(len(stored))
        check = framing.check(block.index, layer, size + stored)
        if data is None:
            check = bytes(byte ^ 255 for byte in check)
        parts += [size, check, stored]
    return b"".join(parts)


class Peekable:
    """Bytes of a file or pipe, with a view of those ahead.

    Args:
        file: open for binary reading.
        start: where the bytes begin in a file that can seek; a pipe is read from where it stands.

    Attributes:
        crc: CRC-32 of the bytes passed since it was last set.
    """

    def __init__(self, file: BinaryIO, start: int | None) -> None:
        self._file = file
        self._next = start  # where to read on; other readers may move the file meanwhile
        self._buffer = bytearray()
        self._at = 0  # where in the buffer the view begins
        self.crc = 0

    def available(self, n: int) -> bool:
        """Whether `n` bytes are ahead; reads in pieces, whatever a damaged size claims."""
        while (missing := n - (len(self._buffer) - self._at)) > 0:
            if self._next is not None:
                self._file.seek(self._next)
            piece = self._file.read(min(max(missing, 4096), _READ_SIZE))
            if not piece:
                return False
            if self._next is not None:
                self._next += len(piece)
            del self._buffer[: self._at]
            self._at = 0
            self._buffer += piece
        return True

    def peek(self, offset: int, n: int) -> bytes:
        """The bytes `offset` to `offset + n` ahead, fewer at the end."""
        self.available(offset + n)
        return bytes(self._buffer[self._at + offset : self._at + offset + n])

    def advance(self, n: int) -> bytes:
        """Move on by `n` bytes, fewer at the end, and hand them over."""
        data = self.peek(0, n)
        self._at += len(data)
        self.crc = zlib.crc32(data, self.crc)
        return data


def read_blocks(source: Peekable, header: Header, index: int) -> Iterator[StoredBlock]:
    """Blocks from `index` on, which stands next in the source, past whatever is damaged."""
    return _BlockReader(source, header).blocks(index)


@dataclass(frozen=True)
class _Layer:
    """A layer as it stands in the file, or seems to."""

    sized: bytes  # its size and its bytes
    check: bytes
    digits: int  # bytes of the size

    @property
    def data(self) -> bytes:
        return self.sized[self.digits :]

    @property
    def length(self) -> int:
        return len(self.sized) + len(self.check)


class _BlockReader:
    def __init__(self, source: Peekable, header: Header) -> None:
        self._source = source
        self._header = header
        self._framing = Framing2() if header.version == 2 else Framing()
        self._passed = 0  # bytes of blocks behind
        self._searched = 0  # up to where, counted likewise, no block begins
        self._examined = 0

    def blocks(self, index: int) -> Iterator[StoredBlock]:
        """See `read_blocks`."""
        header = self._header
        while index < header.n_blocks:
            layers, lengths = self._parse(index)
            following = self._next_block(index, lengths, layers)
            frames = header.block_frames(index)
            yield StoredBlock(index, frames, tuple(layers), end=following is None)
            if following is None:
                return
            offset, next_index = following
            self._source.advance(offset)
            self._passed += offset
            for lost in range(index + 1, next_index):
                yield StoredBlock(lost, header.block_frames(lost), (None,) * header.n_codebooks)
            index = next_index

    def _parse(self, index: int) -> tuple[list[bytes | None], list[int]]:
        """Layers of the block ahead, and lengths in the file of those that seem to be there."""
        n = self._header.n_codebooks
        layers: list[bytes | None] = [None] * n
        limit = self._header.longest_layer(self._header.block_frames(index))
        lengths: list[int] = []
        offset = 0
        for layer in range(n):
            found = self._read(offset, limit)
            right = found is not None and self._right(found, index, layer)
            if not right and (mended := self._mend(offset, limit, index, layer)):
                found, right = mended, True
            if found is None:
                break
            if right:
                layers[layer] = found.data
            lengths.append(found.length)
            offset += found.length
        return layers, lengths

    def _read(self, offset: int, limit: int, head: bytes | None = None) -> _Layer | None:
        """The layer at an offset ahead, if all of it is there.

        Args:
            offset: from here.
            limit: the longest that it may be.
            head: what its first bytes are taken to be.
        """
        head = self._source.peek(offset, MAX_DIGITS) if head is None else head
        size, digits = read_size(head)
        checked = digits + self._framing.check_size
        if not digits or size > limit or not self._source.available(offset + checked + size):
            return None
        rest = self._source.peek(offset + digits, self._framing.check_size + size)
        data, check = rest[self._framing.check_size :], rest[: self._framing.check_size]
        return _Layer(head[:digits] + data, check, digits)

    def _right(self, found: _Layer, index: int, layer: int) -> bool:
        return self._framing.check(index, layer, found.sized) == found.check

    def _mend(self, offset: int, limit: int, index: int, layer: int) -> _Layer | None:
        """The layer at an offset ahead with one damaged bit put right, if that is possible."""
        if not self._framing.mends:
            return None
        # A bit of its size comes first: that tells where the layer ends.
        head = self._source.peek(offset, MAX_DIGITS)
        for place in range(8 * len(head)):
            changed = bytearray(head)
            changed[place // 8] ^= 1 << place % 8
            first = bytes(changed)
            if place // 8 < read_size(first)[1]:
                found = self._read(offset, min(limit, LONGEST_MENDED), first)
                if found and self._right(found, index, layer):
                    return found
        found = self._read(offset, min(limit, LONGEST_MENDED))
        sized = found and self._framing.mend(index, layer, found.sized, found.check)
        if not found or not sized or sized[: found.digits] != found.sized[: found.digits]:
            return None
        return _Layer(sized, self._framing.check(index, layer, sized), found.digits)

    def _next_block(
        self, index: int, lengths: list[int], layers: list[bytes | None]
    ) -> tuple[int, int] | None:
        """Where the next readable block begins, and its number; None if there is none."""
        header, source = self._header, self._source
        whole = len(lengths) == header.n_codebooks
        end = sum(lengths)
        if None not in layers or (whole and self._begins(end, index + 1) == index + 1):
            return end, index + 1
        # Sizes cannot be trusted: look for a place where a block's checks agree on its number.
        good = 0
        for length, data in zip(lengths, layers, strict=False):
            if data is None:
                break
            good += length
        found = None
        allowed = _EXAMINED + _EXAMINED_PER_BYTE * self._passed
        first = good
        if index + 1 < header.n_blocks:  # behind the last block anything may end the file
            first = max(good, self._searched - self._passed)
        for offset in range(first, good + _SEARCHED):
            if self._examined > allowed or not source.available(offset + 2):
                break
            if (number := self._begins(offset, index + 1)) is not None:
                found = offset, number
                break
            self._searched = self._passed + offset + 1
        if whole and (found is None or found[1] > index + 1):
            trusted = layers[-1] is not None or index + 1 == header.n_blocks
            return (end, index + 1) if trusted else found
        return found

    def _begins(self, offset: int, least: int) -> int | None:
        """Number of the block that begins at an offset ahead, at least `least`; None if none does.

        At least two checks must agree on it, of two layers or of two blocks of one layer.
        """
        header, cycle = self._header, self._framing.cycle
        if least == header.n_blocks and len(self._source.peek(offset, CRC.size + 1)) == CRC.size:
            return least  # the checksum of the file and nothing else
        first = self._number(offset, 0)
        if first is None:
            return None
        number, length = first
        index = least + (number - least) % cycle
        if index - least > _AHEAD or index >= header.n_blocks:
            return None
        if header.n_codebooks > 1:
            second = self._number(offset + length, 1)
            agree = second is not None and second[0] == number
        elif index + 1 == header.n_blocks:
            agree = not self._source.available(offset + length + CRC.size + 1)
        else:
            second = self._number(offset + length, 0)
            agree = second is not None and second[0] == (number + 1) % cycle
        return index if agree else None

    def _number(self, offset: int, layer: int) -> tuple[int, int] | None:
        """The block that a layer at an offset says it is of, modulo the cycle, and its length."""
        found = self._read(offset, self._header.longest_layer(self._header.frames_per_block))
        if found is None:
            return None
        self._examined += found.length
        number = self._framing.block(layer, found.sized, found.check)
        return None if number is None else (number, found.length)
