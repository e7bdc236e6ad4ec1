"""The encoder and decoder of DAC (Kumar et al. 2023, arXiv 2306.06546).

SoundStream's plan with Snake activations, centred convolutions padded with zeros, and a decoder
wider than the encoder. Parameters have the names that they have in Hugging Face's checkpoints.
"""

import math
from dataclasses import dataclass

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from rvq.errors import InputError

_DILATIONS = (1, 3, 9)
_UNITS_REACH = 3 * sum(_DILATIONS)
"""Steps to either side that a step after three residual units depends on."""


@dataclass(frozen=True)
class DacConfig:
    """Shape of DAC's networks and of its factorised codebooks.

    Attributes:
        sample_rate: Hz.
        width: channels after the encoder's first convolution.
        strides: of the encoder, from audio to latents; the decoder has them in reverse.
        decoder_width: channels after the decoder's first convolution.
        n_codebooks: stages of the residual quantizer.
        codebook_size: codewords per codebook.
        codebook_dim: dimension in which codewords are looked up.
    """

    sample_rate: PositiveInt = 16_000
    width: PositiveInt = 64
    strides: tuple[PositiveInt, ...] = (2, 4, 8, 8)
    decoder_width: PositiveInt = 1536
    n_codebooks: PositiveInt = 9
    codebook_size: PositiveInt = 1024
    codebook_dim: PositiveInt = 8

    def __post_init__(self) -> None:
        if self.decoder_width % 2 ** len(self.strides):
            raise InputError(
                f"decoder_width must be halved {len(self.strides)} times, got {self.decoder_width}"
            )

    @property
    def dim(self) -> int:
        """Dimension of the latents."""
        return self.width * 2 ** len(self.strides)

    @property
    def hop_length(self) -> int:
        """Samples per frame."""
        return math.prod(self.strides)

    @property
    def encoder_reach(self) -> int:
        """Frames to either side that a frame of latents depends on, at most."""
        reach, step = 3, 1  # in samples
        for stride in self.strides:
            reach += step * (_UNITS_REACH + 2 * stride)
            step *= stride
        return -(-(reach + step) // step)

    @property
    def decoder_reach(self) -> int:
        """Frames to either side that a frame's samples depend on, at most."""
        step = self.hop_length
        reach = 3 + 3 * step  # in samples
        for stride in reversed(self.strides):
            reach += 2 * step
            step //= stride
            reach += step * _UNITS_REACH
        return -(-reach // self.hop_length)


class Snake(nn.Module):
    """x + sin^2(a x) / a with a learned per channel (Ziyin et al. 2020)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, channels, n]` -> the same."""
        return x + (self.alpha + 1e-9).reciprocal() * torch.sin(self.alpha * x).square()


class DacResidualUnit(nn.Module):
    """A dilated and a pointwise convolution, added to the input."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.snake1 = Snake(channels)
        self.conv1 = nn.Conv1d(channels, channels, 7, dilation=dilation, padding=3 * dilation)
        self.snake2 = Snake(channels)
        self.conv2 = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, channels, n]` -> the same."""
        return x + self.conv2(self.snake2(self.conv1(self.snake1(x))))


class _Units(nn.Module):
    """Three residual units of growing dilation, part of every block."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.res_unit1, self.res_unit2, self.res_unit3 = (
            DacResidualUnit(channels, dilation) for dilation in _DILATIONS
        )

    def units(self, x: Tensor) -> Tensor:
        return self.res_unit3(self.res_unit2(self.res_unit1(x)))


class DacEncoderBlock(_Units):
    """Residual units, then a strided convolution to twice the channels."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__(channels)
        self.snake1 = Snake(channels)
        padding = -(-stride // 2)
        self.conv1 = nn.Conv1d(channels, 2 * channels, 2 * stride, stride, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, channels, n]` -> `[batch, 2 * channels, n / stride]`."""
        return self.conv1(self.snake1(self.units(x)))


class DacDecoderBlock(_Units):
    """A transposed convolution to half the channels, then residual units."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__(channels // 2)
        self.snake1 = Snake(channels)
        padding = -(-stride // 2)
        self.conv_t1 = nn.ConvTranspose1d(
            channels, channels // 2, 2 * stride, stride, padding=padding
        )

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, channels, n]` -> `[batch, channels / 2, n * stride]`, odd strides one less."""
        return self.units(self.conv_t1(self.snake1(x)))


class DacEncoder(nn.Module):
    """Audio -> latents, `[batch, 1, n_samples]` -> `[batch, dim, n_frames]`."""

    def __init__(self, config: DacConfig) -> None:
        super().__init__()
        width = config.width
        self.conv1 = nn.Conv1d(1, width, 7, padding=3)
        self.block = nn.Sequential(
            *(DacEncoderBlock(width << i, stride) for i, stride in enumerate(config.strides))
        )
        self.snake1 = Snake(config.dim)
        self.conv2 = nn.Conv1d(config.dim, config.dim, 3, padding=1)

    def forward(self, audio: Tensor) -> Tensor:
        """Encode."""
        return self.conv2(self.snake1(self.block(self.conv1(audio))))


class DacDecoder(nn.Module):
    """Latents -> audio, `[batch, dim, n_frames]` -> `[batch, 1, n_samples]` in [-1, 1]."""

    def __init__(self, config: DacConfig) -> None:
        super().__init__()
        width = config.decoder_width
        self.conv1 = nn.Conv1d(config.dim, width, 7, padding=3)
        strides = reversed(config.strides)
        self.block = nn.Sequential(
            *(DacDecoderBlock(width >> i, stride) for i, stride in enumerate(strides))
        )
        last = width >> len(config.strides)
        self.snake1 = Snake(last)
        self.conv2 = nn.Conv1d(last, 1, 7, padding=3)

    def forward(self, latents: Tensor) -> Tensor:
        """Decode."""
        return torch.tanh(self.conv2(self.snake1(self.block(self.conv1(latents)))))
