import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from rvq import __version__
from rvq.errors import InputError
from rvq.train.recipe import read_recipe, shipped_recipe


def rvq(*arguments, **options):
    command = [sys.executable, "-m", "rvq", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, **options)


@pytest.fixture
def compressed(speech_path, tmp_path):
    target = tmp_path / "speech.rvq"
    run = rvq("encode", speech_path, target, "--bitrate", 6)
    assert run.returncode == 0, run.stderr
    assert "times smaller" in run.stdout
    return target


def test_there_and_back(compressed, speech_path):
    target = compressed.with_suffix(".flac")
    assert rvq("decode", compressed, target).returncode == 0
    assert soundfile.info(target).frames == soundfile.info(speech_path).frames


def test_info(compressed):
    run = rvq("info", compressed)
    assert run.returncode == 0
    assert "8 of 1024" in run.stdout
    assert "0 damaged" in run.stdout


def test_info_shows_control_characters_and_obeys_none(speech_path, tmp_path):
    target = tmp_path / "speech.rvq"
    title = "\x1b[31mred\u202e\nnext, Größe 大\u3000き"
    assert rvq("encode", speech_path, target, "--title", title).returncode == 0
    run = rvq("info", target)
    assert "\x1b" not in run.stdout
    assert r"\x1b[31mred\u202e\nnext, Größe 大" + "\u3000き" in run.stdout


@pytest.mark.parametrize("how", [("--codebooks", 2), ("--bitrate", 1.5)])
def test_trimming_equals_encoding_at_that_bitrate(speech_path, tmp_path, how):
    whole, trimmed, direct = (tmp_path / f"{name}.rvq" for name in ("whole", "trimmed", "direct"))
    greedy = ("--beam-size", 1)
    assert rvq("encode", speech_path, whole, *greedy).returncode == 0
    assert rvq("trim", whole, trimmed, *how).returncode == 0
    assert rvq("encode", speech_path, direct, "--bitrate", 1.5, *greedy).returncode == 0
    assert trimmed.read_bytes() == direct.read_bytes()


def test_trimming_reads_a_pipe(compressed, tmp_path):
    trimmed, piped = tmp_path / "trimmed.rvq", tmp_path / "piped.rvq"
    assert rvq("trim", compressed, trimmed, "--codebooks", 2).returncode == 0
    command = [sys.executable, "-m", "rvq", "trim", "/dev/stdin", str(piped), "--codebooks", "2"]
    with subprocess.Popen(["cat", compressed], stdout=subprocess.PIPE) as cat:
        subprocess.run(command, stdin=cat.stdout, check=True)
    assert piped.read_bytes() == trimmed.read_bytes()


def test_what_is_left_of_a_damaged_file_has_its_own_status(compressed, tmp_path):
    short, target = tmp_path / "short.rvq", tmp_path / "short.wav"
    short.write_bytes(compressed.read_bytes()[:-200])
    run = rvq("decode", short, target)
    assert run.returncode == 3
    assert "is damaged: " in run.stderr
    assert target.exists()
    run = rvq("info", short)
    assert run.returncode == 3
    assert "the end is missing" in run.stdout
    assert "saved" not in run.stdout  # what is missing is no saving
    run = rvq("trim", short, tmp_path / "cut.rvq", "--codebooks", 1)
    assert run.returncode == 3
    assert "is damaged, and so is" in run.stderr
    short.write_bytes(compressed.read_bytes() + b"more")
    run = rvq("info", short)
    assert run.returncode == 3
    assert "follow the end" in run.stdout
    short.write_bytes(compressed.read_bytes()[:52])
    assert "the file is cut short" in rvq("info", short).stdout


def test_evaluations_fail_before_they_measure_or_say_so(speech_path, tmp_path):
    folder = tmp_path / "clips"
    folder.mkdir()
    (folder / "clip.ogg").write_bytes(speech_path.read_bytes())
    command = ["eval", folder, "--opus", "", "--mp3", "", "--measures", "si_sdr", "--workers", 1]
    for wrong, message in (
        (["--bitrates", 100], "0.75 to 13.5 kbps, got 100"),
        (["--html", tmp_path / "no" / "x.html"], "there is no folder"),
        (["--cache", tmp_path / "no" / "x.jsonl"], "there is no folder"),
        (["--mp3", "inf"], "whole kbps, got inf"),
        (["--average", "nan"], "got nan"),
        (["--peer", "x,inf,cp {input} {output}"], "got inf"),
        (["--measures", "dnsmoss"], "dnsmoss"),
        (["--speakers", "([0-9]+)_"], "no speaker in"),
    ):
        run = rvq(*command, *wrong)
        assert run.returncode == 1
        assert run.stderr.startswith("rvq: ")
        assert message in run.stderr
    failing = ["--bitrates", "", "--peer", "copy,9,cp {input} {output}"]
    failing += ["--peer", "bad,3,false {input} {output}"]
    run = rvq(*command, *failing)
    assert run.returncode == 3
    assert "clip.ogg, bad: " in run.stderr
    assert "Failure(" not in run.stderr
    assert "copy" in run.stdout


def test_names_of_files_may_be_any_bytes(speech_path, tmp_path):
    odd = Path(os.fsdecode(bytes(tmp_path) + b"/odd\xff.ogg"))
    odd.write_bytes(speech_path.read_bytes())
    assert rvq("encode", odd).returncode == 0
    run = rvq("decode", odd.with_suffix(".rvq"))
    assert run.returncode == 0, run.stderr
    assert odd.with_suffix(".wav").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [("noext", "needs an ending"), ("x.txt", "cannot write .txt files"), ("x.wav/y.wav", "folder")],
)
def test_names_of_recordings_that_cannot_be_written(compressed, tmp_path, name, message):
    run = rvq("decode", compressed, tmp_path / name)
    assert run.returncode == 1
    assert message in run.stderr


def test_names_of_compressed_files_that_mislead(speech_path, tmp_path):
    for name, message in (("x.wav", "name the compressed file .rvq"), ("-", "rvq stream")):
        run = rvq("encode", speech_path, name, cwd=tmp_path)
        assert run.returncode == 1
        assert message in run.stderr
    assert not list(tmp_path.iterdir())


def test_permissions_stay(speech_path, tmp_path):
    target = tmp_path / "private.rvq"
    target.touch(mode=0o600)
    assert rvq("encode", speech_path, target, "--force").returncode == 0
    assert target.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ended_early_it_leaves_nothing(tmp_path, number, status):
    audio = np.random.default_rng(0).uniform(-0.1, 0.1, (24_000 * 600, 1))
    soundfile.write(tmp_path / "long.wav", audio, 24_000)
    command = [sys.executable, "-m", "rvq", "encode", "long.wav", "--quality", "6"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        while not list(tmp_path.glob(".*.rvq")):
            time.sleep(0.02)
            assert process.poll() is None
        process.send_signal(number)
        _, said = process.communicate()
    assert process.returncode == status
    assert said == ("rvq: interrupted\n" if number == signal.SIGINT else "")
    assert [path.name for path in tmp_path.iterdir()] == ["long.wav"]


def test_version_and_short_help():
    assert rvq("--version").stdout == f"rvq {__version__}\n"
    for command in ([], ["encode"], ["data", "prepare"]):
        assert "Usage" in rvq(*command, "-h").stdout


def test_nothing_is_overwritten_unless_forced(compressed, speech_path):
    before = compressed.read_bytes()
    run = rvq("encode", speech_path, compressed, "--bitrate", 3)
    assert run.returncode == 1
    assert "--force" in run.stderr
    assert compressed.read_bytes() == before
    assert rvq("encode", speech_path, compressed, "--bitrate", 3, "--force").returncode == 0
    assert len(compressed.read_bytes()) < len(before)


def test_the_input_is_never_overwritten(compressed):
    before = compressed.read_bytes()
    run = rvq("trim", compressed, compressed, "--codebooks", 1, "--force")
    assert run.returncode == 1
    assert "is the input" in run.stderr
    assert compressed.read_bytes() == before


def test_a_full_disk_is_named_wherever_it_is_met(speech_path, tmp_path):
    full = tmp_path / "full"
    full.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "none", full]).returncode:
        pytest.skip("no right to mount a disk that is small enough")
    try:
        small = tmp_path / "small.rvq"
        assert rvq("encode", speech_path, small, "--bitrate", 0.75).returncode == 0
        (full / "rest").write_bytes(bytes(12_000))
        for arguments, message in (
            (["decode", small, full / "x.wav"], "is the disk full?"),
            (["decode", small, full / "x.flac"], "is the disk full?"),
            (["tokenize", speech_path.parent, full / "codes", "--workers", 1], "cannot write"),
        ):
            run = rvq(*arguments)
            assert run.returncode == 1
            assert run.stderr.startswith("rvq: ")
            assert message in run.stderr
            assert run.stderr.count("\n") == 1
    finally:
        subprocess.run(["umount", full], check=True)


def test_a_full_disk_leaves_nothing(compressed, tmp_path):
    # A limit on the size of files stands for the disk: writing past it fails all the same.
    for target, blocks in (("out.wav", 16), ("out.flac", 16), ("small.rvq", 1)):
        command = f"trap '' XFSZ; ulimit -f {blocks}; exec \"$@\""
        arguments = [str(compressed), str(tmp_path / target)]
        verb = ["trim", "--codebooks", "7"] if target.endswith("rvq") else ["decode"]
        shell = ["bash", "-c", command, "bash", sys.executable, "-m", "rvq", *verb, *arguments]
        run = subprocess.run(shell, capture_output=True, text=True)
        assert run.returncode == 1, target
        assert run.stderr.startswith("rvq: cannot write")
        assert [path.name for path in tmp_path.iterdir()] == [compressed.name]


@pytest.mark.parametrize(
    "arguments",
    [
        ("encode", "missing.wav", "x.rvq"),
        ("encode", "text.wav", "x.rvq"),
        ("encode", "text.wav", "x.rvq", "--model", "nonesuch"),
        ("decode", "text.wav", "x.wav"),
        ("decode", "missing.rvq", "x.wav"),
        ("info", "text.wav"),
        ("info", "/dev/stdin"),
        ("encode", ".", "x.rvq"),
        ("encode", "."),
        ("encode", "text.wav", ".", "--force"),
        ("decode", "text.wav", ".", "--force"),
        ("trim", "text.wav", "x.rvq", "--codebooks", "1"),
        ("play", "text.wav"),
        ("eval", "."),
        ("train", "nonesuch", "--data", "."),
        ("train", "speech_24khz", "--data", "."),
        ("export", "text.wav", "folder"),
        ("data", "prepare", "nonesuch", "out"),
        ("encode", "text.wav", "ä" * 130 + ".rvq"),
        ("info", "ä" * 130),
        ("tokenize", ".", "out", "--shard-mb", "nan"),
    ],
)
def test_bad_input_gets_one_sentence_and_leaves_nothing(tmp_path, arguments):
    (tmp_path / "text.wav").write_text("This is not audio.")
    if arguments == ("eval", "."):
        (tmp_path / "text.wav").unlink()
    before = sorted(tmp_path.iterdir())
    run = rvq(*arguments, cwd=tmp_path)
    assert run.returncode == 1
    assert run.stderr.strip().startswith("rvq: ")
    assert "Traceback" not in run.stderr
    assert len(run.stderr.strip().splitlines()) == 1
    assert sorted(tmp_path.iterdir()) == before


def test_a_model_is_not_overwritten_unless_forced(tmp_path):
    (tmp_path / "checkpoint.pt").write_text("This is not a checkpoint.")
    (tmp_path / "model.json").write_text("mine")
    run = rvq("export", tmp_path / "checkpoint.pt", tmp_path)
    assert run.returncode == 1
    assert run.stderr.endswith("holds a model already; add --force to overwrite it\n")
    run = rvq("export", tmp_path / "checkpoint.pt", tmp_path, "--force")
    assert run.returncode == 1
    assert "checkpoint.pt" in run.stderr
    assert (tmp_path / "model.json").read_text() == "mine"


def test_extending_without_torch_says_what_is_missing():
    arguments = ["rvq", "extend", "speech_24khz", "out", "--data", ".", "--codebooks", "20"]
    code = f"import sys; sys.modules['torch'] = None; sys.argv = {arguments}; import rvq.__main__"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 1
    assert run.stderr.startswith("rvq: extending needs `pip install 'rvq[train]'`")


def test_recipes_of_the_package_are_found_by_name():
    assert read_recipe(shipped_recipe("speech_24khz")).name == "speech_24khz"
    with pytest.raises(InputError, match=r"no recipe 'nonesuch': .* audio_24khz, speech_24khz"):
        shipped_recipe("nonesuch")


def test_every_command_has_help():
    for command in ("encode", "decode", "info", "trim", "play", "eval", "train", "export", "data"):
        run = rvq(command, "--help")
        assert run.returncode == 0
        assert "Usage" in run.stdout


@pytest.mark.parametrize("module", ["rvq", "rvq.cli.app"])
def test_import_is_light(module):
    heavy = "('numpy', 'torch', 'onnxruntime', 'soundfile', 'pydantic')"
    code = f"import {module}, sys; print([m for m in {heavy} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
