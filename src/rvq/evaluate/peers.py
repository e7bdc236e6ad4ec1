"""Codecs to compare with: MP3, Opus, Vorbis, AAC and Codec 2, where they are installed."""

import io
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import numpy as np

from rvq.errors import InputError, RvqError
from rvq.evaluate.baselines import Roundtrip, System
from rvq.evaluate.ogg import packet_sizes
from rvq.evaluate.programs import (
    Audio,
    find_program,
    program_version,
    read_wav,
    run_program,
    write_wav,
)

# MPEG-1, 2 and 2.5 layer III together; LAME picks the sample rate that has the bitrate.
_MP3_KBPS = frozenset(
    (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 192, 224, 256, 320)
)


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
class Vorbis:
    """Ogg Vorbis at a nominal bitrate through oggenc and oggdec (package vorbis-tools).

    Attributes:
        kbps: the nominal bitrate, 8 to 500; what oggenc takes depends on sample rate and channels.
    """

    kbps: int
    family = "Vorbis"

    def __post_init__(self) -> None:
        if not 8 <= self.kbps <= 500:
            raise InputError(f"oggenc takes 8 to 500 kbps, got {self.kbps}")

    @property
    def name(self) -> str:
        """Such as "Vorbis 32"."""
        return f"Vorbis {self.kbps}"

    @property
    def nominal_kbps(self) -> float:
        """The nominal bitrate."""
        return float(self.kbps)

    @property
    def version(self) -> str:
        """The version of vorbis-tools."""
        find_program("oggdec")
        return program_version("oggenc", "--version")

    def roundtrip(self, audio: Audio, sample_rate: int) -> Roundtrip:
        """See `System.roundtrip`; the payload leaves out the three headers too."""
        with tempfile.TemporaryDirectory(prefix="rvq-") as folder:
            wav, ogg, decoded = (Path(folder, name) for name in ("in.wav", "x.ogg", "out.wav"))
            write_wav(wav, audio, sample_rate)
            # Managed, for otherwise speech stays at half of what was asked for.
            rate = ["--managed", "-b", str(self.kbps)]
            run_program(["oggenc", "-Q", *rate, "-o", str(ogg), str(wav)])
            run_program(["oggdec", "-Q", "-o", str(decoded), str(ogg)])
            data = ogg.read_bytes()
            return Roundtrip(read_wav(decoded, sample_rate), len(data), sum(packet_sizes(data)[3:]))


@dataclass(frozen=True)
class Codec2:
    """Codec 2 for speech at 8 kHz, one channel, through c2enc and c2dec (package codec2).

    Attributes:
        kbps: 3.2, 2.4, 1.6, 1.4, 1.3 or 1.2.
    """

    kbps: float
    family = "Codec 2"

    def __post_init__(self) -> None:
        if self.kbps not in (3.2, 2.4, 1.6, 1.4, 1.3, 1.2):
            raise InputError(f"Codec 2 has 3.2, 2.4, 1.6, 1.4, 1.3, 1.2 kbps, got {self.kbps}")

    @property
    def name(self) -> str:
        """Such as "Codec 2 3.2"."""
        return f"Codec 2 {self.kbps:g}"

    @property
    def nominal_kbps(self) -> float:
        """The constant bitrate."""
        return self.kbps

    @property
    def version(self) -> str:
        """Only that it is there: c2enc does not say its version."""
        find_program("c2dec")
        return find_program("c2enc") and "c2enc"

    def roundtrip(self, audio: Audio, sample_rate: int) -> Roundtrip:
        """See `System.roundtrip`."""
        import soxr

        if len(audio) != 1:
            raise InputError(f"Codec 2 takes one channel, got {len(audio)}")
        mode = str(round(self.kbps * 1000))
        with tempfile.TemporaryDirectory(prefix="rvq-") as folder:
            raw, coded, out = (Path(folder, name) for name in ("in.raw", "x.bin", "out.raw"))
            narrow = soxr.resample(audio[0], sample_rate, 8000)
            raw.write_bytes(np.rint(np.clip(narrow, -1, 1) * 32767).astype("<i2").tobytes())
            run_program(["c2enc", mode, str(raw), str(coded)])
            run_program(["c2dec", mode, str(coded), str(out)])
            decoded = np.frombuffer(out.read_bytes(), "<i2").astype(np.float32) / 32768
            n_bytes = coded.stat().st_size
            return Roundtrip(soxr.resample(decoded, 8000, sample_rate)[None], n_bytes, n_bytes)


@dataclass(frozen=True)
class Aac:
    """AAC-LC by FFmpeg's encoder, through PyAV (`pip install av`), in an ADTS stream.

    Attributes:
        kbps: the target, 8 to 320.
    """

    kbps: int
    family = "AAC"

    def __post_init__(self) -> None:
        if not 8 <= self.kbps <= 320:
            raise InputError(f"AAC takes 8 to 320 kbps, got {self.kbps}")

    @property
    def name(self) -> str:
        """Such as "AAC 32"."""
        return f"AAC {self.kbps}"

    @property
    def nominal_kbps(self) -> float:
        """The target."""
        return float(self.kbps)

    @property
    def version(self) -> str:
        """PyAV's version."""
        try:
            return f"PyAV {metadata.version('av')}"
        except metadata.PackageNotFoundError:
            raise _missing_av() from None

    def roundtrip(self, audio: Audio, sample_rate: int) -> Roundtrip:
        """See `System.roundtrip`; up to two channels. The payload leaves out the ADTS headers."""
        av = _av()
        if len(audio) > 2:
            raise InputError(f"AAC takes one or two channels here, got {len(audio)}")
        layout = "stereo" if len(audio) == 2 else "mono"
        file = io.BytesIO()
        payload = 0
        try:
            with av.open(file, "w", format="adts") as container:
                stream = container.add_stream("aac", rate=sample_rate, layout=layout)
                stream.bit_rate = self.kbps * 1000
                sound = np.ascontiguousarray(np.clip(audio, -1, 1), np.float32)
                frame = av.AudioFrame.from_ndarray(sound, format="fltp", layout=layout)
                frame.sample_rate = sample_rate
                for packet in [*stream.encode(frame), *stream.encode(None)]:
                    payload += packet.size
                    container.mux(packet)
            data = file.getvalue()
            with av.open(io.BytesIO(data), format="aac") as container:
                frames = [frame.to_ndarray() for frame in container.decode(audio=0)]
        except av.FFmpegError as error:
            raise RvqError(f"AAC failed at {sample_rate} Hz: {error}") from None
        decoded = np.concatenate(frames, axis=1) if frames else np.zeros_like(audio)
        return Roundtrip(decoded.astype(np.float32), len(data), payload)


PEERS: dict[str, Callable[[float], System]] = {
    "mp3": lambda kbps: Mp3(_whole(kbps)),
    "opus": Opus,
    "vorbis": lambda kbps: Vorbis(_whole(kbps)),
    "aac": lambda kbps: Aac(_whole(kbps)),
    "codec2": Codec2,
}
"""By the names that the command line has for them."""
_PROGRAMS = {
    "mp3": ("lame",),
    "opus": ("opusenc", "opusdec"),
    "vorbis": ("oggenc", "oggdec"),
    "codec2": ("c2enc", "c2dec"),
}


def is_installed(peer: str) -> bool:
    """Whether one of `PEERS` can run here."""
    if peer == "aac":
        try:
            return bool(metadata.version("av"))
        except metadata.PackageNotFoundError:
            return False
    return all(map(shutil.which, _PROGRAMS[peer]))


def _whole(kbps: float) -> int:
    if not float(kbps).is_integer():
        raise InputError(f"this codec takes whole kbps, got {kbps}")
    return int(kbps)


def _av() -> Any:
    try:
        return import_module("av")
    except ImportError:
        raise _missing_av() from None


def _missing_av() -> RvqError:
    return RvqError("AAC needs PyAV; install it with: pip install av")
