"""Codes and sound of models that code segments: the networks here copy samples."""

import numpy as np
import pytest

from rvq.bitstream.container import dumps, loads, trim
from rvq.codec.codec import Codec
from rvq.codec.segments import SegmentDecoder, SegmentEncoder, SegmentRuntime
from rvq.errors import InputError, ModelError

RATE, HOP, LENGTH, STRIDE = 1000, 4, 40, 36


class Copying(SegmentRuntime):
    """Latents are the means of a hop of both channels; the only codebook has them in steps."""

    def __init__(self, *, n_head=2):
        self.name, self.hash, self.sample_rate, self.hop_length = "copying", "00" * 32, RATE, HOP
        self.channels, self.length, self.stride, self.n_head = 2, LENGTH, STRIDE, n_head
        self.frames_per_segment = self.frames_per_block = n_head + LENGTH // HOP
        steps = np.linspace(-8, 8, 1024, dtype=np.float32)
        self.codebooks = np.stack([steps, np.zeros_like(steps)])[:, :, None]
        self.threads, self._searches, self.lengths = 1, {}, []

    def _run(self, part, outputs, feeds):
        if part == "decoder":
            return [np.repeat(feeds["latents"][:, :, 0], HOP, axis=1)[:, None].repeat(2, axis=1)]
        audio = feeds["audio"].mean(1)
        self.lengths.append(audio.shape[1])
        whole = np.pad(audio, ((0, 0), (0, -audio.shape[1] % HOP)))
        return [whole.reshape(1, -1, HOP).mean(2)[:, :, None]]


@pytest.fixture
def audio():
    """Steps of a hop's length, which the networks can copy, `[2, n]`."""
    levels = np.random.default_rng(0).uniform(0.1, 1, 100).astype(np.float32)
    return np.repeat(levels, HOP)[None].repeat(2, axis=0)


def through(runtime, audio, size, frames, channels=2):
    encoder = SegmentEncoder(runtime, channels=channels, sample_rate=RATE, n_codebooks=1)
    pieces = [encoder.push(audio[:, i : i + size]) for i in range(0, audio.shape[1], size)]
    codes = np.concatenate([*pieces, encoder.flush()], axis=1)
    decoder = SegmentDecoder(runtime, channels=1, sample_rate=RATE)
    n = codes.shape[1]
    pieces = [decoder.push(codes[:, i : i + frames]) for i in range(0, n, frames)]
    return codes, np.concatenate([*pieces, decoder.flush()], axis=1)


@pytest.mark.parametrize("n_head", [0, 2])
@pytest.mark.parametrize("n", [1, 4, 36, 37, 38, 39, 40, 41, 72, 75, 77, 400])
def test_sound_comes_back_and_pieces_change_nothing(audio, n, n_head):
    audio = audio[:, :n]
    runtime = Copying(n_head=n_head)
    codes, sound = through(runtime, audio, n, 1000)
    assert runtime.lengths[:-1] == [LENGTH] * (len(runtime.lengths) - 1) or n % STRIDE <= 4
    assert len(runtime.lengths) == -(-n // STRIDE)
    size = runtime.frames_per_segment
    own = -(-(n - (len(runtime.lengths) - 1) * STRIDE) // HOP)
    assert codes.shape == (1, size * (len(runtime.lengths) - 1) + n_head + own, 1)
    whole = n // HOP * HOP  # the last hop is completed by silence
    np.testing.assert_allclose(sound[:, :whole], audio[:, :whole], atol=0.01)
    assert sound.shape[1] >= n
    for pieces, frames in ((1, 1), (7, 5), (50, 13)):
        again, other = through(Copying(n_head=n_head), audio, pieces, frames)
        np.testing.assert_array_equal(again, codes)
        np.testing.assert_array_equal(other, sound)


def test_loudness_is_kept_to_a_millionth_part():
    runtime = Copying()
    for loudness in (1e-8, 1e-5, 0.3, 1.0, 20.0):
        head = runtime.head(loudness, 3)
        assert head.shape == (2, 3)
        assert not head[:, 1:].any()
        assert runtime.loudness(head) == pytest.approx(loudness, rel=2e-5)
    assert runtime.loudness(runtime.head(1e9, 1)) == 32.0


def test_the_search_sees_segments_of_one_loudness(audio):
    quiet, loud = (through(Copying(), audio * gain, 400, 1000)[0] for gain in (0.001, 1.0))
    size = Copying().frames_per_segment
    frames = np.arange(loud.shape[1]) % size
    assert (quiet[:, frames < 2] != loud[:, frames < 2]).any()
    assert (np.abs(quiet - loud)[:, frames >= 2] <= 1).all()  # sums are rounded


def test_one_channel_is_coded_as_all_of_them_and_more_are_refused(audio):
    codes, sound = through(Copying(), audio[:1], 400, 1000, channels=1)
    np.testing.assert_array_equal(codes, through(Copying(), audio, 400, 1000)[0])
    assert len(sound) == 2
    codec = Codec(Copying())
    with pytest.raises(InputError, match=r"codes 2 channels together.*the recording has 3"):
        codec.encode(np.zeros((3, 90), np.float32), RATE)
    with pytest.raises(InputError, match="have one channel, not 2"):
        codec.frame_decoder(channels=2, sample_rate=RATE)


def test_what_is_no_sound_and_no_codes_is_refused(audio):
    encoder = SegmentEncoder(Copying(), channels=2, sample_rate=RATE, n_codebooks=1)
    for wrong, message in (
        (audio * np.nan, "NaN or infinity"),
        (audio[:1], r"audio must be floating point, \[2, samples\]"),
        (np.zeros((2, 5), np.int16), "divide int16 by 32768"),
    ):
        with pytest.raises(InputError, match=message):
            encoder.push(wrong)
    decoder = SegmentDecoder(Copying(), channels=1, sample_rate=RATE)
    for codes in (np.full((1, 2, 1), 10**6), np.full((1, 2, 1), -1), np.zeros((2, 3, 1), np.int64)):
        with pytest.raises(InputError, match=r"codes must be|must have the first layer"):
            decoder.push(codes)


def test_lost_segments_are_silent_and_others_whole(audio):
    runtime = Copying()
    codes, sound = through(runtime, audio, 400, 1000)
    size = runtime.frames_per_segment
    decoder = SegmentDecoder(runtime, channels=1, sample_rate=RATE)
    pieces = [decoder.push(codes[:, :size]), decoder.skip(size), decoder.push(codes[:, 2 * size :])]
    damaged = np.concatenate([*pieces, decoder.flush()], axis=1)
    assert damaged.shape == sound.shape
    assert not damaged[:, LENGTH : 2 * STRIDE].any()
    for where in (slice(0, STRIDE), slice(STRIDE + LENGTH, None)):
        np.testing.assert_array_equal(damaged[:, where], sound[:, where])


def test_a_block_of_a_file_is_a_segment_and_cutting_keeps_the_loudness(audio):
    import io

    codec = Codec(Copying())
    codes = codec.encode(audio, RATE)
    assert codes.indices.shape[0] == 1
    assert codes.frame_rate == pytest.approx(12 * RATE / STRIDE)
    data = codec.compress(audio, RATE)
    told = {"coded together": "2 channels"}
    assert data == dumps(codes, frames_per_block=12, metadata=told)
    cut = io.BytesIO()
    header = trim(io.BytesIO(data), cut, 1).header
    assert (header.frames_per_block, header.n_blocks) == (12, 12)
    np.testing.assert_array_equal(codec.decompress(cut.getvalue()), codec.decode(codes.prefix(1)))
    np.testing.assert_array_equal(loads(data).indices, codes.indices)


def test_what_needs_a_causal_model_is_refused_in_one_sentence():
    codec = Codec(Copying())
    for refused, message in (
        (codec.stream_encoder, "not causal: it looks ahead, so it cannot stream"),
        (codec.stream_decoder, "not causal: it looks ahead, so it cannot stream"),
    ):
        with pytest.raises(InputError, match=message):
            refused(channels=2, sample_rate=RATE)
    with pytest.raises(InputError, match=r"codes segments of 0\.04 s as a whole"):
        codec.runtime.encode_whole(np.zeros((2, 90), np.float32))
    for choice in ({"quality": 5}, {"average": 3}):
        with pytest.raises(ModelError, match="constant bitrates only"):
            codec.encode(np.zeros((2, 90), np.float32), RATE, **choice)
