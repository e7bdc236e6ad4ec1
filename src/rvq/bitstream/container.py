"""The `.rvq` file, version 1: a header, then blocks of codes that can be found, cut and lost alone.

    file   = header block*
    header = magic, version, shape of the codes, recording, model, CRC-32       (38 bytes)
    block  = for each codebook: for each channel: packed codes of the frames; CRC-32

Every size follows from the header, so a block is found by arithmetic and damage stays in its block.
In a block, codes stand layer by layer, so a lower bitrate is the same file with the end of every
block dropped. `docs/format.md` specifies every byte.
"""

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from rvq.bitstream.codes import Codes
from rvq.bitstream.header import CRC, HEADER_SIZE, Header
from rvq.bitstream.packing import pack, unpack
from rvq.errors import FormatError, InputError

_READ_SIZE = 2**16


@dataclass(frozen=True, eq=False)
class Block:
    """One block as it was found.

    Attributes:
        index: its number in the file, from 0.
        n_frames: how many frames it holds, known even if the block is lost.
        indices: int64 codes `[channels, n_frames, n_codebooks]`; None if it is damaged or missing.
    """

    index: int
    n_frames: int
    indices: npt.NDArray[np.int64] | None

    @property
    def intact(self) -> bool:
        """Whether the codes are there and their checksum agrees."""
        return self.indices is not None


class Writer:
    """Writes a file as codes arrive, in constant memory.

    Args:
        file: open for binary writing and seekable; the file starts where it stands now, and it is
            not closed. Until `close` has been called, readers refuse the file.
        channels: 1 to 255.
        n_codebooks: codes per frame, 1 to 255.
        codebook_size: codewords per codebook, a power of two in 2..65536.
        sample_rate: rate of the original recording in Hz.
        model_hash: content hash of the model, 16 or more hexadecimal digits.
        frames_per_block: the unit of seeking and of damage; 75 frames are often one second.

    Raises:
        InputError: a value out of range, or a file that cannot seek.
    """

    def __init__(
        self,
        file: BinaryIO,
        *,
        channels: int,
        n_codebooks: int,
        codebook_size: int,
        sample_rate: int,
        model_hash: str,
        frames_per_block: int = 75,
    ) -> None:
        bits = codebook_size.bit_length() - 1
        if codebook_size != 1 << max(bits, 0):
            raise InputError(
                f"an .rvq file needs a codebook_size that is a power of two, got {codebook_size}"
            )
        if not file.seekable():
            raise InputError(
                "an .rvq file is finished by writing its header last, which this output cannot do: "
                "write to a file instead of a pipe"
            )
        self._header = Header(
            channels=channels,
            n_codebooks=n_codebooks,
            bits=bits,
            frames_per_block=frames_per_block,
            sample_rate=sample_rate,
            n_samples=0,
            n_frames=0,
            model=_model(model_hash),
        )
        self._file = file
        self._start = file.tell()
        self._pending = np.empty((channels, frames_per_block, n_codebooks), np.uint16)
        self._n_frames = 0
        self._closed = False
        # A checksum that is wrong on purpose, until `close` puts the right one.
        unfinished = self._header.to_bytes()[: -CRC.size]
        file.write(unfinished + CRC.pack(zlib.crc32(unfinished) ^ 0xFFFFFFFF))

    def write(self, indices: npt.NDArray[np.integer]) -> None:
        """Append frames: integers in [0, codebook_size), `[channels, n_frames, n_codebooks]`.

        Raises:
            InputError: another shape or type, a code out of range, or a file already closed.
        """
        header = self._header
        if self._closed:
            raise InputError("this .rvq file is closed: write all codes before calling close")
        if (
            indices.ndim != 3
            or indices.shape[::2] != (header.channels, header.n_codebooks)
            or not np.issubdtype(indices.dtype, np.integer)
        ):
            raise InputError(
                f"codes must be integers [{header.channels}, n_frames, {header.n_codebooks}], "
                f"got {indices.dtype} {indices.shape}"
            )
        if indices.size and not 0 <= indices.min() <= indices.max() < header.codebook_size:
            raise InputError(
                f"codes must be in 0..{header.codebook_size - 1}, "
                f"got {indices.min()}..{indices.max()}"
            )
        if self._n_frames + indices.shape[1] > 2**32 - 1:
            raise InputError("an .rvq file holds at most 2**32 - 1 frames: start another file")
        done = 0
        while done < indices.shape[1]:
            filled = self._n_frames % header.frames_per_block
            chunk = indices[:, done : done + header.frames_per_block - filled]
            self._pending[:, filled : filled + chunk.shape[1]] = chunk
            done += chunk.shape[1]
            self._n_frames += chunk.shape[1]
            if self._n_frames % header.frames_per_block == 0:
                self._write_block(header.frames_per_block)

    def close(self, n_samples: int) -> Header:
        """Write what is pending and the header; the underlying file stays open, at its end.

        Args:
            n_samples: length of the original recording in samples per channel.

        Raises:
            InputError: a length that the frames cannot stand for, or a file already closed.
        """
        if self._closed:
            raise InputError("this .rvq file is already closed: call close once")
        header = replace(self._header, n_samples=n_samples, n_frames=self._n_frames)
        if rest := self._n_frames % header.frames_per_block:
            self._write_block(rest)
        self._file.seek(self._start)
        self._file.write(header.to_bytes())
        self._file.seek(self._start + header.file_size)
        self._closed = True
        return header

    def _write_block(self, frames: int) -> None:
        index = (self._n_frames - 1) // self._header.frames_per_block
        layers = self._pending[:, :frames].transpose(2, 0, 1)
        payload = pack(layers, self._header.bits).tobytes()
        self._file.write(payload + CRC.pack(_block_crc(index, payload)))


class Reader:
    """Reads a file block by block, around damage, in constant memory.

    Args:
        file: open for binary reading, standing at the header; may be a pipe, which is then read
            once and forward. It is not closed.

    Raises:
        FormatError: the header cannot be read.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._seekable = file.seekable()
        self._start = file.tell() if self._seekable else 0
        data = self._read(HEADER_SIZE)
        self._position = len(data)
        self.header = Header.from_bytes(data)

    def blocks(self, start_frame: int = 0) -> Iterator[Block]:
        """Iterate over the blocks from the one that holds `start_frame`, the first frame being 0.

        A damaged block comes without codes. Where a file was cut off, the first block that is not
        whole comes without codes too, and is the last: a header may claim billions more.

        Raises:
            InputError: a frame outside of the file, or one that a pipe has passed.
        """
        # Not itself a generator, so that a bad `start_frame` is refused at once.
        return (self._block(*found) for found in self.payloads(start_frame))

    def payloads(self, start_frame: int = 0) -> Iterator[tuple[int, bytes | None, bool]]:
        """Like `blocks`, still packed: index, bytes without checksum, and whether they are intact.

        The bytes are None, for the last block to come, where the file ends inside that block.
        """
        header = self.header
        if not 0 <= start_frame <= header.n_frames:
            raise InputError(f"start_frame must be in 0..{header.n_frames}, got {start_frame}")
        held = start_frame < header.n_frames
        first = start_frame // header.frames_per_block if held else header.n_blocks
        if not self._seekable and header.block_offset(first) < self._position:
            raise InputError("a pipe cannot be read twice or backwards: read from a file instead")
        return self._payloads(first)

    def _payloads(self, first: int) -> Iterator[tuple[int, bytes | None, bool]]:
        header = self.header
        for index in range(first, header.n_blocks):
            size = header.block_size(header.block_frames(index))
            self._go_to(header.block_offset(index))
            data = self._read(size)
            self._position += len(data)
            if len(data) < size:
                yield index, None, False
                return
            packed, crc = data[: -CRC.size], data[-CRC.size :]
            yield index, packed, CRC.unpack(crc)[0] == _block_crc(index, packed)

    def _block(self, index: int, packed: bytes | None, intact: bool) -> Block:
        header = self.header
        frames = header.block_frames(index)
        if packed is None or not intact:
            return Block(index, frames, None)
        rows = np.frombuffer(packed, np.uint8).reshape(header.n_codebooks, header.channels, -1)
        return Block(index, frames, unpack(rows, frames, header.bits).transpose(1, 2, 0))

    def _go_to(self, position: int) -> None:
        if self._seekable:
            self._file.seek(self._start + position)
            self._position = position
        while self._position < position:
            skipped = len(self._file.read(min(_READ_SIZE, position - self._position)))
            if not skipped:
                break
            self._position += skipped

    def _read(self, size: int) -> bytes:
        # In pieces, so that a header that declares more than there is costs no memory.
        pieces = []
        while size > 0 and (piece := self._file.read(min(size, _READ_SIZE))):
            pieces.append(piece)
            size -= len(piece)
        return b"".join(pieces)


def trim(source: BinaryIO, target: BinaryIO, n_codebooks: int) -> Header:
    """Cut a file to its first codebooks, a lower bitrate, without decoding it.

    The result equals, byte for byte, the file that writing only those codes makes. Damaged blocks
    stay recognisably damaged, and a file that was cut off stays so. Either end may be a pipe.

    Args:
        source: an `.rvq` file open for binary reading.
        target: where to write; open for binary writing.
        n_codebooks: how many codebooks to keep, 1 to the number in the source.

    Returns:
        The new header.

    Raises:
        FormatError: the header of the source cannot be read.
        InputError: `n_codebooks` is not in the source.
    """
    reader = Reader(source)
    if not 1 <= n_codebooks <= reader.header.n_codebooks:
        raise InputError(
            f"n_codebooks must be in 1..{reader.header.n_codebooks}, which is what the file has, "
            f"got {n_codebooks}"
        )
    header = replace(reader.header, n_codebooks=n_codebooks)
    target.write(header.to_bytes())
    for index, packed, intact in reader.payloads():
        if packed is None:
            break
        kept = packed[: header.block_size(header.block_frames(index)) - CRC.size]
        crc = _block_crc(index, kept)
        target.write(kept + CRC.pack(crc if intact else crc ^ 0xFFFFFFFF))
    return header


def dumps(codes: Codes) -> bytes:
    """A whole file in memory, with the default block length.

    Raises:
        InputError: codes that the format cannot hold; see `Writer`.
    """
    file = io.BytesIO()
    writer = Writer(
        file,
        channels=codes.indices.shape[0],
        n_codebooks=codes.n_codebooks,
        codebook_size=codes.codebook_size,
        sample_rate=codes.sample_rate,
        model_hash=codes.model_hash,
    )
    writer.write(codes.indices)
    writer.close(codes.n_samples)
    return file.getvalue()


def loads(data: bytes) -> Codes:
    """Codes of a whole file in memory, if every byte of it is in order.

    Returns:
        The codes; `model_hash` holds the 16 digits that the file keeps.

    Raises:
        FormatError: any damage. `Reader` reads what is left of a damaged file.
    """
    reader = Reader(io.BytesIO(data))
    header = reader.header
    if len(data) != header.file_size:
        raise FormatError(
            f"this .rvq file should have {header.file_size} bytes but has {len(data)}: "
            "it was cut off or added to; read it with Reader"
        )
    indices = np.empty((header.channels, header.n_frames, header.n_codebooks), np.int64)
    for block in reader.blocks():
        if block.indices is None:
            raise FormatError(
                f"block {block.index} of {header.n_blocks} of this .rvq file is damaged: "
                "read the others with Reader"
            )
        start = block.index * header.frames_per_block
        indices[:, start : start + block.n_frames] = block.indices
    return Codes(
        indices=indices,
        codebook_size=header.codebook_size,
        sample_rate=header.sample_rate,
        n_samples=header.n_samples,
        model_hash=header.model.hex(),
    )


def _model(model_hash: str) -> bytes:
    digits = model_hash[:16].lower()
    if len(digits) < 16 or not set(digits) <= set("0123456789abcdef"):
        raise InputError(
            f"model_hash must begin with 16 hexadecimal digits, got {model_hash!r}: "
            "take it from the model that made the codes"
        )
    return bytes.fromhex(digits)


def _block_crc(index: int, payload: bytes) -> int:
    # The index is part of the sum, so that blocks that changed places are noticed.
    return zlib.crc32(payload, zlib.crc32(struct.pack("<I", index)))
