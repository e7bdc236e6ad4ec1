"""One or a few frames as bytes, for networks that lose and reorder them.

    packet = number and codebooks (2 bytes), then for every frame its codes, padded to whole bytes

The first 11 bits are the number of the packet's first frame modulo 2048, the other 5 the number of
codebooks less one. What holds for a whole stream is not repeated in every packet: its model, its
channels, its sample rate. At 6 kbps a mono frame makes a packet of 12 bytes.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rvq.bitstream.packing import pack, packed_size, unpack
from rvq.errors import FormatError, InputError

Indices = npt.NDArray[np.int64]

NUMBERS = 2048
"""Frame numbers start again after so many."""
MAX_CODEBOOKS = 32


@dataclass(frozen=True, eq=False)
class Packet:
    """Frames that travel together.

    Attributes:
        number: of the first frame, modulo `NUMBERS`.
        indices: codes, `[channels, n_frames, n_codebooks]`.
    """

    number: int
    indices: Indices

    def to_bytes(self, bits: int) -> bytes:
        """The packet, with codes of so many bits.

        Raises:
            InputError: more codebooks than a packet can name.
        """
        n_codebooks = self.indices.shape[2]
        if not 1 <= n_codebooks <= MAX_CODEBOOKS:
            raise InputError(f"packets hold 1 to {MAX_CODEBOOKS} codebooks, not {n_codebooks}")
        head = self.number % NUMBERS << 5 | n_codebooks - 1
        frames = self.indices.transpose(1, 2, 0).reshape(self.indices.shape[1], -1)
        return head.to_bytes(2, "big") + pack(frames, bits).tobytes()

    @classmethod
    def from_bytes(cls, data: bytes, *, channels: int, bits: int) -> "Packet":
        """Undo `to_bytes`.

        Raises:
            FormatError: this is no packet of a stream with so many channels.
        """
        head = int.from_bytes(data[:2], "big")
        n_codebooks = head % 32 + 1
        size = packed_size(channels * n_codebooks, bits)
        if len(data) <= 2 or (len(data) - 2) % size:
            raise FormatError(f"{len(data)} bytes are no packet of {n_codebooks} codebooks")
        frames = np.frombuffer(data, np.uint8, offset=2).reshape(-1, size)
        codes = unpack(frames, channels * n_codebooks, bits)
        indices = codes.reshape(-1, n_codebooks, channels).transpose(2, 0, 1)
        return cls(head >> 5, np.ascontiguousarray(indices))

    def prefix(self, n_codebooks: int) -> "Packet":
        """The same frames at a lower bitrate."""
        return Packet(self.number, self.indices[:, :, :n_codebooks])
