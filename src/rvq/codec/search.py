"""Latents -> codes: beam search, a group of codebooks after the other; or search by angle."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from rvq.codec.defaults import BEAM_SIZE
from rvq.quantize.search import Search

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]

CodeFinder = Callable[[Floats, int], Indices]
"""Latents `[n, dim]` and a number of codebooks -> codes `[n, n_codebooks]`."""
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


class AngularSearch:
    """Finds codes by the angle between codewords and a projection of the residual, greedily.

    So do factorised codebooks, whose codewords have few dimensions (Kumar et al. 2023, DAC).

    Args:
        codebooks: of few dimensions, `[n_codebooks, codebook_size, few]`.
        weights: of every codebook's projection, `[n_codebooks, few, dim]`.
        biases: of it, `[n_codebooks, few]`.
        codewords: what every code takes from the residual, `[n_codebooks, codebook_size, dim]`.
    """

    def __init__(
        self, codebooks: Floats, weights: Floats, biases: Floats, codewords: Floats
    ) -> None:
        lengths = np.linalg.norm(codebooks, axis=2, keepdims=True)
        self._directions = codebooks / np.maximum(lengths, 1e-12)
        self._weights, self._biases, self._codewords = weights, biases, codewords

    def __call__(self, latents: Floats, n_codebooks: int) -> Indices:
        """Latents `[n, dim]` -> codes `[n, n_codebooks]`."""
        residual, codes = latents, np.empty((len(latents), n_codebooks), np.int64)
        for i in range(n_codebooks):
            # The length of what is projected changes nothing.
            low = residual @ self._weights[i].T + self._biases[i]
            codes[:, i] = (low @ self._directions[i].T).argmax(axis=1)
            residual = residual - self._codewords[i][codes[:, i]]
        return codes
