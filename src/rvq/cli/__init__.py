"""The command line: one module per command, no logic."""

import sys


def main() -> None:
    """Run `rvq`; bad input ends with one sentence and exit status 1."""
    from rvq.cli.app import app
    from rvq.errors import RvqError

    try:
        app()
    except RvqError as error:
        print(f"rvq: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("rvq: interrupted", file=sys.stderr)
        sys.exit(130)
