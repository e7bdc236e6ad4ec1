"""`rvq trim`."""

from pathlib import Path
from typing import Annotated

import typer

from rvq.cli.arguments import IN_PART, Force, check_output
from rvq.errors import InputError


def trim(
    source: Annotated[Path, typer.Argument(help="Compressed file, .rvq.")],
    target: Annotated[Path, typer.Argument(help="The smaller file.")],
    bitrate: Annotated[
        float | None,
        typer.Option(help="kbps per channel before entropy coding; as many codebooks as fit."),
    ] = None,
    codebooks: Annotated[int | None, typer.Option(help="Or codebooks to keep.")] = None,
    force: Force = False,
) -> None:
    """Cut a compressed file to a lower bitrate without decoding it.

    Exit status 3 if it is damaged, and so what was cut from it.
    """
    from rvq.bitstream.container import trim as cut
    from rvq.codec.files import open_rvq
    from rvq.replacing import replacing

    check_output(source, target, force)
    if (codebooks is None) == (bitrate is None):
        raise InputError("say how far to cut: either --bitrate or --codebooks")
    with open_rvq(source) as whole, replacing(target) as temporary, temporary.open("wb") as file:
        found = cut(whole, file, n_codebooks=codebooks, bitrate=bitrate)
    typer.echo(f"{target}: {target.stat().st_size} bytes")
    if found.header.repaired:
        typer.echo(
            f"rvq: the header of {source} was damaged: it was put right, or its metadata left out",
            err=True,
        )
    elif found.damaged:
        typer.echo(f"rvq: {source} is damaged, and so is {target}: see `rvq info`", err=True)
    if found.damaged:
        raise typer.Exit(IN_PART)
