"""`rvq import`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from rvq.cli.arguments import Force, check_model_folder
from rvq.errors import InputError


class Kind(StrEnum):
    """Families of published codecs whose checkpoints can be read."""

    ENCODEC = "encodec"
    DAC = "dac"
    MIMI = "mimi"


def import_(
    kind: Annotated[Kind, typer.Argument(help="What the checkpoint is of.")],
    checkpoint: Annotated[
        str,
        typer.Argument(help="File, folder in Hugging Face's layout, or OWNER/NAME on its hub."),
    ],
    folder: Annotated[Path, typer.Argument(help="Model folder to write.")],
    force: Force = False,
) -> None:
    """Turn another codec's checkpoint into a model that `rvq encode --model FOLDER` uses."""
    try:
        from rvq.interop.checkpoint import find
        from rvq.interop.readers import READERS
    except ImportError as error:
        raise InputError(f"importing needs `pip install 'rvq[train]'` ({error})") from None

    check_model_folder(folder, force)
    codec = READERS[kind](find(checkpoint))
    codec.write(folder, {"imported": kind.value, "from": Path(checkpoint).name})
    size = sum(path.stat().st_size for path in folder.iterdir())
    typer.echo(f"{folder}: {codec.name}, {codec.n_codebooks} codebooks, {size} bytes")
