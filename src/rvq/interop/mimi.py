"""Checkpoints of Mimi (Défossez et al. 2024) in Hugging Face's layout."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from rvq.errors import InputError, ModelError
from rvq.interop.checkpoint import Checkpoint
from rvq.interop.config_fields import Channels, Count, Fields, SeanetFields, read_fields
from rvq.interop.published import PublishedCodec
from rvq.interop.seanet_names import seanet_names
from rvq.nn.mimi import MimiConfig, MimiDecoder, MimiEncoder
from rvq.nn.onnx_networks import Part, write_model_folder
from rvq.quantize.search import Search, decode


class ProjectedQuantizer(nn.Module):
    """Residual vector quantization of a projection of the latents."""

    codebooks: Tensor

    def __init__(self, config: MimiConfig, n_codebooks: int) -> None:
        super().__init__()
        self.input_proj = nn.Conv1d(config.dim, config.codebook_dim, 1, bias=False)
        self.output_proj = nn.Conv1d(config.codebook_dim, config.dim, 1, bias=False)
        shape = (n_codebooks, config.codebook_size, config.codebook_dim)
        self.register_buffer("codebooks", torch.zeros(shape))

    def encode(self, latents: Tensor, n_codebooks: int | None = None) -> Tensor:
        """Codes of `[batch, n_frames, dim]`, `[batch, n_frames, n_codebooks]`."""
        low = F.linear(latents, self.input_proj.weight[:, :, 0]).detach()
        search = Search(self.codebooks[:n_codebooks].numpy())
        codes = search(low.reshape(-1, low.shape[2]).numpy()).codes
        return torch.from_numpy(codes).view(*latents.shape[:2], -1)

    def decode(self, codes: Tensor) -> Tensor:
        """Latents of codes."""
        low = torch.from_numpy(decode(codes.numpy(), self.codebooks.numpy()))
        return F.linear(low, self.output_proj.weight[:, :, 0])

    def codewords(self) -> Tensor:
        """What each code adds to the latents, `[n_codebooks, codebook_size, dim]`."""
        return F.linear(self.codebooks, self.output_proj.weight[:, :, 0])


class Mimi(PublishedCodec):
    """A Mimi model: one quantizer for what is said and, beside it, one for how it sounds."""

    def __init__(self, config: MimiConfig) -> None:
        super().__init__()
        self.name = "mimi"
        self.sample_rate, self.channels = config.seanet.sample_rate, config.seanet.channels
        self.hop_length, self.n_semantic = config.hop_length, config.n_semantic
        self.n_codebooks, self.codebook_size = config.n_codebooks, config.codebook_size
        self.encoder, self.decoder = MimiEncoder(config), MimiDecoder(config)
        self.semantic = ProjectedQuantizer(config, config.n_semantic)
        self.acoustic = ProjectedQuantizer(config, config.n_codebooks - config.n_semantic)

    def encode(self, audio: Tensor) -> Tensor:
        """Audio `[batch, channels, n_samples]` in [-1, 1] -> latents `[batch, n_frames, dim]`."""
        return self.encoder(audio, audio.new_zeros(len(audio), self.encoder.state_size))[0]

    def quantize(self, latents: Tensor, n_codebooks: int | None = None) -> Tensor:
        """Latents -> codes `[batch, n_frames, n_codebooks]`, of all codebooks or the first few.

        Raises:
            InputError: fewer codebooks than the semantic ones.
        """
        wanted = self.n_codebooks if n_codebooks is None else n_codebooks
        if wanted < self.n_semantic:
            raise InputError(f"{self.name} needs at least {self.n_semantic} codebooks: {wanted}")
        codes = [self.semantic.encode(latents)]
        if wanted > self.n_semantic:
            codes.append(self.acoustic.encode(latents, wanted - self.n_semantic))
        return torch.cat(codes, dim=2)

    def dequantize(self, codes: Tensor) -> Tensor:
        """Codes `[batch, n_frames, any prefix]` -> latents `[batch, n_frames, dim]`."""
        latents = self.semantic.decode(codes[:, :, : self.n_semantic])
        if codes.shape[2] > self.n_semantic:
            latents = latents + self.acoustic.decode(codes[:, :, self.n_semantic :])
        return latents

    def codewords(self) -> Tensor:
        """What each code adds to the latents, `[n_codebooks, codebook_size, dim]`."""
        return torch.cat([self.semantic.codewords(), self.acoustic.codewords()])

    def decode(self, latents: Tensor) -> Tensor:
        """Latents -> audio `[batch, channels, n_frames * hop_length]`."""
        return self.decoder(latents, latents.new_zeros(len(latents), self.decoder.state_size))[0]

    def write(self, folder: Path, facts: dict[str, object]) -> None:
        """Write the folder of a model that `rvq.codec` loads.

        There it has one residual quantizer, in the space of both projections together. Codewords of
        either quantizer are zero where the other's space is, so that neither search sees the
        other's part, and codes are the same.

        Raises:
            InputError: it codes several channels together.
        """
        if self.channels != 1:
            raise InputError(f"model folders are of models of one channel, not {self.channels}")
        dim = self.semantic.codebooks.shape[2]
        quantizers = (self.semantic, self.acoustic)
        down = torch.cat([part.input_proj.weight[:, :, 0] for part in quantizers])
        up = torch.cat([part.output_proj.weight[:, :, 0] for part in quantizers], dim=1)
        codebooks = torch.cat(
            [F.pad(self.semantic.codebooks, (0, dim)), F.pad(self.acoustic.codebooks, (dim, 0))]
        )
        audio = {"audio": torch.zeros(1, 1, 5 * self.hop_length)}
        latents = {"latents": torch.zeros(1, 5, 2 * dim)}
        encoder = _Projecting(self.encoder, down, before=False).eval()
        decoder = _Projecting(self.decoder, up, before=True).eval()
        write_model_folder(
            folder,
            encoder=Part(encoder, audio, "latents"),
            decoder=Part(decoder, latents, "audio"),
            codebooks=codebooks.numpy(),
            card={
                "family": "waveform",
                "name": self.name,
                "sample_rate": self.sample_rate,
                "hop_length": self.hop_length,
                "delay": 0,
                "first_frames": 1,
                "training": facts,
            },
            half_weights=False,
        )


class _Projecting(nn.Module):
    """A network with a projection of vectors before or after it."""

    def __init__(self, network: MimiEncoder | MimiDecoder, weight: Tensor, *, before: bool) -> None:
        super().__init__()
        self.network, self.before = network, before
        self.state_size = network.state_size
        self.weight = nn.Parameter(weight, requires_grad=False)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        if self.before:
            return self.network(F.linear(x, self.weight), state)
        vectors, state = self.network(x, state)
        return F.linear(vectors, self.weight), state


def read_mimi(path: Path) -> Mimi:
    """Read a checkpoint.

    Args:
        path: Hugging Face's folder, or the safetensors file in it.

    Raises:
        ModelError: missing, damaged, truncated or of another model; the tensor at fault, or the
            field of `config.json`, is named.
    """
    checkpoint = Checkpoint(path)
    config = _config(checkpoint)
    model = checkpoint.build(lambda: Mimi(config))
    for part in ("encoder", "decoder"):
        network = getattr(model, part)
        names = seanet_names(network.seanet, f"{part}.layers.")
        names = {f"seanet.{ours}": theirs for ours, theirs in names.items()}
        names |= {"downsample.body.conv.weight": "downsample.conv.weight"}
        names |= {"upsample.body.conv.weight": "upsample.conv.weight"}
        for ours, _ in network.transformer.named_parameters():
            names[f"transformer.{ours}"] = f"{part}_transformer.{ours}"
        checkpoint.fill(network, names.__getitem__)
    for part in ("semantic", "acoustic"):
        quantizer, prefix = getattr(model, part), f"quantizer.{part}_residual_vector_quantizer."
        checkpoint.fill(quantizer, lambda name, prefix=prefix: prefix + name)  # type: ignore[misc]
        for i, book in enumerate(quantizer.codebooks):
            layer = f"{prefix}layers.{i}.codebook."
            usage = checkpoint.take(f"{layer}cluster_usage", (len(book),))
            sums = checkpoint.take(f"{layer}embed_sum", book.shape)
            book.copy_(sums / usage.clamp(min=1e-5)[:, None])
    checkpoint.drop("codebook.initialized")
    checkpoint.finish()
    return model.eval().requires_grad_(False)


_RopeBase = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Rope(Fields):
    rope_theta: _RopeBase


class _MimiFields(SeanetFields):
    use_conv_shortcut: bool
    num_hidden_layers: Count
    num_attention_heads: Count
    intermediate_size: Channels
    sliding_window: Annotated[int, Field(ge=1, le=10_000)]
    rope_parameters: _Rope | None = None
    rope_theta: _RopeBase | None = None
    num_quantizers: Count
    num_semantic_quantizers: Count
    codebook_dim: Channels
    frame_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None


def _config(checkpoint: Checkpoint) -> MimiConfig:
    found = checkpoint.fields("mimi")
    where = f"config.json of {checkpoint.path}"
    fields = read_fields(_MimiFields, found, where)
    fields.check(where)
    rope_base = fields.rope_parameters.rope_theta if fields.rope_parameters else fields.rope_theta
    if rope_base is None:
        raise ModelError(f"{where} is damaged or lacks a field: rope_theta")
    if fields.hidden_size % (2 * fields.num_attention_heads):
        raise ModelError(
            f"{where} has hidden_size {fields.hidden_size}, no multiple of twice "
            f"num_attention_heads {fields.num_attention_heads}"
        )
    if fields.num_semantic_quantizers >= fields.num_quantizers:
        raise ModelError(
            f"{where} has num_semantic_quantizers {fields.num_semantic_quantizers}, not below "
            f"num_quantizers {fields.num_quantizers}"
        )
    seanet = replace(fields.on(MimiConfig().seanet), convolved_skip=fields.use_conv_shortcut)
    config = MimiConfig(
        seanet=seanet,
        n_layers=fields.num_hidden_layers,
        n_heads=fields.num_attention_heads,
        hidden=fields.intermediate_size,
        window=fields.sliding_window,
        rope_base=rope_base,
        n_codebooks=fields.num_quantizers,
        n_semantic=fields.num_semantic_quantizers,
        codebook_size=fields.codebook_size,
        codebook_dim=fields.codebook_dim,
    )
    frame_rate = fields.frame_rate or seanet.sample_rate / config.hop_length
    # What the published model has, and these modules with it.
    fixed = {
        "use_causal_conv": True,
        "pad_mode": "constant",
        "trim_right_ratio": 1.0,
        "hidden_act": "gelu",
        "attention_bias": False,
        "num_key_value_heads": config.n_heads,
        "head_dim": config.dim // config.n_heads,
        "upsample_groups": config.dim,
        "vector_quantization_hidden_dimension": config.codebook_dim,
    }
    for name, value in fixed.items():
        if found.get(name, value) != value:
            raise ModelError(f"{where} has {name} {found[name]!r}; only {value!r} is supported")
    if frame_rate * config.hop_length != seanet.sample_rate:
        raise ModelError(
            f"{where} has frame_rate {frame_rate}; half of SEANet's frames per second are expected"
        )
    return config
