import numpy as np
import pytest
from bitstream_samples import random_codes, tensors
from safetensors.numpy import save

import rvq
from rvq.bitstream import coder
from rvq.bitstream.container import dumps, loads
from rvq.bitstream.entropy import EntropyModel
from rvq.errors import ModelError


def test_the_shipped_entropy_model_belongs_to_the_shipped_model(codec):
    """If the model was replaced: rvq learn-entropy speech_24khz --data data"""
    assert codec.entropy is not None


def test_real_speech_gets_smaller_and_comes_back(codec, speech):
    for bitrate, most in ((1.5, 0.85), (3, 0.88), (6, 0.91)):
        codes = codec.encode(speech, 24_000, bitrate)
        data = dumps(codes, entropy=codec.entropy)
        assert len(data) < most * len(dumps(codes))
        np.testing.assert_array_equal(loads(data, entropy=codec.entropy).indices, codes.indices)


def test_without_the_c_coder_the_bytes_are_the_same(codec, speech, monkeypatch):
    codes = codec.encode(speech[:, :40_000], 24_000, 3)
    data = dumps(codes, entropy=codec.entropy)
    monkeypatch.setattr(coder, "_native", None)
    assert dumps(codes, entropy=codec.entropy) == data
    np.testing.assert_array_equal(loads(data, entropy=codec.entropy).indices, codes.indices)


def test_silence_is_nearly_free(codec):
    codes = codec.encode(np.zeros((1, 240_000), np.float32), 24_000, 6)
    assert len(dumps(codes, entropy=codec.entropy)) < 0.1 * len(dumps(codes))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("features", lambda x: x[:, :-1]),
        ("weights", lambda x: x.astype(np.int16)),
        ("bias", lambda x: x[0]),
        ("shift", lambda x: x + 30),
        ("precision", lambda x: x - 15),
        ("around", lambda x: x + 2**30),
        ("lower", lambda x: np.full_like(x, 2**15 - 1)),
        ("bias", lambda x: np.full_like(x, 2**30)),
    ],
)
def test_damaged_models_are_refused(name, change):
    arrays = tensors(hidden=64, features=127) if name == "lower" else tensors()
    arrays[name] = np.ascontiguousarray(change(arrays[name]))
    if name == "lower":
        arrays["lower"] = np.repeat(arrays["lower"], 50, axis=1)
        arrays["around"] = np.zeros(150, np.int32)
    with pytest.raises(ModelError, match="damaged"):
        EntropyModel(save(arrays))


def test_empty_models_are_refused():
    for axis in ({"n_codebooks": 0}, {"size": 0}, {"features": 0}, {"hidden": 0}):
        with pytest.raises(ModelError, match="damaged"):
            EntropyModel(save(tensors(**axis)))


def test_no_model_at_all():
    with pytest.raises(ModelError, match="damaged"):
        EntropyModel(b"not safetensors")
    missing = tensors()
    del missing["own"]
    with pytest.raises(ModelError, match="own"):
        EntropyModel(save(missing))


def test_a_layer_does_not_depend_on_those_above(small_model):
    codes = random_codes(2, 30, 3, 3).indices
    whole = small_model.encode(codes, variable=False)
    other = codes.copy()
    other[..., 2] = 0
    assert small_model.encode(other, variable=False)[:2] == whole[:2]
    assert small_model.encode(codes[..., :1], variable=False) == whole[:1]


def test_a_codec_without_an_entropy_model_packs(codec, speech):
    plain = rvq.Codec(codec.runtime)
    data = plain.compress(speech, 24_000, 3)
    assert len(data) > len(codec.compress(speech, 24_000, 3))
    np.testing.assert_array_equal(codec.decompress(data), plain.decompress(data))
