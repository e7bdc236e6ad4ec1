"""Encoder and decoder: streaming, causality, alignment."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rvq.errors import InputError
from rvq.nn.model import CONFIGS, CodecConfig, CodecModel
from rvq.nn.quantizer import QuantizerConfig
from rvq.nn.spectral import CausalDepthwise, ShortTimeTransform, SpectralConfig, _ShiftedProducts

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
    state, outputs, start = network.stack.start(inputs[0]), [], 0
    for size in [*sizes, inputs[0].shape[1]]:
        if start >= inputs[0].shape[1]:
            break
        *output, state = network(*(x[:, start : start + size] for x in inputs), state)
        outputs.append(torch.cat(output, dim=-1))
        start += size
    return torch.cat(outputs, dim=1)


@settings(max_examples=15, deadline=None)
@given(sizes=st.lists(st.integers(1, 40), max_size=20))
def test_streaming_equals_offline(model, clip, sizes):
    spectra = model.transform.analyse(clip)
    whole = in_pieces(model.encoder, spectra, [])
    torch.testing.assert_close(in_pieces(model.encoder, spectra, sizes), whole)
    torch.testing.assert_close(
        in_pieces(model.decoder, (whole,), sizes), in_pieces(model.decoder, (whole,), [])
    )


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


@pytest.mark.parametrize("window_length", [640, 960, 1280])
def test_transform_reconstructs_after_its_delay(clip, window_length):
    config = SpectralConfig(window_length=window_length)
    transform = ShortTimeTransform(config)
    late = config.overlap * config.hop_length
    padded = torch.nn.functional.pad(clip, (0, late))
    back = transform.synthesise(*transform.analyse(padded))[:, late:]
    torch.testing.assert_close(back[:, : clip.shape[1]], clip, atol=1e-5, rtol=0)


@pytest.mark.parametrize("at", [0, 300, 320, 10_000])
def test_latency_is_one_window(model, clip, at):
    hop = SMALL.hop_length
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
    assert (first + 1) * hop - heard <= SMALL.window_length
    assert SMALL.window_length / SMALL.sample_rate <= 0.040


@settings(max_examples=15, deadline=None)
@given(n_samples=st.integers(1, 2_000), batch=st.integers(1, 3))
def test_any_length_comes_back_at_that_length(model, n_samples, batch):
    audio = torch.from_numpy(np.zeros((batch, n_samples), np.float32))
    latents = model.encode(audio)
    assert latents.shape == (batch, -(-n_samples // 320) + 2, 8)
    assert model.decode(latents, n_samples).shape == (batch, n_samples)


class _Through(torch.nn.Module):
    """Network that keeps spectra as they are, packed into latents."""

    def __init__(self, stack):
        super().__init__()
        self.stack = stack

    def forward(self, *inputs):
        *parts, state = inputs
        if len(parts) == 2:
            return torch.cat(parts, dim=-1), state
        return *parts[0].chunk(2, dim=-1), state


@settings(max_examples=15, deadline=None)
@given(n_samples=st.integers(1, 5_000), window_length=st.sampled_from([640, 960, 1280]))
def test_decoded_audio_is_aligned_with_what_was_encoded(clip, n_samples, window_length):
    config = SpectralConfig(
        width=4, hidden=4, encoder_blocks=1, decoder_blocks=1, dim=8, window_length=window_length
    )
    model = CodecModel(CodecConfig(config, QuantizerConfig(n_codebooks=1, dim=8)))
    model.encoder, model.decoder = _Through(model.encoder.stack), _Through(model.decoder.stack)
    audio = clip[:, 12_000 : 12_000 + n_samples]
    decoded = model.decode(model.encode(audio), n_samples)
    torch.testing.assert_close(decoded, audio, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("hop_length", "window_length"), [(320, 0), (320, 320), (320, 800), (321, 963), (320, -640)]
)
def test_impossible_windows_are_refused(hop_length, window_length):
    with pytest.raises(InputError, match=f"got {window_length}"):
        SpectralConfig(hop_length=hop_length, window_length=window_length)


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
