"""What goes into which shard: decided once, by the sorted list of sources, and written down.

Everything that follows is a function of the plan, so work that was killed goes on from the shards
that stand, and ends with the same bytes, on any number of processes or machines.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, astuple, dataclass, replace
from itertools import zip_longest
from pathlib import Path

from rvq.corpus.sources import Source, list_sources
from rvq.errors import InputError
from rvq.replacing import replacing

MIN_SHARD_BYTES, MAX_SHARD_BYTES = 4 * 2**20, 256 * 2**20
_SHARDS_WANTED = 64
_SOURCES_PER_SHARD = 10_000
LAYOUT = 1
"""Of the plan and the Parquet; raised when either changes."""


@dataclass(frozen=True)
class Settings:
    """What decides the codes.

    Attributes:
        model: folder or name of the model.
        model_hash: its content hash.
        n_codebooks: codes per frame.
        mono: whether channels are averaged.
    """

    model: str
    model_hash: str
    n_codebooks: int
    mono: bool


@dataclass(frozen=True)
class Shard:
    """One Parquet file to write, and the sources that go into it, in order."""

    path: Path
    sources: tuple[Source, ...]

    @property
    def n_bytes(self) -> int:
        """Of all sources."""
        return sum(source.n_bytes for source in self.sources)


@dataclass(frozen=True)
class Plan:
    """A corpus to tokenise.

    Attributes:
        folder: where it goes.
        settings: how.
        n_sources: files: recordings and tars.
        n_bytes: of all of them.
        n_shards: Parquet files to write.
        shard_bytes: sources go into a shard until it holds that many bytes.
    """

    folder: Path
    settings: Settings
    n_sources: int
    n_bytes: int
    n_shards: int
    shard_bytes: int

    def shards(self) -> Iterator[Shard]:
        """All shards in order, one in memory at a time."""
        for i, sources in enumerate(_cut(_read(self.folder / _SOURCES), self.shard_bytes)):
            yield Shard(self.folder / f"codes-{i:05d}-of-{self.n_shards:05d}.parquet", sources)


_SOURCES, _PLAN = "_sources.jsonl", "_plan.json"


def make_plan(
    source: str, folder: Path, settings: Settings, *, shard_bytes: int | None = None
) -> Plan:
    """List the sources, and plan their shards or go on with the plan that stands.

    Args:
        source: as for `list_sources`.
        folder: of the output; created if need be.
        settings: how to tokenise.
        shard_bytes: size of the sources of a shard; default a 64th of them all, 4 to 256 MiB.

    Raises:
        InputError: nothing to tokenise; or the folder holds other codes, or the sources have
            changed since.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; name a folder to write to")
    before = _read_plan(folder)
    if before is None and folder.is_dir() and any(folder.glob("*.parquet")):
        raise InputError(f"{folder} holds Parquet of something else; choose another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write {folder}: {error.strerror}") from None
    temporary = folder / f".{_SOURCES}.{os.getpid()}.tmp"
    n_sources, n_bytes = 0, 0
    try:
        with temporary.open("w") as file:
            for item in list_sources(source):
                file.write(json.dumps(astuple(item)) + "\n")
                n_sources, n_bytes = n_sources + 1, n_bytes + item.n_bytes
        if not n_sources:
            raise InputError(f"no audio in {source}")
        size = shard_bytes or min(max(n_bytes // _SHARDS_WANTED, MIN_SHARD_BYTES), MAX_SHARD_BYTES)
        if before and shard_bytes is None:
            size = before.shard_bytes
        n_shards = sum(1 for _ in _cut(_read(temporary), size))
        plan = Plan(folder, settings, n_sources, n_bytes, n_shards, size)
        if before is not None:
            _check_same(before, plan, temporary)
        # Of a plan that stands, too: the same files may have moved.
        temporary.replace(folder / _SOURCES)
        if before is None:
            fields = {"layout": LAYOUT, **asdict(plan), "folder": None}
            with replacing(folder / _PLAN) as path:
                path.write_text(json.dumps(fields, indent=1) + "\n")
    finally:
        temporary.unlink(missing_ok=True)
    return plan


def _check_same(before: Plan, now: Plan, sources: Path) -> None:
    """Refuse to go on with other settings or with other sources than the plan was made of."""
    old, new = before.settings, now.settings
    if old.model_hash != new.model_hash:
        difference = f"model {old.model_hash[:16]}, not {new.model_hash[:16]}"
    elif old.n_codebooks != new.n_codebooks:
        difference = f"{old.n_codebooks} codebooks, not {new.n_codebooks}"
    elif old.mono != new.mono:
        difference = "channels " + ("averaged" if old.mono else "kept apart")
    elif before.shard_bytes != now.shard_bytes:
        difference = f"shards of {before.shard_bytes} bytes of audio, not {now.shard_bytes}"
    elif not _same_sources(before.folder / _SOURCES, sources):
        difference = (
            f"{before.n_sources} files of {before.n_bytes} bytes, but the source now has "
            f"{now.n_sources} of {now.n_bytes}, or other names"
        )
    else:
        return
    raise InputError(f"{now.folder} was begun with {difference}; choose another folder")


def _same_sources(one: Path, other: Path) -> bool:
    """Whether two lists give the same rows, wherever the files are."""
    pairs = zip_longest(_read(one), _read(other))
    return all(a and b and replace(a, path=b.path) == b for a, b in pairs)


def _cut(sources: Iterator[Source], shard_bytes: int) -> Iterator[tuple[Source, ...]]:
    part: list[Source] = []
    n_bytes = 0
    for source in sources:
        part.append(source)
        n_bytes += source.n_bytes
        if n_bytes >= shard_bytes or len(part) == _SOURCES_PER_SHARD:
            yield tuple(part)
            part, n_bytes = [], 0
    if part:
        yield tuple(part)


def _read(path: Path) -> Iterator[Source]:
    try:
        with path.open() as file:
            for line in file:
                yield Source(*json.loads(line))
    except (OSError, ValueError, TypeError):
        raise InputError(f"{path} is missing or damaged; choose another folder") from None


def _read_plan(folder: Path) -> Plan | None:
    try:
        fields = json.loads((folder / _PLAN).read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        raise InputError(f"{folder / _PLAN} is damaged; choose another folder") from None
    if fields.pop("layout") != LAYOUT:
        raise InputError(f"{folder} was begun by another version of rvq; choose another folder")
    fields.pop("digest", None)  # which plans had until the lists themselves were compared
    return Plan(**fields | {"folder": folder, "settings": Settings(**fields["settings"])})
