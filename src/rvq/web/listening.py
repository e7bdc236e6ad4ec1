"""What the page asks of the codec: recordings in, codes and latents, sound from edited latents."""

import io
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rvq.bitstream.container import dumps, trim
from rvq.codec.codec import Codec
from rvq.codec.frames import check_samples
from rvq.codec.runtime import Runtime
from rvq.errors import InputError
from rvq.evaluate.baselines import System
from rvq.evaluate.metrics import align
from rvq.evaluate.peers import Mp3, Opus, is_installed
from rvq.web.tensors import pack

if TYPE_CHECKING:
    import soundfile

Floats = npt.NDArray[np.float32]

MAX_BYTES = 25_000_000
"""The largest upload."""
MAX_SECONDS = 30
"""How much of a recording is used."""
MAX_RATE = 192_000
"""The highest sample rate of a recording, Hz."""
FIRST_CODEBOOKS = 4
"""What the page plays first."""
PEERS: dict[str, System] = {
    "opus-6": Opus(6),
    "opus-12": Opus(12),
    "opus-24": Opus(24),
    "mp3-16": Mp3(16),
    "mp3-32": Mp3(32),
}
"""Other codecs that the page offers where their programs are installed."""
SAMPLES = Path(__file__).parent / "samples"
"""The shipped recordings and `samples.json`, which describes them."""


@dataclass(frozen=True, eq=False)
class Encoded:
    """A recording as the page shows it.

    Attributes:
        samples: mono, at the model's rate, `[n_samples]`.
        seconds_read: length of the recording before it was cut to `MAX_SECONDS`; nan if unknown.
        latents: `[n_frames, dim]`, before quantization.
        codes: `[n_frames, n_codebooks]`.
        file_bytes: size of the `.rvq` file with 1, 2, ... codebooks.
        decoded: from the first `FIRST_CODEBOOKS`, `[n_samples]`, where that was made beforehand.
    """

    samples: Floats
    seconds_read: float
    latents: Floats
    codes: npt.NDArray[np.int32]
    file_bytes: tuple[int, ...]
    decoded: Floats | None = None

    def to_bytes(self) -> bytes:
        """For the page; see `rvq.web.tensors`."""
        arrays = {"samples": self.samples, "latents": self.latents, "codes": self.codes}
        if self.decoded is not None:
            arrays["decoded"] = self.decoded
        return pack(arrays, seconds_read=self.seconds_read, file_bytes=list(self.file_bytes))


@dataclass(frozen=True, eq=False)
class PeerResult:
    """A recording after another codec.

    Attributes:
        samples: without the codec's delay, `[n_samples]`.
        file_bytes: size of its file.
        payload_bytes: size of the coded audio in it, or None if not known.
    """

    samples: Floats
    file_bytes: int
    payload_bytes: int | None


def read_recording(data: bytes, sample_rate: int) -> tuple[Floats, float]:
    """The bytes of an audio file -> mono samples `[n]` at `sample_rate`, and its length in seconds.

    Nothing is written anywhere, and no more than `MAX_SECONDS` is decoded, whatever a file claims;
    of what a few kilobytes of silence unpack to, one second of all channels is kept at a time.

    Raises:
        InputError: not audio, empty, not finite, or of an absurd rate or number of channels.
    """
    import soundfile
    import soxr

    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            rate, length = file.samplerate, file.frames / file.samplerate
            if not 1000 <= rate <= MAX_RATE or file.channels > 8:
                raise InputError(
                    f"a recording of {rate} Hz and {file.channels} channels is not taken: "
                    f"1 to {MAX_RATE // 1000} kHz and up to 8 channels are"
                )
            mono = np.concatenate([np.empty(0, np.float32), *map(_mix, _seconds(file))])
    except (soundfile.LibsndfileError, ZeroDivisionError):
        raise InputError(
            "this is not audio that can be read here; WAV, FLAC, Ogg and MP3 are"
        ) from None
    if not len(mono):
        raise InputError("this recording holds no sound")
    length = max(length, len(mono) / rate)
    if rate != sample_rate:
        mono = soxr.resample(mono, rate, sample_rate)
    return np.ascontiguousarray(mono, np.float32), length


def _seconds(file: "soundfile.SoundFile") -> Iterator[Floats]:
    """Second by second, up to `MAX_SECONDS`, the end, or a broken tail."""
    import soundfile

    with suppress(soundfile.LibsndfileError):
        for _ in range(MAX_SECONDS):
            if not len(block := file.read(file.samplerate, dtype="float32", always_2d=True)):
                break
            yield block


def _mix(audio: Floats) -> Floats:
    """`[n, channels]` -> `[n]`."""
    check_samples(audio, "this recording")
    return np.clip(audio.mean(axis=1), -1, 1)


def encode(codec: Codec, data: bytes) -> Encoded:
    """All that the page needs of an uploaded recording.

    Raises:
        InputError: see `read_recording`.
    """
    rate = codec.runtime.sample_rate
    samples, seconds = read_recording(data, rate)
    codes = codec.encode(samples[None], rate, beam_size=1)  # one encoding for every bitrate
    return Encoded(
        samples=samples,
        seconds_read=seconds,
        latents=latents(codec.runtime, samples),
        codes=codes.indices[0].astype(np.int32),
        file_bytes=tuple(_sizes(dumps(codes, entropy=codec.entropy), codes.n_codebooks)),
    )


def sample(codec: Codec, name: str) -> Encoded:
    """A shipped sample, with what the page plays of it first."""
    encoded = encode(codec, (SAMPLES / f"{name}.flac").read_bytes())
    codebooks = codec.runtime.codebooks[:FIRST_CODEBOOKS]
    sums = codebooks[np.arange(len(codebooks)), encoded.codes[:, : len(codebooks)]].sum(axis=1)
    return replace(encoded, decoded=decode(codec.runtime, sums, len(encoded.samples)))


def _sizes(data: bytes, n_codebooks: int) -> Iterator[int]:
    for n in range(1, n_codebooks + 1):
        trimmed = io.BytesIO()
        trim(io.BytesIO(data), trimmed, n)
        yield trimmed.tell()


def latents(runtime: Runtime, samples: Floats) -> Floats:
    """Samples `[n]` -> the vectors that the codec quantizes, `[n_frames, dim]`."""
    hop = runtime.hop_length
    n_frames = -(-len(samples) // hop) + runtime.delay
    audio = np.pad(samples, (0, n_frames * hop - len(samples)))[None]
    return runtime.encode_whole(audio)[0]


def decode(runtime: Runtime, latents: Floats, n_samples: int) -> Floats:
    """Vectors `[n_frames, dim]`, quantized or made up -> samples `[n_samples]`.

    Raises:
        InputError: another shape, not finite, far from all sums of codewords, too many frames, or a
            length they do not cover.
    """
    dim, most = runtime.codebooks.shape[2], MAX_SECONDS * runtime.frame_rate + runtime.delay + 1
    if latents.ndim != 2 or latents.shape[1] != dim or not 0 < len(latents) <= most:
        raise InputError(f"latents must be [1 to {most:.0f} frames, {dim}], got {latents.shape}")
    peak = np.abs(latents).max()
    most = 4 * np.abs(runtime.codebooks).max(axis=(1, 2)).sum()  # four times what codes can reach
    if not peak <= most:  # NaN is not, either
        raise InputError(f"latents must be within {most:.0f} of zero, got {peak:g}")
    late = runtime.delay * runtime.hop_length
    if not 0 <= n_samples <= len(latents) * runtime.hop_length - late:
        raise InputError(f"{len(latents)} frames do not make {n_samples} samples")
    audio = runtime.decode_whole(latents[None])
    return audio[0, late : late + n_samples]


def installed_peers() -> list[str]:
    """Which of `PEERS` can run here."""
    return [name for name in PEERS if is_installed(name.partition("-")[0])]


def through_peer(name: str, samples: Floats, sample_rate: int) -> PeerResult:
    """Send samples `[n]` through one of `PEERS`.

    Raises:
        RvqError: its program is missing or failed.
    """
    audio = np.asarray(samples, np.float32)[None]
    result = PEERS[name].roundtrip(audio, sample_rate)
    aligned = align(audio, result.audio, sample_rate)[0]
    return PeerResult(aligned, result.n_bytes, result.payload_bytes)


def about(codec: Codec, mode: str) -> dict[str, Any]:
    """What the page has to know before anything else; see `page/main.js`."""
    runtime = codec.runtime
    return {
        "mode": mode,
        "model": {
            "name": runtime.name,
            "hash": codec.model_hash,
            "sample_rate": runtime.sample_rate,
            "hop_length": runtime.hop_length,
            "delay": runtime.delay,
            "n_codebooks": len(runtime.codebooks),
            "codebook_size": codec.codebook_size,
            "dim": runtime.codebooks.shape[2],
        },
        "first_codebooks": min(FIRST_CODEBOOKS, len(runtime.codebooks)),
        "max_bytes": MAX_BYTES,
        "max_seconds": MAX_SECONDS,
        "samples": json.loads((SAMPLES / "samples.json").read_text()),
        "peers": [
            {"id": name, "family": PEERS[name].family, "nominal": PEERS[name].nominal_kbps}
            for name in installed_peers()
        ],
    }
