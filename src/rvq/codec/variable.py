"""Codes at a variable bitrate: as many as a frame needs, chosen by what they really cost.

Entropy-constrained search (Chou, Lookabaugh & Gray 1989) with the bits of the file's own entropy
coder: a codeword is taken for its squared error + λ · bits, and a frame ends where one more layer
would not be worth its bits. Silence, whose codes are expected and whose error is small anyway,
costs nearly nothing.
"""

import numpy as np
import numpy.typing as npt

from rvq.bitstream.container import FRAMES_PER_BLOCK
from rvq.bitstream.entropy import EntropyModel
from rvq.bitstream.tables import ABSENT
from rvq.codec.frames import FrameEncoder
from rvq.codec.runtime import Runtime
from rvq.errors import InputError

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]

_SAME, _OTHER = 0.25, 2.5
"""Bits, about, that a layer costs by being there or not as in the frame before, or otherwise."""
_BRAKE, _DRIFT = 1.0, 0.1
"""By how much quality falls, at once and for good, per second of an average bitrate overspent."""
_LAYERS, _LAYERS_PER_STEP = 4, 2
"""The most layers at quality 0, and how many more with every step."""
_QUIET = -35.0
"""dB below the loudest frame of late, from where frames matter less the quieter they are."""
_SILENT = 1e-5
"""Mean square below which nothing is heard whatever else there is: -50 dB full scale."""
_FORGETTING = 0.997
"""Of the loudest frame, per frame: a decibel a second."""


class VariableEncoder(FrameEncoder):
    """Turns samples into codes, -1 where a frame lacks a layer, a block of a file at a time.

    Args:
        runtime: the model.
        entropy: what the codes will be coded by.
        channels: coded one by one.
        sample_rate: of the samples, Hz.
        n_codebooks: the most codes per frame.
        quality: constant; every step of 1 makes a bit worth half the error. About 3 to 9.
        bitrate: or the average to reach, kbps per channel; the quality follows.

    Raises:
        InputError: neither quality nor bitrate, or both, or out of range.
    """

    def __init__(
        self,
        runtime: Runtime,
        entropy: EntropyModel,
        *,
        channels: int,
        sample_rate: int,
        n_codebooks: int,
        quality: float | None = None,
        bitrate: float | None = None,
    ) -> None:
        if (quality is None) == (bitrate is None):
            raise InputError("give either a quality or an average bitrate")
        if quality is not None and not 0 <= quality <= 12:
            raise InputError(f"quality must be 0 to 12, got {quality:g}")
        if bitrate is not None and not 0.1 <= bitrate <= 1000:
            raise InputError(f"an average bitrate must be 0.1 to 1000 kbps, got {bitrate:g}")
        # An average bitrate starts from the quality that speech gets at it, about.
        self._quality = min(bitrate / 1.75, 12.0) if bitrate is not None else quality or 0.0
        # A layer costs two bytes of every block even where hardly any frame has it.
        n_codebooks = min(n_codebooks, _LAYERS + round(_LAYERS_PER_STEP * self._quality))
        super().__init__(
            runtime,
            channels=channels,
            sample_rate=sample_rate,
            n_codebooks=n_codebooks,
            beam_size=1,
        )
        self._entropy = entropy
        self._target = bitrate
        self._bits = 0.0  # spent beyond the average
        self._latents = np.empty((channels, 0, runtime.codebooks.shape[2]), np.float32)
        self._levels = np.empty((channels, 0))
        self._loudest = np.full(channels, _SILENT)
        self._norms = np.square(runtime.codebooks, dtype=np.float64).sum(axis=2)

    def flush(self) -> Indices:
        """The codes of what is pending."""
        codes = super().flush()
        n = self._latents.shape[1]
        return np.concatenate([codes, self._block(n)], axis=1) if n else codes

    def _quantize(self, latents: Floats, samples: Floats) -> Indices:
        missing = latents.shape[1] * self._runtime.hop_length - samples.shape[1]
        hops = np.pad(samples, ((0, 0), (0, missing))).reshape(*latents.shape[:2], -1)
        levels = np.square(hops, dtype=np.float64).mean(axis=2)
        self._latents = np.concatenate([self._latents, latents], axis=1)
        self._levels = np.concatenate([self._levels, levels], axis=1)
        parts = [np.empty((len(latents), 0, self.n_codebooks), np.int64)]
        while self._latents.shape[1] >= FRAMES_PER_BLOCK:
            parts.append(self._block(FRAMES_PER_BLOCK))
        return np.concatenate(parts, axis=1)

    def _block(self, n: int) -> Indices:
        """Codes of the next block of a file, `[channels, n, n_codebooks]`."""
        latents, self._latents = self._latents[:, :n], self._latents[:, n:]
        levels, self._levels = self._levels[:, :n], self._levels[:, n:]
        seconds = n / self._runtime.frame_rate
        quality = self._quality
        if self._target is not None:
            ahead = self._bits / (self._target * 1000)
            quality = float(np.clip(quality - _BRAKE * ahead, 0, 12))
            self._quality = float(np.clip(self._quality - _DRIFT * ahead * seconds, 0, 12))
        lagrangian = self._norms[0].mean() * 2.0**-quality / 100
        found = [
            self._search(latents[channel], lagrangian * self._masking(channel, levels[channel]))
            for channel in range(len(latents))
        ]
        if self._target is not None:
            spent = sum(bits for _, bits in found) / len(found)
            self._bits += spent - self._target * 1000 * seconds
        return np.stack([codes for codes, _ in found])

    def _masking(self, channel: int, levels: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """How much less than a loud frame each frame matters, `[n_frames]`, at least 1."""
        # A frame is as loud as those that its window and the network's lookahead reach.
        near = 1 + self._runtime.delay
        padded = np.pad(levels, near, mode="edge")
        around = np.lib.stride_tricks.sliding_window_view(padded, 2 * near + 1).max(axis=1)
        weights = np.empty(len(levels))
        loudest = self._loudest[channel]
        for t, level in enumerate(around):
            loudest = max(loudest * _FORGETTING, level, _SILENT)
            weights[t] = max(1.0, loudest * 10 ** (_QUIET / 10) / max(level, 1e-12))
        self._loudest[channel] = loudest
        return weights

    def _search(
        self, latents: Floats, lagrangians: npt.NDArray[np.float64]
    ) -> tuple[Indices, float]:
        """Codes `[n_frames, n_codebooks]` of one channel, and their bits, about.

        Args:
            latents: `[n_frames, dim]`.
            lagrangians: λ of every frame.
        """
        n = len(latents)
        residual = latents.astype(np.float64)
        chosen = np.full((n, self.n_codebooks), -1, np.int64)
        known = np.zeros((1, n, self._entropy.width), np.int32)
        going = np.ones(n, bool)
        total = 0.0
        for layer in range(self.n_codebooks):
            codebook = self._runtime.codebooks[layer].astype(np.float64)
            bases = self._entropy.base(layer, known)
            distances = self._norms[layer] - 2 * residual @ codebook.T
            codes = np.full(n, ABSENT, np.uint16)
            for t in np.flatnonzero(going):
                lagrangian = lagrangians[t]
                bits = self._entropy.bits(layer, bases[t], codes[:t])
                costs = distances[t] + lagrangian * bits
                best = int(costs.argmin())
                spent = bits[best]
                if layer:
                    before = bool(t and codes[t - 1] != ABSENT)
                    there, absent = (_SAME, _OTHER) if before else (_OTHER, _SAME)
                    if costs[best] + lagrangian * there >= lagrangian * absent:
                        going[t] = False
                        total += absent
                        continue
                    spent += there
                total += spent
                codes[t] = best
                residual[t] -= codebook[best]
            chosen[:, layer] = np.where(codes == ABSENT, -1, codes.astype(np.int64))
            known += self._entropy.features(layer, chosen[None, :, layer])
            if not going.any():
                break
        return chosen, total
