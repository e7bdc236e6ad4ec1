"""The definition of correct greedy search: slow, readable at a glance."""

import numpy as np
import numpy.typing as npt


def greedy(
    x: npt.NDArray[np.float32],
    codebooks: npt.NDArray[np.float32],
    penalties: npt.NDArray[np.float64] | float = 0.0,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Quantize each vector with one codebook after the other.

    Scores are sums in float64, accumulated in order of the dimension: products of float32 numbers
    are exact there, so every machine agrees on them. Residuals are float32.

    Args:
        x: vectors, `[n, dim]`.
        codebooks: `[n_codebooks, codebook_size, dim]`.
        penalties: added to the squared distance of each codeword, `[n_codebooks, codebook_size]`.

    Returns:
        Codes `[n, n_codebooks]`, ties going to the lowest index, and what is left of the vectors,
        `[n, dim]`.
    """
    residual = x.astype(np.float32)
    codes = np.empty((len(x), len(codebooks)), np.int64)
    costs = (in_order(np.square(codebooks, dtype=np.float64)) + penalties) / 2
    for row in range(len(x)):
        for stage, codebook in enumerate(codebooks):
            scores = in_order(residual[row].astype(np.float64) * codebook) - costs[stage]
            codes[row, stage] = scores.argmax()
            residual[row] -= codebook[codes[row, stage]]
    return codes, residual


def in_order(terms: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Sum over the last axis, one term after the other (numpy's own sum adds in pairs)."""
    return np.add.accumulate(terms, axis=-1)[..., -1]
