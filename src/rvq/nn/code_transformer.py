"""The small Transformer over codes that EnCodec codes entropy with (Défossez et al. 2022, 3.3).

It sees the sum of a frame's codes, each through its own embedding, and predicts all codes of the
next frame at once. Attention reaches a few seconds back; past frames are an explicit state.

Its probabilities are floating point and differ in their last bits from machine to machine, so they
serve `.ecdc` files, whose format is like that, and comparisons. Nothing of an `.rvq` file depends
on them: `rvq.bitstream.entropy` does that in integers.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor, nn

from rvq.errors import InputError, ModelError


@dataclass(frozen=True)
class CodeTransformerConfig:
    """Shape of a Transformer over codes.

    Attributes:
        n_codebooks: of the codec.
        codebook_size: codewords per codebook.
        dim: of the layers.
        hidden: inside a layer's feed-forward part.
        n_layers: in a row.
        n_heads: of attention.
        past_frames: how far back attention reaches: 3.5 s at 75 frames per second.
    """

    n_codebooks: PositiveInt = 32
    codebook_size: PositiveInt = 1024
    dim: PositiveInt = 200
    hidden: PositiveInt = 800
    n_layers: PositiveInt = 5
    n_heads: PositiveInt = 8
    past_frames: PositiveInt = 262

    def __post_init__(self) -> None:
        if self.dim % self.n_heads or self.dim % 2:
            raise InputError(
                f"dim must be even and a multiple of n_heads {self.n_heads}, got {self.dim}"
            )


@dataclass(frozen=True, eq=False)
class Past:
    """What the layers remember.

    Attributes:
        inputs: of every layer, `[batch, n_layers, n_past, dim]`.
        n_frames: seen so far.
    """

    inputs: Tensor
    n_frames: int


class TransformerLayer(nn.Module):
    """Attention to the past and feed-forward part, each normalised after it was added."""

    def __init__(self, config: CodeTransformerConfig) -> None:
        super().__init__()
        self.past_frames = config.past_frames
        self.self_attn = nn.MultiheadAttention(config.dim, config.n_heads, batch_first=True)
        self.linear1 = nn.Linear(config.dim, config.hidden)
        self.linear2 = nn.Linear(config.hidden, config.dim)
        self.norm1 = nn.LayerNorm(config.dim)
        self.norm2 = nn.LayerNorm(config.dim)

    def forward(self, x: Tensor, past: Tensor) -> Tensor:
        """`[batch, n_frames, dim]`, past inputs `[batch, n_past, dim]` -> as the first."""
        heard = torch.cat([past, x], dim=1)
        now = torch.arange(past.shape[1], heard.shape[1], device=x.device)[:, None]
        distance = now - torch.arange(heard.shape[1], device=x.device)
        hidden = (distance < 0) | (distance > self.past_frames)
        seen, _ = self.self_attn(x, heard, heard, attn_mask=hidden, need_weights=False)
        x = self.norm1(x + seen)
        return self.norm2(x + self.linear2(F.gelu(self.linear1(x))))


class CodeTransformer(nn.Module):
    """Codes of past frames -> logits of the codes of the next."""

    def __init__(self, config: CodeTransformerConfig) -> None:
        super().__init__()
        self.config = config
        books = range(config.n_codebooks)
        # Index 0 stands for a frame before the first.
        self.emb = nn.ModuleList(nn.Embedding(config.codebook_size + 1, config.dim) for _ in books)
        self.norm_in = nn.LayerNorm(config.dim)
        self.layers = nn.ModuleList(TransformerLayer(config) for _ in range(config.n_layers))
        self.linears = nn.ModuleList(nn.Linear(config.dim, config.codebook_size) for _ in books)

    def start(self, batch: int = 1, *, position: int = 0) -> Past:
        """The past before the first frame: one frame of zeros, as in EnCodec.

        Args:
            batch: sequences at once.
            position: of the first frame; other than 0 for a stretch of a longer sequence.
        """
        shape = (batch, self.config.n_layers, 1, self.config.dim)
        return Past(self.norm_in.weight.new_zeros(shape), position)

    def forward(self, codes: Tensor, past: Past) -> tuple[Tensor, Past]:
        """Predict the codes of every frame from those of the frames before.

        Args:
            codes: of the frame before each, -1 before the first frame,
                `[batch, n_frames, any prefix of n_codebooks]`.
            past: of the frames before, from `start` or the last call.

        Returns:
            Logits `[batch, codebook_size, n_codebooks, n_frames]`, and the past for what follows.
        """
        x = torch.zeros((), device=codes.device)
        for k in range(codes.shape[2]):
            x = x + self.emb[k](codes[:, :, k] + 1)
        x = self.norm_in(x) + self._positions(codes.shape[1], past.n_frames, x)
        inputs = []
        for i, layer in enumerate(self.layers):
            before = past.inputs[:, i]
            inputs.append(torch.cat([before, x], dim=1)[:, -self.config.past_frames :])
            x = layer(x, before)
        logits = torch.stack([self.linears[k](x) for k in range(codes.shape[2])], dim=1)
        n_frames = past.n_frames + codes.shape[1]
        return logits.permute(0, 3, 1, 2), Past(torch.stack(inputs, dim=1), n_frames)

    def _positions(self, n: int, start: int, like: Tensor) -> Tensor:
        """Cosines and sines of positions, `[1, n, dim]`."""
        half = self.config.dim // 2
        position = torch.arange(n, device=like.device).view(1, -1, 1) + start
        channel = torch.arange(half, device=like.device).view(1, 1, -1)
        phase = position / (10_000 ** (channel / (half - 1)))
        return torch.cat([torch.cos(phase), torch.sin(phase)], dim=-1)

    def bits(self, codes: Tensor, *, position: int = 0) -> Tensor:
        """Bits that every code of sequences costs.

        Args:
            codes: `[batch, n_frames, any prefix of n_codebooks]`.
            position: of their first frames; see `start`.

        Returns:
            Of the same shape.
        """
        before = F.pad(codes[:, :-1], (0, 0, 1, 0), value=-1)
        logits, _ = self(before, self.start(len(codes), position=position))
        # Codewords last, as the logits lie in memory.
        of_codewords = logits.permute(0, 2, 3, 1)
        nats = F.cross_entropy(
            of_codewords.flatten(0, 2), codes.transpose(1, 2).flatten(), reduction="none"
        )
        return nats.view(of_codewords.shape[:3]).transpose(1, 2) / math.log(2)


class CodeProbabilities:
    """A `CodeTransformer` as language model of `.ecdc` files: one frame after the other.

    Never of `.rvq` files: another machine may round these probabilities to other symbols.

    Args:
        model: in evaluation mode.
    """

    def __init__(self, model: CodeTransformer) -> None:
        self._model = model
        self._past = model.start()

    def start(self) -> None:
        """Forget everything: a segment begins."""
        self._past = self._model.start()

    @torch.no_grad()
    def probabilities(
        self, previous: npt.NDArray[np.int64] | None, n_codebooks: int
    ) -> npt.NDArray[np.float32]:
        """Of the codes of the next frame, `[n_codebooks, codebook_size]`.

        Args:
            previous: codes of the frame before, `[n_codebooks]`; None at the start.
            n_codebooks: codes per frame.

        Raises:
            ModelError: more than the model knows.
        """
        known = self._model.config.n_codebooks
        if n_codebooks > known:
            raise ModelError(
                f"the language model knows {known} codebooks, the codes use {n_codebooks}; give a "
                "lower bitrate or another language model"
            )
        before = torch.full((1, 1, n_codebooks), -1)
        if previous is not None:
            before[0, 0] = torch.from_numpy(previous)
        logits, self._past = self._model(before, self._past)
        return torch.softmax(logits, dim=1)[0, :, :, 0].T.numpy()


def tensor_name(parameter: str) -> str:
    """The name that files have for a parameter of a `CodeTransformer`: that of EnCodec's."""
    inside = parameter.startswith(("layers", "norm_in"))
    return f"transformer.{parameter}" if inside else parameter
