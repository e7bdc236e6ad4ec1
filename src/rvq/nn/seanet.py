"""SEANet (Tagliasacchi et al. 2020) as encoder and decoder of SoundStream and EnCodec.

Residual units and strided convolutions, doubling the channels with every stride, lead from audio to
latents; transposed convolutions lead back (Zeghidour et al. 2021, SoundStream, arXiv 2107.03312).
EnCodec (Défossez et al. 2022, arXiv 2210.13438) adds a two-layer LSTM at the frame rate. Causal
networks work in pieces of any size with an explicit state; the others on whole segments.
"""

import math
from dataclasses import dataclass, replace
from typing import Annotated

from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor, nn

from rvq.errors import InputError
from rvq.nn.convolution import (
    CausalConv,
    CausalTransposedConv,
    CentredConv,
    CentredTransposedConv,
    Chain,
    Convolution,
    Memory,
    Norm,
    Padding,
    RecurrentLayers,
    Remembering,
    state_size,
)


@dataclass(frozen=True)
class SegmentConfig:
    """How a model that is not causal takes long recordings: in segments that overlap.

    Attributes:
        seconds: length of a segment.
        overlap: share of a segment that the next one covers again; faded linearly.
        normalise: whether every segment is divided by its loudness, which is then sent along.
    """

    seconds: Annotated[float, Field(gt=0)] = 1.0
    overlap: Annotated[float, Field(ge=0, lt=1)] = 0.01
    normalise: bool = True

    def n_samples(self, sample_rate: int) -> int:
        """Samples of a segment."""
        return int(self.seconds * sample_rate)

    def stride(self, sample_rate: int) -> int:
        """Samples from one segment to the next."""
        return max(1, int((1 - self.overlap) * self.n_samples(sample_rate)))


@dataclass(frozen=True)
class SEANetConfig:
    """Shape of a SEANet encoder and decoder.

    Attributes:
        sample_rate: Hz.
        channels: of the audio, coded together.
        dim: dimension of the latent vectors.
        width: channels after the first convolution.
        strides: of the encoder, from audio to latents; the decoder has them in reverse.
        encoder_kernels: of the encoder's first and last convolution.
        decoder_kernels: of the decoder's first and last convolution.
        residual_kernel: of a residual unit's first convolution; its second has a kernel of one.
        dilations: of the residual units before every stride, one unit each.
        compress: how many times fewer channels are inside a residual unit.
        convolved_skip: whether a residual unit's input passes a convolution, or is added as it is.
        lstm_layers: at the frame rate; 0 for none.
        norm: of every convolution; `layer_norm` leaves out the last one, which makes the audio.
        padding: at both ends of the input.
        causal: whether nothing depends on the future.
        segments: for models that are not causal; None for whole recordings.
    """

    sample_rate: PositiveInt = 24_000
    channels: PositiveInt = 1
    dim: PositiveInt = 128
    width: PositiveInt = 32
    strides: tuple[Annotated[int, Field(ge=2)], ...] = (2, 4, 5, 8)
    encoder_kernels: tuple[PositiveInt, PositiveInt] = (7, 7)
    decoder_kernels: tuple[PositiveInt, PositiveInt] = (7, 7)
    residual_kernel: PositiveInt = 3
    dilations: tuple[PositiveInt, ...] = (1,)
    compress: PositiveInt = 2
    convolved_skip: bool = True
    lstm_layers: NonNegativeInt = 2
    norm: Norm = "weight_norm"
    padding: Padding = "reflect"
    causal: bool = True
    segments: SegmentConfig | None = None

    def __post_init__(self) -> None:
        if self.causal and self.norm == "time_group_norm":
            raise InputError(
                "a causal network cannot have time_group_norm, which averages over the future"
            )
        if self.causal and self.segments is not None:
            raise InputError("a causal network needs no segments; leave them out")
        if self.width % self.compress:
            raise InputError(
                f"width must be a multiple of compress {self.compress}, got {self.width}"
            )

    @property
    def hop_length(self) -> int:
        """Samples per frame."""
        return math.prod(self.strides)

    @property
    def delay(self) -> int:
        """Frames from a hop's arrival to its output, with a causal network none."""
        return 0

    @property
    def latency(self) -> float:
        """Algorithmic latency in seconds: a hop, or a segment where the network is not causal."""
        if self.causal:
            return self.hop_length / self.sample_rate
        return self.segments.seconds if self.segments else math.inf

    @property
    def first_frames(self) -> int:
        """Least frames of the first of several calls, with fewer its reflection lacks samples."""
        if not self.causal or self.padding == "zeros":
            return 1
        residual = (self.residual_kernel - 1) * max(self.dilations)
        reach = [(self.hop_length, max(self.encoder_kernels[0], self.decoder_kernels[1]) - 1)]
        steps = self.hop_length  # of a frame, before each stride
        for stride in self.strides:
            reach += [(steps, residual), (steps, stride)]
            steps //= stride
        reach.append((1, max(self.encoder_kernels[1], self.decoder_kernels[0]) - 1))
        return max(-(-(context + 1) // steps) for steps, context in reach)


class ResidualUnit(Remembering):
    """Two convolutions, the first of them dilated, added to the input."""

    def __init__(self, config: SEANetConfig, width: int, dilation: int) -> None:
        super().__init__()
        hidden = width // config.compress
        self.block = Chain(
            nn.ELU(),
            _conv(config, width, hidden, config.residual_kernel, dilation=dilation),
            nn.ELU(),
            Convolution(nn.Conv1d(hidden, width, 1), config.norm),
        )
        self.skip: nn.Module = nn.Identity()
        if config.convolved_skip:
            self.skip = Convolution(nn.Conv1d(width, width, 1), config.norm)

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        """`[batch, width, n]` -> the same."""
        return self.skip(x) + self.block(x, memory)


def _conv(
    config: SEANetConfig,
    inputs: int,
    outputs: int,
    kernel_size: int,
    *,
    stride: int = 1,
    dilation: int = 1,
) -> nn.Module:
    kind = CausalConv if config.causal else CentredConv
    return kind(
        inputs,
        outputs,
        kernel_size,
        stride=stride,
        dilation=dilation,
        norm=config.norm,
        padding=config.padding,
    )


class SEANetEncoder(nn.Module):
    """Audio -> latent vectors.

    Attributes:
        state_size: numbers that a causal network's `forward` remembers per item.
    """

    def __init__(self, config: SEANetConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        layers: list[nn.Module] = [_conv(config, config.channels, width, config.encoder_kernels[0])]
        for stride in config.strides:
            layers += [ResidualUnit(config, width, dilation) for dilation in config.dilations]
            layers += [nn.ELU(), _conv(config, width, 2 * width, 2 * stride, stride=stride)]
            width *= 2
        if config.lstm_layers:
            layers.append(RecurrentLayers(width, config.lstm_layers))
        layers += [nn.ELU(), _conv(config, width, config.dim, config.encoder_kernels[1])]
        self.chain = Chain(*layers)
        self.state_size = state_size(self)

    def forward(self, audio: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Encode audio, whole or in pieces.

        Of pieces the first holds at least `config.first_frames` frames, every one but the last
        whole frames; an incomplete frame at the end is padded as the configuration says.

        Args:
            audio: `[batch, channels, n_samples]`.
            state: of the samples before, zeros at the start, `[batch, state_size]`. A network that
                is not causal takes zeros every time.

        Returns:
            Latents `[batch, ceil(n_samples / hop_length), dim]`, and the state for what follows.
        """
        memory = Memory(state)
        return self.chain(audio, memory).transpose(1, 2), memory.state()


class SEANetDecoder(nn.Module):
    """Latent vectors -> audio.

    Attributes:
        state_size: numbers that a causal network's `forward` remembers per item.
    """

    def __init__(self, config: SEANetConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width * 2 ** len(config.strides)
        layers: list[nn.Module] = [_conv(config, config.dim, width, config.decoder_kernels[0])]
        if config.lstm_layers:
            layers.append(RecurrentLayers(width, config.lstm_layers))
        transposed = CausalTransposedConv if config.causal else CentredTransposedConv
        for stride in reversed(config.strides):
            layers += [nn.ELU(), transposed(width, width // 2, stride=stride, norm=config.norm)]
            width //= 2
            layers += [ResidualUnit(config, width, dilation) for dilation in config.dilations]
        if config.norm == "layer_norm":  # of a single channel nothing would be left
            config = replace(config, norm="none")
        layers += [nn.ELU(), _conv(config, width, config.channels, config.decoder_kernels[1])]
        self.chain = Chain(*layers)
        self.state_size = state_size(self)

    def forward(self, latents: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Decode frames, whole or in pieces, of which the first holds `config.first_frames`.

        Args:
            latents: `[batch, n_frames, dim]`.
            state: of the frames before, zeros at the start, `[batch, state_size]`. A network that
                is not causal takes zeros every time.

        Returns:
            Audio `[batch, channels, n_frames * hop_length]`, and the state for what follows.
        """
        memory = Memory(state)
        return self.chain(latents.transpose(1, 2), memory), memory.state()


SEANETS = {
    "encodec_24khz": SEANetConfig(),
    "encodec_48khz": SEANetConfig(
        sample_rate=48_000,
        channels=2,
        norm="time_group_norm",
        causal=False,
        segments=SegmentConfig(),
    ),
    # As in the paper's figure 3; the dimension of the latents is EnCodec's.
    "soundstream_24khz": SEANetConfig(
        encoder_kernels=(7, 3),
        residual_kernel=7,
        dilations=(1, 3, 9),
        compress=1,
        convolved_skip=False,
        lstm_layers=0,
        norm="none",
        padding="zeros",
    ),
}
"""Published networks by name."""
