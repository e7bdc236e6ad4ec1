"""The lapped transform that training and the torch-free codec share."""

import numpy as np
import numpy.typing as npt


def lapped_basis(hop: int) -> npt.NDArray[np.float32]:
    """MDCT (Princen & Bradley 1986) and its quadrature counterpart MDST with a sine window.

    Returns:
        One orthonormal matrix per half, side by side: windows `[..., 2 * hop]` times it are
        coefficients `[..., 2 * hop]`, cosines first; coefficients times the transposed cosine half
        are windows to overlap and add.
    """
    n = np.arange(2 * hop)[:, None] + 0.5
    angle = np.pi / hop * (n + hop / 2) * (np.arange(hop) + 0.5)
    window = np.sin(np.pi * n / (2 * hop)) * np.sqrt(2 / hop)
    return np.hstack([window * np.cos(angle), window * np.sin(angle)]).astype(np.float32)
