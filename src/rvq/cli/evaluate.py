"""`rvq eval`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rvq.cli.arguments import IN_PART, progress_bar
from rvq.codec.models import DEFAULT_MODEL
from rvq.errors import InputError

if TYPE_CHECKING:
    from rvq.evaluate.baselines import System

_DEFAULT_PEERS = {"opus": "6,8,12,16,24", "mp3": "16,24,32,64"}


def evaluate(
    reference: Annotated[list[Path], typer.Argument(help="Folders of recordings.")],
    bitrates: Annotated[str, typer.Option(help="Ours, kbps.")] = "1.5,3,6,12",
    average: Annotated[str, typer.Option(help="Ours, variable, kbps to average.")] = "",
    model: Annotated[
        list[str] | None, typer.Option(help="Name of a model or model folder; repeat for several.")
    ] = None,
    mp3: Annotated[
        str | None, typer.Option(help="MP3 by lame, kbps; where installed 16,24,32,64.")
    ] = None,
    opus: Annotated[
        str | None, typer.Option(help="Opus by opusenc, kbps; where installed 6,8,12,16,24.")
    ] = None,
    vorbis: Annotated[str, typer.Option(help="Vorbis by oggenc, kbps.")] = "",
    aac: Annotated[str, typer.Option(help="AAC by PyAV, kbps.")] = "",
    codec2: Annotated[str, typer.Option(help="Codec 2 by c2enc, kbps.")] = "",
    peer: Annotated[
        list[str] | None,
        typer.Option(help="Another codec: 'NAME,KBPS,COMMAND with {input} and {output}'."),
    ] = None,
    kind: Annotated[
        str, typer.Option(help="What the recordings are, and are measured by: speech or music.")
    ] = "speech",
    measures: Annotated[
        str, typer.Option(help="More to measure: visqol_audio, lsd, dnsmos, speaker, wer; or all.")
    ] = "",
    speakers: Annotated[
        str | None,
        typer.Option(
            help="Regular expression for the speaker in a path, as '([^/]+)_[0-9]+' for "
            "p225_001.wav: intervals then hold for new speakers, not for new clips of these alone."
        ),
    ] = None,
    limit: Annotated[int, typer.Option(help="At most so many clips, evenly chosen.")] = 0,
    workers: Annotated[int, typer.Option(help="Processes.")] = 2,
    cache: Annotated[Path | None, typer.Option(help="Resume from and add to this file.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write everything here as JSON.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write the table as Markdown.")] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write a page: curves, players, blind listening test.")
    ] = None,
    html_clips: Annotated[int, typer.Option(help="Clips to be heard on the page.")] = 4,
) -> None:
    """Measure quality and real bitrates beside other codecs on the same recordings.

    Exit status 3 if some recordings or codecs failed.
    """
    from rich.console import Console

    from rvq.codec.files import find_recordings
    from rvq.evaluate.baselines import Command, RvqCodec, VariableRvqCodec
    from rvq.evaluate.metrics import BY_KIND, installed
    from rvq.evaluate.page import to_html
    from rvq.evaluate.peers import PEERS, is_installed
    from rvq.evaluate.rate_distortion import evaluate as measure
    from rvq.evaluate.report import codebook_lines, table, to_json, to_markdown
    from rvq.replacing import check_folder

    clips = []
    for folder in reference:
        clips += (found := find_recordings(folder))
        if not found:
            raise InputError(f"no recordings below {folder}")
    if kind not in BY_KIND:
        raise InputError(f"no kind {kind!r}; there are {', '.join(BY_KIND)}")
    if limit and limit < len(clips):
        clips = [clips[i * len(clips) // limit] for i in range(limit)]
    models = model or [DEFAULT_MODEL]
    systems: list[System] = [
        RvqCodec(name, rate, family="rvq" if len(models) == 1 else Path(name).name)
        for name in models
        for rate in _rates(bitrates)
    ]
    systems += [
        VariableRvqCodec(
            name, rate, family="rvq variable" if len(models) == 1 else f"{Path(name).name} variable"
        )
        for name in models
        for rate in _rates(average)
    ]
    asked = {"opus": opus, "mp3": mp3, "vorbis": vorbis, "aac": aac, "codec2": codec2}
    for name, text in asked.items():
        if text is None:
            text = _DEFAULT_PEERS[name] if is_installed(name) else ""
        systems += [PEERS[name](rate) for rate in _rates(text)]
    systems += [Command(name, command, kbps) for name, kbps, command in map(_peer, peer or [])]
    more = (
        installed() if measures == "all" else [m.strip() for m in measures.split(",") if m.strip()]
    )
    for target in (json, markdown, html, cache):
        if target:
            check_folder(target)
    with progress_bar(f"{len(clips)} clips, {len(systems)} codecs") as report:
        evaluation = measure(
            clips,
            systems,
            workers=workers,
            cache=cache,
            measures=[*BY_KIND[kind], *more],
            speaker_pattern=speakers,
            progress=lambda done, total: report(done / total),
        )
    console = Console(width=None if Console().is_terminal else 160)
    console.print(table(evaluation))
    for line in codebook_lines(evaluation):
        typer.echo(line)
    for failure in evaluation.failures:
        what = f"{failure.clip}, {failure.system}" if failure.system else failure.clip
        typer.echo(f"rvq: {what}: {failure.reason}", err=True)
    if json:
        _write(json, to_json(evaluation))
    if markdown:
        _write(markdown, to_markdown(evaluation))
    if html:
        with progress_bar("players of the page") as report:
            page = to_html(
                evaluation,
                systems,
                clips=html_clips,
                progress=lambda done, total: report(done / total),
            )
        _write(html, page)
    if evaluation.failures:
        raise typer.Exit(IN_PART)


def _rates(text: str) -> list[float]:
    try:
        return [float(rate) for rate in text.split(",") if rate.strip()]
    except ValueError:
        raise InputError(f"bitrates must be numbers separated by commas, got {text!r}") from None


def _peer(entry: str) -> tuple[str, float, str]:
    name, _, rest = entry.partition(",")
    kbps, _, command = rest.partition(",")
    rates = _rates(kbps)
    if not command or len(rates) != 1:
        raise InputError(f"--peer must be NAME,KBPS,COMMAND, got {entry!r}")
    return name, rates[0], command


def _write(path: Path, text: str) -> None:
    from rvq.replacing import replacing

    with replacing(path) as temporary:
        temporary.write_text(text)
