"""Codecs to measure: each turns a recording into bytes and back.

`Mp3` and `Opus` run their reference programs, `RvqCodec` this package, `Command` anything else.
All are small frozen dataclasses: they travel to worker processes and open what they need there.
"""

import shlex
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rvq.bitstream.header import Header
from rvq.errors import InputError
from rvq.evaluate.ogg import packet_sizes
from rvq.evaluate.programs import (
    Audio,
    find_program,
    program_version,
    read_wav,
    run_program,
    write_wav,
)

if TYPE_CHECKING:
    from rvq.codec.codec import Codec

# MPEG-1, 2 and 2.5 layer III together; LAME picks the sample rate that has the bitrate.
_MP3_KBPS = frozenset(
    (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 192, 224, 256, 320)
)


@dataclass(frozen=True, eq=False)
class Roundtrip:
    """A recording after compression and decompression.

    Attributes:
        audio: what came back, `[channels, samples]` at the sample rate that went in; it may still
            be delayed and of another length.
        n_bytes: size of the compressed file.
        payload_bytes: size of the coded audio in it without container, or None if not known.
    """

    audio: Audio
    n_bytes: int
    payload_bytes: int | None = None


class System(Protocol):
    """A codec at one setting. Picklable; nothing heavy is opened before `roundtrip`."""

    @property
    def name(self) -> str:
        """What tells it apart in tables, such as "Opus 12"."""

    @property
    def family(self) -> str:
        """The codec without its setting; a table groups by it."""

    @property
    def nominal_kbps(self) -> float:
        """The bitrate it is asked for, in kbps; the true one is measured."""

    @property
    def version(self) -> str:
        """Which implementation runs: program and library version, or the model's hash.

        Raises:
            RvqError: the implementation is not installed.
        """

    def roundtrip(self, audio: Audio, sample_rate: int) -> Roundtrip:
        """Compress and decompress.

        Args:
            audio: `[channels, samples]` in [-1, 1].
            sample_rate: its rate in Hz.

        Raises:
            RvqError: the codec is not installed, or cannot take this recording.
        """


@dataclass(frozen=True)
class Mp3:
    """MP3 at a constant bitrate through LAME, at the sample rate LAME chooses.

    Attributes:
        kbps: one of the bitrates of MPEG layer III, 8 to 320.
    """

    kbps: int
    family = "MP3"

    def __post_init__(self) -> None:
        if self.kbps not in _MP3_KBPS:
            raise InputError(f"MP3 has no bitrate of {self.kbps} kbps; try {sorted(_MP3_KBPS)}")

    @property
    def name(self) -> str:
        """Such as "MP3 32"."""
        return f"MP3 {self.kbps}"

    @property
    def nominal_kbps(self) -> float:
        """The constant bitrate."""
        return float(self.kbps)

    @property
    def version(self) -> str:
        """LAME's version."""
        return program_version("lame", "--version")

    def roundtrip(self, audio: Audio, sample_rate: int) -> Roundtrip:
        """See `System.roundtrip`; up to two channels."""
        if len(audio) > 2:
            raise InputError(f"MP3 takes one or two channels, got {len(audio)}")
        with tempfile.TemporaryDirectory(prefix="rvq-") as folder:
            wav, mp3, decoded = (Path(folder, name) for name in ("in.wav", "x.mp3", "out.wav"))
            write_wav(wav, audio, sample_rate)
            run_program(["lame", "--quiet", "--cbr", "-b", str(self.kbps), str(wav), str(mp3)])
            run_program(["lame", "--quiet", "--decode", str(mp3), str(decoded)])
            return Roundtrip(read_wav(decoded, sample_rate), mp3.stat().st_size)


@dataclass(frozen=True)
class Opus:
    """Opus at a variable bitrate through opusenc and opusdec (package opus-tools).

    Ogg adds 1 to 2 kbps on short clips even without tags: compare by payload.

    Attributes:
        kbps: the target, 6 to 256 per channel; short clips of speech come out up to a third
            above or below it.
    """

    kbps: float
    family = "Opus"

    def __post_init__(self) -> None:
        if not 6 <= self.kbps <= 512:
            raise InputError(f"opusenc takes 6 to 256 kbps per channel, got {self.kbps}")

    @property
    def name(self) -> str:
        """Such as "Opus 12"."""
        return f"Opus {self.kbps:g}"

    @property
    def nominal_kbps(self) -> float:
        """The target of the variable bitrate."""
        return float(self.kbps)

    @property
    def version(self) -> str:
        """Versions of opus-tools and of libopus."""
        find_program("opusdec")
        return program_version("opusenc", "--version")

    def roundtrip(self, audio: Audio, sample_rate: int) -> Roundtrip:
        """See `System.roundtrip`."""
        with tempfile.TemporaryDirectory(prefix="rvq-") as folder:
            wav, opus, decoded = (Path(folder, name) for name in ("in.wav", "x.opus", "out.wav"))
            write_wav(wav, audio, sample_rate)
            lean = ["--padding", "0", "--discard-comments"]  # no room for tags nobody writes
            rate = ["--bitrate", f"{self.kbps:g}"]
            run_program(["opusenc", "--quiet", *lean, *rate, str(wav), str(opus)])
            # 48 kHz is Opus's own rate: its output is resampled here like every other system's.
            run_program(
                ["opusdec", "--quiet", "--rate", "48000", "--float", str(opus), str(decoded)]
            )
            data = opus.read_bytes()
            payload = sum(packet_sizes(data)[2:])  # after OpusHead and OpusTags
            return Roundtrip(read_wav(decoded, sample_rate), len(data), payload)


@dataclass(frozen=True)
class RvqCodec:
    """A model of this package at one bitrate; the payload is codes without header and checksums.

    Attributes:
        model: name or path of a model for `rvq.Codec.load`, opened once in every process.
        kbps: the bitrate asked for.
        family: prefix of the name; set it to tell models apart.
    """

    model: str | Path
    kbps: float
    family: str = "rvq"

    @property
    def name(self) -> str:
        """Such as "rvq 6"."""
        return f"{self.family} {self.kbps:g}"

    @property
    def nominal_kbps(self) -> float:
        """The bitrate asked for."""
        return float(self.kbps)

    @property
    def version(self) -> str:
        """The model's content hash."""
        return _load_codec(self.model).model_hash

    def roundtrip(self, audio: Audio, sample_rate: int) -> Roundtrip:
        """See `System.roundtrip`."""
        codec = _load_codec(self.model)
        data = codec.compress(audio, sample_rate, bitrate=self.kbps)
        payload = Header.from_bytes(data).payload_size
        return Roundtrip(codec.decompress(data), len(data), payload)


@dataclass(frozen=True)
class Command:
    """Any other codec, as a program that reads a wav file and writes the decoded wav file.

    Attributes:
        name: what tells it apart in tables; include its setting.
        template: the command line with `{input}` and `{output}` where the two paths go, split
            like a shell's but run without one.
        kbps: its true bitrate, taken on trust as file and payload size.
        family: groups its settings in a table.

    Example:
        >>> Command("copy", "cp {input} {output}", kbps=256).nominal_kbps
        256.0
    """

    name: str
    template: str
    kbps: float
    family: str = "command"

    def __post_init__(self) -> None:
        if "{input}" not in self.template or "{output}" not in self.template:
            raise InputError(
                f"the command {self.template!r} must contain {{input}} and {{output}}, "
                "where the paths of the wav files go"
            )
        if not self.kbps > 0:
            raise InputError(f"the bitrate of {self.name!r} must be above 0, got {self.kbps}")

    @property
    def nominal_kbps(self) -> float:
        """The stated bitrate."""
        return float(self.kbps)

    @property
    def version(self) -> str:
        """The command line: what it runs is not known here."""
        find_program(shlex.split(self.template)[0])
        return self.template

    def roundtrip(self, audio: Audio, sample_rate: int) -> Roundtrip:
        """See `System.roundtrip`."""
        with tempfile.TemporaryDirectory(prefix="rvq-") as folder:
            wav, decoded = Path(folder, "in.wav"), Path(folder, "out.wav")
            write_wav(wav, audio, sample_rate)
            run_program(
                [
                    word.replace("{input}", str(wav)).replace("{output}", str(decoded))
                    for word in shlex.split(self.template)
                ]
            )
            n_bytes = round(self.kbps * 125 * audio.shape[-1] / sample_rate)
            return Roundtrip(read_wav(decoded, sample_rate), n_bytes, n_bytes)


@lru_cache
def _load_codec(model: str | Path) -> "Codec":
    from rvq.codec.codec import Codec

    return Codec.load(model)
