"""The commands around corpora, from the shell."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

CLIPS = sorted((Path(__file__).parents[1] / "data").glob("*.ogg"))


def rvq(*arguments):
    command = [sys.executable, "-m", "rvq", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=100)


def test_there_and_back(tmp_path):
    run = rvq("tokenize", CLIPS[0].parent, tmp_path / "codes", "--bitrate", 3, "--workers", 1)
    assert run.returncode == 0, run.stderr
    assert "3 recordings" in run.stdout
    run = rvq("detokenize", tmp_path / "codes", tmp_path / "back", "--workers", 1)
    assert run.returncode == 0, run.stderr
    assert "3 recordings written" in run.stdout
    for clip in CLIPS:
        decoded = soundfile.info(tmp_path / "back" / f"{clip.stem}.flac")
        assert (decoded.frames, decoded.samplerate) == (
            soundfile.info(clip).frames,
            soundfile.info(clip).samplerate,
        )


def test_probe(tmp_path):
    rows = ["path,label"]
    for clip in CLIPS[:2]:
        audio, rate = soundfile.read(clip)
        for i, part in enumerate(np.array_split(audio, 4)):
            soundfile.write(tmp_path / f"{clip.stem}_{i}.wav", part, rate)
            rows.append(f"{clip.stem}_{i}.wav,{clip.stem}")
    (tmp_path / "clips.csv").write_text("\n".join(rows))
    options = ("--codebooks", "1,2", "--folds", 2, "--workers", 1)
    run = rvq("probe", tmp_path / "clips.csv", "--out", tmp_path / "probe.json", *options)
    assert run.returncode == 0, run.stderr
    assert "| chance | 50.0% |" in run.stdout
    assert json.loads((tmp_path / "probe.json").read_text())["n_clips"] == 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("tokenize", "nowhere", "out"), "give a folder"),
        (("detokenize", "nowhere", "out"), "no Parquet"),
        (("probe", "nowhere.csv"), "cannot read nowhere.csv"),
    ],
)
def test_mistakes_are_answered_in_a_sentence(arguments, message):
    run = rvq(*arguments)
    assert run.returncode == 1
    assert message in run.stderr
    assert "Traceback" not in run.stderr
