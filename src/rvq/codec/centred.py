"""Networks that see as much future as past, and a limited stretch of both, such as DAC's.

They run on chunks that overlap by what they can see. Of what a chunk makes, only those frames are
kept that saw all they could: together they are what the network makes of the whole recording.
Chunks lie at fixed places, so nothing depends on the pieces in which samples or codes come.
"""

from dataclasses import dataclass

import numpy as np

from rvq.codec.runtime import Floats, State
from rvq.codec.search import AngularSearch
from rvq.codec.waveform import WaveformRuntime
from rvq.model_folder import CODEBOOKS, ModelFolder

STRETCH = 150
"""Frames that a chunk adds; the more, the less is computed twice."""


@dataclass
class Waiting(State):
    """Frames that cannot be made yet, in `samples`: `[channels, n_frames, any]`.

    Attributes:
        past: how many of the first are made already, and kept for those after them to see.
    """

    past: int = 0


class CentredRuntime(WaveformRuntime):
    """Models with centred convolutions and nothing else over time, and factorised codebooks."""

    causal = False
    completes = False

    def __init__(self, folder: ModelFolder, *, threads: int = 1) -> None:
        from safetensors.numpy import load

        super().__init__(folder, threads=threads)
        self.stretch = STRETCH
        self._reach: dict[str, int] = folder.card["reach"]
        tensors = load(folder.files[CODEBOOKS])
        up = tensors["out_proj.weight"].transpose(0, 2, 1)
        codewords = tensors["codebooks"] @ up + tensors["out_proj.bias"][:, None]
        self._search = AngularSearch(
            self.codebooks, tensors["in_proj.weight"], tensors["in_proj.bias"], codewords
        )
        self.codebooks = codewords

    def search(self, beam_size: int) -> AngularSearch:
        """Of codes; always greedy."""
        return self._search

    def start(self, part: str, channels: int) -> State:
        """See `Runtime`."""
        size = self.hop_length if part == "encoder" else self.codebooks.shape[2]
        nothing = np.zeros((channels, 0), np.float32)
        return Waiting(np.zeros((channels, 0, size), np.float32), nothing)

    def encode(self, audio: Floats, state: State) -> Floats:
        """Audio of whole hops -> the latents of chunks now complete."""
        return self._through("encoder", audio.reshape(len(audio), -1, self.hop_length), state)

    def decode(self, latents: Floats, state: State) -> Floats:
        """Latents -> the audio of chunks now complete."""
        audio = self._through("decoder", latents, state)
        return audio.reshape(len(latents), -1)

    def finish(self, part: str, state: State) -> Floats:
        """The latents or the audio of what waits, the end of the recording."""
        assert isinstance(state, Waiting)
        made = self._chunk(part, state, state.samples.shape[1] - state.past)
        return made if part == "encoder" else made.reshape(len(made), -1)

    def _through(self, part: str, frames: Floats, state: State) -> Floats:
        """Add frames to those that wait, `[channels, n, any]`, and make those that can be made."""
        assert isinstance(state, Waiting)
        state.samples = np.concatenate([state.samples, frames], axis=1)
        made = [self._chunk(part, state, 0)]
        while state.samples.shape[1] >= state.past + self.stretch + self._reach[part]:
            made.append(self._chunk(part, state, self.stretch))
        return np.concatenate(made, axis=1)

    def _chunk(self, part: str, state: Waiting, n: int) -> Floats:
        """Make the first n frames that are not made yet, `[channels, n, any]`."""
        channels, reach, past = len(state.samples), self._reach[part], state.past
        if not n:
            size = self.codebooks.shape[2] if part == "encoder" else self.hop_length
            return np.empty((channels, 0, size), np.float32)
        seen = state.samples[:, : past + n + reach]
        if part == "encoder":
            (made,) = self._run(part, ["latents"], {"audio": seen.reshape(channels, 1, -1)})
        else:
            (audio,) = self._run(part, ["audio"], {"latents": seen})
            # Transposed convolutions of odd strides leave the last samples out.
            missing = seen.shape[1] * self.hop_length - audio.shape[2]
            whole = np.pad(audio[:, 0], ((0, 0), (0, missing)))
            made = whole.reshape(channels, -1, self.hop_length)
        state.samples = state.samples[:, max(0, past + n - reach) :]
        state.past = min(reach, past + n)
        return made[:, past : past + n]
