"""The folder of a model: two ONNX networks, codebooks, and a card whose hash vouches for them."""

import copy
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rvq.errors import ModelError
from rvq.replacing import replacing

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

FORMAT = 2
"""Raised when an older version could not load what is written."""
CARD = "model.json"
ENCODER, DECODER, CODEBOOKS = "encoder.onnx", "decoder.onnx", "codebooks.safetensors"
FILES = (ENCODER, DECODER, CODEBOOKS)
_LEAST = {
    "sample_rate": 1,
    "hop_length": 1,
    "delay": 0,
    "first_frames": 1,
    "encoder_state": 0,
    "decoder_state": 0,
    "n_codebooks": 1,
    "codebook_size": 2,
}
"""Numbers that every card has, and how small they may be."""


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
    def of(cls, files: dict[str, bytes], card: Mapping[str, Any]) -> "ModelFolder":
        """Files and the facts about them, vouched for."""
        head = {"format": FORMAT, "hash": _hash(files)}
        return cls({**head, **card, **head}, files)

    @classmethod
    def read(cls, folder: Path) -> "ModelFolder":
        """Read and check a folder.

        Raises:
            ModelError: no model there, a damaged one, or one of another version.
        """
        card = read_card(folder)
        files = {}
        for file in FILES:
            try:
                files[file] = (folder / file).read_bytes()
            except OSError as error:
                raise ModelError(
                    f"model {folder} is incomplete: {file}: {error.strerror}"
                ) from None
        if _hash(files) != card["hash"]:
            raise ModelError(f"the files of model {folder} do not match its card; install it again")
        return cls(card, files)

    def extended(self, codebooks: "npt.NDArray[np.float32]") -> "ModelFolder":
        """The same networks with codebooks `[n, codebook_size, dim]` after those there are."""
        import numpy as np
        from safetensors.numpy import load, save

        tensors = load(self.files[CODEBOOKS])
        kept = tensors["codebooks"]
        tensors["codebooks"] = np.concatenate([kept, codebooks.astype(kept.dtype)])
        card = copy.deepcopy(self.card)
        card["n_codebooks"] = len(tensors["codebooks"])
        if "model" in card:  # cards of imported models do not say their shape
            card["model"]["quantizer"]["n_codebooks"] = card["n_codebooks"]
        card["extended_from"] = self.card["hash"]
        return self.of(self.files | {CODEBOOKS: save(tensors)}, card)

    def write(self, folder: Path) -> None:
        """Write it for others to read; what is there is replaced.

        Raises:
            InputError: the folder cannot be written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        card = (json.dumps(self.card, indent=1) + "\n").encode()
        for name, content in (self.files | {CARD: card}).items():  # the card last: it vouches
            with replacing(folder / name) as temporary:
                temporary.write_bytes(content)


def read_card(folder: Path) -> dict[str, Any]:
    """The card of a model folder, whose files stay unread.

    Raises:
        ModelError: no model there, a damaged card, or one of another version.
    """
    try:
        card = json.loads((folder / CARD).read_text())
    except OSError:
        raise ModelError(f"no model at {folder}: it has no model.json") from None
    except (ValueError, RecursionError):
        card = None
    damaged = ModelError(f"the card of model {folder} is damaged; install it again")
    if not isinstance(card, dict) or not isinstance(card.get("hash"), str):
        raise damaged
    version = card.get("format", 0)
    if not isinstance(version, int):
        raise damaged
    if version > FORMAT:
        raise ModelError(f"model {folder} needs a newer rvq; upgrade to use it")
    if version < FORMAT:
        raise ModelError(
            f"model {folder} is from an older rvq; export it again from its checkpoint"
        )
    card = {"family": "spectral", "first_frames": 1, **card}
    for fact in ("name", *_LEAST):
        if fact not in card:
            raise ModelError(f"model {folder} lacks {fact!r}; install it again")
    if not isinstance(card["name"], str) or not isinstance(card["family"], str):
        raise damaged
    if any(type(card[fact]) is not int or card[fact] < least for fact, least in _LEAST.items()):
        raise damaged
    return card


def _hash(files: Mapping[str, bytes]) -> str:
    digest = hashlib.sha256()
    for file in FILES:
        digest.update(files[file])
    return digest.hexdigest()
