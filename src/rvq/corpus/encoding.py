"""What a worker does: the recordings of a shard -> its Parquet file."""

import json
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from rvq.codec.codec import Codec
from rvq.codec.frames import check_samples
from rvq.corpus.audio import open_recording
from rvq.corpus.parquet import Row, ShardSummary, ShardWriter, Skipped
from rvq.corpus.plan import Settings, Shard
from rvq.corpus.pool import note
from rvq.corpus.sources import tar_members
from rvq.errors import InputError

_MOST_CHANNELS = 255
"""Of a recording, as everywhere in this package; the Parquet's columns hold no more."""


@dataclass(frozen=True)
class Tally:
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
class Task:
    """A shard to write.

    Attributes:
        shard: its sources and where it goes.
        settings: how.
        fatal: keys of recordings that kill the process that reads them.
        only: key of the one recording to read; default all.
    """

    shard: Shard
    settings: Settings
    fatal: frozenset[str] = frozenset()
    only: str | None = None


@dataclass(frozen=True)
class Place:
    """Where a worker is: file name of the shard, number of the source in it, key."""

    shard: str
    source: int
    key: str

    def as_note(self) -> str:
        """For `rvq.corpus.pool.note`."""
        return json.dumps(astuple(self))

    @classmethod
    def from_note(cls, text: str) -> "Place":
        """Undo `as_note`."""
        return cls(*json.loads(text))


@lru_cache(maxsize=1)
def _codec(model: str, model_hash: str) -> Codec:
    """Loaded once per process."""
    codec = Codec.load(model)
    codec.check_model(model_hash)
    return codec


def write_shard(task: Task, report: Callable[[Tally], None]) -> ShardSummary:
    """Tokenise the sources of a shard; after every recording `report` is told."""
    writer = ShardWriter(task.shard.path, task.settings.n_codebooks)
    skipped: list[Skipped] = []
    n_recordings, seconds = 0, 0.0
    try:
        for outcome, n_bytes in _outcomes(task):
            if isinstance(outcome, Skipped):
                skipped.append(outcome)
                report(Tally(n_bytes, 0, n_skipped=1))
                continue
            for row in outcome:
                writer.write(row)
            duration = outcome[0].n_samples / outcome[0].sample_rate
            n_recordings, seconds = n_recordings + 1, seconds + duration
            report(Tally(n_bytes, 0, n_recordings=1, seconds=duration))
        summary = ShardSummary(n_recordings, seconds, task.shard.n_bytes, tuple(skipped))
        writer.close(summary)
    except BaseException:
        writer.abandon()
        raise
    return summary


def read_only(task: Task, report: Callable[[Tally], None]) -> None:
    """Do what `write_shard` does and keep nothing, to see whether the process survives it."""
    for _ in _outcomes(task):
        pass


def _outcomes(task: Task) -> Iterator[tuple[list[Row] | Skipped, int]]:
    """The rows of every recording, or why there are none; and the bytes of the source it took."""
    for i, source in enumerate(task.shard.sources):
        if not source.is_tar:
            yield _outcome(task, i, source.key, source.path, source.metadata), source.n_bytes
            continue
        left = source.n_bytes
        try:
            for member in tar_members(Path(source.path)):
                key = f"{source.key}/{member.key}"
                if task.only not in (None, key):
                    continue
                rows = _outcome(task, i, key, member.data, member.metadata)
                n_bytes = min(left, len(member.data))
                left -= n_bytes
                yield rows, n_bytes
        except InputError as error:
            yield Skipped(source.key, str(error)), left


def _outcome(
    task: Task, source: int, key: str, file: str | bytes, metadata: str | None
) -> list[Row] | Skipped:
    if key in task.fatal:
        return Skipped(key, "the process that read it was killed")
    note(Place(task.shard.path.name, source, key).as_note())
    codec = _codec(task.settings.model, task.settings.model_hash)
    return _encode(codec, task.settings, key, file, metadata)


def _encode(
    codec: Codec, settings: Settings, key: str, file: str | bytes, metadata: str | None
) -> list[Row] | Skipped:
    try:
        with open_recording(file) as recording:
            channels = 1 if settings.mono else recording.channels
            if channels > _MOST_CHANNELS:
                return Skipped(key, f"has {channels} channels, more than {_MOST_CHANNELS}")
            encoder = codec.frame_encoder(
                channels=channels,
                sample_rate=recording.sample_rate,
                bitrate=settings.n_codebooks * codec.kbps_per_codebook,
                beam_size=1,  # so that coarse tokens do not depend on how many finer ones there are
            )
            parts, n_samples = [], 0
            for block in recording.blocks:
                check_samples(block, "it")
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
            channels=len(codes),
            codes=codes[channel],
            codebook_size=codec.codebook_size,
            frame_rate=float(codec.frame_rate),
            sample_rate=sample_rate,
            n_samples=n_samples,
            model_hash=codec.model_hash,
            metadata=metadata,
        )
        for channel in range(len(codes))
    ]
