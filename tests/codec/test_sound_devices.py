"""Playing and talking, with devices that only write down what they are given."""

import types

import pytest

from rvq.codec import live, playback
from rvq.errors import InputError


class Device:
    """Takes samples, and gives those of a recording."""

    def __init__(self, samples=None):
        self.samples, self.written = samples, []

    def __call__(self, **settings):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def read(self, n):
        part, self.samples = self.samples[:n], self.samples[n:]
        return part, False

    def write(self, samples):
        self.written.append(len(samples))


@pytest.fixture
def device(monkeypatch, speech):
    device = Device(speech[0, :48_000, None])
    module = types.SimpleNamespace(Stream=device, OutputStream=device, PortAudioError=OSError)
    for user in (live, playback):
        monkeypatch.setattr(user, "sound_devices", lambda: module)
    return device


@pytest.mark.parametrize("loss", [0.0, 0.3])
def test_the_loudspeaker_never_waits_for_lost_packets(codec, device, loss):
    live.talk(codec, bitrate=6, loss=loss, seconds=1)
    # Silence ahead, frames that the decoder still looks ahead for, then every frame in its time.
    assert device.written == [640, 0, 0] + [320] * 73


@pytest.mark.parametrize("wrong", [0, -3, float("nan"), float("inf")])
def test_nobody_talks_for_no_time_or_for_ever(codec, device, wrong):
    with pytest.raises(InputError, match="seconds must be above 0"):
        live.talk(codec, seconds=wrong)
    assert not device.written


def test_playing_tells_damage(codec, speech, device, tmp_path):
    path = tmp_path / "x.rvq"
    data = codec.compress(speech[:, :24_000], 24_000, bitrate=1.5)
    path.write_bytes(data)
    assert not playback.play_file(path, None).noticed
    assert sum(device.written) == 24_000
    path.write_bytes(data[:-20])
    assert playback.play_file(path, None).noticed
