"""Losses on real speech and small numbers; the balancer."""

import numpy as np
import pytest
import torch

from rvq.mel import mel_filterbank
from rvq.train.balancer import Balancer
from rvq.train.config import LossConfig
from rvq.train.losses import (
    LogMelMagnitudeLoss,
    MelMagnitudeLoss,
    ReconstructionLosses,
    SpectralLoss,
    _Levels,
    adversarial_losses,
    discriminator_loss,
    time_loss,
)


@pytest.fixture(scope="module")
def audio(speech):
    return torch.from_numpy(speech[:, 10_000:20_000])


@pytest.fixture(scope="module")
def spectral_loss():
    return SpectralLoss(24_000, (1024, 256), (64, 32))


def test_identical_audio_costs_nothing(audio, spectral_loss):
    assert time_loss(audio, audio) == 0
    assert all(loss == 0 for loss in spectral_loss(audio, audio).values())


def test_time_loss_is_relative(audio):
    assert float(time_loss(audio * 1.1, audio)) == pytest.approx(0.1, rel=0.05)
    louder = audio * 10
    assert float(time_loss(louder * 1.1, louder)) == pytest.approx(0.1, rel=0.01)


def test_a_change_of_level_costs_its_decades(audio, spectral_loss):
    loud = audio * 30  # far above the floor
    assert float(spectral_loss(loud * 10**0.1, loud)["mel"]) == pytest.approx(0.1, rel=0.02)


def test_losses_agree_with_plain_transforms(audio, spectral_loss):
    noisy = audio + 0.1 * audio.roll(50, dims=1)
    mel, distance, of_bins = [], [], []
    for n_fft, n_mels in ((1024, 64), (256, 32)):
        spectra = []
        for x in (noisy, audio):
            x = torch.nn.functional.pad(x, (0, -x.shape[1] % (n_fft // 4)))
            spectra.append(
                torch.stft(
                    x.double(),
                    n_fft,
                    n_fft // 4,
                    window=torch.hann_window(n_fft, dtype=torch.float64) * (2 / n_fft),
                    pad_mode="constant",
                    return_complex=True,
                ).transpose(1, 2)
            )
        magnitudes = [(x.abs().square() + 1e-9).sqrt() for x in spectra]
        filters = torch.from_numpy(mel_filterbank(24_000, n_fft, n_mels)).double()
        logs = [torch.log10((m @ filters).clamp(min=1e-5)) for m in magnitudes]
        mel.append((logs[0] - logs[1]).abs().mean())
        of_bins.append((magnitudes[0].log10() - magnitudes[1].log10()).abs().mean())
        squeezed = [x * m**-0.7 for x, m in zip(spectra, magnitudes, strict=True)]
        distance.append((squeezed[0] - squeezed[1]).abs().square().mean())
    losses = spectral_loss(noisy, audio)
    assert float(losses["mel"]) == pytest.approx(float(sum(mel) / 2), rel=1e-3)
    assert float(losses["log_magnitude"]) == pytest.approx(float(sum(of_bins) / 2), rel=1e-3)
    assert float(losses["complex"]) == pytest.approx(float(sum(distance) / 2), rel=1e-3)


def test_gradients_are_those_of_the_losses_as_they_are_defined():
    random = torch.Generator().manual_seed(0)
    real, imag = torch.randn(2, 3, 4, 5, dtype=torch.float64, generator=random)
    real[0, 0], imag[0, 0] = 1e-5, 0  # where the floor counts
    parts = (real.requires_grad_(), imag.requires_grad_())
    assert torch.autograd.gradcheck(_Levels.apply, parts, eps=1e-8, atol=1e-4, rtol=1e-4)
    magnitude, log_power, *compressed = _Levels.apply(*parts)
    power = real.square() + imag.square() + 1e-9
    torch.testing.assert_close(magnitude, power.sqrt())
    torch.testing.assert_close(log_power, power.log())
    torch.testing.assert_close(compressed[0], real * power**-0.35)
    torch.testing.assert_close(compressed[1], imag * power**-0.35)


def test_stripes_within_a_mel_band_cost_what_mel_does_not_see():
    """Noise whose energy above 6 kHz is gathered in lines, two or three to a band."""
    loss = SpectralLoss(24_000, (2048,), (40,))
    noise = torch.randn(1, 48_000, generator=torch.Generator().manual_seed(0)) * 0.1
    spectrum = torch.fft.rfft(noise, n=48_000)
    comb = torch.zeros(24_001)
    comb[12_000::640] = 1  # 320 Hz apart, 80 Hz wide
    comb = torch.nn.functional.max_pool1d(comb[None], 161, 1, 80)[0]
    high = torch.arange(24_001) >= 12_000
    gain = torch.where(high, comb * (1 / comb[high].mean()).sqrt(), 1.0)
    striped = torch.fft.irfft(spectrum * gain, n=48_000)
    other = torch.randn(1, 48_000, generator=torch.Generator().manual_seed(1)) * 0.1
    stripes, plain = loss(striped, noise), loss(other, noise)
    assert stripes["mel"] < plain["mel"]
    assert stripes["log_magnitude"] > 1.5 * plain["log_magnitude"]


def test_more_noise_costs_more(audio, spectral_loss):
    noise = torch.randn_like(audio) * audio.std()
    for name in ("mel", "log_magnitude", "complex"):
        costs = [float(spectral_loss(audio + noise * g, audio)[name]) for g in (0.01, 0.1, 1)]
        assert costs == sorted(costs)


def test_gradients_are_finite_at_silence(spectral_loss):
    silence = torch.zeros(2, 4_000, requires_grad=True)
    total = sum(spectral_loss(silence, torch.zeros(2, 4_000)).values())
    (gradient,) = torch.autograd.grad(total + time_loss(silence, silence.detach()), silence)
    assert gradient.isfinite().all()


@pytest.mark.parametrize(("n_fft", "n_mels"), [(2048, 128), (512, 64), (128, 16)])
def test_mel_filters_cover_the_spectrum(n_fft, n_mels):
    filters = mel_filterbank(24_000, n_fft, n_mels)
    assert filters.shape == (n_fft // 2 + 1, n_mels)
    assert filters.min() == 0
    assert filters.max() <= 1
    # Neighbouring triangles add up to one between the first and the last peak.
    hz = np.linspace(0, 12_000, n_fft // 2 + 1)
    mel = 2595 * np.log10(1 + hz / 700)
    step = 2595 * np.log10(1 + 12_000 / 700) / (n_mels + 1)
    inside = (mel >= step) & (mel <= n_mels * step)
    np.testing.assert_allclose(filters[inside].sum(axis=1), 1, atol=1e-4)
    # The peaks lie where evenly spaced mels say, as near as bins can tell.
    wide = filters.max(axis=0) > 0
    peaks = np.arange(1, n_mels + 1)[wide] * step
    centres = (filters[:, wide] * mel[:, None]).sum(0) / filters[:, wide].sum(0)
    assert np.abs(centres - peaks).max() < step


def judgements(*values):
    return [(torch.tensor(v), [torch.tensor(v) * 2, torch.tensor(v) + 1]) for v in values]


def test_hinge_losses_by_hand():
    real, fake = judgements([2.0, 0.5], [-1.0, 1.0]), judgements([-2.0, 0.0], [0.5, 0.5])
    # scale 1: mean(0, .5) + mean(0, 1); scale 2: mean(2, 0) + mean(1.5, 1.5)
    assert float(discriminator_loss(real, fake)) == pytest.approx((0.75 + 2.5) / 2)
    losses = adversarial_losses(real, fake)
    # scale 1: mean(3, 1); scale 2: mean(.5, .5)
    assert float(losses["adversarial"]) == pytest.approx((2 + 0.5) / 2)
    features = [
        (np.mean([8, 1]), np.mean([4, 1])),
        (np.mean([4, 0.5]), np.mean([3, 1.5])),
        (np.mean([3, 1]), np.mean([2, 2])),
        (np.mean([1.5, 0.5]), np.mean([0, 2])),
    ]
    expected = np.mean([distance / size for distance, size in features])
    assert float(losses["feature"]) == pytest.approx(expected, rel=1e-3)


def test_generator_losses_move_the_fake_features_only():
    real, fake = judgements([2.0, 0.5]), judgements([-1.0, 1.0])
    for tensor in (real[0][0], *real[0][1], fake[0][0], *fake[0][1]):
        tensor.requires_grad_()
    sum(adversarial_losses(real, fake).values()).backward()
    assert all(x.grad is None for x in (real[0][0], *real[0][1]))
    assert all(x.grad.any() for x in (fake[0][0], *fake[0][1]))
    assert (fake[0][0].grad <= 0).all()  # towards being judged real


def test_weights_choose_the_items_whose_waveforms_count(speech):
    audio = torch.from_numpy(speech[:, 10_000:14_096]).expand(2, -1)
    noise = torch.randn(2, 4_096, generator=torch.Generator().manual_seed(0))
    other = audio + torch.tensor([[0.1], [0.3]]) * noise
    loss = SpectralLoss(24_000, (512,), (32,))
    plain, weighted = loss(other, audio), loss(other, audio, torch.tensor([1.0, 0.0]))
    alone = loss(other[:1], audio[:1])
    torch.testing.assert_close(weighted["complex"], alone["complex"] / 2)
    torch.testing.assert_close(weighted["mel"], plain["mel"])
    torch.testing.assert_close(
        time_loss(other, audio, torch.tensor([1.0, 0.0])), time_loss(other[:1], audio[:1]) / 2
    )


def test_the_balancer_makes_weights_shares_of_the_gradient():
    output = torch.zeros(2, requires_grad=True)
    direction = {"a": torch.tensor([1e-3, 0.0]), "b": torch.tensor([0.0, 1e4])}

    def losses(scale=1.0):
        return {name: scale * (output * d).sum() for name, d in direction.items()}

    balancer = Balancer({"a": 3.0, "b": 1.0}, reference="a")
    for measure in (False, True, False):  # what was never measured is measured anyhow
        gradient = balancer.gradient(losses(), output, measure=measure)
        assert float(gradient[0] / gradient[1]) == pytest.approx(3)
        assert float(gradient[0]) == pytest.approx(3e-3)

    before = dict(balancer.norms)
    balancer.gradient(losses(5), output, measure=False)
    assert balancer.norms == before
    balancer.gradient(losses(5), output, measure=True)
    assert balancer.norms["a"] == pytest.approx(before["a"] * (0.9 + 0.1 * 5))

    again = Balancer({"a": 3.0, "b": 1.0}, reference="a")
    again.load_state_dict(balancer.state_dict())
    torch.testing.assert_close(
        again.gradient(losses(5), output, measure=True),
        balancer.gradient(losses(5), output, measure=True),
    )


@pytest.mark.parametrize("kind", [MelMagnitudeLoss, LogMelMagnitudeLoss])
def test_mel_magnitude_losses_by_plain_transforms(audio, kind):
    noisy = audio + 0.1 * audio.roll(50, dims=1)
    expected = []
    for i in range(5, 12):
        n_fft, mels = 2**i, []
        for x in (noisy, audio):
            x = torch.nn.functional.pad(x, (0, -x.shape[1] % (n_fft // 4)))
            spectrum = torch.stft(
                x.double(),
                n_fft,
                n_fft // 4,
                window=torch.hann_window(n_fft, dtype=torch.float64),
                pad_mode="constant",
                return_complex=True,
            ).transpose(1, 2)
            spectrum = spectrum / torch.hann_window(n_fft).square().sum().sqrt()
            mels.append(
                spectrum.abs() @ torch.from_numpy(mel_filterbank(24_000, n_fft, 64)).double()
            )
        l1 = (mels[0] - mels[1]).abs().sum(-1)
        if kind is LogMelMagnitudeLoss:
            mels = [m.clamp(min=1e-5).log() for m in mels]
        l2 = (mels[0] - mels[1]).square().sum(-1).sqrt()
        factor = (n_fft / 2) ** 0.5 if kind is LogMelMagnitudeLoss else 1
        expected.append((l1 + factor * l2).mean())
    loss = kind(24_000)
    assert float(loss(noisy, audio)) == pytest.approx(float(sum(expected) / 7), rel=1e-3)
    silence = torch.zeros(1, 4_096, requires_grad=True)
    (gradient,) = torch.autograd.grad(loss(silence, audio[:, :4_096]), silence)
    assert gradient.isfinite().all()


def test_resolutions_take_turns(audio):
    config = LossConfig(mel_magnitude=1)
    losses, noisy = ReconstructionLosses(config, 24_000), audio + 0.01
    every = losses(noisy, audio)
    turns = [losses(noisy, audio, turn=turn) for turn in range(21)]  # of 3 and of 7 windows
    for name, value in every.items():
        mean = sum(float(found[name]) for found in turns) / 21
        assert mean == pytest.approx(float(value), rel=1e-5)
    assert turns[0]["mel"] == turns[3]["mel"] != turns[1]["mel"]
    assert turns[0]["mel_magnitude"] == turns[7]["mel_magnitude"] != turns[3]["mel_magnitude"]


def test_losses_without_weight_are_left_out(audio):
    config = LossConfig(mel=0, complex=0, time=0.1, mel_magnitude=1)
    losses = ReconstructionLosses(config, 24_000)
    assert losses.weights == {"time": 0.1, "mel_magnitude": 1}
    noisy = audio + 0.01
    assert losses(noisy, audio).keys() == losses.weights.keys()
    one = ReconstructionLosses(LossConfig(complex=0, time=0), 24_000)(noisy, audio)
    both = ReconstructionLosses(LossConfig(), 24_000)(noisy, audio)
    assert one.keys() == {"mel"}
    assert both.keys() == {"mel", "complex", "time"}
    assert one["mel"] == both["mel"]
