"""The integers of a compressed recording, with what is needed to turn them back into sound."""

from dataclasses import dataclass, replace
from fractions import Fraction
from numbers import Integral
from typing import Any

import numpy as np
import numpy.typing as npt

from rvq.errors import InputError


@dataclass(frozen=True, eq=False)
class Codes:
    """Codes of one recording.

    Attributes:
        indices: integers in [0, codebook_size), shape `[channels, n_frames, n_codebooks]`; at a
            variable bitrate, -1 where a frame lacks a layer and in all layers above it, but none
            lacks the first.
        codebook_size: number of codewords K of every codebook.
        sample_rate: rate of the original recording in Hz; decoding returns to it.
        n_samples: length of the original recording in samples per channel at `sample_rate`.
        model_hash: content hash (hex) of the model whose codebooks the codes index.
        frame_rate: frames per second; 0 if not known.

    Raises:
        InputError: other indices, or numbers that no recording has.
    """

    indices: npt.NDArray[np.int64]
    codebook_size: int
    sample_rate: int
    n_samples: int
    model_hash: str
    frame_rate: Fraction = Fraction(0)

    def __post_init__(self) -> None:
        for name, least in (("codebook_size", 1), ("sample_rate", 1), ("n_samples", 0)):
            value = getattr(self, name)
            if not isinstance(value, Integral) or value < least:
                raise InputError(f"{name} must be an integer of at least {least}, got {value!r}")
        check_indices(self.indices, self.codebook_size)

    @property
    def n_codebooks(self) -> int:
        """How many codebooks describe each frame."""
        return self.indices.shape[2]

    @property
    def variable(self) -> bool:
        """Whether some frame lacks a layer."""
        return bool((self.indices < 0).any())

    def prefix(self, n_codebooks: int) -> "Codes":
        """The same recording at a lower bitrate: the first `n_codebooks` codes of every frame."""
        if not 1 <= n_codebooks <= self.n_codebooks:
            raise InputError(f"n_codebooks must be in 1..{self.n_codebooks}, got {n_codebooks}")
        return replace(self, indices=self.indices[:, :, :n_codebooks])


def check_indices(indices: Any, codebook_size: int) -> None:
    """Refuse what are not the indices of `Codes`.

    Raises:
        InputError: no array of integers of three axes, out of range, or -1 in the first layer or
            below one that is there.
    """
    if not isinstance(indices, np.ndarray) or indices.ndim != 3 or indices.dtype.kind not in "iu":
        array = isinstance(indices, np.ndarray)
        got = f"{indices.dtype} of shape {indices.shape}" if array else type(indices).__name__
        raise InputError(
            f"codes must be an array of integers [channels, n_frames, n_codebooks], got {got}"
        )
    if not indices.shape[0] or not indices.shape[2]:
        raise InputError(f"codes must have channels and codebooks, got shape {indices.shape}")
    if not indices.size:
        return
    least, most = int(indices.min()), int(indices.max())
    if not -1 <= least <= most < codebook_size:
        raise InputError(f"codes must be in 0..{codebook_size - 1}, got {least}..{most}")
    if least < 0:
        check_layers(indices)


def check_layers(indices: npt.NDArray[np.integer]) -> None:
    """Refuse codes `[..., n_codebooks]` whose -1 are not those of a variable bitrate.

    Raises:
        InputError: -1 in the first layer or below one that is there.
    """
    if (indices[..., 0] < 0).any() or ((indices[..., 1:] >= 0) & (indices[..., :-1] < 0)).any():
        raise InputError(
            "every frame must have the first layer, and lack all layers above one it lacks"
        )
