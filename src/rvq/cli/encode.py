"""`rvq encode`."""

from pathlib import Path
from typing import Annotated

import typer

from rvq.cli.arguments import IN_PART, Force, LanguageModel, Model, check_output, progress_bar
from rvq.codec.defaults import BEAM_SIZE
from rvq.codec.models import DEFAULT_MODEL
from rvq.errors import InputError


def encode(
    source: Annotated[Path, typer.Argument(help="Recording; any format soundfile reads.")],
    target: Annotated[
        Path | None,
        typer.Argument(help="Default: the input's name, .rvq; .ecdc writes EnCodec's format."),
    ] = None,
    bitrate: Annotated[
        float | None,
        typer.Option(
            help="kbps per channel before entropy coding; as many codebooks as fit; default 6."
        ),
    ] = None,
    quality: Annotated[
        float | None, typer.Option(help="Or a constant quality, 0 to 12, at a variable bitrate.")
    ] = None,
    average: Annotated[
        float | None, typer.Option(help="Or an average kbps per channel, after entropy coding.")
    ] = None,
    beam_size: Annotated[
        int,
        typer.Option(
            min=1, max=32, help="Code sequences followed at once; 1 is the fastest, greedy search."
        ),
    ] = BEAM_SIZE,
    title: Annotated[str | None, typer.Option(help="To keep in the file.")] = None,
    artist: Annotated[str | None, typer.Option(help="To keep in the file.")] = None,
    model: Model = DEFAULT_MODEL,
    language_model: LanguageModel = None,
    force: Force = False,
) -> None:
    """Compress a recording; exit status 3 if it breaks off and what came before was compressed."""
    from rvq.bitstream.container import Reader
    from rvq.codec.codec import Codec
    from rvq.codec.files import AUDIO_ENDINGS, encode_file, open_rvq

    if source.is_dir():
        raise InputError(f"{source} is a folder; `rvq tokenize` codes all that is in one")
    target = target or source.with_suffix(".rvq")
    if str(target) == "-":
        raise InputError("files are finished at their beginning: name one, or use `rvq stream`")
    if target.suffix.lower() in AUDIO_ENDINGS:
        raise InputError(f"{target} is named like a recording; name the compressed file .rvq")
    check_output(source, target, force)
    if target.suffix.lower() == ".ecdc":
        from rvq.interop.ecdc_audio import encode_ecdc, load_ecdc_model, load_language_model

        if any(choice is not None for choice in (quality, average, title, artist)):
            raise InputError("an .ecdc file has a constant bitrate and no metadata; give --bitrate")
        kbps = 6.0 if bitrate is None else bitrate
        encodec = load_ecdc_model(model, beam_size=beam_size)
        learned = load_language_model(language_model, encodec) if language_model else None
        encode_ecdc(encodec, source, target, bitrate=kbps, language_model=learned)
        typer.echo(f"{target}: {target.stat().st_size} bytes")
        return
    if language_model is not None:
        raise InputError("only .ecdc files are coded with a language model; name the output .ecdc")
    codec = Codec.load(model, threads=0)
    with progress_bar(f"encoding {source.name}") as report:
        broken = encode_file(
            codec,
            source,
            target,
            bitrate=6.0 if bitrate is None and quality is None and average is None else bitrate,
            quality=quality,
            average=average,
            beam_size=beam_size,
            metadata={k: v for k, v in (("title", title), ("artist", artist)) if v},
            progress=report,
        )
    with open_rvq(target) as file:
        header = Reader(file).header
    size = target.stat().st_size
    pcm = header.n_samples * header.channels * codec.runtime.channels * 2
    typer.echo(
        f"{target}: {size} bytes, {size * 8 / 1000 / header.duration:.2f} kbps, "
        f"{pcm / size:.1f} times smaller than 16-bit PCM ({pcm} bytes)"
    )
    if broken:
        typer.echo(f"rvq: {source} is {broken}; what came before is in {target}", err=True)
        raise typer.Exit(IN_PART)
