"""Samples of any file that soundfile reads, or PyAV where it is installed, in pieces."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile

from rvq.codec.recordings import SampleBlocks
from rvq.errors import InputError

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Recording:
    """An open recording.

    Attributes:
        sample_rate: Hz.
        channels: number of them.
        blocks: the samples in pieces, `[channels, any]` float32; raises `InputError` where the
            file turns out damaged.
    """

    sample_rate: int
    channels: int
    blocks: Iterator[Floats]


@contextmanager
def open_recording(file: str | bytes) -> Iterator[Recording]:
    """Open the file at a path, or the bytes of one.

    Raises:
        InputError: not audio, or not to be read.
    """
    if isinstance(file, str) and not Path(file).is_file():
        raise InputError("no such file")
    try:
        audio = soundfile.SoundFile(BytesIO(file) if isinstance(file, bytes) else file)
    except (soundfile.LibsndfileError, TypeError) as error:
        reason = getattr(error, "error_string", str(error)).rstrip(".")
        with _open_with_av(file, reason) as recording:
            yield recording
        return
    with audio:
        yield Recording(audio.samplerate, audio.channels, _blocks(audio))


def _blocks(audio: soundfile.SoundFile) -> Iterator[Floats]:
    blocks = SampleBlocks(audio)
    for block in blocks:
        yield block.T
    if blocks.broken:
        raise InputError(blocks.broken)


@contextmanager
def _open_with_av(file: str | bytes, reason: str) -> Iterator[Recording]:
    try:
        import av
    except ImportError:
        raise InputError(f"not audio that soundfile reads ({reason}); PyAV may") from None
    try:
        with av.open(BytesIO(file) if isinstance(file, bytes) else file) as container:
            if not container.streams.audio:
                raise InputError("holds no audio")
            stream = container.streams.audio[0]
            rate, channels = stream.codec_context.sample_rate, stream.codec_context.channels
            if not rate or not channels:
                raise InputError("not audio that can be read")
            yield Recording(rate, channels, _av_blocks(container, stream))
    except av.FFmpegError as error:
        raise InputError(f"not audio that can be read ({error.strerror})") from None


def _av_blocks(container: Any, stream: Any) -> Iterator[Floats]:
    import av

    layout, rate = stream.codec_context.layout, stream.codec_context.sample_rate
    to_floats = av.AudioResampler(format="fltp", layout=layout, rate=rate)
    for frame in container.decode(stream):
        for part in to_floats.resample(frame):
            yield part.to_ndarray().astype(np.float32, copy=False)
    for part in to_floats.resample(None):
        yield part.to_ndarray().astype(np.float32, copy=False)
