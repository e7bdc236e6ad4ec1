"""From the microphone through the codec to the loudspeaker."""

import math

import numpy as np

from rvq.codec.codec import Codec
from rvq.codec.playback import sound_devices
from rvq.errors import InputError


def talk(
    codec: Codec, *, bitrate: float | None = None, loss: float = 0.0, seconds: float | None = None
) -> None:
    """Hear yourself as the other end of a call would.

    Args:
        codec: the model.
        bitrate: kbps; default the model's highest.
        loss: share of packets that are thrown away, to hear how they are concealed.
        seconds: how long; default until interrupted.

    Raises:
        InputError: loss or seconds out of range, no sounddevice, or no sound device.
    """
    if not 0 <= loss < 1:
        raise InputError(f"loss must be at least 0 and below 1, got {loss:g}")
    if seconds is not None and not 0 < seconds < math.inf:
        raise InputError(f"seconds must be above 0, got {seconds:g}")
    runtime = codec.runtime
    rate, hop = runtime.sample_rate, runtime.hop_length
    encoder = codec.stream_encoder(channels=1, sample_rate=rate, bitrate=bitrate)
    decoder = codec.stream_decoder(channels=1, sample_rate=rate)
    random = np.random.default_rng(0)
    n_frames = None if seconds is None else int(seconds * runtime.frame_rate)
    sounddevice = sound_devices()
    try:
        with sounddevice.Stream(
            samplerate=rate, blocksize=hop, channels=1, dtype="float32", latency="low"
        ) as device:
            device.write(np.zeros((2 * hop, 1), np.float32))  # against gaps while others compute
            while n_frames is None or n_frames > 0:
                samples, _ = device.read(hop)
                for packet in encoder.push(samples.T):
                    arrives = random.random() >= loss
                    sound = decoder.push(packet) if arrives else decoder.conceal()
                    device.write(sound.T.copy())
                n_frames = None if n_frames is None else n_frames - 1
    except sounddevice.PortAudioError as error:
        raise InputError(f"cannot use microphone and loudspeaker ({error})") from None
