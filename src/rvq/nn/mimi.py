"""The encoder and decoder of Mimi (Défossez et al. 2024, arXiv 2410.00037).

A SEANet as in EnCodec without recurrent layers, a Transformer at its frame rate on either side, and
half that rate for the latents. Parameters have the names they have in Hugging Face's checkpoints.
"""

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor, nn

from rvq.errors import InputError
from rvq.nn.convolution import (
    CausalConv,
    CausalTransposedConv,
    Memory,
    Remembering,
    state_size,
)
from rvq.nn.seanet import SEANetConfig, SEANetDecoder, SEANetEncoder


def _seanet() -> SEANetConfig:
    return SEANetConfig(
        dim=512,
        width=64,
        strides=(4, 5, 6, 8),
        encoder_kernels=(7, 3),
        decoder_kernels=(7, 3),
        convolved_skip=False,
        lstm_layers=0,
        norm="none",
        padding="zeros",
    )


@dataclass(frozen=True)
class MimiConfig:
    """Shape of Mimi's networks and codebooks.

    Attributes:
        seanet: outermost networks.
        n_layers: of each Transformer.
        n_heads: of attention.
        hidden: inside a layer's feed-forward part.
        window: frames that attention reaches, the present one among them.
        rope_base: of the rotations that tell positions.
        n_codebooks: in all.
        n_semantic: codebooks of the first quantizer; the others are a second one's, beside it.
        codebook_size: codewords per codebook.
        codebook_dim: dimension of codewords.
    """

    seanet: SEANetConfig = field(default_factory=_seanet)
    n_layers: PositiveInt = 8
    n_heads: PositiveInt = 8
    hidden: PositiveInt = 2048
    window: PositiveInt = 250
    rope_base: float = 10_000.0
    n_codebooks: PositiveInt = 32
    n_semantic: PositiveInt = 1
    codebook_size: PositiveInt = 2048
    codebook_dim: PositiveInt = 256

    def __post_init__(self) -> None:
        if self.dim % (2 * self.n_heads):
            raise InputError(f"dim must be a multiple of 2 * n_heads {self.n_heads}: {self.dim}")
        if self.n_semantic >= self.n_codebooks:
            raise InputError(f"n_semantic must be below n_codebooks, got {self.n_semantic}")

    @property
    def dim(self) -> int:
        """Dimension of the latents."""
        return self.seanet.dim

    @property
    def hop_length(self) -> int:
        """Samples per frame."""
        return 2 * math.prod(self.seanet.strides)


class Scale(nn.Module):
    """A learned factor per channel."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((dim,), 0.01))

    def forward(self, x: Tensor) -> Tensor:
        """`[..., dim]` -> the same."""
        return self.scale * x


class SlidingAttention(Remembering):
    """Attention to a window of past frames, positions told by rotation (Su et al. 2021)."""

    def __init__(self, config: MimiConfig) -> None:
        super().__init__()
        self.n_heads, self.window, self.base = config.n_heads, config.window, config.rope_base
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (
            nn.Linear(config.dim, config.dim, bias=False) for _ in range(4)
        )
        self.shape = (config.window - 1, config.dim)
        self.remembers = 2 * math.prod(self.shape)

    def forward(self, x: Tensor, memory: Memory, n_seen: Tensor) -> Tensor:
        """Attend.

        Args:
            x: `[batch, n_frames, dim]`.
            memory: keys and values of the frames before.
            n_seen: how many of them there were, `[batch, 1]`.
        """
        keys, values = (
            torch.cat([memory.read(*self.shape), part(x)], dim=1)
            for part in (self.k_proj, self.v_proj)
        )
        n_kept = self.shape[0]
        for part in (keys, values):
            memory.write(part[:, part.shape[1] - n_kept :])
        position = torch.arange(keys.shape[1], device=x.device)
        distance = position[n_kept:, None] - position
        seen = (distance >= 0) & (distance < self.window)
        there = position >= n_kept - n_seen
        q, k, v = (
            part.unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            for part in (self.q_proj(x), keys, values)
        )
        q, k = self._rotate(q, position[n_kept:]), self._rotate(k, position)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=seen & there[:, None, None])
        return self.o_proj(y.transpose(1, 2).flatten(2))

    def _rotate(self, x: Tensor, position: Tensor) -> Tensor:
        """Turn pairs of channels, `[batch, n_heads, n_frames, channels]`, by their position."""
        channels = torch.arange(0, x.shape[3], 2, device=x.device).float() / x.shape[3]
        angle = position[:, None].float() * (1.0 / self.base**channels)
        first, second = x.chunk(2, dim=3)
        cos, sin = angle.cos(), angle.sin()
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=3)


class FeedForward(nn.Module):
    """Two layers over every frame by itself."""

    def __init__(self, config: MimiConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.dim, config.hidden, bias=False)
        self.fc2 = nn.Linear(config.hidden, config.dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, n_frames, dim]` -> the same."""
        return self.fc2(F.gelu(self.fc1(x)))


class MimiLayer(nn.Module):
    """Attention and feed-forward part, each normalised before and scaled after."""

    def __init__(self, config: MimiConfig) -> None:
        super().__init__()
        self.self_attn = SlidingAttention(config)
        self.mlp = FeedForward(config)
        self.input_layernorm = nn.LayerNorm(config.dim)
        self.post_attention_layernorm = nn.LayerNorm(config.dim)
        self.self_attn_layer_scale = Scale(config.dim)
        self.mlp_layer_scale = Scale(config.dim)

    def forward(self, x: Tensor, memory: Memory, n_seen: Tensor) -> Tensor:
        """`[batch, n_frames, dim]` -> the same."""
        heard = self.self_attn(self.input_layernorm(x), memory, n_seen)
        x = x + self.self_attn_layer_scale(heard)
        return x + self.mlp_layer_scale(self.mlp(self.post_attention_layernorm(x)))


class MimiTransformer(Remembering):
    """Layers in a row, which remember a window of frames and how many of them there were."""

    remembers = 1

    def __init__(self, config: MimiConfig) -> None:
        super().__init__()
        self.window = config.window
        self.layers = nn.ModuleList(MimiLayer(config) for _ in range(config.n_layers))

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        """`[batch, dim, n_frames]` -> the same."""
        n_seen = memory.read(1)
        memory.write((n_seen + x.shape[2]).clamp(max=self.window))
        x = x.transpose(1, 2)
        for layer in self.layers:
            x = layer(x, memory, n_seen)
        return x.transpose(1, 2)


class MimiEncoder(nn.Module):
    """Audio -> latent vectors.

    Attributes:
        state_size: numbers that `forward` remembers per item.
    """

    def __init__(self, config: MimiConfig) -> None:
        super().__init__()
        dim = config.dim
        downsample = CausalConv(dim, dim, 4, stride=2, bias=False, padding="replicate")
        self.seanet = SEANetEncoder(config.seanet)
        self.transformer = MimiTransformer(config)
        self.downsample = downsample
        self.state_size = state_size(self)

    def forward(self, audio: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Encode audio, whole or in pieces, all but the last of whole frames.

        Args:
            audio: `[batch, channels, n_samples]`.
            state: of the samples before, zeros at the start, `[batch, state_size]`.

        Returns:
            Latents `[batch, ceil(n_samples / hop_length), dim]`, and the state for what follows.
        """
        memory = Memory(state)
        x = self.transformer(self.seanet.chain(audio, memory), memory)
        return self.downsample(x, memory).transpose(1, 2), memory.state()


class MimiDecoder(nn.Module):
    """Latent vectors -> audio.

    Attributes:
        state_size: numbers that `forward` remembers per item.
    """

    def __init__(self, config: MimiConfig) -> None:
        super().__init__()
        dim = config.dim
        self.upsample = CausalTransposedConv(dim, dim, stride=2, groups=dim, bias=False)
        self.transformer = MimiTransformer(config)
        self.seanet = SEANetDecoder(config.seanet)
        self.state_size = state_size(self)

    def forward(self, latents: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Decode frames, whole or in pieces.

        Args:
            latents: `[batch, n_frames, dim]`.
            state: of the frames before, zeros at the start, `[batch, state_size]`.

        Returns:
            Audio `[batch, channels, n_frames * hop_length]`, and the state for what follows.
        """
        memory = Memory(state)
        x = self.transformer(self.upsample(latents.transpose(1, 2), memory), memory)
        return self.seanet.chain(x, memory), memory.state()
