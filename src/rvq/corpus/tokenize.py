"""Recordings -> shards of Parquet, in worker processes of one machine or on a Ray cluster."""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from rvq.codec.codec import Codec
from rvq.codec.models import DEFAULT_MODEL, find
from rvq.corpus.audio import open_recording
from rvq.corpus.parquet import Row, ShardSummary, ShardWriter, Skipped, read_summary
from rvq.corpus.plan import Plan, Settings, Shard, make_plan
from rvq.corpus.pool import run_pool
from rvq.corpus.sources import tar_members
from rvq.errors import InputError


@dataclass(frozen=True)
class Progress:
    """How far tokenising is.

    Attributes:
        n_bytes: of the sources done with.
        of_bytes: of all sources.
        n_recordings: tokenised.
        n_skipped: could not be read.
        seconds: of audio tokenised.
    """

    n_bytes: int
    of_bytes: int
    n_recordings: int = 0
    n_skipped: int = 0
    seconds: float = 0.0


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
    progress: Callable[[Progress], None] = lambda progress: None,
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
    state = _Tally(plan, progress)
    tasks = _left(plan, state)
    if ray is None:
        for _ in run_pool(
            write_shard, tasks, workers=workers or os.cpu_count() or 1, on_event=state.add
        ):
            pass
    else:
        from rvq.corpus.cluster import run_on_ray

        for summary in run_on_ray(write_shard, tasks, address=ray):
            state.add(
                Progress(
                    summary.n_bytes,
                    0,
                    summary.n_recordings,
                    len(summary.skipped),
                    summary.seconds,
                )
            )
    return _finish(plan)


class _Tally:
    """Adds up what is done."""

    def __init__(self, plan: Plan, progress: Callable[[Progress], None]) -> None:
        self.total = Progress(0, plan.n_bytes)
        self.progress = progress

    def add(self, part: Progress) -> None:
        total = self.total
        self.total = Progress(
            total.n_bytes + part.n_bytes,
            total.of_bytes,
            total.n_recordings + part.n_recordings,
            total.n_skipped + part.n_skipped,
            total.seconds + part.seconds,
        )
        self.progress(self.total)


def _left(plan: Plan, state: _Tally) -> Iterator[tuple[Shard, Settings]]:
    """The shards that are still to be written."""
    for shard in plan.shards():
        if not shard.path.exists():
            yield shard, plan.settings
            continue
        done = read_summary(shard.path)
        state.add(Progress(done.n_bytes, 0, done.n_recordings, len(done.skipped), done.seconds))


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
    temporary = plan.folder / f".{report.name}.{os.getpid()}.tmp"
    temporary.write_text(
        "".join(json.dumps({"key": s.key, "reason": s.reason}) + "\n" for s in skipped)
    )
    temporary.replace(report)
    for leftover in plan.folder.glob(".*.tmp"):  # of runs that were killed
        leftover.unlink(missing_ok=True)
    n_bytes = sum(path.stat().st_size for path in shards)
    return Tokenized(tuple(shards), n_recordings, seconds, n_bytes, tuple(skipped), report)


# --- in the workers -------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _codec(model: str, model_hash: str) -> Codec:
    """Loaded once per process."""
    codec = Codec.load(model)
    codec.check_model(model_hash)
    return codec


def write_shard(task: tuple[Shard, Settings], report: Callable[[Progress], None]) -> ShardSummary:
    """Tokenise the sources of a shard; after every recording `report` is told."""
    shard, settings = task
    codec = _codec(settings.model, settings.model_hash)
    writer = ShardWriter(shard.path, settings.n_codebooks)
    skipped: list[Skipped] = []
    n_recordings, seconds = 0, 0.0
    try:
        for outcome, n_bytes in _outcomes(codec, settings, shard):
            if isinstance(outcome, Skipped):
                skipped.append(outcome)
                report(Progress(n_bytes, 0, n_skipped=1))
                continue
            for row in outcome:
                writer.write(row)
            duration = outcome[0].n_samples / outcome[0].sample_rate
            n_recordings, seconds = n_recordings + 1, seconds + duration
            report(Progress(n_bytes, 0, n_recordings=1, seconds=duration))
        summary = ShardSummary(n_recordings, seconds, shard.n_bytes, tuple(skipped))
        writer.close(summary)
    except BaseException:
        writer.abandon()
        raise
    return summary


def _outcomes(
    codec: Codec, settings: Settings, shard: Shard
) -> Iterator[tuple[list[Row] | Skipped, int]]:
    """The rows of every recording, or why there are none; and the bytes of the source it took."""
    for source in shard.sources:
        if not source.is_tar:
            rows = _encode(codec, settings, source.key, source.path, source.metadata)
            yield rows, source.n_bytes
            continue
        left = source.n_bytes
        try:
            for member in tar_members(Path(source.path)):
                key = f"{source.key}/{member.key}"
                rows = _encode(codec, settings, key, member.data, member.metadata)
                n_bytes = min(left, len(member.data))
                left -= n_bytes
                yield rows, n_bytes
        except InputError as error:
            yield Skipped(source.key, str(error)), left


def _encode(
    codec: Codec, settings: Settings, key: str, file: str | bytes, metadata: str | None
) -> list[Row] | Skipped:
    try:
        with open_recording(file) as recording:
            channels = 1 if settings.mono else recording.channels
            encoder = codec.frame_encoder(
                channels=channels,
                sample_rate=recording.sample_rate,
                bitrate=settings.n_codebooks * codec.kbps_per_codebook,
            )
            parts, n_samples = [], 0
            for block in recording.blocks:
                if not np.isfinite(block).all():
                    return Skipped(key, "contains NaN or infinity")
                audio = block.mean(0, keepdims=True) if settings.mono else block
                # Narrow at once: an hour of a recording waits here until it is whole.
                parts.append(encoder.push(np.ascontiguousarray(audio)).astype(np.uint16))
                n_samples += block.shape[1]
            if not n_samples:
                return Skipped(key, "holds no audio")
            parts.append(encoder.flush().astype(np.uint16))
            sample_rate = recording.sample_rate
    except InputError as error:
        return Skipped(key, str(error))
    codes = np.concatenate(parts, axis=1)
    return [
        Row(
            key=key,
            channel=channel,
            channels=channels,
            codes=codes[channel],
            codebook_size=codec.codebook_size,
            frame_rate=codec.runtime.frame_rate,
            sample_rate=sample_rate,
            n_samples=n_samples,
            model_hash=codec.model_hash,
            metadata=metadata,
        )
        for channel in range(channels)
    ]
