"""`rvq trim`."""

from pathlib import Path
from typing import Annotated

import typer

from rvq.cli.arguments import Force, Model, check_output
from rvq.codec.models import DEFAULT_MODEL
from rvq.errors import InputError


def trim(
    source: Annotated[Path, typer.Argument(help="Compressed file, .rvq.")],
    target: Annotated[Path, typer.Argument(help="The smaller file.")],
    bitrate: Annotated[float | None, typer.Option(help="kbps per channel.")] = None,
    codebooks: Annotated[int | None, typer.Option(help="Or codebooks to keep.")] = None,
    model: Model = DEFAULT_MODEL,
    force: Force = False,
) -> None:
    """Cut a compressed file to a lower bitrate without decoding it."""
    from rvq.bitstream.container import Reader
    from rvq.bitstream.container import trim as cut
    from rvq.codec.codec import Codec
    from rvq.codec.files import open_rvq, replacing

    check_output(source, target, force)
    if codebooks is None and bitrate is not None:
        codec = Codec.load(model)
        with open_rvq(source) as whole:
            codec.check_model(Reader(whole).header.model.hex())
        codebooks = codec.n_codebooks(bitrate)
    elif codebooks is None or bitrate is not None:
        raise InputError("say how far to cut: either --bitrate or --codebooks")
    with open_rvq(source) as whole, replacing(target) as temporary, temporary.open("wb") as file:
        cut(whole, file, codebooks)
    typer.echo(f"{target}: {target.stat().st_size} bytes")
