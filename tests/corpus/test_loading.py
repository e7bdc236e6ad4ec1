"""Parquet of codes -> tokens: everything once, whoever reads."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import DataLoader

from rvq.corpus import parquet
from rvq.corpus.layouts import Delay, Flat
from rvq.corpus.loading import CodesDataset, CodesStream, Collate
from rvq.corpus.tokenize import tokenize
from rvq.errors import InputError


@pytest.fixture(scope="module")
def folder(recordings, tmp_path_factory):
    """Small row groups, so that there are enough of them to share."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parquet, "ROWS_PER_GROUP", 4)
        target = tmp_path_factory.mktemp("loading")
        shards = _tokenize_here(recordings, target)
    assert sum(parquet.open_shard(shard).num_row_groups for shard in shards) > 5
    return target


def _tokenize_here(recordings, target):
    """In this process, where the row groups are small."""
    from rvq import Codec
    from rvq.corpus.encoding import Task, write_shard
    from rvq.corpus.plan import Settings, make_plan

    settings = Settings("speech_24khz", Codec.load().model_hash, 4, False)
    plan = make_plan(str(recordings), target, settings, shard_bytes=200_000)
    for shard in plan.shards():
        write_shard(Task(shard, settings), lambda event: None)
    return [shard.path for shard in plan.shards()]


@pytest.fixture(scope="module")
def rows(folder):
    table = pd.concat([pd.read_parquet(path) for path in sorted(folder.glob("*.parquet"))])
    return {(row.key, row.channel): np.stack(row.codes) for row in table.itertuples()}


def joined(examples):
    """Codes by recording and channel, of stretches that came in any order."""
    found = {}
    for example in examples:
        found.setdefault((example.key, example.channel), {})[example.start] = example.codes
    assert sum(map(len, found.values())) == len(list(examples))
    return {name: torch.cat([p for _, p in sorted(s.items())]).numpy() for name, s in found.items()}


def check(examples, rows, n_codebooks=4):
    got = joined(examples)
    assert got.keys() == rows.keys()
    for name, codes in rows.items():
        np.testing.assert_array_equal(got[name], codes[:, :n_codebooks])


@pytest.mark.parametrize("max_frames", [None, 50])
def test_both_datasets_hold_everything_once(folder, rows, max_frames):
    dataset = CodesDataset(folder, max_frames=max_frames, n_codebooks=3)
    assert (dataset.n_codebooks, dataset.codebook_size) == (3, 1024)
    random = np.random.default_rng(0).permutation(len(dataset))
    examples = [dataset[int(i)] for i in random]
    check(examples, rows, 3)
    check(list(CodesStream(folder, max_frames=max_frames, n_codebooks=3)), rows, 3)
    if max_frames:
        assert max(len(e.codes) for e in examples) == max_frames


@pytest.mark.parametrize("n_workers", [0, 2])
def test_ranks_and_workers_share_without_overlap(folder, rows, n_workers):
    examples = []
    for rank in range(3):
        stream = CodesStream(folder, shuffle=5, rank=rank, world_size=3)
        examples += list(DataLoader(stream, batch_size=None, num_workers=n_workers))
    check(examples, rows)


def test_shuffling_depends_on_seed_and_epoch_alone(folder, rows):
    def order(seed, epoch):
        stream = CodesStream(folder, shuffle=8, seed=seed)
        stream.epoch = epoch
        examples = list(stream)
        check(examples, rows)
        return [(e.key, e.channel) for e in examples]

    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(*which)) for which in ((0, 0), (0, 1), (1, 0))}) == 3
    plain = [(e.key, e.channel) for e in CodesStream(folder)]
    assert plain == list(rows)


def test_workers_that_live_on_hear_of_the_epoch(folder):
    stream = CodesStream(folder, shuffle=8)
    loader = DataLoader(stream, batch_size=None, num_workers=1, persistent_workers=True)
    orders = []
    for stream.epoch in (0, 1):
        orders.append([(e.key, e.channel, e.start) for e in loader])
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1])


@pytest.mark.parametrize("layout", [Flat(4), Delay(4)])
def test_batches_are_padded_and_come_back(folder, layout):
    loader = DataLoader(CodesDataset(folder), batch_size=7, collate_fn=Collate(layout))
    n = 0
    for batch in loader:
        assert batch.tokens.shape[1] == batch.lengths.max()
        for tokens, length, example in zip(
            batch.tokens, batch.lengths, batch.examples, strict=True
        ):
            assert (tokens[length:] == layout.pad).all()
            np.testing.assert_array_equal(layout.codes(tokens[:length]), example.codes)
            n += 1
    assert n == len(loader.dataset)


def test_metadata_comes_along(recordings, tmp_path):
    (tmp_path / "list.csv").write_text(f"path,text\n{recordings / 'stereo.wav'},good morning\n")
    tokenize(tmp_path / "list.csv", tmp_path / "out", bitrate=0.75, workers=1)
    left, right = CodesStream(tmp_path / "out")
    assert left.metadata == right.metadata == {"text": "good morning"}
    assert (left.channel, right.channel) == (0, 1)


def test_rows_without_frames_hold_nothing(folder, tmp_path):
    some = parquet.open_shard(parquet.find_shards(folder)[0])
    row = next(parquet.read_group(some, 0))
    writer = parquet.ShardWriter(tmp_path / "codes.parquet", 4)
    for codes in (row.codes[:0], row.codes):
        writer.write(replace(row, codes=codes))
    writer.close(parquet.ShardSummary(2, 1.0, 1, ()))
    dataset = CodesDataset(tmp_path)
    assert len(dataset) == len(list(CodesStream(tmp_path))) == 1
    np.testing.assert_array_equal(dataset[0].codes, row.codes)


def test_what_does_not_fit_is_refused(folder, tmp_path):
    with pytest.raises(InputError, match="no Parquet"):
        CodesStream(tmp_path)
    with pytest.raises(InputError, match=r"1\.\.4"):
        CodesDataset(folder, n_codebooks=5)
    with pytest.raises(InputError, match="rank"):
        CodesStream(folder, rank=2, world_size=2)
    with pytest.raises(InputError, match="max_frames"):
        CodesStream(folder, max_frames=0)
