"""Finished records in a file of JSON lines, so that an interrupted evaluation goes on."""

import hashlib
import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rvq.errors import FormatError
from rvq.evaluate.metrics import METRICS, Scores
from rvq.evaluate.results import Record, SystemInfo

_RECIPE = 1
"""Raise it when scores change for other reasons than a package's version."""


def record_key(clip_digest: str, system: SystemInfo, metric_versions: dict[str, str]) -> str:
    """Key under which a record stays valid: the clip's content, the system and the metrics."""
    parts = [
        _RECIPE,
        clip_digest,
        system.name,
        system.nominal_kbps,
        system.version,
        sorted(metric_versions.items()),
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


class RecordCache:
    """Records by key, kept in one append-only file.

    Args:
        path: the file; created with the first record, or None to keep nothing.

    Raises:
        FormatError: the file holds JSON of another kind.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._known: dict[str, Record] = {}
        if path is None or not path.exists():
            return
        text = path.read_text(errors="replace")
        for line in text.splitlines():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                continue  # the line that was being written when a run was killed
            try:
                key = entry.pop("key")
                self._known[key] = record_from_json(entry)
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
    entry["scores"] = {name: finite_or_none(value) for name, value in entry["scores"].items()}
    return entry


def record_from_json(entry: dict[str, Any]) -> Record:
    """The inverse of `record_to_json`."""
    values = {name: entry["scores"][name] for name in METRICS}
    scores = Scores(**{k: math.nan if v is None else v for k, v in values.items()})
    return Record(**{**entry, "scores": scores})


def finite_or_none(value: float) -> float | None:
    """What JSON, which has no nan, can say of a value."""
    return value if math.isfinite(value) else None
