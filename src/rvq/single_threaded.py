"""Worker processes whose libraries keep to one thread each: more only wait for each other."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

ONE_THREAD = {
    name: "1"
    for name in (
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "MKL_NUM_THREADS",
        "NUMBA_NUM_THREADS",
        "VECLIB_MAXIMUM_THREADS",
    )
}
"""Environment of such a process."""


@contextmanager
def single_threaded() -> Iterator[None]:
    """Processes started meanwhile have that environment."""
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(ONE_THREAD)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
