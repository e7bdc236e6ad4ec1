"""Files of tensors: read without running code, each tensor checked by name as it is taken."""

import json
import math
import pickle
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar
from zipfile import BadZipFile

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from rvq.errors import ModelError

_FILES = ("model.safetensors", "pytorch_model.bin")
"""Of a folder in Hugging Face's layout, in order of preference."""

Network = TypeVar("Network", bound=nn.Module)


def find(name_or_path: str) -> Path:
    """A checkpoint on this disk, or a repository `OWNER/NAME` of the Hugging Face hub, downloaded.

    Raises:
        ModelError: there is no such file or folder, and it cannot be downloaded.
    """
    path = Path(name_or_path)
    if path.exists():
        return path
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name_or_path):
        raise ModelError(f"no checkpoint at {name_or_path}")
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise ModelError(
            f"no checkpoint at {name_or_path}; to download it from the hub, "
            "`pip install 'rvq[hub]'`"
        ) from None
    try:
        return Path(snapshot_download(name_or_path, allow_patterns=["config.json", *_FILES]))
    except Exception as error:  # of whichever network library it uses
        reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
        raise ModelError(
            f"no checkpoint at {name_or_path}, and it cannot be downloaded ({reason[0]}); without "
            "a connection, give the path of files that you have"
        ) from None


class Checkpoint:
    """Tensors of a file, taken one by one.

    Args:
        path: a `.safetensors` file, a state dict saved by torch, or a folder with `config.json`.

    Attributes:
        config: the fields of the `config.json` beside the tensors, empty without one.
        file: of the tensors.

    Raises:
        ModelError: no such file, or a damaged, truncated or foreign one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        file = path
        if path.is_dir():
            found = [path / name for name in _FILES if (path / name).is_file()]
            if not found:
                raise ModelError(f"no checkpoint in {path}: there is no {' or '.join(_FILES)}")
            file = found[0]
        elif not path.is_file():
            raise ModelError(f"no checkpoint at {path}")
        card = file.with_name("config.json")
        try:
            self.config = json.loads(card.read_text()) if card.is_file() else {}
        except (ValueError, RecursionError):
            raise ModelError(f"{card} is damaged: it is no JSON") from None
        if not isinstance(self.config, dict):
            raise ModelError(f"{card} is damaged: it holds no fields")
        self.file = file
        self._tensors = _read(file)

    def fields(self, model_type: str) -> dict:
        """The fields of the `config.json`.

        Raises:
            ModelError: there is none, or it is of another type of model.
        """
        found = self.config.get("model_type")
        if not self.config:
            raise ModelError(f"no config.json beside the tensors of {self.path}")
        if found != model_type:
            raise ModelError(f"config.json of {self.path} is of type {found!r}, not {model_type!r}")
        return self.config

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor.

        Raises:
            ModelError: it is missing.
        """
        if name not in self._tensors:
            raise ModelError(f"{self.path} has no tensor {name}; it is incomplete or another model")
        return tuple(self._tensors[name].shape)

    def take(self, name: str, shape: Iterable[int]) -> Tensor:
        """Remove a tensor from those left and return it as float32.

        Raises:
            ModelError: it is missing, has another shape or values that are not finite.
        """
        found, wanted = self.shape(name), tuple(shape)
        if found != wanted:
            raise ModelError(
                f"tensor {name} of {self.path} has shape {list(found)} and not {list(wanted)}; "
                "it is of another model"
            )
        tensor = self._tensors.pop(name).float()
        if not bool(tensor.isfinite().all()):
            raise ModelError(f"tensor {name} of {self.path} has values that are not finite")
        return tensor

    def take_weight(self, name: str, shape: Iterable[int]) -> Tensor:
        """The same for a weight that may be stored as its length and direction (weight norm)."""
        stem, shape = name.removesuffix("weight"), tuple(shape)
        for length, direction in (
            (f"{stem}weight_g", f"{stem}weight_v"),
            (
                f"{stem}parametrizations.weight.original0",
                f"{stem}parametrizations.weight.original1",
            ),
        ):
            if length in self or direction in self:
                ones = (1,) * (len(shape) - 1)
                v, g = self.take(direction, shape), self.take(length, (shape[0], *ones))
                return torch._weight_norm(v, g, 0)
        return self.take(name, shape)

    def build(self, make: Callable[[], Network]) -> Network:
        """A network, made only where the tensors left are of its size: a config may say any.

        Raises:
            ModelError: it would have over twice as many numbers as they; less is left to `take`,
                which names what is missing.
        """
        held = sum(tensor.numel() for tensor in self._tensors.values())
        try:
            with torch.device("meta"):  # shapes without memory
                sketch = make()
            wanted: float = sum(
                p.numel() for p in (*sketch.parameters(), *sketch.buffers()) if p.is_meta
            )
            said = f"a model of {wanted} numbers"
        except RuntimeError:  # a single tensor of more bytes than can be counted
            wanted, said = math.inf, "a model too large for any memory"
        if wanted > 2 * held:
            raise ModelError(
                f"config.json of {self.path} describes {said}, and its tensors hold {held}; "
                "a field such as hidden_size is damaged, or it is of another model"
            )
        return make()

    @torch.no_grad()
    def fill(self, network: nn.Module, name_of: Callable[[str], str]) -> None:
        """Give a network without weight norm the tensors that `name_of` its parameters' names.

        Raises:
            ModelError: as for `take`.
        """
        for name, parameter in network.named_parameters():
            take = self.take_weight if name.endswith("weight") else self.take
            parameter.copy_(take(name_of(name), parameter.shape))

    def drop(self, ending: str) -> None:
        """Forget tensors that are not needed."""
        self._tensors = {n: t for n, t in self._tensors.items() if not n.endswith(ending)}

    def finish(self) -> None:
        """Make sure that nothing is left.

        Raises:
            ModelError: there are tensors that no part of the model takes.
        """
        for name in self._tensors:
            raise ModelError(
                f"{self.path} has a tensor {name} that the model lacks; it is another model"
            )


def _read(file: Path) -> dict[str, Tensor]:
    if file.suffix == ".safetensors":
        _check_complete(file)
        try:
            return load_file(file)
        except (SafetensorError, OSError, ValueError) as error:
            raise ModelError(f"{file} is no safetensors file, or damaged: {error}") from None
    try:
        tensors = torch.load(file, map_location="cpu", weights_only=True)
    except (  # KeyError: an unknown instruction of pickle
        OSError,
        EOFError,
        ValueError,
        KeyError,
        RuntimeError,
        BadZipFile,
        pickle.UnpicklingError,
    ):
        raise ModelError(
            f"{file} is no file of tensors saved by torch, or damaged or truncated; get it again"
        ) from None
    if not isinstance(tensors, dict) or not tensors:
        raise ModelError(f"{file} holds no state dict")
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise ModelError(f"{file} holds no state dict: {name} is no tensor")
    return dict(tensors)


def _check_complete(file: Path) -> None:
    """Name the first tensor that a truncated safetensors file has lost."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 2 <= length <= size - 8:
            raise ModelError(f"{file} is no safetensors file, or truncated in its header")
        try:
            header = json.loads(stream.read(length))
            ends = {n: t["data_offsets"][1] for n, t in header.items() if n != "__metadata__"}
        except (ValueError, TypeError, KeyError, AttributeError):
            raise ModelError(f"the header of {file} is damaged; get it again") from None
    for name, end in sorted(ends.items(), key=lambda item: item[1]):
        if 8 + length + end > size:
            raise ModelError(f"{file} is truncated: it ends before tensor {name}; get it again")
