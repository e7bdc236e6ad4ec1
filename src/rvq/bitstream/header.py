"""The header of an `.rvq` file: what it holds, how large everything is, where every block starts.

All sizes in the file follow from these 38 bytes, so readers find a block by arithmetic.
"""

import struct
import zlib
from dataclasses import dataclass
from typing import ClassVar

from rvq.bitstream.packing import MAX_BITS, packed_size
from rvq.errors import FormatError, InputError

MAGIC = b"RVQ\x1a"
VERSION = 1
HEADER_SIZE = 38
MAX_CODES_PER_BLOCK = 2**23
"""Bounds what reading one block may cost, whatever a header declares."""

CRC = struct.Struct("<I")


@dataclass(frozen=True, kw_only=True)
class Header:
    """What the header of a file says; impossible values raise `InputError`.

    Attributes:
        channels: 1 to 255.
        n_codebooks: codes per frame and channel, 1 to 255.
        bits: bits per code, 1 to 16; every codebook has `2**bits` codewords.
        frames_per_block: frames of every block but the last, 1 to 65535.
        sample_rate: rate of the original recording in Hz.
        n_samples: length of the original recording in samples per channel.
        n_frames: frames per channel; each stands for one second of sound at most.
        model: first 8 bytes of the content hash of the model that the codes belong to.
    """

    channels: int
    n_codebooks: int
    bits: int
    frames_per_block: int
    sample_rate: int
    n_samples: int
    n_frames: int
    model: bytes

    _FIELDS: ClassVar = struct.Struct("<4sBBBBHIQI8s")

    def __post_init__(self) -> None:
        for name, low, high in (
            ("channels", 1, 255),
            ("n_codebooks", 1, 255),
            ("bits", 1, MAX_BITS),
            ("frames_per_block", 1, 2**16 - 1),
            ("sample_rate", 1, 2**32 - 1),
            ("n_frames", 0, 2**32 - 1),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise InputError(f"{name} must be in {low}..{high}, got {value}")
        codes = self.channels * self.n_codebooks * self.frames_per_block
        if codes > MAX_CODES_PER_BLOCK:
            raise InputError(
                f"a block holds at most {MAX_CODES_PER_BLOCK} codes, got {codes}: "
                f"lower frames_per_block from {self.frames_per_block}"
            )
        # Without this bound, a file of a few bytes could ask a decoder for years of sound.
        longest = self.n_frames * self.sample_rate
        if not 0 <= self.n_samples <= longest:
            raise InputError(
                f"n_samples must be in 0..{longest} for {self.n_frames} frames of at most a second "
                f"at {self.sample_rate} Hz, got {self.n_samples}"
            )
        if len(self.model) != 8:
            raise InputError(f"model must be 8 bytes, got {self.model!r}")

    @property
    def codebook_size(self) -> int:
        """Codewords per codebook, `2**bits`."""
        return 1 << self.bits

    @property
    def n_blocks(self) -> int:
        """Blocks in the file."""
        return -(-self.n_frames // self.frames_per_block)

    @property
    def duration(self) -> float:
        """Length of the original recording in seconds."""
        return self.n_samples / self.sample_rate

    @property
    def bitrate(self) -> float:
        """Codes alone, all channels, in kbps of the recording's duration; 0 if it is empty."""
        return self.payload_size / 125 / self.duration if self.n_samples else 0.0

    @property
    def payload_size(self) -> int:
        """Bytes that the codes alone would fill."""
        return -(-self.channels * self.n_codebooks * self.n_frames * self.bits // 8)

    @property
    def file_size(self) -> int:
        """Bytes of the whole file."""
        full, rest = divmod(self.n_frames, self.frames_per_block)
        last = self.block_size(rest) if rest else 0
        return HEADER_SIZE + full * self.block_size(self.frames_per_block) + last

    def block_size(self, frames: int) -> int:
        """Bytes of a block of that many frames, its checksum included."""
        return self.n_codebooks * self.channels * packed_size(frames, self.bits) + CRC.size

    def block_frames(self, index: int) -> int:
        """Frames in block `index`: `frames_per_block`, or fewer in the last."""
        return min(self.frames_per_block, self.n_frames - index * self.frames_per_block)

    def block_offset(self, index: int) -> int:
        """Where block `index` starts, in bytes from the start of the file."""
        return HEADER_SIZE + index * self.block_size(self.frames_per_block)

    def to_bytes(self) -> bytes:
        """The header as it stands in the file, `HEADER_SIZE` bytes."""
        fields = self._FIELDS.pack(
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
        return fields + CRC.pack(zlib.crc32(fields))

    @classmethod
    def from_bytes(cls, data: bytes) -> "Header":
        """Read a header from the first bytes of a file; what follows it is ignored.

        Raises:
            FormatError: not an `.rvq` file, one of a newer version, or a damaged header.
        """
        if not data.startswith(MAGIC):
            raise FormatError(f"not an .rvq file: it starts with {data[:4]!r}, not {MAGIC!r}")
        if len(data) > 4 and data[4] > VERSION:
            raise FormatError(
                f"this .rvq file has format version {data[4]}, and this program reads up to "
                f"{VERSION}: upgrade the rvq package"
            )
        if len(data) < HEADER_SIZE:
            raise FormatError(
                f"this .rvq file ends inside its header, after {len(data)} of {HEADER_SIZE} bytes"
            )
        fields = data[: cls._FIELDS.size]
        if CRC.unpack_from(data, len(fields))[0] != zlib.crc32(fields):
            raise FormatError(
                "the header of this .rvq file is damaged, or writing the file was never finished"
            )
        _, version, *numbers, model = cls._FIELDS.unpack(fields)
        if version != VERSION:
            raise FormatError(f"this .rvq file has format version {version}, which does not exist")
        names = ("channels", "n_codebooks", "bits", "frames_per_block", "sample_rate")
        try:
            return cls(
                **dict(zip((*names, "n_samples", "n_frames"), numbers, strict=True)),
                model=model,
            )
        except InputError as error:
            raise FormatError(f"the header of this .rvq file is impossible: {error}") from error
