"""The header of an `.rvq` file, version 3: what the file holds, and how its blocks are to be read.

A header survives one damaged bit anywhere: its checksum says which bit that must have been.
"""

import json
import struct
import zlib
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import ClassVar

from rvq.bitstream.packing import MAX_BITS, packed_size
from rvq.errors import FormatError, InputError

MAGIC = b"RVQ\x1a"
VERSION = 3
HEADER_SIZE = 51
"""Bytes of the fixed part; metadata follow."""
MAX_CODES_PER_BLOCK = 2**23
"""Bounds what reading one block may cost, whatever a header declares."""
MAX_CODED_FRAMES = 2**15
"""Frames of all channels in a block that is entropy coded, which takes more memory per frame."""
MAX_METADATA = 2**16 - 1

CRC = struct.Struct("<I")
_ENTROPY_CODED, _VARIABLE = 1, 2


@dataclass(frozen=True, kw_only=True)
class Header:
    """What the header of a file says; impossible values raise `InputError`.

    Attributes:
        channels: 1 to 255.
        n_codebooks: codes per frame and channel, 1 to 255.
        bits: per code before entropy coding, 1 to 16; every codebook has `2**bits` codewords.
        frames_per_block: frames of every block but the last, 1 to 65535.
        sample_rate: rate of the original recording in Hz.
        n_samples: length of the original recording in samples per channel.
        n_frames: frames per channel; each stands for one second of sound at most.
        model: first 8 bytes of the content hash of the model that the codes belong to.
        frame_rate: frames per second, a fraction of up to 32 over up to 16 bits; 0 if not known.
        entropy: first 4 bytes of the content hash of the entropy model; None: codes are packed.
        variable: whether frames may lack their last layers; only with an entropy model.
        metadata: title, artist and whatever else, text by name.
        version: of the format.
        repaired: whether a damaged bit was put right in reading.
    """

    channels: int
    n_codebooks: int
    bits: int
    frames_per_block: int
    sample_rate: int
    n_samples: int
    n_frames: int
    model: bytes
    frame_rate: Fraction = Fraction(0)
    entropy: bytes | None = None
    variable: bool = False
    metadata: dict[str, str] = field(default_factory=dict)
    version: int = VERSION
    repaired: bool = field(default=False, compare=False)

    _FIELDS: ClassVar = struct.Struct("<4sBBBBBHIIHQI8s4sH")

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
        if not (0 <= self.frame_rate < 2**32 and self.frame_rate.denominator < 2**16):
            raise InputError(f"frame_rate does not fit the header: {self.frame_rate}")
        if self.entropy is not None and len(self.entropy) != 4:
            raise InputError(f"entropy must be 4 bytes, got {self.entropy!r}")
        if self.entropy is not None and self.bits > 15:
            raise InputError("codebooks of 65536 codewords cannot be entropy coded")
        if self.entropy is not None and self.channels * self.frames_per_block > MAX_CODED_FRAMES:
            raise InputError(
                f"an entropy-coded block holds at most {MAX_CODED_FRAMES} frames of all channels: "
                f"lower frames_per_block from {self.frames_per_block}"
            )
        if self.variable and self.entropy is None:
            raise InputError("frames can lack layers only in files with an entropy model")
        for text in (*self.metadata, *self.metadata.values()):
            try:
                text.encode()
            except (AttributeError, UnicodeEncodeError):
                raise InputError(f"metadata must be text by name, got {text!r}") from None
        if len(self._metadata_bytes) > MAX_METADATA:
            raise InputError(
                f"metadata must be at most {MAX_METADATA} bytes, got {len(self._metadata_bytes)}"
            )

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
    def kbps_per_codebook(self) -> float | None:
        """Packed bitrate of one codebook and channel in kbps; None if the frame rate is unknown."""
        return float(self.frame_rate * self.bits / 1000) or None

    @property
    def payload_size(self) -> int:
        """Bytes that all codes would fill if packed."""
        return packed_size(self.channels * self.n_codebooks * self.n_frames, self.bits)

    def block_frames(self, index: int) -> int:
        """Frames in block `index`: `frames_per_block`, or fewer in the last."""
        return min(self.frames_per_block, self.n_frames - index * self.frames_per_block)

    def packed_layer(self, frames: int) -> int:
        """Bytes of the packed codes of one layer in a block of that many frames."""
        return packed_size(self.channels * frames, self.bits)

    def longest_layer(self, frames: int) -> int:
        """The most bytes that one layer of a block of that many frames may have."""
        # Of the range coder a code takes at most 31 bits, and its presence less than 17.
        return self.channels * frames * 6 + 8 if self.variable else self.packed_layer(frames)

    @property
    def _metadata_bytes(self) -> bytes:
        if not self.metadata:
            return b""
        return json.dumps(self.metadata, ensure_ascii=False, separators=(",", ":")).encode()

    def to_bytes(self) -> bytes:
        """The header as it stands in the file, metadata included."""
        text = self._metadata_bytes
        flags = _ENTROPY_CODED * (self.entropy is not None) + _VARIABLE * self.variable
        fields = self._FIELDS.pack(
            MAGIC,
            VERSION,
            flags,
            self.channels,
            self.n_codebooks,
            self.bits,
            self.frames_per_block,
            self.sample_rate,
            self.frame_rate.numerator,
            self.frame_rate.denominator,
            self.n_samples,
            self.n_frames,
            self.model,
            self.entropy or bytes(4),
            len(text),
        )
        sealed = fields + CRC.pack(zlib.crc32(fields))
        return sealed + text + CRC.pack(zlib.crc32(text)) if text else sealed

    @classmethod
    def from_bytes(cls, data: bytes) -> "Header":
        """Read the fixed part of a header, without metadata.

        Raises:
            FormatError: not an `.rvq` file, one of a newer version, or a damaged header.
        """
        fixed = data[:HEADER_SIZE]
        repaired = False
        if len(fixed) == HEADER_SIZE and not _sealed(fixed):
            mended = _mend(fixed)
            repaired = mended is not None
            fixed = mended or fixed
        check_magic(fixed)
        if len(fixed) < HEADER_SIZE:
            raise FormatError(
                f"this .rvq file ends inside its header, after {len(fixed)} of {HEADER_SIZE} "
                "bytes: copy it again"
            )
        if not _sealed(fixed):
            raise FormatError(
                "the header of this .rvq file is damaged, or writing the file was never finished"
            )
        _, version, flags, *numbers, rate, hop, n_samples, n_frames, model, entropy, _ = (
            cls._FIELDS.unpack(fixed[: -CRC.size])
        )
        if version not in (2, VERSION):  # what else changed from 2 to 3 is in `framing`
            raise FormatError(f"this .rvq file has format version {version}, which does not exist")
        if flags > _ENTROPY_CODED + _VARIABLE:
            raise FormatError("this .rvq file uses features of a newer rvq: upgrade the package")
        if not hop or Fraction(rate, hop).denominator != hop:
            raise FormatError("the header of this .rvq file is impossible: its frame rate is none")
        names = ("channels", "n_codebooks", "bits", "frames_per_block", "sample_rate")
        try:
            return cls(
                **dict(zip(names, numbers, strict=True)),
                n_samples=n_samples,
                n_frames=n_frames,
                model=model,
                frame_rate=Fraction(rate, hop),
                entropy=entropy if flags & _ENTROPY_CODED else None,
                variable=bool(flags & _VARIABLE),
                version=version,
                repaired=repaired,
            )
        except InputError as error:
            raise FormatError(f"the header of this .rvq file is impossible: {error}") from error

    def with_metadata(self, text: bytes, crc: bytes) -> "Header":
        """This header with the metadata that follow it; damaged ones are left out."""
        try:
            if CRC.pack(zlib.crc32(text)) != crc:
                raise ValueError
            metadata = json.loads(text)
            if not isinstance(metadata, dict) or not all(
                isinstance(value, str) for value in metadata.values()
            ):
                raise ValueError
            return replace(self, metadata=metadata, repaired=self.repaired)
        except (ValueError, RecursionError, InputError):
            return replace(self, repaired=True)


def metadata_size(data: bytes) -> int:
    """Bytes of metadata behind a fixed part that `Header.from_bytes` could read."""
    fixed = data[:HEADER_SIZE]
    if not _sealed(fixed):
        fixed = _mend(fixed) or fixed
    return int.from_bytes(fixed[-CRC.size - 2 : -CRC.size], "little")


def repairable(data: bytes) -> bool:
    """Whether a damaged bit is all that is wrong with a fixed part."""
    return len(data) >= HEADER_SIZE and _mend(data[:HEADER_SIZE]) is not None


def check_magic(data: bytes) -> None:
    """Refuse what is no `.rvq` file, or of a version that this program does not know.

    Raises:
        FormatError: so it is.
    """
    if not data:
        raise FormatError("not an .rvq file: it is empty; copy it again")
    if not data.startswith(MAGIC):
        raise FormatError(f"not an .rvq file: it starts with {data[:4]!r}, not {MAGIC!r}")
    if len(data) > 4 and data[4] > VERSION:
        raise FormatError(
            f"this .rvq file has format version {data[4]}, and this program reads up to "
            f"{VERSION}: upgrade the rvq package"
        )


def _sealed(fixed: bytes) -> bool:
    return CRC.pack(zlib.crc32(fixed[: -CRC.size])) == fixed[-CRC.size :]


def _mend(fixed: bytes) -> bytes | None:
    """Put one damaged bit right, if that is all that is wrong."""
    mended = bytearray(fixed)
    for position in range(8 * len(fixed)):
        mended[position // 8] ^= 1 << position % 8
        if _sealed(bytes(mended)):
            return bytes(mended)
        mended[position // 8] ^= 1 << position % 8
    return None
