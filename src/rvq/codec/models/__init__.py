"""The models of the package: a folder each, with a card that says what it learned from."""

from pathlib import Path

from rvq.errors import ModelError

DEFAULT_MODEL = "speech_24khz"


def find(name_or_path: str | Path) -> Path:
    """Folder of a model, given as such or by the name of one of the package's.

    Raises:
        ModelError: there is no such model.
    """
    home = Path(__file__).parent
    for folder in (Path(name_or_path), home / str(name_or_path)):
        if (folder / "model.json").is_file():
            return folder
    shipped = ", ".join(sorted(path.parent.name for path in home.glob("*/model.json"))) or "none"
    raise ModelError(
        f"no model {str(name_or_path)!r}: give the folder of an exported model or one of the "
        f"package's ({shipped})"
    )
