"""`rvq play`."""

from pathlib import Path
from typing import Annotated

import typer

from rvq.cli.arguments import DecodingModel


def play(
    source: Annotated[Path, typer.Argument(help="Compressed file, .rvq.")],
    model: DecodingModel = None,
) -> None:
    """Play a compressed file where there is a sound device."""
    from rvq.codec.playback import play_file

    play_file(source, model)
