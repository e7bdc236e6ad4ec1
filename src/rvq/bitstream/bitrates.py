"""The bitrate of a codebook, and how many codebooks a bitrate has room for."""

import math

from rvq.errors import InputError

_TOLERANCE = 1e-5
"""Bitrates are printed with six digits: what is printed must be accepted and mean the same."""


def kbps_per_codebook(frame_rate: float, codebook_size: int) -> float:
    """Of one channel, before entropy coding."""
    return frame_rate * math.log2(codebook_size) / 1000


def codebooks_at(bitrate: float, each: float, available: int) -> int:
    """As many codebooks as fit.

    Args:
        bitrate: kbps per channel, before entropy coding.
        each: of one codebook, kbps.
        available: how many there are.

    Raises:
        InputError: less than one codebook needs, or more than there are.

    Example:
        >>> codebooks_at(3, each=0.75, available=16)
        4
    """
    codebooks = bitrate / each * (1 + _TOLERANCE)
    if not 1 <= codebooks <= available * (1 + 2 * _TOLERANCE):
        raise InputError(f"bitrate must be {each:g} to {available * each:g} kbps, got {bitrate:g}")
    return int(codebooks)
