"""Samples in, packets out, and back, as they come: for calls, pipes and anything live."""

from numbers import Integral
from typing import Any

import numpy as np
import numpy.typing as npt

from rvq.codec.defaults import BEAM_SIZE
from rvq.codec.frames import FrameDecoder, FrameEncoder
from rvq.codec.packets import MAX_CODEBOOKS, NUMBERS, Packet
from rvq.codec.runtime import Runtime
from rvq.codec.snapshot import Layout, check_state, load_state, save_state
from rvq.errors import FormatError, InputError

Floats = npt.NDArray[np.float32]

_LATE = 256
"""Frames, 3.4 s, by which a packet may be late. Numbers start again, so one that is behind may as
well be ahead after an outage; no network holds packets back for longer, and outages do last."""


class StreamEncoder:
    """Turns samples into packets, each as soon as its frames are complete.

    Args:
        runtime: the model.
        channels: coded one by one.
        sample_rate: of the samples, Hz.
        n_codebooks: codes per frame.
        beam_size: code sequences that the search follows at once; 1 is greedy search.
        frames_per_packet: more frames share the 2 bytes of a packet's head, and wait longer.

    Example:
        >>> import numpy as np, rvq
        >>> codec = rvq.Codec.load()
        >>> encoder = codec.stream_encoder(channels=1, sample_rate=24000, bitrate=6)
        >>> [len(packet) for packet in encoder.push(np.zeros((1, 640), np.float32))]
        [12, 12]
    """

    def __init__(
        self,
        runtime: Runtime,
        *,
        channels: int,
        sample_rate: int,
        n_codebooks: int,
        beam_size: int = BEAM_SIZE,
        frames_per_packet: int = 1,
    ) -> None:
        if not isinstance(frames_per_packet, int | Integral) or frames_per_packet < 1:
            raise InputError(
                f"frames_per_packet must be an integer of at least 1, got {frames_per_packet!r}"
            )
        _check_causal(runtime)
        self._runtime = runtime
        self._frames = FrameEncoder(
            runtime,
            channels=channels,
            sample_rate=sample_rate,
            n_codebooks=n_codebooks,
            beam_size=beam_size,
            stretch=1,
        )
        self._channels = channels
        self._frames_per_packet = frames_per_packet
        self._bits = (runtime.codebooks.shape[1] - 1).bit_length()
        self._number = 0
        self.n_codebooks = n_codebooks
        self._codes = self._frames.push(np.empty((channels, 0), np.float32))

    @property
    def n_codebooks(self) -> int:
        """Codes per frame; setting it changes the bitrate from the next frame on.

        A packet that waits for more frames is cut short, and leaves with the next push.

        Raises:
            InputError: no integer, or more than the model or a packet has.
        """
        return self._frames.n_codebooks

    @n_codebooks.setter
    def n_codebooks(self, n: int) -> None:
        most = min(MAX_CODEBOOKS, len(self._runtime.codebooks))
        if not isinstance(n, int | Integral) or not 1 <= n <= most:
            raise InputError(f"n_codebooks must be an integer, 1 to {most}, got {n!r}")
        self._frames.n_codebooks = n

    def push(self, samples: Floats) -> list[bytes]:
        """Samples `[channels, any]` in [-1, 1] -> the packets now complete.

        Raises:
            InputError: another number of channels, no floats, NaN, infinity, or far out of range.
        """
        return self._pack(self._frames.push(samples), False)

    def flush(self) -> list[bytes]:
        """The last packets, with the frames that complete the last samples."""
        return self._pack(self._frames.flush(), True)

    def save(self) -> bytes:
        """All that the encoder remembers, for `restore`.

        Raises:
            InputError: the encoder resamples.
        """
        arrays: dict[str, npt.NDArray[Any]] = {
            "number": np.array([self._number], np.int64),
            "codes": self._codes,
            "frames": np.frombuffer(self._frames.save(), np.uint8),
        }
        return save_state("stream encoder", self._runtime.hash, arrays)

    def restore(self, data: bytes) -> None:
        """Go on from where `save` was called, on this machine or another.

        Raises:
            FormatError: damaged, or not the state of an encoder with as many channels.
            ModelError: of another model.
        """
        layout: Layout = {
            "number": (np.int64, (1,)),
            "codes": (np.int64, (self._channels, None, None)),
            "frames": (np.uint8, (None,)),
        }
        arrays = load_state(data, "stream encoder", self._runtime.hash, layout)
        number, codes = int(arrays["number"][0]), arrays["codes"]
        n_codebooks, size, _ = self._runtime.codebooks.shape
        check_state("number", 0 <= number < NUMBERS)
        check_state("codes", 1 <= codes.shape[2] <= n_codebooks)
        check_state("codes", not codes.size or 0 <= codes.min() <= codes.max() < size)
        self._frames.restore(arrays["frames"].tobytes())
        self._number, self._codes = number, codes

    def _pack(self, codes: npt.NDArray[np.int64], last: bool) -> list[bytes]:
        packets = []
        if self._codes.shape[2] != codes.shape[2]:  # the bitrate changed
            packets += self._cut(self._codes, True)
            self._codes = codes
        else:
            self._codes = np.concatenate([self._codes, codes], axis=1)
        packets += self._cut(self._codes, last)
        return packets

    def _cut(self, codes: npt.NDArray[np.int64], last: bool) -> list[bytes]:
        """Packets of frames in order; what makes none stays behind."""
        size, n_frames = self._frames_per_packet, codes.shape[1]
        whole = n_frames if last else n_frames // size * size
        packets = []
        for start in range(0, whole, size):
            indices = codes[:, start : min(start + size, whole)]
            packets.append(Packet(self._number, indices).to_bytes(self._bits))
            self._number = (self._number + indices.shape[1]) % NUMBERS
        self._codes = codes[:, whole:]
        return packets


class StreamDecoder:
    """Turns packets back into samples, each as soon as it comes.

    Packets may be of any bitrate, be missing, damaged or late: what is missing is concealed once a
    later packet shows it, or at once by `conceal`; what is late or damaged is left out.

    Args:
        runtime: the model.
        channels: of the stream.
        sample_rate: of the samples, Hz.

    Attributes:
        refused: packets that were left out, damaged or late.
        concealed: frames that were.
    """

    def __init__(self, runtime: Runtime, *, channels: int, sample_rate: int) -> None:
        _check_causal(runtime)
        self.refused = self.concealed = 0
        self._runtime = runtime
        self._frames = FrameDecoder(runtime, channels=channels, sample_rate=sample_rate)
        self._channels = channels
        self._bits = (runtime.codebooks.shape[1] - 1).bit_length()
        self._next: int | None = None

    def push(self, packet: bytes) -> Floats:
        """A packet -> the samples now complete, `[channels, any]`."""
        parsed = self._parse(packet)
        missing = (parsed.number - self._next) % NUMBERS if parsed and self._next is not None else 0
        if parsed is None or missing >= NUMBERS - _LATE:  # its place is taken
            self.refused += 1
            return np.empty((self._channels, 0), np.float32)
        concealed = self.conceal(missing)
        self._next = (parsed.number + parsed.indices.shape[1]) % NUMBERS
        return np.concatenate([concealed, self._frames.push(parsed.indices)], axis=1)

    def _parse(self, packet: bytes) -> Packet | None:
        """A packet with codes of the model; None if it is damaged."""
        n_codebooks, size, _ = self._runtime.codebooks.shape
        try:
            parsed = Packet.from_bytes(packet, channels=self._channels, bits=self._bits)
        except FormatError:
            return None
        fits = parsed.indices.shape[2] <= n_codebooks and parsed.indices.max() < size
        return parsed if fits else None

    def conceal(self, n_frames: int = 1) -> Floats:
        """Samples in place of frames that did not come in time; packets with them are now late.

        Raises:
            InputError: no integer from 0 to 2047, the frames that packets can number.
        """
        if not isinstance(n_frames, int | np.integer) or not 0 <= n_frames < NUMBERS:
            raise InputError(f"n_frames must be an integer in 0..{NUMBERS - 1}, got {n_frames!r}")
        if not n_frames:
            return np.empty((self._channels, 0), np.float32)
        self.concealed += int(n_frames)
        if self._next is not None:
            self._next = (self._next + n_frames) % NUMBERS
        return self._frames.conceal(n_frames)

    def flush(self) -> Floats:
        """The last samples."""
        return self._frames.flush()

    def save(self) -> bytes:
        """All that the decoder remembers, for `restore`.

        Raises:
            InputError: the decoder resamples.
        """
        arrays: dict[str, npt.NDArray[Any]] = {
            "next": np.array([-1 if self._next is None else self._next], np.int64),
            "frames": np.frombuffer(self._frames.save(), np.uint8),
        }
        return save_state("stream decoder", self._runtime.hash, arrays)

    def restore(self, data: bytes) -> None:
        """Go on from where `save` was called, on this machine or another.

        Raises:
            FormatError: damaged, or not the state of a decoder with as many channels.
            ModelError: of another model.
        """
        layout: Layout = {"next": (np.int64, (1,)), "frames": (np.uint8, (None,))}
        arrays = load_state(data, "stream decoder", self._runtime.hash, layout)
        following = int(arrays["next"][0])
        check_state("number", -1 <= following < NUMBERS)
        self._frames.restore(arrays["frames"].tobytes())
        self._next = None if following < 0 else following


def _check_causal(runtime: Runtime) -> None:
    if not runtime.causal:
        raise InputError(
            f"model {runtime.name} is not causal: it looks ahead, so it cannot stream; encode and "
            "decode files with it"
        )
