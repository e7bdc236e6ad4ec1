import sys
import types
from pathlib import Path

import numpy as np
import pytest
import soundfile

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="session")
def codec():
    from rvq import Codec

    return Codec.load()


@pytest.fixture(scope="session")
def speech_path() -> Path:
    return DATA / "english_24khz.ogg"


@pytest.fixture(scope="session")
def speech(speech_path) -> np.ndarray:
    """Real speech at 24 kHz, `[1, samples]`."""
    audio, rate = soundfile.read(speech_path, dtype="float32", always_2d=True)
    assert rate == 24_000
    return np.ascontiguousarray(audio.T)


@pytest.fixture(scope="session")
def encodec():
    """The `encodec` package, a reference; its audio loading, which nothing here uses, left out."""
    sys.modules.setdefault("torchaudio", types.ModuleType("torchaudio"))
    return pytest.importorskip("encodec")


@pytest.fixture(scope="module")
def one_thread():
    """torch on one thread: small steps are faster, and sums do not depend on who adds what."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
