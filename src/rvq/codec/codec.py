"""Codec: a model with the few verbs that its users need."""

from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import cached_property
from numbers import Integral, Real
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rvq.bitstream.bitrates import codebooks_at, kbps_per_codebook
from rvq.bitstream.codes import Codes
from rvq.bitstream.container import dumps, loads
from rvq.bitstream.entropy import FILE, EntropyModel
from rvq.codec.defaults import BEAM_SIZE
from rvq.codec.frames import FrameDecoder, FrameEncoder, as_samples
from rvq.codec.models import DEFAULT_MODEL, find
from rvq.codec.runtime import Runtime, load_runtime
from rvq.codec.segments import SegmentDecoder, SegmentEncoder, SegmentRuntime
from rvq.codec.streaming import StreamDecoder, StreamEncoder
from rvq.codec.variable import VariableEncoder
from rvq.errors import FormatError, InputError, ModelError
from rvq.quantize.vectors import as_codes

Floats = npt.NDArray[np.float32]

_FASTEST = 2**24
"""Hz; no recording has a higher sample rate, and a second of it would fill memory."""
_BEYOND = 2
"""Seconds by which a recording may be longer than its frames: the last of segments are short."""


class Codec:
    """A neural audio codec: encoder, residual vector quantizer, decoder.

    The bitrate is a choice of every call: each codebook adds `kbps_per_codebook` per channel.

    Example:
        >>> import numpy as np, rvq
        >>> codec = rvq.Codec.load()
        >>> audio = np.zeros((1, 16000), np.float32)
        >>> data = codec.compress(audio, 16000, bitrate=3)
        >>> codec.decompress(data).shape
        (1, 16000)
    """

    def __init__(self, runtime: Runtime, folder: Path | None = None) -> None:
        self.runtime = runtime
        self.folder = folder

    @classmethod
    def load(cls, name_or_path: str | Path = DEFAULT_MODEL, *, threads: int = 1) -> "Codec":
        """Load a model of the package by name, or an exported folder.

        Args:
            name_or_path: of the model.
            threads: processor threads that share a call; 0 for all cores.

        Raises:
            ModelError: there is no such model, or it is damaged.
            InputError: threads is no number of threads.
        """
        if not isinstance(threads, int | Integral) or threads < 0:
            raise InputError(f"threads must be an integer, 0 for all cores, got {threads!r}")
        folder = find(name_or_path)
        return cls(load_runtime(folder, threads=threads), folder)

    def __reduce__(self) -> tuple[Callable[..., "Codec"], tuple[Path, int]]:
        """For worker processes: they load the model anew."""
        if self.folder is None:
            raise TypeError("a codec that was not loaded from a folder cannot be pickled")
        return _load, (self.folder, self.runtime.threads)

    @cached_property
    def entropy(self) -> EntropyModel | None:
        """What files are coded by; None if the folder has nothing learned from this very model.

        Raises:
            ModelError: the folder's entropy model is damaged.
        """
        if self.folder is None or not (self.folder / FILE).exists():
            return None
        learned = EntropyModel.load(self.folder / FILE)
        return learned if learned.model_hash == self.model_hash else None

    @property
    def frame_rate(self) -> Fraction:
        """Frames of codes per second."""
        return self.runtime.code_rate

    @property
    def model_hash(self) -> str:
        """Content hash of the model; compressed files name it."""
        return self.runtime.hash

    @property
    def codebook_size(self) -> int:
        """Codewords per codebook."""
        return self.runtime.codebooks.shape[1]

    @property
    def kbps_per_codebook(self) -> float:
        """Bitrate of one codebook and channel, kbps."""
        return kbps_per_codebook(self.runtime.frame_rate, self.codebook_size)

    def n_codebooks(self, bitrate: float | None) -> int:
        """Codebooks used at a bitrate in kbps per channel: as many as fit; all for None.

        Raises:
            InputError: no number, less than one codebook needs, or more than there are.
        """
        available = len(self.runtime.codebooks)
        if bitrate is None:
            return available
        if not isinstance(bitrate, float | Real):
            raise InputError(f"bitrate must be a number of kbps, got {bitrate!r}")
        return codebooks_at(bitrate, self.kbps_per_codebook, available)

    def frame_encoder(
        self,
        *,
        channels: int,
        sample_rate: int,
        bitrate: float | None = None,
        beam_size: int = BEAM_SIZE,
    ) -> FrameEncoder | SegmentEncoder:
        """An encoder of samples that come in pieces, to codes."""
        choices = {
            **_signal(channels, sample_rate),
            "n_codebooks": self.n_codebooks(bitrate),
            "beam_size": beam_size,
        }
        if isinstance(self.runtime, SegmentRuntime):
            return SegmentEncoder(self.runtime, **choices)
        return FrameEncoder(self.runtime, **choices)

    def variable_encoder(
        self,
        *,
        channels: int,
        sample_rate: int,
        quality: float | None = None,
        average: float | None = None,
        beam_size: int = BEAM_SIZE,
    ) -> VariableEncoder:
        """An encoder at a variable bitrate; arguments as for `encode`.

        Raises:
            InputError: neither quality nor average, or out of range.
            ModelError: the model has no entropy model, or is not causal.
        """
        if not self.runtime.causal:
            raise ModelError(
                f"model {self.runtime.name} is not causal and codes at constant bitrates only: "
                "give a bitrate"
            )
        if self.entropy is None:
            raise ModelError(
                f"model {self.runtime.name} has no entropy model, which a variable bitrate needs: "
                "make one by `rvq learn-entropy`"
            )
        return VariableEncoder(
            self.runtime,
            self.entropy,
            **_signal(channels, sample_rate),
            n_codebooks=self.n_codebooks(None),
            beam_size=beam_size,
            quality=quality,
            bitrate=average,
        )

    def frame_decoder(self, *, channels: int, sample_rate: int) -> FrameDecoder | SegmentDecoder:
        """A decoder of codes of so many channels that come in pieces."""
        signal = _signal(channels, sample_rate)
        if isinstance(self.runtime, SegmentRuntime):
            return SegmentDecoder(self.runtime, **signal)
        return FrameDecoder(self.runtime, **signal)

    def encoder_for(
        self,
        channels: int,
        sample_rate: int,
        *,
        bitrate: float | None = None,
        quality: float | None = None,
        average: float | None = None,
        beam_size: int = BEAM_SIZE,
    ) -> FrameEncoder | SegmentEncoder:
        """The encoder for a bitrate, a quality or an average bitrate.

        Raises:
            InputError: more than one of them, or out of range.
            ModelError: a variable bitrate with a model that has no entropy model.
        """
        if sum(choice is not None for choice in (bitrate, quality, average)) > 1:
            raise InputError("give only one of bitrate, quality and average bitrate")
        if quality is None and average is None:
            return self.frame_encoder(
                channels=channels, sample_rate=sample_rate, bitrate=bitrate, beam_size=beam_size
            )
        return self.variable_encoder(
            channels=channels,
            sample_rate=sample_rate,
            quality=quality,
            average=average,
            beam_size=beam_size,
        )

    def stream_encoder(
        self,
        *,
        channels: int,
        sample_rate: int,
        bitrate: float | None = None,
        beam_size: int = BEAM_SIZE,
        frames_per_packet: int = 1,
    ) -> StreamEncoder:
        """An encoder of samples as they come, to packets."""
        return StreamEncoder(
            self.runtime,
            **_signal(channels, sample_rate),
            n_codebooks=self.n_codebooks(bitrate),
            beam_size=beam_size,
            frames_per_packet=frames_per_packet,
        )

    def stream_decoder(self, *, channels: int, sample_rate: int) -> StreamDecoder:
        """A decoder of packets as they come, or do not."""
        return StreamDecoder(self.runtime, **_signal(channels, sample_rate))

    def check_model(self, model_hash: str) -> None:
        """Refuse codes of another model.

        Raises:
            ModelError: the hashes differ.
        """
        if model_hash[:16] != self.model_hash[:16]:
            raise ModelError(
                f"the codes were made with model {model_hash[:16]}, this is {self.runtime.name} "
                f"{self.model_hash[:16]}; load the model they were made with"
            )

    def check_length(self, n_frames: int, n_samples: int, sample_rate: int) -> None:
        """Refuse to make sound that so few frames cannot stand for: a few bytes could ask for days.

        Raises:
            FormatError: it is longer by seconds, or at a sample rate that none has.
        """
        longest = (n_frames / self.frame_rate + _BEYOND) * sample_rate
        if n_samples > longest or sample_rate > _FASTEST:
            raise FormatError(
                f"{n_frames} frames cannot stand for {n_samples} samples at {sample_rate} Hz: "
                "these codes are damaged"
            )

    def encode(
        self,
        audio: Floats,
        sample_rate: int,
        bitrate: float | None = None,
        *,
        quality: float | None = None,
        average: float | None = None,
        beam_size: int = BEAM_SIZE,
    ) -> Codes:
        """Audio -> codes.

        Args:
            audio: `[channels, samples]` in [-1, 1], any rate and length.
            sample_rate: Hz.
            bitrate: constant, kbps per channel before entropy coding; default the model's highest.
            quality: constant instead, 0 to 12; the bitrate follows the sound.
            average: bitrate in kbps per channel to reach on average instead, by what the sound
                needs from second to second. It counts the bits of the file's codes, after entropy
                coding, and is reached over time: recordings of a few seconds may end above it.
                Quality rises to 12 at most, which is about 11.7 kbps of speech: a higher average
                is accepted, as bitrates are, and not reached.
            beam_size: code sequences that the search follows at once, 1 to 32. 1 is greedy search:
                a little faster and a little worse, and the codes of a lower constant bitrate are
                exactly the first ones of a higher.

        Raises:
            InputError: audio of another shape, empty, not finite or far out of range; bitrate out
                of range.
        """
        audio = as_samples(audio)
        if not audio.size:
            raise InputError(f"audio must have samples, got {audio.shape}")
        encoder = self.encoder_for(
            len(audio),
            sample_rate,
            bitrate=bitrate,
            quality=quality,
            average=average,
            beam_size=beam_size,
        )
        parts = [encoder.push(audio), encoder.flush()]
        return self._codes(np.concatenate(parts, axis=1), sample_rate, audio.shape[1])

    def codes(self, indices: npt.ArrayLike) -> Codes:
        """Codes that came from elsewhere, a language model for instance, ready for `decode`.

        They stand for sound at the model's own sample rate.

        Args:
            indices: integers in [0, codebook_size), `[channels, n_frames, n_codebooks]`, with as
                many codebooks as there are or fewer.

        Raises:
            InputError: other shapes or numbers.
        """
        array = as_codes(
            indices, most=len(self.runtime.codebooks), codebook_size=self.codebook_size
        )
        if array.ndim != 3 or not array.size:
            raise InputError(
                f"codes must be [channels, n_frames, n_codebooks] and not empty, got {array.shape}"
            )
        rate = self.runtime.sample_rate
        n_samples = int(array.shape[1] * rate / self.frame_rate)
        return self._codes(array, rate, n_samples)

    def _codes(self, indices: npt.NDArray[np.int64], sample_rate: int, n_samples: int) -> Codes:
        """Codes of this model."""
        return Codes(
            indices=indices,
            codebook_size=self.codebook_size,
            sample_rate=sample_rate,
            n_samples=n_samples,
            model_hash=self.model_hash,
            frame_rate=self.frame_rate,
        )

    def decode(self, codes: Codes) -> Floats:
        """Codes -> audio `[channels, n_samples]` at the rate of the original.

        Raises:
            ModelError: codes of another model.
            InputError: no `Codes`, or codes that the model does not have.
            FormatError: more samples than the codes can stand for.
        """
        if not isinstance(codes, Codes):
            raise InputError(
                f"codes to decode must be rvq.Codes, got {type(codes).__name__}; `Codec.codes` "
                "makes them of an array"
            )
        self.check_model(codes.model_hash)
        indices, available = codes.indices, len(self.runtime.codebooks)
        if codes.n_codebooks > available or codes.codebook_size != self.codebook_size:
            raise InputError(
                f"codes of {codes.n_codebooks} codebooks of {codes.codebook_size} do not fit the "
                f"model's {available} of {self.codebook_size}"
            )
        self.check_length(indices.shape[1], codes.n_samples, codes.sample_rate)
        decoder = self.frame_decoder(channels=len(indices), sample_rate=codes.sample_rate)
        audio = np.concatenate([decoder.push(indices), decoder.flush()], axis=1)
        missing = max(0, codes.n_samples - audio.shape[1])
        return np.pad(audio, ((0, 0), (0, missing)))[:, : codes.n_samples]

    def compress(
        self,
        audio: Floats,
        sample_rate: int,
        bitrate: float | None = None,
        *,
        quality: float | None = None,
        average: float | None = None,
        beam_size: int = BEAM_SIZE,
        metadata: Mapping[str, str] | None = None,
    ) -> bytes:
        """Audio -> the bytes of an .rvq file; arguments as for `encode`, and text to keep in it."""
        codes = self.encode(
            audio, sample_rate, bitrate, quality=quality, average=average, beam_size=beam_size
        )
        variable = quality is not None or average is not None
        return dumps(
            codes,
            entropy=self.entropy,
            variable=variable,
            metadata=self.file_metadata(metadata),
            frames_per_block=self.runtime.frames_per_block,
        )

    def file_metadata(self, metadata: Mapping[str, str] | None) -> dict[str, str]:
        """Metadata for a file, with what its header has no field for: channels in one of codes."""
        together = self.runtime.channels
        coded = {"coded together": f"{together} channels"} if together > 1 else {}
        return {**(metadata or {}), **coded}

    def decompress(self, data: bytes) -> Floats:
        """The bytes of an .rvq file -> audio `[channels, samples]`.

        Raises:
            FormatError: damaged bytes. `rvq.codec.files.decode_file` plays what is left of them.
            ModelError: made with another model.
        """
        return self.decode(loads(data, entropy=self.entropy))


def _load(folder: Path, threads: int) -> Codec:
    return Codec.load(folder, threads=threads)


def _signal(channels: int, sample_rate: int) -> dict[str, int]:
    """What every encoder and decoder is told of the sound, checked."""
    if not isinstance(channels, Integral) or not 1 <= channels <= 255:
        turned = "; audio is [channels, samples]" if isinstance(channels, Integral) else ""
        raise InputError(f"channels must be an integer in 1..255, got {channels}{turned}")
    if not isinstance(sample_rate, Integral) or not 1000 <= sample_rate <= 768_000:
        raise InputError(f"sample_rate must be an integer, 1000 to 768000 Hz, got {sample_rate}")
    return {"channels": int(channels), "sample_rate": int(sample_rate)}
