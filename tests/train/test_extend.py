import json

import numpy as np
import pytest
from typer.testing import CliRunner

from rvq.cli.app import app
from rvq.codec.codec import Codec
from rvq.codec.models import DEFAULT_MODEL, find
from rvq.errors import InputError
from rvq.model_folder import ModelFolder
from rvq.quantize.search import decode
from rvq.train import extend
from rvq.train.extend import learn_codebooks


@pytest.fixture
def few_vectors(monkeypatch):
    monkeypatch.setattr(extend, "VECTORS_PER_CODEWORD", 5)


def test_more_codebooks_bring_latents_nearer_and_keep_the_rest(
    codec, packed, few_vectors, tmp_path, speech
):
    more = learn_codebooks(codec, [packed], 2)
    assert more.shape == (2, codec.codebook_size, codec.runtime.codebooks.shape[2])
    speech = speech[:, : 200 * codec.runtime.hop_length]
    source = ModelFolder.read(find(DEFAULT_MODEL))
    source.extended(more).write(tmp_path)
    extended = Codec.load(tmp_path)
    n = len(codec.runtime.codebooks)
    assert len(extended.runtime.codebooks) == n + 2
    assert extended.model_hash != codec.model_hash
    assert json.loads((tmp_path / "model.json").read_text())["extended_from"] == codec.model_hash
    before = codec.encode(speech, 24_000)
    after = extended.encode(speech, 24_000)
    kept = n // 8 * 8  # codebooks are searched in groups of eight
    np.testing.assert_array_equal(after.indices[..., :kept], before.indices[..., :kept])
    latents = codec.runtime.encode_whole(speech)[0]
    codes = after.indices[0, : len(latents)]
    sums = [decode(codes[:, :k], extended.runtime.codebooks) for k in (n, n + 1, n + 2)]
    errors = [np.square(latents - decoded).sum() for decoded in sums]
    assert errors[2] < errors[1] < errors[0]


def test_models_whose_card_does_not_say_their_shape_can_be_extended():
    source = ModelFolder.read(find(DEFAULT_MODEL))
    card = {name: fact for name, fact in source.card.items() if name != "model"}  # as of Mimi
    extended = ModelFolder.of(source.files, card).extended(np.zeros((2, 1024, 128), np.float32))
    assert extended.card["n_codebooks"] == source.card["n_codebooks"] + 2
    assert "model" not in extended.card


def test_what_cannot_be_extended(codec, packed):
    with pytest.raises(InputError, match="codebooks already"):
        learn_codebooks(codec, [packed], 0)


def test_command(packed, few_vectors, tmp_path):
    arguments = ["extend", DEFAULT_MODEL, str(tmp_path / "made"), "--data", str(packed)]
    run = CliRunner().invoke(app, [*arguments, "--codebooks", "19"])
    assert run.exit_code == 0, run.output
    assert len(Codec.load(tmp_path / "made").runtime.codebooks) == 19
