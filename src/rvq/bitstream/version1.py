"""Files of version 1, as if they were of a later one.

Version 1 packed all codes, so that every size followed from the header:

    file   = header block*
    header = magic, version, shape of the codes, recording, model, CRC-32       (38 bytes)
    block  = for each codebook: for each channel: packed codes of the frames; CRC-32
"""

import struct
import zlib
from collections.abc import Iterator

import numpy as np

from rvq.bitstream.blocks import Peekable, StoredBlock
from rvq.bitstream.header import CRC, Header
from rvq.bitstream.packing import pack, packed_size, unpack
from rvq.errors import FormatError, InputError

HEADER_SIZE = 38
_FIELDS = struct.Struct("<4sBBBBHIQI8s")


def read_header(data: bytes) -> Header:
    """Read the header that stands in the first `HEADER_SIZE` bytes.

    Raises:
        FormatError: it is damaged or cut off.
    """
    fields = data[: _FIELDS.size]
    if len(data) < HEADER_SIZE:
        raise FormatError(
            f"this .rvq file ends inside its header, after {len(data)} of {HEADER_SIZE} bytes"
        )
    if CRC.unpack_from(data, len(fields))[0] != zlib.crc32(fields):
        raise FormatError(
            "the header of this .rvq file is damaged, or writing the file was never finished"
        )
    _, _, channels, n_codebooks, bits, per_block, rate, n_samples, n_frames, model = _FIELDS.unpack(
        fields
    )
    try:
        return Header(
            channels=channels,
            n_codebooks=n_codebooks,
            bits=bits,
            frames_per_block=per_block,
            sample_rate=rate,
            n_samples=n_samples,
            n_frames=n_frames,
            model=model,
            version=1,
        )
    except InputError as error:
        raise FormatError(f"the header of this .rvq file is impossible: {error}") from error


def read_blocks(source: Peekable, header: Header, index: int) -> Iterator[StoredBlock]:
    """Blocks from `index` on, which stands next in the source."""
    lost = (None,) * header.n_codebooks
    for number in range(index, header.n_blocks):
        frames = header.block_frames(number)
        rows = header.n_codebooks * header.channels
        size = rows * packed_size(frames, header.bits) + CRC.size
        data = source.advance(size) if source.available(size) else b""
        if not data:
            yield StoredBlock(number, frames, lost, end=True)
            return
        packed, crc = data[: -CRC.size], data[-CRC.size :]
        if CRC.unpack(crc)[0] != zlib.crc32(packed, zlib.crc32(struct.pack("<I", number))):
            yield StoredBlock(number, frames, lost)
            continue
        bytes_of_rows = np.frombuffer(packed, np.uint8).reshape(rows, -1)
        codes = unpack(bytes_of_rows, frames, header.bits)
        layers = pack(codes.reshape(header.n_codebooks, -1), header.bits)
        yield StoredBlock(number, frames, tuple(layer.tobytes() for layer in layers))
