"""What several commands share: the model option, the check before overwriting, a progress bar."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from rvq.errors import InputError
from rvq.model_folder import CARD

Model = Annotated[str, typer.Option(help="Name of a model of the package, or a model folder.")]
DecodingModel = Annotated[
    str | None,
    typer.Option(
        help="Name of a model of the package, or a model folder; default the package's model that "
        "the codes were made with."
    ),
]
LanguageModel = Annotated[
    Path | None,
    typer.Option(help="Of .ecdc files: EnCodec's, or written by `rvq learn-transformer`."),
]
IN_PART = 3
"""Exit status where some of the input was damaged or failed, and the rest was done."""

Force = Annotated[bool, typer.Option("--force", help="Overwrite an existing output.")]


def check_output(source: Path, target: Path, force: bool) -> None:
    """Refuse to overwrite the input at all, and anything else unless forced."""
    if target.is_dir():
        raise InputError(f"{target} is a folder; name a file in it")
    if target.is_file():  # pipes and devices cannot be overwritten
        if source.exists() and target.samefile(source):
            raise InputError(f"{target} is the input; give the output another name")
        if not force:
            raise InputError(f"{target} exists already; add --force to overwrite it")


def check_model_folder(folder: Path, force: bool) -> None:
    """Refuse to overwrite a model unless forced."""
    if (folder / CARD).exists() and not force:
        raise InputError(f"{folder} holds a model already; add --force to overwrite it")


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[float], None]]:
    """A bar on standard error that is told the share of the work done."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(title, total=1.0)
        yield lambda share: progress.update(task, completed=share)
