"""Crops are a function of seed and step, at sensible levels."""

import itertools
import json
import threading

import numpy as np
import pytest

from rvq.errors import InputError
from rvq.train.data import Crops, Source, load_sources


def crops(packed, **options):
    settings = {"batch_size": 4, "n_samples": 6_000, "seed": 3} | options
    return Crops(load_sources([packed], 24_000), **settings)


def tone(level, n=24_000):
    return Source("tone", np.full(n, level, np.int16), 1.0)


def test_a_batch_is_a_function_of_seed_and_step(packed):
    batch = crops(packed).batch(7)
    assert batch.shape == (4, 6_000)
    assert batch.dtype == np.float32
    np.testing.assert_array_equal(batch, crops(packed).batch(7))
    assert not np.array_equal(batch, crops(packed).batch(8))
    assert not np.array_equal(batch, crops(packed, seed=4).batch(7))


def test_a_stream_goes_on_where_it_is_told(packed):
    source = crops(packed)
    for step, batch in zip(range(5, 9), source.stream(5), strict=False):
        np.testing.assert_array_equal(batch, source.batch(step))


def test_crops_are_stretches_of_the_recordings(packed):
    source = crops(packed, mix_probability=0, gain_db=(-6, -6))
    recordings = [s.samples.astype(np.float64) for s in source.sources]
    for crop in source.batch(0):
        best = 0.0
        for recording in recordings:
            products = np.abs(np.correlate(recording, crop[:2_000], "valid"))
            energy = np.convolve(recording**2, np.ones(2_000), "valid")
            best = max(best, (products / np.sqrt(energy * np.square(crop[:2_000]).sum() + 1)).max())
        assert best > 0.999


def test_a_stream_that_is_closed_ends_its_thread(packed):
    def threads():
        return [t for t in threading.enumerate() if t.name == "crops"]

    before = threads()
    stream = crops(packed).stream(0)
    next(stream)
    (thread,) = set(threads()) - set(before)
    stream.close()
    thread.join(timeout=10)
    assert not thread.is_alive()


def test_silent_stretches_are_mostly_passed_over():
    samples = np.zeros(100_000, np.int16)
    samples[50_000:] = 10_000
    half_silent = Crops([Source("half", samples, 1.0)], batch_size=1, n_samples=10)
    random = np.random.default_rng(0)
    silent = sum(not half_silent._crop(random).any() for _ in range(2_000))
    assert silent / 2_000 == pytest.approx(0.5**3, abs=0.03)


def test_levels(packed):
    batch = np.concatenate([crops(packed, gain_db=(-20, -3)).batch(i) for i in range(20)])
    peaks = 20 * np.log10(np.abs(batch).max(axis=1))
    assert peaks.min() > -20.01
    assert peaks.max() < -2.99
    assert np.ptp(peaks) > 10


def test_near_silence_is_amplified_by_30_db_at_most():
    quiet = Crops([tone(3)], batch_size=2, n_samples=100, mix_probability=0)
    np.testing.assert_allclose(np.abs(quiet.batch(0)), 3 / 32768 * 10**1.5, rtol=1e-5)


def test_a_near_silent_second_crop_is_not_made_loud():
    source = Crops([tone(9_000)], batch_size=1, n_samples=100, mix_probability=1, gain_db=(0, 0))
    hiss = np.tile(np.float32([1, -1]) / 32768, 50)
    drawn = iter([np.full(100, 0.5, np.float32), hiss])
    source._crop = lambda random: next(drawn)
    (mixed,) = source.batch(0)
    assert 0 < np.ptp(mixed) / 2 <= 10**1.5 * np.abs(hiss).max() / 0.5


def test_both_polarities_come():
    batch = Crops([tone(9_000)], batch_size=16, n_samples=9).batch(0)
    assert set(np.sign(batch[:, 0])) == {-1, 1}


def test_mixing_adds_a_crop_up_to_15_db_weaker():
    t = np.arange(24_000) / 24_000
    tones = [np.round(9_000 * np.sin(2 * np.pi * hz * t)).astype(np.int16) for hz in (1_000, 5_000)]
    sources = [Source(str(i), tone, 1.0) for i, tone in enumerate(tones)]
    levels = []
    for probability in (0, 1):
        source = Crops(sources, batch_size=100, n_samples=2_400, mix_probability=probability)
        spectrum = np.abs(np.fft.rfft(source.batch(0) * np.hanning(2_400)))[:, [100, 500]]
        levels.append(20 * np.log10(spectrum.min(1) / spectrum.max(1)))
    assert levels[0].max() < -60
    both = levels[1][levels[1] > -60]  # the others drew the same source twice
    assert 30 < len(both) < 70
    assert both.min() > -15.5
    assert np.ptp(both) > 10


def test_sources_are_drawn_by_the_root_of_their_length_times_weight():
    sources = [
        Source("long", np.full(90_000, 10_000, np.int16), 1.0 * 90_000**0.5),
        Source("short", np.full(10_000, 20_000, np.int16), 1.0 * 10_000**0.5),
    ]
    crops = Crops(sources, batch_size=1, n_samples=4)
    random = np.random.default_rng(0)
    long = sum(crops._crop(random)[0] < 0.5 for _ in range(2_000))
    assert long / 2_000 == pytest.approx(0.75, abs=0.03)


def test_weight_of_the_recipe_counts(packed, tmp_path):
    for path in packed.glob("train/*"):
        (tmp_path / "train").mkdir(exist_ok=True)
        (tmp_path / "train" / path.name).write_bytes(path.read_bytes())
    before = [s.weight for s in load_sources([tmp_path], 24_000)]
    card = next((tmp_path / "train").glob("*.json"))
    card.write_text(json.dumps(json.loads(card.read_text()) | {"weight": 3.0}))
    after = [s.weight for s in load_sources([tmp_path], 24_000)]
    assert sorted(np.divide(after, before)) == [1.0, 3.0]


def test_errors(packed, tmp_path):
    with pytest.raises(InputError, match="rvq data prepare"):
        load_sources([tmp_path], 24_000)
    with pytest.raises(InputError, match="24000 Hz"):
        load_sources([packed], 16_000)
    with pytest.raises(InputError, match="shorter"):
        crops(packed, n_samples=10**7)


def test_a_failure_in_the_background_reaches_the_training_loop(packed, monkeypatch):
    source = crops(packed)
    good = source.batch
    monkeypatch.setattr(source, "batch", lambda step: good(step) if step < 2 else 1 / 0)
    stream = source.stream(0)
    assert len(list(itertools.islice(stream, 2))) == 2
    with pytest.raises(ZeroDivisionError):
        next(stream)


def test_half_of_the_crops_play_faster_or_slower():
    time = np.arange(48_000) / 24_000
    source = Source("sine", (8_000 * np.sin(2 * np.pi * 1_000 * time)).astype(np.int16), 1.0)
    varied = Crops([source], batch_size=200, n_samples=12_000, mix_probability=0, speed=0.2)
    batch = varied.batch(0)
    assert batch.shape == (200, 12_000)
    pitch = np.abs(np.fft.rfft(batch * np.hanning(12_000))).argmax(axis=1) * 2.0
    as_recorded = np.abs(pitch - 1_000) <= 2
    assert 0.4 < as_recorded.mean() < 0.65
    assert 1_000 / 1.2 - 2 <= pitch.min() < 870
    assert 1_150 < pitch.max() <= 1_202
    # Played to the end: no silence where a stretch was too short.
    assert np.abs(batch[:, -100:]).max(axis=1).min() > 0.04


def test_a_source_must_be_long_enough_to_play_faster():
    with pytest.raises(InputError, match="shorter than a crop"):
        Crops([tone(9_000, 1_150)], batch_size=1, n_samples=1_000, speed=0.2)
    Crops([tone(9_000, 1_250)], batch_size=1, n_samples=1_000, speed=0.2).batch(0)
