"""Causal SEANets in C: every convolution a matrix product, block by block in the cache.

As with the default family, every number is computed by the same operations in the same order,
whatever kernel runs and however samples are cut into calls, so codes are equal to the bit. What
the C side has no layers for, such as dilations, ONNX Runtime runs.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from importlib import import_module
from threading import Lock
from typing import Any

import numpy as np

from rvq.codec.runtime import Floats, Runtime, State
from rvq.codec.waveform import WaveformRuntime
from rvq.model_folder import ModelFolder
from rvq.onnx_weights import read_weights

try:
    _native: Any = import_module("rvq.codec._seanet")
except ImportError:  # installed without a compiler
    _native = None

_PANEL = 32
"""Columns that a matrix has a multiple of."""
_BLOCK = 24
"""Frames that the C side takes at a time; the first ones must reach as far as layers reflect."""
_PADDINGS = ("zeros", "reflect", "replicate")


@lru_cache
def kernels() -> dict[str, int]:
    """Kernels that run on this processor, fastest first: name -> number."""
    return dict(_native.kernels()) if _native is not None else {}


def load_waveform(folder: ModelFolder, *, threads: int = 1) -> Runtime:
    """The fastest runtime of the family that this installation has for a model."""
    if kernels() and _fits(folder.card):
        return SeanetRuntime(folder, threads=threads)
    return WaveformRuntime(folder, threads=threads)


def _fits(card: dict[str, Any]) -> bool:
    """Whether the networks of a model can run here."""
    shape = card.get("model", {}).get("network", {})
    return (
        bool(shape.get("strides"))
        and shape["causal"]
        and shape["channels"] == 1
        and shape["norm"] in ("none", "weight_norm")
        and set(shape["dilations"]) == {1}
        and shape["width"] // shape["compress"] % 8 == 0
        and shape["width"] % _PANEL == shape["dim"] % _PANEL == 0
        and card["hop_length"] % _PANEL == 0
        and card["first_frames"] <= _BLOCK
    )


class SeanetRuntime(Runtime):
    """Causal models of `rvq.nn.seanet`.

    Args:
        folder: of the model.
        threads: that share the channels of a call.
        kernel: one of `kernels()`; default the fastest.
    """

    exact = True
    completes = True

    def __init__(self, folder: ModelFolder, *, threads: int = 1, kernel: str | None = None) -> None:
        super().__init__(folder, threads=threads)
        self._card = folder.card
        self._files = folder.files
        self._kernel = kernels()[kernel or next(iter(kernels()))]
        self._networks: dict[str, Any] = {}
        self._lock = Lock()
        self._pool = ThreadPoolExecutor(self.threads) if self.threads > 1 else None

    def start(self, part: str, channels: int) -> State:
        """See `Runtime`."""
        empty = np.zeros((channels, 0), np.float32)
        return State(empty, np.zeros((channels, self.state_sizes[part]), np.float32))

    def encode(self, audio: Floats, state: State) -> Floats:
        """See `Runtime`; the last call may end within a hop, which then makes a frame."""
        n_frames = -(-audio.shape[1] // self.hop_length)
        latents = np.empty((len(audio), n_frames, self.codebooks.shape[2]), np.float32)
        self._run("encoder", audio, state, latents)
        return latents

    def decode(self, latents: Floats, state: State) -> Floats:
        """See `Runtime`."""
        audio = np.empty((len(latents), latents.shape[1] * self.hop_length), np.float32)
        self._run("decoder", latents, state, audio)
        return audio

    def _run(self, part: str, source: Floats, state: State, out: Floats) -> None:
        """Run a network, prepared when first used: who only encodes need not wait for a decoder."""
        n = source.shape[1]
        if not n:
            return
        with self._lock:
            if part not in self._networks:
                weights = read_weights(self._files.pop(f"{part}.onnx"))
                self._networks[part] = _load(self._kernel, part, self._card, weights)
        network, source = self._networks[part], np.ascontiguousarray(source, np.float32)
        jobs = [(network, n, source[i], state.network[i], out[i]) for i in range(len(source))]
        if self._pool is None or len(jobs) == 1:
            for job in jobs:
                _native.run(*job)
        else:
            for done in [self._pool.submit(_native.run, *job) for job in jobs]:
                done.result()


class _Program:
    """Layers of a network as the C side takes them, and their weights.

    Three buffers hold steps; `at` is the one that the last layer wrote.
    """

    def __init__(self, shape: dict[str, Any], weights: dict[str, Floats]) -> None:
        self.layers: list[tuple[int, ...]] = []
        self.tensors: list[Floats] = []
        self.at = 0
        self._weights = weights
        self._padding = _PADDINGS.index(shape["padding"])
        self._chain = 0

    def next(self) -> str:
        """Where the weights of the next layer of the chain are."""
        self._chain += 1
        return f"chain.layers.{self._chain - 1}"

    def conv(
        self, name: str, to: int, *, elu: bool = True, stride: int = 1, add: bool = False
    ) -> None:
        """A convolution, after an ELU or not, its output added to what is at `to` or not."""
        weight, bias = self._weights[f"{name}.weight"], self._weights[f"{name}.bias"]
        outputs, inputs, kernel = weight.shape
        up = 1
        if stride == 1:  # several steps at once, until they fill a panel
            while up * outputs % _PANEL:
                up *= 2
        matrix = np.zeros((up, outputs, kernel + up - 1, inputs), np.float32)
        for i in range(up):
            matrix[i, :, i : i + kernel] = weight.transpose(0, 2, 1)
        sizes = (inputs, outputs, kernel + up - 1, stride if stride > 1 else up, up)
        self._add((self.at, to, elu, add, self._padding, *sizes), matrix, np.tile(bias, up))
        self.at = to

    def transposed(self, name: str, to: int) -> None:
        """A transposed convolution with a kernel of two strides, after an ELU."""
        weight, bias = self._weights[f"{name}.weight"], self._weights[f"{name}.bias"]
        inputs, outputs, kernel = weight.shape
        up = kernel // 2
        # Every step adds to its own `up` steps of output and to those of the step after it.
        later = weight.reshape(inputs, outputs, 2, up)[:, :, ::-1]
        matrix = later.transpose(3, 1, 2, 0)
        self._add((self.at, to, 1, 0, 0, inputs, outputs, 2, 1, up), matrix, np.tile(bias, up))
        self.at = to

    def lstm(self, name: str, n_layers: int) -> None:
        """The LSTM, in place."""
        for i in range(n_layers):
            heard, recalled = (self._weights[f"{name}.{part}_l{i}"][0] for part in ("ih", "hh"))
            biases = self._weights[f"{name}.bias_l{i}"].reshape(2, -1)
            self.tensors += [heard, biases[0] + biases[1], recalled]
        self.layers.append((self.at, heard.shape[1], n_layers))

    def _add(self, layer: tuple[int, ...], matrix: Floats, bias: Floats) -> None:
        self.layers.append(layer)
        self.tensors += [matrix, bias]


def _load(kernel: int, part: str, card: dict[str, Any], weights: dict[str, Floats]) -> Any:
    """A network ready to run."""
    shape = card["model"]["network"]
    program = _Program(shape, weights)

    def other() -> int:
        return (program.at + 1) % 3

    def recurrent() -> None:
        if shape["lstm_layers"]:
            program.lstm(f"{program.next()}.lstm", shape["lstm_layers"])

    def residual() -> None:
        for _ in shape["dilations"]:
            name, at, hidden = program.next(), program.at, other()
            to = 3 - at - hidden if shape["convolved_skip"] else at
            program.conv(f"{name}.block.layers.1.body.conv", hidden)
            if shape["convolved_skip"]:
                program.at = at
                program.conv(f"{name}.skip.conv", to, elu=False)
                program.at = hidden
            program.conv(f"{name}.block.layers.3.conv", to, add=True)

    program.conv(f"{program.next()}.body.conv", other(), elu=False)
    if part == "encoder":
        for stride in shape["strides"]:
            residual()
            program.next()  # the ELU
            program.conv(f"{program.next()}.body.conv", other(), stride=stride)
        recurrent()
    else:
        recurrent()
        for _ in shape["strides"]:
            program.next()
            program.transposed(f"{program.next()}.body.conv", other())
            residual()
    program.next()
    program.conv(f"{program.next()}.body.conv", other())
    steps, inputs = (card["hop_length"], 1) if part == "encoder" else (1, shape["dim"])
    tensors = tuple(np.ascontiguousarray(t, np.float32) for t in program.tensors)
    return _native.load(kernel, steps, inputs, tuple(program.layers), tensors)
