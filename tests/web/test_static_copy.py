import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from rvq.codec.models import find
from rvq.errors import InputError, ModelError
from rvq.model_folder import read_card
from rvq.web import listening, static_copy
from rvq.web.listening import SAMPLES
from rvq.web.server import PAGE
from rvq.web.static_copy import runtime_files, write_static_copy
from rvq.web.tensors import unpack


def test_everything_is_there_and_samples_are_exact(static_folder, codec):
    about = json.loads((static_folder / "about.json").read_text())
    assert about["mode"] == "browser"
    for name in ("encoder.onnx", "decoder.onnx", "codebooks.safetensors", "model.json"):
        assert (static_folder / "model" / name).is_file()
    for sample in about["samples"]:
        body = (static_folder / "samples" / f"{sample['id']}.safetensors").read_bytes()
        written = unpack(body, "samples")
        shipped, rate = soundfile.read(SAMPLES / f"{sample['id']}.flac", dtype="int16")
        np.testing.assert_array_equal(written * 32768, shipped)
        assert body == listening.sample(codec, sample["id"]).to_bytes()
        for peer in sample["peers"]:
            wav = soundfile.info(static_folder / "samples" / f"{sample['id']}.{peer}.wav")
            assert (wav.frames, wav.samplerate) == (len(written), rate)


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "mine").write_text("keep me")
    with pytest.raises(InputError, match="not an empty folder"):
        write_static_copy("speech_24khz", tmp_path)
    with pytest.raises(InputError, match="not an empty folder"):
        write_static_copy("speech_24khz", tmp_path / "mine")
    with pytest.raises(ModelError):
        write_static_copy("nonesuch", tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize("folder", [".", "../here", "new/../other"])
def test_the_folder_one_stands_in_is_filled(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(static_copy, "runtime_files", lambda folder: [])
    monkeypatch.setattr(static_copy, "_write_sample", lambda *of: {"peers": {}})
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    write_static_copy("speech_24khz", Path(folder))
    expected = {path.name for path in PAGE.iterdir()}
    expected |= {"ort", "model", "about.json", ".nojekyll"}
    assert {path.name for path in Path(folder).resolve().iterdir()} == expected


def test_models_of_another_family_are_refused(tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    card = read_card(find("speech_24khz")) | {"family": "waveform"}
    (model / "model.json").write_text(json.dumps(card))
    with pytest.raises(InputError, match="spectral family"):
        write_static_copy(model, tmp_path / "new")


def test_a_missing_or_wrong_runtime_is_one_sentence_and_leaves_nothing(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="dist folder"):
        runtime_files(tmp_path)
    for name in static_copy._RUNTIME_FILES:
        (tmp_path / name).write_bytes(b"something else")
    with pytest.raises(InputError, match="is not that of onnxruntime-web"):
        write_static_copy("speech_24khz", tmp_path / "new", runtime=tmp_path)
    assert not (tmp_path / "new").exists()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InputError, match="npm"):
        write_static_copy("speech_24khz", tmp_path / "new")
    assert not list(tmp_path.glob(".rvq-*"))


def test_an_archive_without_the_runtime_is_one_sentence(tmp_path, monkeypatch):
    # Stands for npm: packs an archive that lacks the files.
    npm = tmp_path / "npm"
    npm.write_text(
        f"#!{sys.executable}\n"
        "import tarfile\n"
        "with tarfile.open('onnxruntime-web.tgz', 'w:gz') as archive:\n"
        f"    archive.add({str(tmp_path / 'npm')!r}, 'package/dist/other.mjs')\n"
    )
    npm.chmod(0o755)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=r"has no ort\.wasm\.bundle\.min\.mjs"):
        runtime_files()
