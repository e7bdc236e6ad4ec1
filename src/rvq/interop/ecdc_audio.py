"""Recordings <-> `.ecdc` files, by an imported model folder or by a checkpoint of EnCodec.

A model folder runs without torch; a checkpoint needs it.
"""

import logging
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import soxr

from rvq.bitstream.bitrates import codebooks_at, kbps_per_codebook
from rvq.bitstream.codes import Codes
from rvq.codec.codec import Codec
from rvq.codec.defaults import BEAM_SIZE
from rvq.codec.files import read_audio, write_audio
from rvq.codec.frames import check_samples
from rvq.codec.segments import SegmentRuntime
from rvq.errors import FormatError, InputError, ModelError
from rvq.interop.ecdc import EcdcFile, LanguageModel, Segment, check_layout, dumps, loads
from rvq.model_folder import read_card
from rvq.quantize.search import decode
from rvq.replacing import replacing

Floats = npt.NDArray[np.float32]

_log = logging.getLogger(__name__)


class EcdcModel(Protocol):
    """A model that makes and plays what `.ecdc` files hold.

    Attributes:
        name: of the model, as the files have it.
        sample_rate: Hz.
        channels: of the audio.
        n_codebooks: at most.
        hash: of a model folder; None for a checkpoint.
        published: whether the weights are known to be those that others have by the same name.
    """

    name: str
    sample_rate: int
    channels: int
    n_codebooks: int
    hash: str | None
    published: bool

    def compress(self, audio: Floats, bitrate: float | None) -> tuple[Segment, ...]:
        """Audio `[channels, n_samples]` -> segments; bitrate in kbps of all channels together."""

    def decompress(self, segments: tuple[Segment, ...], n_samples: int) -> Floats:
        """Segments -> audio `[channels, n_samples]`."""


class FolderModel:
    """An imported model folder, run without torch."""

    def __init__(self, codec: Codec, *, beam_size: int = BEAM_SIZE) -> None:
        self._codec = codec
        self._beam_size = beam_size
        self.name, self.channels = codec.runtime.name, codec.runtime.channels
        self.sample_rate, self.hop_length = codec.runtime.sample_rate, codec.runtime.hop_length
        self.codebook_size = codec.codebook_size
        self.n_codebooks = len(codec.runtime.codebooks)
        self.hash: str | None = codec.model_hash
        facts = read_card(codec.folder).get("training") if codec.folder else None
        self.published = isinstance(facts, dict) and facts.get("published") is True

    def compress(self, audio: Floats, bitrate: float | None) -> tuple[Segment, ...]:
        """See `EcdcModel`."""
        codes = self._codec.encode(audio, self.sample_rate, bitrate, beam_size=self._beam_size)
        return (Segment(codes.indices[0]),)

    def decompress(self, segments: tuple[Segment, ...], n_samples: int) -> Floats:
        """See `EcdcModel`."""
        return self._codec.decode(
            Codes(
                indices=segments[0].codes[None],
                codebook_size=self._codec.codebook_size,
                sample_rate=self.sample_rate,
                n_samples=n_samples,
                model_hash=self._codec.model_hash,
            )
        )


class SegmentFolderModel(FolderModel):
    """The same of a model that codes segments."""

    def __init__(self, codec: Codec, runtime: SegmentRuntime, *, beam_size: int) -> None:
        super().__init__(codec, beam_size=beam_size)
        self._runtime = runtime

    def compress(self, audio: Floats, bitrate: float | None) -> tuple[Segment, ...]:
        """See `EcdcModel`."""
        runtime, n_codebooks = self._runtime, self._codec.n_codebooks(bitrate)
        nearest = runtime.search(self._beam_size)
        segments = []
        for start in range(0, audio.shape[1], runtime.stride):
            samples = audio[:, start : start + runtime.length]
            latents, loudness = runtime.encode_segment(samples)
            segments.append(Segment(nearest(latents, n_codebooks), loudness))
        return tuple(segments)

    def decompress(self, segments: tuple[Segment, ...], n_samples: int) -> Floats:
        """See `EcdcModel`."""
        joined, parts = self._runtime.cross_fade(), []
        for segment in segments:
            latents = decode(segment.codes, self._runtime.codebooks)
            parts.append(joined.push(self._runtime.decode_segment(latents, segment.scale)))
        return np.concatenate([*parts, joined.flush()], axis=1)[:, :n_samples]


class CheckpointModel:
    """A checkpoint of EnCodec, run by torch; the search is greedy, as EnCodec's."""

    hash: str | None = None

    def __init__(self, path: Path) -> None:
        try:
            from rvq.interop.encodec import read_encodec
        except ImportError as error:
            raise ModelError(f"a checkpoint needs `pip install 'rvq[train]'` ({error})") from None
        self._model = read_encodec(path)
        self.name, self.sample_rate = self._model.name, self._model.sample_rate
        self.hop_length, self.codebook_size = self._model.hop_length, self._model.codebook_size
        self.channels, self.n_codebooks = self._model.channels, self._model.n_codebooks
        self.published = self._model.published

    def compress(self, audio: Floats, bitrate: float | None) -> tuple[Segment, ...]:
        """See `EcdcModel`."""
        import torch

        model, n_codebooks = self._model, self.n_codebooks
        if bitrate is not None:
            each = kbps_per_codebook(self.sample_rate / model.hop_length, model.codebook_size)
            n_codebooks = codebooks_at(bitrate, each, n_codebooks)
        return tuple(model.compress(torch.from_numpy(audio), n_codebooks))

    def decompress(self, segments: tuple[Segment, ...], n_samples: int) -> Floats:
        """See `EcdcModel`."""
        return self._model.decompress(list(segments), n_samples).numpy()


def load_ecdc_model(name_or_path: str | Path, *, beam_size: int = BEAM_SIZE) -> EcdcModel:
    """The model for `.ecdc` files: an imported folder, or a checkpoint.

    Args:
        name_or_path: a model folder, a `.th` file, or a folder in Hugging Face's layout.
        beam_size: code sequences that a folder's search follows at once; EnCodec's own is 1.

    Raises:
        ModelError: there is no such model, it is damaged, or it is no EnCodec that the files know.
    """
    path = Path(name_or_path)
    model: CheckpointModel | FolderModel
    if path.is_file() or (path / "config.json").is_file():
        model = CheckpointModel(path)
    else:
        codec = Codec.load(name_or_path, threads=0)
        if isinstance(codec.runtime, SegmentRuntime):
            model = SegmentFolderModel(codec, codec.runtime, beam_size=beam_size)
        else:
            model = FolderModel(codec, beam_size=beam_size)
    if model.name not in ("encodec_24khz", "encodec_48khz"):
        raise ModelError(
            f".ecdc files are of EnCodec, not of the model {model.name}; give a folder written by "
            "`rvq import encodec`, or EnCodec's checkpoint, as the model"
        )
    check_layout(model.name, model.hop_length, model.codebook_size)
    return model


def load_language_model(path: Path, model: EcdcModel) -> LanguageModel:
    """A language model for `.ecdc` files of a model; needs torch.

    Args:
        path: EnCodec's checkpoint, or what `rvq learn-transformer` wrote.
        model: whose codes it is to know.

    Raises:
        ModelError: no such file, a damaged one, or one that learned another model's codes.
    """
    try:
        from rvq.interop.encodec import read_language_model
        from rvq.nn.code_transformer import CodeProbabilities
    except ImportError as error:
        raise ModelError(f"a language model needs `pip install 'rvq[train]'` ({error})") from None
    return CodeProbabilities(read_language_model(path, codec_hash=model.hash))


def encode_ecdc(
    model: EcdcModel,
    source: Path,
    target: Path,
    *,
    bitrate: float | None = None,
    language_model: LanguageModel | None = None,
) -> EcdcFile:
    """Compress any file that soundfile reads; other rates and channels are brought to the model's.

    The file can name no weights but Meta's. Of a model that is not known to have them, a warning is
    logged, which Python prints to stderr where no logging is set up.

    Args:
        model: EnCodec.
        source: the recording.
        target: the `.ecdc` file to write.
        bitrate: kbps, of all channels together; default the model's highest.
        language_model: if given, what the file is coded with, and needs to be read.

    Returns:
        What the file holds.

    Raises:
        InputError: not audio, empty, not finite, not to be read or written; bitrate out of range.
    """
    audio, rate = read_audio(source)
    if not audio.size:
        raise InputError(f"{source} holds no audio")
    check_samples(audio, str(source))
    audio = _as_channels(audio, model.channels, source)
    if rate != model.sample_rate:
        audio = soxr.resample(audio.T, rate, model.sample_rate).T
    audio = np.ascontiguousarray(audio, np.float32)
    if not audio.size:
        raise InputError(f"{source} is too short: nothing is left of it at {model.sample_rate} Hz")
    file = EcdcFile(model.name, audio.shape[1], model.compress(audio, bitrate))
    data = dumps(file, language_model)
    with replacing(target) as temporary:
        temporary.write_bytes(data)
    if not model.published:
        _log.warning(
            "%s names %s, but the model's weights are not known to be those that Meta published "
            "by that name; if they are others, EnCodec's own program makes noise of the file, "
            "and only this model decodes it",
            target,
            model.name,
        )
    return file


def decode_ecdc(
    model: EcdcModel, source: Path, target: Path, *, language_model: LanguageModel | None = None
) -> None:
    """Decompress to any format that soundfile writes, chosen by the ending of `target`.

    Args:
        model: EnCodec.
        source: the `.ecdc` file.
        target: the recording to write.
        language_model: that the file was written with, if it was.

    Raises:
        FormatError: not an `.ecdc` file, damaged, or of more codebooks than the model has.
        ModelError: made with another model, or with a language model that is not given.
        InputError: a file that cannot be read or written.
    """
    try:
        data = source.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {source}: {error.strerror}") from None
    file = loads(data, language_model)
    if file.model != model.name:
        raise ModelError(f"{source} was made with {file.model}, the model given is {model.name}")
    if file.segments[0].codes.shape[1] > model.n_codebooks:
        raise FormatError(f"{source} uses more codebooks than the model has")
    audio = model.decompress(file.segments, file.n_samples)
    write_audio(target, audio, model.sample_rate)


def _as_channels(audio: Floats, channels: int, source: Path) -> Floats:
    """Mix down to one channel, or repeat one, as EnCodec's own program does."""
    if channels == 1:
        return audio.mean(axis=0, keepdims=True)
    if len(audio) not in (1, channels):
        raise InputError(f"{source} has {len(audio)} channels; the model codes {channels}")
    return np.broadcast_to(audio, (channels, audio.shape[1]))
