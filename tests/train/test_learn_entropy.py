import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.numpy import load, save
from typer.testing import CliRunner

import rvq
from rvq.bitstream.container import dumps, loads, payload_size
from rvq.bitstream.entropy import FILE, EntropyModel
from rvq.cli.app import app
from rvq.codec.models import DEFAULT_MODEL, find
from rvq.errors import InputError, ModelError
from rvq.model_folder import DECODER, ModelFolder
from rvq.train.entropy import AROUND, LayerNetwork, learn_for, take_over


def test_rounding_to_integers_keeps_the_frequencies(codec):
    torch.manual_seed(0)
    size, width = 64, 8
    features = torch.randint(-127, 128, (3, size, width)).float()
    network = LayerNetwork(features[2].numpy(), float(features.std()), first=False)
    for parameter in network.parameters():
        parameter.data = torch.randn_like(parameter) * 0.15
    codes = torch.randint(0, size, (1, 75, 3))
    below = features[0][codes[..., 0]] + features[1][codes[..., 1]]
    logits = network(codes[..., 2], below)[0].double()
    expected = torch.log_softmax(logits, dim=1).exp().detach().numpy()
    assert expected.max() > 0.1
    layer = network.integers()
    arrays = {name: np.stack([array] * 3) for name, array in layer.items()}
    arrays |= {
        "features": features.numpy().astype(np.int8),
        "around": np.array(AROUND, np.int32),
        "model": np.zeros(32, np.uint8),
    }
    model = EntropyModel(save({k: np.ascontiguousarray(v) for k, v in arrays.items()}))
    found = codes[0].numpy()
    known = sum(model.features(j, found[None, :, j]) for j in (0, 1))
    base = model.base(2, known)
    for t in (0, 1, 2, 40, 74):
        bits = model.bits(2, base[t], found[:t, 2].astype(np.uint16))
        np.testing.assert_allclose(2.0**-bits, expected[t], atol=0.03)


@pytest.fixture
def one_thread():
    """Steps this small take longer on several."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def learner(tmp_path):
    """A codec in a folder of its own, without entropy model."""
    folder = tmp_path / "model"
    shutil.copytree(find(DEFAULT_MODEL), folder)
    (folder / FILE).unlink(missing_ok=True)
    return rvq.Codec.load(folder)


def pack(folder, audio, sample_rate=24_000):
    (folder / "train").mkdir(parents=True)
    np.save(folder / "train" / "voice.npy", (audio[0] * 32767).astype(np.int16))
    (folder / "train" / "voice.json").write_text(json.dumps({"sample_rate": sample_rate}))
    return folder


def test_codes_are_learned_and_the_codec_uses_them(learner, speech, tmp_path, one_thread):
    assert learner.entropy is None
    data = pack(tmp_path / "data", np.tile(speech, 7))
    shares = []
    path = learn_for(learner, [data], minutes=0.4, steps=10, batch_size=4, progress=shares.append)
    assert path.parent == learner.folder
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    codec = rvq.Codec.load(learner.folder)
    codes = codec.encode(speech, 24_000, 1.5)
    packed, coded = dumps(codes), dumps(codes, entropy=codec.entropy)
    # Learned from this very recording: what is tested is that it reaches the file.
    assert payload_size(coded) < 0.95 * payload_size(packed)
    np.testing.assert_array_equal(loads(coded, entropy=codec.entropy).indices, codes.indices)


def test_one_that_files_need_is_not_replaced_unasked(learner, speech, tmp_path, one_thread):
    data = pack(tmp_path / "data", np.tile(speech, 7))
    command = ["learn-entropy", "--model", str(learner.folder), "--data", str(data)]
    command += ["--minutes", "0.2", "--steps", "1", "--threads", "1"]
    assert CliRunner().invoke(app, command).exit_code == 0
    learned = (learner.folder / FILE).read_bytes()
    run = CliRunner().invoke(app, command)
    assert isinstance(run.exception, InputError)
    assert "--force" in str(run.exception)
    assert (learner.folder / FILE).read_bytes() == learned
    assert CliRunner().invoke(app, [*command, "--force"]).exit_code == 0
    shipped = ["learn-entropy", "--model", "speech_24khz", "--data", str(data), "--force"]
    run = CliRunner().invoke(app, shipped)
    assert isinstance(run.exception, InputError)
    assert "copy its folder" in str(run.exception)


def test_a_model_with_the_same_codes_takes_it_over(learner, speech):
    folder, own = learner.folder, find(DEFAULT_MODEL)
    files = ModelFolder.read(folder)
    decoder = bytearray(files.files[DECODER])
    decoder[len(decoder) // 2] ^= 1  # a weight, in its last bits
    ModelFolder.of(files.files | {DECODER: bytes(decoder)}, files.card).write(folder)
    command = ["learn-entropy", "--model", str(folder), "--from"]
    assert CliRunner().invoke(app, [*command, DEFAULT_MODEL]).exit_code == 0
    old, new = rvq.Codec.load(own), rvq.Codec.load(folder)
    assert new.model_hash != old.model_hash
    assert len(new.compress(speech, 24_000, 3)) == len(old.compress(speech, 24_000, 3))
    run = CliRunner().invoke(app, [*command, "audio_24khz", "--force"])
    assert "other codes" in str(run.exception)
    run = CliRunner().invoke(app, ["learn-entropy", "--model", str(folder)])
    assert "--data" in str(run.exception)


def test_only_an_entropy_model_of_the_source_itself_is_taken_over(learner, tmp_path):
    source, files = tmp_path / "source", ModelFolder.read(learner.folder)
    files.write(source)
    with pytest.raises(ModelError, match="no entropy model at"):
        take_over(source, learner.folder)
    own = (find(DEFAULT_MODEL) / FILE).read_bytes()
    fewer = {n: a if n in ("around", "model") else a[:-1] for n, a in load(own).items()}
    for stale in (load(own) | {"model": np.zeros(32, np.uint8)}, fewer):
        (source / FILE).write_bytes(save({n: np.ascontiguousarray(a) for n, a in stale.items()}))
        with pytest.raises(ModelError, match="is not of the model there: give --data"):
            take_over(source, learner.folder)
    (source / FILE).write_bytes(own[: len(own) // 2])
    with pytest.raises(ModelError, match="damaged"):
        take_over(source, learner.folder)
    assert not (learner.folder / FILE).exists()
    (source / FILE).write_bytes(own)
    assert take_over(source, learner.folder).read_bytes() == own


def test_an_entropy_model_of_another_model_is_left_out(learner):
    shutil.copy(find(DEFAULT_MODEL) / FILE, learner.folder / FILE)
    card = json.loads((learner.folder / "model.json").read_text())
    again = rvq.Codec.load(learner.folder)
    assert again.entropy is not None
    again = rvq.Codec.load(learner.folder)
    again.runtime.hash = card["hash"][::-1]
    assert again.entropy is None


def test_nothing_to_learn_from(learner, speech, tmp_path):
    with pytest.raises(InputError, match="no packed recordings"):
        learn_for(learner, [tmp_path])
    with pytest.raises(InputError, match="16000 Hz"):
        learn_for(learner, [pack(tmp_path / "data", speech, 16_000)])
    with pytest.raises(InputError, match="folder"):
        learn_for(rvq.Codec(learner.runtime), [tmp_path])
