"""CodecModel = encoder + quantizer + decoder, and the named configurations of the package."""

from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
from pydantic import Discriminator, Tag
from torch import Tensor, nn

from rvq.errors import InputError, ModelError
from rvq.nn.convolution import CausalConv
from rvq.nn.quantizer import Quantized, QuantizerConfig, ResidualVectorQuantizer
from rvq.nn.seanet import SEANETS, SEANetConfig, SEANetDecoder, SEANetEncoder
from rvq.nn.spectral import (
    LappedTransform,
    SpectralConfig,
    SpectralDecoder,
    SpectralEncoder,
    compand,
)
from rvq.nn.unit_variance import scale, scale_to_unit_variance

_GROWING = ("encoder_blocks", "decoder_blocks")
"""Settings that may be greater than those of the model that a network starts from."""
_SCALED_BY = 8
"""Examples that a SEANet is scaled by: a few seconds hold thousands of steps of every layer."""


def network_kind(fields: Any) -> str:
    """`spectral` or `seanet`: the family that a configuration of networks, or its fields, is of."""
    strides = fields.get("strides") if isinstance(fields, dict) else getattr(fields, "strides", ())
    return "seanet" if strides else "spectral"


Network = Annotated[
    Annotated[SpectralConfig, Tag("spectral")] | Annotated[SEANetConfig, Tag("seanet")],
    Discriminator(network_kind),
]


@dataclass(frozen=True)
class CodecConfig:
    """Everything that decides the shape of a codec model.

    Attributes:
        network: encoder and decoder.
        quantizer: codebooks between them.
    """

    network: Network = field(default_factory=SpectralConfig)
    quantizer: QuantizerConfig = field(default_factory=QuantizerConfig)

    def __post_init__(self) -> None:
        if self.network.dim != self.quantizer.dim:
            raise InputError(
                f"network.dim {self.network.dim} and quantizer.dim {self.quantizer.dim} must agree"
            )


CONFIGS = {
    # The linear start makes latents that k-means can learn from at once.
    "spectral_24khz": CodecConfig(
        quantizer=QuantizerConfig(n_codebooks=18, warmup_vectors=0, balance=0.2)
    ),
    "encodec_24khz": CodecConfig(SEANETS["encodec_24khz"], QuantizerConfig(n_codebooks=32)),
    "soundstream_24khz": CodecConfig(SEANETS["soundstream_24khz"], QuantizerConfig(n_codebooks=32)),
}
"""Named configurations, for training files and `CodecModel.from_name`."""


class Waveform(nn.Module):
    """In place of a transform, for networks that take samples as they are."""

    def pad(self, audio: Tensor) -> Tensor:
        """Nothing: the networks complete the last hop themselves."""
        return audio

    def analyse(self, audio: Tensor) -> tuple[Tensor, ...]:
        """`[batch, n_samples]` -> `[batch, 1, n_samples]`."""
        return (audio[:, None],)

    def synthesise(self, audio: Tensor) -> Tensor:
        """`[batch, 1, n_samples]` -> `[batch, n_samples]`."""
        return audio[:, 0]


class CodecModel(nn.Module):
    """A neural codec: audio -> latents -> codes -> latents -> audio.

    Raises:
        InputError: networks that are not causal or code several channels together; those are run
            by `rvq.interop`.
    """

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.config = config
        network = config.network
        if isinstance(network, SpectralConfig):
            self.transform: LappedTransform | Waveform = LappedTransform(network)
            self.encoder: SpectralEncoder | SEANetEncoder = SpectralEncoder(network)
            self.decoder: SpectralDecoder | SEANetDecoder = SpectralDecoder(network)
        else:
            if not network.causal or network.channels != 1:
                raise InputError("a codec model needs causal networks on one channel")
            self.transform = Waveform()
            self.encoder = SEANetEncoder(network)
            self.decoder = SEANetDecoder(network)
        self.quantizer = ResidualVectorQuantizer(config.quantizer)

    @classmethod
    def from_name(cls, name: str) -> "CodecModel":
        """An untrained model of a named configuration."""
        if name not in CONFIGS:
            raise InputError(f"no configuration {name!r}; choose one of {', '.join(CONFIGS)}")
        return cls(CONFIGS[name])

    @torch.no_grad()
    def start_from(self, audio: Tensor) -> None:
        """Give untrained networks weights that suit the recordings they are for.

        Linear paths of spectral networks become principal components of the transform: with them
        alone the model is the best linear transform codec of its latents' dimension. Convolutions
        of a SEANet are scaled, so that latents follow the audio and the output the latents.

        Args:
            audio: examples, `[batch, n_samples]`, minutes of them; a SEANet takes the first few.
        """
        if isinstance(self.encoder, SEANetEncoder):
            self._start_scaled(audio[:_SCALED_BY])
        else:
            self._start_linear(audio)

    def _start_scaled(self, audio: Tensor) -> None:
        assert isinstance(self.decoder, SEANetDecoder)
        latents = scale_to_unit_variance(self.encoder, lambda: self.encode(audio))
        scale_to_unit_variance(self.decoder, lambda: self.decode(latents, audio.shape[1]))
        last = self.decoder.chain.layers[-1]
        assert isinstance(last, CausalConv)
        # Were the output softer than the audio, all layers would grow at once and run away.
        scale(last.body.conv, float(audio.std()))

    def _start_linear(self, audio: Tensor) -> None:
        network, encoder, decoder = self.config.network, self.encoder, self.decoder
        assert isinstance(network, SpectralConfig)
        assert isinstance(encoder, SpectralEncoder)
        assert isinstance(decoder, SpectralDecoder)
        hops = audio[:, : audio.shape[1] // network.hop_length * network.hop_length]
        cosine, _ = self.transform.analyse(hops)
        x = compand(cosine, network.companding).flatten(0, 1).double()
        _, components = torch.linalg.eigh(x.T @ x)  # in ascending order
        components = components.flip(1)[:, : network.dim]
        scale = (x @ components).square().mean().sqrt()  # latents of unit variance
        encoder.linear.weight.copy_(components.T / scale)
        decoder.linear.weight.copy_(components * scale)

    def take_over(self, other: "CodecModel") -> None:
        """Start from the weights and codebooks of a model of this shape, or one with fewer blocks.

        Further blocks follow those that the other has and change nothing at first, so that what
        comes out is what it made (Chen et al. 2016, Net2Net); they learn from there.

        Raises:
            ModelError: networks of other settings, which would make something else of the weights.
            RuntimeError: another shape.
        """
        settings, others = vars(self.config.network), vars(other.config.network)
        for name, value in settings.items():
            if name not in _GROWING and others.get(name, value) != value:
                raise ModelError(
                    f"the model's network has {name} {others[name]}, the configuration's {value}; "
                    "give them the same"
                )
        own, weights = self.state_dict(), other.state_dict()
        for name in own.keys() - weights.keys():
            if ".stack.blocks." in name:
                scale = name.endswith(".scale")
                weights[name] = torch.zeros_like(own[name]) if scale else own[name]
        self.load_state_dict(weights)

    def encode(self, audio: Tensor) -> Tensor:
        """Audio `[batch, n_samples]` -> latents `[batch, n_frames, dim]`.

        The end is padded with as many hops as the decoder needs to complete the last sample.
        """
        with torch.autocast(audio.device.type, enabled=False):
            inputs = self.transform.analyse(self.transform.pad(audio))
        start = inputs[0].new_zeros(len(audio), self.encoder.state_size)
        return self.encoder(*inputs, start)[0]

    def decode(self, latents: Tensor, n_samples: int) -> Tensor:
        """Latents -> audio `[batch, n_samples]`, aligned with what was encoded."""
        start = latents.new_zeros(len(latents), self.decoder.state_size)
        output, _ = self.decoder(latents, start)
        with torch.autocast(latents.device.type, enabled=False):
            audio = self.transform.synthesise(output)
        late = self.config.network.delay * self.config.network.hop_length
        return audio[:, late : late + n_samples]

    def forward(
        self, audio: Tensor, n_codebooks: int | Tensor | None = None
    ) -> tuple[Tensor, Quantized]:
        """Audio `[batch, n_samples]` -> its reconstruction, and what the quantizer did."""
        quantized = self.quantizer(self.encode(audio), n_codebooks)
        return self.decode(quantized.latents, audio.shape[1]), quantized
