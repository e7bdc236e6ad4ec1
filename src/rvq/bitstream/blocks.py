"""Blocks of a file: for each layer its size, a check byte, and its bytes; and finding them again.

The check byte covers size and bytes, and has the numbers of the block and of the layer mixed in:
so blocks and layers that changed places are noticed, and after damage a reader that has lost its
place finds a block by what its checks say.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from rvq.bitstream.coder import crc8
from rvq.bitstream.header import CRC, Header

_READ_SIZE = 2**16
_SEARCHED = 2**17
"""Bytes behind damage in which the next whole block is looked for."""
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


def check_byte(index: int, layer: int, sized: bytes) -> int:
    """CRC-8 of a layer's size and bytes, exclusive-or the numbers of its block and itself."""
    return crc8(sized) ^ (index + 37 * layer) & 255


def write_layers(block: StoredBlock) -> bytes:
    """A block as it stands in the file; lost layers are empty, with a check byte that is wrong."""
    parts = []
    for layer, data in enumerate(block.layers):
        size = _varint(len(data or b""))
        check = check_byte(block.index, layer, size + (data or b""))
        parts += [size, bytes([check if data is not None else check ^ 255]), data or b""]
    return b"".join(parts)


class Source:
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


def read_blocks(source: Source, header: Header, index: int) -> Iterator[StoredBlock]:
    """Blocks from `index` on, which stands next in the source, past whatever is damaged."""
    while index < header.n_blocks:
        frames = header.block_frames(index)
        layers, lengths = _parse(source, header, index)
        following = _next_block(source, header, index, lengths, layers)
        yield StoredBlock(index, frames, tuple(layers), end=following is None)
        if following is None:
            return
        offset, next_index = following
        source.advance(offset)
        for lost in range(index + 1, next_index):
            yield StoredBlock(lost, header.block_frames(lost), (None,) * header.n_codebooks)
        index = next_index


def _parse(source: Source, header: Header, index: int) -> tuple[list[bytes | None], list[int]]:
    """Layers of the block ahead, and the lengths in the file of those that seem to be there."""
    layers: list[bytes | None] = [None] * header.n_codebooks
    limit = header.longest_layer(header.block_frames(index))
    lengths: list[int] = []
    offset = 0
    for layer in range(header.n_codebooks):
        head = source.peek(offset, 5)
        size, digits = _read_varint(head)
        if not digits or size > limit:
            break
        length = digits + 1 + size
        if not source.available(offset + length):
            break
        data = source.peek(offset + digits + 1, size)
        if check_byte(index, layer, head[:digits] + data) == head[digits]:
            layers[layer] = data
        lengths.append(length)
        offset += length
    return layers, lengths


def _next_block(
    source: Source,
    header: Header,
    index: int,
    lengths: list[int],
    layers: list[bytes | None],
) -> tuple[int, int] | None:
    """Where the next readable block begins, and its number; None if the file ends before one."""
    whole = len(lengths) == header.n_codebooks
    end = sum(lengths)
    if None not in layers or (whole and _begins(source, header, end, index + 1) == index + 1):
        return end, index + 1
    # Sizes cannot be trusted: look for a place where a block's checks agree on its number.
    good = 0
    for length, data in zip(lengths, layers, strict=False):
        if data is None:
            break
        good += length
    found = None
    for offset in range(good, good + _SEARCHED):
        if not source.available(offset + 2):
            break
        if (number := _begins(source, header, offset, index + 1)) is not None:
            found = offset, number
            break
    if whole and (found is None or found[1] > index + 1):
        trusted = layers[-1] is not None or index + 1 == header.n_blocks
        return (end, index + 1) if trusted else found
    return found


def _begins(source: Source, header: Header, offset: int, least: int) -> int | None:
    """Number of the block that begins at an offset ahead, at least `least`; None if none does.

    At least two check bytes must agree on it, of two layers or of two blocks of one layer.
    """
    if source.peek(offset, 5) == source.peek(offset, CRC.size) and header.n_blocks == least:
        return least  # the checksum of the file and nothing else
    first = _number(source, header, offset, 0)
    if first is None:
        return None
    number, length = first
    index = least + (number - least) % 256
    if index - least > _AHEAD or index >= header.n_blocks:
        return None
    if header.n_codebooks > 1:
        second = _number(source, header, offset + length, 1)
        agree = second is not None and second[0] == number
    elif index + 1 == header.n_blocks:
        agree = not source.available(offset + length + CRC.size + 1)
    else:
        second = _number(source, header, offset + length, 0)
        agree = second is not None and second[0] == (number + 1) % 256
    return index if agree else None


def _number(source: Source, header: Header, offset: int, layer: int) -> tuple[int, int] | None:
    """What the check byte of a layer at an offset says of its block, modulo 256; its length."""
    head = source.peek(offset, 5)
    size, digits = _read_varint(head)
    if not digits or size > header.longest_layer(header.frames_per_block):
        return None
    data = source.peek(offset + digits + 1, size)
    if len(data) < size:
        return None
    mixed = head[digits] ^ crc8(head[:digits] + data)
    return (mixed - 37 * layer) % 256, digits + 1 + size


def _varint(value: int) -> bytes:
    """Seven bits a byte, least significant first; the highest bit says that more follow."""
    digits = []
    while value > 127:
        digits.append(value & 127 | 128)
        value >>= 7
    return bytes([*digits, value])


def _read_varint(data: bytes) -> tuple[int, int]:
    """A number at the start, of at most four bytes and followed by one more, and its length."""
    value = 0
    for place, byte in enumerate(data[:4]):
        value |= (byte & 127) << 7 * place
        if byte < 128:
            canonical = byte or not place
            return (value, place + 1) if canonical and place + 1 < len(data) else (0, 0)
    return 0, 0
