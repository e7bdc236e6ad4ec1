"""The one way files are written: under a temporary name first, so that none is ever half there."""

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rvq.errors import InputError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, of the same ending, that takes its place when all went well.

    A link is followed. What is no file, such as a pipe or `/dev/stdout`, is written to directly.

    Raises:
        InputError: there is no such folder, it cannot be written, or the disk is full.
    """
    # os.path, to which a name that is too long is just one that is not there.
    direct = os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)
    if not direct:
        path = path.resolve() if os.path.islink(path) else path
        check_folder(path)
    # Short whatever the name: one of the greatest length leaves no room for more.
    name = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:12]
    written = path if direct else path.with_name(f".{os.getpid()}-{name}{path.suffix}")
    try:
        yield written
        if not direct:
            if os.path.isfile(path):
                shutil.copymode(path, written)
            written.replace(path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        if not direct:
            with suppress(OSError):  # it says nothing new, and would hide what went wrong
                written.unlink()


def check_folder(path: Path) -> None:
    """Refuse a path to write to whose folder is missing.

    Raises:
        InputError: so it is.
    """
    if not path.parent.is_dir():
        raise InputError(f"cannot write {path}: there is no folder {path.parent}")
