"""Writing an `.rvq` file as codes arrive."""

import zlib
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from rvq.bitstream.blocks import StoredBlock, write_layers
from rvq.bitstream.codes import check_layers
from rvq.bitstream.entropy import EntropyModel
from rvq.bitstream.header import CRC, HEADER_SIZE, MAX_CODED_FRAMES, VERSION, Header
from rvq.bitstream.layers import encode_layers
from rvq.bitstream.reader import Reader
from rvq.errors import FormatError, InputError

FRAMES_PER_BLOCK = 375
"""Five seconds of the default model: the container then takes about 1% of a bitrate."""
_PIECE = 2**20
"""Bytes of a file that are read at once."""


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
        frame_rate: frames per second, so that bitrates are known without the model.
        entropy: codes by this model; packs them if None.
        variable: whether frames may lack their last layers, as codes of -1.
        metadata: title, artist and the like, text by name.
        frames_per_block: the unit of seeking and of damage; default `FRAMES_PER_BLOCK`, or fewer
            with very many channels.

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
        frame_rate: Fraction = Fraction(0),
        entropy: EntropyModel | None = None,
        variable: bool = False,
        metadata: Mapping[str, str] | None = None,
        frames_per_block: int | None = None,
    ) -> None:
        bits = codebook_size.bit_length() - 1
        if codebook_size != 1 << max(bits, 0):
            raise InputError(
                f"an .rvq file needs a codebook_size that is a power of two, got {codebook_size}"
            )
        if frames_per_block is None:
            frames_per_block = min(FRAMES_PER_BLOCK, MAX_CODED_FRAMES // max(channels, 1))
        header = Header(
            channels=channels,
            n_codebooks=n_codebooks,
            bits=bits,
            frames_per_block=frames_per_block,
            sample_rate=sample_rate,
            n_samples=0,
            n_frames=0,
            model=_model(model_hash),
            frame_rate=frame_rate,
            entropy=entropy.tag if entropy else None,
            variable=variable,
            metadata=dict(metadata or {}),
        )
        if entropy is not None:
            entropy.check(n_codebooks, codebook_size)
        self._begin(file, header, entropy)
        self._write_header(unfinished=True)

    def _begin(self, file: BinaryIO, header: Header, entropy: EntropyModel | None) -> None:
        if not file.seekable():
            raise InputError(
                "an .rvq file is finished by writing its header last, which this output cannot do: "
                "write to a file instead of a pipe"
            )
        self._file = file
        self._start = file.tell()
        self._header = header
        self._entropy = entropy
        shape = (header.channels, header.frames_per_block, header.n_codebooks)
        self._pending = np.empty(shape, np.int32)
        self._n_frames = 0
        self._crc = 0
        self._closed = False

    @classmethod
    def append(cls, file: BinaryIO, entropy: EntropyModel | None = None) -> "Writer":
        """Go on writing a finished file of this version.

        Args:
            file: open for reading and writing, standing at the header; the end of the file is the
                end of its stream.
            entropy: the model that the file is coded by.

        Raises:
            FormatError: damaged, or of an older version.
            ModelError: the file is coded by another entropy model.
            InputError: the file cannot seek.
        """
        start = file.tell() if file.seekable() else 0
        reader = Reader(file, entropy=entropy)
        header = reader.header
        reader.check_entropy()
        if header.version != VERSION:
            raise FormatError(
                f"only .rvq files of version {VERSION} can be appended to, and this one is of "
                f"version {header.version}: `rvq trim` to all its codebooks makes a new one of it"
            )
        if header.repaired:
            raise FormatError("this .rvq file is damaged: nothing can be appended to it")
        if len(header.to_bytes()) != reader.header_size:
            raise FormatError(
                "the metadata of this .rvq file are spelled as this program does not, and there is "
                "no room for it to do so: `rvq trim` to all its codebooks makes a file of it that "
                "can be appended to"
            )
        held, size = None, 0
        for stored in reader.payloads():
            if not stored.intact or stored.end:
                raise FormatError("this .rvq file is damaged: nothing can be appended to it")
            held, size = stored, size + len(write_layers(stored))
        if reader.whole is False:  # by a bit that was put right in reading, for one
            raise FormatError("this .rvq file is damaged: nothing can be appended to it")
        rest = header.n_frames % header.frames_per_block
        pending = None
        if held is not None and rest:  # the last block is short: it is written anew
            size -= len(write_layers(held))
            block = reader.decode(held)
            if block.indices is None or not block.intact:
                raise FormatError("this .rvq file is damaged: nothing can be appended to it")
            pending = block.indices
        file.seek(start)
        writer = cls.__new__(cls)
        writer._begin(file, header, entropy)
        writer._write_header(unfinished=True)
        if pending is not None:
            writer._pending[:, :rest] = pending
        writer._n_frames = header.n_frames
        file.seek(start + reader.header_size)
        for done in range(0, size, _PIECE):
            writer._crc = zlib.crc32(file.read(min(_PIECE, size - done)), writer._crc)
        file.truncate()
        return writer

    def write(self, indices: npt.NDArray[np.integer]) -> None:
        """Append frames: integers in [0, codebook_size), `[channels, n_frames, n_codebooks]`.

        In a variable file, -1 stands for a layer that a frame lacks, and for all layers above it.

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
        least = -1 if header.variable else 0
        if indices.size and not least <= indices.min() <= indices.max() < header.codebook_size:
            raise InputError(
                f"codes must be in {least}..{header.codebook_size - 1}, "
                f"got {indices.min()}..{indices.max()}"
            )
        if header.variable:
            check_layers(indices)
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
        self._header = replace(self._header, n_samples=n_samples, n_frames=self._n_frames)
        if rest := self._n_frames % self._header.frames_per_block:
            self._write_block(rest)
        self._file.write(CRC.pack(self._crc))
        end = self._file.tell()
        self._write_header()
        self._file.seek(end)
        self._closed = True
        return self._header

    def _write_header(self, unfinished: bool = False) -> None:
        data = bytearray(self._header.to_bytes())
        if unfinished:  # a checksum that no single damaged bit explains, until `close`
            for place in range(HEADER_SIZE - CRC.size, HEADER_SIZE):
                data[place] ^= 255
        self._file.seek(self._start)
        self._file.write(data)

    def _write_block(self, frames: int) -> None:
        index = (self._n_frames - 1) // self._header.frames_per_block
        layers = encode_layers(self._pending[:, :frames], self._header, self._entropy)
        data = write_layers(StoredBlock(index, frames, layers))
        self._crc = zlib.crc32(data, self._crc)
        self._file.write(data)


def _model(model_hash: str) -> bytes:
    digits = model_hash[:16].lower()
    if len(digits) < 16 or not set(digits) <= set("0123456789abcdef"):
        raise InputError(
            f"model_hash must begin with 16 hexadecimal digits, got {model_hash!r}: "
            "take it from the model that made the codes"
        )
    return bytes.fromhex(digits)
