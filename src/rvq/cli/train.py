"""`rvq train`."""

from pathlib import Path
from typing import Annotated

import typer

from rvq.errors import InputError


def train(
    config: Annotated[Path, typer.Argument(help="YAML file, or the name of a shipped one.")],
    data: Annotated[list[Path], typer.Option(help="Folder written by `rvq data prepare`.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the run; default runs/NAME.")] = None,
    # Not --start, which torchrun takes for an abbreviation of its --start-method.
    start: Annotated[
        str | None,
        typer.Option("--from", help="Model whose weights a new run starts from: name or folder."),
    ] = None,
    threads: Annotated[int, typer.Option(help="Processor threads; 0 for all cores.")] = 0,
) -> None:
    """Train a codec; a run that was stopped goes on where it stood. Ctrl-C stops it cleanly.

    Several processes train together: torchrun --nproc-per-node 8 -m rvq train ...
    """
    try:
        import torch

        from rvq.codec.models import find
        from rvq.nn.distributed import process_group
        from rvq.train.checkpoint import CHECKPOINT
        from rvq.train.config import read_config, shipped_config
        from rvq.train.trainer import Trainer
    except ImportError as error:
        raise InputError(f"training needs `pip install 'rvq[train]'` ({error})") from None

    if threads:
        torch.set_num_threads(threads)
    settings = read_config(config if config.exists() else shipped_config(str(config)))
    out = out or Path("runs") / settings.name
    # What a run once started from may be gone when it goes on.
    first = find(start) if start and not (out / CHECKPOINT).exists() else None
    with process_group():
        trainer = Trainer(settings, data, out, start=first)
        if trainer.step and trainer.first:
            typer.echo(f"resuming {trainer.out} at step {trainer.step}")
        done = trainer.run()
        if trainer.first:
            how = "done" if done else f"stopped at step {trainer.step}; the same command resumes"
            typer.echo(how)
