"""The integers of a compressed recording, with what is needed to turn them back into sound."""

from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from rvq.errors import InputError


@dataclass(frozen=True, eq=False)
class Codes:
    """Codes of one recording.

    Attributes:
        indices: integers in [0, codebook_size), shape `[channels, n_frames, n_codebooks]`; at a
            variable bitrate, -1 where a frame lacks a layer and in all layers above it.
        codebook_size: number of codewords K of every codebook.
        sample_rate: rate of the original recording in Hz; decoding returns to it.
        n_samples: length of the original recording in samples per channel at `sample_rate`.
        model_hash: content hash (hex) of the model whose codebooks the codes index.
        frame_rate: frames per second; 0 if not known.
    """

    indices: npt.NDArray[np.int64]
    codebook_size: int
    sample_rate: int
    n_samples: int
    model_hash: str
    frame_rate: Fraction = Fraction(0)

    def __post_init__(self) -> None:
        if self.indices.ndim != 3:
            raise InputError(
                f"codes must be [channels, n_frames, n_codebooks], got shape {self.indices.shape}"
            )

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
