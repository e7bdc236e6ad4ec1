"""The definition of correct greedy search: slow, in float64, readable at a glance."""

import numpy as np
import numpy.typing as npt


def greedy(
    x: npt.NDArray[np.float32], codebooks: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Quantize each vector with one codebook after the other.

    Args:
        x: vectors, `[n, dim]`.
        codebooks: `[n_codebooks, codebook_size, dim]`.

    Returns:
        Codes `[n, n_codebooks]`, ties going to the lowest index, and what is left of the vectors,
        `[n, dim]`.
    """
    residual = x.astype(np.float64)
    codes = np.empty((len(x), len(codebooks)), np.int64)
    for row in range(len(x)):
        for stage, codebook in enumerate(codebooks.astype(np.float64)):
            distances = ((residual[row] - codebook) ** 2).sum(axis=1)
            codes[row, stage] = distances.argmin()
            residual[row] -= codebook[codes[row, stage]]
    return codes, residual
