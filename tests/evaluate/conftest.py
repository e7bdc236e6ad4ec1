from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(scope="session")
def clip() -> Path:
    """A clip of real speech of two to ten seconds."""
    for path in sorted(DATA.rglob("*")):
        if path.suffix in (".ogg", ".flac", ".wav") and 2 < soundfile.info(path).duration < 10:
            return path
    raise FileNotFoundError(f"no clip of 2 to 10 s under {DATA}")


@pytest.fixture(scope="session")
def speech(clip: Path) -> np.ndarray:
    """The same clip, first channel, at 16 kHz, at most three seconds."""
    audio, rate = soundfile.read(clip, dtype="float32", always_2d=True)
    return soxr.resample(audio[: 3 * rate, 0], rate, 16000)


@pytest.fixture
def wav(tmp_path: Path, speech: np.ndarray) -> Path:
    """Two seconds of it as a file."""
    path = tmp_path / "speech.wav"
    soundfile.write(path, speech[16000:48000], 16000)
    return path
