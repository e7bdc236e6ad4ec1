"""`rvq detokenize`."""

from pathlib import Path
from typing import Annotated

import typer

from rvq.cli.arguments import DecodingModel, progress_bar


def detokenize(
    source: Annotated[Path, typer.Argument(help="Folder of Parquet, or one file.")],
    folder: Annotated[Path, typer.Argument(help="Folder of the recordings.")],
    ending: Annotated[str, typer.Option(help="Chooses the format.")] = ".flac",
    keep_endings: Annotated[
        bool, typer.Option("--keep-endings", help="talk.wav becomes talk.wav.flac.")
    ] = False,
    bitrate: Annotated[
        float | None, typer.Option(help="kbps per channel; default that of the codes.")
    ] = None,
    model: DecodingModel = None,
    workers: Annotated[int | None, typer.Option(help="Processes; default one per core.")] = None,
) -> None:
    """Turn Parquet of codes back into recordings; files that exist are left alone."""
    import os

    from rvq.corpus.detokenize import detokenize as run

    with progress_bar(f"decoding {source}") as report:
        written = run(
            source,
            folder,
            ending=ending,
            keep_endings=keep_endings,
            bitrate=bitrate,
            model=model,
            workers=workers or os.cpu_count() or 1,
            progress=lambda done, total: report(done / total),
        )
    typer.echo(f"{folder}: {written} recordings written")
