"""The Transformer over codes, learned from a model's codes and used in `.ecdc` files."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

import rvq
from rvq.cli.app import app
from rvq.errors import InputError, ModelError
from rvq.interop.ecdc import EcdcFile, Segment, dumps, loads
from rvq.interop.encodec import read_language_model
from rvq.nn.code_transformer import CodeProbabilities, CodeTransformer, CodeTransformerConfig
from rvq.train.code_transformer import (
    LearningConfig,
    learn,
    learn_for,
    read_learning_config,
    write,
)
from rvq.train.codes import gather

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = {"dim": 32, "hidden": 64, "n_layers": 2, "n_heads": 4, "batch_size": 4}


def test_learned_from_a_model_and_used_in_files(packed, speech, tmp_path):
    codec = rvq.Codec.load()
    path = tmp_path / "lm.safetensors"
    config = LearningConfig(
        n_codebooks=4, crop_seconds=1, steps=30, warmup_steps=5, learning_rate=0.01, **SMALL
    )
    shares = []
    learned = learn_for(codec, [packed], path, config=config, minutes=0.3, progress=shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert learned.config.past_frames == 262  # 3.5 s
    codes = codec.encode(speech, 24_000, 3).indices[0, :100]
    model = read_language_model(path, codec_hash=codec.model_hash)
    assert model.config == learned.config
    for name, parameter in learned.named_parameters():
        assert torch.equal(parameter, model.get_parameter(name))
    bits = model.bits(torch.from_numpy(codes)[None])
    assert bits.shape == (1, 100, 4)
    assert float(bits.mean()) < 9.9  # 10 without
    file = EcdcFile("encodec_24khz", 32_000, (Segment(codes),))
    data = dumps(file, CodeProbabilities(model))
    payload = len(data) - data.index(b"}") - 1
    # As many bytes as the probabilities say; the format writes the last interval, of up to 25
    # bits, in full, and the last byte is begun.
    assert 0 <= payload - float(bits.sum()) / 8 < 25 / 8 + 1
    assert (loads(data, CodeProbabilities(model)).segments[0].codes == codes).all()
    with pytest.raises(ModelError, match="knows 4 codebooks, the codes use 5"):
        CodeProbabilities(model).probabilities(None, 5)
    with pytest.raises(ModelError, match="has learned the codes of model"):
        read_language_model(path, codec_hash="0" * 64)


def test_encodecs_own_program_takes_the_tensors(encodec, tmp_path):
    from encodec.model import LMModel

    torch.manual_seed(0)
    config = CodeTransformerConfig(n_codebooks=3, codebook_size=16, dim=32, hidden=128, n_layers=2)
    model = CodeTransformer(config).eval().requires_grad_(False)
    write(model, tmp_path / "lm.safetensors", codec_hash="0" * 64)
    theirs = LMModel(3, 16, 32, num_layers=2, past_context=262).eval().requires_grad_(False)
    theirs.load_state_dict(load_file(tmp_path / "lm.safetensors"))
    codes = torch.randint(16, (1, 1, 3))
    expected, _, _ = theirs(1 + codes.transpose(1, 2), None, 0)
    assert torch.equal(model(codes, model.start())[0].softmax(1), expected)


def test_every_bitrate_is_learned():
    # A code equals that of the frame before, plus one: easy at any number of codebooks.
    rng = np.random.default_rng(0)
    codes = (np.arange(20)[None, :, None] + rng.integers(8, size=(64, 1, 4))) % 8
    config = LearningConfig(steps=120, warmup_steps=10, learning_rate=0.01, **SMALL)
    model = learn(codes, config, codebook_size=8, frame_rate=20)
    assert not model.training
    assert model.config.past_frames == 70
    for n in (2, 4):
        bits = model.bits(torch.from_numpy(codes[:8, :, :n]))
        assert bits[:, 1:].mean() < 1.5  # 3 without, and of the first frame
        assert bits[:, 0].mean() > 2.5
    again = learn(codes, config, codebook_size=8, frame_rate=20)
    assert all(
        torch.equal(p, q) for p, q in zip(model.parameters(), again.parameters(), strict=True)
    )
    with pytest.raises(InputError, match="n_codebooks is 5, the codes have 4"):
        learn(codes, LearningConfig(n_codebooks=5), codebook_size=8, frame_rate=20)


def test_codes_are_gathered_as_files_have_them(packed):
    codec = rvq.Codec.load()
    codes = gather(codec, [packed], 0.1, n_frames=50)
    audio = np.load(sorted((packed / "train").glob("*.npy"))[0]).astype(np.float32)[None] / 32768
    expected = codec.encode(audio, 24_000).indices[0, :50]
    np.testing.assert_array_equal(codes[0], expected)
    assert codes.shape[1:] == (50, len(codec.runtime.codebooks))


def test_configurations_are_checked(tmp_path):
    path = tmp_path / "lm.yaml"
    path.write_text("")
    assert read_learning_config(path) == LearningConfig()
    path.write_text("{steps: 5, past_seconds: 2}")
    assert read_learning_config(path) == LearningConfig(steps=5, past_seconds=2)
    for text, message in (
        ("stepz: 5", "stepz"),
        ("steps: 0", "steps: input should be greater than 0"),
        ("crop_seconds: 11", "crop_seconds"),
        ("[1]", "the file"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            read_learning_config(path)


def test_the_command_line_refuses_before_any_work(tmp_path):
    there = tmp_path / "there.safetensors"
    there.write_bytes(b"")
    for target, message in ((tmp_path / "lm.th", r"\.safetensors"), (there, "--force")):
        result = CliRunner().invoke(app, ["learn-transformer", str(target), "--data", "."])
        with pytest.raises(InputError, match=message):
            raise result.exception
