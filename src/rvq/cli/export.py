"""`rvq export`."""

from pathlib import Path
from typing import Annotated

import typer

from rvq.cli.arguments import Force, check_model_folder
from rvq.errors import InputError


def export(
    checkpoint: Annotated[Path, typer.Argument(help="checkpoint.pt of a run.")],
    folder: Annotated[Path, typer.Argument(help="Model folder to write.")],
    force: Force = False,
) -> None:
    """Turn a training checkpoint into a model that `rvq encode --model FOLDER` uses."""
    try:
        from rvq.nn.export import export as write
        from rvq.train.checkpoint import load_average
    except ImportError as error:
        raise InputError(f"exporting needs `pip install 'rvq[train]'` ({error})") from None

    check_model_folder(folder, force)
    model, config, facts = load_average(checkpoint)
    write(model, folder, name=config.name, facts=facts)
    typer.echo(f"{folder}: {sum(p.stat().st_size for p in folder.iterdir())} bytes")
