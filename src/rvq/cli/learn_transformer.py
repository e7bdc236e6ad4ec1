"""`rvq learn-transformer`."""

from pathlib import Path
from typing import Annotated

import typer

from rvq.cli.arguments import Force, Model, progress_bar
from rvq.codec.models import DEFAULT_MODEL
from rvq.errors import InputError


def learn_transformer(
    target: Annotated[Path, typer.Argument(help="Safetensors file to write.")],
    data: Annotated[list[Path], typer.Option(help="Folder written by `rvq data prepare`.")],
    config: Annotated[
        Path | None, typer.Option(help="YAML file of shape and schedule; default EnCodec's.")
    ] = None,
    model: Model = DEFAULT_MODEL,
    minutes: Annotated[float, typer.Option(help="Audio to learn from.")] = 150.0,
    threads: Annotated[int, typer.Option(help="Processor threads; 0 for all cores.")] = 0,
    force: Force = False,
) -> None:
    """Learn EnCodec's Transformer over a model's codes, the language model of .ecdc files."""
    try:
        import torch

        from rvq.train.code_transformer import LearningConfig, learn_for, read_learning_config
    except ImportError as error:
        raise InputError(f"learning needs `pip install 'rvq[train]'` ({error})") from None
    from rvq.codec.codec import Codec

    if target.suffix != ".safetensors":
        raise InputError(f"{target} must end in .safetensors")
    if target.exists() and not force:
        raise InputError(f"{target} exists already; add --force to overwrite it")
    if threads:
        torch.set_num_threads(threads)
    settings = read_learning_config(config) if config else LearningConfig()
    codec = Codec.load(model, threads=threads)
    with progress_bar(f"learning the codes of {codec.runtime.name}") as report:
        learn_for(codec, data, target, config=settings, minutes=minutes, progress=report)
    typer.echo(f"{target}: {target.stat().st_size} bytes")
