"""`rvq decode`."""

from pathlib import Path
from typing import Annotated

import typer

from rvq.cli.arguments import (
    IN_PART,
    DecodingModel,
    Force,
    LanguageModel,
    check_output,
    progress_bar,
)
from rvq.errors import InputError


def decode(
    source: Annotated[Path, typer.Argument(help="Compressed file, .rvq or .ecdc.")],
    target: Annotated[
        Path | None, typer.Argument(help="Its ending chooses the format; default .wav.")
    ] = None,
    model: DecodingModel = None,
    language_model: LanguageModel = None,
    force: Force = False,
) -> None:
    """Decompress a file; exit status 3 if it was damaged and what is left of it was decoded."""
    from rvq.codec.files import codec_for, decode_file

    target = target or source.with_suffix(".wav")
    check_output(source, target, force)
    if source.suffix.lower() == ".ecdc":
        from rvq.interop.ecdc_audio import decode_ecdc, load_ecdc_model, load_language_model

        if model is None:
            raise InputError(".ecdc files do not say which weights they need: give a --model")
        encodec = load_ecdc_model(model)
        learned = load_language_model(language_model, encodec) if language_model else None
        decode_ecdc(encodec, source, target, language_model=learned)
        typer.echo(f"{target}: {target.stat().st_size} bytes")
        return
    if language_model is not None:
        raise InputError("only .ecdc files are coded with a language model")
    with progress_bar(f"decoding {source.name}") as report:
        codec = codec_for(source, model, threads=0)
        damage = decode_file(codec, source, target, progress=report)
    typer.echo(f"{target}: {target.stat().st_size} bytes")
    if damage.noticed:
        typer.echo(f"rvq: {source} is damaged: {damage}", err=True)
        raise typer.Exit(IN_PART)
