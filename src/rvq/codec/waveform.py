"""Networks on samples themselves, such as SEANet's, wholly in ONNX Runtime."""

from threading import Lock
from typing import Any

import numpy as np

from rvq.codec.runtime import Floats, Runtime, State, session
from rvq.errors import ModelError
from rvq.model_folder import ModelFolder


class WaveformRuntime(Runtime):
    """Networks that take samples as they are; of SEANets those that `rvq.codec.seanet` leaves.

    Raises:
        ModelError: networks that look into the future, so that nothing can be coded as it comes.
    """

    completes = True

    def __init__(self, folder: ModelFolder, *, threads: int = 1) -> None:
        super().__init__(folder, threads=threads)
        network = folder.card.get("model", {}).get("network", {})
        if not network.get("causal", True):
            raise ModelError(
                f"model {self.name} is not causal, so it can neither stream nor code recordings "
                "piece by piece; run its checkpoint whole with `rvq.interop` in Python"
            )
        self._files = folder.files
        self._sessions: dict[str, Any] = {}
        self._lock = Lock()

    def start(self, part: str, channels: int) -> State:
        """See `Runtime`."""
        empty = np.zeros((channels, 0), np.float32)
        return State(empty, np.zeros((channels, self.state_sizes[part]), np.float32))

    def encode(self, audio: Floats, state: State) -> Floats:
        """See `Runtime`; the last call may end within a hop, which then makes a frame."""
        feeds = {"audio": audio[:, None], "state": state.network}
        latents, state.network = self._run("encoder", ["latents", "next_state"], feeds)
        return latents

    def decode(self, latents: Floats, state: State) -> Floats:
        """See `Runtime`."""
        feeds = {"latents": latents, "state": state.network}
        audio, state.network = self._run("decoder", ["audio", "next_state"], feeds)
        return audio[:, 0]

    def _run(self, part: str, outputs: list[str], feeds: dict[str, Floats]) -> list[Floats]:
        """Run a network, made when first used: who only encodes need not wait for a decoder."""
        with self._lock:
            if part not in self._sessions:
                self._sessions[part] = session(self._files.pop(f"{part}.onnx"), self.threads)
        return list(self._sessions[part].run(outputs, feeds))
