"""YAML files that a user wrote: recipes and configurations."""

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
