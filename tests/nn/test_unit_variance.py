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
