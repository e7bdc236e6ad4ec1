from pathlib import Path

import numpy as np
import pytest
import soundfile

from rvq.corpus.tokenize import tokenize

CLIPS = sorted((Path(__file__).parents[1] / "data").glob("*.ogg"))


@pytest.fixture(scope="session")
def recordings(tmp_path_factory) -> Path:
    """Real speech in 24 files of many lengths: three formats, two folders, one of them stereo."""
    folder = tmp_path_factory.mktemp("recordings")
    random = np.random.default_rng(0)
    for clip in CLIPS:
        audio, rate = soundfile.read(clip, dtype="float32")
        cuts = np.sort(random.integers(1, len(audio), 7))
        for i, part in enumerate(np.split(audio, cuts)):
            path = folder / clip.stem / f"{i}.{('wav', 'flac', 'ogg')[i % 3]}"
            path.parent.mkdir(exist_ok=True)
            soundfile.write(path, part, rate)
    stereo = np.stack([part, -0.5 * part[::-1]], axis=1)
    soundfile.write(folder / "stereo.wav", stereo, rate)
    return folder


@pytest.fixture(scope="session")
def damaged(recordings, tmp_path_factory) -> Path:
    """The same, and five files that cannot be tokenised."""
    folder = tmp_path_factory.mktemp("damaged")
    for path in recordings.rglob("*.*"):
        target = folder / path.relative_to(recordings)
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(path.read_bytes())
    (folder / "not_audio.wav").write_text("hello")
    (folder / "nothing.flac").write_bytes(b"")
    soundfile.write(folder / "silent.wav", np.empty((0, 1)), 8000)
    broken = np.full(1000, np.nan, np.float32)
    soundfile.write(folder / "nan.wav", broken, 8000, subtype="FLOAT")
    whole = next(folder.rglob("4.flac")).read_bytes()
    (folder / "cut.flac").write_bytes(whole[: len(whole) // 2])
    (folder / "words.txt").write_text("no recording")
    return folder


@pytest.fixture(scope="session")
def corpus(damaged, tmp_path_factory):
    """The damaged folder tokenised without interruption."""
    folder = tmp_path_factory.mktemp("corpus")
    return tokenize(damaged, folder, bitrate=6, workers=1, shard_bytes=60_000)
