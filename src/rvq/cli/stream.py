"""`rvq stream`."""

import sys
from typing import Annotated

import typer

from rvq.cli.arguments import IN_PART, DecodingModel, Model
from rvq.codec.models import DEFAULT_MODEL
from rvq.errors import InputError

app = typer.Typer(no_args_is_help=True)

Bitrate = Annotated[float, typer.Option(help="kbps per channel; as many codebooks as fit.")]
Format = Annotated[str, typer.Option("--format", help="Raw samples: s16le or f32le.")]


@app.callback()
def stream() -> None:
    """Packets as samples come: a filter for pipes, and live sound."""


@app.command()
def encode(
    sample_rate: Annotated[int, typer.Option(help="Hz, of the raw samples.")] = 24_000,
    channels: Annotated[int, typer.Option(help="Interleaved in the raw samples.")] = 1,
    sample_format: Format = "s16le",
    bitrate: Bitrate = 6.0,
    model: Model = DEFAULT_MODEL,
) -> None:
    """Raw PCM from standard input to packets on standard output."""
    from rvq.codec.codec import Codec
    from rvq.codec.pipe import encode_pipe

    if sys.stdout.isatty():
        raise InputError("packets are no text: send standard output to a file or a pipe")
    encode_pipe(
        Codec.load(model),
        sys.stdin.buffer,
        sys.stdout.buffer,
        sample_rate=sample_rate,
        channels=channels,
        sample_format=sample_format,
        bitrate=bitrate,
    )


@app.command()
def decode(sample_format: Format = "s16le", model: DecodingModel = None) -> None:
    """Packets from standard input to raw PCM on standard output.

    Exit status 3 if the stream is cut, or packets are damaged or missing.
    """
    from rvq.codec.codec import Codec
    from rvq.codec.pipe import decode_pipe

    if sys.stdout.isatty():
        raise InputError("samples are no text: send standard output to a file or a player")
    codec = None if model is None else Codec.load(model)
    if not decode_pipe(codec, sys.stdin.buffer, sys.stdout.buffer, sample_format=sample_format):
        typer.echo("rvq: the stream was cut, or packets were damaged or missing", err=True)
        raise typer.Exit(IN_PART)


@app.command()
def live(
    bitrate: Bitrate = 6.0,
    loss: Annotated[float, typer.Option(help="Share of packets thrown away.")] = 0.0,
    seconds: Annotated[float | None, typer.Option(help="Default: until interrupted.")] = None,
    model: Model = DEFAULT_MODEL,
) -> None:
    """From the microphone through the codec to the loudspeaker."""
    from rvq.codec.codec import Codec
    from rvq.codec.live import talk

    talk(Codec.load(model), bitrate=bitrate, loss=loss, seconds=seconds)
