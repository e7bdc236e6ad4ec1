"""The `.rvq` file: a header, then blocks of codes that can be found, cut and lost alone.

    file  = header block* CRC-32
    block = for each codebook: size, check, codes of all channels and frames

Blocks are decodable one by one, and layers from the first up, so that a lower bitrate is the same
file without the last layers of its blocks, and damage costs a block or some of its layers.
`docs/format.md` specifies every byte.
"""

import io
import zlib
from collections.abc import Mapping
from dataclasses import replace
from typing import BinaryIO

import numpy as np

from rvq.bitstream.bitrates import codebooks_at
from rvq.bitstream.blocks import StoredBlock, write_layers
from rvq.bitstream.codes import Codes
from rvq.bitstream.entropy import EntropyModel
from rvq.bitstream.header import CRC, VERSION, Header
from rvq.bitstream.reader import Block, Reader
from rvq.bitstream.survey import Survey, survey
from rvq.bitstream.writer import FRAMES_PER_BLOCK, Writer
from rvq.errors import FormatError, InputError

__all__ = [
    "FRAMES_PER_BLOCK",
    "Block",
    "Reader",
    "Writer",
    "dumps",
    "loads",
    "payload_size",
    "trim",
]


def trim(
    source: BinaryIO,
    target: BinaryIO,
    n_codebooks: int | None = None,
    *,
    bitrate: float | None = None,
) -> Survey:
    """Cut a file to its first codebooks, a lower bitrate, without decoding it.

    The result equals, byte for byte, the file that writing only those codes makes. Damaged layers
    stay recognisably damaged, and a file that was cut off stays so. Either end may be a pipe. A
    file of an older version becomes one of this.

    Args:
        source: an `.rvq` file open for binary reading.
        target: where to write; open for binary writing.
        n_codebooks: how many codebooks to keep, 1 to the number in the source; or
        bitrate: of the codebooks to keep, kbps per channel before entropy coding.

    Returns:
        What was found in the source.

    Raises:
        FormatError: the header of the source cannot be read.
        InputError: so many codebooks are not in the source, or its frame rate is not known.
    """
    reader = Reader(source)
    if n_codebooks is None:
        n_codebooks = _codebooks_at(bitrate, reader.header)
    if not 1 <= n_codebooks <= reader.header.n_codebooks:
        raise InputError(
            f"n_codebooks must be in 1..{reader.header.n_codebooks}, which is what the file has, "
            f"got {n_codebooks}"
        )
    target.write(replace(reader.header, n_codebooks=n_codebooks, version=VERSION).to_bytes())
    crc = 0

    def keep(stored: StoredBlock) -> None:
        nonlocal crc
        kept = replace(stored, layers=stored.layers[:n_codebooks])
        if stored.end and None in kept.layers:  # where the file was cut off
            return
        data = write_layers(kept)
        crc = zlib.crc32(data, crc)
        target.write(data)

    found = survey(reader, keep)
    if not found.cut_short:
        right = found.lost + found.weakened == 0 and found.whole is not False
        target.write(CRC.pack(crc if right else crc ^ 0xFFFFFFFF))
    return found


def _codebooks_at(bitrate: float | None, header: Header) -> int:
    """As many codebooks as fit into a bitrate."""
    each = header.kbps_per_codebook
    if bitrate is None or each is None:
        raise InputError(
            "this .rvq file does not say its frame rate: give the number of codebooks to keep"
        )
    return codebooks_at(bitrate, each, header.n_codebooks)


def payload_size(data: bytes) -> int:
    """Bytes of a whole file that are codes; the others hold it together.

    Raises:
        FormatError: the header cannot be read.
    """
    return survey(Reader(io.BytesIO(data))).payload


def dumps(
    codes: Codes,
    *,
    entropy: EntropyModel | None = None,
    variable: bool = False,
    metadata: Mapping[str, str] | None = None,
    frames_per_block: int | None = None,
) -> bytes:
    """A whole file in memory; arguments as for `Writer`.

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
        frame_rate=codes.frame_rate,
        entropy=entropy,
        variable=variable,
        metadata=metadata,
        frames_per_block=frames_per_block,
    )
    writer.write(codes.indices)
    writer.close(codes.n_samples)
    return file.getvalue()


def loads(data: bytes, *, entropy: EntropyModel | None = None) -> Codes:
    """Codes of a whole file in memory, if every byte of it is in order.

    Returns:
        The codes; `model_hash` holds the 16 digits that the file keeps.

    Raises:
        FormatError: any damage. `Reader` reads what is left of a damaged file.
        ModelError: the file is coded by another entropy model.
    """
    file = io.BytesIO(data)
    reader = Reader(file, entropy=entropy)
    header = reader.header
    if header.repaired:
        raise FormatError(
            "the header of this .rvq file is damaged: `rvq decode` writes what is left of it"
        )
    parts = [np.empty((header.channels, 0, header.n_codebooks), np.int64)]
    for block in reader.blocks():
        if block.indices is None or not block.intact:
            raise FormatError(
                f"block {block.index} of {header.n_blocks} of this .rvq file is damaged: "
                "`rvq decode` writes what is left of the file"
            )
        parts.append(block.indices)
    if reader.whole is False:
        raise FormatError("the checksum of this .rvq file is wrong: something in it is damaged")
    if reader.added_to:
        raise FormatError("this .rvq file was added to: bytes follow its end")
    return Codes(
        indices=np.concatenate(parts, axis=1),
        codebook_size=header.codebook_size,
        sample_rate=header.sample_rate,
        n_samples=header.n_samples,
        model_hash=header.model.hex(),
        frame_rate=header.frame_rate,
    )
