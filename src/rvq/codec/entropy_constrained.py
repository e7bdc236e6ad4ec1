"""Latents -> as many codes as are worth their bits: a beam search by error + λ · bits.

Entropy-constrained quantization (Chou, Lookabaugh & Gray 1989) with the network of the file's own
entropy coder as the price list. Layer by layer, and frame by frame in a layer, as that coder goes:
every frame keeps a few hypotheses, with residual, error and bits of each; all their extensions by a
codeword compete with their end, and the best go on. A price depends on the frames around, of which
the best hypotheses so far are taken, and on the hypothesis's own codewords. So prices are close to
what the coder will need, and whatever was chosen is coded exactly.
"""

from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

from rvq.bitstream import reference
from rvq.bitstream.entropy import EntropyModel
from rvq.bitstream.tables import ABSENT, GROUP, Tables
from rvq.quantize.search import check_beam_size

try:
    _native: Any = import_module("rvq.codec._entropy_constrained")
except ImportError:  # installed without a compiler
    _native = None

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]

_STEP = 32
"""Codewords side by side, as the C search reads them."""
_NONE, _GOING, _ENDED = 0, 1, 2
_LIKELIEST = 4096
"""Bits of the frequency of the likeliest codeword, 16, in 1/256."""


@dataclass(frozen=True, eq=False)
class Found:
    """What the search found for consecutive frames.

    Attributes:
        codes: `[n_frames, n_codebooks]`, -1 where a frame lacks a layer.
        bits: of all of them, about.
    """

    codes: Indices
    bits: float


@dataclass(eq=False)
class _Hypotheses:
    """Of every frame, best first; changed in place. All `[n_frames, beam]`, residuals with dim."""

    residuals: Floats
    errors: Floats
    bits: npt.NDArray[np.int32]  # in 1/256
    states: npt.NDArray[np.uint8]
    codes: npt.NDArray[np.uint16]
    parents: npt.NDArray[np.uint8]

    def __init__(self, latents: Floats, beam_size: int) -> None:
        n, dim = latents.shape
        self.residuals = np.zeros((n, beam_size, dim), np.float32)
        self.residuals[:, 0] = latents
        self.errors = np.zeros((n, beam_size), np.float32)
        self.errors[:, 0] = np.square(latents, dtype=np.float64).sum(axis=1)
        self.bits = np.zeros((n, beam_size), np.int32)
        self.states = np.full((n, beam_size), _NONE, np.uint8)
        self.states[:, 0] = _GOING
        self.codes = np.full((n, beam_size), ABSENT, np.uint16)
        self.parents = np.zeros((n, beam_size), np.uint8)


@dataclass(frozen=True, eq=False)
class _Book:
    """A codebook and what is prepared of it."""

    codewords: Floats  # [size, dim]
    norms: Floats
    panels: Floats  # [padded / _STEP, dim, _STEP]

    @classmethod
    def of(cls, codewords: Floats) -> "_Book":
        size, dim = codewords.shape
        padded = np.zeros((-(-size // GROUP) * GROUP, dim), np.float32)
        padded[:size] = codewords
        return cls(
            np.ascontiguousarray(codewords),
            np.square(codewords, dtype=np.float64).sum(axis=1).astype(np.float32),
            np.ascontiguousarray(padded.reshape(-1, _STEP, dim).transpose(0, 2, 1)),
        )


class EntropyConstrainedSearch:
    """Finds codes by their error and their bits.

    Compiled or not, and on every machine, it finds the same.

    Args:
        codebooks: `[n_codebooks, codebook_size, dim]`.
        entropy: what the codes will be coded by.
        beam_size: hypotheses followed per frame, 1 to 32; 1 is greedy search.

    Raises:
        InputError: beam_size out of range, or codebooks that the entropy model does not know.
    """

    def __init__(self, codebooks: Floats, entropy: EntropyModel, *, beam_size: int) -> None:
        check_beam_size(beam_size)
        entropy.check(*codebooks.shape[:2])
        self._entropy = entropy
        self._beam_size = beam_size
        self._books = [_Book.of(codebook) for codebook in codebooks.astype(np.float32)]

    def __call__(
        self,
        latents: Floats,
        lagrangians: npt.NDArray[np.float64],
        n_codebooks: int,
        most: npt.NDArray[np.integer] | None = None,
    ) -> Found:
        """Search for the frames of one block.

        Args:
            latents: `[n_frames, dim]`.
            lagrangians: λ of every frame: squared error that a bit is worth.
            n_codebooks: the most codes per frame; every frame has the first.
            most: those of each frame, `[n_frames]`, where some may have no more than fewer.
        """
        n, beam = len(latents), self._beam_size
        prices = (lagrangians / 256).astype(np.float32)
        most = np.full(n, n_codebooks) if most is None else most
        tables = self._entropy.tables
        extend = _extend_in_numpy if _native is None else _extend
        found = _Hypotheses(latents, beam)
        known = np.zeros((n, beam, self._entropy.width), np.int32)
        paths = np.full((n, beam, n_codebooks), -1, np.int64)
        for layer in range(n_codebooks):
            base = self._entropy.base(layer, known[None, :, 0])[:, None]
            base = base + self._entropy.base_here(layer, known - known[:, :1])
            ends = ((layer >= most) & (layer > 0)).astype(np.uint8)
            step = _Layer(tables(layer), self._books[layer], prices, ends, base, layer > 0)
            extend(step, found)
            codes = np.where(found.codes == ABSENT, -1, found.codes.astype(np.int64))
            parents = found.parents.astype(np.int64)[..., None]
            known = np.take_along_axis(known, parents, axis=1)
            known += self._entropy.features(layer, codes)
            paths = np.take_along_axis(paths, parents, axis=1)
            paths[..., layer] = codes
            if not (found.states == _GOING).any():
                break
        return Found(paths[:, 0], float(found.bits[:, 0].sum(dtype=np.int64)) / 256)


@dataclass(frozen=True, eq=False)
class _Layer:
    """What extends the hypotheses of all frames by one layer.

    Attributes:
        tables: of the entropy model.
        book: the codebook.
        prices: of 1/256 bit, `[n_frames]`.
        ends: whether each frame must go without the layer, `[n_frames]`.
        base: what lower layers add to the hidden units, `[n_frames, beam, hidden]`.
        optional: whether frames may go without the layer.
    """

    tables: Tables
    book: _Book
    prices: Floats
    ends: npt.NDArray[np.uint8]
    base: npt.NDArray[np.int32]
    optional: bool


def _extend(layer: _Layer, found: _Hypotheses) -> None:
    """Bring the hypotheses of all frames up to date, and set their codes and parents."""
    tables, book = layer.tables, layer.book
    (n, beam, dim), (memory, size, hidden) = found.residuals.shape, tables.past.shape
    shape = (n, dim, beam, size, hidden, tables.shift, memory, tables.precision, layer.optional)
    _native.extend(
        shape,
        *tables.logits.packed,
        tables.past,
        *(book.panels, book.codewords, book.norms),
        *(layer.prices, layer.ends, np.ascontiguousarray(layer.base, np.int32)),
        *(found.residuals, found.errors, found.bits, found.states, found.codes, found.parents),
    )


def _extend_in_numpy(layer: _Layer, found: _Hypotheses) -> None:
    """The same."""
    book, optional = layer.book, layer.optional
    n, beam, dim = found.residuals.shape
    size = len(book.codewords)
    # One product and one sum after the other, as the C search does.
    products = np.zeros((n, beam, size), np.float32)
    for d in range(dim):
        products += found.residuals[..., d, None] * book.codewords[:, d]
    errors = found.errors[..., None] + (book.norms - np.float32(2) * products)
    seen = [[6, 1], [1, 6], [6, 1], [1, 6]]
    path = np.full(n, ABSENT, np.uint16)
    below = False
    for t, price in enumerate(layer.prices):
        context = seen[2 * below + bool(path[t - 1] != ABSENT) if t else 0]
        absent, present = (
            (_log2(sum(context)) - _log2(count) if optional else 0) for count in context
        )
        # Of every hypothesis: all extensions by a codeword, then its end.
        bits = np.repeat(found.bits[t, :, None], size + 1, axis=1)
        error = np.concatenate([errors[t], found.errors[t, :, None]], axis=1)
        possible = np.zeros((beam, size + 1), bool)
        for b, state in enumerate(found.states[t]):
            if state == _GOING:
                if not layer.ends[t]:
                    active = reference.activations(layer.tables, layer.base[t, b], path[:t], t)
                    bits[b, :size] += present + _prices(layer.tables, active)
                    possible[b] = True
                bits[b, size] += absent
            possible[b, size] = state == _ENDED or (state == _GOING and optional)
        costs = np.where(possible, error + price * bits.astype(np.float32), np.inf)
        order = np.argsort(costs, axis=None, kind="stable")[:beam]
        parents, codes = np.divmod(order, size + 1)
        there = np.isfinite(costs[parents, codes])
        parents[~there] = 0
        ended = codes == size
        below = bool(not ended[0] or found.states[t, parents[0]] == _GOING)
        residuals = found.residuals[t, parents]
        going = there & ~ended
        residuals[going] -= book.codewords[codes[going]]
        found.residuals[t] = residuals
        found.errors[t] = np.where(there, error[parents, codes], 0)
        found.bits[t] = np.where(there, bits[parents, codes], 0)
        found.states[t] = np.where(there, np.where(ended, _ENDED, _GOING), _NONE)
        found.codes[t] = np.where(going, codes, ABSENT)
        found.parents[t] = parents
        path[t] = found.codes[t, 0]
        if optional and below:
            context[int(path[t] != ABSENT)] += 2


def _prices(tables: Tables, activations: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
    """Bits of all codewords in 1/256, `[codebook_size]`."""
    logits = reference.apply(tables.logits, activations).astype(np.int64)
    below = np.minimum(logits.max() - logits >> tables.precision - 8, _LIKELIEST)
    total = int(reference.frequencies(tables, activations).sum())
    return (below + (_log2(total) - _LIKELIEST)).astype(np.int32)


def _log2(value: int) -> int:
    """log2 of a positive integer in 1/256, rounded down."""
    whole = value.bit_length() - 1
    value <<= 31 - whole
    result = whole * 256
    for bit in (128, 64, 32, 16, 8, 4, 2, 1):
        value = value * value >> 31
        if value >> 32:
            value >>= 1
            result += bit
    return result
