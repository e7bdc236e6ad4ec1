"""What can be measured: a system turns a recording into bytes and back.

`RvqCodec` and `VariableRvqCodec` run this package, `Command` any program; `peers` holds MP3, Opus
and others. All are small frozen dataclasses: they travel to worker processes and open what they
need there.
"""

import hashlib
import math
import shlex
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rvq.bitstream.bitrates import codebooks_at, kbps_per_codebook
from rvq.bitstream.container import dumps, payload_size
from rvq.bitstream.entropy import FILE as ENTROPY_FILE
from rvq.codec.defaults import BEAM_SIZE
from rvq.codec.models import find
from rvq.errors import InputError
from rvq.evaluate.perplexity import code_counts
from rvq.evaluate.programs import (
    Audio,
    find_program,
    read_wav,
    run_program,
    write_wav,
)
from rvq.model_folder import read_card

if TYPE_CHECKING:
    from rvq.codec.codec import Codec


@dataclass(frozen=True, eq=False)
class Roundtrip:
    """A recording after compression and decompression.

    Attributes:
        audio: what came back, `[channels, samples]` at the sample rate that went in; it may still
            be delayed and of another length.
        n_bytes: size of the compressed file.
        payload_bytes: size of the coded audio in it without container, or None if not known.
        code_counts: of codecs of this package, how often every codeword was used,
            `[n_codebooks][codebook_size]`.
    """

    audio: Audio
    n_bytes: int
    payload_bytes: int | None = None
    code_counts: tuple[tuple[int, ...], ...] | None = None


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
class RvqCodec:
    """A model of this package at one bitrate; the payload is codes without header and checksums.

    Attributes:
        model: name or path of a model for `rvq.Codec.load`, opened once in every process.
        kbps: the bitrate asked for.
        family: prefix of the name; set it to tell models apart.

    Raises:
        ModelError: there is no such model.
        InputError: a bitrate that it does not have.
    """

    model: str | Path
    kbps: float
    family: str = "rvq"

    def __post_init__(self) -> None:
        card = read_card(find(self.model))
        frame_rate = card["sample_rate"] / card["hop_length"]
        each = kbps_per_codebook(frame_rate, card["codebook_size"])
        codebooks_at(self.kbps, each, card["n_codebooks"])

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
        """What results depend on: the model, its entropy model and how codes are searched."""
        folder = find(self.model)
        model = f"{read_card(folder)['hash']} beam {BEAM_SIZE}"
        entropy = folder / ENTROPY_FILE
        if not entropy.is_file():
            return model
        return f"{model} entropy {hashlib.sha256(entropy.read_bytes()).hexdigest()[:16]}"

    def roundtrip(self, audio: Audio, sample_rate: int) -> Roundtrip:
        """See `System.roundtrip`."""
        codec = _load_codec(self.model)
        codes = codec.encode(audio, sample_rate, bitrate=self.kbps)
        data = dumps(codes, entropy=codec.entropy)
        payload = payload_size(data)
        counts = code_counts(codes.indices.reshape(-1, codes.n_codebooks), codes.codebook_size)
        return Roundtrip(
            codec.decode(codes), len(data), payload, tuple(map(tuple, counts.tolist()))
        )


@dataclass(frozen=True)
class VariableRvqCodec(RvqCodec):
    """The same at a variable bitrate, as many codebooks as each frame needs.

    Attributes:
        model: one with an entropy model.
        kbps: the bitrate to reach on average over a recording.
        family: prefix of the name.
    """

    family: str = "rvq variable"

    def roundtrip(self, audio: Audio, sample_rate: int) -> Roundtrip:
        """See `System.roundtrip`."""
        codec = _load_codec(self.model)
        data = codec.compress(audio, sample_rate, average=self.kbps)
        return Roundtrip(codec.decompress(data), len(data), payload_size(data))


@dataclass(frozen=True)
class Command:
    """Any other codec, as a program that reads a wav file and writes the decoded wav file.

    Attributes:
        name: what tells it apart in tables; include its setting.
        template: the command line with `{input}` and `{output}` where the two paths go, split
            like a shell's but run without one.
        kbps: its true bitrate, taken on trust as file and payload size.
        family: groups its settings in a table.

    Raises:
        InputError: a template without the two, or with a quote that is not closed; no bitrate.

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
        try:
            shlex.split(self.template)
        except ValueError as error:
            raise InputError(
                f"the command {self.template!r} cannot be split ({error}); mend its quotes"
            ) from None
        if not 0 < self.kbps < math.inf:
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
