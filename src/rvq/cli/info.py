"""`rvq info`."""

from pathlib import Path
from typing import Annotated

import typer


def info(source: Annotated[Path, typer.Argument(help="Compressed file, .rvq.")]) -> None:
    """Say what is in a compressed file."""
    from rich.console import Console
    from rich.table import Table

    from rvq.bitstream.container import Reader
    from rvq.codec.files import open_rvq

    with open_rvq(source) as file:
        reader = Reader(file)
        header = reader.header
        lost = header.n_blocks - sum(intact for _, _, intact in reader.payloads())
    size = source.stat().st_size
    duration = max(header.duration, 1e-9)
    rows = {
        "duration": f"{header.duration:.3f} s",
        "sample rate": f"{header.sample_rate} Hz",
        "channels": header.channels,
        "samples": header.n_samples,
        "frames": header.n_frames,
        "codebooks": f"{header.n_codebooks} of {header.codebook_size} codewords",
        "size": f"{size} bytes",
        "bitrate": f"{size * 8 / 1000 / duration:.2f} kbps",
        "model": header.model.hex(),
        "blocks": f"{header.n_blocks}, {lost} damaged or missing",
    }
    table = Table(box=None, show_header=False)
    for name, value in rows.items():
        table.add_row(name, str(value))
    Console().print(table)
