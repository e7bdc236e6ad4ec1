"""Codebooks as the kernels want them: padded, packed, with norms and products computed once."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

PANEL = 32
"""Codewords side by side in packed codebooks; the C kernels know it too."""


@dataclass(frozen=True, eq=False)
class Books:
    """A stack of codebooks with what every search needs of them.

    Attributes:
        codebooks: `[n_codebooks, codebook_size, dim]`.
        costs: what choosing a codeword costs beside its product with the vector, float64,
            `[n_codebooks, codebook_size]`: half its squared norm, and λ / 2 times its bits in a
            rate-distortion search. |x - c|^2 + λ bits is least where x.c - cost is greatest.
    """

    codebooks: Floats
    costs: Doubles

    @classmethod
    def of(cls, codebooks: Floats, penalties: Doubles | float = 0.0) -> "Books":
        """Prepare codebooks; `penalties` (λ bits) are squared distances added to each codeword."""
        # Accumulated in order, as the kernels do, so that costs are the same on every machine.
        squares = np.square(codebooks, dtype=np.float64)
        norms = np.add.accumulate(squares, axis=2)[:, :, -1]
        return cls(codebooks, np.ascontiguousarray((norms + penalties) / 2))

    def prefix(self, n: int) -> "Books":
        """The first `n` codebooks, in the same memory."""
        books = Books(self.codebooks[:n], self.costs[:n])
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
        panels = np.pad(self.packed, ((0, 0), (0, 0), (0, dim % 2), (0, 0)))
        bits = panels.view(np.uint32)
        rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
        pairs = rounded.reshape(n, n_panels, -1, 2, PANEL)
        return np.ascontiguousarray(pairs.transpose(0, 1, 2, 4, 3))

    @cached_property
    def tables(self) -> tuple[npt.NDArray[np.float16], float]:
        """Products of the codewords of every stage with those of the stages before it.

        Half precision halves the time to read them; they are stored over a power of two that keeps
        them in its range, which is returned with them. Flat: stage m from 1 on adds
        `[m * codebook_size, padded]`.
        """
        n, size, dim = self.codebooks.shape
        bound = float(np.square(self.reach[:, 0], dtype=np.float64).max())
        scale = float(2.0 ** np.ceil(np.log2(max(bound, 1e-30) / 2**15)))
        parts = [np.empty(0, np.float16)]
        for stage in range(1, n):
            table = np.zeros((stage * size, self.padded), np.float16)
            earlier = self.codebooks[:stage].reshape(-1, dim)
            table[:, :size] = (earlier @ self.codebooks[stage].T) / scale
            parts.append(table.ravel())
        return np.concatenate(parts), scale

    @property
    def tables_bytes(self) -> int:
        """Memory that `tables` takes."""
        n, size, _ = self.codebooks.shape
        return n * (n - 1) // 2 * size * self.padded * 2
