import math

import numpy as np
import pytest

from rvq.evaluate import learned
from rvq.evaluate.metrics import installed

AVAILABLE = installed()


def needs(measure):
    """Slow: loading these packages takes longer than measuring."""

    def mark(test):
        reason = f"the packages for {measure} are not installed"
        return pytest.mark.slow(pytest.mark.skipif(measure not in AVAILABLE, reason=reason)(test))

    return mark


@pytest.fixture(scope="module")
def noisy(speech):
    noise = np.random.default_rng(0).normal(size=len(speech)).astype(np.float32)
    return speech + noise * np.sqrt(np.mean(speech**2))


@needs("dnsmos")
def test_dnsmos_prefers_clean_speech(speech, noisy):
    assert 1 < learned.dnsmos(noisy) < learned.dnsmos(speech) - 0.3 < 5


@needs("speaker")
def test_a_speaker_is_nearest_to_herself(speech, noisy):
    assert learned.speaker_similarity(speech, speech) == pytest.approx(1, abs=1e-5)
    assert learned.speaker_similarity(speech, noisy) < 0.95
    assert math.isnan(learned.speaker_similarity(0 * speech, speech))


@needs("wer")
def test_words_are_lost_in_noise_and_not_without(speech, noisy):
    assert learned.word_error_rate(speech, speech) == 0
    assert learned.word_error_rate(speech, noisy + noisy[::-1]) > 0
    assert math.isnan(learned.word_error_rate(0 * speech, speech))


@pytest.mark.parametrize(
    ("one", "other", "errors"),
    [("", "", 0), ("abc", "abc", 0), ("abc", "", 3), ("", "ab", 2), ("kitten", "sitting", 3)],
)
def test_edit_distance(one, other, errors):
    assert learned.edit_distance(tuple(one), tuple(other)) == errors
