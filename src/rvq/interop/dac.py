"""Checkpoints of DAC (Kumar et al. 2023) in Hugging Face's layout."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rvq.errors import ModelError
from rvq.interop.checkpoint import Checkpoint
from rvq.interop.config_fields import (
    Channels,
    CodebookSize,
    Count,
    Fields,
    Rate,
    Strides,
    check_hop,
    read_fields,
)
from rvq.interop.published import PublishedCodec
from rvq.nn.dac import DacConfig, DacDecoder, DacEncoder
from rvq.nn.onnx_networks import Part, write_model_folder


class FactorisedCodebook(nn.Module):
    """Codewords of few dimensions, looked up by their angle in a projection of the residual."""

    def __init__(self, config: DacConfig) -> None:
        super().__init__()
        self.in_proj = nn.Conv1d(config.dim, config.codebook_dim, 1)
        self.out_proj = nn.Conv1d(config.codebook_dim, config.dim, 1)
        self.codebook = nn.Embedding(config.codebook_size, config.codebook_dim)

    def codewords(self) -> Tensor:
        """What each code adds to the latents, `[codebook_size, dim]`."""
        return F.linear(self.codebook.weight, self.out_proj.weight[:, :, 0], self.out_proj.bias)

    def encode(self, residual: Tensor) -> Tensor:
        """Codes of `[batch, n_frames, dim]`, `[batch, n_frames]`."""
        low = F.linear(residual, self.in_proj.weight[:, :, 0], self.in_proj.bias)
        return (F.normalize(low, dim=2) @ F.normalize(self.codebook.weight).T).argmax(2)

    def decode(self, codes: Tensor) -> Tensor:
        """Latents `[batch, n_frames, dim]` of codes `[batch, n_frames]`."""
        return F.linear(self.codebook(codes), self.out_proj.weight[:, :, 0], self.out_proj.bias)


class Dac(PublishedCodec):
    """A DAC model: mono, not causal."""

    def __init__(self, config: DacConfig) -> None:
        super().__init__()
        self.config = config
        self.name = f"dac_{config.sample_rate / 1000:g}khz"
        self.sample_rate, self.channels, self.hop_length = config.sample_rate, 1, config.hop_length
        self.n_codebooks, self.codebook_size = config.n_codebooks, config.codebook_size
        self.encoder, self.decoder = DacEncoder(config), DacDecoder(config)
        self.stages = nn.ModuleList(FactorisedCodebook(config) for _ in range(config.n_codebooks))

    def _stages(self, n: int | None = None) -> list[FactorisedCodebook]:
        return [stage for stage in self.stages[:n] if isinstance(stage, FactorisedCodebook)]

    def encode(self, audio: Tensor) -> Tensor:
        """Audio `[batch, 1, n_samples]`, padded with silence to whole hops -> latents."""
        audio = F.pad(audio, (0, -audio.shape[2] % self.hop_length))
        return self.encoder(audio).transpose(1, 2)

    def quantize(self, latents: Tensor, n_codebooks: int | None = None) -> Tensor:
        """Latents -> codes `[batch, n_frames, n_codebooks]`, of all codebooks or the first few."""
        codes, residual = [], latents
        for stage in self._stages(n_codebooks):
            codes.append(stage.encode(residual))
            residual = residual - stage.decode(codes[-1])
        return torch.stack(codes, dim=2)

    def dequantize(self, codes: Tensor) -> Tensor:
        """Codes `[batch, n_frames, any prefix]` -> latents `[batch, n_frames, dim]`."""
        parts = zip(self._stages(codes.shape[2]), codes.unbind(2), strict=True)
        return torch.stack([stage.decode(part) for stage, part in parts]).sum(0)

    def codewords(self) -> Tensor:
        """What each code adds to the latents, `[n_codebooks, codebook_size, dim]`."""
        return torch.stack([stage.codewords() for stage in self._stages()])

    def decode(self, latents: Tensor) -> Tensor:
        """Latents -> audio `[batch, 1, n_frames * hop_length]`."""
        return self.decoder(latents.transpose(1, 2))

    def write(self, folder: Path, facts: dict[str, object]) -> None:
        """Write the folder of a model that `rvq.codec` loads, codebooks still factorised."""
        stages, config = self._stages(), self.config
        audio = {"audio": torch.zeros(1, 1, 5 * self.hop_length)}
        latents = {"latents": torch.zeros(1, 5, config.dim)}
        write_model_folder(
            folder,
            encoder=Part(_FramesFirst(self.encoder, before=False).eval(), audio, "latents"),
            decoder=Part(_FramesFirst(self.decoder, before=True).eval(), latents, "audio"),
            codebooks=torch.stack([stage.codebook.weight for stage in stages]).numpy(),
            projections={
                f"{part}.{kind}": torch.stack(
                    [getattr(stage, part).get_parameter(kind).squeeze(-1) for stage in stages]
                ).numpy()
                for part in ("in_proj", "out_proj")
                for kind in ("weight", "bias")
            },
            card={
                "family": "centred",
                "name": self.name,
                "sample_rate": self.sample_rate,
                "hop_length": self.hop_length,
                "delay": 0,
                "reach": {"encoder": config.encoder_reach, "decoder": config.decoder_reach},
                "training": facts,
            },
            half_weights=False,
        )


class _FramesFirst(nn.Module):
    """A network whose latents, before or after it, are `[batch, n_frames, dim]`."""

    def __init__(self, network: DacEncoder | DacDecoder, *, before: bool) -> None:
        super().__init__()
        self.network, self.before = network, before

    def forward(self, x: Tensor) -> Tensor:
        if self.before:
            return self.network(x.transpose(1, 2))
        return self.network(x).transpose(1, 2)


class _DacFields(Fields):
    sampling_rate: Rate
    encoder_hidden_size: Channels
    downsampling_ratios: Strides
    decoder_hidden_size: Channels
    n_codebooks: Count
    codebook_size: CodebookSize
    codebook_dim: Channels


def read_dac(path: Path) -> Dac:
    """Read a checkpoint.

    Args:
        path: Hugging Face's folder, or the safetensors file in it.

    Raises:
        ModelError: missing, damaged, truncated or of another model; the tensor at fault, or the
            field of `config.json`, is named.
    """
    checkpoint = Checkpoint(path)
    where = f"config.json of {path}"
    fields = read_fields(_DacFields, checkpoint.fields("dac"), where)
    check_hop(where, "downsampling_ratios", fields.downsampling_ratios)
    halvings = len(fields.downsampling_ratios)
    if fields.decoder_hidden_size % 2**halvings:
        raise ModelError(
            f"{where} has decoder_hidden_size {fields.decoder_hidden_size}, which cannot be halved "
            f"{halvings} times"
        )
    config = DacConfig(
        sample_rate=fields.sampling_rate,
        width=fields.encoder_hidden_size,
        strides=tuple(fields.downsampling_ratios),
        decoder_width=fields.decoder_hidden_size,
        n_codebooks=fields.n_codebooks,
        codebook_size=fields.codebook_size,
        codebook_dim=fields.codebook_dim,
    )
    model = checkpoint.build(lambda: Dac(config))
    checkpoint.fill(model, lambda name: name.replace("stages.", "quantizer.quantizers."))
    checkpoint.finish()
    return model.eval().requires_grad_(False)
