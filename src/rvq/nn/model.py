"""CodecModel = encoder + quantizer + decoder, and the named configurations of the package."""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rvq.errors import InputError
from rvq.nn.quantizer import Quantized, QuantizerConfig, ResidualVectorQuantizer
from rvq.nn.spectral import (
    LappedTransform,
    SpectralConfig,
    SpectralDecoder,
    SpectralEncoder,
    compand,
)


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


CONFIGS = {
    # The linear start makes latents that k-means can learn from at once.
    "spectral_24khz": CodecConfig(quantizer=QuantizerConfig(warmup_vectors=0, balance=0.1)),
}
"""Named configurations, for training files and `CodecModel.from_name`."""


class CodecModel(nn.Module):
    """A neural codec: audio -> latents -> codes -> latents -> audio."""

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.config = config
        self.transform = LappedTransform(config.network)
        self.encoder = SpectralEncoder(config.network)
        self.quantizer = ResidualVectorQuantizer(config.quantizer)
        self.decoder = SpectralDecoder(config.network)

    @classmethod
    def from_name(cls, name: str) -> "CodecModel":
        """An untrained model of a named configuration."""
        if name not in CONFIGS:
            raise InputError(f"no configuration {name!r}; choose one of {', '.join(CONFIGS)}")
        return cls(CONFIGS[name])

    @torch.no_grad()
    def start_linear(self, audio: Tensor) -> None:
        """Make the linear paths the principal components of companded coefficients.

        With them alone the untrained model is the best linear transform codec of its latents'
        dimension for recordings like these.

        Args:
            audio: examples of what the model is for, `[batch, n_samples]`, minutes of them.
        """
        network = self.config.network
        hops = audio[:, : audio.shape[1] // network.hop_length * network.hop_length]
        cosine, _ = self.transform.analyse(hops)
        x = compand(cosine, network.companding).flatten(0, 1).double()
        _, components = torch.linalg.eigh(x.T @ x)  # in ascending order
        components = components.flip(1)[:, : network.dim]
        scale = (x @ components).square().mean().sqrt()  # latents of unit variance
        self.encoder.linear.weight.copy_(components.T / scale)
        self.decoder.linear.weight.copy_(components * scale)

    def encode(self, audio: Tensor) -> Tensor:
        """Audio `[batch, n_samples]` -> latents `[batch, n_frames, dim]`.

        The end is padded with as many hops as the decoder needs to complete the last sample.
        """
        hop = self.config.network.hop_length
        n_hops = -(-audio.shape[1] // hop) + self.config.network.delay
        audio = F.pad(audio, (0, n_hops * hop - audio.shape[1]))
        with torch.autocast(audio.device.type, enabled=False):
            cosine, sine = self.transform.analyse(audio)
        start = cosine.new_zeros(len(audio), self.encoder.state_size)
        return self.encoder(cosine, sine, start)[0]

    def decode(self, latents: Tensor, n_samples: int) -> Tensor:
        """Latents -> audio `[batch, n_samples]`, aligned with what was encoded."""
        start = latents.new_zeros(len(latents), self.decoder.state_size)
        coefficients, _ = self.decoder(latents, start)
        with torch.autocast(latents.device.type, enabled=False):
            audio = self.transform.synthesise(coefficients)
        late = self.config.network.delay * self.config.network.hop_length
        return audio[:, late : late + n_samples]

    def forward(self, audio: Tensor, n_codebooks: int | None = None) -> tuple[Tensor, Quantized]:
        """Audio `[batch, n_samples]` -> its reconstruction, and what the quantizer did."""
        quantized = self.quantizer(self.encode(audio), n_codebooks)
        return self.decode(quantized.latents, audio.shape[1]), quantized
