"""Gradient balancing: loss weights that mean what they say (EnCodec, Défossez et al. 2022)."""

import torch
from torch import Tensor

from rvq.nn import distributed


class Balancer:
    """Combines losses of one output so that weights alone say what each contributes.

    The gradient of every loss with respect to the output is scaled to the norm of the gradient of
    `reference`, by running means of both, and multiplied by its weight. What the losses contribute
    thus stands in the proportion of their weights, whatever the losses' natural scales. Weights
    need not sum to one and nothing divides by their sum: the reference counts as its loss times its
    weight, which keeps its relation to losses outside the balancer (the commitment loss) readable.

    Args:
        weights: of the losses by name, `reference` among them.
        reference: name of the loss whose scale all others take.
        decay: of the running means, per measurement.
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
