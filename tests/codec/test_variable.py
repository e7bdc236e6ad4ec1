import io

import numpy as np
import pytest

import rvq
from rvq.bitstream.container import Reader, loads, payload_size, trim
from rvq.codec.models import DEFAULT_MODEL
from rvq.errors import InputError, ModelError


def si_sdr(reference, estimate):
    scale = (reference * estimate).sum() / np.square(reference).sum()
    return 10 * np.log10(
        np.square(scale * reference).sum() / np.square(estimate - scale * reference).sum()
    )


def kbps(data, audio):
    return payload_size(data) / 125 / (audio.shape[1] / 24_000)


@pytest.fixture(scope="module")
def files(codec, speech):
    return {quality: codec.compress(speech, 24_000, quality=quality) for quality in (1, 3)}


def test_quality_sets_rate_and_fidelity(codec, speech, files):
    rates = [kbps(files[quality], speech) for quality in (1, 3)]
    found = [si_sdr(speech, codec.decompress(files[quality])) for quality in (1, 3)]
    assert rates[0] < rates[1]
    assert found[0] < found[1]


def test_fewer_bits_for_the_same_signal(codec, speech, files):
    constant = [codec.compress(speech, 24_000, bitrate) for bitrate in (1.5, 3, 4.5, 6, 7.5, 9)]
    rates = [kbps(data, speech) for data in constant]
    signals = [si_sdr(speech, codec.decompress(data)) for data in constant]
    for data in files.values():
        at_as_many_bits = np.interp(kbps(data, speech), rates, signals)
        assert rates[0] < kbps(data, speech) < rates[-1]
        assert si_sdr(speech, codec.decompress(data)) > at_as_many_bits


def test_an_average_bitrate_is_reached(codec, speech):
    audio = np.tile(speech, 5)
    for average in (2, 4):
        data = codec.compress(audio, 24_000, average=average)
        assert kbps(data, audio) == pytest.approx(average, rel=0.1)


def test_silence_costs_nearly_nothing(codec, speech, files):
    silence = np.zeros((1, 120_000), np.float32)
    data = codec.compress(silence, 24_000, quality=3)
    assert kbps(data, silence) < 0.1 * kbps(files[3], speech)
    assert np.abs(codec.decompress(data)).max() < 0.02


def test_a_pause_costs_little_and_its_noise_stays(codec, speech):
    random = np.random.default_rng(0)
    n = 2 * 24_000
    talk = speech[:, :n]
    noise = np.convolve(random.standard_normal(n), np.exp(-np.arange(200) / 12), "same")  # a room's
    noise = (10 ** (-66 / 20) * noise / noise.std()).astype(np.float32)[None]
    whole = np.concatenate([talk, noise, talk], axis=1)
    codes = codec.encode(whole, 24_000, quality=3)
    depth = (codes.indices[0] >= 0).sum(axis=1)
    pause = slice(n // 320 + 30, 2 * n // 320 - 30)
    assert (depth[pause] == 1).all()
    assert depth[: n // 320].mean() > 3
    decoded = codec.decode(codes)[0, n + 12_000 : 2 * n - 12_000]
    level = 10 * np.log10(np.square(decoded).mean())
    assert level == pytest.approx(-66, abs=5)


def test_what_is_quiet_throughout_is_no_pause(codec, speech):
    codes = codec.encode(speech[:, :48_000] * 10 ** (-30 / 20), 24_000, quality=3)
    assert ((codes.indices[0] >= 0).sum(axis=1) > 1).mean() > 0.5


def test_codes_come_back_and_can_be_cut(codec, files):
    codes = loads(files[3], entropy=codec.entropy)
    assert codes.variable
    target = io.BytesIO()
    trim(io.BytesIO(files[3]), target, bitrate=3)
    shorter = loads(target.getvalue(), entropy=codec.entropy)
    np.testing.assert_array_equal(shorter.indices, codes.prefix(4).indices)
    assert Reader(io.BytesIO(target.getvalue())).header.variable


def test_codes_do_not_depend_on_how_samples_are_pushed(codec, speech):
    audio = speech[:, :60_000]
    expected = codec.encode(audio, 24_000, quality=2).indices
    encoder = codec.variable_encoder(channels=1, sample_rate=24_000, quality=2)
    parts = [encoder.push(piece) for piece in np.array_split(audio, 7, axis=1)]
    np.testing.assert_array_equal(np.concatenate([*parts, encoder.flush()], axis=1), expected)


def test_a_beam_is_followed(codec, speech):
    audio = speech[:, :48_000]

    def coded(quality, beam_size):
        data = codec.compress(audio, 24_000, quality=quality, beam_size=beam_size)
        return si_sdr(audio, codec.decompress(data)), kbps(data, audio)

    # Greedy search needs more bits for the same fidelity.
    fidelity, rate = coded(2, 8)
    greedy = zip(coded(2, 1), coded(3, 1), strict=True)
    assert rate < 0.95 * np.interp(fidelity, *greedy)
    assert codec.compress(audio, 24_000, quality=2) == codec.compress(
        audio, 24_000, quality=2, beam_size=8
    )


def test_its_state_is_not_saved(codec):
    encoder = codec.variable_encoder(channels=1, sample_rate=24_000, quality=2)
    with pytest.raises(InputError, match="variable bitrate cannot be saved"):
        encoder.save()


def test_an_average_bitrate_as_it_is_printed(codec):
    for average in (0.749995, 13.50001):  # with the tolerance of constant bitrates
        codec.variable_encoder(channels=1, sample_rate=24_000, average=average)


def test_bad_settings(codec, speech):
    for how in ({"quality": -1}, {"quality": 3, "average": 3}, {"average": 0.2}, {"average": 30}):
        with pytest.raises(InputError):
            codec.encode(speech, 24_000, **how)
    with pytest.raises(InputError):
        codec.encode(speech, 24_000, 3, quality=3)
    with pytest.raises(ModelError, match="learn-entropy"):
        rvq.Codec(codec.runtime).encode(speech, 24_000, quality=3)
    assert codec.folder.name == DEFAULT_MODEL
