import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

CLIPS = sorted((Path(__file__).parents[1] / "data").glob("*.ogg"))


@pytest.fixture(scope="session")
def packed(tmp_path_factory) -> Path:
    """A folder as `rvq data prepare` writes it: two sources of real speech, one held-out clip."""
    folder = tmp_path_factory.mktemp("packed")
    (folder / "train").mkdir()
    (folder / "dev" / "one").mkdir(parents=True)
    for path in CLIPS[:2]:
        audio, rate = soundfile.read(path, dtype="float32")
        samples = np.round(soxr.resample(audio, rate, 24_000).clip(-1, 1) * 32767).astype(np.int16)
        np.save(folder / "train" / f"{path.stem}.npy", samples)
        facts = {"sample_rate": 24_000, "weight": 1.0, "clips": [0, len(samples)]}
        (folder / "train" / f"{path.stem}.json").write_text(json.dumps(facts))
    soundfile.write(folder / "dev" / "one" / "clip.flac", samples[:24_000], 24_000)
    return folder
