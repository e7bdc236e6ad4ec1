"""The start of a SEANet: signals neither fade nor drown in biases."""

import pytest
import torch

from rvq.nn.convolution import CausalConv, CausalTransposedConv
from rvq.nn.model import CodecConfig, CodecModel
from rvq.nn.quantizer import QuantizerConfig
from rvq.nn.seanet import SEANetConfig
from rvq.nn.unit_variance import Convolutional, scale


def outputs(model, audio):
    """What every convolution makes of audio, by name."""
    found = {}
    hooks = [
        module.register_forward_hook(lambda _, __, output, name=name: found.update({name: output}))
        for name, module in model.named_modules()
        if isinstance(module, Convolutional)
    ]
    with torch.no_grad():
        model.decode(model.encode(audio), audio.shape[1])
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize("norm", ["weight_norm", "none"])
def test_every_layer_passes_the_signal_on(speech, norm):
    torch.manual_seed(0)
    network = SEANetConfig(width=4, strides=(2, 4, 5, 8), dim=8, norm=norm)
    model = CodecModel(CodecConfig(network, QuantizerConfig(dim=8)))
    audio = torch.from_numpy(speech[0, : 4 * 16_000]).view(4, 16_000)
    before = outputs(model, audio)
    assert before["encoder.chain.layers.15.body.conv"].var((0, 2)).mean() < 0.001
    model.start_from(audio)
    after = outputs(model, audio)
    assert after.keys() == before.keys()
    *inner, last = after
    assert last == "decoder.chain.layers.15.body.conv"
    for name in inner:
        assert after[name].mean((0, 2)).abs().max() < 0.02, name
        assert after[name].var((0, 2)).mean() == pytest.approx(1, abs=0.01), name
    assert after[last].std() == pytest.approx(float(audio.std()), rel=0.02)
    # Other latents make other sounds, and not the same one with a little noise.
    with torch.no_grad():
        latents = model.encode(audio)
        one, other = (model.decode(x, 16_000) for x in (latents, latents.flip(0)))
    assert (one - other).std() > 0.5 * one.std()


@pytest.fixture
def astray(speech):
    """A small SEANet whose latents have another mean than zero, and audio."""
    torch.manual_seed(0)
    network = SEANetConfig(width=4, strides=(2, 4, 5, 8), dim=8)
    quantizer = QuantizerConfig(n_codebooks=2, codebook_size=16, dim=8)
    model = CodecModel(CodecConfig(network, quantizer)).requires_grad_(False)
    audio = torch.from_numpy(speech[0, : 4 * 16_000]).view(4, 16_000)
    model.start_from(audio)
    model.encoder.chain.layers[-1].body.conv.bias += torch.linspace(-3, 3, 8)
    return model, audio


def test_no_step_moves_the_mean_of_latents(astray):
    model, audio = astray
    model.train().requires_grad_(True)
    output, _ = model(audio)  # while codebooks are warming up, latents pass through unquantized
    output.square().sum().backward()
    last = model.encoder.chain.layers[-1].body.conv
    assert last.weight.norm() > 0.1
    moved, turned = last.bias.grad.norm(), last.parametrizations.weight.original0.grad.norm()
    assert moved < 1e-3 * turned
    model.requires_grad_(False)
    for _ in range(80):
        model(audio)
    latents = model.eval().encode(audio)
    assert latents.mean((0, 1)).abs().max() < 0.01
    assert latents.std() > 0.5
    torch.testing.assert_close(model.decode(latents, 16_000), output, atol=1e-2, rtol=0)


def test_centring_a_trained_model_changes_no_code(astray):
    model, audio = astray
    model.quantizer.set_codebooks(model.encode(audio)[0, :32].reshape(2, 16, 8))
    model.eval()
    before = model.quantizer(model.encode(audio))
    expected, _ = model(audio)
    model.centre(audio)
    latents = model.encode(audio)
    assert latents.mean((0, 1)).abs().max() < 1e-5
    assert (model.quantizer(latents).codes == before.codes).float().mean() > 0.99  # near ties
    output = model.decode(model.quantizer.decode(before.codes), 16_000)
    torch.testing.assert_close(output, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("norm", ["weight_norm", "none"])
@pytest.mark.parametrize("kind", [CausalConv, CausalTransposedConv])
def test_scaling_multiplies_the_output(kind, norm):
    torch.manual_seed(0)
    settings = {"stride": 2} if kind is CausalTransposedConv else {"kernel_size": 3}
    convolution = kind(4, 6, norm=norm, **settings).body.requires_grad_(False)
    x = torch.randn(2, 4, 9)
    expected = convolution(x) * 3
    scale(convolution.conv, 3)
    torch.testing.assert_close(convolution(x), expected)
