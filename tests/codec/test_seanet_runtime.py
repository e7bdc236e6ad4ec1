"""The compiled SEANets: equal to torch's and ONNX Runtime's, and to themselves in any pieces."""

import copy
import json

import numpy as np
import pytest

from rvq.codec import seanet
from rvq.codec.runtime import load_runtime
from rvq.codec.seanet import SeanetRuntime, kernels
from rvq.codec.waveform import WaveformRuntime
from rvq.model_folder import ModelFolder

pytestmark = pytest.mark.skipif(not kernels(), reason="nothing was compiled")
HOP, DIM = 64, 32
VARIANTS = {
    "encodec": {"lstm_layers": 2},
    "soundstream": {
        "encoder_kernels": (7, 3),
        "compress": 1,
        "convolved_skip": False,
        "lstm_layers": 0,
        "norm": "none",
        "padding": "zeros",
    },
    "replicate": {"lstm_layers": 1, "padding": "replicate", "dilations": (1, 1)},
}


def build(name, folder, half_weights=False, **fields):
    torch = pytest.importorskip("torch")
    from rvq.nn.export import export
    from rvq.nn.model import CodecConfig, CodecModel
    from rvq.nn.quantizer import QuantizerConfig
    from rvq.nn.seanet import SEANetConfig

    torch.manual_seed(0)
    network = SEANetConfig(strides=(2, 4, 8), dim=DIM, **(VARIANTS[name] | fields))
    model = CodecModel(CodecConfig(network, QuantizerConfig(2, 16, DIM)))
    model.start_from(torch.randn(2, 6_400) * 0.1)  # layers whose outputs vary
    model.quantizer.set_codebooks(torch.randn(2, 16, DIM))
    model.eval().requires_grad_(False)
    export(model, folder, name=name, facts={}, half_weights=half_weights)
    return model


@pytest.fixture(scope="module", params=VARIANTS)
def pair(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return build(request.param, folder), folder


@pytest.fixture(scope="module")
def samples(speech):
    return np.ascontiguousarray(speech[:, 8_000 : 8_000 + 60 * HOP])


def compiled(folder, **options):
    return SeanetRuntime(ModelFolder.read(folder), **options)


def run(runtime, part, x, step):
    """`x` in pieces of `step` columns, and what is remembered in the end."""
    state = runtime.start(part, len(x))
    call = runtime.encode if part == "encoder" else runtime.decode
    parts = [call(x[:, i : i + step], state) for i in range(0, x.shape[1], step)]
    return np.concatenate(parts, axis=1), state.network


def assert_close(actual, expected, share):
    """Within a share of the greatest magnitude that is expected."""
    np.testing.assert_allclose(actual, expected, rtol=0, atol=share * np.abs(expected).max())


@pytest.mark.parametrize("n_samples", [1, 63, 65, 6 * HOP, 6 * HOP + 3, 24 * HOP, 60 * HOP - 7])
def test_agrees_with_torch_and_onnx_runtime(pair, samples, n_samples):
    """With torch in float64, which all but lacks rounding of its own: it bounds ours alone."""
    import torch

    model, folder = pair
    exact = copy.deepcopy(model).double()
    ours, theirs = compiled(folder), WaveformRuntime(ModelFolder.read(folder))
    audio = samples[:, :n_samples]
    latents, state = run(ours, "encoder", audio, n_samples)
    sound, after = run(ours, "decoder", latents, latents.shape[1])
    with torch.no_grad():
        expected = exact.encode(torch.from_numpy(audio).double()).numpy()
        heard = exact.decode(torch.from_numpy(latents).double(), sound.shape[1]).numpy()
    assert expected.std() > 0.1
    assert_close(latents, expected, 3e-6)
    assert_close(sound, heard, 3e-6)
    # ONNX Runtime rounds by itself, on every processor in another way.
    expected, remembered = run(theirs, "encoder", audio, n_samples)
    assert_close(latents, expected, 6e-6)
    assert_close(state, remembered, 1e-5)
    expected, remembered = run(theirs, "decoder", latents, latents.shape[1])
    assert_close(sound, expected, 6e-6)
    assert_close(after, remembered, 1e-5)


@pytest.mark.parametrize("kernel", kernels())
def test_pieces_and_kernels_agree_to_the_bit(pair, samples, kernel):
    _, folder = pair
    first, this = compiled(folder), compiled(folder, kernel=kernel)
    frames = first.first_frames
    latents, state = run(first, "encoder", samples, samples.shape[1])
    sound, after = run(first, "decoder", latents, latents.shape[1])
    for step in {frames, max(frames, 7), 25}:
        pieces, end = run(this, "encoder", samples, step * HOP)
        np.testing.assert_array_equal(pieces, latents)
        np.testing.assert_array_equal(end, state)
        pieces, end = run(this, "decoder", latents, step)
        np.testing.assert_array_equal(pieces, sound)
        np.testing.assert_array_equal(end, after)


def test_single_frames_agree_to_the_bit(pair, samples):
    """After a first call that is long enough."""
    _, folder = pair
    runtime = compiled(folder)
    expected, _ = run(runtime, "encoder", samples, samples.shape[1])
    state, first = runtime.start("encoder", 1), runtime.first_frames * HOP
    parts = [runtime.encode(samples[:, :first], state)]
    for at in range(first, samples.shape[1], HOP):
        parts.append(runtime.encode(samples[:, at : at + HOP], state))
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), expected)


def test_channels_share_threads(pair, samples):
    _, folder = pair
    audio = samples * np.array([[1], [0.5], [-0.2]], np.float32)
    latents, _ = run(compiled(folder, threads=2), "encoder", audio, audio.shape[1])
    for channel in range(3):
        alone, _ = run(compiled(folder), "encoder", audio[channel : channel + 1], audio.shape[1])
        np.testing.assert_array_equal(latents[channel], alone[0])


def test_half_precision_weights_are_the_same(samples, tmp_path):
    build("encodec", tmp_path, half_weights=True)
    ours, theirs = load_runtime(tmp_path), WaveformRuntime(ModelFolder.read(tmp_path))
    assert isinstance(ours, SeanetRuntime)
    latents, _ = run(ours, "encoder", samples, samples.shape[1])
    expected, _ = run(theirs, "encoder", samples, samples.shape[1])
    assert_close(latents, expected, 6e-6)


@pytest.mark.parametrize(
    ("field", "value"), [("dilations", [1, 3]), ("norm", "layer_norm"), ("width", 24)]
)
def test_other_shapes_are_left_to_onnx_runtime(pair, tmp_path, field, value):
    _, folder = pair
    model = ModelFolder.read(folder)
    assert isinstance(seanet.load_waveform(model), SeanetRuntime)
    card = json.loads(json.dumps(model.card))
    card["model"]["network"][field] = value
    assert isinstance(seanet.load_waveform(ModelFolder(card, model.files)), WaveformRuntime)


def test_damaged_weights_and_sizes_are_refused(pair):
    _, folder = pair
    runtime = compiled(folder)
    tensors = (np.zeros((32, 7), np.float32), np.zeros(32, np.float32))
    layer = (0, 1, 0, 0, 1, 1, 32, 7, 1, 1)
    number = next(iter(kernels().values()))
    network = seanet._native.load(number, HOP, 1, (layer,), tensors)
    with pytest.raises(ValueError, match="tensor 0 holds 4 bytes, not 896"):
        seanet._native.load(number, HOP, 1, (layer,), (np.zeros(1, np.float32), tensors[1]))
    for at, value in ((0, 3), (1, 0), (4, 3), (6, 31), (7, 0), (8, 0), (9, 0)):
        fields = (*layer[:at], value, *layer[at + 1 :])
        with pytest.raises(ValueError, match="shape"):
            seanet._native.load(number, HOP, 1, (fields,), tensors)
    audio, state = np.zeros(HOP, np.float32), np.zeros(7, np.float32)
    seanet._native.run(network, HOP, audio, state, np.zeros((HOP, 32), np.float32))
    for n, memory, out in ((HOP, state[1:], HOP), (HOP, state, HOP - 1), (0, state, 0)):
        with pytest.raises(ValueError, match="size"):
            seanet._native.run(network, n, audio, memory, np.zeros((out, 32), np.float32))
    assert runtime.encode(np.zeros((1, 0), np.float32), runtime.start("encoder", 1)).shape[1] == 0
