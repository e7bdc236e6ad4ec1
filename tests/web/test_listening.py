import io
import tracemalloc

import numpy as np
import pytest
import soundfile

from rvq.errors import InputError
from rvq.web import listening


def as_bytes(audio, rate, kind="WAV", subtype=None):
    file = io.BytesIO()
    soundfile.write(file, audio, rate, format=kind, subtype=subtype)
    return file.getvalue()


def test_encoding_agrees_with_the_codec(codec, sample_bytes):
    encoded = listening.encode(codec, sample_bytes)
    codes = codec.encode(encoded.samples[None], 24000, beam_size=1)
    np.testing.assert_array_equal(encoded.codes, codes.indices[0])
    assert encoded.latents.shape == (len(encoded.codes), 128)
    # The latents are those that were quantized: the first codeword is the nearest one.
    distances = np.linalg.norm(encoded.latents[:, None] - codec.runtime.codebooks[0], axis=2)
    assert np.mean(distances.argmin(axis=1) == encoded.codes[:, 0]) > 0.99
    assert len(encoded.file_bytes) == len(codec.runtime.codebooks)
    size = len(codec.compress(encoded.samples[None], 24000, bitrate=3, beam_size=1))
    assert encoded.file_bytes[3] == size
    assert list(encoded.file_bytes) == sorted(encoded.file_bytes)


def test_decoding_sums_of_codewords_is_decoding_codes(codec, sample_bytes):
    encoded = listening.encode(codec, sample_bytes)
    codes = codec.encode(encoded.samples[None], 24000, bitrate=3, beam_size=1)
    stages = np.arange(4)
    sums = codec.runtime.codebooks[stages, encoded.codes[:, :4]].sum(axis=1)
    samples = listening.decode(codec.runtime, sums, len(encoded.samples))
    np.testing.assert_allclose(samples, codec.decode(codes)[0], atol=1e-4)


def test_a_sample_comes_with_what_is_heard_first(codec, sample_bytes):
    sample = listening.sample(codec, "learner")
    encoded = listening.encode(codec, sample_bytes)
    np.testing.assert_array_equal(sample.codes, encoded.codes)
    codes = codec.encode(encoded.samples[None], 24000, bitrate=3, beam_size=1)
    np.testing.assert_allclose(sample.decoded, codec.decode(codes)[0], atol=1e-4)


@pytest.mark.parametrize(("kind", "subtype"), [("WAV", "FLOAT"), ("FLAC", None), ("OGG", None)])
def test_recordings_become_mono_at_the_model_s_rate(kind, subtype, speech):
    stereo = np.stack([speech[0], 0 * speech[0]], axis=1)[:48000]
    samples, seconds = listening.read_recording(as_bytes(stereo, 48000, kind, subtype), 24000)
    assert seconds == pytest.approx(1)
    assert samples.shape == (24000,)
    assert samples.std() > 0.3 * speech[0, :48000].std()


def test_no_more_is_decoded_than_wanted(speech):
    long = np.tile(speech[0], 20)
    samples, seconds = listening.read_recording(as_bytes(long, 24000), 24000)
    assert len(samples) == 30 * 24000
    assert seconds == pytest.approx(len(long) / 24000)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not audio"),
        (b"This is not audio." * 100, "not audio"),
        (as_bytes(np.zeros(0), 24000), "no sound"),
        (as_bytes(np.array([0.0, np.nan]), 24000, subtype="FLOAT"), "NaN"),
        (as_bytes(np.zeros(10), 100), "100 Hz"),
        (as_bytes(np.zeros(10), 655_350), "655350 Hz"),
        (as_bytes(np.zeros((10, 9)), 24000), "9 channels"),
    ],
    # Not the data themselves, which hold the time when they were made.
    ids=["nothing", "text", "empty", "NaN", "low rate", "high rate", "channels"],
)
def test_what_is_no_recording_is_refused(data, message):
    with pytest.raises(InputError, match=message):
        listening.read_recording(data, 24000)


def test_channels_are_not_kept_while_a_recording_is_read():
    seconds, rate = 20, 96_000
    data = as_bytes(np.zeros((seconds * rate, 8), np.int16), rate, "FLAC")
    tracemalloc.start()
    samples, _ = listening.read_recording(data, 24000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(samples) == seconds * 24000
    assert peak < 4 * seconds * rate * 4  # bytes of four channels of the eight


def test_a_damaged_tail_is_no_reason_to_fail(sample_bytes):
    samples, _ = listening.read_recording(sample_bytes[:40000], 24000)
    assert 0 < len(samples) < 4.2 * 24000


@pytest.mark.parametrize(
    ("shape", "n_samples"), [((5, 64), 0), ((0, 128), 0), ((99999, 128), 0), ((5, 128), 99999)]
)
def test_impossible_latents_are_refused(codec, shape, n_samples):
    with pytest.raises(InputError):
        listening.decode(codec.runtime, np.zeros(shape, np.float32), n_samples)


def test_absurd_latents_are_refused_and_loud_ones_are_not(codec):
    largest = np.abs(codec.runtime.codebooks).max(axis=(1, 2)).sum()
    listening.decode(codec.runtime, np.full((5, 128), largest, np.float32), 100)
    for value in (1e20, -3e38, np.inf, np.nan):
        with pytest.raises(InputError, match="latents must be within"):
            listening.decode(codec.runtime, np.full((5, 128), value, np.float32), 100)


def test_peers_are_heard_without_their_delay(codec, sample_bytes):
    if not listening.installed_peers():
        pytest.skip("neither lame nor opus-tools is installed")
    samples, _ = listening.read_recording(sample_bytes, 24000)
    for name in listening.installed_peers():
        result = listening.through_peer(name, samples, 24000)
        assert result.samples.shape == samples.shape
        assert np.corrcoef(result.samples, samples)[0, 1] > 0.8
        kbps = result.file_bytes / 125 / (len(samples) / 24000)
        assert kbps == pytest.approx(listening.PEERS[name].nominal_kbps, rel=0.4)
