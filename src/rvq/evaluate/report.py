"""An evaluation as a table for the terminal, for documentation, and as JSON."""

import json
import math
from typing import Any

from rich.table import Table

from rvq.evaluate.cache import finite_or_none, record_to_json
from rvq.evaluate.metrics import METRICS
from rvq.evaluate.results import Evaluation, Interval, Record, SystemInfo

LABELS = {
    "pesq_wb": "PESQ-WB",
    "estoi": "ESTOI",
    "visqol": "ViSQOL",
    "mel_distance": "mel",
    "si_sdr": "SI-SDR dB",
    "visqol_audio": "ViSQOL audio",
    "lsd": "LSD dB",
    "dnsmos": "DNSMOS",
    "speaker": "speaker",
    "wer": "WER",
}
"""Headings of the measures."""
_DECIMALS = dict.fromkeys(METRICS, 2) | {"estoi": 3, "si_sdr": 1, "lsd": 1, "speaker": 3, "wer": 3}


def table(evaluation: Evaluation) -> Table:
    """A rich table: a row per system by family and bitrate, means ± half a 95% interval.

    A mean that lacks some of the clips says of how many it is.
    """
    grid = Table(title=title(evaluation), caption=caption(evaluation))
    for heading in headings(evaluation):
        grid.add_column(heading, justify="left" if heading == "system" else "right")
    family = None
    for info in by_family(evaluation):
        if family not in (None, info.family):
            grid.add_section()
        family = info.family
        grid.add_row(*row(evaluation, info))
    return grid


def to_markdown(evaluation: Evaluation) -> str:
    """The same table in Markdown, with its title above and the versions below."""
    head = headings(evaluation)
    rows = [head, ("---", *["---:"] * (len(head) - 1))]
    rows += [row(evaluation, info) for info in by_family(evaluation)]
    lines = ["| " + " | ".join(cells) + " |" for cells in rows]
    return "\n".join([title(evaluation), "", *lines, "", caption(evaluation), ""])


def codebook_lines(evaluation: Evaluation) -> list[str]:
    """A sentence for each codec of this package: how well its codebooks are used."""
    largest: dict[str, SystemInfo] = {}
    for info in by_family(evaluation):
        if evaluation.codebook_use(info.name) is not None:
            largest[info.family] = info  # the last has the most codebooks
    lines = []
    for info in largest.values():
        use = evaluation.codebook_use(info.name)
        shares = ", ".join(f"{share:.0%}" for share in ([] if use is None else use))
        lines.append(f"perplexity of the codebooks of {info.name}, of their size: {shares}")
    return lines


def to_json(evaluation: Evaluation) -> str:
    """Everything as JSON: means and intervals, single records, failures, versions; nan is null."""
    content = {
        "systems": [_system_json(evaluation, info) for info in by_family(evaluation)],
        "metric_versions": evaluation.metric_versions,
        "failures": [vars(failure) for failure in evaluation.failures],
        "records": [_record_json(record) for record in evaluation.records],
    }
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def headings(evaluation: Evaluation) -> tuple[str, ...]:
    """Of the columns of `row`."""
    return ("system", "file kbps", "payload kbps", *(LABELS[name] for name in evaluation.metrics))


def by_family(evaluation: Evaluation) -> list[SystemInfo]:
    """The systems by family and bitrate."""
    return sorted(evaluation.systems, key=lambda info: (info.family, info.nominal_kbps, info.name))


def row(evaluation: Evaluation, info: SystemInfo) -> tuple[str, ...]:
    """What every table says of a system."""
    n_clips = len({record.clip for record in evaluation.records})
    cells = [
        _cell(evaluation.summary(info.name, metric), _DECIMALS[metric], n_clips)
        for metric in evaluation.metrics
    ]
    rates = (evaluation.file_kbps(info.name), evaluation.payload_kbps(info.name))
    return (info.name, *("–" if math.isnan(rate) else f"{rate:.2f}" for rate in rates), *cells)


def _cell(interval: Interval, decimals: int, n_clips: int) -> str:
    if not interval.n:
        return "–"
    cell = f"{interval.mean:.{decimals}f}"
    if interval.n > 1:
        cell += f" ± {interval.half_width:.{decimals}f}"
    return cell if interval.n == n_clips else f"{cell} (n={interval.n})"


def title(evaluation: Evaluation) -> str:
    """How many clips of what length, and what the numbers mean."""
    lengths = {record.clip: record.seconds for record in evaluation.records}
    clips = "1 clip" if len(lengths) == 1 else f"{len(lengths)} clips"
    clustered = {evaluation.speakers[clip] for clip in lengths if clip in evaluation.speakers}
    if clustered:
        clips += f" of {len(clustered)} speaker" + "s" * (len(clustered) != 1)
    title = f"{clips}, {sum(lengths.values()):.0f} s; mean ± half of the 95% interval"
    title += " for new speakers" * bool(clustered)
    if evaluation.failures:
        title += f"; {len(evaluation.failures)} failed"
    return title


def caption(evaluation: Evaluation) -> str:
    """Who measured and who coded: no figure means anything without it."""
    parts = [f"{name} {version}" for name, version in evaluation.metric_versions.items()]
    for info in by_family(evaluation):
        part = f"{info.family}: {info.version}"
        if part not in parts:
            parts.append(part)
    return "; ".join(parts)


def _record_json(record: Record) -> dict[str, Any]:
    entry = record_to_json(record)
    del entry["code_counts"]  # pooled under their system
    return entry


def _system_json(evaluation: Evaluation, info: SystemInfo) -> dict[str, Any]:
    scores = {}
    for metric in evaluation.metrics:
        interval = evaluation.summary(info.name, metric)
        scores[metric] = {
            "mean": finite_or_none(interval.mean),
            "half_width": finite_or_none(interval.half_width),
            "n": interval.n,
        }
    use = evaluation.codebook_use(info.name)
    return {
        **vars(info),
        "n_clips": len(evaluation.of(info.name)),
        "file_kbps": finite_or_none(evaluation.file_kbps(info.name)),
        "payload_kbps": finite_or_none(evaluation.payload_kbps(info.name)),
        "codebook_use": None if use is None else use.tolist(),
        "scores": scores,
    }
