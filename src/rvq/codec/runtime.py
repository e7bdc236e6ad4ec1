"""Runs an exported model: lapped transforms in numpy, the networks in ONNX Runtime."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

from rvq.errors import ModelError

Floats = npt.NDArray[np.float32]

FORMAT = 2
"""Format of the model folders that this runtime loads."""


@dataclass
class State:
    """What a network remembers between calls.

    Attributes:
        samples: encoder: the last hop, first half of the next window; decoder: second half of the
            last window, which the next frame completes. `[channels, hop_length]`.
        network: what the network remembers of past frames, `[channels, any]`.
    """

    samples: Floats
    network: Floats


class Runtime:
    """The networks and codebooks of a model folder.

    Args:
        folder: written by `rvq.nn.export`.
        threads: processor threads per call.

    Raises:
        ModelError: no model there, a damaged one, or one of a newer version.
    """

    def __init__(self, folder: Path, *, threads: int = 1) -> None:
        card = _read_card(folder)
        self.name: str = card["name"]
        self.hash: str = card["hash"]
        self.sample_rate: int = card["sample_rate"]
        self.hop_length: int = card["hop_length"]
        self.delay: int = card["delay"]
        self._state_sizes = {part: int(card[f"{part}_state"]) for part in ("encoder", "decoder")}
        self._basis = lapped_basis(self.hop_length)
        from safetensors.numpy import load

        data = {}
        digest = hashlib.sha256()
        for file in ("encoder.onnx", "decoder.onnx", "codebooks.safetensors"):
            try:
                data[file] = (folder / file).read_bytes()
            except OSError as error:
                raise ModelError(
                    f"model {folder} is incomplete: {file}: {error.strerror}"
                ) from None
            digest.update(data[file])
        if digest.hexdigest() != self.hash:
            raise ModelError(f"the files of model {folder} do not match its card; install it again")
        self.codebooks: Floats = load(data["codebooks.safetensors"])["codebooks"].astype(np.float32)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._encoder = self._session(data["encoder.onnx"], options)
        self._decoder = self._session(data["decoder.onnx"], options)

    @staticmethod
    def _session(
        network: bytes, options: onnxruntime.SessionOptions
    ) -> onnxruntime.InferenceSession:
        return onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])

    @property
    def frame_rate(self) -> float:
        """Frames per second."""
        return self.sample_rate / self.hop_length

    @property
    def latency(self) -> float:
        """Algorithmic latency in seconds: from a sample's arrival to the same sample's output."""
        return (1 + self.delay) * self.hop_length / self.sample_rate

    def start(self, part: str, channels: int) -> State:
        """State of the `encoder` or `decoder` before the first frame."""
        return State(
            np.zeros((channels, self.hop_length), np.float32),
            np.zeros((channels, self._state_sizes[part]), np.float32),
        )

    def encode(self, audio: Floats, state: State) -> Floats:
        """Audio `[channels, n_frames * hop_length]` -> latents `[channels, n_frames, dim]`."""
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
        """Latents -> audio `[channels, n_frames * hop_length]`, late by `delay` hops."""
        feeds = {"latents": latents, "state": state.network}
        coefficients, state.network = self._decoder.run(["coefficients", "next_state"], feeds)
        frames = coefficients @ self._basis[:, : self.hop_length].T
        first, second = np.split(frames, 2, axis=-1)
        completed = np.concatenate([state.samples[:, None], second], axis=1)
        state.samples = completed[:, -1]
        return (first + completed[:, :-1]).reshape(len(latents), -1)


def lapped_basis(hop: int) -> Floats:
    """MDCT and MDST with a sine window as one matrix, `[2 * hop, 2 * hop]`, cosines first."""
    n = np.arange(2 * hop)[:, None] + 0.5
    angle = np.pi / hop * (n + hop / 2) * (np.arange(hop) + 0.5)
    window = np.sin(np.pi * n / (2 * hop)) * np.sqrt(2 / hop)
    return np.hstack([window * np.cos(angle), window * np.sin(angle)]).astype(np.float32)


def _read_card(folder: Path) -> dict:
    try:
        card = json.loads((folder / "model.json").read_text())
    except OSError:
        raise ModelError(f"no model at {folder}: it has no model.json") from None
    except ValueError:
        raise ModelError(f"the card of model {folder} is damaged; install it again") from None
    if card.get("format", 0) > FORMAT:
        raise ModelError(f"model {folder} needs a newer rvq; upgrade to use it")
    if card.get("format", 0) < FORMAT:
        raise ModelError(
            f"model {folder} is from an older rvq; export it again from its checkpoint"
        )
    return card
