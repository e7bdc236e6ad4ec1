"""Encoder and decoder: streaming, causality, alignment."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rvq.errors import InputError
from rvq.nn.model import CONFIGS, CodecConfig, CodecModel
from rvq.nn.quantizer import QuantizerConfig
from rvq.nn.spectral import (
    CausalDepthwise,
    LappedTransform,
    SpectralConfig,
    _ShiftedProducts,
    compand,
)

SMALL = SpectralConfig(width=24, hidden=48, encoder_blocks=2, decoder_blocks=3, dim=8)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = CodecConfig(SMALL, QuantizerConfig(n_codebooks=2, codebook_size=16, dim=8))
    return CodecModel(config).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def clip(speech):
    return torch.from_numpy(speech[:, :24_000])


def in_pieces(network, inputs, sizes):
    """Run a network on frames cut into pieces, with its state carried from one to the next."""
    state, outputs, start = torch.zeros(len(inputs[0]), network.state_size), [], 0
    for size in [*sizes, inputs[0].shape[1]]:
        if start >= inputs[0].shape[1]:
            break
        output, state = network(*(x[:, start : start + size] for x in inputs), state)
        outputs.append(output)
        start += size
    return torch.cat(outputs, dim=1)


@settings(max_examples=15, deadline=None)
@given(sizes=st.lists(st.integers(1, 40), max_size=20))
def test_streaming_equals_offline(model, clip, sizes):
    transforms = model.transform.analyse(clip)
    whole = in_pieces(model.encoder, transforms, [])
    torch.testing.assert_close(in_pieces(model.encoder, transforms, sizes), whole)
    torch.testing.assert_close(
        in_pieces(model.decoder, (whole,), sizes), in_pieces(model.decoder, (whole,), [])
    )


@pytest.mark.parametrize("lookahead", [0, 1])
def test_blocks_may_remember_nothing(clip, lookahead):
    network = replace(SMALL, kernel_size=1, lookahead=lookahead)
    model = CodecModel(CodecConfig(network, QuantizerConfig(2, 16, dim=8))).eval()
    assert model.encoder.state_size == 0
    with torch.no_grad():
        coefficients = model.transform.analyse(clip)
        whole = in_pieces(model.encoder, coefficients, [])
        torch.testing.assert_close(in_pieces(model.encoder, coefficients, [3, 5]), whole)
        torch.testing.assert_close(
            in_pieces(model.decoder, (whole,), [3, 5]), in_pieces(model.decoder, (whole,), [])
        )
    model.train()(clip)[0].square().mean().backward()
    assert model.encoder.stack.blocks[0].depthwise.weight.grad.any()


def test_depthwise_is_the_same_in_training_and_evaluation():
    torch.manual_seed(0)
    layer = CausalDepthwise(6, 5).double()
    x, past = torch.randn(2, 9, 6).double(), torch.randn(2, 4, 6).double()
    trained, evaluated = layer.train()(x, past), layer.eval()(x, past)
    torch.testing.assert_close(trained, evaluated)
    torch.testing.assert_close(trained[1], x[:, -4:])
    weight = torch.randn(2, 9, 6).double()
    gradients = []
    for training in (True, False):
        y, _ = layer.train(training)(x.requires_grad_(), past.requires_grad_())
        gradients.append(torch.autograd.grad((y * weight).sum(), [x, past, *layer.parameters()]))
    torch.testing.assert_close(*gradients)


def test_gradient_of_shifted_products():
    torch.manual_seed(0)
    x = torch.randn(2, 7, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(_ShiftedProducts.apply, (x, weight))


@pytest.mark.parametrize("hop_length", [8, 320])
def test_transform_reconstructs_after_one_hop(clip, hop_length):
    transform = LappedTransform(SpectralConfig(hop_length=hop_length, dim=8))
    cosine, _ = transform.analyse(torch.nn.functional.pad(clip, (0, hop_length)))
    back = transform.synthesise(cosine)[:, hop_length:]
    torch.testing.assert_close(back, clip, atol=1e-5, rtol=0)


def test_transform_keeps_energy_and_its_quadrature_shows_magnitudes():
    transform = LappedTransform(SpectralConfig())
    tone = 0.5 * torch.sin(torch.arange(24_000) * (2 * np.pi * 1000 / 24_000))[None]
    cosine, sine = transform.analyse(tone)
    energy = cosine[:, 1:-1].square().sum() / (tone[:, 320:-320].square().sum())
    assert abs(float(energy) - 1) < 0.02
    # Coefficients alone waver with the phase of a steady tone, magnitudes do not.
    magnitude = (cosine.square() + sine.square()).sqrt()[0, 2:-2, 26]
    assert magnitude.std() < 0.01 * magnitude.mean()
    assert cosine[0, 2:-2, 26].std() > 0.3 * magnitude.mean()


@pytest.mark.parametrize("exponent", [0.3, 0.6, 1.0])
def test_companding_is_undone_by_its_inverse(exponent):
    x = torch.linspace(-2, 2, 401)
    back = compand(compand(x, exponent), 1 / exponent)
    torch.testing.assert_close(back, x, atol=2e-3, rtol=0.01)


def test_the_linear_start_is_already_a_codec(speech):
    torch.manual_seed(0)
    config = SpectralConfig(width=24, hidden=48, encoder_blocks=1, decoder_blocks=1)
    model = CodecModel(CodecConfig(config, QuantizerConfig(n_codebooks=1, codebook_size=16)))
    audio = torch.from_numpy(speech)
    model.start_from(audio)
    with torch.no_grad():
        latents = model.encode(audio)
        assert 0.3 < float(latents.std()) < 3
        model.encoder.project.weight.zero_()  # the linear paths alone
        model.decoder.head.weight.zero_()
        error = (model.decode(model.encode(audio), audio.shape[1]) - audio).square().sum()
    assert float(error / audio.square().sum()) < 0.03


@pytest.mark.parametrize("lookahead", [0, 1, 2])
@pytest.mark.parametrize("at", [0, 300, 320, 10_000])
def test_latency_is_what_the_configuration_says(clip, at, lookahead):
    torch.manual_seed(0)
    config = SpectralConfig(
        width=24, hidden=48, encoder_blocks=2, decoder_blocks=3, dim=8, lookahead=lookahead
    )
    model = CodecModel(CodecConfig(config, QuantizerConfig(n_codebooks=1, dim=8)))
    model = model.eval().requires_grad_(False)
    hop = config.hop_length
    changed = clip.clone()
    changed[:, at:] += 0.1
    before, after = model.encode(clip), model.encode(changed)
    first = int((before != after).any(dim=2).nonzero()[0, 1])
    assert first == at // hop
    latents = before.clone()
    latents[:, first:] += 1
    sounds = model.decode(before, clip.shape[1]), model.decode(latents, clip.shape[1])
    heard = int((sounds[0] != sounds[1]).nonzero()[0, 1])
    # Frame t is known with sample (t + 1) * hop and needed from here on.
    assert (first + 1) * hop - heard <= round(config.latency * config.sample_rate)


def test_latency_of_the_default_model():
    assert CONFIGS["spectral_24khz"].network.latency == pytest.approx(0.040)


@settings(max_examples=15, deadline=None)
@given(n_samples=st.integers(1, 2_000), batch=st.integers(1, 3))
def test_any_length_comes_back_at_that_length(model, n_samples, batch):
    audio = torch.from_numpy(np.zeros((batch, n_samples), np.float32))
    latents = model.encode(audio)
    assert latents.shape == (batch, -(-n_samples // 320) + 2, 8)
    assert model.decode(latents, n_samples).shape == (batch, n_samples)


@settings(max_examples=15, deadline=None)
@given(n_samples=st.integers(1, 5_000), lookahead=st.integers(0, 2))
def test_decoded_audio_is_aligned_with_what_was_encoded(clip, n_samples, lookahead):
    config = SpectralConfig(
        width=4,
        hidden=4,
        encoder_blocks=1,
        decoder_blocks=1,
        dim=320,
        companding=1.0,
        lookahead=lookahead,
    )
    model = CodecModel(CodecConfig(config, QuantizerConfig(n_codebooks=1, dim=320)))
    with torch.no_grad():  # nothing but identical linear paths
        for part in (model.encoder, model.decoder):
            part.linear.weight.copy_(torch.eye(320))
        model.encoder.project.weight.zero_()
        model.decoder.head.weight.zero_()
        audio = clip[:, 12_000 : 12_000 + n_samples]
        decoded = model.decode(model.encode(audio), n_samples)
    torch.testing.assert_close(decoded, audio, atol=1e-5, rtol=0)


def test_more_latents_than_coefficients_are_refused():
    with pytest.raises(InputError, match="got 400"):
        SpectralConfig(dim=400)


@pytest.mark.parametrize("hop_length", [0, -320])
def test_impossible_hops_are_refused(hop_length):
    with pytest.raises(InputError, match=f"hop_length .* got {hop_length}"):
        SpectralConfig(hop_length=hop_length)


def test_configurations():
    for name, config in CONFIGS.items():
        assert CodecModel.from_name(name).config == config
    with pytest.raises(InputError, match="spectral_24khz"):
        CodecModel.from_name("nonesuch")
    with pytest.raises(InputError, match="agree"):
        CodecConfig(SMALL, QuantizerConfig(dim=9))
