"""Ray: the same bytes as on one machine, and workers that die lose nothing."""

import os
import signal
import threading
import time

import pytest

from rvq.corpus.parquet import read_summary
from rvq.corpus.tokenize import tokenize
from rvq.errors import FormatError, InputError

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster():
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def kill_a_worker(folder, killed):
    """Kill the first process that is seen writing a shard, which names its number."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for path in folder.glob(".codes-*.tmp"):
            number = int(path.name.split(".")[-2])
            os.kill(number, signal.SIGKILL)
            killed.append(number)
            return
        time.sleep(0.002)


def test_a_killed_worker_loses_nothing(cluster, corpus, damaged, tmp_path):
    killed = []
    killer = threading.Thread(target=kill_a_worker, args=(tmp_path, killed))
    killer.start()
    seen = []
    done = tokenize(
        damaged, tmp_path, bitrate=6, ray="auto", shard_bytes=60_000, progress=seen.append
    )
    killer.join()
    assert killed
    assert os.getpid() not in killed
    assert done.n_recordings == corpus.n_recordings
    assert done.skipped == corpus.skipped
    assert [p.name for p in done.shards] == [p.name for p in corpus.shards]
    for got, expected in zip(done.shards, corpus.shards, strict=True):
        assert got.read_bytes() == expected.read_bytes()
        assert read_summary(got) == read_summary(expected)
    assert not list(tmp_path.glob(".*"))
    assert (seen[-1].n_bytes, seen[-1].n_recordings) == (seen[-1].of_bytes, 25)


def test_a_damaged_shard_is_named(cluster, recordings, tmp_path):
    done = tokenize(recordings, tmp_path, bitrate=0.75, ray="auto", shard_bytes=10**9)
    done.shards[0].write_bytes(b"")
    with pytest.raises(FormatError, match=done.shards[0].name):
        tokenize(recordings, tmp_path, bitrate=0.75, ray="auto", shard_bytes=10**9)


def test_no_cluster_there(recordings, tmp_path):
    if ray.is_initialized():
        ray.shutdown()
    with pytest.raises(InputError, match="no Ray cluster"):
        tokenize(recordings, tmp_path, ray="auto")
