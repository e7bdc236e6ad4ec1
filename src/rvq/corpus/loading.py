"""Parquet of codes -> batches of tokens for torch."""

import json
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from rvq.corpus.layouts import Layout
from rvq.corpus.parquet import Row, find_shards, open_shard, read_group
from rvq.errors import FormatError, InputError

_GROUPS_KEPT = 8
"""Row groups that random access keeps decoded."""


@dataclass(frozen=True, eq=False)
class Example:
    """A stretch of one channel of a recording.

    Attributes:
        key: of the recording.
        channel: 0 for the first.
        start: frame of the recording where the stretch begins.
        codes: `[n_frames, n_codebooks]`, int64.
        metadata: what is known about the recording.
    """

    key: str
    channel: int
    start: int
    codes: Tensor
    metadata: dict[str, Any]


class _Corpus:
    """What both datasets know about their Parquet; files are opened where they are read."""

    def __init__(
        self,
        sources: str | Path | Sequence[str | Path],
        n_codebooks: int | None,
        max_frames: int | None,
    ) -> None:
        if max_frames is not None and max_frames < 1:
            raise InputError(f"max_frames must be at least 1, got {max_frames}")
        listed = [sources] if isinstance(sources, str | Path) else sources
        self._shards = [shard for source in listed for shard in find_shards(Path(source))]
        self._groups = [
            (shard, group)
            for shard in self._shards
            for group in range(open_shard(shard).num_row_groups)
        ]
        if not self._groups:
            raise InputError(f"no codes in {listed[0]}")
        first = next(read_group(open_shard(self._groups[0][0]), self._groups[0][1]))
        available = first.codes.shape[1]
        if n_codebooks is not None and not 1 <= n_codebooks <= available:
            raise InputError(f"n_codebooks must be in 1..{available}, got {n_codebooks}")
        self.n_codebooks = n_codebooks or available
        self.codebook_size, self.model_hash = first.codebook_size, first.model_hash
        self.max_frames = max_frames

    def _rows(self, group: int) -> Iterator[Row]:
        shard, number = self._groups[group]
        for row in read_group(open_shard(shard), number):
            if row.model_hash != self.model_hash:
                raise FormatError(f"{shard} has codes of another model than {self._shards[0]}")
            yield row

    def _starts(self, n_frames: int) -> range:
        """Where the stretches of a row begin; a row without frames has none."""
        return range(0, n_frames, self.max_frames or max(1, n_frames))

    def _example(self, row: Row, start: int) -> Example:
        stop = None if self.max_frames is None else start + self.max_frames
        codes = row.codes[start:stop, : self.n_codebooks].astype(np.int64)
        metadata = json.loads(row.metadata) if row.metadata else {}
        return Example(row.key, row.channel, start, torch.from_numpy(codes), metadata)


class CodesDataset(_Corpus, Dataset[Example]):
    """Codes by number, for corpora whose order should be shuffled through and through.

    A random access decodes a row group, some milliseconds; `CodesStream` reads in order and is
    made for corpora of any size.

    Args:
        sources: folder of `rvq tokenize`, Parquet file, or several of either.
        n_codebooks: codebooks to read; default all.
        max_frames: longer recordings are cut into stretches of that many frames and a rest.

    Attributes:
        n_codebooks: per frame.
        codebook_size: codewords per codebook.
        model_hash: of the codec.

    Raises:
        InputError: no codes there, or not that many codebooks.
        FormatError: damaged Parquet, or codes of several models.
    """

    def __init__(
        self,
        sources: str | Path | Sequence[str | Path],
        *,
        n_codebooks: int | None = None,
        max_frames: int | None = None,
    ) -> None:
        super().__init__(sources, n_codebooks, max_frames)
        self._kept: OrderedDict[int, list[Row]] = OrderedDict()
        group, places = 0, []  # of every stretch: row group, row in it, first frame
        for shard in self._shards:
            file = open_shard(shard)
            for number in range(file.num_row_groups):
                lengths = file.read_row_group(number, columns=["n_frames"])["n_frames"].to_pylist()
                for row, n_frames in enumerate(lengths):
                    places += [(group, row, start) for start in self._starts(n_frames)]
                group += 1
        self._places = np.array(places, np.int64).reshape(-1, 3)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Example:
        group, row, start = map(int, self._places[index])
        if group not in self._kept:
            self._kept[group] = list(self._rows(group))
            if len(self._kept) > _GROUPS_KEPT:
                self._kept.popitem(last=False)
        return self._example(self._kept[group][row], start)


class CodesStream(_Corpus, IterableDataset[Example]):
    """Codes in the order of the files, or shuffled within a buffer; each process reads its share.

    Row groups are dealt out to the workers of all processes: together they see everything once.

    Args:
        sources: folder of `rvq tokenize`, Parquet file, or several of either.
        n_codebooks: codebooks to read; default all.
        max_frames: longer recordings are cut into stretches of that many frames and a rest.
        shuffle: examples in the buffer that the next one is drawn from, the order of row groups
            shuffled, too; 0 to keep the order.
        seed: of the shuffling.
        rank: number of this process; default torch.distributed's.
        world_size: number of processes; default torch.distributed's.

    Set `epoch` before every pass: it changes the shuffling.

    Raises:
        InputError: no codes there, or not that many codebooks.
        FormatError: damaged Parquet, or codes of several models.
    """

    def __init__(
        self,
        sources: str | Path | Sequence[str | Path],
        *,
        n_codebooks: int | None = None,
        max_frames: int | None = None,
        shuffle: int = 0,
        seed: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        super().__init__(sources, n_codebooks, max_frames)
        self.shuffle = shuffle
        self.seed = seed
        together = dist.is_available() and dist.is_initialized()
        self.rank = rank if rank is not None else dist.get_rank() if together else 0
        self.world_size = world_size or (dist.get_world_size() if together else 1)
        if not 0 <= self.rank < self.world_size:
            raise InputError(f"rank must be in 0..{self.world_size - 1}, got {self.rank}")
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    @property
    def epoch(self) -> int:
        """Changes the shuffling; workers that live on from pass to pass are told, too."""
        return int(self._epoch)

    @epoch.setter
    def epoch(self, value: int) -> None:
        self._epoch.fill_(value)

    def __iter__(self) -> Iterator[Example]:
        worker = get_worker_info()
        n_workers, number = (worker.num_workers, worker.id) if worker else (1, 0)
        reader, n_readers = self.rank * n_workers + number, self.world_size * n_workers
        order = np.arange(len(self._groups))
        if not self.shuffle:
            yield from self._in_order(order[reader::n_readers])
            return
        np.random.default_rng([self.seed, self.epoch]).shuffle(order)
        random = np.random.default_rng([self.seed, self.epoch, reader])
        buffer: list[Example] = []
        for example in self._in_order(order[reader::n_readers]):
            if len(buffer) < self.shuffle:
                buffer.append(example)
                continue
            i = random.integers(self.shuffle)
            yield buffer[i]
            buffer[i] = example
        random.shuffle(buffer)
        yield from buffer

    def _in_order(self, groups: np.ndarray) -> Iterator[Example]:
        for group in groups:
            for row in self._rows(int(group)):
                for start in self._starts(len(row.codes)):
                    yield self._example(row, start)


@dataclass(frozen=True, eq=False)
class Batch:
    """Tokens of several examples.

    Attributes:
        tokens: `[batch, n_tokens]`, or `[batch, n_steps, n_codebooks]` of a layout with streams;
            the layout's `pad` fills up what is shorter than the longest.
        lengths: tokens or steps of every example, `[batch]`.
        examples: what they came from.
    """

    tokens: Tensor
    lengths: Tensor
    examples: tuple[Example, ...]

    def pin_memory(self) -> "Batch":
        """The same in memory that a GPU copies from; `DataLoader(pin_memory=True)` asks for it."""
        return Batch(self.tokens.pin_memory(), self.lengths.pin_memory(), self.examples)


class Collate:
    """`collate_fn` of a DataLoader over either dataset.

    Args:
        layout: order of the tokens.

    Example:
        >>> import torch
        >>> from rvq.corpus.layouts import Flat
        >>> two = [Example("", 0, 0, torch.tensor(codes), {}) for codes in ([[1], [2]], [[3]])]
        >>> Collate(Flat(1, codebook_size=10))(two).tokens
        tensor([[10,  1,  2, 11],
                [10,  3, 11, 12]])
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout

    def __call__(self, examples: Sequence[Example]) -> Batch:
        """Lay out and pad."""
        rows = [torch.from_numpy(self.layout.tokens(e.codes.numpy())) for e in examples]
        tokens = torch.nn.utils.rnn.pad_sequence(
            rows, batch_first=True, padding_value=self.layout.pad
        )
        return Batch(tokens, torch.tensor([len(row) for row in rows]), tuple(examples))
