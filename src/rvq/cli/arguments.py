"""What several commands share: the model option, the check before overwriting, a progress bar."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from rvq.codec.files import Progress as Report
from rvq.errors import InputError

Model = Annotated[str, typer.Option(help="Name of a model of the package, or a model folder.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite an existing output.")]

DEFAULT_MODEL = "speech_24khz"


def check_output(path: Path, force: bool) -> None:
    """Refuse to overwrite unless forced."""
    if path.exists() and not force:
        raise InputError(f"{path} exists already; add --force to overwrite it")


@contextmanager
def progress_bar(title: str) -> Iterator[Report]:
    """A bar on standard error that is told the share of the work done."""
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(title, total=1.0)
        yield lambda share: progress.update(task, completed=share)
