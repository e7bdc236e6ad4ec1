import base64
import io
import json
import re
import zlib

import numpy as np
import pytest
import soundfile

from rvq.evaluate.baselines import Command
from rvq.evaluate.page import spectrogram_png, to_html
from rvq.evaluate.rate_distortion import evaluate


def test_a_spectrogram_is_a_png_whose_bright_row_is_the_tone():
    tone = 0.5 * np.sin(2 * np.pi * 3000 * np.arange(24000) / 24000)
    data = spectrogram_png(tone.astype(np.float32))
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = (int.from_bytes(data[at : at + 4]) for at in (16, 20))
    start = data.index(b"IDAT")
    rows = zlib.decompress(data[start + 4 :])
    shades = np.frombuffer(rows, np.uint8).reshape(height, width + 1)[:, 1:]
    row = shades[:, width // 2].argmax()
    # 3 kHz of 12 is a quarter of the height above the bottom.
    assert height - row == pytest.approx(height / 4, abs=2)


@pytest.fixture(scope="module")
def page(tmp_path_factory, speech):
    wav = tmp_path_factory.mktemp("clips") / "</script>.wav".replace("/", "_")
    soundfile.write(wav, speech[16000:48000], 16000)
    systems = [
        Command("copy", "cp {input} {output}", kbps=256),
        Command("fails", "ls {input} {output}", kbps=8),
    ]
    return to_html(evaluate([wav], systems, workers=1), systems)


def test_the_page_holds_everything(page):
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])
    assert [system["name"] for system in data["systems"]] == ["fails", "copy"]
    assert data["systems"][0]["kbps"] is None
    assert data["systems"][1]["scores"]["pesq_wb"][0] > 4
    assert data["failures"][0]["system"] == "fails"
    (clip,) = data["clips"]
    assert [version["name"] for version in clip["versions"]] == ["original", "copy"]
    assert not re.search(r'(src|href)="?http', page)


def test_players_hold_the_sound(page, speech):
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])
    for version in data["clips"][0]["versions"]:
        sound, rate = soundfile.read(io.BytesIO(base64.b64decode(version["sound"])))
        assert rate == 16000
        np.testing.assert_allclose(sound, speech[16000:48000], atol=2 / 32768)
