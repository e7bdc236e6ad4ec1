"""Runs an exported model: short-time transforms in numpy, the networks in ONNX Runtime."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

from rvq.errors import ModelError

Floats = npt.NDArray[np.float32]

FORMAT = 1
"""Newest format of model folders that this runtime loads."""


@dataclass
class State:
    """What a network remembers between calls.

    Attributes:
        samples: encoder: the past samples of the next window; decoder: sums that later frames
            complete. `[channels, window_length - hop_length]`.
        network: past frames of the convolutions, `[channels, n_blocks, kernel_size - 1, width]`.
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
        self.window_length: int = card["window_length"]
        self._state_shapes = {k: tuple(card[f"{k}_state"]) for k in ("encoder", "decoder")}
        window = np.hanning(self.window_length + 1)[:-1]
        # Least-squares overlap-add (Griffin & Lim 1984).
        hops = np.square(window).reshape(-1, self.hop_length)
        gain = np.tile(hops.sum(axis=0), len(hops))
        self._window = window.astype(np.float32)
        self._synthesis = (window / gain).astype(np.float32)
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
    def overlap(self) -> int:
        """Frames by which the decoder's output is late."""
        return self.window_length // self.hop_length - 1

    def start(self, part: str, channels: int) -> State:
        """State of the `encoder` or `decoder` before the first frame."""
        return State(
            np.zeros((channels, self.overlap * self.hop_length), np.float32),
            np.zeros((channels, *self._state_shapes[part]), np.float32),
        )

    def encode(self, audio: Floats, state: State) -> Floats:
        """Audio `[channels, n_frames * hop_length]` -> latents `[channels, n_frames, dim]`."""
        samples = np.concatenate([state.samples, audio], axis=1)
        state.samples = samples[:, samples.shape[1] - self.overlap * self.hop_length :]
        windows = np.lib.stride_tricks.sliding_window_view(samples, self.window_length, axis=1)
        spectrum = np.fft.rfft(windows[:, :: self.hop_length] * self._window)
        feeds = {"real": spectrum.real, "imag": spectrum.imag, "state": state.network}
        feeds = {name: np.ascontiguousarray(x, np.float32) for name, x in feeds.items()}
        latents, state.network = self._encoder.run(["latents", "next_state"], feeds)
        return latents

    def decode(self, latents: Floats, state: State) -> Floats:
        """Latents -> audio `[channels, n_frames * hop_length]`, late by `overlap` hops."""
        feeds = {"latents": latents, "state": state.network}
        real, imag, state.network = self._decoder.run(["real", "imag", "next_state"], feeds)
        frames = np.fft.irfft(real + 1j * imag, n=self.window_length).astype(np.float32)
        frames *= self._synthesis
        channels, n_frames, _ = frames.shape
        hops = np.zeros((channels, n_frames + self.overlap, self.hop_length), np.float32)
        hops[:, : self.overlap] = state.samples.reshape(channels, self.overlap, -1)
        for i in range(self.overlap + 1):
            start = i * self.hop_length
            hops[:, i : i + n_frames] += frames[:, :, start : start + self.hop_length]
        state.samples = hops[:, n_frames:].reshape(channels, -1)
        return hops[:, :n_frames].reshape(channels, -1)


def _read_card(folder: Path) -> dict:
    try:
        card = json.loads((folder / "model.json").read_text())
    except OSError:
        raise ModelError(f"no model at {folder}: it has no model.json") from None
    except ValueError:
        raise ModelError(f"the card of model {folder} is damaged; install it again") from None
    if card.get("format", 0) > FORMAT:
        raise ModelError(f"model {folder} needs a newer rvq; upgrade to use it")
    return card
