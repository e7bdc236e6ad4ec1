"""Recordings -> shards of Parquet, in worker processes of one machine or on a Ray cluster."""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rvq.codec.codec import Codec
from rvq.codec.models import DEFAULT_MODEL, find
from rvq.corpus.encoding import Place, Tally, Task, read_only, write_shard
from rvq.corpus.parquet import ShardSummary, Skipped, read_summary
from rvq.corpus.plan import Plan, Settings, Shard, make_plan
from rvq.corpus.pool import WorkerDiedError, run_pool
from rvq.errors import InputError
from rvq.replacing import replacing

_DEATHS = 3
"""Workers that may be killed in a row, by no recording's fault, before the run is given up."""


@dataclass(frozen=True)
class Tokenized:
    """What tokenising a corpus came to.

    Attributes:
        shards: the Parquet files.
        n_recordings: in them.
        seconds: of audio in them.
        n_bytes: of the Parquet files.
        skipped: files that could not be read.
        report: lists them, one JSON object a line.
    """

    shards: tuple[Path, ...]
    n_recordings: int
    seconds: float
    n_bytes: int
    skipped: tuple[Skipped, ...]
    report: Path


def tokenize(
    source: str | Path,
    folder: str | Path,
    *,
    bitrate: float | None = None,
    model: str | Path = DEFAULT_MODEL,
    mono: bool = False,
    workers: int | None = None,
    ray: str | None = None,
    shard_bytes: int | None = None,
    progress: Callable[[Tally], None] = lambda progress: None,
) -> Tokenized:
    """Turn recordings into Parquet of codes; a call that was killed goes on where it stood.

    Args:
        source: folder, glob, `.tar` in WebDataset's layout, or manifest (`.jsonl`, `.csv`).
        folder: of the shards; created if need be.
        bitrate: kbps per channel; default the model's highest.
        model: name of a model of the package, or a model folder.
        mono: average the channels; else every channel is a row.
        workers: processes; default as many as there are cores.
        ray: address of a Ray cluster that does the work instead, `auto` for the one at hand,
            `local` for one of this machine; all machines need to see both folders.
        shard_bytes: size of the recordings of a shard; default a 64th of them all, 4 to 256 MiB.
        progress: called as the work goes on.

    Raises:
        InputError: nothing to tokenise, or a folder that holds something else.
        ModelError: no such model.
    """
    home = find(model).resolve()
    codec = Codec.load(home)
    if workers is not None and workers < 1:
        raise InputError(f"workers must be at least 1, got {workers}")
    if shard_bytes is not None and shard_bytes < 1:
        raise InputError(f"shard_bytes must be at least 1, got {shard_bytes}")
    settings = Settings(str(home), codec.model_hash, codec.n_codebooks(bitrate), mono)
    plan = make_plan(str(source), Path(folder).resolve(), settings, shard_bytes=shard_bytes)
    if ray is None:
        _run_here(plan, workers or os.cpu_count() or 1, progress)
    else:
        _run_on_ray(plan, ray, progress)
    return _finish(plan)


def _run_here(plan: Plan, workers: int, progress: Callable[[Tally], None]) -> None:
    """In worker processes; recordings that kill them are found out and skipped."""
    fatal: frozenset[str] = frozenset()
    unexplained = 0
    while True:
        state = _Tally(plan, progress)
        tasks = (Task(shard, plan.settings, fatal) for shard in _left(plan, state))
        try:
            for _ in run_pool(write_shard, tasks, workers=workers, on_event=state.add):
                pass
            return
        except WorkerDiedError as died:
            # All workers ended with the one that died: try what each was at by itself.
            found = {place for text in died.notes if text and (place := _kills(plan, text))}
            fatal |= found
            unexplained = 0 if found else unexplained + 1
            if unexplained == _DEATHS:
                raise


def _kills(plan: Plan, text: str) -> str | None:
    """The key of what a worker was at, if that kills a worker again."""
    place = Place.from_note(text)
    shard = next(s for s in plan.shards() if s.path.name == place.shard)
    alone = Shard(shard.path, (shard.sources[place.source],))
    task = Task(alone, plan.settings, only=place.key)
    try:
        for _ in run_pool(read_only, [task], workers=1, on_event=lambda event: None):
            pass
    except WorkerDiedError:
        return place.key
    return None


def _run_on_ray(plan: Plan, address: str, progress: Callable[[Tally], None]) -> None:
    from rvq.corpus.cluster import run_on_ray

    state = _Tally(plan, progress)
    tasks = (Task(shard, plan.settings) for shard in _left(plan, state))
    for done in run_on_ray(write_shard, tasks, address=address):
        state.add_shard(done)


class _Tally:
    """Adds up what is done."""

    def __init__(self, plan: Plan, progress: Callable[[Tally], None]) -> None:
        self.total = Tally(0, plan.n_bytes)
        self.progress = progress

    def add(self, part: Tally) -> None:
        total = self.total
        self.total = Tally(
            total.n_bytes + part.n_bytes,
            total.of_bytes,
            total.n_recordings + part.n_recordings,
            total.n_skipped + part.n_skipped,
            total.seconds + part.seconds,
        )
        self.progress(self.total)

    def add_shard(self, done: ShardSummary) -> None:
        self.add(Tally(done.n_bytes, 0, done.n_recordings, len(done.skipped), done.seconds))


def _left(plan: Plan, state: _Tally) -> Iterator[Shard]:
    """The shards that are still to be written."""
    for shard in plan.shards():
        if shard.path.exists():
            state.add_shard(read_summary(shard.path))
        else:
            yield shard


def _finish(plan: Plan) -> Tokenized:
    shards: list[Path] = []
    skipped: list[Skipped] = []
    n_recordings, seconds = 0, 0.0
    for shard in plan.shards():
        summary = read_summary(shard.path)
        shards.append(shard.path)
        skipped += summary.skipped
        n_recordings += summary.n_recordings
        seconds += summary.seconds
    report = plan.folder / "_skipped.jsonl"
    lines = (json.dumps({"key": s.key, "reason": s.reason}) + "\n" for s in skipped)
    with replacing(report) as temporary:
        temporary.write_text("".join(lines))
    for leftover in plan.folder.glob(".*.tmp"):  # of runs that were killed
        leftover.unlink(missing_ok=True)
    n_bytes = sum(path.stat().st_size for path in shards)
    return Tokenized(tuple(shards), n_recordings, seconds, n_bytes, tuple(skipped), report)
