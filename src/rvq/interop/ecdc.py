"""EnCodec's own compressed files, `.ecdc`, read and written without torch.

A header (magic, version, length and a JSON object: model, samples, codebooks, language model or
not), then for every segment its loudness if the model normalises, and its codes: ten bits each, or
arithmetic-coded with the probabilities of a small Transformer over codes. Arithmetic coder and
rounding of probabilities are those of Défossez et al. (2022), section 3.3, as their program has
them.

With the language model a file decodes only where floating point rounds as it did when the file was
written, which their program shares; files without it decode everywhere.
"""

import json
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from rvq.errors import FormatError, InputError, ModelError

Integers = npt.NDArray[np.int64]

_HEADER = struct.Struct("!4sBI")
_SCALE = struct.Struct("!f")
_MAGIC = b"ECDC"
_BITS = 10
_RANGE_BITS = 24
"""Of the arithmetic coder: how finely probabilities divide its interval."""


@dataclass(frozen=True, eq=False)
class Segment:
    """Codes of a stretch of a recording: of all of it where the model is causal.

    Attributes:
        codes: `[n_frames, n_codebooks]`.
        scale: loudness that the stretch was divided by; 1 for models that do not normalise.
    """

    codes: Integers
    scale: float = 1.0


@dataclass(frozen=True, eq=False)
class EcdcFile:
    """What an `.ecdc` file holds.

    Attributes:
        model: name of the model whose codes these are, `encodec_24khz` or `encodec_48khz`.
        n_samples: per channel, at the model's sample rate.
        segments: in order.
    """

    model: str
    n_samples: int
    segments: tuple[Segment, ...]


class LanguageModel(Protocol):
    """Probabilities of a segment's codes, frame by frame."""

    def start(self) -> None:
        """Forget everything: a segment begins."""

    def probabilities(self, previous: Integers | None, n_codebooks: int) -> npt.NDArray[np.float32]:
        """Of the codes of the next frame, `[n_codebooks, codebook_size]`.

        Args:
            previous: codes of the frame before, `[n_codebooks]`; None at the start.
            n_codebooks: codes per frame.
        """


@dataclass(frozen=True)
class _Layout:
    """How a model cuts recordings, in samples; codes have ten bits."""

    hop: int
    n_codebooks: int
    segment: int | None = None
    stride: int | None = None

    def lengths(self, n_samples: int) -> Iterator[int]:
        """Frames of every segment."""
        segment, stride = self.segment or n_samples, self.stride or n_samples
        start = 0
        while start < n_samples:  # one by one: a damaged header may tell of any number
            yield -(-min(segment, n_samples - start) // self.hop)
            start += stride


_LAYOUTS = {
    "encodec_24khz": _Layout(hop=320, n_codebooks=32),
    "encodec_48khz": _Layout(hop=320, n_codebooks=16, segment=48_000, stride=47_520),
}


def check_layout(name: str, hop_length: int, codebook_size: int) -> None:
    """Make sure that a model's frames are those of the files that have its name.

    Raises:
        ModelError: they are of another length, or of codes that do not take ten bits.
    """
    layout = _LAYOUTS[name]
    if (hop_length, codebook_size) != (layout.hop, 1 << _BITS):
        raise ModelError(
            f".ecdc files of {name} have frames of {layout.hop} samples and codebooks of "
            f"{1 << _BITS}; the model given has {hop_length} and {codebook_size}: use .rvq files"
        )


def dumps(file: EcdcFile, language_model: LanguageModel | None = None) -> bytes:
    """The bytes of an `.ecdc` file.

    Args:
        file: what it is to hold.
        language_model: if given, codes are arithmetic-coded by its probabilities.

    Raises:
        InputError: codes that do not fit the model's layout.
    """
    layout = _layout(file.model, InputError)
    lengths = list(layout.lengths(file.n_samples))
    shapes = [segment.codes.shape for segment in file.segments]
    n_codebooks = shapes[0][1] if shapes and len(shapes[0]) == 2 else 0
    wanted = [(length, n_codebooks) for length in lengths]
    if shapes != wanted or not 1 <= n_codebooks <= layout.n_codebooks:
        raise InputError(
            f"{file.n_samples} samples of {file.model} make segments of {lengths} frames, codes of "
            f"1 to {layout.n_codebooks} codebooks each; got {shapes}"
        )
    meta = {
        "m": file.model,
        "al": file.n_samples,
        "nc": n_codebooks,
        "lm": language_model is not None,
    }
    header = json.dumps(meta).encode()
    parts = [_HEADER.pack(_MAGIC, 0, len(header)), header]
    for segment in file.segments:
        if not 0 <= segment.codes.min() <= segment.codes.max() < 1 << _BITS:
            raise InputError(f"codes must be in 0..1023, got up to {segment.codes.max()}")
        if layout.segment is not None:
            parts.append(_SCALE.pack(segment.scale))
        if language_model is None:
            parts.append(_pack(segment.codes))
        else:
            parts.append(_encode(segment.codes, language_model))
    return b"".join(parts)


def loads(data: bytes, language_model: LanguageModel | None = None) -> EcdcFile:
    """Read the bytes of an `.ecdc` file.

    Args:
        data: all of it.
        language_model: needed where the file was written with one.

    Raises:
        FormatError: not an `.ecdc` file, damaged, cut short, or of a newer version.
        ModelError: it needs the language model.
    """
    if len(data) < _HEADER.size or data[:4] != _MAGIC:
        raise FormatError("not an .ecdc file: it does not start with ECDC")
    _, version, length = _HEADER.unpack_from(data)
    if version != 0:
        raise FormatError(f"an .ecdc file of version {version}; only version 0 is known")
    at = _HEADER.size + length
    try:
        meta = json.loads(data[_HEADER.size : at])
        name, n_samples, n_codebooks = meta["m"], int(meta["al"]), int(meta["nc"])
        with_model = bool(meta["lm"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        raise FormatError("the header of the .ecdc file is damaged") from None
    layout = _layout(name, FormatError)
    if n_samples < 1 or not 1 <= n_codebooks <= layout.n_codebooks:
        raise FormatError(
            f"the header of the .ecdc file is damaged: {n_samples} samples, {n_codebooks} codebooks"
        )
    if with_model and language_model is None:
        raise ModelError(
            "the .ecdc file was written with a language model; give it by `--language-model`, or "
            "in Python as the second argument of `rvq.interop.ecdc.loads`"
        )
    segments: list[Segment] = []
    for n_frames in layout.lengths(n_samples):
        scale = 1.0
        if layout.segment is not None:
            if at + _SCALE.size > len(data):
                raise FormatError(_cut_short(len(segments)))
            (scale,) = _SCALE.unpack_from(data, at)
            at += _SCALE.size
            if not math.isfinite(scale):
                number = len(segments) + 1
                raise FormatError(f"segment {number} of the .ecdc file is damaged: scale {scale}")
        if with_model and language_model is not None:
            codes, at = _decode(data, at, (n_frames, n_codebooks), language_model)
        else:
            n_bytes = -(-n_frames * n_codebooks * _BITS // 8)
            codes, at = _unpack(data[at : at + n_bytes], (n_frames, n_codebooks)), at + n_bytes
        if codes is None:
            raise FormatError(_cut_short(len(segments)))
        segments.append(Segment(codes, scale))
    return EcdcFile(name, n_samples, tuple(segments))


def _layout(name: object, error: type[InputError] | type[FormatError]) -> _Layout:
    if not isinstance(name, str) or name not in _LAYOUTS:
        raise error(f".ecdc files are of {' or '.join(_LAYOUTS)}, not of {name!r}")
    return _LAYOUTS[name]


def _cut_short(segment: int) -> str:
    return f"the .ecdc file ends in segment {segment + 1}; it was cut short"


def _pack(codes: Integers) -> bytes:
    """Ten bits a code, least significant first, in whole bytes."""
    bits = (codes.reshape(-1, 1) >> np.arange(_BITS)) & 1
    return np.packbits(bits.astype(np.uint8), bitorder="little").tobytes()


def _unpack(data: bytes, shape: tuple[int, int]) -> Integers | None:
    bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
    n = math.prod(shape)
    if len(bits) < n * _BITS:
        return None
    return (bits[: n * _BITS].reshape(n, _BITS) @ (1 << np.arange(_BITS))).reshape(shape)


def quantized_cdf(probabilities: npt.NDArray[np.float32]) -> Integers:
    """Cumulative distributions in integers: ends of the codes' shares of 2^24.

    Probabilities `[..., n]` are first rounded down to 1e-8, against differences between machines;
    every code keeps a share of at least 2.
    """
    p = np.floor(probabilities / np.float32(1e-8)) * np.float32(1e-8)
    total = 1 << _RANGE_BITS
    spread = (1 - 2 * p.shape[-1] / total) * total
    return np.cumsum(np.floor(np.float32(spread) * p).astype(np.int64) + 2, axis=-1)


class _Interval:
    """Where the coder stands: low and high end, as integers of `bits` bits."""

    def __init__(self) -> None:
        self.low = self.high = self.bits = 0

    def widen(self) -> int:
        """Append bits until the interval is wide enough; returns how many."""
        n = 0
        while self.high - self.low + 1 < 1 << _RANGE_BITS:
            self.low, self.high, n = self.low * 2, self.high * 2 + 1, n + 1
        self.bits += n
        return n

    def part(self, start: int, end: int) -> tuple[int, int]:
        """Ends of the part that a code's share, `start` to `end` of 2^24, has of the interval."""
        # In floating point, as the format has it: wide intervals are rounded.
        unit = (self.high - self.low + 1) / (1 << _RANGE_BITS)
        return self.low + math.ceil(start * unit), self.low + math.floor((end - 1) * unit)

    def narrow(self, low: int, high: int) -> tuple[int, int]:
        """Go on with a part; returns the leading bits that its ends share, and how many."""
        left = (low ^ high).bit_length()
        n, prefix = self.bits - left, low >> left
        self.low, self.high, self.bits = low - (prefix << left), high - (prefix << left), left
        return prefix, n


def _big_endian(value: int, n_bits: int) -> Iterator[int]:
    return ((value >> i) & 1 for i in range(n_bits - 1, -1, -1))


def _encode(codes: Integers, model: LanguageModel) -> bytes:
    """Arithmetic coding of a segment."""
    interval = _Interval()
    bits: list[int] = []
    previous = None
    model.start()
    for frame in codes:
        ends = quantized_cdf(model.probabilities(previous, len(frame)))
        previous = frame
        for code, cdf in zip(frame.tolist(), ends, strict=True):
            interval.widen()
            start = int(cdf[code - 1]) if code else 0
            bits += _big_endian(*interval.narrow(*interval.part(start, int(cdf[code]))))
    bits += _big_endian(interval.low, interval.bits)
    return np.packbits(np.array(bits, np.uint8), bitorder="little").tobytes()


def _decode(
    data: bytes, at: int, shape: tuple[int, int], model: LanguageModel
) -> tuple[Integers | None, int]:
    """Undo `_encode` from position `at`: codes, None where the data ends, and where to go on."""
    end = 8 * (len(data) - at)
    interval, current, position = _Interval(), 0, 0
    n_frames, n_codebooks = shape
    codes: list[Integers] = []  # grows with what is read: a damaged header may tell of any number
    model.start()
    for _ in range(n_frames):
        ends = quantized_cdf(model.probabilities(codes[-1] if codes else None, n_codebooks))
        frame = np.empty(n_codebooks, np.int64)
        for k, cdf in enumerate(ends):
            n = interval.widen()
            if position + n > end:
                return None, at
            for i in range(position, position + n):
                current = current * 2 + (data[at + i // 8] >> i % 8 & 1)
            position += n
            code = _find(interval, cdf, current)
            low, high = interval.part(int(cdf[code - 1]) if code else 0, int(cdf[code]))
            if not low <= current <= high:
                return None, at
            prefix, _ = interval.narrow(low, high)
            current -= prefix << interval.bits
            frame[k] = code
        codes.append(frame)
    return np.stack(codes), at + -(-position // 8)


def _find(interval: _Interval, cdf: Integers, current: int) -> int:
    """The code whose part of the interval holds `current`."""
    first, last = 0, len(cdf) - 1
    while first < last:
        middle = (first + last) // 2
        _, high = interval.part(0, int(cdf[middle]))
        first, last = (first, middle) if current <= high else (middle + 1, last)
    return first
