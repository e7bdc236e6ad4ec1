"""The `.rvq` file, version 1: a header, then blocks of packed codes, each with a checksum.

Every size follows from the header, so blocks are found by arithmetic, damage stays in its block,
and a file is cut to a lower bitrate by dropping the tail of every block. `docs/format.md` describes
the format for other decoders.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from io import BytesIO
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from rvq.bitstream.codes import Codes
from rvq.bitstream.packing import pack, packed_size, unpack
from rvq.errors import FormatError, InputError

MAGIC = b"RVQ\x1a"
VERSION = 1
_FIELDS = struct.Struct("<4sBBBBHIQI8s")
HEADER_SIZE = _FIELDS.size + 4
FRAMES_PER_BLOCK = 75


@dataclass(frozen=True)
class Header:
    """What a file says of itself.

    Attributes:
        channels: 1 to 255, coded one by one.
        n_codebooks: codes per frame and channel, the layers of the file.
        bits: bits per code; codebooks have 2**bits codewords.
        frames_per_block: frames in every block but the last.
        sample_rate: of the original recording, Hz.
        n_samples: of the original recording, per channel.
        n_frames: per channel.
        model: first 8 bytes of the content hash of the model.
    """

    channels: int
    n_codebooks: int
    bits: int
    frames_per_block: int
    sample_rate: int
    n_samples: int
    n_frames: int
    model: bytes

    @property
    def n_blocks(self) -> int:
        """Blocks in the file."""
        return -(-self.n_frames // self.frames_per_block)

    @property
    def duration(self) -> float:
        """Seconds of audio."""
        return self.n_samples / self.sample_rate

    @property
    def codebook_size(self) -> int:
        """Codewords per codebook."""
        return 1 << self.bits

    def frames_in(self, block: int) -> int:
        """Frames of a block."""
        return min(self.frames_per_block, self.n_frames - block * self.frames_per_block)

    def block_size(self, n_frames: int) -> int:
        """Bytes of a block of `n_frames`, checksum included."""
        return self.channels * self.n_codebooks * packed_size(n_frames, self.bits) + 4

    @property
    def file_size(self) -> int:
        """Bytes of a whole file with this header."""
        if not self.n_blocks:
            return HEADER_SIZE
        full = (self.n_blocks - 1) * self.block_size(self.frames_per_block)
        return HEADER_SIZE + full + self.block_size(self.frames_in(self.n_blocks - 1))

    def to_bytes(self) -> bytes:
        """The header as it stands at the start of a file."""
        fields = _FIELDS.pack(
            MAGIC,
            VERSION,
            self.channels,
            self.n_codebooks,
            self.bits,
            self.frames_per_block,
            self.sample_rate,
            self.n_samples,
            self.n_frames,
            self.model,
        )
        return fields + struct.pack("<I", zlib.crc32(fields))

    @classmethod
    def from_bytes(cls, data: bytes) -> "Header":
        """Read a header.

        Raises:
            FormatError: not an .rvq file, of a newer version, or damaged.
        """
        if data[:4] != MAGIC:
            raise FormatError("this is not an .rvq file")
        if len(data) > 4 and data[4] != VERSION and data[4] > VERSION:
            raise FormatError(
                f"the file has format version {data[4]}, this rvq reads version {VERSION}; "
                "upgrade rvq to read it"
            )
        if len(data) < HEADER_SIZE:
            raise FormatError("the file ends within its header")
        fields = data[: _FIELDS.size]
        if struct.unpack("<I", data[_FIELDS.size : HEADER_SIZE])[0] != zlib.crc32(fields):
            raise FormatError("the header of the file is damaged")
        _, version, *values = _FIELDS.unpack(fields)
        header = cls(*values)
        if (
            version != VERSION
            or not (header.channels and header.n_codebooks and header.frames_per_block)
            or not 1 <= header.bits <= 16
            or not header.sample_rate
        ):
            raise FormatError("the header of the file holds impossible values")
        return header


@dataclass(frozen=True, eq=False)
class Block:
    """A stretch of frames.

    Attributes:
        index: of the block in the file.
        n_frames: in the block.
        indices: codes `[channels, n_frames, n_codebooks]`, or None where damaged or missing.
    """

    index: int
    n_frames: int
    indices: npt.NDArray[np.int64] | None


def _checksum(payload: bytes, index: int) -> bytes:
    # The index goes in, so that exchanged or repeated blocks are noticed.
    return struct.pack("<I", zlib.crc32(payload, zlib.crc32(struct.pack("<I", index))))


class Writer:
    """Writes codes to a seekable binary file, block by block, in constant memory.

    Args:
        file: opened for writing.
        channels, n_codebooks, codebook_size, sample_rate: see `Header`; the size a power of two.
        model_hash: content hash of the model, hexadecimal, at least 16 digits.
        frames_per_block: frames that a damaged byte can cost.
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
        frames_per_block: int = FRAMES_PER_BLOCK,
    ) -> None:
        bits = codebook_size.bit_length() - 1
        if codebook_size != 1 << bits or not 1 <= bits <= 16:
            raise InputError(f"codebook_size must be 2, 4, ... 65536, got {codebook_size}")
        for name, value in (("channels", channels), ("n_codebooks", n_codebooks)):
            if not 1 <= value <= 255:
                raise InputError(f"an .rvq file holds 1 to 255 {name}, got {value}")
        if not 1 <= sample_rate < 1 << 32:
            raise InputError(f"sample_rate must be positive, got {sample_rate}")
        model = bytes.fromhex(model_hash)[:8]
        if len(model) < 8:
            raise InputError(f"model_hash needs 16 hexadecimal digits, got {model_hash!r}")
        self._file = file
        self._header = Header(
            channels, n_codebooks, bits, frames_per_block, sample_rate, 0, 0, model
        )
        self._pending = np.empty((channels, 0, n_codebooks), np.int64)
        self._file.write(self._header.to_bytes())

    def write(self, indices: npt.NDArray[np.integer]) -> None:
        """Add frames, `[channels, any number, n_codebooks]`."""
        header = self._header
        if indices.shape != (header.channels, indices.shape[1], header.n_codebooks):
            raise InputError(
                f"codes must be [{header.channels}, n_frames, {header.n_codebooks}], "
                f"got {indices.shape}"
            )
        if indices.size and not 0 <= indices.min() <= indices.max() < header.codebook_size:
            raise InputError(
                f"codes must be in 0..{header.codebook_size - 1}, "
                f"got {indices.min()}..{indices.max()}"
            )
        pending = np.concatenate([self._pending, indices], axis=1)
        while pending.shape[1] >= header.frames_per_block:
            self._write_block(pending[:, : header.frames_per_block])
            pending = pending[:, header.frames_per_block :]
        self._pending = pending

    def close(self, n_samples: int) -> None:
        """Write what is pending and the final header; the file stays open."""
        if self._pending.shape[1]:
            self._write_block(self._pending)
        self._header = replace(self._header, n_samples=n_samples)
        self._file.seek(0)
        self._file.write(self._header.to_bytes())
        self._file.seek(0, 2)

    def _write_block(self, indices: npt.NDArray[np.integer]) -> None:
        header = self._header
        payload = b"".join(
            pack(indices[channel, :, layer], header.bits)
            for layer in range(header.n_codebooks)
            for channel in range(header.channels)
        )
        index = header.n_frames // header.frames_per_block
        self._file.write(payload + _checksum(payload, index))
        self._header = replace(header, n_frames=header.n_frames + indices.shape[1])


class Reader:
    """Reads a binary file block by block, in constant memory.

    Raises:
        FormatError: the header cannot be used.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.header = Header.from_bytes(file.read(HEADER_SIZE))

    def payloads(self) -> Iterator[tuple[int, bytes, bool]]:
        """Index, bytes (without checksum) and intactness of every block, in order."""
        for index in range(self.header.n_blocks):
            size = self.header.block_size(self.header.frames_in(index))
            data = self._file.read(size)
            intact = len(data) == size and data[-4:] == _checksum(data[:-4], index)
            yield index, data[: size - 4], intact
            if not data:  # the file ends here, whatever its header declares
                return

    def blocks(self) -> Iterator[Block]:
        """Every block; one without codes where the file is damaged, none after its end."""
        header = self.header
        for index, payload, intact in self.payloads():
            n_frames = header.frames_in(index)
            if not intact:
                yield Block(index, n_frames, None)
                continue
            size = packed_size(n_frames, header.bits)
            layers = [
                unpack(payload[i * size : (i + 1) * size], n_frames, header.bits)
                for i in range(header.n_codebooks * header.channels)
            ]
            shape = (header.n_codebooks, header.channels, n_frames)
            indices = np.stack(layers).reshape(shape).transpose(1, 2, 0)
            yield Block(index, n_frames, indices)


def trim(source: BinaryIO, target: BinaryIO, n_codebooks: int) -> None:
    """Cut a file to its first `n_codebooks` layers without decoding it.

    The result equals, byte for byte, what an encoder had written at that bitrate. Damaged blocks
    stay recognisably damaged.

    Raises:
        InputError: more layers than the file has.
        FormatError: the header cannot be used.
    """
    reader = Reader(source)
    header = reader.header
    if not 1 <= n_codebooks <= header.n_codebooks:
        raise InputError(f"the file has {header.n_codebooks} layers, cannot cut to {n_codebooks}")
    target.write(replace(header, n_codebooks=n_codebooks).to_bytes())
    for index, payload, intact in reader.payloads():
        layer = header.channels * packed_size(header.frames_in(index), header.bits)
        kept = payload[: n_codebooks * layer]
        checksum = _checksum(kept, index)
        target.write(kept + (checksum if intact else bytes(b ^ 0xFF for b in checksum)))


def dumps(codes: Codes) -> bytes:
    """A whole file in memory."""
    channels, _, n_codebooks = codes.indices.shape
    file = BytesIO()
    writer = Writer(
        file,
        channels=channels,
        n_codebooks=n_codebooks,
        codebook_size=codes.codebook_size,
        sample_rate=codes.sample_rate,
        model_hash=codes.model_hash,
    )
    writer.write(codes.indices)
    writer.close(codes.n_samples)
    return file.getvalue()


def loads(data: bytes) -> Codes:
    """Codes of a whole file in memory; `Reader` is the way to read damaged ones.

    Raises:
        FormatError: damaged or incomplete.
    """
    reader = Reader(BytesIO(data))
    header = reader.header
    if len(data) != header.file_size:
        raise FormatError(
            f"the file has {len(data)} bytes, its header declares {header.file_size}"
        )
    parts = [np.empty((header.channels, 0, header.n_codebooks), np.int64)]
    for block in reader.blocks():
        if block.indices is None:
            raise FormatError(f"block {block.index} of the file is damaged")
        parts.append(block.indices)
    return Codes(
        indices=np.concatenate(parts, axis=1),
        codebook_size=header.codebook_size,
        sample_rate=header.sample_rate,
        n_samples=header.n_samples,
        model_hash=header.model.hex(),
    )
