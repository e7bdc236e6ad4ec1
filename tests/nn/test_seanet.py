"""SEANet: EnCodec's own modules as reference, streaming, export, lengths."""

import copy
from dataclasses import replace
from functools import cache

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rvq.errors import InputError
from rvq.nn.convolution import fold_weight_norm, prepare_export
from rvq.nn.seanet import SEANETS, SEANetConfig, SEANetDecoder, SEANetEncoder, SegmentConfig

SMALL = SEANetConfig(width=4, dim=8, strides=(2, 3, 2), dilations=(1, 3), lstm_layers=2)
SMALL_ZEROS = SEANetConfig(
    width=16, dim=8, strides=(2, 3, 2), padding="zeros", norm="layer_norm", lstm_layers=0
)
SMALL_CENTRED = SEANetConfig(
    width=4, dim=8, strides=(2, 3, 2), causal=False, norm="time_group_norm", channels=2
)
VARIANTS = {"causal": SMALL, "zeros": SMALL_ZEROS, "centred": SMALL_CENTRED}


@cache
def build(config):
    """Encoder and decoder whose signals are about as strong as trained ones'."""
    torch.manual_seed(0)
    parts = SEANetEncoder(config), SEANetDecoder(config)
    for part in parts:
        amplify(part)
        fold_weight_norm(part)
        part.eval().requires_grad_(False)
    return parts


def amplify(network):
    """Scale weights so that signals keep their strength: initial ones let them fade."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith(("original0", "weight_g")) or (
                name.endswith("conv.weight") and parameter.ndim == 3
            ):
                parameter *= 1.8


def zeros(part, batch=1):
    return torch.zeros(batch, part.state_size)


def carry_over(source, target):
    """The reference's layers come in the same order with the same shapes."""
    values = list(source.state_dict().values())
    names = list(target.state_dict())
    assert len(values) == len(names)
    target.load_state_dict(dict(zip(names, values, strict=True)))


@pytest.fixture(scope="module", params=["encodec_24khz", "encodec_48khz"])
def pair(request, encodec):
    """Ours and the reference's encoder and decoder with the same weights."""
    from encodec.modules import SEANetDecoder as TheirDecoder
    from encodec.modules import SEANetEncoder as TheirEncoder

    config = SEANETS[request.param]
    torch.manual_seed(0)
    shape = {"channels": config.channels, "causal": config.causal, "norm": config.norm}
    theirs = TheirEncoder(**shape).eval(), TheirDecoder(**shape).eval()
    ours = SEANetEncoder(config).eval(), SEANetDecoder(config).eval()
    for source, target in zip(theirs, ours, strict=True):
        amplify(source)
        carry_over(source, target)
        fold_weight_norm(target)
        source.requires_grad_(False)
        target.requires_grad_(False)
    return ours, theirs


@pytest.mark.parametrize("n_samples", [1, 3, 7, 319, 320, 321, 2240, 2241, 24_000])
def test_equals_encodec_at_every_length(pair, speech, n_samples):
    (encoder, decoder), (their_encoder, their_decoder) = pair
    channels = encoder.config.channels
    audio = torch.from_numpy(speech[:, 8000 : 8000 + n_samples]).repeat(channels, 1)
    audio = torch.stack([audio, -0.3 * audio.flip(0).roll(1, 1)])
    latents, _ = encoder(audio, zeros(encoder, 2))
    expected = their_encoder(audio)
    torch.testing.assert_close(latents.transpose(1, 2), expected, atol=1e-5, rtol=1e-5)
    output, _ = decoder(latents, zeros(decoder, 2))
    torch.testing.assert_close(output, their_decoder(expected), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("n_frames", [1, 7, 75])
@pytest.mark.parametrize("name", ["encodec_24khz", "soundstream_24khz"])
def test_streaming_equals_offline(speech, name, n_frames):
    encoder, decoder = build(SEANETS[name])
    audio = torch.from_numpy(speech)[None, :, 30_000 : 30_000 + 320 * max(20, n_frames + 3) + 123]
    latents, _ = encoder(audio, zeros(encoder))
    output, _ = decoder(latents, zeros(decoder))
    assert 0.01 < latents.std() < 100
    assert 0.01 < output.std() < 100
    streamed = torch.cat(in_pieces(audio, 2, n_frames * 320, encoder), dim=1)
    torch.testing.assert_close(streamed, latents, atol=1e-5, rtol=1e-5)
    streamed = torch.cat(in_pieces(latents, 1, n_frames, decoder), dim=2)
    torch.testing.assert_close(streamed, output, atol=1e-5, rtol=1e-5)


def in_pieces(x, dim, size, part):
    """Outputs of a part on pieces of its input, the first of them long enough."""
    first = part.config.first_frames * (320 if dim == 2 else 1)
    sizes = [max(first, size)]
    while sum(sizes) < x.shape[dim]:
        sizes.append(min(size, x.shape[dim] - sum(sizes)))
    state, outputs = zeros(part), []
    for piece in x.split(sizes, dim):
        output, state = part(piece, state)
        outputs.append(output)
    return outputs


def test_first_frames_is_what_reflection_needs(speech):
    encoder, _ = build(SEANETS["encodec_24khz"])
    assert encoder.config.first_frames == 7
    audio = torch.from_numpy(speech)[None, :, :9600]
    whole, _ = encoder(audio, zeros(encoder))
    for frames, equal in ((6, False), (7, True)):
        first, state = encoder(audio[:, :, : frames * 320], zeros(encoder))
        rest, _ = encoder(audio[:, :, frames * 320 :], state)
        both = torch.cat([first, rest], dim=1)
        assert torch.allclose(both, whole, atol=1e-5, rtol=1e-5) == equal


@settings(max_examples=25, deadline=None)
@given(n_samples=st.integers(1, 200), variant=st.sampled_from(sorted(VARIANTS)))
def test_any_length_comes_back_in_whole_frames(n_samples, variant):
    config = VARIANTS[variant]
    encoder, decoder = build(config)
    audio = torch.randn(2, config.channels, n_samples)
    latents, _ = encoder(audio, zeros(encoder, 2))
    n_frames = -(-n_samples // 12)
    assert latents.shape == (2, n_frames, 8)
    output, _ = decoder(latents, zeros(decoder, 2))
    assert output.shape == (2, config.channels, 12 * n_frames)
    assert bool(output.isfinite().all())


@pytest.mark.parametrize("variant", ["causal", "zeros"])
@pytest.mark.parametrize("at", [0, 240, 251, 500])
def test_nothing_depends_on_the_future(variant, at):
    encoder, decoder = build(VARIANTS[variant])
    audio = torch.randn(1, 1, 600)
    changed = audio.clone()
    changed[:, :, at:] += 1
    before, after = (encoder(x, zeros(encoder))[0] for x in (audio, changed))
    first = int((before != after).any(dim=2).nonzero()[0, 1])
    # The reflected start is a mirror of the first frames.
    reach = encoder.config.first_frames * 12
    assert first == (at // 12 if at >= reach else 0)
    latents = before.clone()
    latents[:, 30:] += torch.randn(8)
    sounds = [decoder(x, zeros(decoder))[0] for x in (before, latents)]
    assert int((sounds[0] != sounds[1]).any(dim=1).nonzero()[0, 1]) == 30 * 12
    assert encoder.config.latency == pytest.approx(12 / 24_000)


def test_items_of_a_batch_may_be_at_their_start_or_not():
    encoder, _ = build(SMALL)
    audio = torch.randn(2, 1, 480)
    _, state = encoder(audio, zeros(encoder, 2))
    state[0] = 0
    again, _ = encoder(audio, state)
    fresh, _ = encoder(audio, zeros(encoder, 2))
    torch.testing.assert_close(again[0], fresh[0])
    assert not torch.allclose(again[1, 0], fresh[1, 0])


def test_folding_weight_norm_changes_no_output():
    encoder = SEANetEncoder(SMALL).eval().requires_grad_(False)
    audio = torch.randn(1, 1, 480)
    before, _ = encoder(audio, zeros(encoder))
    fold_weight_norm(encoder)
    after, _ = encoder(audio, zeros(encoder))
    torch.testing.assert_close(after, before)
    assert not any("parametrizations" in name for name, _ in encoder.named_parameters())


@pytest.mark.parametrize("variant", ["causal", pytest.param("centred", marks=pytest.mark.slow)])
def test_exported_networks_give_the_same(tmp_path, variant):
    config = replace(VARIANTS[variant], strides=(3, 4), dilations=(3,))
    encoder, decoder = build(config)
    audio = torch.randn(2, config.channels, 12 * 9 + 5)
    latents = torch.randn(2, 9, config.dim)
    run_encoder = exported(encoder, audio, 2, tmp_path / "encoder.onnx")
    run_decoder = exported(decoder, latents, 1, tmp_path / "decoder.onnx")
    for n_samples in (1, 13, 84, 600):
        audio = torch.randn(3, config.channels, n_samples)
        states = zeros(encoder, 3), zeros(decoder, 3)
        for _ in range(2):  # at the start and later on
            latents, next_state = encoder(audio, states[0])
            output, last_state = decoder(latents, states[1])
            for run, given_, expected in (
                (run_encoder, (audio, states[0]), (latents, next_state)),
                (run_decoder, (latents, states[1]), (output, last_state)),
            ):
                feeds = {"x": given_[0].numpy(), "state": given_[1].numpy()}
                for ours, theirs in zip(expected, run(None, feeds), strict=True):
                    np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-5, rtol=1e-5)
            states = next_state, last_state


def exported(part, example, time, path):
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length")
    part = copy.deepcopy(part)
    prepare_export(part)
    torch.onnx.export(
        part,
        (example, zeros(part, len(example))),
        path,
        input_names=["x", "state"],
        output_names=["y", "next_state"],
        dynamic_shapes=({0: batch, time: length}, {0: batch}),
        dynamo=True,
        optimize=False,
        verbose=False,
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options).run


def test_gradients_reach_every_parameter():
    torch.manual_seed(0)
    encoder, decoder = SEANetEncoder(SMALL), SEANetDecoder(SMALL)
    latents, _ = encoder(torch.randn(2, 1, 240), zeros(encoder, 2))
    output, _ = decoder(latents, zeros(decoder, 2))
    output.square().mean().backward()
    for part in (encoder, decoder):
        for name, parameter in part.named_parameters():
            assert parameter.grad is not None, name
            assert float(parameter.grad.abs().sum()) > 0, name


def test_published_networks():
    assert {name: config.hop_length for name, config in SEANETS.items()} == {
        "encodec_24khz": 320,
        "encodec_48khz": 320,
        "soundstream_24khz": 320,
    }
    assert SEANETS["soundstream_24khz"].first_frames == 1
    segments = SEANETS["encodec_48khz"].segments
    assert (segments.n_samples(48_000), segments.stride(48_000)) == (48_000, 47_520)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"norm": "time_group_norm"}, "future"),
        ({"segments": SegmentConfig()}, "no segments"),
        ({"width": 5, "compress": 2}, "got 5"),
    ],
)
def test_impossible_networks_are_refused(fields, message):
    with pytest.raises(InputError, match=message):
        SEANetConfig(**fields)
