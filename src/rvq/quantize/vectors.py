"""What users pass as vectors, as the float32 arrays that the search works on."""

from typing import Any

import numpy as np
import numpy.typing as npt

from rvq.errors import InputError

Floats = npt.NDArray[np.float32]


def as_vectors(x: Any, dim: int | None = None) -> Floats:
    """Vectors `[..., dim]` as contiguous float32.

    Args:
        x: numpy array, nested lists or torch tensor of floating-point numbers, bfloat16 included.
        dim: what the last axis must be.

    Raises:
        InputError: no floating-point numbers, empty, not finite, or another dimension.
    """
    if hasattr(x, "detach"):  # a torch tensor; numpy has no bfloat16, so widen it there
        x = x.detach().cpu().float().numpy()
    array = np.asarray(x)
    if array.dtype.name == "bfloat16":  # of the package ml_dtypes
        array = array.astype(np.float32)
    if array.ndim < 2 or array.size == 0:
        raise InputError(f"vectors must be a non-empty [..., dim] array, got {array.shape}")
    if not np.issubdtype(array.dtype, np.floating):
        raise InputError(f"vectors must be floating point, got {array.dtype}")
    if dim is not None and array.shape[-1] != dim:
        raise InputError(f"vectors must be [..., {dim}] as in fit, got shape {array.shape}")
    array = np.ascontiguousarray(array, np.float32)
    if not np.isfinite(array).all():
        raise InputError(f"vectors contain NaN or infinity (shape {array.shape})")
    return array


def as_codes(codes: Any, *, most: int, codebook_size: int) -> npt.NDArray[np.int64]:
    """Codes `[..., n]`, 1 <= n <= most, as int64.

    Raises:
        InputError: no integers, out of range, or more codebooks than there are.
    """
    if hasattr(codes, "detach"):
        codes = codes.detach().cpu().numpy()
    indices = np.asarray(codes)
    if indices.ndim == 0 or not 1 <= indices.shape[-1] <= most:
        raise InputError(f"codes must be [..., 1 to {most}], got {indices.shape}")
    if not np.issubdtype(indices.dtype, np.integer):
        raise InputError(f"codes must be integers, got {indices.dtype}")
    if indices.size and not 0 <= indices.min() <= indices.max() < codebook_size:
        raise InputError(
            f"codes must be in 0..{codebook_size - 1}, got {indices.min()}..{indices.max()}"
        )
    return indices.astype(np.int64)


def variance(x: Floats) -> float:
    """Mean squared distance of vectors `[n, dim]` from their mean, at least the smallest float."""
    mean = x.mean(axis=0, dtype=np.float64)
    squares = np.einsum("nd,nd->", x, x, dtype=np.float64) / len(x)
    return float(max(squares - mean @ mean, np.finfo(np.float64).tiny))
