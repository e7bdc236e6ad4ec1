"""Discriminators: what they see, and that silence does no harm."""

import pytest
import torch

from rvq.errors import InputError
from rvq.nn.discriminators import DiscriminatorConfig, MultiScaleSTFTDiscriminator

CONFIG = DiscriminatorConfig(n_ffts=(256, 128), channels=4)


@pytest.fixture
def discriminator():
    torch.manual_seed(0)
    return MultiScaleSTFTDiscriminator(CONFIG)


def test_first_layer_sees_compressed_spectra(discriminator, speech):
    audio = torch.from_numpy(speech[:, 10_000:14_096])
    seen = {}
    for scale, n_fft in zip(discriminator.scales, CONFIG.n_ffts, strict=True):
        scale.layers[0].register_forward_pre_hook(
            lambda _, inputs, n_fft=n_fft: seen.update({n_fft: inputs[0].detach()})
        )
    discriminator(audio)
    for n_fft, parts in seen.items():
        window = torch.hann_window(n_fft)
        spectrum = torch.stft(
            audio, n_fft, n_fft // 2, window=window, pad_mode="constant", return_complex=True
        ).transpose(1, 2) * (2 / n_fft**0.5)
        magnitude = (spectrum.abs().square() + 1e-6).sqrt()
        expected = spectrum * magnitude**-0.6
        torch.testing.assert_close(
            torch.complex(parts[:, 0], parts[:, 1]), expected, rtol=1e-3, atol=1e-4
        )


def test_gradients_are_finite_at_silence(discriminator):
    silence = torch.zeros(1, 2_048, requires_grad=True)
    total = sum(
        judgement.sum() + sum(x.sum() for x in features)
        for judgement, features in discriminator(silence)
    )
    (gradient,) = torch.autograd.grad(total, silence)
    assert gradient.isfinite().all()


def test_judgements_are_of_patches(discriminator, speech):
    audio = torch.from_numpy(speech[:, 10_000:18_192])
    changed = audio.clone()
    changed[:, 6_000:] = 0
    for (before, features), (after, _) in zip(
        discriminator(audio), discriminator(changed), strict=True
    ):
        assert len(features) == 3
        differs = (before != after).any(dim=3)[0, 0]
        assert differs.any()
        # Layers hear 1 + 1 + 2 + 4 + 4 hops ahead, of 33 or more.
        first = int(differs.nonzero()[0])
        assert 0.45 < first / len(differs) < 6_000 / 8_192


@pytest.mark.parametrize("n_fft", [0, -4, 130])
def test_impossible_windows_are_refused(n_fft):
    with pytest.raises(InputError, match=f"multiples of 4.*{n_fft}"):
        DiscriminatorConfig(n_ffts=(512, n_fft))
