"""A start for deep convolutional networks: every layer's outputs vary by one over real examples.

With torch's usual start a SEANet's signal fades: each convolution and ELU takes a part of its
variance away and adds a bias, until the latents of an untrained encoder hardly vary, and a decoder
says the same whatever its latents are. Layer-sequential unit variance (Mishkin & Matas 2016)
scales one layer after the other by what it makes of examples; means are taken away as in the
data-dependent start of weight normalization (Salimans & Kingma 2016, section 3).
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

Convolutional = nn.Conv1d | nn.ConvTranspose1d


@torch.no_grad()
def scale_to_unit_variance(network: nn.Module, run: Callable[[], Tensor]) -> Tensor:
    """Scale every convolution of a network so that its outputs have mean 0 and variance 1.

    Means are those of each channel, the variance is that over examples and steps, averaged over
    channels, so that a channel that says little still says little.

    Args:
        network: whose convolutions have biases.
        run: passes examples through the network, each convolution once.

    Returns:
        What `run` returned.
    """
    convolutions = [m for m in network.modules() if isinstance(m, Convolutional)]
    hooks = [module.register_forward_hook(_scale) for module in convolutions]
    try:
        return run()
    finally:
        for hook in hooks:
            hook.remove()


def _scale(convolution: nn.Module, _: object, output: Tensor) -> Tensor:
    """Scale a convolution by what it has just made; what follows sees the scaled output."""
    assert isinstance(convolution, Convolutional)
    mean = output.mean(dim=(0, 2))
    deviation = output.var(dim=(0, 2)).mean().sqrt().clamp(min=1e-6)
    scale(convolution, 1 / deviation)
    if convolution.bias is not None:
        convolution.bias -= mean / deviation
        output = output - mean[:, None]
    return output / deviation


def scale(convolution: Convolutional, factor: Tensor | float) -> None:
    """Multiply what a convolution makes, with or without weight norm."""
    normed = parametrize.is_parametrized(convolution, "weight")
    lengths = "parametrizations.weight.original0"
    convolution.get_parameter(lengths if normed else "weight").mul_(factor)
    if convolution.bias is not None:
        convolution.bias.mul_(factor)
