"""Discriminators: small judges of short-time spectra that drive adversarial training."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Discriminator, Tag
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from rvq.nn import stft
from rvq.nn.encodec_discriminator import EncodecDiscriminatorConfig, EncodecSTFTDiscriminator
from rvq.nn.soundstream_discriminators import (
    SoundStreamDiscriminatorConfig,
    SpectrumDiscriminator,
    WaveDiscriminator,
)
from rvq.nn.turns import in_turn


@dataclass(frozen=True)
class DiscriminatorConfig:
    """Shape of a multi-scale STFT discriminator.

    Attributes:
        kind: names it in a configuration.
        n_ffts: window lengths in samples, multiples of 4, one discriminator each; hops are half
            of it.
        channels: channels of the hidden layers.
    """

    kind: Literal["fast"] = "fast"
    n_ffts: stft.Windows = (2048, 1024, 512)
    channels: int = 24

    def __post_init__(self) -> None:
        stft.check_windows(self.n_ffts)

    @property
    def least_samples(self) -> int:
        """The shortest audio that they judge; its ends are padded."""
        return 1


class STFTDiscriminator(nn.Module):
    """2-D convolutions over one complex spectrogram, as in EnCodec (Défossez et al. 2022).

    Unlike EnCodec's it halves both axes early and sees compressed magnitudes: a few percent of
    the arithmetic, and quiet high frequencies weigh as they sound.
    """

    window: Tensor

    def __init__(self, n_fft: int, channels: int) -> None:
        super().__init__()
        window = torch.hann_window(n_fft) * (2 / n_fft**0.5)
        self.register_buffer("window", window, persistent=False)
        shapes = [  # inputs, outputs, kernel, stride over (time, frequency)
            (2, channels, (3, 9), (1, 4)),
            (channels, channels, (3, 5), (2, 2)),
            (channels, 2 * channels, (3, 5), (2, 2)),
            (2 * channels, 2 * channels, (3, 5), (1, 2)),
        ]
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(i, o, k, s, padding=(k[0] // 2, k[1] // 2)))
            for i, o, k, s in shapes
        )
        self.judge = weight_norm(nn.Conv2d(2 * channels, 1, (3, 3), padding=(1, 1)))

    def forward(self, audio: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Audio `[batch, n_samples]` -> judgement per patch, and the features that led to it.

        Without those of the first layer: they are the largest, and nearly the spectrum itself.
        """
        x = torch.stack(stft.centred(audio, self.window, overlap=2), dim=1)
        x = x * (x.square().sum(1, keepdim=True) + 1e-6).pow(-0.3)
        x = x.contiguous(memory_format=torch.channels_last)
        features = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
            features.append(x)
        return self.judge(x), features[1:]


class Discriminators(nn.Module):
    """Several discriminators, each with its own view of the audio."""

    def __init__(self, scales: Iterable[nn.Module]) -> None:
        super().__init__()
        self.scales = nn.ModuleList(scales)

    def forward(self, audio: Tensor, turn: int | None = None) -> list[tuple[Tensor, list[Tensor]]]:
        """Audio `[batch, n_samples]` -> judgements and features of all, or of the one in turn."""
        return [scale(audio) for scale in in_turn(self.scales, turn)]


def discriminator_kind(fields: Any) -> str:
    """`fast`, `encodec` or `soundstream`: what a configuration, or its fields, is of."""
    if isinstance(fields, dict):
        return fields.get("kind", "fast")
    return getattr(fields, "kind", "fast")


AnyDiscriminatorConfig = Annotated[
    Annotated[DiscriminatorConfig, Tag("fast")]
    | Annotated[EncodecDiscriminatorConfig, Tag("encodec")]
    | Annotated[SoundStreamDiscriminatorConfig, Tag("soundstream")],
    Discriminator(discriminator_kind),
]


def build_discriminators(config: AnyDiscriminatorConfig) -> Discriminators:
    """Untrained discriminators of a configuration."""
    if isinstance(config, SoundStreamDiscriminatorConfig):
        waves = [WaveDiscriminator(config.wave_channels, n) for n in range(config.wave_scales)]
        return Discriminators([*waves, SpectrumDiscriminator(config.stft_channels)])
    if isinstance(config, EncodecDiscriminatorConfig):
        return Discriminators(EncodecSTFTDiscriminator(n, config.channels) for n in config.n_ffts)
    return Discriminators(STFTDiscriminator(n, config.channels) for n in config.n_ffts)
