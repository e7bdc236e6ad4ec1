"""`rvq eval`."""

from pathlib import Path
from typing import Annotated

import typer

from rvq.cli.arguments import Model, progress_bar
from rvq.codec.models import DEFAULT_MODEL
from rvq.errors import InputError

_ENDINGS = {".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".au"}


def _rates(text: str) -> list[float]:
    try:
        return [float(rate) for rate in text.split(",") if rate.strip()]
    except ValueError:
        raise InputError(f"bitrates must be numbers separated by commas, got {text!r}") from None


def evaluate(
    reference: Annotated[Path, typer.Argument(help="Folder of recordings.")],
    bitrates: Annotated[str, typer.Option(help="Ours, kbps.")] = "1.5,3,6,12",
    mp3: Annotated[str, typer.Option(help="MP3 by lame, kbps.")] = "16,24,32,64",
    opus: Annotated[str, typer.Option(help="Opus by opusenc, kbps.")] = "6,8,12,16,24",
    peer: Annotated[
        list[str] | None,
        typer.Option(help="Another codec: 'NAME,KBPS,COMMAND with {input} and {output}'."),
    ] = None,
    model: Model = DEFAULT_MODEL,
    limit: Annotated[int, typer.Option(help="At most so many clips, evenly chosen.")] = 0,
    workers: Annotated[int, typer.Option(help="Processes.")] = 2,
    cache: Annotated[Path | None, typer.Option(help="Resume from and add to this file.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write everything here as JSON.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write the table as Markdown.")] = None,
) -> None:
    """Measure quality and real bitrates beside MP3 and Opus on the same recordings."""
    from rich.console import Console

    from rvq.evaluate.baselines import Command, Mp3, Opus, RvqCodec, System
    from rvq.evaluate.perplexity import codebook_use
    from rvq.evaluate.rate_distortion import evaluate as measure
    from rvq.evaluate.report import table, to_json, to_markdown

    clips = sorted(p for p in reference.rglob("*") if p.suffix.lower() in _ENDINGS)
    if not clips:
        raise InputError(f"no recordings below {reference}")
    if limit and limit < len(clips):
        clips = [clips[i * len(clips) // limit] for i in range(limit)]
    systems: list[System] = [RvqCodec(model, rate) for rate in _rates(bitrates)]
    systems += [Opus(rate) for rate in _rates(opus)]
    systems += [Mp3(int(rate)) for rate in _rates(mp3)]
    for entry in peer or []:
        name, _, rest = entry.partition(",")
        kbps, _, command = rest.partition(",")
        if not command:
            raise InputError(f"--peer must be NAME,KBPS,COMMAND, got {entry!r}")
        systems.append(Command(name, command, _rates(kbps)[0]))
    with progress_bar(f"{len(clips)} clips, {len(systems)} codecs") as report:
        evaluation = measure(
            clips,
            systems,
            workers=workers,
            cache=cache,
            progress=lambda done, total: report(done / total),
        )
    console = Console(width=None if Console().is_terminal else 120)
    console.print(table(evaluation))
    for failure in evaluation.failures:
        typer.echo(f"rvq: {failure}", err=True)
    if json:
        json.write_text(to_json(evaluation))
    if markdown:
        markdown.write_text(to_markdown(evaluation))
    if measured := sorted({Path(record.clip) for record in evaluation.records}):
        use = codebook_use(model, measured)
        typer.echo(f"perplexity of the codebooks: {use.min():.0%} to {use.max():.0%} of their size")
