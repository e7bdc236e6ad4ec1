"""The one way files are written: under a temporary name first, so that none is ever half there."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rvq.errors import InputError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, of the same ending, that takes its place when all went well.

    A link is followed. What is no file, such as a pipe or `/dev/stdout`, is written to directly.

    Raises:
        InputError: there is no such folder, it cannot be written, or the disk is full.
    """
    direct = path.exists() and not path.is_file() and not path.is_dir()
    if not direct:
        path = path.resolve() if path.is_symlink() else path
        check_folder(path)
    written = path if direct else path.with_name(f".{os.getpid()}-{path.name}")
    try:
        yield written
        if not direct:
            if path.is_file():
                shutil.copymode(path, written)
            written.replace(path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        if not direct:
            written.unlink(missing_ok=True)


def check_folder(path: Path) -> None:
    """Refuse a path to write to whose folder is missing.

    Raises:
        InputError: so it is.
    """
    if not path.parent.is_dir():
        raise InputError(f"cannot write {path}: there is no folder {path.parent}")
