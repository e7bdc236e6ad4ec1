"""`rvq extend`."""

from pathlib import Path
from typing import Annotated

import typer

from rvq.cli.arguments import Force, check_model_folder, progress_bar
from rvq.errors import InputError


def extend(
    model: Annotated[str, typer.Argument(help="Name of a model of the package, or its folder.")],
    folder: Annotated[Path, typer.Argument(help="Model folder to write.")],
    data: Annotated[list[Path], typer.Option(help="Folder written by `rvq data prepare`.")],
    codebooks: Annotated[int, typer.Option(help="How many the new model has, all in all.")],
    threads: Annotated[int, typer.Option(help="Processor threads; 0 for all cores.")] = 0,
    force: Force = False,
) -> None:
    """Give a trained model more codebooks, for higher bitrates; its networks stay as they are."""
    try:
        from rvq.train.extend import learn_codebooks
    except ImportError as error:
        raise InputError(f"extending needs `pip install 'rvq[train]'` ({error})") from None
    from rvq.codec.codec import Codec
    from rvq.codec.models import find
    from rvq.model_folder import ModelFolder

    check_model_folder(folder, force)
    source = ModelFolder.read(find(model))
    codec = Codec.load(model, threads=threads)
    wanted = codebooks - len(codec.runtime.codebooks)
    with progress_bar(f"extending {codec.runtime.name}") as report:
        learned = learn_codebooks(codec, data, wanted, progress=report)
    source.extended(learned).write(folder)
    typer.echo(f"{folder}: {codebooks} codebooks; learn its entropy model by `rvq learn-entropy`")
