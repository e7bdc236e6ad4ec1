"""The sound of an .rvq file, a few seconds at a time, around damage."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from rvq.bitstream.container import Reader
from rvq.codec.codec import Codec
from rvq.errors import FormatError

_FRAMES_AT_ONCE, _SAMPLES_AT_ONCE = 3000, 2**22
"""Of all channels together: blocks may be longer than memory should have to hold as sound."""


@dataclass(frozen=True)
class Damage:
    """What could not be decoded.

    Attributes:
        n_blocks: blocks of the file.
        lost: damaged or missing blocks; they are concealed in the output.
        weakened: blocks that lost some layers, and sound as at a lower bitrate.
        noticed: whether anything at all was wrong: header, metadata or checksums too.
    """

    n_blocks: int
    lost: int
    weakened: int = 0
    noticed: bool = False

    def __str__(self) -> str:
        if self.lost or self.weakened:
            return (
                f"{self.lost} of {self.n_blocks} blocks were lost, "
                f"{self.weakened} have lost some layers"
            )
        return "its header, metadata, a checksum or what follows its end; no sound is lost"


class FileDecoder:
    """Decodes a file in constant memory.

    Damaged or missing blocks are concealed; those without some layers sound as at a lower bitrate.
    What follows the end of a file that was cut off is not made up: sound ends where blocks do.

    Args:
        codec: the model that made it.
        file: open for binary reading, standing at the header.

    Attributes:
        header: what the header says.

    Raises:
        FormatError: not an .rvq file, of a newer version, or without a usable header.
        ModelError: made with another model.
    """

    def __init__(self, codec: Codec, file: BinaryIO) -> None:
        self._codec = codec
        self._reader = Reader(file, entropy=codec.entropy)
        self.header = header = self._reader.header
        codec.check_model(header.model.hex())
        codec.check_length(header.n_frames, header.n_samples, header.sample_rate)
        n_codebooks = len(codec.runtime.codebooks)
        if header.n_codebooks > n_codebooks or header.codebook_size != codec.codebook_size:
            raise FormatError(
                f"this .rvq file has codes of {header.n_codebooks} codebooks of "
                f"{header.codebook_size} codewords, and its model has {n_codebooks} of "
                f"{codec.codebook_size}: the file is damaged"
            )
        self._seen = self._lost = self._weakened = 0

    def pieces(self) -> Iterator[npt.NDArray[np.float32]]:
        """The samples, `[channels, any]`, to be asked for once."""
        header = self.header
        decoder = self._codec.frame_decoder(
            channels=header.channels, sample_rate=header.sample_rate
        )
        channels = header.channels * self._codec.runtime.channels
        samples_at_once = _SAMPLES_AT_ONCE // channels
        frames = int(samples_at_once * self._codec.frame_rate / header.sample_rate)
        at_once = max(1, min(_FRAMES_AT_ONCE // header.channels, frames))
        left = header.n_samples
        for block in self._reader.blocks():
            self._seen += 1
            self._lost += block.indices is None
            self._weakened += block.indices is not None and not block.intact
            for first in range(0, block.n_frames, at_once):
                if not left:  # all sound is out; what remains is only looked at for damage
                    break
                if block.indices is None:
                    samples = decoder.skip(min(at_once, block.n_frames - first))
                else:
                    samples = decoder.push(block.indices[:, first : first + at_once])
                samples = samples[:, :left]
                left -= samples.shape[1]
                yield samples
        if left:
            samples = decoder.flush()[:, :left]
            left -= samples.shape[1]
            yield samples
        while left and self._seen == header.n_blocks:
            samples = np.zeros((channels, min(left, samples_at_once)), np.float32)
            left -= samples.shape[1]
            yield samples

    @property
    def share(self) -> float:
        """How much of the file is done, 0 to 1."""
        return self._seen / max(1, self.header.n_blocks)

    @property
    def damage(self) -> Damage:
        """What was wrong, once all pieces are out."""
        n_blocks = self.header.n_blocks
        lost = self._lost + n_blocks - self._seen
        noticed = lost + self._weakened > 0 or self._reader.damaged_around
        return Damage(n_blocks, lost, self._weakened, noticed)
