"""Shards of Parquet -> recordings, a file each."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from pathlib import Path, PurePosixPath

import numpy as np

from rvq.bitstream.codes import Codes
from rvq.codec.codec import Codec
from rvq.codec.files import audio_format, write_audio
from rvq.codec.models import DEFAULT_MODEL, find, find_by_hash
from rvq.corpus.parquet import Row, find_shards, open_shard, read_group
from rvq.corpus.pool import run_pool
from rvq.corpus.sources import CORPUS_ENDINGS
from rvq.errors import FormatError, InputError, ModelError


@dataclass(frozen=True)
class _Task:
    shard: Path
    folder: Path
    ending: str
    keep_endings: bool
    n_codebooks: int | None
    model: Path


def detokenize(
    source: str | Path,
    folder: str | Path,
    *,
    ending: str = ".flac",
    keep_endings: bool = False,
    bitrate: float | None = None,
    model: str | Path | None = None,
    workers: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Decode every recording of a corpus to `folder/key`, its ending replaced.

    Files that exist are left alone, so that a call that was killed goes on.

    Args:
        source: folder of shards, or one shard.
        folder: of the recordings; created if need be.
        ending: `.flac`, `.wav`, `.opus` or another that `rvq decode` writes.
        keep_endings: put it behind the one that a key has (`talk.wav.flac`), not in its place.
        bitrate: kbps per channel to decode at, at most that of the codes; default theirs.
        model: that the codes were made with; default the one of the package that made the first.
        workers: processes.
        progress: called with the rows decoded, and how many there are.

    Returns:
        Number of files written.

    Raises:
        InputError: nothing there, an ending or a folder that cannot be written, or two keys for
            one file.
        FormatError: a damaged shard.
        ModelError: codes of another model.
    """
    ending = f".{ending.removeprefix('.')}"
    audio_format(Path(f"recording{ending}"))
    shards, target = find_shards(Path(source)), Path(folder).resolve()
    rows = (row for shard in shards for row in _rows(shard))
    if model is None and (first := next(rows, None)):
        model = find_by_hash(first.model_hash)
    home = find(model or DEFAULT_MODEL).resolve()
    n_codebooks = None if bitrate is None else Codec.load(home).n_codebooks(bitrate)
    total = _check_keys(shards, ending, keep_endings)
    tasks = (
        _Task(path.resolve(), target, ending, keep_endings, n_codebooks, home) for path in shards
    )
    done = 0

    def count(rows: int) -> None:
        nonlocal done
        done += rows
        progress(done, total)

    return sum(run_pool(_decode_shard, tasks, workers=workers, on_event=count))


def _check_keys(shards: list[Path], ending: str, keep_endings: bool) -> int:
    """Refuse keys that would lead out of the folder or meet in one file; returns the rows."""
    names: dict[str, str] = {}
    total = 0
    for path in shards:
        file = open_shard(path)
        for batch in file.iter_batches(columns=["key", "channel"]):
            total += len(batch)
            for row in batch.to_pylist():
                name = str(_relative(row["key"], ending, keep_endings))
                if row["channel"] == 0 and names.setdefault(name, row["key"]) != row["key"]:
                    raise InputError(
                        f"{names[name]!r} and {row['key']!r} would both become {name}; keep "
                        "their endings (--keep-endings)"
                    )
    return total


def _relative(key: str, ending: str, keep_endings: bool) -> PurePosixPath:
    path = PurePosixPath(key)
    if path.is_absolute() or ".." in path.parts or not path.name:
        # A manifest's absolute path, or a hostile tar: stay inside the folder.
        path = PurePosixPath(*[p for p in path.parts if p not in ("..", path.anchor)] or ["_"])
    if keep_endings or path.suffix.lower() not in CORPUS_ENDINGS:
        return path.with_name(path.name + ending)
    return path.with_suffix(ending)


@lru_cache(maxsize=1)
def _codec(model: Path) -> Codec:
    return Codec.load(model)


def _decode_shard(task: _Task, report: Callable[[int], None]) -> int:
    written = 0
    for _, group in groupby(_rows(task.shard), key=lambda row: row.key):
        rows = list(group)
        target = task.folder / _relative(rows[0].key, task.ending, task.keep_endings)
        if not target.exists():
            _write(_codec(task.model), rows, target, task.n_codebooks)
            written += 1
        report(len(rows))
    return written


def _rows(shard: Path) -> Iterator[Row]:
    file = open_shard(shard)
    for group in range(file.num_row_groups):
        yield from read_group(file, group)


def _write(codec: Codec, rows: list[Row], target: Path, n_codebooks: int | None) -> None:
    first = rows[0]
    if [row.channel for row in rows] != list(range(first.channels)):
        raise FormatError(f"the channels of {first.key!r} are not complete")
    try:
        codes = Codes(
            indices=np.stack([row.codes for row in rows]).astype(np.int64),
            codebook_size=first.codebook_size,
            sample_rate=first.sample_rate,
            n_samples=first.n_samples,
            model_hash=first.model_hash,
        )
        audio = codec.decode(codes.prefix(n_codebooks) if n_codebooks else codes)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_audio(target, audio, first.sample_rate)
    except (InputError, ModelError) as error:
        raise type(error)(f"{first.key}: {error}") from None
    except OSError as error:
        raise InputError(f"cannot write {target}: {error.strerror}") from None
