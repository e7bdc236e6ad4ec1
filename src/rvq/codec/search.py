"""Latents -> codes: beam search, a group of codebooks after the other."""

import numpy as np
import numpy.typing as npt

from rvq.codec.defaults import BEAM_SIZE
from rvq.quantize.search import Search

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]

_GROUP = 8
"""Codebooks searched together. What beam search gains is gained within a few neighbours, and the
products of codewords that make it fast grow with the square: 59 MB for eight of 1024."""


class CodeSearch:
    """Finds the codes of latents.

    A group's codes do not depend on the groups after it: with 8, 16, ... codebooks, codes are the
    first of those with more. So they are with any number of codebooks if the search is greedy.

    Args:
        codebooks: `[n_codebooks, codebook_size, dim]`.
        beam_size: code sequences followed at once, 1 to 32; 1 is greedy search.
        threads: that share the latents of a call.

    Raises:
        InputError: beam_size out of range.
    """

    def __init__(self, codebooks: Floats, *, beam_size: int = BEAM_SIZE, threads: int = 1) -> None:
        self._groups = [
            Search(codebooks[first : first + _GROUP], beam_size=beam_size, threads=threads)
            for first in range(0, len(codebooks), _GROUP)
        ]

    def __call__(self, latents: Floats, n_codebooks: int) -> Indices:
        """Latents `[n, dim]` -> codes `[n, n_codebooks]`."""
        parts: list[Indices] = []
        for group in self._groups[: -(-n_codebooks // _GROUP)]:
            found = group.prefix(min(_GROUP, n_codebooks - len(parts) * _GROUP))(latents)
            parts.append(found.codes)
            latents = found.residual
        return np.concatenate(parts, axis=1)
