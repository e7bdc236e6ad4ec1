"""EnCodec (Défossez et al. 2022): published checkpoints, and what the 48 kHz model does besides.

Two layouts are read: the original state dicts (`.th`), whose shapes tell which of the two models
they are, and folders of Hugging Face's `EncodecModel`, whose `config.json` may describe others.
"""

import hashlib
import json
import math
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field, TypeAdapter
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn.utils import parametrize

from rvq.codec.segments import CrossFade
from rvq.errors import InputError, ModelError
from rvq.interop.checkpoint import Checkpoint
from rvq.interop.config_fields import SeanetFields, read_fields
from rvq.interop.ecdc import Segment
from rvq.interop.published import PublishedCodec
from rvq.interop.seanet_names import seanet_names
from rvq.nn.code_transformer import CodeTransformer, CodeTransformerConfig, tensor_name
from rvq.nn.convolution import Norm, Padding, fold_weight_norm, prepare_export
from rvq.nn.export import export
from rvq.nn.model import CodecConfig, CodecModel
from rvq.nn.onnx_networks import Part, write_model_folder
from rvq.nn.quantizer import QuantizerConfig
from rvq.nn.seanet import SEANETS, SEANetConfig, SEANetDecoder, SEANetEncoder, SegmentConfig
from rvq.quantize.search import Search, decode

_PUBLISHED = {"encodec_24khz": "d7cc33bc", "encodec_48khz": "7e698e3e"}
"""How the SHA-256 of Meta's own `.th` files begins, as their names and the `encodec` package say.

Of the same weights in Hugging Face's layout none is known here.
"""


class Encodec(PublishedCodec):
    """An EnCodec model.

    Args:
        name: of the model.
        network: shape of encoder and decoder.
        codebooks: `[n_codebooks, codebook_size, dim]`.

    Attributes:
        published: whether it was read from Meta's own file, whose weights other programs that know
            the name have too.
    """

    codebooks: Tensor
    published = False

    def __init__(self, name: str, network: SEANetConfig, codebooks: Tensor) -> None:
        super().__init__()
        self.name = name
        self.network = network
        self.sample_rate, self.channels = network.sample_rate, network.channels
        self.hop_length = network.hop_length
        self.n_codebooks, self.codebook_size, _ = codebooks.shape
        self.encoder = SEANetEncoder(network)
        self.decoder = SEANetDecoder(network)
        fold_weight_norm(self)
        self.register_buffer("codebooks", codebooks)

    def encode(self, audio: Tensor) -> Tensor:
        """Audio `[batch, channels, n_samples]` in [-1, 1] -> latents `[batch, n_frames, dim]`."""
        return self.encoder(audio, audio.new_zeros(len(audio), self.encoder.state_size))[0]

    def quantize(self, latents: Tensor, n_codebooks: int | None = None) -> Tensor:
        """Latents -> codes `[batch, n_frames, n_codebooks]`, of all codebooks or the first few."""
        search = Search(self.codebooks[:n_codebooks].numpy())
        codes = search(latents.detach().reshape(-1, latents.shape[2]).numpy()).codes
        return torch.from_numpy(codes).view(*latents.shape[:2], -1)

    def dequantize(self, codes: Tensor) -> Tensor:
        """Codes `[batch, n_frames, any prefix]` -> latents `[batch, n_frames, dim]`."""
        return torch.from_numpy(decode(codes.numpy(), self.codebooks.numpy()))

    def codewords(self) -> Tensor:
        """What each code adds to the latents, `[n_codebooks, codebook_size, dim]`."""
        return self.codebooks

    def decode(self, latents: Tensor) -> Tensor:
        """Latents -> audio `[batch, channels, n_frames * hop_length]`."""
        return self.decoder(latents, latents.new_zeros(len(latents), self.decoder.state_size))[0]

    @torch.no_grad()
    def compress(self, audio: Tensor, n_codebooks: int | None = None) -> list[Segment]:
        """A recording `[channels, n_samples]` -> its segments, one where the model is causal.

        Raises:
            InputError: audio of another shape, or without samples.
        """
        if audio.ndim != 2 or len(audio) != self.channels or not audio.numel():
            raise InputError(
                f"audio must be [{self.channels}, n_samples], got {list(audio.shape)}: {self.name} "
                "codes that many channels together"
            )
        config = self.network.segments
        if config is None:
            codes = self.quantize(self.encode(audio[None]), n_codebooks)
            return [Segment(codes[0].numpy())]
        length, stride = config.n_samples(self.sample_rate), config.stride(self.sample_rate)
        segments = []
        for start in range(0, audio.shape[1], stride):
            x, scale = audio[:, start : start + length], 1.0
            if config.normalise:
                loudness = 1e-8 + x.mean(0).square().mean().sqrt()
                x, scale = x / loudness, float(loudness)
            codes = self.quantize(self.encode(x[None]), n_codebooks)
            segments.append(Segment(codes[0].numpy(), scale))
        return segments

    @torch.no_grad()
    def decompress(self, segments: list[Segment], n_samples: int) -> Tensor:
        """Segments -> the recording `[channels, n_samples]`.

        Raises:
            InputError: there are none.
        """
        if not segments:
            raise InputError("there are no segments to decode")
        parts = [
            self.decode(self.dequantize(torch.from_numpy(segment.codes)[None]))[0] * segment.scale
            for segment in segments
        ]
        config = self.network.segments
        if config is None:
            return parts[0][:, :n_samples]
        fade = CrossFade(
            channels=self.channels,
            n_samples=parts[0].shape[1],
            stride=config.stride(self.sample_rate),
        )
        joined = [fade.push(part.numpy()) for part in parts]
        return torch.from_numpy(np.concatenate([*joined, fade.flush()], axis=1)[:, :n_samples])

    def write(self, folder: Path, facts: dict[str, object]) -> None:
        """Write the folder of a model that `rvq.codec` loads; from causal ones training can start.

        Raises:
            InputError: its networks need whole recordings, or their segments overlap by over half.
        """
        facts = facts | {"published": self.published}
        if self.network.causal and self.channels == 1:
            export(self.codec_model(), folder, name=self.name, facts=facts, half_weights=False)
            return
        segments = self.network.segments
        if segments is None or segments.overlap > 0.5:
            raise InputError(
                f"{self.name} is not causal or codes channels together, and has no segments that "
                "overlap by half or less, so it cannot be a model folder; use "
                "`rvq.interop.encodec` in Python"
            )
        self._write_segments(segments, folder, facts)

    def _write_segments(
        self, segments: SegmentConfig, folder: Path, facts: dict[str, object]
    ) -> None:
        model = deepcopy(self)
        prepare_export(model)
        audio = {"audio": torch.zeros(1, self.channels, 5 * self.hop_length)}
        latents = {"latents": torch.zeros(1, 5, self.network.dim)}
        write_model_folder(
            folder,
            encoder=Part(_Forgetting(model.encoder).eval(), audio, "latents"),
            decoder=Part(_Forgetting(model.decoder).eval(), latents, "audio"),
            codebooks=self.codebooks.numpy(),
            card={
                "family": "segments",
                "name": self.name,
                "sample_rate": self.sample_rate,
                "channels": self.channels,
                "hop_length": self.hop_length,
                "delay": 0,
                "segment": {
                    "length": segments.n_samples(self.sample_rate),
                    "stride": segments.stride(self.sample_rate),
                    "normalise": segments.normalise,
                },
                "training": facts,
            },
            half_weights=False,
        )

    @torch.no_grad()
    def codec_model(self) -> CodecModel:
        """The same model as one of this package: to be exported, or trained on.

        Raises:
            InputError: it is not causal, or codes several channels together.
        """
        dim = self.network.dim
        quantizer = QuantizerConfig(self.n_codebooks, self.codebook_size, dim)
        model = CodecModel(CodecConfig(self.network, quantizer)).eval()
        for ours, theirs in ((model.encoder, self.encoder), (model.decoder, self.decoder)):
            for path, layer in theirs.named_modules():
                target = ours.get_submodule(path)
                for name, value in layer.named_parameters(recurse=False):
                    if parametrize.is_parametrized(target, name):
                        setattr(target, name, value.detach())  # finds its length and direction
                    else:
                        target.get_parameter(name).copy_(value)
        model.quantizer.set_codebooks(self.codebooks)
        return model


class _Forgetting(nn.Module):
    """A network that starts anew with every call."""

    def __init__(self, network: SEANetEncoder | SEANetDecoder) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x, x.new_zeros(x.shape[0], self.network.state_size))[0]


def read_encodec(path: Path) -> Encodec:
    """Read a checkpoint.

    Args:
        path: an original `.th` file, or Hugging Face's folder or the safetensors file in it.

    Raises:
        ModelError: missing, damaged, truncated or of another model; the tensor at fault, or the
            field of `config.json`, is named.
    """
    checkpoint = Checkpoint(path)
    # An original file may lie beside a config.json of something else.
    original = not checkpoint.config or "encoder.model.0.conv.conv.bias" in checkpoint
    if not original:
        name, shape, n_codebooks, size = _from_config(checkpoint)
        prefix, codebook = "layers.", "quantizer.layers.{}.codebook."
    else:
        name = _which(checkpoint)
        shape, size = SEANETS[name], 1024
        n_codebooks = {"encodec_24khz": 32, "encodec_48khz": 16}[name]
        prefix, codebook = "model.", "quantizer.vq.layers.{}._codebook."
    books = [
        checkpoint.take(codebook.format(i) + "embed", (size, shape.dim)) for i in range(n_codebooks)
    ]
    make = partial(Encodec, name, shape, torch.stack(books))
    model = make() if original else checkpoint.build(make)
    for part in ("encoder", "decoder"):
        network = getattr(model, part)
        names = seanet_names(network, f"{part}.{prefix}", original=original)
        checkpoint.fill(network, names.__getitem__)
    for statistic in ("inited", "cluster_size", "embed_avg"):
        checkpoint.drop(f"codebook.{statistic}")
    checkpoint.finish()
    model.published = original and _sha256(checkpoint.file).startswith(_PUBLISHED[name])
    return model.eval().requires_grad_(False)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_language_model(path: Path, *, codec_hash: str | None = None) -> CodeTransformer:
    """Read a language model of `.ecdc` files: EnCodec's, or one that was learned here.

    Args:
        path: an original `.th` file, or what `rvq learn-transformer` wrote.
        codec_hash: of the model whose codes it is for; one that learned another's is refused.

    Raises:
        ModelError: missing, damaged, truncated or of another model; the tensor at fault is named.
    """
    checkpoint = Checkpoint(path)
    config, learned_from = _language_model_facts(path, checkpoint)
    if codec_hash and learned_from and learned_from != codec_hash:
        raise ModelError(
            f"{path} has learned the codes of model {learned_from[:16]}, the model given is "
            f"{codec_hash[:16]}; learn it again by `rvq learn-transformer`"
        )
    model = CodeTransformer(config)
    checkpoint.fill(model, tensor_name)
    checkpoint.finish()
    return model.eval().requires_grad_(False)


def _language_model_facts(
    path: Path, checkpoint: Checkpoint
) -> tuple[CodeTransformerConfig, str | None]:
    """Shape of a language model, and the hash of the model whose codes it learned, if known."""
    facts: dict[str, str] = {}
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as file:
            facts = file.metadata() or {}
    if "code_transformer" in facts:
        try:
            fields = json.loads(facts["code_transformer"])
            shape = TypeAdapter(CodeTransformerConfig).validate_python(fields)
        except (ValueError, InputError) as error:
            raise ModelError(f"the header of {path} is damaged: {error}") from None
        return shape, facts.get("codec")
    n_codebooks = 32 if "emb.16.weight" in checkpoint else 16
    frame_rate = 75 if n_codebooks == 32 else 150
    past_frames = int(3.5 * frame_rate)
    return CodeTransformerConfig(n_codebooks=n_codebooks, past_frames=past_frames), None


def _which(checkpoint: Checkpoint) -> str:
    """The name of the original model whose tensors these are."""
    normed = "encoder.model.0.conv.norm.weight" in checkpoint
    name = "encodec_48khz" if normed else "encodec_24khz"
    weight = f"encoder.model.0.conv.conv.weight{'' if normed else '_v'}"
    if checkpoint.shape(weight)[1] != SEANETS[name].channels:
        raise ModelError(f"tensor {weight} of {checkpoint.path} is not that of {name}")
    return name


class _EncodecFields(SeanetFields):
    normalize: bool = False
    chunk_length_s: Annotated[float, Field(gt=0, le=600)] | None = None
    overlap: Annotated[float, Field(ge=0, lt=1)] | None = None
    trim_right_ratio: float
    use_conv_shortcut: bool = True
    num_lstm_layers: Annotated[int, Field(ge=0, le=64)]
    norm_type: Norm
    pad_mode: Literal["reflect", "constant"]
    use_causal_conv: bool
    target_bandwidths: Annotated[
        list[Annotated[float, Field(gt=0, allow_inf_nan=False)]], Field(min_length=1)
    ]


def _from_config(checkpoint: Checkpoint) -> tuple[str, SEANetConfig, int, int]:
    """Name, network, number and size of codebooks that a `config.json` describes."""
    where = f"config.json of {checkpoint.path}"
    fields = read_fields(_EncodecFields, checkpoint.fields("encodec"), where)
    fields.check(where)
    if fields.trim_right_ratio != 1.0:
        raise ModelError(f"{where} has trim_right_ratio {fields.trim_right_ratio}, not 1")
    paddings: dict[str, Padding] = {"reflect": "reflect", "constant": "zeros"}
    if fields.use_causal_conv and fields.norm_type == "time_group_norm":
        raise ModelError(
            f"{where} has norm_type time_group_norm, which averages over the future, and "
            "use_causal_conv"
        )
    network = replace(
        fields.on(SEANetConfig()),
        convolved_skip=fields.use_conv_shortcut,
        lstm_layers=fields.num_lstm_layers,
        norm=fields.norm_type,
        padding=paddings[fields.pad_mode],
        causal=fields.use_causal_conv,
        segments=_segments(fields, where),
    )
    frame_rate = -(-network.sample_rate // network.hop_length)
    bits = (fields.codebook_size - 1).bit_length()
    n_codebooks = int(1000 * fields.target_bandwidths[-1] // (frame_rate * bits))
    if n_codebooks < 1:
        raise ModelError(f"{where} leaves room for no codebook in its target_bandwidths")
    kilohertz = f"{network.sample_rate / 1000:g}khz"
    return f"encodec_{kilohertz}", network, n_codebooks, fields.codebook_size


def _segments(fields: _EncodecFields, where: str) -> SegmentConfig | None:
    """How a model that a `config.json` describes cuts recordings, if it does."""
    if fields.chunk_length_s is None:
        if fields.normalize:
            raise ModelError(f"{where} wants normalize without chunk_length_s; none is known so")
        return None
    if fields.use_causal_conv:
        raise ModelError(f"{where} has chunk_length_s, which use_causal_conv does without")
    segments = SegmentConfig(fields.chunk_length_s, fields.overlap or 0.0, fields.normalize)
    if segments.n_samples(fields.sampling_rate) < math.prod(fields.upsampling_ratios):
        raise ModelError(f"{where} has chunk_length_s {fields.chunk_length_s}, less than a frame")
    return segments
