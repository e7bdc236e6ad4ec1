"""The example in examples/speech_lm.py runs."""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import soundfile

EXAMPLE = Path(__file__).parents[2] / "examples" / "speech_lm.py"


def test_a_language_model_trains_and_speaks(corpus, tmp_path):
    folder, target = corpus.shards[0].parent, tmp_path / "said.wav"
    command = [sys.executable, str(EXAMPLE), str(folder), str(target), "--threads", "1"]
    command += ["--minutes", "0.03", "--seconds", "0.5"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    first = float(done.stdout.split(" bits a code")[0].split()[-1])
    assert first < math.log2(1025) + 2  # near a uniform guess before the first step
    audio, rate = soundfile.read(target)
    assert rate == 24_000
    assert len(audio) == 38 * 320
    assert np.abs(audio).max() > 1e-3
