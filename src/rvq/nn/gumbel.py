"""The Gumbel-softmax product quantizer of wav2vec 2.0 (Baevski et al. 2020, section 2)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rvq.errors import InputError
from rvq.nn.quantizer import check_range


@dataclass(frozen=True)
class GumbelQuantized:
    """What the quantizer makes of a batch of latents.

    Attributes:
        latents: chosen codewords of all groups side by side, `[batch, n_frames, dim]`.
        codes: `[batch, n_frames, n_groups]`.
        diversity: scalar loss in [0, 1): 0 where the batch uses all codewords alike.
        perplexities: of the averaged choice, one per group, `[n_groups]`.
    """

    latents: Tensor
    codes: Tensor
    diversity: Tensor
    perplexities: Tensor


class GumbelProductQuantizer(nn.Module):
    """Chooses one codeword per group by learned logits, differentiably.

    In training the choice is a sample of the Gumbel-softmax distribution (Jang et al. 2017), hard
    forward and soft backward; in evaluation it is the likeliest codeword. Unlike nearest-neighbour
    quantizers it has no distortion to minimise: it learns from whatever is done with its output,
    and needs the diversity loss against collapse.

    Args:
        dim: of the latents that come in.
        n_groups: codebooks G.
        codebook_size: codewords V per group.
        output_dim: of the latents that go out, a multiple of n_groups.
        temperature: τ of the softmax; lower it in the course of training, 2 to 0.5 in the paper.
    """

    def __init__(
        self,
        *,
        dim: int,
        n_groups: int = 2,
        codebook_size: int = 320,
        output_dim: int = 256,
        temperature: float = 2.0,
    ) -> None:
        super().__init__()
        if n_groups < 1 or output_dim < 1 or output_dim % n_groups:
            raise InputError(f"n_groups {n_groups} must divide output_dim {output_dim}")
        if not temperature > 0:
            raise InputError(f"temperature must be above 0, got {temperature}")
        self.temperature = temperature
        self.logits = nn.Linear(dim, n_groups * codebook_size)
        nn.init.normal_(self.logits.weight)
        nn.init.zeros_(self.logits.bias)
        self.codewords = nn.Parameter(torch.rand(n_groups, codebook_size, output_dim // n_groups))

    def forward(self, x: Tensor) -> GumbelQuantized:
        """Quantize latents `[batch, n_frames, dim]`."""
        n_groups, size, _ = self.codewords.shape
        logits = self.logits(x).float().unflatten(-1, (n_groups, size))
        if self.training:
            choice = F.gumbel_softmax(logits, tau=self.temperature, hard=True)
        else:
            choice = F.one_hot(logits.argmax(-1), size).to(logits)
        average = logits.softmax(-1).flatten(0, 1).mean(0)
        # Softmax underflows to exact zeros, at which x log x has no gradient.
        perplexities = torch.exp(-(average * average.clamp(min=1e-30).log()).sum(-1))
        latents = torch.einsum("btgv,gvd->btgd", choice, self.codewords)
        return GumbelQuantized(
            latents=latents.flatten(2),
            codes=choice.argmax(-1),
            diversity=1 - perplexities.sum() / (n_groups * size),
            perplexities=perplexities.detach(),
        )

    def decode(self, codes: Tensor) -> Tensor:
        """Latents of codes: `[..., n_groups]` -> `[..., output_dim]`.

        Raises:
            InputError: another number of groups, or codes out of range.
        """
        n_groups, size, _ = self.codewords.shape
        if codes.shape[-1] != n_groups:
            raise InputError(f"codes must be [..., {n_groups}], got {tuple(codes.shape)}")
        check_range(codes, 0, size)
        groups = [words[codes[..., g]] for g, words in enumerate(self.codewords)]
        return torch.cat(groups, dim=-1)
