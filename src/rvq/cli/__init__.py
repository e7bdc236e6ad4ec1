"""The command line: one module per command, no logic."""

import errno
import signal
import sys
from io import TextIOWrapper

INTERRUPTED = 130
_WRITING = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""Errors of a disk in the middle of a file, which come without its name."""


def main() -> None:
    """Run `rvq`; bad input ends with one sentence and exit status 1."""
    # Told to end, it clears up as it does after Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        _run()
    except KeyboardInterrupt:
        sys.exit(_interrupted())


def _run() -> None:
    from rvq.cli.app import app
    from rvq.errors import RvqError

    for stream in (sys.stdout, sys.stderr):  # names of files may be any bytes
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except RvqError as error:
        print(f"rvq: {error}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        if error.filename is not None:
            # A path that only the system knows to be wrong: too long, a loop of links, no access.
            print(f"rvq: cannot use {error.filename}: {error.strerror}", file=sys.stderr)
        elif error.errno in _WRITING:
            print(f"rvq: cannot write: {error.strerror}", file=sys.stderr)
        else:
            raise
        sys.exit(1)
    except SystemExit as end:
        sys.exit(_interrupted() if end.code == INTERRUPTED else end.code)


def _interrupted() -> int:
    print("rvq: interrupted", file=sys.stderr)
    return INTERRUPTED
