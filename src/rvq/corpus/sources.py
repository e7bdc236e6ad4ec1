"""Which files are to be tokenised: folders, globs, tar shards and manifests, in one fixed order."""

import csv
import glob
import json
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from rvq.codec.files import AUDIO_ENDINGS
from rvq.errors import InputError

_MORE = (
    "wave aifc snd caf w64 rf64 wv sph nist voc "
    "m4a mp4 m4b aac wma webm mka mkv mov ac3 eac3 amr g722 gsm ape tta"
)
# More than elsewhere: PyAV reads the rest, and what it cannot read is skipped with a reason.
CORPUS_ENDINGS = AUDIO_ENDINGS | {f".{ending}" for ending in _MORE.split()}
"""What counts as audio in a folder or a tar; manifests and globs may name anything."""
TAR_ENDINGS = (".tar", ".tar.gz", ".tgz")
_PATH_FIELDS = ("path", "audio_filepath", "audio_path", "audio", "file", "filename", "wav")
_KEY_FIELDS = ("key", "id")


@dataclass(frozen=True)
class Source:
    """A file to tokenise: one recording, or a tar with many.

    Attributes:
        key: name in the output, unique: the path below the folder or as the manifest has it.
        path: where the file is, absolute: workers may be in another folder.
        n_bytes: its size, 0 where there is no such file.
        metadata: other fields of a manifest, as JSON.
    """

    key: str
    path: str
    n_bytes: int
    metadata: str | None = None

    @property
    def is_tar(self) -> bool:
        """Whether it is a tar of recordings."""
        return self.path.lower().endswith(TAR_ENDINGS)


@dataclass(frozen=True)
class Member:
    """A recording in a tar: its key there, the bytes of the file, and its `.json` or `.txt`."""

    key: str
    data: bytes
    metadata: str | None


def list_sources(source: str) -> Iterator[Source]:
    """Everything below a folder, matched by a glob, in a tar, or listed in a manifest.

    The order depends on names alone.

    Args:
        source: folder; glob; `.tar`; or a manifest, `.jsonl` or `.csv`, with a column `path` (or
            NeMo's `audio_filepath`), relative to the manifest, and perhaps `key`.

    Raises:
        InputError: there is nothing, or a manifest that cannot be used.
    """
    path = Path(source)
    if path.is_dir():
        yield from _in_folder(path)
    elif path.is_file():
        if path.suffix.lower() in (".jsonl", ".json", ".csv", ".tsv"):
            yield from _in_manifest(path)
        else:
            yield _source(path.name, path)
    elif glob.has_magic(source):
        fixed = Path(*_leading_parts(path))
        for found in sorted(glob.iglob(source, recursive=True)):
            if os.path.isfile(found):
                yield _source(os.path.relpath(found, fixed), Path(found))
    else:
        raise InputError(f"no {source}: give a folder, a quoted glob, a .tar or a manifest")


def _leading_parts(pattern: Path) -> list[str]:
    parts: list[str] = []
    for part in pattern.parts[:-1]:
        if glob.has_magic(part):
            break
        parts.append(part)
    return parts


def _source(key: str, path: Path, metadata: str | None = None) -> Source:
    try:
        n_bytes = path.stat().st_size
    except OSError:
        n_bytes = 0
    return Source(_spelled(key).replace(os.sep, "/"), str(path.absolute()), n_bytes, metadata)


def _spelled(name: str) -> str:
    """A name with what is no UTF-8 in it spelled out: Parquet's text is UTF-8."""
    try:
        return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # no bytes of a file's name, but half of a pair in JSON
        return name.encode("utf-8", "backslashreplace").decode()


def _in_folder(folder: Path) -> Iterator[Source]:
    """One directory in memory at a time."""
    # Links to folders are followed, but not to one that they lie in.
    around: dict[str, tuple[str, ...]] = {str(folder): (os.path.realpath(folder),)}
    for current, below, names in os.walk(str(folder), followlinks=True):
        above = around.pop(current)
        real = {name: os.path.realpath(os.path.join(current, name)) for name in sorted(below)}
        below[:] = [name for name in real if real[name] not in above]
        around |= {os.path.join(current, name): (*above, real[name]) for name in below}
        for name in sorted(names):
            if Path(name).suffix.lower() in CORPUS_ENDINGS or name.lower().endswith(TAR_ENDINGS):
                path = Path(current, name)
                yield _source(os.path.relpath(path, folder), path)


def read_manifest(manifest: str | Path) -> Iterator[tuple[Path, str, dict]]:
    """The entries of a manifest: path of the recording, key, and the other fields.

    Raises:
        InputError: it cannot be read, or has entries without a path, that repeat a key or are
            parts of recordings.
    """
    manifest = Path(manifest)
    seen: set[str] = set()
    for number, row in _rows(manifest):
        place = f"{manifest}, entry {number}"
        path_field = next((name for name in _PATH_FIELDS if row.get(name)), None)
        if path_field is None:
            raise InputError(f"{place} has no path; its field is to be called path")
        key_field = next(
            (name for name in _KEY_FIELDS if row.get(name) not in (None, "")), path_field
        )
        key = str(row[key_field])
        if key in seen:
            raise InputError(f"{place} repeats {key!r}; every recording needs a key of its own")
        seen.add(key)
        if row.get("offset") not in (None, "", 0, 0.0, "0", "0.0"):
            raise InputError(
                f"{place} is a part of a recording, from {row['offset']} s on; cut recordings "
                "into files of their own first"
            )
        path = manifest.parent / str(row[path_field])
        try:
            os.fsencode(path)
        except UnicodeEncodeError:
            raise InputError(f"{place} has a path that no file can have") from None
        rest = {k: v for k, v in row.items() if k not in (path_field, key_field) and v is not None}
        yield path, key, rest


def _in_manifest(manifest: Path) -> Iterator[Source]:
    for path, key, rest in read_manifest(manifest):
        metadata = json.dumps(rest, ensure_ascii=False) if rest else None
        yield _source(key, path, metadata)


def _rows(manifest: Path) -> Iterator[tuple[int, dict]]:
    try:
        with manifest.open(encoding="utf-8-sig", newline="") as file:
            if manifest.suffix.lower() in (".csv", ".tsv"):
                mark = "\t" if manifest.suffix.lower() == ".tsv" else ","
                yield from enumerate(csv.DictReader(file, delimiter=mark), 1)
            else:
                yield from _json_lines(file, manifest)
    except OSError as error:
        raise InputError(f"cannot read {manifest}: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{manifest} is no manifest: {error}") from None


def _json_lines(file: IO[str], manifest: Path) -> Iterator[tuple[int, dict]]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise InputError(f"{manifest}, line {number} is not a JSON object; give one per line")
        yield number, row


def tar_members(tar: Path) -> Iterator[Member]:
    """The recordings of a tar in WebDataset's layout: files of one stem in a row belong together.

    Raises:
        InputError: the tar is missing or damaged; members before the damage have been yielded.
    """
    stem = ""
    group: dict[str, bytes] = {}
    try:
        with tarfile.open(tar, "r|*") as archive:
            for entry in archive:
                if not entry.isfile():
                    continue
                path = PurePosixPath(entry.name)
                new = str(path.parent / path.name.split(".")[0])
                if new != stem:
                    yield from _recordings(group)
                    stem, group = new, {}
                if path.suffix.lower() in CORPUS_ENDINGS | {".json", ".txt"}:
                    content = archive.extractfile(entry)
                    group[_spelled(entry.name)] = content.read() if content else b""
        yield from _recordings(group)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise InputError(f"{tar} is damaged or cannot be read: {error}") from None


def _json_object(text: str) -> str:
    """Text of a `.json` file as metadata, an object: what is none becomes one's field."""
    try:
        if isinstance(json.loads(text), dict):
            return text
    except (ValueError, RecursionError):
        pass
    return json.dumps({"json": text}, ensure_ascii=False)


def _recordings(group: dict[str, bytes]) -> Iterator[Member]:
    metadata = None
    for name, data in group.items():
        text = data.decode("utf-8", "replace") if name.endswith((".json", ".txt")) else ""
        if name.endswith(".json"):
            metadata = _json_object(text)
        elif name.endswith(".txt") and metadata is None:
            metadata = json.dumps({"text": text.strip()}, ensure_ascii=False)
    for name, data in group.items():
        if PurePosixPath(name).suffix.lower() in CORPUS_ENDINGS:
            yield Member(name, data, metadata)
