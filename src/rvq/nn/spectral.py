"""The default encoder and decoder: ConvNeXt blocks on short-time spectra at the frame rate.

Every heavy layer is a matrix product over frames, so that the codec trains and runs on a CPU. The
encoder sees the short-time Fourier transform of the audio, the decoder predicts magnitude and phase
of every bin and returns by the inverse transform and overlap-add, as in Vocos (Siuzdak 2023); the
blocks are ConvNeXt's (Liu et al. 2022) with causal depthwise convolutions.

Frame t describes the `window_length` samples that end with hop t, for the encoder as for the
decoder. So hop t of the output is complete once frame t + overlap has arrived, and both algorithmic
latency and delay follow from `window_length` alone.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from rvq.errors import InputError
from rvq.nn import stft


@dataclass(frozen=True)
class SpectralConfig:
    """Shape of the spectral encoder and decoder.

    Attributes:
        sample_rate: Hz.
        hop_length: samples per frame.
        window_length: samples per analysis and synthesis window, even and a multiple of
            hop_length, at least twice it.
        width: channels of the blocks.
        hidden: channels inside a block's pointwise layers.
        kernel_size: frames seen by a block's depthwise convolution, all in the past.
        encoder_blocks: blocks of the encoder.
        decoder_blocks: blocks of the decoder.
        dim: dimension of the latent vectors.
    """

    sample_rate: PositiveInt = 24_000
    hop_length: PositiveInt = 320
    window_length: PositiveInt = 960
    width: PositiveInt = 256
    hidden: PositiveInt = 768
    kernel_size: PositiveInt = 7
    encoder_blocks: PositiveInt = 4
    decoder_blocks: PositiveInt = 6
    dim: PositiveInt = 128

    def __post_init__(self) -> None:
        if self.hop_length < 1:
            raise InputError(f"hop_length must be at least 1, got {self.hop_length}")
        if self.window_length % self.hop_length or self.window_length < 2 * self.hop_length:
            raise InputError(
                f"window_length must be a multiple of hop_length {self.hop_length}, at least "
                f"twice it; got {self.window_length}"
            )
        if self.window_length % 2:
            raise InputError(f"window_length must be even, got {self.window_length}")

    @property
    def overlap(self) -> int:
        """Frames after frame t that still contribute to the output of hop t."""
        return self.window_length // self.hop_length - 1

    @property
    def n_bins(self) -> int:
        """Frequency bins of the transform."""
        return self.window_length // 2 + 1


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
        self.state_shape = (n_blocks, config.kernel_size - 1, config.width)
        self.blocks = nn.ModuleList(ConvNeXtBlock(config, 1 / n_blocks) for _ in range(n_blocks))

    def start(self, x: Tensor) -> Tensor:
        """State before the first frame, `[batch, n_blocks, kernel_size - 1, width]`."""
        return x.new_zeros(x.shape[0], *self.state_shape)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """`[batch, n_frames, width]` and state -> the same."""
        pasts = []
        for i, block in enumerate(self.blocks):
            x, past = block(x, state[:, i])
            pasts.append(past)
        return x, torch.stack(pasts, dim=1)


class SpectralEncoder(nn.Module):
    """Short-time spectra -> latent vectors."""

    def __init__(self, config: SpectralConfig) -> None:
        super().__init__()
        self.embed = nn.Linear(3 * config.n_bins, config.width)
        self.norm = nn.LayerNorm(config.width)
        self.stack = ConvNeXtStack(config, config.encoder_blocks)
        self.final_norm = nn.LayerNorm(config.width)
        self.project = nn.Linear(config.width, config.dim)

    def forward(self, real: Tensor, imag: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Encode frames.

        Args:
            real: real parts of the spectra, `[batch, n_frames, n_bins]`.
            imag: imaginary parts, the same.
            state: see `ConvNeXtStack.start`.

        Returns:
            Latents `[batch, n_frames, dim]`, and the state for the frames that follow.
        """
        log_power = (real.square() + imag.square() + 1e-7).log()
        # Loudness as a logarithm, and the waveform itself with its range compressed to |X|^0.3.
        compression = torch.exp(-0.35 * log_power)
        features = torch.cat([log_power * 0.25, real * compression, imag * compression], dim=-1)
        x, state = self.stack(self.norm(self.embed(features)), state)
        return self.project(self.final_norm(x)), state


class SpectralDecoder(nn.Module):
    """Latent vectors -> short-time spectra."""

    def __init__(self, config: SpectralConfig) -> None:
        super().__init__()
        self.embed = nn.Linear(config.dim, config.width)
        self.norm = nn.LayerNorm(config.width)
        self.stack = ConvNeXtStack(config, config.decoder_blocks)
        self.final_norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, 2 * config.n_bins)
        with torch.no_grad():  # start quietly: most bins of most frames are far below 1
            self.head.bias[: config.n_bins] = -2.0

    def forward(self, latents: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Decode frames.

        Args:
            latents: `[batch, n_frames, dim]`.
            state: see `ConvNeXtStack.start`.

        Returns:
            Real and imaginary parts of the spectra, `[batch, n_frames, n_bins]` each, and the
            state for the frames that follow.
        """
        x, state = self.stack(self.norm(self.embed(latents)), state)
        log_magnitude, phase = self.head(self.final_norm(x)).chunk(2, dim=-1)
        magnitude = torch.exp(log_magnitude.clamp(max=6.0))
        return magnitude * phase.cos(), magnitude * phase.sin(), state


class ShortTimeTransform(nn.Module):
    """Causal short-time Fourier transform and its inverse, for training on whole crops."""

    window: Tensor
    synthesis: Tensor

    def __init__(self, config: SpectralConfig) -> None:
        super().__init__()
        self.config = config
        window = torch.hann_window(config.window_length, periodic=True, dtype=torch.float64)
        # Least-squares overlap-add (Griffin & Lim 1984).
        gain = window.square().view(-1, config.hop_length).sum(0).repeat(config.overlap + 1)
        self.register_buffer("window", window.float(), persistent=False)
        self.register_buffer("synthesis", (window / gain).float(), persistent=False)

    def analyse(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """Audio `[batch, n_hops * hop_length]` -> spectra, `[batch, n_hops, n_bins]` twice."""
        hop = self.config.hop_length
        past = F.pad(audio.float(), (self.config.overlap * hop, 0))
        return stft.analyse(past, self.window, hop)

    def synthesise(self, real: Tensor, imag: Tensor) -> Tensor:
        """Spectra -> audio `[batch, n_frames * hop_length]`, late by `overlap` hops."""
        hop = self.config.hop_length
        audio = stft.synthesise(real.float(), imag.float(), self.synthesis, hop)
        return audio[:, : real.shape[1] * hop]
