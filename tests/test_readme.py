"""The README is a test: its commands exist, its Python runs, as does that of the documentation."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
README = (REPOSITORY / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, re.M | re.S)
SHELL = [line for kind, block in BLOCKS if not kind for line in block.splitlines()]
PAGES = [
    README,
    *((REPOSITORY / "docs" / f"{p}.md").read_text() for p in ("quantizer", "streaming")),
]
PYTHON = [
    block for page in PAGES for block in re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
]


def test_first_command_compresses_and_decompresses_a_real_recording(tmp_path):
    first = SHELL[0].split(" && ")
    assert first[0].startswith("python3 -m venv")
    assert first[1].endswith("pip install -q .")
    for command in first[2:]:
        words = shlex.split(command.replace("tests/data", str(REPOSITORY / "tests" / "data")))
        assert words[0] == ".venv/bin/rvq"
        run = subprocess.run(
            [sys.executable, "-m", "rvq", *words[1:]],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        assert "bytes" in run.stdout
    assert (tmp_path / "speech.wav").stat().st_size > 20 * (tmp_path / "speech.rvq").stat().st_size


def test_second_command_is_there():
    assert SHELL[1] == "./run-tests"
    assert (REPOSITORY / "run-tests").stat().st_mode & 0o111


@pytest.mark.parametrize("line", [line for line in SHELL if line.startswith("rvq ")])
def test_commands_and_options_exist(line):
    words = shlex.split(line, comments=True)[1:]
    depth = 2 if words[0] in ("data", "stream") else 1
    run = subprocess.run(
        [sys.executable, "-m", "rvq", *words[:depth], "--help"], capture_output=True, text=True
    )
    assert run.returncode == 0
    for option in (word for word in words if word.startswith("--")):
        assert option in run.stdout


@pytest.mark.parametrize("block", PYTHON)
def test_python(block, speech_path, tmp_path, monkeypatch):
    import soundfile

    soundfile.write(tmp_path / "speech.wav", *soundfile.read(speech_path))
    monkeypatch.chdir(tmp_path)
    exec(block, {})


@pytest.mark.parametrize("target", re.findall(r"\]\((?!http)([^)#]+)\)", README))
def test_links_lead_somewhere(target):
    assert (REPOSITORY / target).exists()
