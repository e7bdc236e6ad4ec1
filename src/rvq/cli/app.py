"""All commands of `rvq`."""

from typing import Annotated

import typer

import rvq
from rvq.cli import (
    data,
    decode,
    detokenize,
    encode,
    evaluate,
    export,
    extend,
    import_,
    info,
    learn_entropy,
    learn_transformer,
    play,
    probe,
    serve,
    stream,
    tokenize,
    train,
    trim,
)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _say_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"rvq {rvq.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_say_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Residual vector quantization of audio and speech."""


app.command()(encode.encode)
app.command()(decode.decode)
app.command()(info.info)
app.command()(trim.trim)
app.command()(play.play)
app.command(name="eval")(evaluate.evaluate)
app.add_typer(stream.app, name="stream", help="Packets as samples come: pipes and live sound.")
app.command()(serve.serve)
app.command()(tokenize.tokenize)
app.command()(detokenize.detokenize)
app.command()(probe.probe)
app.command()(train.train)
app.command()(export.export)
app.command()(extend.extend)
app.command(name="learn-entropy")(learn_entropy.learn_entropy)
app.command(name="learn-transformer")(learn_transformer.learn_transformer)
app.command(name="import")(import_.import_)
app.add_typer(data.app, name="data", help="Training data.")
