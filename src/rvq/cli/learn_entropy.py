"""`rvq learn-entropy`."""

from pathlib import Path
from typing import Annotated

import typer

from rvq.cli.arguments import Force, Model, progress_bar
from rvq.codec.models import DEFAULT_MODEL, find, shipped
from rvq.errors import InputError


def learn_entropy(
    data: Annotated[
        list[Path] | None, typer.Option(help="Folder written by `rvq data prepare`.")
    ] = None,
    model: Model = DEFAULT_MODEL,
    source: Annotated[
        str | None,
        typer.Option("--from", help="Or take it over from a model with the same codes."),
    ] = None,
    minutes: Annotated[float, typer.Option(help="Audio to learn from.")] = 300.0,
    steps: Annotated[int, typer.Option(min=1, help="Steps per codebook.")] = 1500,
    threads: Annotated[int, typer.Option(help="Processor threads; 0 for all cores.")] = 0,
    force: Force = False,
) -> None:
    """Learn how likely a model's codes are, so that its files get smaller; after every training."""
    try:
        import torch

        from rvq.train.entropy import learn_for, take_over
    except ImportError as error:
        raise InputError(f"learning needs `pip install 'rvq[train]'` ({error})") from None
    from rvq.codec.codec import Codec

    if bool(data) == bool(source):
        raise InputError("give either --data to learn from, or --from to take over")
    codec = Codec.load(model, threads=threads)
    if find(model).resolve() in [folder.resolve() for folder in shipped()]:
        raise InputError(
            f"{model} is a model of the package, which others read files with: copy its folder, "
            f"{codec.folder}, and give the copy as --model"
        )
    if not force and codec.entropy is not None:
        raise InputError(
            f"{codec.folder} has an entropy model, without which files coded by it cannot be "
            "read; add --force to replace it"
        )
    if source:
        path = take_over(find(source), find(model))
    else:
        if threads:
            torch.set_num_threads(threads)
        with progress_bar(f"learning the codes of {codec.runtime.name}") as report:
            path = learn_for(codec, data or [], minutes=minutes, steps=steps, progress=report)
    typer.echo(f"{path}: {path.stat().st_size} bytes")
