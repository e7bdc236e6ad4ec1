"""Discriminators: what they see, and that silence does no harm."""

import importlib
import types

import pytest
import torch

from rvq.errors import InputError
from rvq.nn.discriminators import DiscriminatorConfig, build_discriminators
from rvq.nn.encodec_discriminator import EncodecDiscriminatorConfig
from rvq.nn.soundstream_discriminators import SoundStreamDiscriminatorConfig

CONFIG = DiscriminatorConfig(n_ffts=(256, 128), channels=4)


@pytest.fixture
def discriminator():
    torch.manual_seed(0)
    return build_discriminators(CONFIG)


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


def test_discriminators_take_turns(discriminator, speech):
    audio = torch.from_numpy(speech[:, 10_000:14_096])
    every = discriminator(audio)
    for turn in range(4):
        (judged,) = discriminator(audio, turn)
        torch.testing.assert_close(judged, every[turn % 2])


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


def test_audio_shorter_than_a_window_is_judged(discriminator):
    assert all(j.numel() for j, _ in discriminator(torch.zeros(1, CONFIG.least_samples)))


@pytest.mark.parametrize("n_fft", [0, -4, 130])
def test_impossible_windows_are_refused(n_fft):
    with pytest.raises(InputError, match=f"multiples of 4.*{n_fft}"):
        DiscriminatorConfig(n_ffts=(512, n_fft))


@pytest.mark.parametrize("n_samples", [4096, 5000])
def test_encodec_discriminators_are_theirs(encodec, speech, monkeypatch, n_samples):
    class Spectrogram(torch.nn.Module):
        """The transform that the reference takes from torchaudio."""

        def __init__(self, n_fft, hop_length, win_length, window_fn, normalized, center, **_):
            super().__init__()
            assert (normalized, center, win_length) == (True, False, n_fft)
            self.n_fft, self.hop = n_fft, hop_length
            self.register_buffer("window", window_fn(n_fft), persistent=False)

        def forward(self, x):
            spectrum = torch.stft(
                x[:, 0], self.n_fft, self.hop, window=self.window, center=False, return_complex=True
            )
            return spectrum[:, None] / self.window.square().sum().sqrt()

    transforms = types.SimpleNamespace(Spectrogram=Spectrogram)
    monkeypatch.setattr(
        importlib.import_module("torchaudio"), "transforms", transforms, raising=False
    )
    module = importlib.import_module("encodec.msstftd")
    torch.manual_seed(0)
    sizes = (2048, 512)
    theirs = module.MultiScaleSTFTDiscriminator(
        4, n_ffts=sizes, hop_lengths=[n // 4 for n in sizes], win_lengths=sizes
    )
    config = EncodecDiscriminatorConfig(n_ffts=sizes, channels=4)
    ours = build_discriminators(config)
    values = list(theirs.state_dict().values())
    ours.load_state_dict(dict(zip(ours.state_dict(), values, strict=True)))
    audio = torch.from_numpy(speech[:, 10_000 : 10_000 + n_samples]).repeat(2, 1)
    judgements, features = theirs(audio[:, None])
    for i, (judgement, seen) in enumerate(ours(audio)):
        torch.testing.assert_close(judgement, judgements[i], atol=1e-5, rtol=1e-4)
        for mine, reference in zip(seen, features[i], strict=True):
            torch.testing.assert_close(mine, reference, atol=1e-5, rtol=1e-4)


def test_soundstream_discriminators_hear_at_their_rates(speech):
    torch.manual_seed(0)
    discriminators = build_discriminators(
        SoundStreamDiscriminatorConfig(wave_channels=4, stft_channels=4)
    )
    audio = torch.from_numpy(speech[:, 10_000:26_384]).repeat(2, 1)
    judged = discriminators(audio)
    assert [judgement.shape[2] for judgement, _ in judged] == [64, 32, 16, 7]
    assert judged[3][0].shape == (2, 1, 7, 1)  # a judgement per 8 hops of all frequencies
    assert [x.shape[1] for x in judged[0][1]] == [4, 16, 64, 256, 256, 256]
    assert [x.shape[1] for x in judged[3][1]] == [4, 8, 16, 16, 32, 32, 64]
    assert [x.shape[3] for x in judged[3][1]] == [512, 256, 128, 64, 32, 16, 8]
    # The second hears the first's audio at half its rate.
    low = torch.nn.functional.avg_pool1d(audio, 4, 2, padding=1, count_include_pad=False)
    second = discriminators.scales[1]
    second.n_halvings = 0
    torch.testing.assert_close(second(low)[0], judged[1][0])


@pytest.mark.parametrize(
    "config",
    [
        EncodecDiscriminatorConfig(n_ffts=(128, 512), channels=4),
        SoundStreamDiscriminatorConfig(wave_channels=4, stft_channels=4),
        SoundStreamDiscriminatorConfig(wave_scales=12, wave_channels=4, stft_channels=4),
    ],
)
def test_the_shortest_audio_that_is_judged(config):
    discriminator, least = build_discriminators(config), config.least_samples
    assert all(judgement.numel() for judgement, _ in discriminator(torch.zeros(1, least)))
    with pytest.raises(RuntimeError):
        discriminator(torch.zeros(1, least - 1))


@pytest.mark.parametrize("config", [EncodecDiscriminatorConfig(), SoundStreamDiscriminatorConfig()])
def test_gradients_of_the_papers_discriminators(config):
    discriminator = build_discriminators(config)
    silence = torch.zeros(1, 4_096, requires_grad=True)
    total = sum(j.sum() + sum(x.sum() for x in f) for j, f in discriminator(silence))
    (gradient,) = torch.autograd.grad(total, silence)
    assert gradient.isfinite().all()
    assert gradient.any()
