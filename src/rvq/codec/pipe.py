"""Streams through pipes and sockets: raw PCM <-> packets, each with its length before it.

    stream = head (18 bytes), then for every packet its length (2 bytes) and the packet
    head   = "RVQS", version, channels (1 byte each), sample rate in Hz (4 bytes), model (8 bytes)

All numbers are big-endian; the model is the first bytes of its hash. A stream ends where it ends.
"""

import struct
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from rvq.codec.codec import Codec
from rvq.codec.models import find_by_hash
from rvq.errors import FormatError, InputError

Floats = npt.NDArray[np.float32]

VERSION = 1
SAMPLE_FORMATS = {"s16le": "<i2", "f32le": "<f4"}
"""Raw PCM, channels interleaved: 16-bit integers or floats."""
_HEAD = struct.Struct(">4sBBI8s")
_MAGIC = b"RVQS"
_FILES = (b"RIFF", b"RF64", b"FORM", b"fLaC", b"OggS", b"ID3", b"RVQ")
"""How files of sound begin that are taken for raw samples by mistake."""


@dataclass(frozen=True)
class StreamHeader:
    """What holds for all packets of a stream.

    Attributes:
        channels: of the sound.
        sample_rate: Hz.
        model: first 8 bytes of the model's hash.
    """

    channels: int
    sample_rate: int
    model: bytes

    def to_bytes(self) -> bytes:
        """The 18 bytes."""
        return _HEAD.pack(_MAGIC, VERSION, self.channels, self.sample_rate, self.model)

    @classmethod
    def read(cls, source: BinaryIO) -> "StreamHeader":
        """Read and check.

        Raises:
            FormatError: no stream of packets, or of a newer version.
        """
        data = source.read(_HEAD.size)
        if len(data) < _HEAD.size or not data.startswith(_MAGIC):
            raise FormatError("this is not a stream of packets that `rvq stream encode` wrote")
        _, version, channels, sample_rate, model = _HEAD.unpack(data)
        if version > VERSION:
            raise FormatError(f"this stream is of version {version}; upgrade rvq to decode it")
        if not channels or not 1000 <= sample_rate <= 768_000:
            raise FormatError("the head of this stream is damaged")
        return cls(channels, sample_rate, model)


def encode_pipe(
    codec: Codec,
    source: BinaryIO,
    target: BinaryIO,
    *,
    sample_rate: int,
    channels: int = 1,
    sample_format: str = "s16le",
    bitrate: float | None = None,
) -> None:
    """Raw PCM -> packets, each written as soon as its samples have come.

    Nothing is written before the first samples are looked at.

    Raises:
        InputError: arguments out of range, a file instead of samples, samples that are NaN,
            infinite or far out of range, nobody reads the output any more; or, when the rest is
            written, the input ends within a sample of all channels.
    """
    if not 1 <= channels <= 255:
        raise InputError(f"channels must be 1 to 255, got {channels}")
    dtype = _dtype(sample_format)
    encoder = codec.stream_encoder(channels=channels, sample_rate=sample_rate, bitrate=bitrate)
    head = StreamHeader(channels, sample_rate, bytes.fromhex(codec.model_hash)[:8]).to_bytes()
    read = getattr(source, "read1", source.read)  # does not wait for a full buffer
    step, rest = channels * dtype.itemsize, b""
    while data := read(1 << 16):
        if head and data.startswith(_FILES):
            raise InputError(
                "this is a file, and its header would become sound: `rvq encode` codes files, "
                "and FFmpeg's `-f s16le` makes raw samples of them"
            )
        data = rest + data
        whole = len(data) // step * step
        rest = data[whole:]
        packets = encoder.push(_audio(data[:whole], channels, dtype))
        _write(target, head + _framed(packets))
        head = b""
    _write(target, head + _framed(encoder.flush()))
    if rest:
        raise InputError(
            f"the input ends {len(rest)} of {step} bytes into a sample of all channels; what came "
            "before is encoded: is it cut, or of another format or number of channels?"
        )


def decode_pipe(
    codec: Codec | None, source: BinaryIO, target: BinaryIO, *, sample_format: str = "s16le"
) -> bool:
    """Packets -> raw PCM, written as soon as packets come.

    Args:
        codec: of the model that made them; None for the package's model of that name.
        source: stream of packets.
        target: where samples go.
        sample_format: of `SAMPLE_FORMATS`.

    Returns:
        Whether it was whole: it ended where a packet does, and none was damaged, late or missing.
        All that came is written in any case.

    Raises:
        FormatError: this is no stream of packets.
        ModelError: made with another model.
        InputError: nobody reads the output any more.
    """
    dtype = _dtype(sample_format)
    head = StreamHeader.read(source)
    codec = codec or Codec.load(find_by_hash(head.model.hex()))
    codec.check_model(head.model.hex())
    decoder = codec.stream_decoder(channels=head.channels, sample_rate=head.sample_rate)
    whole = True
    while size := source.read(2):
        n_bytes = int.from_bytes(size, "big")
        packet = source.read(n_bytes)
        whole = len(size) == 2 and len(packet) == n_bytes
        if not whole:
            break
        _write(target, _pcm(decoder.push(packet), dtype))
    _write(target, _pcm(decoder.flush(), dtype))
    return whole and not decoder.refused and not decoder.concealed


def _audio(pcm: bytes, channels: int, dtype: np.dtype) -> Floats:
    """Whole samples as `[channels, any]`."""
    samples = np.frombuffer(pcm, dtype).reshape(-1, channels).T
    scale = 1 / 32768 if dtype.kind == "i" else 1
    with np.errstate(invalid="ignore"):  # of other numbers taken for floats: refused later
        return (samples * np.float32(scale)).astype(np.float32)


def _pcm(samples: Floats, dtype: np.dtype) -> bytes:
    if dtype.kind == "i":
        samples = np.clip(np.rint(samples * 32768), -32768, 32767)
    return np.ascontiguousarray(samples.T).astype(dtype).tobytes()


def _dtype(sample_format: str) -> np.dtype:
    if sample_format not in SAMPLE_FORMATS:
        raise InputError(
            f"the sample format must be {' or '.join(SAMPLE_FORMATS)}, got {sample_format!r}"
        )
    return np.dtype(SAMPLE_FORMATS[sample_format])


def _framed(packets: list[bytes]) -> bytes:
    return b"".join(len(packet).to_bytes(2, "big") + packet for packet in packets)


def _write(target: BinaryIO, data: bytes) -> None:
    if not data:
        return
    try:
        target.write(data)
        target.flush()
    except OSError as error:
        raise InputError(f"cannot write the output: {error.strerror}") from None
