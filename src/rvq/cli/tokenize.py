"""`rvq tokenize`."""

from pathlib import Path
from typing import Annotated

import typer

from rvq.cli.arguments import IN_PART, Model
from rvq.codec.models import DEFAULT_MODEL
from rvq.errors import InputError


def tokenize(
    source: Annotated[
        str,
        typer.Argument(help="Folder, quoted glob, WebDataset .tar, or manifest (.jsonl, .csv)."),
    ],
    folder: Annotated[Path, typer.Argument(help="Folder of the Parquet.")],
    bitrate: Annotated[
        float, typer.Option(help="kbps per channel; as many codebooks as fit.")
    ] = 6.0,
    model: Model = DEFAULT_MODEL,
    mono: Annotated[bool, typer.Option("--mono", help="Average the channels.")] = False,
    workers: Annotated[int | None, typer.Option(help="Processes; default one per core.")] = None,
    ray: Annotated[
        str | None, typer.Option(help="Address of a Ray cluster that does it, or auto, or local.")
    ] = None,
    shard_mb: Annotated[
        float | None,
        typer.Option(help="MiB of recordings per shard; default a 64th of all, 4 to 256."),
    ] = None,
) -> None:
    """Turn many recordings into Parquet of codes. The same command resumes what was stopped.

    Exit status 3 if some recordings were skipped, 1 if all were.
    """
    from rvq.cli.tally import tally
    from rvq.corpus.tokenize import tokenize as run

    if shard_mb is not None and not 2**-20 <= shard_mb < 2**20:
        raise InputError(f"--shard-mb must be a number of MiB below {2**20}, got {shard_mb}")
    with tally(source) as report:
        done = run(
            source,
            folder,
            bitrate=bitrate,
            model=model,
            mono=mono,
            workers=workers,
            ray=ray,
            shard_bytes=None if shard_mb is None else round(shard_mb * 2**20),
            progress=report,
        )
    typer.echo(
        f"{folder}: {done.n_recordings} recordings, {done.seconds / 3600:.2f} h, "
        f"{done.n_bytes} bytes in {len(done.shards)} shards"
    )
    if done.skipped:
        files = "1 file" if len(done.skipped) == 1 else f"{len(done.skipped)} files"
        typer.echo(f"rvq: {files} skipped, listed in {done.report}", err=True)
        raise typer.Exit(IN_PART if done.n_recordings else 1)
