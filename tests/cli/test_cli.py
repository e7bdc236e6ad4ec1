import subprocess
import sys

import pytest
import soundfile


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
        ("trim", "text.wav", "x.rvq", "--codebooks", "1"),
        ("play", "text.wav"),
        ("eval", "."),
        ("train", "nonesuch", "--data", "."),
        ("train", "speech_24khz", "--data", "."),
        ("export", "text.wav", "folder"),
        ("data", "prepare", "nonesuch", "out"),
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
