"""Samples in, codes out, and back, in pieces of any size and in constant memory.

The networks always see the same stretches of frames however the input was cut, so that codes do not
depend on how samples were pushed.
"""

import numpy as np
import numpy.typing as npt
import soxr

from rvq.codec.runtime import Runtime
from rvq.quantize.search import Search, decode

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]

STRETCH = 75
"""Frames per call of a network."""


class _Resampler:
    """soxr on `[channels, samples]`, in pieces; nothing at all where the rates agree."""

    def __init__(self, rate_in: int, rate_out: int, channels: int) -> None:
        self._stream = None
        if rate_in != rate_out:
            self._stream = soxr.ResampleStream(rate_in, rate_out, channels, dtype="float32")

    def push(self, audio: Floats, last: bool = False) -> Floats:
        if self._stream is None:
            return audio
        return self._stream.resample_chunk(np.ascontiguousarray(audio.T), last=last).T


class StreamEncoder:
    """Turns samples into codes as they come.

    Args:
        runtime: the model.
        channels: coded one by one.
        sample_rate: of the samples, Hz.
        n_codebooks: codes per frame.
    """

    def __init__(
        self, runtime: Runtime, *, channels: int, sample_rate: int, n_codebooks: int
    ) -> None:
        self._runtime = runtime
        self._search = Search(runtime.codebooks[:n_codebooks])
        self._resampler = _Resampler(sample_rate, runtime.sample_rate, channels)
        self._state = runtime.start("encoder", channels)
        self._pending = np.empty((channels, 0), np.float32)

    def push(self, audio: Floats) -> Indices:
        """Samples `[channels, any]` -> codes now complete, `[channels, n, n_codebooks]`."""
        self._pending = np.concatenate([self._pending, self._resampler.push(audio)], axis=1)
        stretch = STRETCH * self._runtime.hop_length
        whole = self._pending.shape[1] // stretch * stretch
        ready, self._pending = self._pending[:, :whole], self._pending[:, whole:]
        return self._encode(ready)

    def flush(self) -> Indices:
        """The codes of what is pending, and of the frames that complete the last samples."""
        channels = len(self._pending)
        rest = self._resampler.push(np.empty((channels, 0), np.float32), last=True)
        pending = np.concatenate([self._pending, rest], axis=1)
        hop = self._runtime.hop_length
        n_frames = -(-pending.shape[1] // hop) + self._runtime.delay
        pending = np.pad(pending, ((0, 0), (0, n_frames * hop - pending.shape[1])))
        return self._encode(pending)

    def _encode(self, audio: Floats) -> Indices:
        channels, hop = len(audio), self._runtime.hop_length
        parts = [np.empty((channels, 0, len(self._search.books.codebooks)), np.int64)]
        for start in range(0, audio.shape[1], STRETCH * hop):
            stretch = audio[:, start : start + STRETCH * hop]
            latents = self._runtime.encode(stretch, self._state)
            codes = self._search(latents.reshape(-1, latents.shape[2])).codes
            parts.append(codes.reshape(*latents.shape[:2], -1))
        return np.concatenate(parts, axis=1)


class StreamDecoder:
    """Turns codes back into samples as they come.

    Args:
        runtime: the model.
        channels: of the recording.
        sample_rate: of the recording, Hz.
    """

    def __init__(self, runtime: Runtime, *, channels: int, sample_rate: int) -> None:
        self._runtime = runtime
        self._resampler = _Resampler(runtime.sample_rate, sample_rate, channels)
        self._state = runtime.start("decoder", channels)
        self._late = runtime.delay * runtime.hop_length

    def push(self, indices: Indices) -> Floats:
        """Codes `[channels, n_frames, any prefix]` -> the samples now complete."""
        return self._resampler.push(self._decode(decode(indices, self._runtime.codebooks)))

    def skip(self, n_frames: int) -> Floats:
        """Silence in place of lost frames; the network goes on from neutral latents."""
        channels, dim = len(self._state.samples), self._runtime.codebooks.shape[2]
        lost = self._decode(np.zeros((channels, n_frames, dim), np.float32))
        # A few milliseconds of fade at both ends keep the gap from clicking.
        fade = np.zeros(lost.shape[1], np.float32)
        edge = min(self._runtime.hop_length, lost.shape[1] // 2)
        fade[:edge] = np.linspace(1, 0, edge)
        fade[lost.shape[1] - edge :] = np.linspace(0, 1, edge)
        return self._resampler.push(lost * fade)

    def flush(self) -> Floats:
        """The last samples."""
        return self._resampler.push(np.empty((len(self._state.samples), 0), np.float32), last=True)

    def _decode(self, latents: Floats) -> Floats:
        parts = [np.empty((len(latents), 0), np.float32)]
        for start in range(0, latents.shape[1], STRETCH):
            stretch = latents[:, start : start + STRETCH]
            parts.append(self._runtime.decode(stretch, self._state))
        audio = np.concatenate(parts, axis=1)
        skipped = min(self._late, audio.shape[1])
        self._late -= skipped
        return audio[:, skipped:]
