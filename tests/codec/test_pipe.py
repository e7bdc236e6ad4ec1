import io
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from rvq.codec.pipe import decode_pipe, encode_pipe
from rvq.errors import FormatError, InputError, ModelError


class Trickle(io.RawIOBase):
    """Input that comes a few bytes at a time."""

    def __init__(self, data):
        self.data, self.random = data, np.random.default_rng(0)

    def readable(self):
        return True

    def readinto(self, buffer):
        n = min(int(self.random.integers(1, 3_000)), len(buffer))
        chunk, self.data = self.data[:n], self.data[n:]
        buffer[: len(chunk)] = chunk
        return len(chunk)


@pytest.fixture(scope="module")
def pcm(speech):
    return np.rint(speech[0, :24_000] * 32768).astype("<i2")


@pytest.fixture(scope="module")
def stream(codec, pcm):
    target = io.BytesIO()
    source = io.BufferedReader(Trickle(pcm.tobytes()))
    encode_pipe(codec, source, target, sample_rate=24_000, bitrate=6)
    return target.getvalue()


def test_samples_survive_as_they_do_in_files(codec, pcm, stream):
    target = io.BytesIO()
    decode_pipe(codec, io.BufferedReader(Trickle(stream)), target, sample_format="f32le")
    audio = pcm[None].astype(np.float32) / 32768
    expected = codec.decode(codec.encode(audio, 24_000, 6))[0]
    heard = np.frombuffer(target.getvalue(), "<f4")
    np.testing.assert_array_equal(heard[: len(expected)], expected)
    again = io.BytesIO()
    assert decode_pipe(None, io.BytesIO(stream), again)  # the model that its head names
    whole = np.frombuffer(again.getvalue(), "<i2")
    np.testing.assert_allclose(whole / 32768, heard, atol=0.51 / 32768)


def test_stereo_floats(codec, speech):
    audio = np.stack([speech[0, :9_600], speech[0, 9_600:19_200]])
    packets, target = io.BytesIO(), io.BytesIO()
    source = io.BytesIO(np.ascontiguousarray(audio.T).tobytes())
    encode_pipe(codec, source, packets, sample_rate=24_000, channels=2, sample_format="f32le")
    packets.seek(0)
    decode_pipe(codec, packets, target, sample_format="f32le")
    heard = np.frombuffer(target.getvalue(), "<f4").reshape(-1, 2).T
    expected = codec.decode(codec.encode(audio, 24_000))
    np.testing.assert_array_equal(heard[:, : audio.shape[1]], expected)


def test_what_breaks_off_is_heard_so_far(codec, stream):
    target = io.BytesIO()
    assert not decode_pipe(codec, io.BytesIO(stream[:500]), target)
    assert not decode_pipe(codec, io.BytesIO(stream + b"\0"), io.BytesIO())
    assert len(target.getvalue()) == 2 * 320 * ((500 - 18) // 14 - 2)


def test_what_is_no_stream(codec, stream):
    for data in (b"", b"RIFF" * 10, stream[:10]):
        with pytest.raises(FormatError, match="not a stream"):
            decode_pipe(codec, io.BytesIO(data), io.BytesIO())
    with pytest.raises(FormatError, match="upgrade"):
        decode_pipe(codec, io.BytesIO(stream[:4] + b"\7" + stream[5:]), io.BytesIO())
    with pytest.raises(FormatError, match="damaged"):
        decode_pipe(codec, io.BytesIO(stream[:5] + b"\0" + stream[6:]), io.BytesIO())
    with pytest.raises(ModelError):
        decode_pipe(codec, io.BytesIO(stream[:10] + bytes(8) + stream[18:]), io.BytesIO())


def test_bad_arguments(codec):
    for wrong in ({"channels": 0}, {"sample_format": "mp3"}, {"bitrate": 99}, {"sample_rate": 1}):
        with pytest.raises(InputError):
            encode_pipe(
                codec, io.BytesIO(bytes(8)), io.BytesIO(), **({"sample_rate": 24_000} | wrong)
            )


@pytest.mark.parametrize("ending", ["WAV", "FLAC", "OGG"])
def test_files_are_not_taken_for_samples(codec, speech, ending):
    file = io.BytesIO()
    soundfile.write(file, speech[0], 24_000, format=ending)
    file.seek(0)
    with pytest.raises(InputError, match="this is a file"):
        encode_pipe(codec, file, io.BytesIO(), sample_rate=24_000)


def test_nothing_is_written_that_cannot_be_gone_on_with(codec):
    target = io.BytesIO()
    with pytest.raises(InputError):
        encode_pipe(codec, io.BytesIO(bytes(8)), target, sample_rate=24_000, sample_format="s24le")
    assert not target.getvalue()


@pytest.mark.parametrize("value", [np.nan, 3e4])
def test_no_head_is_written_before_the_samples_are_looked_at(codec, value):
    target = io.BytesIO()
    for data, kind in ((np.full(400, value, "<f4").tobytes(), "f32le"), (b"RIFF" * 99, "s16le")):
        with pytest.raises(InputError):
            encode_pipe(codec, io.BytesIO(data), target, sample_rate=24_000, sample_format=kind)
    assert not target.getvalue()
    encode_pipe(codec, io.BytesIO(), target, sample_rate=24_000)
    assert target.getvalue().startswith(b"RVQS")


def test_input_that_ends_within_a_sample_is_said_to(codec, pcm):
    whole = pcm[:9_600].tobytes()
    for cut in (1, 2, 3):
        expected, target = io.BytesIO(), io.BytesIO()
        encode_pipe(codec, io.BytesIO(whole), expected, sample_rate=24_000, channels=2)
        source = io.BufferedReader(Trickle(whole + bytes(cut)))
        with pytest.raises(InputError, match=f"ends {cut} of 4 bytes into a sample"):
            encode_pipe(codec, source, target, sample_rate=24_000, channels=2)
        assert target.getvalue() == expected.getvalue()


def test_the_commands_make_a_pipe(pcm, stream):
    rvq = [sys.executable, "-c", "import sys; from rvq.cli import main; main()", "stream"]
    sent = subprocess.run([*rvq, "encode"], input=pcm.tobytes(), capture_output=True, check=True)
    assert sent.stdout == stream
    heard = subprocess.run([*rvq, "decode"], input=sent.stdout, capture_output=True, check=True)
    assert len(heard.stdout) == len(pcm) * 2
    wrong = subprocess.run([*rvq, "decode"], input=b"no stream at all...", capture_output=True)
    assert wrong.returncode == 1
    assert wrong.stderr.decode().startswith("rvq: this is not a stream")
    cut = subprocess.run([*rvq, "decode"], input=sent.stdout[:-3], capture_output=True)
    assert cut.returncode == 3
    assert len(cut.stdout) > 40_000
    assert "cut" in cut.stderr.decode()
    odd = subprocess.run([*rvq, "encode"], input=pcm.tobytes() + b"\0", capture_output=True)
    assert (odd.returncode, odd.stdout) == (1, stream)
    assert odd.stderr.startswith(b"rvq: the input ends 1 of 2 bytes into a sample")
    file = subprocess.run([*rvq, "encode"], input=b"RIFF" + pcm.tobytes(), capture_output=True)
    assert (file.returncode, file.stdout) == (1, b"")


def test_missing_and_damaged_packets_are_told(codec, stream):
    size = 14  # of a packet at 6 kbps with its length
    at = 18 + 20 * size
    without, odd = stream[:at] + stream[at + size :], bytearray(stream)
    odd[at + 3] ^= 31  # another number of codebooks than its length has room for
    twice = stream[:at] + stream[at - size :]
    for damaged in (without, bytes(odd), twice):
        assert not decode_pipe(codec, io.BytesIO(damaged), io.BytesIO())
