"""`rvq serve`."""

from pathlib import Path
from typing import Annotated

import typer

from rvq.cli.arguments import Model
from rvq.codec.models import DEFAULT_MODEL
from rvq.errors import InputError


def serve(
    context: typer.Context,
    model: Model = DEFAULT_MODEL,
    port: Annotated[int, typer.Option(help="TCP port; 0 for any free one.")] = 8765,
    host: Annotated[str, typer.Option(help="Address; the default lets nobody else in.")] = (
        "127.0.0.1"
    ),
    browser: Annotated[bool, typer.Option(help="Open the page in a browser.")] = True,
    static: Annotated[
        Path | None, typer.Option(help="Instead write a copy for any web host into this folder.")
    ] = None,
    runtime: Annotated[
        Path | None, typer.Option(help="For --static: dist folder of onnxruntime-web.")
    ] = None,
) -> None:
    """Hear the codec, look inside it and learn how it works, on a web page of this machine."""
    if static is None and _is_given(context, "runtime"):
        raise InputError("--runtime is for the copy that --static writes; give both or neither")
    for name in ("port", "host", "browser"):
        if static is not None and _is_given(context, name):
            raise InputError(f"--static starts no server and opens no page; leave out --{name}")
    try:
        from rvq.web.server import serve as run
    except ImportError as error:
        raise InputError(f"the web page needs `pip install 'rvq[web]'` ({error})") from None

    if static is not None:
        from rvq.web.static_copy import write_static_copy

        write_static_copy(
            model, static, runtime=runtime, progress=lambda what: typer.echo(what, err=True)
        )
        typer.echo(f"{static}: put this folder on any web host; it needs no server of ours")
        return

    def ready(address: str) -> None:
        typer.echo(f"{address} (Ctrl-C ends it)")
        if browser:
            import webbrowser

            webbrowser.open(address)

    run(model, host=host, port=port, ready=ready)


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"
