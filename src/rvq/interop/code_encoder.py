"""Published codecs from audio to codes in one network, for runtimes without torch."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rvq.interop.dac import Dac
from rvq.interop.encodec import Encodec
from rvq.interop.mimi import Mimi


class CodeEncoder(nn.Module):
    """Audio `[batch, channels, n_samples]` -> codes `[batch, n_frames, n_codebooks]`.

    Made of torch operators alone, search included, so that it exports to ONNX. Decoding needs no
    counterpart: latents are sums of `codewords()`, then comes the codec's decoder.

    Args:
        codec: whose codes; for an EnCodec model with segments, audio is one normalised segment.
    """

    def __init__(self, codec: Encodec | Dac | Mimi) -> None:
        super().__init__()
        self.codec = codec

    def forward(self, audio: Tensor) -> Tensor:
        """Encode whole recordings or segments."""
        latents = self.codec.encode(audio)
        if isinstance(self.codec, Dac):
            return self.codec.quantize(latents)
        if isinstance(self.codec, Encodec):
            return nearest(latents, self.codec.codebooks)
        parts = [
            nearest(F.linear(latents, part.input_proj.weight[:, :, 0]), part.codebooks)
            for part in (self.codec.semantic, self.codec.acoustic)
        ]
        return torch.cat(parts, dim=2)


def nearest(vectors: Tensor, codebooks: Tensor) -> Tensor:
    """Greedy residual search: `[..., dim]`, `[n_codebooks, size, dim]` -> `[..., n_codebooks]`."""
    codes = []
    for book in codebooks:
        codes.append((vectors @ book.T - book.square().sum(1) / 2).argmax(-1))
        vectors = vectors - book[codes[-1]]
    return torch.stack(codes, dim=-1)
