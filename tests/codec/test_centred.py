"""Networks that look ahead give what they give for a whole recording, whatever the pieces."""

import numpy as np
import pytest

from rvq.codec.centred import CentredRuntime
from rvq.codec.codec import Codec
from rvq.codec.search import AngularSearch
from rvq.errors import InputError, ModelError

RATE, HOP, REACH = 1000, 4, 3


class Blurring(CentredRuntime):
    """Every frame is a weighted sum of those around it, and knows where the input ends."""

    def __init__(self):
        self.name, self.hash, self.sample_rate, self.hop_length = "blurring", "00" * 32, RATE, HOP
        self.delay, self.first_frames, self.threads, self.stretch = 0, 1, 1, 10
        self._reach = {"encoder": REACH, "decoder": REACH}
        rng = np.random.default_rng(1)
        codebooks = rng.normal(size=(3, 16, 2)).astype(np.float32)
        up, down = rng.normal(size=(2, 3, 2, 5)).astype(np.float32)
        self.codebooks = codebooks @ up
        biases = rng.normal(size=(3, 2)).astype(np.float32)
        self._search = AngularSearch(codebooks, down, biases, self.codebooks)
        self.kernel = rng.normal(size=2 * REACH + 1)
        self.calls = []

    def _run(self, part, outputs, feeds):
        (x,) = feeds.values()
        frames = x.reshape(len(x), -1, HOP if part == "encoder" else 5).astype(np.float64)
        self.calls.append(frames.shape[1])
        # One more than zero where there is nothing: a made-up edge would be noticed.
        padded = np.pad(frames - 1, ((0, 0), (REACH, REACH), (0, 0))) + 1
        windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * REACH + 1, axis=1)
        y = windows @ self.kernel
        if part == "encoder":
            return [np.pad(y, ((0, 0), (0, 0), (0, 1))).astype(np.float32)]
        audio = y[:, :, :HOP].reshape(len(x), 1, -1)
        return [audio[:, :, :-1].astype(np.float32)]  # odd strides leave the last samples out


def test_states_are_not_saved():
    codec = Codec(Blurring())
    for stream in (codec.frame_encoder, codec.frame_decoder):
        with pytest.raises(InputError, match="not causal"):
            stream(channels=1, sample_rate=RATE).save()


@pytest.mark.parametrize("n_frames", [1, 3, 9, 10, 13, 14, 23, 100])
@pytest.mark.parametrize("size", [1, 7, 40, 1000])
def test_chunks_make_what_the_whole_makes(n_frames, size):
    audio = np.random.default_rng(0).normal(size=(2, n_frames * HOP - 1)).astype(np.float32)
    whole = Blurring()
    padded = np.pad(audio, ((0, 0), (0, 1)))
    (latents,) = whole._run("encoder", [], {"audio": padded[:, None]})
    expected = whole.search(1)(latents.reshape(-1, 5), 3).reshape(2, n_frames, 3)
    codec = Codec(Blurring())
    encoder = codec.frame_encoder(channels=2, sample_rate=RATE)
    pieces = [encoder.push(audio[:, i : i + size]) for i in range(0, audio.shape[1], size)]
    codes = np.concatenate([*pieces, encoder.flush()], axis=1)
    np.testing.assert_array_equal(codes, expected)
    sums = sum(whole.codebooks[i][codes[:, :, i]] for i in range(3))
    (sound,) = whole._run("decoder", [], {"latents": sums})
    decoder = codec.frame_decoder(channels=2, sample_rate=RATE)
    pieces = [decoder.push(codes[:, i : i + size]) for i in range(0, n_frames, size)]
    audio = np.concatenate([*pieces, decoder.flush()], axis=1)
    assert audio.shape == (2, n_frames * HOP)
    np.testing.assert_allclose(audio[:, :-1], sound[:, 0], atol=1e-5)
    assert not audio[:, -1].any()
    assert max(codec.runtime.calls) <= 10 + 3 * REACH  # in bounded memory
    once = Codec(Blurring())
    once_codes = once.encode(padded, RATE)
    np.testing.assert_array_equal(once_codes.indices, codes)
    np.testing.assert_array_equal(once.decode(once_codes), audio)  # the same chunks


def test_lost_frames_fade_where_they_were():
    codec = Codec(Blurring())
    codes = np.zeros((1, 60, 3), np.int64)
    decoder = codec.frame_decoder(channels=1, sample_rate=RATE)
    parts = [decoder.push(codes[:, :20]), decoder.skip(20), decoder.push(codes[:, 40:])]
    audio = np.concatenate([*parts, decoder.flush()], axis=1)
    assert audio.shape == (1, 60 * HOP)
    expected = codec.frame_decoder(channels=1, sample_rate=RATE)
    whole = np.concatenate([expected.push(codes), expected.flush()], axis=1)
    silent = slice((20 + 2) * HOP, 40 * HOP)
    assert not audio[:, silent].any()
    for kept in (slice(0, (20 - REACH) * HOP), slice((41 + REACH) * HOP, None)):
        np.testing.assert_allclose(audio[:, kept], whole[:, kept], atol=1e-6)


def test_codewords_are_found_by_their_angle():
    rng = np.random.default_rng(2)
    codebooks = rng.normal(size=(2, 8, 3)).astype(np.float32)
    weights = rng.normal(size=(2, 3, 6)).astype(np.float32)
    biases = rng.normal(size=(2, 3)).astype(np.float32)
    codewords = rng.normal(size=(2, 8, 6)).astype(np.float32)
    latents = rng.normal(size=(50, 6)).astype(np.float32)
    codes = AngularSearch(codebooks, weights, biases, codewords)(latents, 2)
    for vector, found in zip(latents, codes, strict=True):
        residual = vector
        for book, weight, bias, words, code in zip(
            codebooks, weights, biases, codewords, found, strict=True
        ):
            low = weight @ residual + bias
            cosines = book @ low / np.linalg.norm(book, axis=1) / np.linalg.norm(low)
            assert cosines[code] == pytest.approx(cosines.max(), abs=1e-6)
            residual = residual - words[code]


def test_what_needs_a_causal_model_is_refused_in_one_sentence():
    codec = Codec(Blurring())
    for refused in (codec.stream_encoder, codec.stream_decoder):
        with pytest.raises(InputError, match="not causal: it looks ahead, so it cannot stream"):
            refused(channels=1, sample_rate=RATE)
    with pytest.raises(ModelError, match="constant bitrates only"):
        codec.encode(np.zeros((1, 90), np.float32), RATE, quality=5)
