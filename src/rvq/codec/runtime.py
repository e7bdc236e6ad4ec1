"""A model as the codec runs it: the folder that `rvq.nn.export` wrote, checked, loaded and run."""

import copy
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rvq.codec.search import CodeFinder, CodeSearch
from rvq.errors import ModelError
from rvq.quantize.search import n_cores
from rvq.replacing import replacing

Floats = npt.NDArray[np.float32]

FORMAT = 2
"""Format of the model folders that this runtime loads."""
STRETCH = 75
"""Frames per call of a network, usually."""
_CODEBOOKS = "codebooks.safetensors"
_FILES = ("encoder.onnx", "decoder.onnx", _CODEBOOKS)


@dataclass(frozen=True)
class ModelFolder:
    """What a model folder holds.

    Attributes:
        card: facts about the model, from `model.json`.
        files: contents by name, which the card's hash vouches for.
    """

    card: dict[str, Any]
    files: dict[str, bytes]

    @classmethod
    def read(cls, folder: Path) -> "ModelFolder":
        """Read and check a folder.

        Raises:
            ModelError: no model there, a damaged one, or one of another version.
        """
        card = _read_card(folder)
        files = {}
        for file in _FILES:
            try:
                files[file] = (folder / file).read_bytes()
            except OSError as error:
                raise ModelError(
                    f"model {folder} is incomplete: {file}: {error.strerror}"
                ) from None
        if _hash(files) != card["hash"]:
            raise ModelError(f"the files of model {folder} do not match its card; install it again")
        return cls(card, files)

    def extended(self, codebooks: Floats) -> "ModelFolder":
        """The same networks with codebooks `[n, codebook_size, dim]` after those there are."""
        from safetensors.numpy import load, save

        tensors = load(self.files[_CODEBOOKS])
        kept = tensors["codebooks"]
        tensors["codebooks"] = np.concatenate([kept, codebooks.astype(kept.dtype)])
        files = self.files | {_CODEBOOKS: save(tensors)}
        card = copy.deepcopy(self.card)
        card |= {"hash": _hash(files), "n_codebooks": len(tensors["codebooks"])}
        card["model"]["quantizer"]["n_codebooks"] = card["n_codebooks"]
        card["extended_from"] = self.card["hash"]
        return ModelFolder(card, files)

    def write(self, folder: Path) -> None:
        """Write it for others to read.

        Raises:
            InputError: the folder cannot be written.
        """
        texts = {"model.json": (json.dumps(self.card, indent=1) + "\n").encode()}
        for name, content in (self.files | texts).items():  # the card last, which vouches for them
            with replacing(folder / name) as temporary:
                temporary.write_bytes(content)


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
        self.first_frames: int = card.get("first_frames", 1)
        self.state_sizes = {part: int(card[f"{part}_state"]) for part in ("encoder", "decoder")}
        codebooks = load(folder.files["codebooks.safetensors"])["codebooks"]
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
    family = model.card.get("family", "spectral")
    if family not in families:
        raise ModelError(f"model {folder} is of the family {family!r}; upgrade rvq to use it")
    try:
        return families[family](model, threads=threads)
    except KeyError as missing:
        raise ModelError(f"the card of model {folder} lacks {missing}; install it again") from None


def session(network: bytes, threads: int) -> Any:
    """ONNX Runtime ready to run a network on the processor."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])


def _hash(files: Mapping[str, bytes]) -> str:
    digest = hashlib.sha256()
    for file in _FILES:
        digest.update(files[file])
    return digest.hexdigest()


def _read_card(folder: Path) -> dict[str, Any]:
    try:
        card = json.loads((folder / "model.json").read_text())
    except OSError:
        raise ModelError(f"no model at {folder}: it has no model.json") from None
    except (ValueError, RecursionError):
        card = None
    if not isinstance(card, dict) or not isinstance(card.get("hash"), str):
        raise ModelError(f"the card of model {folder} is damaged; install it again")
    if card.get("format", 0) > FORMAT:
        raise ModelError(f"model {folder} needs a newer rvq; upgrade to use it")
    if card.get("format", 0) < FORMAT:
        raise ModelError(
            f"model {folder} is from an older rvq; export it again from its checkpoint"
        )
    return card
