"""An evaluation as a table for the terminal, for documentation, and as JSON."""

import json
import math
from typing import Any

from rich.table import Table

from rvq.evaluate.cache import finite_or_none, record_to_json
from rvq.evaluate.metrics import METRICS
from rvq.evaluate.results import Evaluation, Interval, SystemInfo

_LABELS = {
    "pesq_wb": "PESQ-WB",
    "estoi": "ESTOI",
    "visqol": "ViSQOL",
    "mel_distance": "mel",
    "si_sdr": "SI-SDR dB",
}
_DECIMALS = {"pesq_wb": 2, "estoi": 3, "visqol": 2, "mel_distance": 2, "si_sdr": 1}
_HEADINGS = ("system", "file kbps", "payload kbps", *(_LABELS[name] for name in METRICS))


def table(evaluation: Evaluation) -> Table:
    """A rich table: a row per system by family and bitrate, means ± half a 95% interval.

    A mean that lacks some of the clips says of how many it is.
    """
    grid = Table(title=_title(evaluation), caption=_caption(evaluation))
    for heading in _HEADINGS:
        grid.add_column(heading, justify="left" if heading == "system" else "right")
    family = None
    for info in _sorted(evaluation):
        if family not in (None, info.family):
            grid.add_section()
        family = info.family
        grid.add_row(*_row(evaluation, info))
    return grid


def to_markdown(evaluation: Evaluation) -> str:
    """The same table in Markdown, with its title above and the versions below."""
    rows = [_HEADINGS, ("---", *["---:"] * (len(_HEADINGS) - 1))]
    rows += [_row(evaluation, info) for info in _sorted(evaluation)]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([_title(evaluation), "", *lines, "", _caption(evaluation), ""])


def to_json(evaluation: Evaluation) -> str:
    """Everything as JSON: means and intervals, single records, failures, versions; nan is null."""
    content = {
        "systems": [_system_json(evaluation, info) for info in _sorted(evaluation)],
        "metric_versions": evaluation.metric_versions,
        "failures": [vars(failure) for failure in evaluation.failures],
        "records": [record_to_json(record) for record in evaluation.records],
    }
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def _sorted(evaluation: Evaluation) -> list[SystemInfo]:
    return sorted(evaluation.systems, key=lambda info: (info.family, info.nominal_kbps, info.name))


def _row(evaluation: Evaluation, info: SystemInfo) -> tuple[str, ...]:
    n_clips = len({record.clip for record in evaluation.records})
    cells = [
        _cell(evaluation.summary(info.name, metric), _DECIMALS[metric], n_clips)
        for metric in METRICS
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


def _title(evaluation: Evaluation) -> str:
    lengths = {record.clip: record.seconds for record in evaluation.records}
    clips = "1 clip" if len(lengths) == 1 else f"{len(lengths)} clips"
    title = f"{clips}, {sum(lengths.values()):.0f} s; mean ± half of the 95% interval"
    if evaluation.failures:
        title += f"; {len(evaluation.failures)} failed"
    return title


def _caption(evaluation: Evaluation) -> str:
    """Who measured and who coded: no figure means anything without it."""
    parts = [f"{name} {version}" for name, version in evaluation.metric_versions.items()]
    for info in _sorted(evaluation):
        part = f"{info.family}: {info.version}"
        if part not in parts:
            parts.append(part)
    return "; ".join(parts)


def _system_json(evaluation: Evaluation, info: SystemInfo) -> dict[str, Any]:
    scores = {}
    for metric in METRICS:
        interval = evaluation.summary(info.name, metric)
        scores[metric] = {
            "mean": finite_or_none(interval.mean),
            "half_width": finite_or_none(interval.half_width),
            "n": interval.n,
        }
    return {
        **vars(info),
        "n_clips": len(evaluation.of(info.name)),
        "file_kbps": finite_or_none(evaluation.file_kbps(info.name)),
        "payload_kbps": finite_or_none(evaluation.payload_kbps(info.name)),
        "scores": scores,
    }
