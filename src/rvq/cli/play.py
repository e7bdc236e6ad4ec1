"""`rvq play`."""

from pathlib import Path
from typing import Annotated

import typer

from rvq.cli.arguments import IN_PART, DecodingModel


def play(
    source: Annotated[Path, typer.Argument(help="Compressed file, .rvq.")],
    model: DecodingModel = None,
) -> None:
    """Play a compressed file where there is a sound device; exit status 3 if it is damaged."""
    from rvq.codec.playback import play_file

    damage = play_file(source, model)
    if damage.noticed:
        typer.echo(f"rvq: {source} is damaged: {damage}", err=True)
        raise typer.Exit(IN_PART)
