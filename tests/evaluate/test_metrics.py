import math

import numpy as np
import pytest
import scipy.signal
from hypothesis import given, settings
from hypothesis import strategies as st

from rvq.errors import InputError, RvqError
from rvq.evaluate import metrics
from rvq.evaluate.metrics import CORE, METRICS, Scores, align, mel_distance, score, si_sdr

RATE = 16000


def noise(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=n).astype(np.float32)


def test_a_recording_against_itself_is_perfect(speech):
    scores = score(speech, speech, RATE)
    assert scores.pesq_wb > 4.6
    assert scores.estoi == pytest.approx(1, abs=1e-4)
    assert scores.visqol == pytest.approx(5, abs=1e-3)
    assert scores.mel_distance == 0
    assert scores.si_sdr == 100


def test_more_noise_is_worse_by_every_measure(speech):
    added = noise(len(speech)) * np.sqrt(np.mean(speech**2))
    ladder = [score(speech, speech + gain * added, RATE) for gain in (0.01, 0.05, 0.2, 0.8)]
    for metric in CORE:
        values = [getattr(scores, metric) for scores in ladder]
        if metric == "mel_distance":
            values = [-value for value in values]
        assert values == sorted(values, reverse=True), metric
        assert len(set(values)) == len(values), metric


def test_channels_are_averaged_and_scores_repeat(speech):
    speech = speech[16000:32000]
    noisy = speech + 0.01 * noise(len(speech))
    both = score(np.stack([speech, 0 * speech]), np.stack([noisy, noisy]), RATE)
    one = score(speech, noisy, RATE)
    for metric in ("pesq_wb", "estoi", "visqol", "si_sdr"):  # undefined on the silent channel
        assert getattr(both, metric) == getattr(one, metric)
    silent = mel_distance(0 * speech, noisy, RATE)
    assert both.mel_distance == pytest.approx((one.mel_distance + silent) / 2)


def test_a_higher_sample_rate_is_resampled_for_speech_measures(speech):
    import soxr

    speech = speech[16000:40000]
    noisy = speech + 0.01 * noise(len(speech))
    at_16k = score(speech, noisy, RATE)
    at_24k = score(*(soxr.resample(signal, RATE, 24000) for signal in (speech, noisy)), 24000)
    assert at_24k.pesq_wb == pytest.approx(at_16k.pesq_wb, abs=0.1)
    assert at_24k.estoi == pytest.approx(at_16k.estoi, abs=0.01)
    assert at_24k.visqol == pytest.approx(at_16k.visqol, abs=0.1)


@pytest.mark.parametrize("n", [1, 160, 3000])
def test_too_short_gives_nan_for_perceptual_measures_only(speech, n):
    part = speech[20000 : 20000 + n] + 1e-3
    scores = score(part, part + 1e-3 * noise(n), RATE)
    assert all(math.isnan(value) for value in (scores.pesq_wb, scores.estoi, scores.visqol))
    assert scores.mel_distance > 0


@pytest.mark.parametrize("gain", [0, 1])
def test_a_silent_reference_gives_nan_and_no_exception(speech, gain):
    scores = score(0 * speech, gain * speech, RATE)
    assert all(map(math.isnan, (scores.pesq_wb, scores.estoi, scores.visqol, scores.si_sdr)))


def test_silence_in_place_of_a_recording_gets_the_least(speech):
    """A codec that mutes what it cannot code must not look better for it."""
    scores = score(speech, 0 * speech, RATE)
    assert (scores.pesq_wb, scores.visqol, scores.si_sdr) == (1.04, 1.0, -100.0)
    assert scores.estoi == pytest.approx(0, abs=0.05)
    long = np.resize(speech, 40 * RATE)
    half = long * (np.arange(len(long)) < len(long) // 2)
    whole, muted = (score(long, other, RATE, ["pesq_wb"]).pesq_wb for other in (long, half))
    assert muted == pytest.approx((whole + 1.04) / 2)


@pytest.mark.parametrize("rate", [16_000, 24_000, 48_000])
def test_a_single_sample_can_be_measured(rate):
    one = np.full(1, 0.5, np.float32)
    scores = score(one, one, rate, ["pesq_wb", "estoi", "visqol", "si_sdr", "mel_distance"])
    assert all(map(math.isnan, (scores.pesq_wb, scores.estoi, scores.visqol)))


def test_pesq_of_a_long_recording_is_cut_into_pieces(speech):
    # Eighty bursts in one piece would overrun the fifty utterances of the C code.
    bursts = np.concatenate([speech[16000:24000], np.zeros(8000, np.float32)])
    long = np.tile(bursts, 80)
    assert metrics._pesq_wb(long, long) > 4.6


def test_mel_distance_agrees_with_scipy(speech):
    x, y = speech, speech + 0.01 * noise(len(speech))
    expected = 0.0
    for window, n_mels in ((32, 5), (64, 10), (128, 20), (256, 40), (512, 80), (1024, 160)):
        expected += scipy_log_mel_l1(x, y, window, n_mels)
    expected += scipy_log_mel_l1(x, y, 2048, 320)
    assert mel_distance(x, y, RATE) == pytest.approx(expected, rel=1e-4)


def test_log_spectral_distance_is_that_of_levels(speech):
    assert metrics.log_spectral_distance(speech, speech) == 0
    loud = noise(5 * RATE) * 0.1
    assert metrics.log_spectral_distance(loud, loud / 2) == pytest.approx(6.02, abs=0.01)
    other = 0.1 * np.random.default_rng(5).normal(size=len(loud)).astype(np.float32)
    # A chi-squared variable with two degrees of freedom has a level of 5.57 dB standard deviation.
    assert metrics.log_spectral_distance(loud, other) == pytest.approx(5.57 * 2**0.5, abs=0.2)
    sine = np.sin(2 * np.pi * 93.75 * 8 * np.arange(RATE) / RATE).astype(np.float32)
    floor = metrics.log_spectral_distance(sine, np.zeros_like(sine))
    level = 20 * np.log10(metrics._magnitudes(sine, 2048).max() / 512)
    assert level == pytest.approx(0, abs=0.1)  # full scale
    assert 0 < floor < 100


def scipy_log_mel_l1(x, y, window, n_mels):
    bank = metrics._mel_filters(RATE, window, n_mels)
    logs = []
    for signal in (x, y):
        padded = np.pad(signal, window // 2, mode="reflect")
        hann = scipy.signal.get_window("hann", window)
        stft = scipy.signal.ShortTimeFFT(hann, hop=window // 4, fs=1)
        first = window // 2 // stft.hop  # the first slice that lies wholly inside
        n_frames = 1 + len(signal) // stft.hop
        spectrum = np.abs(stft.stft(padded, p0=first, p1=first + n_frames))
        logs.append(np.log10(np.maximum(spectrum.T @ bank, 1e-5)))
    return np.abs(logs[0] - logs[1]).mean()


def test_mel_triangles_have_unit_area_and_the_right_centres():
    bank = metrics._mel_filters(RATE, 1 << 16, 40)
    width = RATE / (1 << 16)
    np.testing.assert_allclose(bank.sum(axis=0) * width, 1, rtol=1e-3)
    # Below 1 kHz the bands are equally wide, above each is a constant factor higher.
    centres = bank.argmax(axis=0) * width
    low, high = centres[centres < 900], centres[centres > 1100]
    np.testing.assert_allclose(np.diff(low), np.diff(low)[0], atol=2 * width)
    np.testing.assert_allclose(high[1:] / high[:-1], high[1] / high[0], rtol=1e-3)


@given(gain=st.floats(0.1, 10), ratio=st.floats(-20, 60))
@settings(deadline=None)
def test_si_sdr_is_the_ratio_of_orthogonal_parts(gain, ratio):
    t = np.arange(8000) / 8000
    target, error = np.sin(2 * np.pi * 50 * t), np.cos(2 * np.pi * 70 * t)
    degraded = gain * (target + 10 ** (-ratio / 20) * error)
    assert si_sdr(target, degraded) == pytest.approx(ratio, abs=1e-3)


@given(lag=st.integers(-1600, 1600), padding=st.integers(-500, 500))
@settings(deadline=None, max_examples=30)
def test_align_undoes_a_known_shift(speech, lag, padding):
    shifted = np.zeros(len(speech) + padding, np.float32)
    first, last = max(0, lag), min(len(speech) + lag, len(shifted))
    shifted[first:last] = 0.5 * speech[first - lag : last - lag]
    aligned = align(speech, shifted + 1e-3 * noise(len(shifted)), RATE)
    assert aligned.shape == speech.shape
    inner = slice(2200, -2200)
    np.testing.assert_allclose(aligned[inner], 0.5 * speech[inner], atol=0.01)


def test_align_finds_no_lag_beyond_its_limit(speech):
    delayed = np.roll(speech, 400)
    assert not np.array_equal(align(speech, delayed, RATE, max_lag_ms=20)[:-400], speech[:-400])
    np.testing.assert_array_equal(align(speech, delayed, RATE, max_lag_ms=25)[:-400], speech[:-400])


def test_align_moves_channels_together_and_leaves_silence_alone(speech):
    stereo = np.stack([speech, 0.3 * speech[::-1]])
    np.testing.assert_array_equal(
        align(stereo, np.roll(stereo, 50, axis=1), RATE)[:, :-50], stereo[:, :-50]
    )
    np.testing.assert_array_equal(align(speech, 0 * speech, RATE), 0 * speech)


def test_bad_input_is_refused(speech):
    with pytest.raises(InputError, match="same shape"):
        score(speech, speech[:-1], RATE)
    with pytest.raises(InputError, match="finite"):
        score(speech, np.full_like(speech, np.nan), RATE)
    with pytest.raises(InputError, match="same channels"):
        align(speech, np.stack([speech, speech]), RATE)
    with pytest.raises(InputError, match="empty"):
        align(speech, speech[:0], RATE)


def test_a_missing_package_is_one_clear_sentence(speech, monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(metrics, "import_module", missing)
    with pytest.raises(RvqError, match=r"pip install 'rvq\[eval\]'"):
        score(speech, speech, RATE)


def test_only_what_was_asked_for_is_measured(speech):
    scores = score(speech, speech + 0.01 * noise(len(speech)), RATE, ["estoi", "visqol_audio"])
    assert 0.2 < scores.estoi < 1
    assert 1 < scores.visqol_audio < 4.8
    assert math.isnan(scores.pesq_wb)
    assert scores.wer is None
    with pytest.raises(InputError, match="no measure 'peaq'"):
        metrics.versions(["peaq"])
    assert {"pesq_wb", "mel_distance", "si_sdr"} <= set(metrics.installed())


def test_music_is_not_measured_by_what_knows_speech_only(speech):
    names = metrics.BY_KIND["music"]
    assert not {"pesq_wb", "estoi", "visqol", "wer", "speaker", "dnsmos"} & set(names)
    music = score(speech, speech, RATE, names)
    assert music.visqol_audio > 4.7
    assert math.isnan(music.pesq_wb)
    assert set(metrics.versions(names)) == {"visqol-python"}


def test_metric_names_are_the_fields_of_scores():
    assert Scores(*range(5)).si_sdr == METRICS.index("si_sdr")
