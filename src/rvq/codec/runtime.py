"""A model as the codec runs it: encoder, codebooks and decoder of a model folder."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rvq.codec.search import CodeFinder, CodeSearch
from rvq.errors import ModelError
from rvq.model_folder import CODEBOOKS, ModelFolder
from rvq.quantize.search import n_cores

Floats = npt.NDArray[np.float32]

STRETCH = 75
"""Frames per call of a network, usually."""


@dataclass
class State:
    """What a network remembers between calls.

    Attributes:
        samples: spectral family only. Encoder: the last hop, first half of the next window;
            decoder: second half of the last window, which the next frame completes.
            `[channels, hop_length]`.
        network: what the network remembers of past frames, `[channels, any]`.
    """

    samples: Floats
    network: Floats


class Runtime(ABC):
    """Encoder, codebooks and decoder of a model; a subclass for every family of networks.

    Attributes:
        name, hash: of the model.
        sample_rate: Hz.
        hop_length: samples per frame.
        channels: of the audio that are coded together.
        causal: whether sound can be coded as it comes. Other models look ahead; they code files.
        frames_per_block: frames in a block of a file; None for the default.
        delay: frames by which the decoder's output is late.
        first_frames: least number of frames in the first call of a network; one from then on.
        completes: whether the encoder makes a frame of a last hop that is not whole.
        codebooks: `[n_codebooks, codebook_size, dim]`.
        state_sizes: numbers that `encoder` and `decoder` remember per channel.
        threads: processor threads that share a call.
        stretch: frames per call that keep all threads busy in little memory.
        exact: whether results are the same to the bit however frames are cut into calls. Others
            differ in the last bits, and nearly tied codewords may fall either way.
    """

    channels = 1
    causal = True
    frames_per_block: int | None = None
    exact = False
    completes = False

    def __init__(self, folder: ModelFolder, *, threads: int = 1) -> None:
        from safetensors.numpy import load

        card = folder.card
        self.name: str = card["name"]
        self.hash: str = card["hash"]
        self.sample_rate: int = card["sample_rate"]
        self.hop_length: int = card["hop_length"]
        self.delay: int = card["delay"]
        self.first_frames: int = card["first_frames"]
        self.state_sizes: dict[str, int] = {
            part: card[f"{part}_state"] for part in ("encoder", "decoder")
        }
        codebooks = load(folder.files[CODEBOOKS])["codebooks"]
        self.codebooks: Floats = codebooks.astype(np.float32)
        self.threads = threads or n_cores()
        self.stretch = STRETCH
        self._searches: dict[int, CodeSearch] = {}

    def search(self, beam_size: int) -> CodeFinder:
        """Of codes, prepared once for every beam size."""
        if beam_size not in self._searches:
            self._searches[beam_size] = CodeSearch(
                self.codebooks, beam_size=beam_size, threads=self.threads
            )
        return self._searches[beam_size]

    @property
    def frame_rate(self) -> float:
        """Frames per second."""
        return self.sample_rate / self.hop_length

    @property
    def code_rate(self) -> Fraction:
        """Frames of codes per second of sound."""
        return Fraction(self.sample_rate, self.hop_length)

    @property
    def latency(self) -> float:
        """Algorithmic latency in seconds: from a sample's arrival to the same sample's output."""
        return (1 + self.delay) * self.hop_length / self.sample_rate

    @abstractmethod
    def start(self, part: str, channels: int) -> State:
        """State of the `encoder` or `decoder` before the first frame."""

    @abstractmethod
    def encode(self, audio: Floats, state: State) -> Floats:
        """Audio `[channels, n_samples]` -> latents `[channels, n_frames, dim]`."""

    @abstractmethod
    def decode(self, latents: Floats, state: State) -> Floats:
        """Latents -> audio `[channels, n_frames * hop_length]`, late by `delay` hops."""

    def finish(self, part: str, state: State) -> Floats | None:
        """What networks that look ahead held back at the end; None of others, which never do."""
        return None

    def encode_whole(self, audio: Floats) -> Floats:
        """A whole recording `[channels, n_samples]` -> latents `[channels, n_frames, dim]`."""
        state = self.start("encoder", len(audio))
        latents, rest = self.encode(audio, state), self.finish("encoder", state)
        return latents if rest is None else np.concatenate([latents, rest], axis=1)

    def decode_whole(self, latents: Floats) -> Floats:
        """Latents of a whole recording -> audio `[channels, n_samples]`, late by `delay` hops."""
        state = self.start("decoder", len(latents))
        audio, rest = self.decode(latents, state), self.finish("decoder", state)
        return audio if rest is None else np.concatenate([audio, rest], axis=1)


def load_runtime(folder: Path, *, threads: int = 1) -> Runtime:
    """Load a model folder.

    Args:
        folder: written by `rvq.nn.export`.
        threads: processor threads that share a call of a network; 0 for all cores.

    Raises:
        ModelError: no model there, a damaged one, or one of another version.
    """
    from rvq.codec.centred import CentredRuntime
    from rvq.codec.seanet import load_waveform
    from rvq.codec.segments import SegmentRuntime
    from rvq.codec.spectral import load_spectral

    families: dict[str, Callable[..., Runtime]] = {
        "spectral": load_spectral,
        "waveform": load_waveform,
        "segments": SegmentRuntime,
        "centred": CentredRuntime,
    }
    model = ModelFolder.read(folder)
    family = model.card["family"]
    if family not in families:
        raise ModelError(f"model {folder} is of the family {family!r}; upgrade rvq to use it")
    try:
        return families[family](model, threads=threads)
    except KeyError as missing:
        raise ModelError(f"model {folder} lacks {missing}; install it again") from None


def session(network: bytes, threads: int) -> Any:
    """ONNX Runtime ready to run a network on the processor."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])
