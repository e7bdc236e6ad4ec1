"""`rvq decode`."""

from pathlib import Path
from typing import Annotated

import typer

from rvq.cli.arguments import Force, Model, check_output, progress_bar
from rvq.codec.models import DEFAULT_MODEL


def decode(
    source: Annotated[Path, typer.Argument(help="Compressed file, .rvq or .ecdc.")],
    target: Annotated[
        Path | None, typer.Argument(help="Its ending chooses the format; default .wav.")
    ] = None,
    model: Model = DEFAULT_MODEL,
    force: Force = False,
) -> None:
    """Decompress a file."""
    from rvq.codec.codec import Codec
    from rvq.codec.files import decode_file

    target = target or source.with_suffix(".wav")
    check_output(source, target, force)
    if source.suffix.lower() == ".ecdc":
        from rvq.interop.ecdc_audio import decode_ecdc, load_ecdc_model

        decode_ecdc(load_ecdc_model(model), source, target)
        typer.echo(f"{target}: {target.stat().st_size} bytes")
        return
    with progress_bar(f"decoding {source.name}") as report:
        damage = decode_file(Codec.load(model, threads=0), source, target, progress=report)
    typer.echo(f"{target}: {target.stat().st_size} bytes")
    if damage.noticed:
        typer.echo(
            f"rvq: {source} is damaged: {damage.lost} of {damage.n_blocks} blocks were lost, "
            f"{damage.weakened} have lost some layers",
            err=True,
        )
