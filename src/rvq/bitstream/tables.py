"""The integers that the range coder computes with, ready for it."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

ABSENT = 65535
"""In place of a code where a frame does not have the layer."""
TOP = 1023
"""Greatest activation of a hidden unit."""
GROUP = 64
"""Outputs that the C coder has side by side, and pads their number to."""


@dataclass(frozen=True, eq=False)
class Linear:
    """Products and sums of integers, below 2**31 for all inputs that occur.

    Attributes:
        weights: int16 `[n_outputs, n_inputs]`.
        bias: int32 `[n_outputs]`.
    """

    weights: npt.NDArray[np.int16]
    bias: npt.NDArray[np.int32]

    @cached_property
    def packed(self) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.int32]]:
        """Weights and bias as `native/network.h` reads them, for an even number of inputs."""
        size, inputs = self.weights.shape
        padded, pairs = -(-size // GROUP) * GROUP, -(-inputs // 2)
        weights = np.zeros((padded, 2 * pairs), np.int16)
        weights[:size, :inputs] = self.weights
        panels = weights.reshape(padded // GROUP, GROUP, pairs, 2).transpose(0, 2, 1, 3)
        bias = np.zeros(padded, np.int32)
        bias[:size] = self.bias
        return np.ascontiguousarray(panels), bias


@dataclass(frozen=True, eq=False)
class Tables:
    """A layer's network, from what is known of a frame to frequencies.

    Attributes:
        below: to hidden units from the features of the layers below, frame by frame of those that
            are looked at.
        here: the same from those of the frame itself alone, without the bias.
        logits: from activations of hidden units.
        past: int32 `[memory, codebook_size, hidden]`: what the layer's own codes 1, 2, ... frames
            before add to the hidden units.
        precision: logits are in 2**-precision bit.
        shift: bits by which sums are shifted down to activations of 0 to `TOP`.
    """

    below: Linear
    here: Linear
    logits: Linear
    past: npt.NDArray[np.int32]
    precision: int
    shift: int
