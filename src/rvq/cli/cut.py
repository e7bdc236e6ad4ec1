"""`rvq cut`."""

from pathlib import Path
from typing import Annotated

import typer

from rvq.cli.arguments import Force, check_output


def cut(
    source: Annotated[Path, typer.Argument(help="Compressed file, .rvq.")],
    target: Annotated[Path, typer.Argument(help="The smaller file.")],
    codebooks: Annotated[int, typer.Option(help="Codebooks to keep, from the first.")],
    force: Force = False,
) -> None:
    """Cut a compressed file to a lower bitrate without decoding it."""
    from rvq.bitstream.container import trim
    from rvq.codec.files import open_rvq, replacing

    check_output(target, force)
    with open_rvq(source) as whole, replacing(target) as temporary, temporary.open("wb") as file:
        trim(whole, file, codebooks)
    typer.echo(f"{target}: {target.stat().st_size} bytes")
