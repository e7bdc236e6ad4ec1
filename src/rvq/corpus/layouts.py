"""Codes <-> tokens: the orders in which language models read and write the codes of a recording.

Special tokens follow the codes in every vocabulary.
"""

from abc import ABC, abstractmethod

import numpy as np
import numpy.typing as npt

from rvq.errors import InputError

Integers = npt.NDArray[np.int64]


class Layout(ABC):
    """A way of writing codes `[n_frames, n_codebooks]` as tokens.

    Args:
        n_codebooks: codes per frame.
        codebook_size: codewords per codebook.
    """

    vocabulary_size: int
    """Tokens there are, special ones included."""
    pad: int
    """Token that fills a batch up."""

    def __init__(self, n_codebooks: int, codebook_size: int = 1024) -> None:
        if n_codebooks < 1 or codebook_size < 1:
            raise InputError(
                f"n_codebooks and codebook_size must be at least 1, got {n_codebooks}, "
                f"{codebook_size}"
            )
        self.n_codebooks = n_codebooks
        self.codebook_size = codebook_size

    @abstractmethod
    def tokens(self, codes: npt.ArrayLike) -> Integers:
        """The tokens of codes `[n_frames, n_codebooks]`, from a first to a last special one.

        Raises:
            InputError: codes of another shape or out of range.
        """

    @abstractmethod
    def codes(self, tokens: npt.ArrayLike) -> Integers:
        """The codes `[n_frames, n_codebooks]` of tokens, which may break off anywhere.

        Raises:
            InputError: tokens that no codes have in this order.
        """

    def _checked(self, codes: npt.ArrayLike) -> Integers:
        array = np.asarray(codes, np.int64)
        if array.ndim != 2 or array.shape[1] != self.n_codebooks:
            raise InputError(f"codes must be [n_frames, {self.n_codebooks}], got {array.shape}")
        if array.size and not 0 <= array.min() <= array.max() < self.codebook_size:
            raise InputError(
                f"codes must be in 0..{self.codebook_size - 1}, got {array.min()}..{array.max()}"
            )
        return array

    def _offset(self, codes: Integers, first: int = 0) -> Integers:
        """One number for code k of codebook q: q * codebook_size + k."""
        return codes + (first + np.arange(codes.shape[1])) * self.codebook_size

    def _without_offset(self, tokens: Integers, first: int, n: int) -> Integers:
        """Undo `_offset` on tokens `[any]` of n codebooks; an incomplete last frame is dropped."""
        frames = tokens[: len(tokens) // n * n].reshape(-1, n)
        codes = frames - (first + np.arange(n)) * self.codebook_size
        if codes.size and not 0 <= codes.min() <= codes.max() < self.codebook_size:
            raise InputError("tokens are not in this layout's order: a code of another codebook")
        return codes


def _joined(*parts: int | Integers) -> Integers:
    return np.concatenate([np.ravel(part) for part in parts]).astype(np.int64)


def _between(tokens: npt.ArrayLike, bos: int, eos: int) -> Integers:
    """What stands after the first token and before the end, if there is one."""
    array = np.asarray(tokens, np.int64)
    if array.ndim != 1:
        raise InputError(f"tokens must be [n], got {array.shape}")
    array = array[1:] if len(array) and array[0] == bos else array
    ends = np.flatnonzero(array == eos)
    return array[: ends[0]] if len(ends) else array


class Flat(Layout):
    """One sequence, frame by frame, within a frame codebook by codebook.

    Example:
        >>> layout = Flat(2, codebook_size=10)
        >>> layout.tokens([[1, 2], [3, 4]]).tolist()
        [20, 1, 12, 3, 14, 21]
        >>> layout.codes([20, 1, 12, 3]).tolist()
        [[1, 2]]
    """

    def __init__(self, n_codebooks: int, codebook_size: int = 1024) -> None:
        super().__init__(n_codebooks, codebook_size)
        n = n_codebooks * codebook_size
        self.bos, self.eos, self.pad = n, n + 1, n + 2
        self.vocabulary_size = n + 3

    def tokens(self, codes: npt.ArrayLike) -> Integers:  # noqa: D102
        return _joined(self.bos, self._offset(self._checked(codes)), self.eos)

    def codes(self, tokens: npt.ArrayLike) -> Integers:  # noqa: D102
        return self._without_offset(_between(tokens, self.bos, self.eos), 0, self.n_codebooks)


class CoarseToFine(Layout):
    """All frames of the first codebooks, a separator, then all frames of the others.

    The order of AudioLM (Borsos et al. 2022), whose models of coarse and fine tokens are the parts
    before and after the separator.

    Args:
        n_codebooks: codes per frame.
        codebook_size: codewords per codebook.
        n_coarse: codebooks that come first.

    Example:
        >>> layout = CoarseToFine(3, codebook_size=10, n_coarse=1)
        >>> layout.tokens([[1, 2, 3], [4, 5, 6]]).tolist()
        [30, 1, 4, 32, 12, 23, 15, 26, 31]
    """

    def __init__(self, n_codebooks: int, codebook_size: int = 1024, *, n_coarse: int) -> None:
        super().__init__(n_codebooks, codebook_size)
        if not 1 <= n_coarse < n_codebooks:
            raise InputError(f"n_coarse must be in 1..{n_codebooks - 1}, got {n_coarse}")
        self.n_coarse = n_coarse
        n = n_codebooks * codebook_size
        self.bos, self.eos, self.separator, self.pad = n, n + 1, n + 2, n + 3
        self.vocabulary_size = n + 4

    def tokens(self, codes: npt.ArrayLike) -> Integers:  # noqa: D102
        numbers = self._offset(self._checked(codes))
        coarse, fine = numbers[:, : self.n_coarse], numbers[:, self.n_coarse :]
        return _joined(self.bos, coarse, self.separator, fine, self.eos)

    def codes(self, tokens: npt.ArrayLike) -> Integers:
        """The codes of tokens that go beyond the separator, as many frames as are complete."""
        inner = _between(tokens, self.bos, self.eos)
        places = np.flatnonzero(inner == self.separator)
        if not len(places):
            raise InputError("tokens have no separator: there are no fine codes yet")
        coarse = self._without_offset(inner[: places[0]], 0, self.n_coarse)
        n_fine = self.n_codebooks - self.n_coarse
        fine = self._without_offset(inner[places[0] + 1 :], self.n_coarse, n_fine)
        n = min(len(coarse), len(fine))
        return np.concatenate([coarse[:n], fine[:n]], axis=1)


class Delay(Layout):
    """A stream per codebook, each a step later than the one before it, as in MusicGen.

    Copet et al. 2023, figure 1. A model writes one code of every codebook per step, and knows a
    frame's first codes when it writes the later ones. Where a stream has no code stands `blank`;
    so does the step before the first code, and the one after the last.

    Example:
        >>> layout = Delay(2, codebook_size=10)
        >>> layout.tokens([[1, 2], [3, 4]]).T.tolist()
        [[10, 1, 3, 10, 10], [10, 10, 2, 4, 10]]
    """

    def __init__(self, n_codebooks: int, codebook_size: int = 1024) -> None:
        super().__init__(n_codebooks, codebook_size)
        self.blank = self.pad = codebook_size
        self.vocabulary_size = codebook_size + 1

    def tokens(self, codes: npt.ArrayLike) -> Integers:
        """Tokens `[n_frames + n_codebooks + 1, n_codebooks]` of codes."""
        array = self._checked(codes)
        n = len(array)
        steps = np.full((n + self.n_codebooks + 1, self.n_codebooks), self.blank, np.int64)
        for q in range(self.n_codebooks):
            steps[1 + q : 1 + q + n, q] = array[:, q]
        return steps

    def codes(self, tokens: npt.ArrayLike) -> Integers:
        """The frames whose codes are all there, up to the first blank of the first stream."""
        steps = np.asarray(tokens, np.int64)
        if steps.ndim != 2 or steps.shape[1] != self.n_codebooks:
            raise InputError(f"tokens must be [n_steps, {self.n_codebooks}], got {steps.shape}")
        n = max(0, len(steps) - self.n_codebooks)
        frames = np.stack([steps[1 + q : 1 + q + n, q] for q in range(self.n_codebooks)], axis=1)
        blanks = np.flatnonzero((frames == self.blank).any(1))
        frames = frames[: blanks[0]] if len(blanks) else frames
        return self._checked(frames)
