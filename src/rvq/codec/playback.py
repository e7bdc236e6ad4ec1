"""Compressed files to the loudspeaker."""

from pathlib import Path
from typing import Any

from rvq.codec.decoding import Damage, FileDecoder
from rvq.codec.files import codec_for, open_rvq
from rvq.errors import InputError


def sound_devices() -> Any:
    """The module sounddevice.

    Raises:
        InputError: it is not installed.
    """
    try:
        import sounddevice
    except (ImportError, OSError) as error:
        raise InputError(
            f"sound devices need PortAudio and `pip install 'rvq[play]'` ({error})"
        ) from None
    return sounddevice


def play_file(path: Path, model: str | None) -> Damage:
    """Decode and play block by block, with a model as `codec_for` finds it.

    Raises:
        InputError: sounddevice is not installed, or no sound device takes such sound.
    """
    with open_rvq(path) as file:
        codec = codec_for(path, model)
        decoder = FileDecoder(codec, file)
        sounddevice = sound_devices()
        try:
            with sounddevice.OutputStream(
                samplerate=decoder.header.sample_rate,
                channels=decoder.header.channels * codec.runtime.channels,
                dtype="float32",
            ) as device:
                for samples in decoder.pieces():
                    device.write(samples.T.copy())
        except sounddevice.PortAudioError as error:
            raise InputError(f"cannot play it on this sound device ({error})") from None
    return decoder.damage
