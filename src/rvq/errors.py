"""What bad input raises: every exception a user may want to catch derives from `RvqError`."""

from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


_SHOWN = 80
"""Characters of a value that a message repeats; a longer one is likely no value but a file."""


class RvqError(Exception):
    """Base of all errors raised for bad input; its message is one sentence that says what to do."""


class InputError(RvqError, ValueError):
    """Audio, vectors or settings that cannot be used: wrong shape, empty, NaN, out of range."""


class FormatError(RvqError):
    """A compressed file that is not one, is damaged, or was written by a newer version."""


class ModelError(RvqError):
    """A model that is missing, damaged, or not the one a file was compressed with."""


def first_problem(error: "ValidationError", *, unnamed: Collection[str] = ()) -> str:
    """The first thing wrong with fields that were read, as `field.of.field: what, got value`.

    Args:
        error: what pydantic found.
        unnamed: steps on the way to a field that the user did not write.
    """
    first = error.errors()[0]
    where = ".".join(str(step) for step in first["loc"] if step not in unnamed) or "the file"
    value = first["input"]
    shown = repr(value) if isinstance(value, bool | int | float | str) else ""
    got = f", got {shown}" if 0 < len(shown) <= _SHOWN else ""
    what = first["msg"][:1].lower() + first["msg"][1:]
    return f"{where}: {what}{got}"
