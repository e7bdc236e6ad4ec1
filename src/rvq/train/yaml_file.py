"""YAML files: recipes and configurations, a user's or the package's."""

from pathlib import Path

import yaml

from rvq.errors import InputError


def read_yaml(path: Path) -> object:
    """What a file holds; None if it is empty.

    Raises:
        InputError: it is missing or no YAML.
    """
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", see line {mark.line + 1}" if mark else ""
        raise InputError(f"{path} is not valid YAML{where}") from None


def shipped_yaml(what: str, folder: str, name: str) -> Path:
    """Path of a file of the package.

    Args:
        what: it is, for the message.
        folder: beside this module that holds such files.
        name: without the ending.

    Raises:
        InputError: there is none of that name.
    """
    path = Path(__file__).parent / folder / f"{name}.yaml"
    if not path.exists():
        names = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml")))
        raise InputError(f"no {what} {name!r}: give a YAML file or one of {names}")
    return path
