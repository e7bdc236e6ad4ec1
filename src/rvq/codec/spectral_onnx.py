"""The default family without compiled kernels: transforms in numpy, networks in ONNX Runtime."""

import numpy as np

from rvq.codec.runtime import Floats, Runtime, State, session
from rvq.lapped import lapped_basis
from rvq.model_folder import DECODER, ENCODER, ModelFolder


class SpectralOnnxRuntime(Runtime):
    """Models of `rvq.nn.spectral`."""

    def __init__(self, folder: ModelFolder, *, threads: int = 1) -> None:
        super().__init__(folder, threads=threads)
        self._basis = lapped_basis(self.hop_length)
        self._encoder = session(folder.files[ENCODER], self.threads)
        self._decoder = session(folder.files[DECODER], self.threads)

    def start(self, part: str, channels: int) -> State:
        """See `Runtime`."""
        return State(
            np.zeros((channels, self.hop_length), np.float32),
            np.zeros((channels, self.state_sizes[part]), np.float32),
        )

    def encode(self, audio: Floats, state: State) -> Floats:
        """See `Runtime`; n_samples must be whole hops."""
        hop = self.hop_length
        samples = np.concatenate([state.samples, audio], axis=1)
        state.samples = samples[:, samples.shape[1] - hop :]
        windows = np.lib.stride_tricks.sliding_window_view(samples, 2 * hop, axis=1)[:, ::hop]
        cosine, sine = np.split(windows @ self._basis, 2, axis=-1)
        feeds = {
            "cosine": np.ascontiguousarray(cosine),
            "sine": np.ascontiguousarray(sine),
            "state": state.network,
        }
        latents, state.network = self._encoder.run(["latents", "next_state"], feeds)
        return latents

    def decode(self, latents: Floats, state: State) -> Floats:
        """See `Runtime`."""
        feeds = {"latents": latents, "state": state.network}
        coefficients, state.network = self._decoder.run(["coefficients", "next_state"], feeds)
        frames = coefficients @ self._basis[:, : self.hop_length].T
        first, second = np.split(frames, 2, axis=-1)
        completed = np.concatenate([state.samples[:, None], second], axis=1)
        state.samples = completed[:, -1]
        return (first + completed[:, :-1]).reshape(len(latents), -1)
