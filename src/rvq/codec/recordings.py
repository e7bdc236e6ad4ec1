"""The samples of open recordings, and whether there are as many as there should be."""

import re
from collections.abc import Iterator
from io import BytesIO

import numpy as np
import soundfile

_SECONDS_PER_READ = 10
_CLAIMED = re.compile(r"(?:data|SSND|Data Size|[Rr]iff size|riff) *: (\d+) \(should be (\d+)\)")
"""How libsndfile's log says that a chunk is longer than the file."""
_UNKNOWN = 2**31 - 1 - 2**16
"""From here on a length means that the writer, into a pipe, did not know it."""
_PADDING = 16
_OGG_PAGE, _MP3_TAG = 2**16, 2**20
"""Bytes at the end and at the beginning that hold the last page and the tag."""


class SampleBlocks:
    """The samples of an open recording, `[n, channels]` float32, a few seconds at a time.

    They end with the recording, or where it breaks off: at damage, or where a file was cut, as far
    as its format tells (WAV and its like, AIFF, AU, Ogg, FLAC, MP3 with a Xing header).

    Args:
        audio: at its beginning.

    Attributes:
        broken: what is wrong with the recording, and where, once its samples have ended there.
    """

    def __init__(self, audio: soundfile.SoundFile) -> None:
        self._audio = audio
        self.broken: str | None = None

    def __iter__(self) -> Iterator[np.ndarray]:
        audio = self._audio
        shape = (_SECONDS_PER_READ * audio.samplerate, audio.channels)
        while self.broken is None:
            start, space = audio.tell(), np.empty(shape, np.float32)
            try:
                block = audio.read(out=space)
            except soundfile.LibsndfileError as error:  # what came before it has been decoded
                block = space[: max(0, audio.tell() - start)]
                seconds = (start + len(block)) / audio.samplerate
                self.broken = f"damaged after {seconds:.1f} s: {error.error_string.rstrip('.')}"
            if not len(block):
                if self.broken is None and _is_cut(audio):
                    self.broken = f"cut off after {start / audio.samplerate:.1f} s"
                return
            yield block


def _is_cut(audio: soundfile.SoundFile) -> bool:
    """Whether a recording that has been read to its end had a longer one once."""
    claimed = _CLAIMED.search(audio.extra_info)
    if claimed:
        size, found = map(int, claimed.groups())
        return found + _PADDING < size < _UNKNOWN
    if audio.format == "OGG":
        # Many whole files have no page that is marked as the last, so only one that is cut counts.
        end = _bytes_of(audio, -_OGG_PAGE)
        at = end.rfind(b"OggS")
        page = end[at:]
        if at < 0 or len(page) < 27:
            return at >= 0
        n_segments = page[26]
        return len(page) < 27 + n_segments + sum(page[27 : 27 + n_segments])
    if audio.format == "MP3" and audio.tell() < audio.frames:
        first = _bytes_of(audio, _MP3_TAG)
        return b"Xing" in first or b"Info" in first  # else the number of frames is a guess
    return False


def _bytes_of(audio: soundfile.SoundFile, n: int) -> bytes:
    """The first bytes of a file, or the last -n."""
    part = slice(n, None) if n < 0 else slice(n)
    if isinstance(audio.name, BytesIO):
        return bytes(audio.name.getbuffer()[part])
    with open(audio.name, "rb") as file:
        if n < 0:
            file.seek(max(n, -file.seek(0, 2)), 2)
        return file.read(abs(n))
