"""What the range coder needs to know of one layer: integers, ready for it."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

ABSENT = 65535
"""In place of a code where a frame does not have the layer."""
TOP = 1023
"""Greatest activation of a hidden unit."""
PANEL, GROUP = 16, 64
"""How the C coder lays out weights: codewords side by side, and padding of their number."""


@dataclass(frozen=True, eq=False)
class Tables:
    """The last steps of a layer's network, from what is known of a frame to frequencies.

    Attributes:
        weights: int16 `[codebook_size, hidden]`.
        bias: int32 `[codebook_size]`.
        past: int32 `[memory, codebook_size, hidden]`: what the layer's own codes 1, 2, ... frames
            before add to the hidden units.
        precision: logits are in 2**-precision bit.
        shift: bits by which sums are shifted down to activations of 0 to `TOP`.
    """

    weights: npt.NDArray[np.int16]
    bias: npt.NDArray[np.int32]
    past: npt.NDArray[np.int32]
    precision: int
    shift: int

    @cached_property
    def packed(self) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.int32]]:
        """Weights and bias as `native/coder.c` reads them."""
        size, hidden = self.weights.shape
        padded = -(-size // GROUP) * GROUP
        weights = np.zeros((padded, hidden), np.int16)
        weights[:size] = self.weights
        panels = weights.reshape(padded // PANEL, PANEL, hidden // 2, 2).transpose(0, 2, 1, 3)
        bias = np.zeros(padded, np.int32)
        bias[:size] = self.bias
        return np.ascontiguousarray(panels), bias
