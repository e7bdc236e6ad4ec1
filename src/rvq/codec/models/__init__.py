"""The models of the package: a folder each, with a card that says what it learned from."""

from pathlib import Path

from rvq.errors import ModelError
from rvq.model_folder import CARD, read_card

DEFAULT_MODEL = "speech_24khz"
_HOME = Path(__file__).parent


def find(name_or_path: str | Path) -> Path:
    """Folder of a model, given as such or by the name of one of the package's.

    Raises:
        ModelError: there is no such model.
    """
    for folder in (Path(name_or_path), _HOME / str(name_or_path)):
        if (folder / CARD).is_file():
            return folder
    raise ModelError(
        f"no model {str(name_or_path)!r}: give the folder of an exported model or one of the "
        f"package's ({_names()})"
    )


def find_by_hash(model_hash: str) -> Path:
    """Folder of the package's model with a content hash.

    Args:
        model_hash: hexadecimal, its first 16 digits or more.

    Raises:
        ModelError: the package has no such model.
    """
    for folder in shipped():
        if read_card(folder)["hash"][:16] == model_hash[:16]:
            return folder
    raise ModelError(
        f"the codes were made with model {model_hash[:16]}, which is none of the package's "
        f"({_names()}); give the folder of that model"
    )


def shipped() -> list[Path]:
    """Folders of the package's models, by name."""
    return sorted(path.parent for path in _HOME.glob(f"*/{CARD}"))


def _names() -> str:
    return ", ".join(folder.name for folder in shipped()) or "none"
