"""The default encoder and decoder: a learned transform codec that runs at the frame rate.

Both ends are a modified discrete cosine transform (MDCT, Princen & Bradley 1986), critically
sampled and cheap. Between them and the latents lead two paths whose results are added: a linear one
from companded coefficients, which starts as their principal components, so that the untrained model
is already a fair transform codec and waveforms pass from the first step on; and ConvNeXt blocks
(Liu et al. 2022) with causal depthwise convolutions, whose matrix products over frames learn all
that a transform cannot: what to spend few bits on, and what to make of them.

Frame t of the encoder describes hops t - 1 and t. The decoder hears `lookahead` frames more before
it commits to a frame, and a hop is complete with the frame after it: algorithmic latency and delay
follow from these two alone.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from rvq.errors import InputError
from rvq.lapped import lapped_basis


@dataclass(frozen=True)
class SpectralConfig:
    """Shape of the spectral encoder and decoder.

    Attributes:
        sample_rate: Hz.
        hop_length: samples per frame, and coefficients of the transform.
        lookahead: frames that the decoder hears before it commits to one.
        companding: exponent that compresses the range of coefficients, in (0, 1].
        width: channels of the blocks.
        hidden: channels inside a block's pointwise layers.
        kernel_size: frames seen by a block's depthwise convolution, all in the past.
        encoder_blocks: blocks of the encoder.
        decoder_blocks: blocks of the decoder.
        dim: dimension of the latent vectors, at most hop_length.
    """

    sample_rate: PositiveInt = 24_000
    hop_length: PositiveInt = 320
    lookahead: NonNegativeInt = 1
    companding: Annotated[float, Field(gt=0, le=1)] = 0.6
    width: PositiveInt = 256
    hidden: PositiveInt = 768
    kernel_size: PositiveInt = 7
    encoder_blocks: PositiveInt = 4
    decoder_blocks: PositiveInt = 6
    dim: PositiveInt = 128

    def __post_init__(self) -> None:
        if self.hop_length < 1:
            raise InputError(f"hop_length must be at least 1, got {self.hop_length}")
        if self.dim > self.hop_length:
            raise InputError(
                f"dim must be at most hop_length {self.hop_length}, got {self.dim}: the linear "
                "path has no more components"
            )

    @property
    def delay(self) -> int:
        """Frames from a hop's arrival to its output."""
        return 1 + self.lookahead

    @property
    def first_frames(self) -> int:
        """Least frames of the first of several calls."""
        return 1

    @property
    def latency(self) -> float:
        """Algorithmic latency in seconds: from a sample's arrival to the same sample's output."""
        return (1 + self.delay) * self.hop_length / self.sample_rate


class _ShiftedProducts(torch.autograd.Function):
    """y[t] = sum_i weight[i] * x[t + i], with a backward pass that adds in place."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        n_frames = x.shape[1] - len(weight) + 1
        y = x[:, :n_frames] * weight[0]
        for i in range(1, len(weight)):
            y.addcmul_(x[:, i : i + n_frames], weight[i])
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        n_frames = gradient.shape[1]
        to_x, to_weight = torch.zeros_like(x), torch.empty_like(weight)
        for i in range(len(weight)):
            to_x[:, i : i + n_frames].addcmul_(gradient, weight[i])
            to_weight[i] = (x[:, i : i + n_frames] * gradient).sum((0, 1))
        return to_x, to_weight


class CausalDepthwise(nn.Module):
    """Depthwise convolution over past frames, in channels-last layout.

    Written as a sum of shifted products: on a CPU that is several times faster than a grouped
    convolution with its transposes, forward and backward.
    """

    def __init__(self, width: int, kernel_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(kernel_size, width) * kernel_size**-0.5)
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """`x [batch, n_frames, width]`, `past [batch, kernel_size - 1, width]` -> output, past."""
        x = torch.cat([past, x], dim=1)
        n_past = len(self.weight) - 1
        if self.training:
            y = _ShiftedProducts.apply(x, self.weight)
        else:  # the form that exports to one operator
            y = F.conv1d(x.transpose(1, 2), self.weight.T.unsqueeze(1), groups=x.shape[2])
            y = y.transpose(1, 2)
        return y + self.bias, x[:, x.shape[1] - n_past :]


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution over time, then two pointwise layers, added to the input."""

    def __init__(self, config: SpectralConfig, scale: float) -> None:
        super().__init__()
        self.depthwise = CausalDepthwise(config.width, config.kernel_size)
        self.norm = nn.LayerNorm(config.width)
        self.expand = nn.Linear(config.width, config.hidden)
        self.contract = nn.Linear(config.hidden, config.width)
        self.scale = nn.Parameter(torch.full((config.width,), scale))

    def forward(self, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """`[batch, n_frames, width]` -> the same, and the past for the next call."""
        y, past = self.depthwise(x, past)
        y = self.contract(F.gelu(self.expand(self.norm(y))))
        return x + self.scale * y, past


class ConvNeXtStack(nn.Module):
    """Blocks in a row, with the past frames of all of them as one explicit state."""

    def __init__(self, config: SpectralConfig, n_blocks: int) -> None:
        super().__init__()
        self.shape = (n_blocks, config.kernel_size - 1, config.width)
        self.state_size = math.prod(self.shape)
        self.blocks = nn.ModuleList(ConvNeXtBlock(config, 1 / n_blocks) for _ in range(n_blocks))

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """`[batch, n_frames, width]` and state `[batch, state_size]` -> the same."""
        # With a kernel of one the state is empty, and a view cannot tell -1 from its size.
        batch = -1 if self.state_size else state.shape[0]
        state = state.view(batch, *self.shape)
        pasts = []
        for i, block in enumerate(self.blocks):
            x, past = block(x, state[:, i])
            pasts.append(past)
        return x, torch.stack(pasts, dim=1).flatten(1)


def compand(x: Tensor, exponent: float) -> Tensor:
    """sign(x) |x|^exponent, made smooth at zero."""
    return x * (x.square() + 1e-6).pow((exponent - 1) / 2)


class SpectralEncoder(nn.Module):
    """Lapped transforms -> latent vectors."""

    def __init__(self, config: SpectralConfig) -> None:
        super().__init__()
        self.config = config
        self.linear = nn.Linear(config.hop_length, config.dim, bias=False)
        self.embed = nn.Linear(3 * config.hop_length, config.width)
        self.norm = nn.LayerNorm(config.width)
        self.stack = ConvNeXtStack(config, config.encoder_blocks)
        self.final_norm = nn.LayerNorm(config.width)
        self.project = nn.Linear(config.width, config.dim)
        with torch.no_grad():  # the linear path leads at first
            self.project.weight *= 0.1
            self.project.bias.zero_()

    @property
    def state_size(self) -> int:
        """Numbers that `forward` remembers per item."""
        return self.stack.state_size

    def forward(self, cosine: Tensor, sine: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Encode frames.

        Args:
            cosine: coefficients of the MDCT, `[batch, n_frames, hop_length]`.
            sine: the same of its quadrature counterpart, the MDST.
            state: of the frames before, zeros at the start, `[batch, state_size]`.

        Returns:
            Latents `[batch, n_frames, dim]`, and the state for the frames that follow.
        """
        log_power = (cosine.square() + sine.square() + 1e-7).log()
        # Loudness as a logarithm, and phase with the range of magnitudes compressed to |X|^0.3.
        compression = torch.exp(-0.35 * log_power)
        features = torch.cat([log_power * 0.25, cosine * compression, sine * compression], dim=-1)
        x, state = self.stack(self.norm(self.embed(features)), state)
        return self.project(self.final_norm(x)) + self.linear(
            compand(cosine, self.config.companding)
        ), state


class SpectralDecoder(nn.Module):
    """Latent vectors -> coefficients of the MDCT."""

    def __init__(self, config: SpectralConfig) -> None:
        super().__init__()
        self.config = config
        self.linear = nn.Linear(config.dim, config.hop_length, bias=False)
        self.embed = nn.Linear((1 + config.lookahead) * config.dim, config.width)
        self.norm = nn.LayerNorm(config.width)
        self.stack = ConvNeXtStack(config, config.decoder_blocks)
        self.final_norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, 2 * config.hop_length)
        with torch.no_grad():
            self.head.weight *= 0.1
            self.head.bias.zero_()

    @property
    def state_size(self) -> int:
        """Numbers that `forward` remembers per item."""
        return self.config.lookahead * self.config.dim + self.stack.state_size

    def forward(self, latents: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Decode frames, each `lookahead` frames after its latents came.

        Args:
            latents: `[batch, n_frames, dim]`.
            state: of the frames before, zeros at the start, `[batch, state_size]`.

        Returns:
            Coefficients `[batch, n_frames, hop_length]`, and the state for the frames that follow.
        """
        config = self.config
        kept = config.lookahead * config.dim
        before = state[:, :kept].unflatten(1, (config.lookahead, config.dim))
        heard = torch.cat([before, latents], dim=1)
        n_frames = latents.shape[1]
        taps = [heard[:, i : i + n_frames] for i in range(1 + config.lookahead)]
        x, past = self.stack(self.norm(self.embed(torch.cat(taps, dim=-1))), state[:, kept:])
        log_gain, change = self.head(self.final_norm(x)).float().chunk(2, dim=-1)
        x = (self.linear(taps[0]).float() + change) * torch.exp(log_gain.clamp(-6, 6))
        state = torch.cat([heard[:, n_frames:].flatten(1), past], dim=1)
        return compand(x, 1 / config.companding), state


class LappedTransform(nn.Module):
    """The MDCT and the MDST with a sine window, and back, for training on whole crops."""

    basis: Tensor

    def __init__(self, config: SpectralConfig) -> None:
        super().__init__()
        self.hop = config.hop_length
        self.delay = config.delay
        basis = torch.from_numpy(lapped_basis(config.hop_length))
        self.register_buffer("basis", basis, persistent=False)

    def pad(self, audio: Tensor) -> Tensor:
        """Append silence up to a whole hop, and hops until the decoder completes the last one."""
        return F.pad(audio, (0, -audio.shape[1] % self.hop + self.delay * self.hop))

    def analyse(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """Audio `[batch, n_hops * hop_length]` -> MDCT and MDST, `[batch, n_hops, hop_length]`."""
        frames = F.pad(audio, (self.hop, 0)).unfold(1, 2 * self.hop, self.hop)
        cosine, sine = (frames @ self.basis).chunk(2, dim=-1)
        return cosine, sine

    def synthesise(self, coefficients: Tensor) -> Tensor:
        """MDCT -> audio `[batch, n_frames * hop_length]`, late by one hop."""
        frames = coefficients @ self.basis[:, : self.hop].T
        first, second = frames.chunk(2, dim=-1)
        return (first + F.pad(second, (0, 0, 1, 0))[:, :-1]).flatten(1)
