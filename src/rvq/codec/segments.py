"""Models that code a recording in segments, each by itself, such as EnCodec's at 48 kHz.

Segments overlap a little, and one is faded into the next. All channels are coded together, divided
by their loudness. That stands among the codes: a segment begins with a few frames whose codes of
the first codebook are the digits of one number, the others zeros. So codes alone are enough to
decode, files are cut to a lower bitrate as others are, and a block of a file is a segment.
"""

from fractions import Fraction

import numpy as np
import numpy.typing as npt

from rvq.codec.defaults import BEAM_SIZE
from rvq.codec.frames import Resampler, as_samples, check_codes
from rvq.codec.runtime import Floats, State
from rvq.codec.waveform import WaveformRuntime
from rvq.errors import InputError
from rvq.model_folder import ModelFolder
from rvq.quantize.search import decode

Indices = npt.NDArray[np.int64]

_STEPS = 2**20
"""At least so many different loudnesses: steps of 0.0002 dB."""
_QUIETEST, _LOUDEST = -27.0, 5.0
"""Powers of two; silence has a loudness of 1e-8."""


class SegmentRuntime(WaveformRuntime):
    """Networks that take whole segments.

    Attributes:
        length: samples of a segment, except the last.
        stride: samples from one segment to the next.
        n_head: frames of codes before the segment's own, which hold its loudness.
        frames_per_segment: both, in every segment but the last.
    """

    causal = False

    def __init__(self, folder: ModelFolder, *, threads: int = 1) -> None:
        super().__init__(folder, threads=threads)
        self.channels: int = folder.card["channels"]
        segment = folder.card["segment"]
        self.length: int = segment["length"]
        self.stride: int = segment["stride"]
        size = self.codebooks.shape[1]
        self.n_head = 0
        while segment["normalise"] and size**self.n_head < _STEPS:
            self.n_head += 1
        self.frames_per_segment = self.n_head + -(-self.length // self.hop_length)
        self.frames_per_block = self.frames_per_segment

    @property
    def code_rate(self) -> Fraction:
        """See `Runtime`; a little more than frames per second of a segment."""
        return Fraction(self.frames_per_segment * self.sample_rate, self.stride)

    def start(self, part: str, channels: int) -> State:
        """Refuse: there are no frames that follow each other.

        Raises:
            InputError: always.
        """
        raise InputError(
            f"model {self.name} codes segments of {self.length / self.sample_rate:g} s as a whole, "
            "so it cannot stream or work frame by frame; encode and decode files with it"
        )

    def encode_segment(self, samples: Floats) -> tuple[Floats, float]:
        """A segment `[channels, n_samples]` -> latents `[n_frames, dim]` and its loudness."""
        loudness = 1.0
        if self.n_head:
            loudness = 1e-8 + float(np.sqrt(np.square(samples.mean(axis=0)).mean()))
        audio = samples / np.float32(loudness)
        return self._run("encoder", ["latents"], {"audio": audio[None]})[0][0], loudness

    def decode_segment(self, latents: Floats, loudness: float) -> Floats:
        """Latents `[n_frames, dim]` and loudness -> audio `[channels, n_frames * hop_length]`."""
        audio = self._run("decoder", ["audio"], {"latents": latents[None]})[0][0]
        return audio * np.float32(loudness)

    def cross_fade(self) -> "CrossFade":
        """What joins the segments of a recording."""
        whole = (self.frames_per_segment - self.n_head) * self.hop_length
        return CrossFade(channels=self.channels, n_samples=whole, stride=self.stride)

    def head(self, loudness: float, n_codebooks: int) -> Indices:
        """Codes `[n_head, n_codebooks]` that hold a loudness."""
        size = self.codebooks.shape[1]
        share = (np.log2(loudness) - _QUIETEST) / (_LOUDEST - _QUIETEST)
        number = round(min(max(share, 0.0), 1.0) * (size**self.n_head - 1))
        codes = np.zeros((self.n_head, n_codebooks), np.int64)
        for i in range(self.n_head):
            number, codes[i, 0] = divmod(number, size)
        return codes

    def loudness(self, head: Indices) -> float:
        """The loudness that codes `[n_head, any]` hold; 1 without any."""
        if not self.n_head:
            return 1.0
        size = self.codebooks.shape[1]
        number = sum(int(code) * size**i for i, code in enumerate(head[:, 0]))
        share = number / (size**self.n_head - 1)
        return float(2.0 ** (_QUIETEST + share * (_LOUDEST - _QUIETEST)))


class SegmentEncoder:
    """Turns samples into codes, a segment at a time.

    Args:
        runtime: the model.
        channels: of the recording: those of the model, or one, which is then all of them.
        sample_rate: of the samples, Hz.
        n_codebooks: codes per frame.
        beam_size: code sequences that the search follows at once; 1 is greedy search.

    Attributes:
        n_codebooks: codes per frame; may be changed between calls.
        coded_channels: channels that the codes have: one.

    Raises:
        InputError: another number of channels.
    """

    coded_channels = 1

    def __init__(
        self,
        runtime: SegmentRuntime,
        *,
        channels: int,
        sample_rate: int,
        n_codebooks: int,
        beam_size: int = BEAM_SIZE,
    ) -> None:
        if channels not in (1, runtime.channels):
            raise InputError(
                f"model {runtime.name} codes {runtime.channels} channels together, or one as if "
                f"it were so many; the recording has {channels}"
            )
        self.n_codebooks = n_codebooks
        self._runtime = runtime
        self._resampler = Resampler(sample_rate, runtime.sample_rate, channels)
        self._nearest = runtime.search(beam_size)
        self._pending = np.empty((channels, 0), np.float32)

    def push(self, audio: Floats) -> Indices:
        """Samples `[channels, any]` in [-1, 1] -> codes now complete, `[1, n_frames, n_codebooks]`.

        Raises:
            InputError: see `as_samples`.
        """
        audio = as_samples(audio, len(self._pending))
        self._pending = np.concatenate([self._pending, self._resampler.push(audio)], axis=1)
        codes = [np.empty((0, self.n_codebooks), np.int64)]
        while self._pending.shape[1] >= self._runtime.length:
            codes.append(self._segment())
        return np.concatenate(codes)[None]

    def flush(self) -> Indices:
        """The codes of what is pending."""
        runtime, channels = self._runtime, len(self._pending)
        rest = self._resampler.push(np.empty((channels, 0), np.float32), last=True)
        self._pending = np.concatenate([self._pending, rest], axis=1)
        codes = [np.empty((0, self.n_codebooks), np.int64)]
        while n := self._pending.shape[1]:
            # All segments but the last have the same number of frames, so that they can be told
            # apart; where the one before the last lacks a few samples for that, silence is added.
            whole = runtime.length - (runtime.length - 1) % runtime.hop_length
            if runtime.stride < n < whole:
                self._pending = np.pad(self._pending, ((0, 0), (0, whole - n)))
            codes.append(self._segment())
        return np.concatenate(codes)[None]

    def _segment(self) -> Indices:
        """Codes of the next segment, `[n, n_codebooks]`."""
        runtime = self._runtime
        samples = self._pending[:, : runtime.length]
        self._pending = self._pending[:, runtime.stride :]
        samples = np.broadcast_to(samples, (runtime.channels, samples.shape[1]))
        latents, loudness = runtime.encode_segment(samples)
        head = runtime.head(loudness, self.n_codebooks)
        return np.concatenate([head, self._nearest(latents, self.n_codebooks)])


class SegmentDecoder:
    """Turns codes back into samples, a segment at a time.

    Segments that are not complete are silent.

    Args:
        runtime: the model.
        channels: of the codes: one.
        sample_rate: of the recording, Hz.

    Raises:
        InputError: another number of channels.
    """

    def __init__(self, runtime: SegmentRuntime, *, channels: int, sample_rate: int) -> None:
        if channels != 1:
            raise InputError(f"codes of model {runtime.name} have one channel, not {channels}")
        self._runtime = runtime
        self._resampler = Resampler(runtime.sample_rate, sample_rate, runtime.channels)
        self._pending = np.empty((0, len(runtime.codebooks)), np.int64)
        self._joined = runtime.cross_fade()

    def push(self, indices: Indices) -> Floats:
        """Codes `[1, n_frames, any prefix]` -> the samples now complete, `[channels, any]`.

        Args:
            indices: integers in [0, codebook_size).

        Raises:
            InputError: other shapes or numbers.
        """
        check_codes(indices, 1, self._runtime.codebooks)
        return self._push(indices)

    def _push(self, indices: Indices) -> Floats:
        """As `push`; lost frames are all -1."""
        missing = self._pending.shape[1] - indices.shape[2]
        codes = np.pad(indices[0], ((0, 0), (0, missing)), constant_values=-1)
        self._pending = np.concatenate([self._pending, codes])
        parts = [np.empty((self._runtime.channels, 0), np.float32)]
        size = self._runtime.frames_per_segment
        while len(self._pending) >= size:
            parts.append(self._joined.push(self._segment(self._pending[:size])))
            self._pending = self._pending[size:]
        return self._resampler.push(np.concatenate(parts, axis=1))

    def skip(self, n_frames: int) -> Floats:
        """Silence in place of lost frames and the others of their segment."""
        return self._push(np.full((1, n_frames, 1), -1))

    def flush(self) -> Floats:
        """The last samples."""
        last = self._joined.push(self._segment(self._pending))
        self._pending = self._pending[:0]
        audio = np.concatenate([last, self._joined.flush()], axis=1)
        return self._resampler.push(audio, last=True)

    def _segment(self, codes: Indices) -> Floats:
        """The samples of a segment, codes `[n_frames, n_codebooks]`."""
        runtime = self._runtime
        head, own = codes[: runtime.n_head], codes[runtime.n_head :]
        if not len(own) or codes[:, 0].min() < 0:
            return np.zeros((runtime.channels, len(own) * runtime.hop_length), np.float32)
        return runtime.decode_segment(decode(own, runtime.codebooks), runtime.loudness(head))


class CrossFade:
    """Joins segments, each faded over the end of the one before, as EnCodec does.

    Args:
        channels: of the recording.
        n_samples: of a whole segment.
        stride: samples from one segment to the next.
    """

    def __init__(self, *, channels: int, n_samples: int, stride: int) -> None:
        # From both ends of a whole segment weights rise to its middle.
        position = np.linspace(0, 1, n_samples + 2, dtype=np.float32)[1:-1]
        self._weights = 0.5 - np.abs(position - 0.5)
        self._stride = stride
        # Of samples that later segments add to: their weighted sum, and the sum of weights.
        self._sum = np.zeros((channels, 0), np.float32)
        self._total = np.zeros(0, np.float32)

    def push(self, audio: Floats) -> Floats:
        """The next segment `[channels, n]` -> samples that no later one adds to."""
        n = audio.shape[1]
        more = max(0, n - len(self._total))
        self._sum = np.pad(self._sum, ((0, 0), (0, more)))
        self._total = np.pad(self._total, (0, more))
        self._sum[:, :n] += self._weights[:n] * audio
        self._total[:n] += self._weights[:n]
        return self._take(self._stride if len(self._total) >= self._stride else 0)

    def flush(self) -> Floats:
        """The last samples."""
        return self._take(len(self._total))

    def _take(self, n: int) -> Floats:
        audio = self._sum[:, :n] / self._total[:n]
        self._sum, self._total = self._sum[:, n:], self._total[n:]
        return audio.astype(np.float32)
