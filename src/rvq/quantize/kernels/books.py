"""Codebooks as the kernels want them: padded, packed, with norms and products computed once."""

from dataclasses import dataclass, field
from functools import cached_property
from threading import Lock

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

PANEL = 32
"""Codewords side by side in packed codebooks; the C kernels know it too."""
MOST_DIMS8 = 32768
"""Of vectors whose products of bytes the C kernels add up in 32 bits."""
TABLES_LIMIT = 80 << 20
"""Bytes; beam search computes with residuals where products of codewords would take more."""


@dataclass(eq=False)
class Tables:
    """Products of the codewords of every stage with those of the stages before it.

    Half precision halves the time to read them.

    Attributes:
        products: flat; stage m from 1 on adds `[m * codebook_size, padded]`.
        scale: the power of two that they are divided by, which keeps them in their range.
        n_made: stages whose products are there.
        lock: whoever adds stages holds it.
    """

    products: npt.NDArray[np.float16]
    scale: float
    n_made: int = 1
    lock: Lock = field(default_factory=Lock)


@dataclass(frozen=True, eq=False)
class Bytes:
    """Codewords in 8 bits, with what bounds the errors of scores that are computed with them.

    A codeword less the codebook's centre is its bytes times its step, but for a remainder. Vectors
    are rounded likewise by the kernels. Translating both changes no distance.

    Attributes:
        packed: panels as in `Books.packed`, four components of a codeword side by side, 128 added:
            `[n_codebooks, padded / PANEL, quads, PANEL, 4]`.
        centres: means of the codewords, `[n_codebooks, dim]`.
        levels: three of each codeword, `[n_codebooks, 3, padded]`: its step; its offset; and its
            reach, by which the kernels multiply what bounds a vector's rounding.
        bounds: three of each codebook, `[n_codebooks, 3]`: a codeword's remainder over its reach,
            which bounds its part of the error for vectors of length 1; rounding errors of float32
            and float64 whatever the vector; and those per length of the vector.
    """

    packed: npt.NDArray[np.uint8]
    centres: Floats
    levels: Floats
    bounds: Floats


@dataclass(frozen=True, eq=False)
class Books:
    """A stack of codebooks with what every search needs of them.

    Attributes:
        codebooks: `[n_codebooks, codebook_size, dim]`.
        costs: what choosing a codeword costs beside its product with the vector, float64,
            `[n_codebooks, codebook_size]`: half its squared norm, and λ / 2 times its bits in a
            rate-distortion search. |x - c|^2 + λ bits is least where x.c - cost is greatest.
        whole: the stack that this is a prefix of, if it is one.
    """

    codebooks: Floats
    costs: Doubles
    whole: "Books | None" = None

    @classmethod
    def of(cls, codebooks: Floats, penalties: Doubles | float = 0.0) -> "Books":
        """Prepare codebooks; `penalties` (λ bits) are squared distances added to each codeword."""
        # Accumulated in order, as the kernels do, so that costs are the same on every machine.
        squares = np.square(codebooks, dtype=np.float64)
        norms = np.add.accumulate(squares, axis=2)[:, :, -1]
        return cls(codebooks, np.ascontiguousarray((norms + penalties) / 2))

    def prefix(self, n: int) -> "Books":
        """The first `n` codebooks, in the same memory."""
        books = Books(self.codebooks[:n], self.costs[:n], self.whole or self)
        vars(books).update(
            {name: getattr(self, name)[:n] for name in ("offsets", "reach", "packed")}
        )
        return books

    @property
    def padded(self) -> int:
        """Codebook size rounded up to whole panels."""
        return -(-self.codebooks.shape[1] // PANEL) * PANEL

    @cached_property
    def offsets(self) -> Floats:
        """Negative costs, `[n_codebooks, padded]`; no score beats the padding's -inf."""
        offsets = np.full((len(self.codebooks), self.padded), -np.inf, np.float32)
        offsets[:, : self.costs.shape[1]] = -self.costs
        return offsets

    @cached_property
    def reach(self) -> Floats:
        """Greatest norm and greatest cost of each codebook, which bound rounding errors."""
        norms = np.sqrt(np.square(self.codebooks, dtype=np.float64).sum(axis=2).max(axis=1))
        return np.stack([norms, np.abs(self.costs).max(axis=1)], axis=1).astype(np.float32)

    @cached_property
    def packed(self) -> Floats:
        """Panels of PANEL codewords, dimension by dimension: `[n, padded / PANEL, dim, PANEL]`."""
        n, size, dim = self.codebooks.shape
        padded = np.zeros((n, self.padded, dim), np.float32)
        padded[:, :size] = self.codebooks
        panels = padded.reshape(n, -1, PANEL, dim)
        return np.ascontiguousarray(panels.transpose(0, 1, 3, 2))

    @cached_property
    def packed16(self) -> npt.NDArray[np.uint16]:
        """The panels as bfloat16, neighbouring components in pairs."""
        n, n_panels, dim, _ = self.packed.shape
        panels = np.pad(self.packed, ((0, 0), (0, 0), (0, 2 * _groups(dim, 2) - dim), (0, 0)))
        bits = panels.view(np.uint32)
        rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
        pairs = rounded.reshape(n, n_panels, -1, 2, PANEL)
        return np.ascontiguousarray(pairs.transpose(0, 1, 2, 4, 3))

    @cached_property
    def bytes(self) -> Bytes | None:
        """Codewords in 8 bits; None where codewords are beyond what their bounds are made for."""
        n, size, dim = self.codebooks.shape
        if self.whole is not None:
            made = self.whole.bytes
            return made and Bytes(*(part[:n] for part in vars(made).values()))
        if dim > MOST_DIMS8 or not self.reach.max() < 1e15:
            return None
        centres = self.codebooks.mean(axis=1, dtype=np.float64).astype(np.float32)
        moved = self.codebooks - centres[:, None].astype(np.float64)
        greatest = np.abs(moved).max(axis=2)
        steps = np.where(greatest > 1e-30, greatest / 127, 0).astype(np.float32)
        exact_steps = steps.astype(np.float64)[:, :, None]
        whole = np.rint(moved / np.where(exact_steps > 0, exact_steps, np.inf))
        remainders = np.linalg.norm(moved - whole * exact_steps, axis=2)
        norms = np.linalg.norm(moved, axis=2)
        # One reach stands for the codeword's norm and its remainder both.
        ratios = np.median(remainders / np.maximum(norms, 1e-30), axis=1) + 1e-6
        reach = np.maximum(np.maximum(norms, remainders / ratios[:, None]), 1e-30)
        offsets = np.einsum("mkd,md->mk", self.codebooks, centres, dtype=np.float64) - self.costs
        levels = np.zeros((n, 3, self.padded), np.float32)
        levels[:, 1] = -np.inf
        levels[:, :, :size] = np.stack([steps, offsets, reach], axis=1)
        float32, float64 = np.finfo(np.float32), np.finfo(np.float64)
        far = np.linalg.norm(centres.astype(np.float64), axis=1) * self.reach[:, 0]
        constant = 8 * float32.eps * np.abs(offsets).max(axis=1) + 8 * float32.tiny
        constant += (dim + 8) * float64.eps * (far + self.reach[:, 1])
        per_length = (dim + 8) * float64.eps * self.reach[:, 0]
        bounds = np.stack([ratios + 32 * float32.eps, constant, per_length], axis=1) * 1.001
        quads = _groups(dim, 4)
        codewords = np.full((n, self.padded, 4 * quads), 128, np.uint8)
        codewords[:, :size, :dim] = whole + 128
        panels = codewords.reshape(n, -1, PANEL, quads, 4).transpose(0, 1, 3, 2, 4)
        return Bytes(np.ascontiguousarray(panels), centres, levels, bounds.astype(np.float32))

    @cached_property
    def tables(self) -> Tables:
        """Products of codewords, made by the kernels as far as a search needs them.

        Room for as many stages as `TABLES_LIMIT` allows; prefixes share it.
        """
        if self.whole is not None:
            return self.whole.tables
        n, size, _ = self.codebooks.shape
        while products_of(n, size, self.padded) * 2 > TABLES_LIMIT:
            n -= 1
        bound = float(np.square(self.reach[:, 0], dtype=np.float64).max())
        scale = float(2.0 ** np.ceil(np.log2(max(bound, 1e-30) / 2**15)))
        return Tables(np.empty(products_of(n, size, self.padded), np.float16), scale)

    @property
    def n_products(self) -> int:
        """How many products `tables` has for these codebooks."""
        return products_of(len(self.codebooks), self.codebooks.shape[1], self.padded)


def _groups(dim: int, in_a_group: int) -> int:
    """Groups of components in four bytes: whole tiles of up to 16, all equally filled, as in C."""
    groups = -(-dim // in_a_group)
    tiles = -(-groups // 16)
    return tiles * -(-groups // tiles)


def products_of(n_stages: int, size: int, padded: int) -> int:
    """Products of codewords of every stage with the padded ones of the stages after it."""
    return n_stages * (n_stages - 1) // 2 * size * padded
