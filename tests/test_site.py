"""The documentation site builds without a warning."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs", reason="mkdocs is not installed")
    pytest.importorskip("material", reason="mkdocs-material is not installed")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    run = subprocess.run(
        command, cwd=Path(__file__).parents[1], capture_output=True, text=True, env=environment
    )
    assert run.returncode == 0, run.stderr
    for name in ("speech_24khz/learner-6.flac", "audio_24khz/guitar-6.flac"):
        assert (tmp_path / "audio" / name).stat().st_size > 10_000
    assert "beam_size" in (tmp_path / "api" / "quantizer" / "index.html").read_text()
    # Nothing is fetched from elsewhere when a page is read.
    home = (tmp_path / "index.html").read_text()
    assert "fonts.googleapis" not in home
