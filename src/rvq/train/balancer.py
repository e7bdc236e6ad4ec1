"""Gradient balancing: loss weights that mean what they say (EnCodec, Défossez et al. 2022)."""

import torch
from torch import Tensor

from rvq.nn import distributed


class Balancer:
    """Combines losses of one output so that each contributes its share of the gradient.

    The gradient of every loss with respect to the output is divided by a running mean of its norm
    and multiplied by its weight, so that weights are fractions whatever the losses' natural scales.
    The result is scaled as the gradient of `reference` would be, which keeps its relation to losses
    outside the balancer (the commitment loss) readable.
    """

    def __init__(self, weights: dict[str, float], *, reference: str, decay: float = 0.9) -> None:
        self.weights = weights
        self.reference = reference
        self.decay = decay
        self.norms: dict[str, float] = {}

    def gradient(self, losses: dict[str, Tensor], output: Tensor, *, measure: bool) -> Tensor:
        """Balanced gradient with respect to `output`; frees the graphs of the losses.

        Args:
            losses: by name.
            output: what they are losses of, a leaf.
            measure: renew the running norms, which takes a backward pass for each loss; without,
                one pass serves all. A loss that was never measured is measured anyhow.
        """
        if measure or not losses.keys() <= self.norms.keys():
            for name, loss in losses.items():
                (gradient,) = torch.autograd.grad(loss, output, retain_graph=True)
                norm = float(distributed.norm(gradient))
                self.norms[name] = self.decay * self.norms.get(name, norm) + (1 - self.decay) * norm
        scale = self.norms[self.reference]
        total = sum(
            loss * (self.weights[name] * scale / max(self.norms[name], 1e-12))
            for name, loss in losses.items()
        )
        (gradient,) = torch.autograd.grad(torch.as_tensor(total), output)
        return gradient

    def state_dict(self) -> dict[str, float]:
        """The running norms."""
        return dict(self.norms)

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Take over running norms."""
        self.norms = dict(state)
