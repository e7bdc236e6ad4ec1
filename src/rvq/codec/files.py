"""Audio files <-> .rvq files, block by block, so that hours take no more memory than seconds."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile

from rvq.bitstream.container import Reader, Writer
from rvq.codec.codec import Codec
from rvq.codec.decoding import Damage, FileDecoder
from rvq.codec.defaults import BEAM_SIZE
from rvq.codec.frames import check_samples
from rvq.codec.models import find_by_hash
from rvq.codec.recordings import SampleBlocks
from rvq.errors import InputError
from rvq.progress import Progress
from rvq.replacing import replacing

AUDIO_ENDINGS = frozenset(
    (".aif", ".aiff", ".au", ".flac", ".mp3", ".oga", ".ogg", ".opus", ".wav")
)
"""Endings by which a folder's recordings are found."""
_SYSTEM_ERROR = 2
"""libsndfile's code for what the system refused: a full disk."""
_FORMATS = {name: name for name in soundfile.available_formats() if name != "RAW"}
_FORMATS |= {"OGA": "OGG", "OPUS": "OGG", "AIF": "AIFF"}


@contextmanager
def replacing_audio(path: Path) -> Iterator[Path]:
    """As `replacing`, for a file that soundfile writes: what it raises on a full disk is told too.

    Raises:
        InputError: see `replacing`.
    """
    with replacing(path) as temporary:
        try:
            yield temporary
        except soundfile.LibsndfileError:
            raise InputError(f"cannot write {path}: is the disk full?") from None


def encode_file(
    codec: Codec,
    source: Path,
    target: Path,
    *,
    bitrate: float | None = None,
    quality: float | None = None,
    average: float | None = None,
    beam_size: int = BEAM_SIZE,
    metadata: Mapping[str, str] | None = None,
    progress: Progress = lambda share: None,
) -> str | None:
    """Compress any file that soundfile reads.

    A recording that breaks off is compressed as far as it can be read.

    Args:
        codec: the model.
        source: the recording.
        target: the .rvq file to write.
        bitrate: constant, kbps per channel before entropy coding; default the model's highest.
        quality: constant instead; see `Codec.encode`.
        average: bitrate to reach on average instead, kbps per channel.
        beam_size: of the search; see `Codec.encode`.
        metadata: title, artist and the like, text by name.
        progress: called with the share of the recording that is done.

    Returns:
        What is wrong with a recording that breaks off, and where; None if it is whole.

    Raises:
        InputError: not audio, empty, not finite, or not to be read or written.
    """
    with _open_audio(source) as audio:
        encoder = codec.encoder_for(
            audio.channels,
            audio.samplerate,
            bitrate=bitrate,
            quality=quality,
            average=average,
            beam_size=beam_size,
        )
        n_samples = 0
        with replacing(target) as temporary, temporary.open("wb") as file:
            writer = Writer(
                file,
                channels=encoder.coded_channels,
                n_codebooks=encoder.n_codebooks,
                codebook_size=codec.codebook_size,
                sample_rate=audio.samplerate,
                model_hash=codec.model_hash,
                frame_rate=codec.frame_rate,
                entropy=codec.entropy,
                variable=quality is not None or average is not None,
                metadata=codec.file_metadata(metadata),
                frames_per_block=codec.runtime.frames_per_block,
            )
            blocks = SampleBlocks(audio)
            for block in blocks:
                check_samples(block, str(source))
                writer.write(encoder.push(block.T))
                n_samples += len(block)
                progress(n_samples / max(audio.frames, n_samples))
            if not n_samples:
                raise InputError(f"{source} {blocks.broken or 'holds no audio'}")
            writer.write(encoder.flush())
            writer.close(n_samples)
    return blocks.broken


def codec_for(path: Path, model: str | Path | None = None, *, threads: int = 1) -> Codec:
    """The codec that plays an .rvq file: a model by name or folder, or the package's that made it.

    Raises:
        InputError: the file cannot be read.
        FormatError: it is no .rvq file, or one without a usable header.
        ModelError: no such model, or the file was made with none of the package's.
    """
    if model is None:
        with open_rvq(path) as file:
            model = find_by_hash(Reader(file).header.model.hex())
    return Codec.load(model, threads=threads)


def decode_file(
    codec: Codec,
    source: Path,
    target: Path,
    *,
    progress: Progress = lambda share: None,
) -> Damage:
    """Decompress to any format that soundfile writes, chosen by the ending of `target`.

    Damage is passed over as `rvq.codec.decoding` says.

    Raises:
        FormatError: not an .rvq file, of a newer version, or without a usable header.
        ModelError: made with another model.
        InputError: a file that cannot be read or written.
    """
    with open_rvq(source) as file:
        decoder = FileDecoder(codec, file)
        header = decoder.header
        channels = header.channels * codec.runtime.channels
        with (
            replacing_audio(target) as temporary,
            _create_audio(temporary, header.sample_rate, channels) as audio,
        ):
            for samples in decoder.pieces():
                audio.write(samples.T)
                progress(decoder.share)
    return decoder.damage


def read_audio(path: Path) -> tuple[np.ndarray, int]:
    """A whole file: audio `[channels, samples]` in [-1, 1] and its sample rate in Hz.

    Raises:
        InputError: not audio, or not to be read.
    """
    with _open_audio(path) as audio:
        samples = np.concatenate([np.empty((0, audio.channels), np.float32), *SampleBlocks(audio)])
        return np.ascontiguousarray(samples.T), audio.samplerate


def write_audio(path: Path, audio: np.ndarray, sample_rate: int) -> None:
    """Audio `[channels, samples]` as a whole file, in the format that the ending names.

    Raises:
        InputError: a format that cannot be written, or a file that cannot.
    """
    with (
        replacing_audio(path) as temporary,
        _create_audio(temporary, sample_rate, len(audio)) as file,
    ):
        file.write(audio.T)


def find_recordings(folder: Path) -> list[Path]:
    """The audio files below a folder, by their endings, sorted."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in AUDIO_ENDINGS and path.is_file()
    )


def open_rvq(path: Path) -> BinaryIO:
    """Open a file for a `Reader`.

    Raises:
        InputError: it cannot be opened.
    """
    try:
        return path.open("rb")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None


def _open_audio(path: Path) -> soundfile.SoundFile:
    if not os.path.isfile(path):
        what = "no such file"
        if os.path.exists(path):
            what = "it is a folder" if path.is_dir() else "it is no file; `rvq stream` reads pipes"
        raise InputError(f"cannot read {path}: {what}")
    try:
        return soundfile.SoundFile(_name(path))
    except soundfile.LibsndfileError as error:
        raise InputError(
            f"{path} is not audio that can be read ({error.error_string.rstrip('.')}); "
            "convert it to WAV or FLAC first"
        ) from None


def _name(path: Path) -> str | bytes:
    """A path as soundfile opens it whatever bytes it is made of."""
    return str(path) if os.name == "nt" else os.fsencode(path)


def audio_format(path: Path) -> str:
    """The format that the ending of a file to be written names, as soundfile calls it.

    Raises:
        InputError: it names none.
    """
    ending = path.suffix[1:].upper()
    if ending not in _FORMATS:
        named = f"cannot write {path.suffix} files" if ending else "the output needs an ending"
        raise InputError(f"{named}; choose .wav, .flac, .ogg, .opus or .mp3")
    return _FORMATS[ending]


def _create_audio(path: Path, sample_rate: int, channels: int) -> soundfile.SoundFile:
    kind = audio_format(path)
    path.touch()  # a folder that cannot be written says so better than libsndfile
    try:
        return soundfile.SoundFile(
            _name(path),
            "w",
            samplerate=sample_rate,
            channels=channels,
            format=kind,
            subtype="OPUS" if path.suffix.upper() == ".OPUS" else None,
        )
    except (ValueError, TypeError, soundfile.LibsndfileError) as error:
        if getattr(error, "code", None) == _SYSTEM_ERROR:
            raise  # `replacing_audio` tells it
        # libsndfile's message without the name of a temporary file before it
        reason = getattr(error, "error_string", str(error)).strip().rstrip(".")
        raise InputError(
            f"cannot write {path.suffix} at {sample_rate} Hz with {channels} "
            f"channels ({reason}); choose .wav or .flac"
        ) from None
