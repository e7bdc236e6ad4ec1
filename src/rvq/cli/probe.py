"""`rvq probe`."""

from pathlib import Path
from typing import Annotated

import typer

from rvq.cli.arguments import Model, progress_bar
from rvq.codec.models import DEFAULT_MODEL
from rvq.errors import InputError


def probe(
    manifest: Annotated[
        Path, typer.Argument(help="CSV or JSON lines with path, label and perhaps group.")
    ],
    out: Annotated[Path | None, typer.Option(help="JSON file to write, too.")] = None,
    codebooks: Annotated[
        str | None, typer.Option(help="Numbers of codebooks; default 1,2,4,8,16.")
    ] = None,
    segments: Annotated[
        int, typer.Option(min=1, help="Parts of a recording that are pooled one by one.")
    ] = 1,
    folds: Annotated[int, typer.Option(min=2, help="Of the cross-validation.")] = 5,
    model: Model = DEFAULT_MODEL,
    workers: Annotated[int | None, typer.Option(help="Processes; default one per core.")] = None,
) -> None:
    """Tell how well labels are predicted from codes alone, beside log-mel spectra and latents."""
    import os

    try:
        import sklearn  # noqa: F401
    except ImportError as error:
        raise InputError(f"probing needs `pip install 'rvq[probe]'` ({error})") from None
    from rvq.corpus.probe import probe as run
    from rvq.corpus.probe_report import as_json, as_table
    from rvq.replacing import replacing

    try:
        counts = None if codebooks is None else [int(n) for n in codebooks.split(",")]
    except ValueError:
        raise InputError(f"codebooks must be numbers and commas, got {codebooks!r}") from None
    with progress_bar(f"probing {manifest}") as report:
        done = run(
            manifest,
            model=model,
            n_codebooks=counts,
            segments=segments,
            n_folds=folds,
            workers=workers or os.cpu_count() or 1,
            progress=report,
        )
    typer.echo(as_table({manifest.stem: done}))
    if out is not None:
        with replacing(out) as temporary:
            temporary.write_text(as_json(done))
