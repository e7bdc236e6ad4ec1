"""Samples -> codes -> samples, frame by frame or in pieces of any size, in constant memory.

A frame is coded as soon as its samples are there. With a runtime whose results are exact, codes do
not depend on how samples were pushed; with others, networks always see the same stretches of frames
for the same reason, and codes come a stretch at a time.
"""

from collections import deque
from typing import Any

import numpy as np
import numpy.typing as npt
import soxr

from rvq.bitstream.codes import check_indices
from rvq.codec.defaults import BEAM_SIZE
from rvq.codec.runtime import Runtime, State
from rvq.codec.snapshot import Layout, check_state, load_state, save_state
from rvq.errors import InputError
from rvq.quantize.search import check_beam_size, decode
from rvq.quantize.vectors import as_array

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]

# Of concealment, by PESQ on speech with 5 to 10% of frames lost, alone and in bursts of up to four,
# and by peaks with 30% lost (docs/streaming.md).
_DECAY = 0.7
"""Of the latents from one lost frame to the next."""
_HELD, _FADE = 3, 5
"""Lost frames at full loudness, and until silence from there."""
_LOUDEST = 16.0
"""24 dB above full scale. No recording in [-1, 1] overshoots so far, and one that was left in the
range of int16 stays below only in silence."""


def as_samples(audio: Any, channels: int | None = None) -> Floats:
    """Audio `[channels, any]` as float32.

    Args:
        audio: an array or torch tensor of floating-point numbers.
        channels: how many there must be; default any number.

    Raises:
        InputError: another shape, no floats, or what `check_samples` refuses.
    """
    array = as_array(audio, "audio")
    if array.ndim != 2 or array.dtype.kind != "f" or channels not in (None, len(array)):
        raise InputError(
            f"audio must be floating point, [{channels or 'channels'}, samples]; "
            f"got {array.dtype} of shape {array.shape}"
            + ("; divide int16 by 32768" if array.dtype == np.int16 else "")
        )
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused
        array = array.astype(np.float32, copy=False)
    check_samples(array, "audio")
    return array


def check_samples(samples: Floats, what: str) -> None:
    """Refuse samples, of any shape, that are no sound in [-1, 1]; some overshoot is.

    Args:
        samples: floating-point numbers.
        what: their name in the error, a file's for instance.

    Raises:
        InputError: NaN, infinity, or beyond 16.
    """
    peak = max(samples.max(initial=0), -samples.min(initial=0))  # NaN if any sample is
    if peak <= _LOUDEST:
        return
    if not np.isfinite(peak):
        raise InputError(f"{what} contains NaN or infinity; repair or remove those samples")
    raise InputError(
        f"{what} reaches {peak:g}, and samples are expected in [-1, 1]: divide int16 by 32768"
    )


def check_codes(indices: Indices, channels: int, codebooks: Floats) -> None:
    """Refuse codes that are not `[channels, any, 1 to n_codebooks]` of a model's codebooks.

    Raises:
        InputError: another shape, or what `check_indices` refuses.
    """
    n_codebooks, codebook_size, _ = codebooks.shape
    check_indices(indices, codebook_size)
    if len(indices) != channels or indices.shape[2] > n_codebooks:
        raise InputError(
            f"codes must be [{channels}, any, 1 to {n_codebooks}], got {indices.shape}"
        )


class Resampler:
    """soxr on `[channels, samples]`, in pieces; nothing at all where the rates agree."""

    def __init__(self, rate_in: int, rate_out: int, channels: int) -> None:
        self._stream = None
        if rate_in != rate_out:
            self._stream = soxr.ResampleStream(rate_in, rate_out, channels, dtype="float32")

    def push(self, audio: Floats, last: bool = False) -> Floats:
        """Samples -> those now complete at the other rate, all of them after the last."""
        if self._stream is None:
            return audio
        return self._stream.resample_chunk(np.ascontiguousarray(audio.T), last=last).T

    @property
    def idle(self) -> bool:
        """Whether the rates agree."""
        return self._stream is None


def _check_saved(runtime: Runtime, resampler: Resampler) -> None:
    """Refuse to save the state of a stream that other things remember, too."""
    if not resampler.idle:
        raise InputError(
            "the state of a stream can only be saved at the model's own sample rate, because a "
            "resampler remembers too; resample before the encoder and after the decoder"
        )
    if not runtime.causal:
        raise InputError(
            f"model {runtime.name} is not causal, and only states of causal models can be saved"
        )


class FrameEncoder:
    """Turns samples into codes as they come.

    Args:
        runtime: the model.
        channels: coded one by one.
        sample_rate: of the samples, Hz.
        n_codebooks: codes per frame.
        beam_size: code sequences that the search follows at once; 1 is greedy search.
        stretch: frames per call of a runtime that is not exact, and so the time until codes come.

    Attributes:
        n_codebooks: codes per frame; may be changed between calls.
        coded_channels: channels that the codes have.
    """

    def __init__(
        self,
        runtime: Runtime,
        *,
        channels: int,
        sample_rate: int,
        n_codebooks: int,
        beam_size: int = BEAM_SIZE,
        stretch: int | None = None,
    ) -> None:
        self.n_codebooks = n_codebooks
        self.coded_channels = channels
        self._runtime = runtime
        self._stretch = stretch if stretch and not runtime.exact else runtime.stretch
        self._resampler = Resampler(sample_rate, runtime.sample_rate, channels)
        self._state = runtime.start("encoder", channels)
        self._started = False
        check_beam_size(beam_size)
        self._beam_size = beam_size
        self._pending = np.empty((channels, 0), np.float32)

    def push(self, audio: Floats) -> Indices:
        """Samples `[channels, any]` in [-1, 1] -> codes now complete, `[channels, n, n_codebooks]`.

        Raises:
            InputError: see `as_samples`.
        """
        audio = as_samples(audio, len(self._pending))
        self._pending = np.concatenate([self._pending, self._resampler.push(audio)], axis=1)
        return self._encode(self._pending.shape[1] // self._runtime.hop_length, False)

    def flush(self) -> Indices:
        """The codes of what is pending, and of the frames that complete the last samples."""
        channels, hop = len(self._pending), self._runtime.hop_length
        rest = self._resampler.push(np.empty((channels, 0), np.float32), last=True)
        pending = np.concatenate([self._pending, rest], axis=1)
        n_frames = -(-pending.shape[1] // hop) + self._runtime.delay
        missing = 0 if self._runtime.completes else n_frames * hop - pending.shape[1]
        self._pending = np.pad(pending, ((0, 0), (0, missing)))
        codes = self._encode(n_frames, True)
        latents = self._runtime.finish("encoder", self._state)
        if latents is None:
            return codes
        return np.concatenate([codes, self._quantize(latents, self._pending)], axis=1)

    def save(self) -> bytes:
        """All that the encoder remembers, for `restore`.

        Raises:
            InputError: the encoder resamples, or the model is not causal.
        """
        _check_saved(self._runtime, self._resampler)
        numbers = np.array([self._started, self.n_codebooks], np.int64)
        arrays = {"numbers": numbers, "pending": self._pending, **vars(self._state)}
        return save_state("encoder", self._runtime.hash, arrays)

    def restore(self, data: bytes) -> None:
        """Go on from where `save` was called, on this machine or another.

        Raises:
            FormatError: damaged, or not the state of an encoder with as many channels.
            ModelError: of another model.
        """
        state = vars(self._state)
        layout: Layout = {
            "numbers": (np.int64, (2,)),
            "pending": (np.float32, (len(self._pending), None)),
            **{name: (np.float32, value.shape) for name, value in state.items()},
        }
        arrays = load_state(data, "encoder", self._runtime.hash, layout)
        started, n_codebooks = arrays["numbers"].tolist()
        check_state("number of codebooks", 1 <= n_codebooks <= len(self._runtime.codebooks))
        self._started, self.n_codebooks = bool(started), n_codebooks
        self._pending = arrays["pending"]
        self._state = State(**{name: arrays[name].copy() for name in state})

    def _encode(self, n_frames: int, last: bool) -> Indices:
        """The codes of as many of the first pending frames as may be coded now."""
        runtime, channels = self._runtime, len(self._pending)
        parts = [np.empty((channels, 0, self.n_codebooks), np.int64)]
        done = 0
        while done < n_frames:
            least = 1 if self._started else runtime.first_frames
            size = min(max(self._stretch, least), n_frames - done)
            if not last and size < (least if runtime.exact else max(self._stretch, least)):
                break
            samples = self._pending[:, done * runtime.hop_length :][:, : size * runtime.hop_length]
            latents = runtime.encode(samples, self._state)
            parts.append(self._quantize(latents, samples))
            self._started = True
            done += size
        self._pending = self._pending[:, done * runtime.hop_length :]
        return np.concatenate(parts, axis=1)

    def _quantize(self, latents: Floats, samples: Floats) -> Indices:
        """Latents `[channels, n_frames, dim]` and their samples -> the codes now complete."""
        search = self._runtime.search(self._beam_size)
        codes = search(latents.reshape(-1, latents.shape[2]), self.n_codebooks)
        return codes.reshape(*latents.shape[:2], codes.shape[1])


class FrameDecoder:
    """Turns codes back into samples as they come.

    Frames that never came are concealed: the last ones are repeated while the sound fades out, and
    it fades in again after them, so that it is never cut.

    Args:
        runtime: the model.
        channels: of the recording.
        sample_rate: of the recording, Hz.
    """

    def __init__(self, runtime: Runtime, *, channels: int, sample_rate: int) -> None:
        self._runtime = runtime
        self._resampler = Resampler(runtime.sample_rate, sample_rate, channels)
        self._state = runtime.start("decoder", channels)
        self._late = runtime.delay * runtime.hop_length
        self._started = False
        dim = runtime.codebooks.shape[2]
        self._waiting = np.empty((channels, 0, dim), np.float32)
        self._last = np.zeros((channels, dim), np.float32)
        self._n_lost = 0
        self._gain = 1.0
        # Loudness of the frames that came but are not yet heard.
        self._gains = deque([1.0] * runtime.delay)

    def push(self, indices: Indices) -> Floats:
        """Codes `[channels, n_frames, any prefix]` -> the samples now complete.

        Args:
            indices: integers in [0, codebook_size); -1 where a frame lacks a layer and above it.

        Raises:
            InputError: other shapes or numbers.
        """
        check_codes(indices, len(self._last), self._runtime.codebooks)
        latents = decode(indices, self._runtime.codebooks)
        if latents.shape[1]:
            self._last, self._n_lost = latents[:, -1], 0
        return self._resampler.push(self._decode(latents, [1.0] * latents.shape[1]))

    def conceal(self, n_frames: int) -> Floats:
        """Samples in place of those of lost frames."""
        return self._without(n_frames, _HELD, _FADE)

    def skip(self, n_frames: int) -> Floats:
        """Silence in place of lost frames, after a short fade, where a gap is known to be long."""
        return self._without(n_frames, 0, 2)

    def _without(self, n_frames: int, held: int, fade: int) -> Floats:
        lost = self._n_lost + np.arange(1, n_frames + 1)
        self._n_lost += n_frames
        gains = 1 - np.clip((lost - held) / fade, 0, 1)
        scale = np.where(gains > 0, _DECAY**lost, 0).astype(np.float32)
        audio = self._decode(self._last[:, None] * scale[:, None], gains.tolist())
        return self._resampler.push(audio)

    def flush(self) -> Floats:
        """The last samples."""
        empty = np.empty((len(self._last), 0, self._last.shape[1]), np.float32)
        return self._resampler.push(self._decode(empty, [], last=True), last=True)

    def save(self) -> bytes:
        """All that the decoder remembers, for `restore`.

        Raises:
            InputError: the decoder resamples, or the model is not causal.
        """
        _check_saved(self._runtime, self._resampler)
        arrays = {
            "numbers": np.array([self._late, self._started, self._n_lost, self._gain]),
            "gains": np.array(self._gains),
            "waiting": self._waiting,
            "last": self._last,
            **vars(self._state),
        }
        return save_state("decoder", self._runtime.hash, arrays)

    def restore(self, data: bytes) -> None:
        """Go on from where `save` was called, on this machine or another.

        Raises:
            FormatError: damaged, or not the state of a decoder with as many channels.
            ModelError: of another model.
        """
        state = vars(self._state)
        channels, dim = self._last.shape
        layout: Layout = {
            "numbers": (np.float64, (4,)),
            "gains": (np.float64, (None,)),
            "waiting": (np.float32, (channels, None, dim)),
            "last": (np.float32, self._last.shape),
            **{name: (np.float32, value.shape) for name, value in state.items()},
        }
        arrays = load_state(data, "decoder", self._runtime.hash, layout)
        late, started, n_lost, gain = arrays["numbers"].tolist()
        delay, hop = self._runtime.delay, self._runtime.hop_length
        check_state("delay", 0 <= late <= delay * hop)
        check_state("gains", len(arrays["gains"]) == delay + arrays["waiting"].shape[1])
        check_state("loss", n_lost >= 0)
        self._late, self._started, self._n_lost = int(late), bool(started), int(n_lost)
        self._gain = gain
        self._gains = deque(arrays["gains"].tolist())
        self._waiting, self._last = arrays["waiting"], arrays["last"]
        self._state = State(**{name: arrays[name].copy() for name in state})

    def _decode(self, latents: Floats, gains: list[float], last: bool = False) -> Floats:
        """Samples of what is complete, at the model's rate."""
        runtime = self._runtime
        self._gains.extend(gains)
        self._waiting = np.concatenate([self._waiting, latents], axis=1)
        n_frames = self._waiting.shape[1]
        parts = [np.empty((len(latents), 0), np.float32)]
        if self._started or last or n_frames >= runtime.first_frames:
            stretch = max(runtime.stretch, runtime.first_frames)
            for start in range(0, n_frames, stretch):
                piece = self._waiting[:, start : start + stretch]
                parts.append(runtime.decode(piece, self._state))
            self._started = True
            self._waiting = self._waiting[:, :0]
        rest = runtime.finish("decoder", self._state) if last else None
        if rest is not None:
            parts.append(rest)
        audio = self._fade(np.concatenate(parts, axis=1))
        skipped = min(self._late, audio.shape[1])
        self._late -= skipped
        return audio[:, skipped:]

    def _fade(self, audio: Floats) -> Floats:
        """Lead the loudness of every hop to that of its frame."""
        hop = self._runtime.hop_length
        due = [self._gains.popleft() for _ in range(audio.shape[1] // hop)]
        path = [self._gain, *due]
        self._gain = path[-1]
        if min(path) == 1:
            return audio
        steps = np.array(path, np.float32)
        rise = np.arange(1, hop + 1, dtype=np.float32) / hop
        envelope = steps[:-1, None] + np.diff(steps)[:, None] * rise
        return audio * envelope.ravel().astype(np.float32)
