"""The compiled networks: equal to torch's and ONNX Runtime's, and to themselves in any pieces."""

import numpy as np
import pytest

from rvq.codec import engine, spectral
from rvq.codec.engine import Engine, kernels
from rvq.codec.models import DEFAULT_MODEL, find
from rvq.codec.spectral import SpectralRuntime, load_spectral
from rvq.codec.spectral_onnx import SpectralOnnxRuntime
from rvq.errors import ModelError
from rvq.model_folder import ModelFolder
from rvq.onnx_weights import read_weights

needs_compiler = pytest.mark.skipif(not kernels(), reason="nothing was compiled")


@pytest.fixture(scope="module")
def folder():
    return ModelFolder.read(find(DEFAULT_MODEL))


@pytest.fixture(scope="module")
def weights(folder):
    return {part: read_weights(folder.files[f"{part}.onnx"]) for part in ("encoder", "decoder")}


@pytest.fixture(scope="module")
def runtime_of(folder, weights):
    def make(kernel=None, threads=1):
        shape = folder.card["model"]["network"]
        engines = {part: Engine(part, shape, weights[part], kernel) for part in weights}
        return SpectralRuntime(folder, engines, threads=threads)

    return make


@pytest.fixture(scope="module")
def hops(speech):
    return np.ascontiguousarray(speech[:, 8_000 : 8_000 + 150 * 320])


def run(runtime, part, x, step, size):
    """`x` in pieces of `step` frames of `size` columns, and what is remembered in the end."""
    state = runtime.start(part, len(x))
    call = runtime.encode if part == "encoder" else runtime.decode
    starts = range(0, x.shape[1], step * size)
    parts = [call(x[:, i : i + step * size], state) for i in starts]
    return np.concatenate(parts, axis=1), state


@needs_compiler
def test_agrees_with_torch_and_onnx_runtime(folder, runtime_of, hops):
    torch = pytest.importorskip("torch")
    export = pytest.importorskip("rvq.nn.export")
    # In float64, which all but lacks rounding of its own: what differs is ours.
    model = export.read_exported(find(DEFAULT_MODEL)).eval().double()
    compiled, onnx = runtime_of(), SpectralOnnxRuntime(folder)
    latents, state = run(compiled, "encoder", hops, 150, 320)
    audio, after = run(compiled, "decoder", latents, 150, 1)
    with torch.no_grad():
        expected = model.encode(torch.from_numpy(hops).double())[:, :150].numpy()
        coefficients, _ = model.decoder(
            torch.from_numpy(latents).double(), torch.zeros(1, model.decoder.state_size).double()
        )
        sound = model.transform.synthesise(coefficients.double()).numpy()
    # Roundings of float32 are relative to the largest numbers on the way, not to each latent.
    close = 3e-6 * np.abs(expected).max()
    np.testing.assert_allclose(latents, expected, rtol=0, atol=close)
    np.testing.assert_allclose(audio, sound, rtol=0, atol=1e-5 * np.abs(sound).max())
    same, same_state = run(onnx, "encoder", hops, 150, 320)
    # ONNX Runtime rounds by itself, on every processor in another way.
    np.testing.assert_allclose(latents, same, rtol=0, atol=2 * close)
    np.testing.assert_allclose(state.network, same_state.network, atol=1e-4)
    np.testing.assert_array_equal(state.samples, same_state.samples)
    same, same_state = run(onnx, "decoder", latents, 150, 1)
    np.testing.assert_allclose(audio, same, rtol=0, atol=1e-5)
    np.testing.assert_allclose(after.network, same_state.network, atol=1e-4)
    np.testing.assert_allclose(after.samples, same_state.samples, atol=1e-5)


@pytest.mark.parametrize("kernel", kernels())
def test_pieces_and_kernels_agree_to_the_bit(runtime_of, hops, kernel):
    n, steps = (150, (1, 2, 3, 7, 75)) if kernel != "portable" else (30, (1, 7))
    first = runtime_of()
    latents, state = run(first, "encoder", hops[:, : n * 320], n, 320)
    audio, after = run(first, "decoder", latents, n, 1)
    assert np.abs(latents).max() > 1
    assert np.abs(audio).max() > 0.01
    this = runtime_of(kernel)
    for step in steps:
        pieces, end = run(this, "encoder", hops[:, : n * 320], step, 320)
        np.testing.assert_array_equal(pieces, latents)
        np.testing.assert_array_equal(end.network, state.network)
        pieces, end = run(this, "decoder", latents, step, 1)
        np.testing.assert_array_equal(pieces, audio)
        np.testing.assert_array_equal(end.network, after.network)
        np.testing.assert_array_equal(end.samples, after.samples)


@needs_compiler
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_threads_agree_to_the_bit(runtime_of, hops, channels):
    audio = np.tile(hops, (channels, 5)) * np.linspace(0.5, 1, channels, dtype=np.float32)[:, None]
    one, two = runtime_of(), runtime_of(threads=2)
    for step in (750, 600):
        expected, before = run(one, "encoder", audio, step, 320)
        found, after = run(two, "encoder", audio, step, 320)
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(after.network, before.network)
        expected, before = run(one, "decoder", found, step, 1)
        sound, after = run(two, "decoder", found, step, 1)
        np.testing.assert_array_equal(sound, expected)
        np.testing.assert_array_equal(after.network, before.network)
        np.testing.assert_array_equal(after.samples, before.samples)


@needs_compiler
def test_loud_silent_and_tiny_sounds_stay_finite(runtime_of):
    runtime = runtime_of()
    random = np.random.default_rng(0)
    for scale in (0, 1e-30, 1e-6, 1, 1e4):
        noise = (scale * random.standard_normal((1, 6_400))).astype(np.float32)
        latents = runtime.encode(noise, runtime.start("encoder", 1))
        assert np.isfinite(latents).all()
        assert np.isfinite(runtime.decode(latents, runtime.start("decoder", 1))).all()


def test_without_a_compiler_onnx_runtime_does_it(folder, speech, codec, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(engine, "_native", None)
        engine.kernels.cache_clear()
        runtime = load_spectral(folder)
    engine.kernels.cache_clear()
    assert isinstance(runtime, SpectralOnnxRuntime)
    latents = runtime.encode(speech[:, :9_600], runtime.start("encoder", 1))
    same = codec.runtime.encode(speech[:, :9_600], codec.runtime.start("encoder", 1))
    np.testing.assert_allclose(latents, same, rtol=0, atol=6e-6 * np.abs(same).max())


def test_networks_with_unknown_parts_are_left_to_onnx_runtime(folder, weights, monkeypatch):
    more = {part: {**w, "gate.weight": np.zeros(4, np.float32)} for part, w in weights.items()}
    monkeypatch.setattr(spectral, "read_weights", lambda data: more["encoder"])
    assert isinstance(load_spectral(folder), SpectralOnnxRuntime)


def test_weights_are_those_of_the_onnx_package(folder, weights):
    onnx = pytest.importorskip("onnx")
    for part, found in weights.items():
        network = onnx.load_from_string(folder.files[f"{part}.onnx"])
        expected = {
            tensor.name.removesuffix("_half"): onnx.numpy_helper.to_array(tensor)
            for tensor in network.graph.initializer
            if tensor.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
        }
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value)


def test_what_is_no_network(folder):
    data = folder.files["encoder.onnx"]
    for damaged in (b"\x3a\x05ab", data[: len(data) // 2], b"\xff" * 20, b"\x0f"):
        with pytest.raises(ModelError):
            read_weights(damaged)
    with pytest.raises(ModelError, match="64 bits"):  # a longer one would take long to read
        read_weights(b"\xff" * 100)


@needs_compiler
def test_wrong_sizes_are_refused(folder, weights, runtime_of):
    shape = folder.card["model"]["network"]
    bad = {**weights["encoder"], "embed.bias": np.zeros(7, np.float32)}
    with pytest.raises(ValueError, match="28 bytes"):
        Engine("encoder", shape, bad)
    with pytest.raises(ValueError, match="shape"):
        Engine("encoder", shape | {"hop_length": 321}, weights["encoder"])
    encoder, zeros = Engine("encoder", shape, weights["encoder"]), np.zeros(10, np.float32)
    with pytest.raises(ValueError, match="size"):
        encoder.run(1, zeros, zeros, zeros, zeros)
