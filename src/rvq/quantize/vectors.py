"""What users pass as vectors, codes and numbers, as the arrays that the search works on."""

import operator
from typing import Any

import numpy as np
import numpy.typing as npt

from rvq.errors import InputError

Floats = npt.NDArray[np.float32]

_LONGEST = 1e18
"""Of vectors: squared distances, and the few that a search adds up, then stay within float32."""


def as_vectors(x: Any, dim: int | None = None, *, distances: bool = True) -> Floats:
    """Vectors `[..., dim]` as contiguous float32.

    Args:
        x: numpy array, nested lists or torch tensor of floating-point numbers, bfloat16 included.
        dim: what the last axis must be.
        distances: refuse vectors longer than 1e18, whose distances do not fit float32.

    Raises:
        InputError: no floating-point numbers, empty, not finite, too large, or another dimension.
    """
    given = as_array(x, "vectors")
    if given.dtype.name != "bfloat16" and not np.issubdtype(given.dtype, np.floating):
        raise InputError(
            f"vectors must be an array of floating point, got {given.dtype}; convert integers by "
            ".astype('float32') and sparse matrices by .toarray()"
        )
    if given.ndim < 2:
        raise InputError(f"vectors need two axes or more, [..., dim]; got shape {given.shape}")
    if given.size == 0:
        raise InputError(f"vectors must not be empty, got shape {given.shape}")
    if dim is not None and given.shape[-1] != dim:
        raise InputError(f"vectors must be [..., {dim}] as in fit, got shape {given.shape}")
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused
        array = np.ascontiguousarray(given, np.float32)
    if distances and _short(_squares(array)):  # nor is any of them NaN or infinite
        return array
    if not np.isfinite(array).all():
        if np.isfinite(given).all():
            raise InputError("vectors do not fit float32; scale them down")
        raise InputError(f"vectors contain NaN or infinity (shape {array.shape})")
    if distances:
        squared_norms(array, "vectors")
    return array


def squared_norms(vectors: Floats, what: str) -> Floats:
    """Of finite vectors `[..., dim]`, `[...]`.

    Raises:
        InputError: a vector, called `what`, is longer than 1e18.
    """
    squares = _squares(vectors)
    if not _short(squares):
        raise InputError(f"{what} are too large for distances in float32; scale them down")
    return squares


def _squares(vectors: Floats) -> Floats:
    squares: Floats = np.einsum("...d,...d->...", vectors, vectors)
    return squares


def _short(squares: Floats) -> bool:
    return bool((squares <= _LONGEST**2).all())


def as_codes(codes: Any, *, most: int, codebook_size: int) -> npt.NDArray[np.int64]:
    """Codes `[..., n]`, 1 <= n <= most, as int64.

    Raises:
        InputError: no integers, out of range, or more codebooks than there are.
    """
    indices = as_array(codes, "codes")
    if indices.ndim == 0 or not 1 <= indices.shape[-1] <= most:
        raise InputError(f"codes must be [..., 1 to {most}], got {indices.shape}")
    if not np.issubdtype(indices.dtype, np.integer):
        raise InputError(f"codes must be integers, got {indices.dtype}")
    if indices.size and not 0 <= indices.min() <= indices.max() < codebook_size:
        raise InputError(
            f"codes must be in 0..{codebook_size - 1}, got {indices.min()}..{indices.max()}"
        )
    return indices.astype(np.int64)


def as_number(value: Any, name: str, *, most: int) -> int:
    """A number of things, 1 to most, numpy's integers included.

    Raises:
        InputError: no integer, or out of range.
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise InputError(f"{name} must be an integer, got {value!r}") from None
    if not 1 <= number <= most:
        raise InputError(f"{name} must be in 1..{most}, got {number}")
    return number


def variance(x: Floats) -> float:
    """Mean squared distance of vectors `[n, dim]` from their mean, at least the smallest float."""
    mean = x.mean(axis=0, dtype=np.float64)
    squares = np.einsum("nd,nd->", x, x, dtype=np.float64) / len(x)
    return float(max(squares - mean @ mean, np.finfo(np.float64).tiny))


def as_array(given: Any, what: str) -> npt.NDArray[Any]:
    """Numbers as an array of numpy: of a torch tensor, with a gradient or of 16 bits, too.

    Raises:
        InputError: lists of unequal lengths.
    """
    if hasattr(given, "detach"):  # a torch tensor
        given = given.detach().cpu()
        if given.is_floating_point() and given.element_size() < 4:
            given = given.float()  # numpy has no bfloat16
        given = given.numpy()
    try:
        return np.asarray(given)
    except ValueError:
        raise InputError(f"{what} must form an array: lists of equal lengths") from None
