"""Reading an `.rvq` file, around damage."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from rvq.bitstream import version1
from rvq.bitstream.blocks import Peekable, StoredBlock, read_blocks
from rvq.bitstream.entropy import EntropyModel
from rvq.bitstream.header import CRC, HEADER_SIZE, MAGIC, Header, metadata_size, repairable
from rvq.bitstream.layers import decode_layers
from rvq.errors import FormatError, InputError, ModelError


@dataclass(frozen=True, eq=False)
class Block:
    """One block as it was found.

    Attributes:
        index: its number in the file, from 0.
        n_frames: how many frames it holds, known even if the block is lost.
        indices: int64 codes `[channels, n_frames, layers]` of the layers up to the first damaged
            one, -1 where a frame lacks a layer; None if the first is damaged or missing.
        lost_layers: how many layers are damaged or missing, or stand above such a one.
    """

    index: int
    n_frames: int
    indices: npt.NDArray[np.int64] | None
    lost_layers: int = 0

    @property
    def intact(self) -> bool:
        """Whether all codes are there and their checks agree."""
        return self.lost_layers == 0


class Reader:
    """Reads a file block by block, around damage, in constant memory.

    Args:
        file: open for binary reading, standing at the header; may be a pipe, which is then read
            once and forward. It is not closed.
        entropy: the model that the file is coded by, to get codes; finding and cutting blocks
            needs none.

    Attributes:
        header: what the header says.
        header_size: bytes that it takes in this file.
        whole: whether the checksum of all blocks agrees; None until the last of them has been read
            in one go from the first. Always None for version 1, whose blocks have their own.
        added_to: whether bytes follow the end of the file; None as long as `whole`.
        cut_short: whether the file ended before its end, as far as it has been read.

    Raises:
        FormatError: the header cannot be read.
    """

    def __init__(self, file: BinaryIO, *, entropy: EntropyModel | None = None) -> None:
        self._file = file
        self._start = file.tell() if file.seekable() else None
        self._entropy = entropy
        self.whole: bool | None = None
        self.added_to: bool | None = None
        self.cut_short = False
        self._source = Peekable(file, self._start)
        self.header, self.header_size = self._read_header()
        self._next = 0  # block that a pipe stands at

    def _read_header(self) -> tuple[Header, int]:
        """The header and its length."""
        source = self._source
        first = source.peek(0, HEADER_SIZE)
        if first.startswith(MAGIC + b"\x01") and not repairable(first):
            header = version1.read_header(source.advance(version1.HEADER_SIZE))
            return header, version1.HEADER_SIZE
        fixed = source.advance(HEADER_SIZE)
        header = Header.from_bytes(fixed)
        length = metadata_size(fixed)
        if not length:
            return header, HEADER_SIZE
        header = header.with_metadata(source.advance(length), source.advance(CRC.size))
        return header, HEADER_SIZE + length + CRC.size

    @property
    def damaged_around(self) -> bool:
        """Whether anything beside the blocks is wrong, as far as it was read: header or end."""
        end_is_wrong = self.cut_short or bool(self.added_to) or self.whole is False
        return self.header.repaired or end_is_wrong

    def blocks(self, start_frame: int = 0) -> Iterator[Block]:
        """Iterate over the blocks from the one that holds `start_frame`, the first frame being 0.

        A damaged block comes without the codes of its damaged layers. Where a file was cut off, the
        first block that is not whole is the last: a header may claim billions more.

        Raises:
            InputError: a frame outside of the file, or one that a pipe has passed.
            ModelError: the file is coded by another entropy model.
        """
        self.check_entropy()
        # Not itself a generator, so that a bad `start_frame` is refused at once.
        return (self.decode(stored) for stored in self.payloads(start_frame))

    def payloads(self, start_frame: int = 0) -> Iterator[StoredBlock]:
        """Like `blocks`, still coded; needs no model.

        Raises:
            InputError: a frame outside of the file, or one that a pipe has passed.
        """
        header = self.header
        if not 0 <= start_frame <= header.n_frames:
            raise InputError(f"start_frame must be in 0..{header.n_frames}, got {start_frame}")
        held = start_frame < header.n_frames
        first = start_frame // header.frames_per_block if held else header.n_blocks
        if self._start is None and first < self._next:
            raise InputError("a pipe cannot be read twice or backwards: read from a file instead")
        return self._payloads(first)

    def _payloads(self, first: int) -> Iterator[StoredBlock]:
        source = self._source
        if self._start is not None:
            source, self._next = Peekable(self._file, self._start + self.header_size), 0
        source.crc = 0
        from_start = self._next == 0
        read = read_blocks if self.header.version > 1 else version1.read_blocks
        stored = None
        for stored in read(source, self.header, self._next):
            self._next = stored.index + 1
            if stored.index >= first:
                yield stored
        trailer = CRC.size if self.header.version > 1 else 0
        self.cut_short = bool(stored and stored.end) or not source.available(trailer)
        if from_start and not (stored and stored.end):
            self.added_to = source.available(trailer + 1)
            if trailer:
                self.whole = CRC.pack(source.crc) == source.peek(0, trailer)

    def decode(self, stored: StoredBlock) -> Block:
        """The codes of a block.

        Raises:
            ModelError: the file is coded by another entropy model.
        """
        self.check_entropy()
        indices = decode_layers(stored, self.header, self._entropy)
        lost = self.header.n_codebooks - indices.shape[2]
        return Block(stored.index, stored.n_frames, indices if indices.shape[2] else None, lost)

    def check_entropy(self) -> None:
        """Refuse to make codes of the blocks without the entropy model that they need.

        Raises:
            ModelError: the file is coded by another entropy model.
            FormatError: the entropy model knows no such codes.
        """
        wanted = self.header.entropy
        if wanted is not None and (self._entropy is None or self._entropy.tag != wanted):
            raise ModelError(
                f"this .rvq file is coded by entropy model {wanted.hex()}, which came with model "
                f"{self.header.model.hex()}: load that model"
            )
        if wanted is not None and self._entropy is not None:
            try:
                self._entropy.check(self.header.n_codebooks, self.header.codebook_size)
            except InputError as error:
                raise FormatError(f"the header of this .rvq file is impossible: {error}") from None
