from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from rvq.codec.frames import FrameDecoder, FrameEncoder
from rvq.codec.models import DEFAULT_MODEL, find
from rvq.codec.runtime import Runtime, State
from rvq.codec.spectral_onnx import SpectralOnnxRuntime
from rvq.errors import InputError
from rvq.model_folder import ModelFolder


class Recording(Runtime):
    """Frames of one number, their first sample; the first call needs three of them.

    Codes count in steps of 1/32.
    """

    def __init__(self, exact):
        self.hash, self.sample_rate, self.hop_length, self.delay = "00" * 32, 1_000, 4, 0
        self.first_frames, self.stretch, self.threads = 3, 5, 1
        self.exact = exact
        self.codebooks = np.arange(100, dtype=np.float32).reshape(1, 100, 1) / 32
        self._searches = {}
        self.calls = []

    def start(self, part, channels):
        return State(np.zeros((channels, 0), np.float32), np.zeros((channels, 0), np.float32))

    def encode(self, audio, state):
        self.calls.append(audio.shape[1] // self.hop_length)
        return audio[:, :: self.hop_length, None]

    def decode(self, latents, state):
        self.calls.append(latents.shape[1])
        return np.repeat(latents[:, :, 0], self.hop_length, axis=1)


@pytest.fixture
def counted():
    return np.repeat(np.arange(23, dtype=np.float32) / 32, 4)[None]


@pytest.mark.parametrize("frames", [1, 2, 3, 7, 75, 10_000])
@pytest.mark.parametrize("threads", [1, 2])
def test_codes_and_sound_do_not_depend_on_the_pieces(codec, speech, frames, threads):
    runtime = type(codec).load(threads=threads).runtime
    expected = codec.encode(speech, 24_000, 6)
    encoder = FrameEncoder(runtime, channels=1, sample_rate=24_000, n_codebooks=8)
    step = frames * 320
    pieces = [encoder.push(speech[:, i : i + step]) for i in range(0, speech.shape[1], step)]
    indices = np.concatenate([*pieces, encoder.flush()], axis=1)
    np.testing.assert_array_equal(indices, expected.indices)
    decoder = FrameDecoder(runtime, channels=1, sample_rate=24_000)
    pieces = [decoder.push(indices[:, i : i + frames]) for i in range(0, indices.shape[1], frames)]
    audio = np.concatenate([*pieces, decoder.flush()], axis=1)
    np.testing.assert_array_equal(audio[:, : speech.shape[1]], codec.decode(expected))


def test_a_frame_is_coded_with_its_last_sample(codec, speech):
    encoder = codec.frame_encoder(channels=1, sample_rate=24_000)
    for start in range(3):
        audio = speech[:, start * 320 : (start + 1) * 320]
        assert encoder.push(audio[:, :319]).shape[1] == 0
        assert encoder.push(audio[:, 319:]).shape[1] == 1


def test_one_codec_serves_many_threads(codec, speech):
    clips = [speech[:, i * 9_000 : i * 9_000 + 20_000] for i in range(6)]
    expected = [codec.encode(clip, 24_000, 3) for clip in clips]
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda clip: codec.encode(clip, 24_000, 3), clips))
        sounds = list(pool.map(codec.decode, found))
    for a, b, sound in zip(found, expected, sounds, strict=True):
        np.testing.assert_array_equal(a.indices, b.indices)
        np.testing.assert_array_equal(sound, codec.decode(b))


def test_inexact_runtimes_see_the_same_stretches(speech, codec):
    runtime = SpectralOnnxRuntime(ModelFolder.read(find(DEFAULT_MODEL)))
    results = []
    for step in (1_000, 50_000, 10**6):
        encoder = FrameEncoder(runtime, channels=1, sample_rate=24_000, n_codebooks=8)
        starts = range(0, speech.shape[1], step)
        parts = [encoder.push(speech[:, i : i + step]) for i in starts]
        results.append(np.concatenate([*parts, encoder.flush()], axis=1))
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])
    # Another runtime settles near ties its own way, and a frame follows its first codes.
    assert (results[0] == codec.encode(speech, 24_000, 6).indices).mean() > 0.99


@pytest.mark.parametrize("step", [1, 3, 8, 12, 40, 92])
def test_first_frames_are_held_back(counted, step):
    runtime = Recording(exact=True)
    encoder = FrameEncoder(runtime, channels=1, sample_rate=1_000, n_codebooks=1)
    parts = [encoder.push(counted[:, i : i + step]) for i in range(0, 92, step)]
    assert runtime.calls[0] >= 3
    np.testing.assert_array_equal(
        np.concatenate([*parts, encoder.flush()], axis=1).ravel(), range(23)
    )
    runtime.calls.clear()
    decoder = FrameDecoder(runtime, channels=1, sample_rate=1_000)
    n = -(-step // 4)
    codes = np.arange(23)[None, :, None]
    parts = [decoder.push(codes[:, i : i + n]) for i in range(0, 23, n)]
    assert runtime.calls[0] >= 3
    np.testing.assert_array_equal(np.concatenate([*parts, decoder.flush()], axis=1), counted)


@pytest.mark.parametrize(("stretch", "calls"), [(None, [5, 5, 5, 5, 3]), (1, [3] + [1] * 20)])
def test_calls_of_inexact_runtimes_do_not_depend_on_the_pieces(counted, stretch, calls):
    for step in (1, 7, 24, 92):
        runtime = Recording(exact=False)
        encoder = FrameEncoder(
            runtime, channels=1, sample_rate=1_000, n_codebooks=1, stretch=stretch
        )
        parts = [encoder.push(counted[:, i : i + step]) for i in range(0, 92, step)]
        found = np.concatenate([*parts, encoder.flush()], axis=1)
        np.testing.assert_array_equal(found.ravel(), range(23))
        assert [n for n in runtime.calls if n] == calls


def test_a_stream_shorter_than_the_first_call_needs():
    runtime = Recording(exact=True)
    encoder = FrameEncoder(runtime, channels=1, sample_rate=1_000, n_codebooks=1)
    assert encoder.push(np.full((1, 6), 9 / 32, np.float32)).size == 0
    assert encoder.flush().shape[1] == 2  # a single call may be short
    decoder = FrameDecoder(runtime, channels=1, sample_rate=1_000)
    assert decoder.push(np.full((1, 1, 1), 9)).size == 0
    np.testing.assert_array_equal(decoder.flush(), np.full((1, 4), 9 / 32))
    assert FrameDecoder(runtime, channels=1, sample_rate=1_000).flush().size == 0


@pytest.mark.parametrize(
    "indices",
    [
        np.full((1, 2, 3), 1024),
        np.full((1, 2, 3), -2),
        np.array([[[5, -1, 5]]]),
        np.zeros((1, 2, 19), int),
        np.zeros((1, 2, 0), int),
        np.zeros((2, 2, 3), int),
        np.zeros((2, 3), int),
        np.zeros((1, 2, 3)),
        [[[1, 2]]],
    ],
)
def test_bad_codes(codec, indices):
    decoder = codec.frame_decoder(channels=1, sample_rate=24_000)
    with pytest.raises(InputError, match="must"):
        decoder.push(indices)


def test_bad_samples(codec):
    encoder = codec.frame_encoder(channels=1, sample_rate=24_000)
    for wrong in (np.zeros(9, np.float32), np.zeros((2, 9), np.float32), np.zeros((1, 9), int)):
        with pytest.raises(InputError, match="audio must be floating point"):
            encoder.push(wrong)
    with pytest.raises(InputError, match="NaN"):
        encoder.push(np.full((1, 9), np.nan, np.float32))
