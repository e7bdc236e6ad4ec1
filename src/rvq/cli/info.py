"""`rvq info`."""

from contextlib import suppress
from pathlib import Path
from typing import Annotated
from unicodedata import category

import typer

from rvq.cli.arguments import IN_PART


def info(source: Annotated[Path, typer.Argument(help="Compressed file, .rvq.")]) -> None:
    """Say what is in a compressed file; exit status 3 if it is damaged."""
    from rich.console import Console
    from rich.table import Table

    from rvq.bitstream.container import Reader
    from rvq.bitstream.survey import survey
    from rvq.codec.files import open_rvq
    from rvq.codec.models import find_by_hash
    from rvq.errors import InputError, ModelError

    if source.exists() and not source.is_file():
        raise InputError(f"cannot read {source}: it is no file")
    with open_rvq(source) as file:
        found = survey(Reader(file))
    header = found.header
    size = source.stat().st_size
    duration = max(header.duration, 1e-9)
    coding = "packed" if header.entropy is None else f"entropy model {header.entropy.hex()}"
    each = header.kbps_per_codebook
    model = header.model.hex()
    with suppress(ModelError):
        model = f"{find_by_hash(model).name}, {model}"
    rows: dict[str, str | int] = {
        "format": f"version {header.version}",
        "duration": f"{header.duration:.3f} s",
        "sample rate": f"{header.sample_rate} Hz",
        "channels": header.channels,
        "samples": header.n_samples,
        "frames": header.n_frames,
        "frame rate": f"{float(header.frame_rate):g} Hz" if each else "not in the file",
        "codebooks": f"{header.n_codebooks} of {header.codebook_size} codewords",
        "size": f"{size} bytes, {size - found.payload} of them container",
        "bitrate": f"{size * 8 / 1000 / duration:.2f} kbps",
        "coding": coding + (", variable bitrate" if header.variable else ""),
        "layers": " ".join(f"{bytes_ * 8 / 1000 / duration:.2f}" for bytes_ in found.layers)
        + " kbps",
        "model": model,
        "blocks": f"{header.n_blocks}, {found.lost} damaged or missing",
    }
    if not found.damaged and header.entropy is not None:
        rows["saved"] = f"{1 - found.payload / max(header.payload_size, 1):.1%} of the packed codes"
    if found.weakened:
        rows["blocks"] = f"{rows['blocks']}, {found.weakened} without some layers"
    if found.cut_short:
        rows["damage"] = "the file is cut short"
    elif found.added_to:
        rows["damage"] = "bytes that are none of it follow the end of the file"
    elif header.repaired or found.whole is False:
        rows["damage"] = "the header or a checksum is damaged, or the end is missing"
    rows |= {
        _visible(name): _visible(value)
        for name, value in header.metadata.items()
        if name not in rows
    }
    table = Table(box=None, show_header=False)
    for name, value in rows.items():
        table.add_row(name, str(value))
    Console(markup=False).print(table)
    if found.damaged:
        raise typer.Exit(IN_PART)


def _visible(text: str) -> str:
    """Control characters escaped: a file may come from anyone, and terminals obey them."""
    return "".join(
        c if c.isprintable() or category(c) == "Zs" else ascii(c)[1:-1]  # Zs: spaces
        for c in text
    )
