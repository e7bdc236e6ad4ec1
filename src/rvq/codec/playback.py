"""Compressed files to the loudspeaker."""

from pathlib import Path
from typing import Any

from rvq.bitstream.container import Reader
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


def play_file(path: Path, model: str | None) -> None:
    """Decode and play block by block, with a model as `codec_for` finds it.

    Raises:
        InputError: sounddevice is not installed or there is no sound device.
    """
    with open_rvq(path) as file:
        codec = codec_for(path, model)
        reader = Reader(file, entropy=codec.entropy)
        header = reader.header
        codec.check_model(header.model.hex())
        sounddevice = sound_devices()
        decoder = codec.frame_decoder(channels=header.channels, sample_rate=header.sample_rate)
        try:
            with sounddevice.OutputStream(
                samplerate=header.sample_rate,
                channels=header.channels * codec.runtime.channels,
                dtype="float32",
            ) as device:
                for block in reader.blocks():
                    if block.indices is None:
                        samples = decoder.skip(block.n_frames)
                    else:
                        samples = decoder.push(block.indices)
                    device.write(samples.T.copy())
                device.write(decoder.flush().T.copy())
        except sounddevice.PortAudioError as error:
            raise InputError(f"there is no sound device to play on ({error})") from None
