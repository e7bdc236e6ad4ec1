"""Recordings -> Parquet: complete, exact, the same bytes however often it was killed."""

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time

import numpy as np
import pandas as pd
import polars as pl
import pytest
import soundfile

from rvq import Codec
from rvq.codec.files import AUDIO_ENDINGS
from rvq.corpus.detokenize import detokenize
from rvq.corpus.encoding import Task, write_shard
from rvq.corpus.loading import CodesStream
from rvq.corpus.plan import Settings, make_plan
from rvq.corpus.sources import CORPUS_ENDINGS, list_sources
from rvq.corpus.tokenize import tokenize
from rvq.errors import InputError, ModelError

SHARD_BYTES = 60_000


def contents(folder):
    """Name -> bytes of everything that tokenising writes but the plan, which names the folders."""
    files = [*folder.glob("*.parquet"), folder / "_skipped.jsonl"]
    return {path.name: path.read_bytes() for path in files}


def command(source, folder, *options):
    shard = SHARD_BYTES / 2**20
    return [
        *(sys.executable, "-m", "rvq", "tokenize", str(source), str(folder)),
        *("--bitrate", "6", "--shard-mb", str(shard), *options),
    ]


def test_codes_are_those_of_the_codec(corpus, damaged, codec):
    rows = pd.concat([pd.read_parquet(path) for path in corpus.shards])
    assert len(corpus.shards) > 3
    expected = {str(p.relative_to(damaged)) for p in damaged.rglob("*.*")} - {"words.txt"}
    assert set(rows.key) | {s.key for s in corpus.skipped} == expected
    assert not rows.duplicated(["key", "channel"]).any()
    assert corpus.n_recordings == rows.key.nunique() == 25
    for row in rows.itertuples():
        audio, rate = soundfile.read(damaged / row.key, dtype="float32", always_2d=True)
        codes = codec.encode(audio.T, rate, bitrate=6, beam_size=1)
        np.testing.assert_array_equal(np.stack(row.codes), codes.indices[row.channel])
        assert (row.channels, row.sample_rate, row.n_samples) == (
            audio.shape[1],
            rate,
            len(audio),
        )
        assert (row.n_frames, row.n_codebooks) == codes.indices.shape[1:]
        assert row.model_hash == codec.model_hash
        assert row.duration == len(audio) / rate


def test_files_that_cannot_be_read_are_listed(corpus):
    reasons = {s.key: s.reason for s in corpus.skipped}
    listed = [json.loads(line) for line in corpus.report.read_text().splitlines()]
    assert {entry["key"]: entry["reason"] for entry in listed} == reasons
    assert reasons.keys() == {"not_audio.wav", "nothing.flac", "silent.wav", "nan.wav", "cut.flac"}
    assert "NaN" in reasons["nan.wav"]
    assert "holds no audio" in reasons["silent.wav"]


def test_polars_and_datasets_read_it_as_numbers(corpus, tmp_path):
    datasets = pytest.importorskip("datasets")
    files = [str(path) for path in corpus.shards]
    by_pandas = pd.concat([pd.read_parquet(path) for path in files])
    by_polars = pl.read_parquet(files)
    assert by_polars.schema["codes"] == pl.List(pl.Array(pl.UInt16, 8))
    by_datasets = datasets.load_dataset("parquet", data_files=files, cache_dir=str(tmp_path))
    items = by_datasets["train"].with_format("numpy")
    for i in (0, len(items) - 1):
        codes = np.stack(by_pandas.codes.iloc[i])
        np.testing.assert_array_equal(by_polars["codes"][i].to_numpy(), codes)
        np.testing.assert_array_equal(np.asarray(items[i]["codes"]), codes)


@pytest.mark.parametrize("shards_before", [0, 3, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_at_any_point_it_ends_with_the_same_bytes(corpus, damaged, tmp_path, shards_before):
    run = subprocess.Popen(command(damaged, tmp_path, "--workers", "2"), stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("*.parquet"))) < shards_before or not shards_before:
        assert time.monotonic() < deadline
        assert run.poll() is None, run.stderr.read()
        if not shards_before and list(tmp_path.glob(".codes*")):  # within the first shard
            break
        time.sleep(0.005)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    again = subprocess.run(command(damaged, tmp_path), capture_output=True, text=True)
    assert again.returncode == 3, again.stderr
    assert "5 files skipped" in again.stderr
    assert contents(tmp_path) == contents(corpus.shards[0].parent)
    assert not list(tmp_path.glob(".*"))


def test_ctrl_c_ends_it_soon_and_cleanly(damaged, tmp_path):
    run = subprocess.Popen(command(damaged, tmp_path), stderr=subprocess.PIPE, text=True)
    while not list(tmp_path.glob(".codes*")):
        time.sleep(0.005)
    run.send_signal(signal.SIGINT)
    _, error = run.communicate(timeout=30)
    assert run.returncode == 130, error
    assert "Traceback" not in error
    assert not list(tmp_path.glob(".codes*"))


def test_a_worker_that_is_killed_loses_nothing(damaged, corpus, tmp_path):
    run = subprocess.Popen(command(damaged, tmp_path), stderr=subprocess.PIPE, text=True)
    while not (writing := list(tmp_path.glob(".codes*"))):
        time.sleep(0.005)
    os.kill(int(writing[0].name.split(".")[-2]), signal.SIGKILL)
    _, error = run.communicate(timeout=60)
    assert run.returncode == 3, error  # some of the recordings are no sound
    assert contents(tmp_path) == contents(corpus.shards[0].parent)


@pytest.mark.slow
def test_recordings_that_kill_their_reader_are_skipped(recordings, tmp_path):
    # Where soundfile meets a file of this name, its process dies, as of a crash in C.
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, soundfile\n"
        "class Fatal(soundfile.SoundFile):\n"
        "    def __init__(self, file, *rest, **more):\n"
        "        if str(file).endswith('english_24khz/3.wav'):\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "        super().__init__(file, *rest, **more)\n"
        "soundfile.SoundFile = Fatal\n"
    )
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        command(recordings, tmp_path / "codes", "--workers", "2"),
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 3, done.stderr
    (skipped,) = (tmp_path / "codes" / "_skipped.jsonl").read_text().splitlines()
    assert json.loads(skipped) == {
        "key": "english_24khz/3.wav",
        "reason": "the process that read it was killed",
    }
    assert "24 recordings" in done.stdout


def test_a_second_run_does_nothing(corpus, damaged):
    before = {path: path.stat().st_mtime_ns for path in corpus.shards}
    seen = []
    folder = corpus.shards[0].parent
    again = tokenize(damaged, folder, bitrate=6, shard_bytes=SHARD_BYTES, progress=seen.append)
    assert again == corpus
    assert before == {path: path.stat().st_mtime_ns for path in corpus.shards}
    assert seen[-1].n_bytes == seen[-1].of_bytes
    assert (seen[-1].n_recordings, seen[-1].n_skipped) == (25, 5)


def test_progress_is_exact(recordings, tmp_path):
    seen = []
    done = tokenize(recordings, tmp_path, bitrate=0.75, workers=1, progress=seen.append)
    assert [p.n_recordings for p in seen] == list(range(1, 26))
    assert seen[-1].n_bytes == sum(p.stat().st_size for p in recordings.rglob("*.*"))
    assert seen[-1].seconds == pytest.approx(done.seconds)
    lengths = [soundfile.info(p).duration for p in recordings.rglob("*.*")]
    assert done.seconds == pytest.approx(sum(lengths))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bitrate": 3}, "8 codebooks, not 4"),
        ({"bitrate": 6, "mono": True}, "kept apart"),
        ({"bitrate": 6, "shard_bytes": 10}, "shards of"),
    ],
)
def test_other_settings_need_another_folder(corpus, damaged, change, message):
    with pytest.raises(InputError, match=message):
        tokenize(damaged, corpus.shards[0].parent, **change)


def test_sources_that_changed_need_another_folder(corpus, recordings):
    with pytest.raises(InputError, match="30 files"):
        tokenize(recordings, corpus.shards[0].parent, bitrate=6)


def test_what_cannot_be_tokenised_is_refused(tmp_path, recordings):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no audio in"):
        tokenize(tmp_path / "empty", tmp_path / "out")
    with pytest.raises(InputError, match="give a folder"):
        tokenize(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(ModelError, match="no model"):
        tokenize(recordings, tmp_path / "out", model="none")
    (tmp_path / "other.parquet").touch()
    with pytest.raises(InputError, match="something else"):
        tokenize(recordings, tmp_path)


def test_mono_averages_the_channels(recordings, tmp_path, codec):
    done = tokenize(str(recordings / "st*.wav"), tmp_path, bitrate=3, mono=True, workers=1)
    (row,) = pd.read_parquet(done.shards[0]).itertuples()
    audio, rate = soundfile.read(recordings / "stereo.wav", dtype="float32")
    mono = audio.mean(1, dtype=np.float32)[None]
    expected = codec.encode(mono, rate, bitrate=3, beam_size=1).indices[0]
    np.testing.assert_array_equal(np.stack(row.codes), expected)


@pytest.fixture
def by_key(corpus):
    rows = pd.concat([pd.read_parquet(path) for path in corpus.shards])
    return {(row.key, row.channel): np.stack(row.codes) for row in rows.itertuples()}


def test_tars_of_odd_names_and_broken_json(recordings, tmp_path):
    tar = tmp_path / "odd.tar"
    with tarfile.open(tar, "w", format=tarfile.GNU_FORMAT, encoding="latin-1") as archive:
        for name, json_text in (("café", b'{"text": "tr'), ("list", b"[1]"), ("good", b'{"a": 1}')):
            archive.add(next(recordings.rglob("1.flac")), f"{name}.flac")
            entry = tarfile.TarInfo(f"{name}.json")
            entry.size = len(json_text)
            archive.addfile(entry, io.BytesIO(json_text))
    done = tokenize(tmp_path, tmp_path / "out", bitrate=1.5, workers=1)
    assert not done.skipped
    examples = list(CodesStream(tmp_path / "out"))
    assert {example.key: example.metadata for example in examples} == {
        "odd.tar/caf\\xe9.flac": {"json": '{"text": "tr'},
        "odd.tar/list.flac": {"json": "[1]"},
        "odd.tar/good.flac": {"a": 1},
    }


def test_tars_give_the_codes_of_their_members(by_key, recordings, tmp_path):
    tars = tmp_path / "tars"
    tars.mkdir()
    paths = sorted(recordings.rglob("*.*"))
    for i in range(2):
        with tarfile.open(tars / f"part-{i}.tar", "w") as tar:
            for path in paths[i::2]:
                tar.add(path, path.relative_to(recordings))
                text = tmp_path / "note.json"
                text.write_text(json.dumps({"name": path.name}))
                tar.add(text, path.relative_to(recordings).with_suffix(".json"))
    data = (tars / "part-1.tar").read_bytes()
    (tars / "part-2.tar").write_bytes(data[:3000])
    done = tokenize(tars, tmp_path / "out", bitrate=6, workers=1)
    rows = pd.read_parquet(done.shards[0])
    rows = rows[~rows.key.str.startswith("part-2")]
    assert len(rows) == len(paths) + 1
    for row in rows.itertuples():
        key = row.key.split("/", 1)[1]
        np.testing.assert_array_equal(np.stack(row.codes), by_key[key, row.channel])
        assert json.loads(row.metadata) == {"name": key.split("/")[-1]}
    assert [s.key for s in done.skipped] == ["part-2.tar"]
    assert "damaged" in done.skipped[0].reason


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_manifests_choose_and_describe(by_key, recordings, tmp_path, kind):
    paths = [*sorted(recordings.rglob("1.*")), recordings / "missing.wav"]
    rows = [
        {"id": f"k{i}", "path": os.path.relpath(path, tmp_path), "text": f"words, {i}"}
        for i, path in enumerate(paths)
    ]
    manifest = tmp_path / f"list.{kind}"
    with manifest.open("w", newline="") as file:
        if kind == "jsonl":
            file.writelines(json.dumps(row) + "\n" for row in rows)
        else:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    done = tokenize(manifest, tmp_path / "out", bitrate=6, workers=1)
    table = pd.read_parquet(done.shards[0])
    assert list(table.key) == [row["id"] for row in rows[:-1]]
    for i, row in enumerate(table.itertuples()):
        key = str(paths[i].relative_to(recordings))
        np.testing.assert_array_equal(np.stack(row.codes), by_key[key, 0])
        assert json.loads(row.metadata) == {"text": f"words, {i}"}
    assert [(s.key, s.reason) for s in done.skipped] == [(rows[-1]["id"], "no such file")]


def test_manifests_that_cannot_be_used(tmp_path):
    manifest = tmp_path / "list.jsonl"
    for text, message in (
        ('{"path": "a.wav"}\n{"path": "a.wav"}', "repeats 'a.wav'"),
        ('{"name": "a.wav"}', "has no path"),
        ("[1]", "line 1 is not a JSON object"),
    ):
        manifest.write_text(text)
        with pytest.raises(InputError, match=message):
            tokenize(manifest, tmp_path / "out")


def test_what_only_av_reads(recordings, tmp_path, codec):
    av = pytest.importorskip("av")
    source = next(recordings.rglob("1.flac"))
    samples, rate = soundfile.read(source, dtype="float32")
    folder = tmp_path / "in"
    folder.mkdir()
    with av.open(str(folder / "lossless.m4a"), "w") as container:
        stream = container.add_stream("alac", rate=rate, layout="mono", format="s16p")
        pcm = np.round(samples * 32768).astype(np.int16)[None]
        for start in range(0, pcm.shape[1], 4096):
            part = pcm[:, start : start + 4096]
            frame = av.AudioFrame.from_ndarray(part, format="s16p", layout="mono")
            frame.rate, frame.pts = rate, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    done = tokenize(folder, tmp_path / "out", bitrate=6, workers=1)
    (row,) = pd.read_parquet(done.shards[0]).itertuples()
    expected = codec.encode(samples[None], rate, bitrate=6, beam_size=1)
    assert row.n_samples == len(samples)
    np.testing.assert_array_equal(np.stack(row.codes), expected.indices[0])


def test_plans_are_the_same_for_any_settings_of_speed(recordings, tmp_path):
    codec = Codec.load()
    settings = Settings("speech_24khz", codec.model_hash, 8, False)
    one = make_plan(str(recordings), tmp_path / "one", settings, shard_bytes=50_000)
    two = make_plan(str(recordings), tmp_path / "two", settings, shard_bytes=50_000)
    shards = [shard.sources for shard in one.shards()]
    assert shards == [shard.sources for shard in two.shards()]
    assert len(shards) == one.n_shards
    sources = [source for shard in shards for source in shard]
    assert len({source.key for source in sources}) == one.n_sources == 25
    sizes = [sum(source.n_bytes for source in shard) for shard in shards[:-1]]
    assert min(sizes) >= 50_000


@pytest.mark.parametrize("source", [".", "st*.wav", "list.jsonl"])
def test_relative_sources_are_found_from_anywhere(source, recordings, tmp_path, codec, monkeypatch):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    shutil.copy(recordings / "stereo.wav", folder)
    (folder / "list.jsonl").write_text('{"path": "stereo.wav"}')
    settings = Settings("speech_24khz", codec.model_hash, 1, False)
    monkeypatch.chdir(folder)
    (shard,) = make_plan(source, out, settings).shards()
    monkeypatch.chdir(tmp_path)
    assert write_shard(Task(shard, settings), lambda event: None).n_recordings == 1
    assert tokenize(folder / source, out, bitrate=0.75).n_recordings == 1


def test_sources_that_moved_are_still_the_same(recordings, tmp_path, codec):
    before, after, out = tmp_path / "before", tmp_path / "after", tmp_path / "out"
    before.mkdir()
    shutil.copy(recordings / "stereo.wav", before)
    make_plan(str(before), out, Settings("speech_24khz", codec.model_hash, 1, False))
    before.rename(after)
    done = tokenize(after, out, bitrate=0.75, workers=1)
    assert (done.n_recordings, done.skipped) == (1, ())


def test_plans_of_earlier_versions_are_gone_on_with(recordings, tmp_path, codec):
    # They had a digest of the sources, paths included, which could be relative.
    out = tmp_path / "out"
    settings = Settings("speech_24khz", codec.model_hash, 1, False)
    make_plan(str(recordings / "st*.wav"), out, settings)
    fields = json.loads((out / "_plan.json").read_text())
    (out / "_plan.json").write_text(json.dumps(fields | {"digest": "0" * 64}))
    size = (recordings / "stereo.wav").stat().st_size
    (out / "_sources.jsonl").write_text(json.dumps(["stereo.wav", "in/stereo.wav", size, None]))
    done = tokenize(str(recordings / "st*.wav"), out, bitrate=0.75, workers=1)
    assert (done.n_recordings, done.skipped) == (1, ())


def test_a_damaged_list_of_sources_is_one_sentence(recordings, tmp_path, codec):
    settings = Settings("speech_24khz", codec.model_hash, 1, False)
    make_plan(str(recordings), tmp_path, settings)
    (tmp_path / "_sources.jsonl").write_text('["stereo.wav"')
    with pytest.raises(InputError, match=r"_sources\.jsonl is missing or damaged"):
        tokenize(recordings, tmp_path, bitrate=0.75)


def test_more_channels_than_a_codec_takes_are_skipped(recordings, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copy(recordings / "stereo.wav", folder)
    soundfile.write(folder / "wide.wav", np.zeros((800, 300)), 8000)
    done = tokenize(folder, tmp_path / "out", bitrate=0.75, workers=1)
    assert done.n_recordings == 1
    assert [(s.key, s.reason) for s in done.skipped] == [
        ("wide.wav", "has 300 channels, more than 255")
    ]
    mono = tokenize(folder, tmp_path / "mono", bitrate=0.75, mono=True, workers=1)
    assert (mono.n_recordings, mono.skipped) == (2, ())


def test_a_key_of_a_manifest_may_be_zero(recordings, tmp_path):
    rows = [{"id": n, "path": str(recordings / "stereo.wav")} for n in range(2)]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, rows)))
    done = tokenize(tmp_path / "list.jsonl", tmp_path / "out", bitrate=0.75, mono=True, workers=1)
    assert list(pd.read_parquet(done.shards[0]).key) == ["0", "1"]


def test_a_corpus_takes_more_kinds_of_files_than_are_read_elsewhere():
    assert AUDIO_ENDINGS < CORPUS_ENDINGS
    assert ".m4a" in CORPUS_ENDINGS


# --- back -----------------------------------------------------------------------------------------


def test_detokenizing_equals_decoding(corpus, damaged, tmp_path, codec):
    folder = corpus.shards[0].parent
    assert detokenize(folder, tmp_path, ending=".wav", bitrate=3) == 25
    for key in ("stereo.wav", "german_16khz/2.ogg"):
        audio, rate = soundfile.read(damaged / key, dtype="float32", always_2d=True)
        expected = codec.decode(codec.encode(audio.T, rate, bitrate=3, beam_size=1))
        decoded, new_rate = soundfile.read(tmp_path / key.replace(".ogg", ".wav"), always_2d=True)
        assert new_rate == rate
        np.testing.assert_allclose(decoded.T, expected.clip(-1, 1), atol=1 / 32768)
    kept = tmp_path / "stereo.wav"
    (tmp_path / "german_16khz" / "2.wav").unlink()
    before = kept.stat().st_mtime_ns
    assert detokenize(folder, tmp_path, ending=".wav", bitrate=3) == 1
    assert kept.stat().st_mtime_ns == before


def test_detokenizing_stays_in_its_folder(recordings, tmp_path):
    manifest = tmp_path / "list.jsonl"
    absolute = str(recordings / "stereo.wav")
    manifest.write_text(json.dumps({"path": absolute, "key": "../../escape.wav"}))
    done = tokenize(manifest, tmp_path / "codes", bitrate=0.75, workers=1)
    assert detokenize(done.shards[0], tmp_path / "deep" / "out") == 1
    assert (tmp_path / "deep" / "out" / "escape.flac").exists()


def test_keys_that_would_meet_are_refused(recordings, tmp_path):
    manifest = tmp_path / "list.jsonl"
    path = str(recordings / "stereo.wav")
    keys = ("a.wav", "a.ogg", "talk.01", "talk.02")
    lines = [json.dumps({"path": path, "key": key}) for key in keys]
    manifest.write_text("\n".join(lines))
    done = tokenize(manifest, tmp_path / "codes", bitrate=0.75, workers=1)
    with pytest.raises(InputError, match=r"both become a\.flac"):
        detokenize(done.shards[0], tmp_path / "out")
    assert detokenize(done.shards[0], tmp_path / "out", keep_endings=True) == 4
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["a.ogg.flac", "a.wav.flac", "talk.01.flac", "talk.02.flac"]


def test_linked_folders_are_followed_and_loops_are_not(recordings, tmp_path):
    folder = tmp_path / "folder"
    (folder / "below").mkdir(parents=True)
    shutil.copy(recordings / "stereo.wav", folder / "below")
    (folder / "below" / "up").symlink_to(folder)
    (folder / "linked").symlink_to(folder / "below")
    keys = [source.key for source in list_sources(str(folder))]
    assert keys == ["below/stereo.wav", "linked/stereo.wav"]


def test_parts_of_recordings_are_refused(recordings, tmp_path):
    manifest = tmp_path / "list.jsonl"
    entry = {"audio_filepath": str(recordings / "stereo.wav"), "offset": 0.0, "duration": 0.5}
    manifest.write_text(json.dumps(entry))
    assert len(list(list_sources(str(manifest)))) == 1
    manifest.write_text(json.dumps(entry | {"offset": 1.0}))
    with pytest.raises(InputError, match="part of a recording"):
        list(list_sources(str(manifest)))


@pytest.fixture(scope="module")
def stereo(recordings, tmp_path_factory):
    """A shard with one recording."""
    folder = tmp_path_factory.mktemp("stereo")
    done = tokenize(recordings / "stereo.wav", folder, bitrate=0.75, workers=1)
    return done.shards[0]


@pytest.mark.parametrize(
    ("ending", "kind"), [("flac", "FLAC"), (".opus", "OPUS"), (".oga", "VORBIS"), ("WAV", "PCM_16")]
)
def test_the_ending_chooses_the_format_as_in_decoding(stereo, tmp_path, ending, kind):
    assert detokenize(stereo, tmp_path, ending=ending) == 1
    (made,) = tmp_path.iterdir()
    assert made.name == f"stereo.{ending.lstrip('.')}"
    assert kind in (soundfile.info(made).format, soundfile.info(made).subtype)


@pytest.mark.parametrize("ending", ["", ".", "a/b", ".raw", ".xyz"])
def test_endings_that_cannot_be_written_are_refused(stereo, tmp_path, ending):
    with pytest.raises(InputError, match=r"choose \.(flac|wav)"):
        detokenize(stereo, tmp_path, ending=ending)
    assert not list(tmp_path.iterdir())


def test_detokenizing_needs_a_worker(stereo, tmp_path):
    with pytest.raises(InputError, match="workers must be at least 1, got -1"):
        detokenize(stereo, tmp_path, workers=-1)
