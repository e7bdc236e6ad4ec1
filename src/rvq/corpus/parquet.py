"""Codes as Parquet: the columns, written and read a few recordings at a time.

A row is one channel of a recording. `codes` is a list of frames, each a fixed-size list of
`n_codebooks` integers of 16 bits, which pandas, polars, `datasets` and Arrow read as they are.
Dictionary encoding keeps a code of a codebook of 1024 in 10 bits on disk.
"""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rvq.errors import FormatError, InputError

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError as error:
    raise InputError(f"Parquet needs `pip install 'rvq[corpus]'` ({error})") from None

FRAMES_PER_GROUP = 2**16
"""A row group is written once it has that many frames, or that many rows:"""
ROWS_PER_GROUP = 256

_FOOTER = b"rvq:shard"


@dataclass(frozen=True, eq=False)
class Row:
    """One channel of a recording.

    Attributes:
        key: of the recording.
        channel: 0 for the first.
        channels: of the recording.
        codes: `[n_frames, n_codebooks]`.
        codebook_size: codewords per codebook.
        frame_rate: frames per second.
        sample_rate: of the original recording in Hz.
        n_samples: of the original recording, per channel.
        model_hash: of the model whose codes these are.
        metadata: what a manifest or a tar says about the recording, as JSON.
    """

    key: str
    channel: int
    channels: int
    codes: npt.NDArray[np.uint16]
    codebook_size: int
    frame_rate: float
    sample_rate: int
    n_samples: int
    model_hash: str
    metadata: str | None = None


@dataclass(frozen=True)
class Skipped:
    """A file that could not be tokenised, and why."""

    key: str
    reason: str


@dataclass(frozen=True)
class ShardSummary:
    """What the footer of a shard says about it.

    Attributes:
        n_recordings: tokenised.
        seconds: of audio, all channels counted once.
        n_bytes: of the files it was made from.
        skipped: files that could not be read.
    """

    n_recordings: int
    seconds: float
    n_bytes: int
    skipped: tuple[Skipped, ...]


def schema(n_codebooks: int) -> pa.Schema:
    """The columns."""
    frame = pa.list_(pa.field("item", pa.uint16(), nullable=False), n_codebooks)
    fields = {
        "key": pa.string(),
        "channel": pa.uint8(),
        "channels": pa.uint8(),
        "codes": pa.list_(pa.field("item", frame, nullable=False)),
        "n_frames": pa.uint32(),
        "n_codebooks": pa.uint8(),
        "codebook_size": pa.uint32(),
        "frame_rate": pa.float64(),
        "sample_rate": pa.uint32(),
        "n_samples": pa.uint64(),
        "duration": pa.float64(),
        "model_hash": pa.string(),
    }
    required = [pa.field(name, kind, nullable=False) for name, kind in fields.items()]
    return pa.schema([*required, pa.field("metadata", pa.string())])


def _table(rows: list[Row], n_codebooks: int) -> pa.Table:
    columns = schema(n_codebooks)
    codes = np.concatenate([row.codes for row in rows])
    frames = pa.FixedSizeListArray.from_arrays(
        pa.array(codes.astype(np.uint16).ravel()), type=columns.field("codes").type.value_type
    )
    offsets = np.cumsum([0, *(len(row.codes) for row in rows)]).astype(np.int32)
    computed = {
        "codes": pa.ListArray.from_arrays(
            pa.array(offsets), frames, type=columns.field("codes").type
        ),
        "n_frames": [len(row.codes) for row in rows],
        "n_codebooks": [n_codebooks] * len(rows),
        "duration": [row.n_samples / row.sample_rate for row in rows],
    }
    arrays = [
        computed[field.name]
        if field.name in computed
        else [getattr(row, field.name) for row in rows]
        for field in columns
    ]
    return pa.table(
        [
            array if isinstance(array, pa.Array) else pa.array(array, field.type)
            for array, field in zip(arrays, columns, strict=True)
        ],
        schema=columns,
    )


class ShardWriter:
    """Writes a shard under a temporary name that it gives up for its own when complete.

    Raises:
        InputError: it cannot be written, or the disk is full.
    """

    def __init__(self, path: Path, n_codebooks: int) -> None:
        self.path = path
        self.n_codebooks = n_codebooks
        machine = socket.gethostname()
        self.temporary = path.with_name(f".{path.stem}.{machine}.{os.getpid()}.tmp")
        self._rows: list[Row] = []
        self._n_frames = 0
        try:
            self._file = pq.ParquetWriter(self.temporary, schema(n_codebooks), compression="zstd")
        except OSError as error:
            raise self._refused(error) from None

    def write(self, row: Row) -> None:
        """Add a row."""
        self._rows.append(row)
        self._n_frames += len(row.codes)
        if self._n_frames >= FRAMES_PER_GROUP or len(self._rows) >= ROWS_PER_GROUP:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            try:
                self._file.write_table(_table(self._rows, self.n_codebooks))
            except OSError as error:
                raise self._refused(error) from None
        self._rows, self._n_frames = [], 0

    def close(self, summary: ShardSummary) -> None:
        """Complete the shard; until then it does not exist."""
        self._flush()
        try:
            self._file.add_key_value_metadata({_FOOTER: json.dumps(asdict(summary))})
            self._file.close()
            with self.temporary.open("rb") as file:
                os.fsync(file.fileno())
            self.temporary.replace(self.path)
        except OSError as error:
            if self.path.exists():  # another run was faster; its bytes are the same
                return
            raise self._refused(error) from None

    def abandon(self) -> None:
        """Leave nothing behind."""
        with suppress(OSError, pa.ArrowException):  # a full disk refuses the footer, too
            self._file.close()
        self.temporary.unlink(missing_ok=True)

    def _refused(self, error: OSError) -> InputError:
        return InputError(f"cannot write {self.path}: {error.strerror or error}")


def read_summary(path: Path) -> ShardSummary:
    """What the footer of a shard says.

    Raises:
        FormatError: not a shard of `rvq tokenize`, or a damaged one.
    """
    try:
        footer = pq.read_metadata(path).metadata or {}
        fields = json.loads(footer[_FOOTER])
    except (OSError, KeyError, ValueError, pa.ArrowException):
        raise FormatError(f"{path} is no shard of `rvq tokenize`, or damaged: delete it") from None
    return ShardSummary(**fields | {"skipped": tuple(Skipped(**s) for s in fields["skipped"])})


def find_shards(source: Path) -> list[Path]:
    """The Parquet files of a folder in order, or the file itself.

    Raises:
        InputError: there are none.
    """
    shards = [source] if source.is_file() else sorted(source.glob("*.parquet"))
    if not shards:
        raise InputError(f"no Parquet in {source}; make some with `rvq tokenize`")
    return shards


def open_shard(path: Path) -> pq.ParquetFile:
    """Open a shard for reading.

    Raises:
        FormatError: it has not the columns of `rvq tokenize`, or is damaged.
    """
    try:
        file = pq.ParquetFile(path, memory_map=True)
    except (OSError, pa.ArrowException) as error:
        raise FormatError(f"{path} is damaged: {error}") from None
    missing = set(schema(1).names) - {"metadata"} - set(file.schema_arrow.names)
    if missing:
        raise FormatError(f"{path} lacks columns of `rvq tokenize`: {', '.join(sorted(missing))}")
    return file


def read_group(file: pq.ParquetFile, group: int) -> Iterator[Row]:
    """The rows of a row group.

    Raises:
        FormatError: it is damaged.
    """
    try:
        table = file.read_row_group(group)
    except (OSError, pa.ArrowException) as error:
        raise FormatError(f"row group {group} of the codes is damaged: {error}") from None
    codes = table.column("codes").combine_chunks()
    offsets = codes.offsets.to_numpy()
    indices = codes.values.flatten().to_numpy().reshape(-1, codes.type.value_type.list_size)
    others = table.drop_columns(["codes", "n_frames", "n_codebooks", "duration"]).to_pylist()
    names = set(Row.__dataclass_fields__)
    for i, fields in enumerate(others):
        kept = {name: value for name, value in fields.items() if name in names}
        yield Row(codes=indices[offsets[i] : offsets[i + 1]], **kept)
