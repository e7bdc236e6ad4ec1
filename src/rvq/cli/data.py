"""`rvq data`."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True)


@app.callback()
def data() -> None:
    """Training data."""


@app.command()
def prepare(
    recipe: Annotated[Path, typer.Argument(help="YAML file, or the name of a shipped one.")],
    out: Annotated[Path, typer.Argument(help="Folder to write: packed training data, dev clips.")],
    folder: Annotated[
        Path | None, typer.Option(help="Where the recipe's local folders are.")
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Where downloaded packages are kept; default OUT/.cache.")
    ] = None,
    only: Annotated[list[str] | None, typer.Option(help="Only these sources.")] = None,
) -> None:
    """Gather a training mix from Debian packages and local folders by a recipe."""
    from rich.progress import Progress

    from rvq.train.prepare import prepare as gather
    from rvq.train.recipe import read_recipe, shipped_recipe

    found = read_recipe(recipe if recipe.exists() else shipped_recipe(str(recipe)))
    with Progress() as bar:
        tasks: dict[str, int] = {}

        def report(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(name, total=total)
            bar.update(tasks[name], completed=done, total=total)  # type: ignore[arg-type]

        packed = gather(found, out, sources_dir=folder, cache=cache, only=only, progress=report)
    for source in packed:
        typer.echo(
            f"{source.name}: {source.train_hours:.2f} h to train on, {source.dev_clips} held-out "
            f"clips, {len(source.skipped)} files skipped, {source.licence}"
        )
