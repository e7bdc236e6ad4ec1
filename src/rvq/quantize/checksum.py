"""What tells a damaged file from a whole one."""

import hashlib

import numpy as np
import numpy.typing as npt


def checksum(*parts: str | npt.NDArray[np.generic]) -> str:
    """SHA-256 of texts and of the bytes of arrays, in hexadecimal."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() if isinstance(part, str) else np.ascontiguousarray(part).data)
    return digest.hexdigest()
