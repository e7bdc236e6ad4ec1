"""CodecModel = encoder + quantizer + decoder, and the named configurations of the package."""

from dataclasses import dataclass, field

import torch.nn.functional as F
from torch import Tensor, nn

from rvq.errors import InputError
from rvq.nn.quantizer import Quantized, QuantizerConfig, ResidualVectorQuantizer
from rvq.nn.spectral import ShortTimeTransform, SpectralConfig, SpectralDecoder, SpectralEncoder


@dataclass(frozen=True)
class CodecConfig:
    """Everything that decides the shape of a codec model.

    Attributes:
        network: encoder and decoder.
        quantizer: codebooks between them.
    """

    network: SpectralConfig = field(default_factory=SpectralConfig)
    quantizer: QuantizerConfig = field(default_factory=QuantizerConfig)

    def __post_init__(self) -> None:
        if self.network.dim != self.quantizer.dim:
            raise InputError(
                f"network.dim {self.network.dim} and quantizer.dim {self.quantizer.dim} must agree"
            )


CONFIGS = {"spectral_24khz": CodecConfig()}
"""Named configurations, for training files and `CodecModel.from_name`."""


class CodecModel(nn.Module):
    """A neural codec: audio -> latents -> codes -> latents -> audio."""

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.config = config
        self.transform = ShortTimeTransform(config.network)
        self.encoder = SpectralEncoder(config.network)
        self.quantizer = ResidualVectorQuantizer(config.quantizer)
        self.decoder = SpectralDecoder(config.network)

    @classmethod
    def from_name(cls, name: str) -> "CodecModel":
        """An untrained model of a named configuration."""
        if name not in CONFIGS:
            raise InputError(f"no configuration {name!r}; choose one of {', '.join(CONFIGS)}")
        return cls(CONFIGS[name])

    def encode(self, audio: Tensor) -> Tensor:
        """Audio `[batch, n_samples]` -> latents `[batch, n_frames, dim]`.

        The end is padded with as many hops as the decoder needs to complete the last sample.
        """
        hop = self.config.network.hop_length
        n_hops = -(-audio.shape[1] // hop) + self.config.network.overlap
        audio = F.pad(audio, (0, n_hops * hop - audio.shape[1]))
        real, imag = self.transform.analyse(audio)
        latents, _ = self.encoder(real, imag, self.encoder.stack.start(real))
        return latents

    def decode(self, latents: Tensor, n_samples: int) -> Tensor:
        """Latents -> audio `[batch, n_samples]`, aligned with what was encoded."""
        real, imag, _ = self.decoder(latents, self.decoder.stack.start(latents))
        late = self.config.network.overlap * self.config.network.hop_length
        return self.transform.synthesise(real, imag)[:, late : late + n_samples]

    def forward(self, audio: Tensor, n_codebooks: int | None = None) -> tuple[Tensor, Quantized]:
        """Audio `[batch, n_samples]` -> its reconstruction, and what the quantizer did."""
        quantized = self.quantizer(self.encode(audio), n_codebooks)
        return self.decode(quantized.latents, audio.shape[1]), quantized
