"""Finished records in a file of JSON lines, so that an interrupted evaluation goes on."""

import base64
import hashlib
import json
import math
import zlib
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from rvq.errors import FormatError
from rvq.evaluate.metrics import Scores
from rvq.evaluate.results import Record, SystemInfo

_RECIPE = 3
"""Raise it when scores change for other reasons than a package's version."""
_BEGINNING = '{"key": "'
"""Of every line."""


def record_key(
    clip_digest: str,
    system: SystemInfo,
    metric_versions: dict[str, str],
    metrics: Sequence[str],
) -> str:
    """Key under which a record stays valid: the clip's content, the system and the metrics."""
    parts = [
        _RECIPE,
        clip_digest,
        system.name,
        system.nominal_kbps,
        system.version,
        sorted(metric_versions.items()),
        sorted(metrics),
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


class RecordCache:
    """Records by key, kept in one append-only file.

    Args:
        path: the file; created with the first record, or None to keep nothing.

    Raises:
        FormatError: the file holds something else.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._known: dict[str, Record] = {}
        if path is None or not path.exists():
            return
        text = path.read_text(errors="replace")
        for line in text.splitlines():
            try:
                if not line.startswith(_BEGINNING[: len(line)]):
                    raise KeyError(line)
                entry = json.loads(line)
                key = entry.pop("key")
                self._known[key] = record_from_json(entry)
            except (ValueError, zlib.error):
                continue  # damaged, as is the line that was being written when a run was killed
            except (AttributeError, KeyError, TypeError):
                raise FormatError(
                    f"{path} is not a cache of evaluation records; give another path or delete it"
                ) from None
        if text and not text.endswith("\n"):
            with path.open("a") as file:
                file.write("\n")

    def find(self, key: str, clip: str) -> Record | None:
        """The record of a clip, which may have had another path when it was measured."""
        record = self._known.get(key)
        return record and replace(record, clip=clip)

    def add(self, key: str, record: Record) -> None:
        """Append a record to the file."""
        if self._path is not None:
            with self._path.open("a") as file:
                file.write(json.dumps({"key": key, **record_to_json(record)}) + "\n")


def record_to_json(record: Record) -> dict[str, Any]:
    """A record as plain JSON values, nan as null."""
    entry = asdict(record)
    measured = {name: value for name, value in entry["scores"].items() if value is not None}
    entry["scores"] = {name: finite_or_none(value) for name, value in measured.items()}
    if record.code_counts is not None:
        # Mostly zeros: in bytes they shrink to a few thousand characters.
        counts = np.array(record.code_counts, "<u4")
        packed = base64.b64encode(zlib.compress(counts.tobytes())).decode()
        entry["code_counts"] = [list(counts.shape), packed]
    return entry


def record_from_json(entry: dict[str, Any]) -> Record:
    """The inverse of `record_to_json`."""
    values = entry["scores"].items()
    scores = Scores(**{name: math.nan if value is None else value for name, value in values})
    counts = entry.get("code_counts")
    if counts is not None:
        shape, packed = counts
        numbers = np.frombuffer(zlib.decompress(base64.b64decode(packed)), "<u4").reshape(shape)
        counts = tuple(map(tuple, numbers.tolist()))
    return Record(**{**entry, "scores": scores, "code_counts": counts})


def finite_or_none(value: float) -> float | None:
    """What JSON, which has no nan, can say of a value."""
    return value if math.isfinite(value) else None
