"""Codes at a variable bitrate: as many as a frame needs, chosen by what they really cost.

The search weighs squared error against λ · bits. Of the noise in pauses only level and colour are
heard: there, frames have one layer, chosen with a greater λ. They cost little, and the noise stays.
"""

from numbers import Real

import numpy as np
import numpy.typing as npt

from rvq.bitstream.bitrates import codebooks_at, kbps_per_codebook
from rvq.bitstream.entropy import EntropyModel
from rvq.codec.defaults import BEAM_SIZE
from rvq.codec.entropy_constrained import EntropyConstrainedSearch
from rvq.codec.frames import FrameEncoder
from rvq.codec.runtime import Runtime
from rvq.errors import InputError

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]

_SEARCHED = 75
"""Frames that are searched together, and after which an average bitrate is looked after."""
_BRAKE, _DRIFT = 1.0, 0.1
"""By how much quality falls, at once and for good, per second of an average bitrate overspent."""
_LEAST = -3.0
"""Quality that a low average bitrate may fall to."""
_FIRST, _PER_STEP = 0.6, 1.4
"""kbps that speech takes at quality 0, and more with every step, about."""
_LAYERS, _LAYERS_PER_STEP = 4, 2
"""The most layers at quality 0, and how many more with every step."""
_QUIET = -34.0
"""dB below the loudest frame of late, this second's with it: a frame so quiet may be of a pause."""
_BEFORE, _AFTER = 1, 2
"""Frames around it that must be as quiet: its window and the network's lookahead reach them."""
_PAUSE = 12
"""Such frames on end that make a pause, 200 ms with those around."""
_LESS = 3.5
"""By how much quality is lower in pauses."""
_SILENT = 1e-5
"""Mean square below which a frame is not loud whatever else there is: -50 dB full scale."""
_FORGETTING = 0.94
"""Of the loudest frame, per second: a quarter of a decibel."""


class VariableEncoder(FrameEncoder):
    """Turns samples into codes, -1 where a frame lacks a layer, a second at a time.

    Args:
        runtime: the model.
        entropy: what the codes will be coded by.
        channels: coded one by one.
        sample_rate: of the samples, Hz.
        n_codebooks: the most codes per frame.
        beam_size: hypotheses that the search follows per frame, 1 to 32; 1 is greedy search.
        quality: constant; every step of 1 makes a bit worth half the error. About 3 to 9.
        bitrate: or the average to reach, kbps per channel, from one codebook's to all of them; the
            quality follows, up to 12. What is counted and how near it comes: `Codec.encode`.

    Raises:
        InputError: neither quality nor bitrate, or both, no number, or out of range.
    """

    def __init__(
        self,
        runtime: Runtime,
        entropy: EntropyModel,
        *,
        channels: int,
        sample_rate: int,
        n_codebooks: int,
        beam_size: int = BEAM_SIZE,
        quality: float | None = None,
        bitrate: float | None = None,
    ) -> None:
        if (quality is None) == (bitrate is None):
            raise InputError("give either a quality or an average bitrate")
        for name, value in (("quality", quality), ("an average bitrate", bitrate)):
            if value is not None and not isinstance(value, Real):
                raise InputError(f"{name} must be a number, got {value!r}")
        if quality is not None and not 0 <= quality <= 12:
            raise InputError(f"quality must be 0 to 12, got {quality:g}")
        if bitrate is not None:
            each = kbps_per_codebook(runtime.frame_rate, runtime.codebooks.shape[1])
            codebooks_at(bitrate, each, len(runtime.codebooks))  # refuses what none has room for
            # It starts from the quality that speech gets at it, about.
            quality = float(np.clip((bitrate - _FIRST) / _PER_STEP, 0, 12))
        self._quality = quality or 0.0
        # A layer costs four bytes of every block even where hardly any frame has it.
        n_codebooks = min(n_codebooks, _LAYERS + round(_LAYERS_PER_STEP * self._quality))
        super().__init__(
            runtime,
            channels=channels,
            sample_rate=sample_rate,
            n_codebooks=n_codebooks,
            beam_size=beam_size,
        )
        self._search = EntropyConstrainedSearch(runtime.codebooks, entropy, beam_size=beam_size)
        self._target = bitrate
        self._bits = 0.0  # spent beyond the average
        self._latents = np.empty((channels, 0, runtime.codebooks.shape[2]), np.float32)
        self._levels = np.empty((channels, 0))
        self._loudest = np.full(channels, _SILENT)
        self._quiet = np.zeros(channels, np.int64)  # frames on end, up to now
        self._scale = float(np.square(runtime.codebooks[0], dtype=np.float64).sum(axis=1).mean())

    def flush(self) -> Indices:
        """The codes of what is pending."""
        codes = super().flush()
        n = self._latents.shape[1]
        return np.concatenate([codes, self._block(n)], axis=1) if n else codes

    def save(self) -> bytes:
        """Refuse: what was spent and heard so far is remembered nowhere else.

        Raises:
            InputError: always.
        """
        raise InputError(
            "the state of an encoder at a variable bitrate cannot be saved: encode at a constant "
            "bitrate, or files as a whole"
        )

    def _quantize(self, latents: Floats, samples: Floats) -> Indices:
        missing = latents.shape[1] * self._runtime.hop_length - samples.shape[1]
        hops = np.pad(samples, ((0, 0), (0, missing))).reshape(*latents.shape[:2], -1)
        levels = np.square(hops, dtype=np.float64).mean(axis=2)
        self._latents = np.concatenate([self._latents, latents], axis=1)
        self._levels = np.concatenate([self._levels, levels], axis=1)
        parts = [np.empty((len(latents), 0, self.n_codebooks), np.int64)]
        while self._latents.shape[1] >= _SEARCHED:
            parts.append(self._block(_SEARCHED))
        return np.concatenate(parts, axis=1)

    def _block(self, n: int) -> Indices:
        """Codes of the next frames, `[channels, n, n_codebooks]`."""
        latents, self._latents = self._latents[:, :n], self._latents[:, n:]
        levels, self._levels = self._levels[:, :n], self._levels[:, n:]
        seconds = n / self._runtime.frame_rate
        quality = self._quality
        if self._target is not None:
            ahead = self._bits / (self._target * 1000)
            quality = float(np.clip(quality - _BRAKE * ahead, _LEAST, 12))
            self._quality = float(np.clip(self._quality - _DRIFT * ahead * seconds, _LEAST, 12))
        found = []
        for channel in range(len(latents)):
            pause = self._pauses(channel, levels[channel])
            qualities = quality - _LESS * pause
            found.append(
                self._search(
                    latents[channel],
                    self._scale * 2.0**-qualities / 100,
                    self.n_codebooks,
                    np.where(pause, 1, self.n_codebooks),
                )
            )
        if self._target is not None:
            spent = sum(block.bits for block in found) / len(found)
            self._bits += spent - self._target * 1000 * seconds
        return np.stack([block.codes for block in found])

    def _pauses(self, channel: int, levels: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
        """Which of the next frames are of pauses, `[n_frames]`."""
        padded = np.pad(levels, (_BEFORE, _AFTER), mode="edge")
        around = np.lib.stride_tricks.sliding_window_view(padded, _BEFORE + 1 + _AFTER).max(axis=1)
        loudest = max(self._loudest[channel] * _FORGETTING, around.max(), _SILENT)
        self._loudest[channel] = loudest
        pause = np.zeros(len(levels), bool)
        run = int(self._quiet[channel])
        for t, quiet in enumerate(around < loudest * 10 ** (_QUIET / 10)):
            run = run + 1 if quiet else 0
            if run >= _PAUSE:
                pause[max(0, t + 1 - run) : t + 1] = True
        self._quiet[channel] = run
        return pause
