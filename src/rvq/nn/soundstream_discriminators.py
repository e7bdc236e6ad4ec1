"""SoundStream's discriminators: of waveforms and of spectra (Zeghidour et al. 2021, III-D)."""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from rvq.nn import stft

_N_FFT, _HOP = 1024, 256
_GROWTH = (2, 2, 1, 2, 1, 2)
"""How much wider each unit of the discriminator of spectra is than the one before."""


@dataclass(frozen=True)
class SoundStreamDiscriminatorConfig:
    """Shape of SoundStream's discriminators.

    Attributes:
        kind: names them in a configuration.
        wave_scales: discriminators of waveforms, each at half the sample rate of the one before.
        wave_channels: after the first convolution of each; later ones have up to 64 times as many.
        stft_channels: after the first convolution of the one discriminator of spectra.
    """

    kind: Literal["soundstream"] = "soundstream"
    wave_scales: PositiveInt = 3
    wave_channels: Annotated[int, Field(ge=4, multiple_of=4)] = 16
    stft_channels: PositiveInt = 32

    @property
    def least_samples(self) -> int:
        """The shortest audio that they judge: eight windows, for every second unit halves the time,
        and a sample at the lowest rate.
        """  # noqa: D205
        n_windows = 2 ** (len(_GROWTH) // 2)
        return max(_N_FFT + (n_windows - 1) * _HOP, 2 ** (self.wave_scales - 1))


class WaveDiscriminator(nn.Module):
    """Strided grouped convolutions over a waveform, as in MelGAN (Kumar et al. 2019).

    Args:
        channels: after the first convolution.
        n_halvings: how often the sample rate is halved before.
    """

    def __init__(self, channels: int, n_halvings: int = 0) -> None:
        super().__init__()
        self.n_halvings = n_halvings
        most = 64 * channels
        self.convs = nn.ModuleList([weight_norm(nn.Conv1d(1, channels, 15, padding=7))])
        for _ in range(4):
            wider = min(4 * channels, most)
            conv = nn.Conv1d(channels, wider, 41, 4, padding=20, groups=channels // 4)
            self.convs.append(weight_norm(conv))
            channels = wider
        self.convs.append(weight_norm(nn.Conv1d(channels, channels, 5, padding=2)))
        self.judge = weight_norm(nn.Conv1d(channels, 1, 3, padding=1))

    def forward(self, audio: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Audio `[batch, n_samples]` -> judgement per stretch, and the features that led to it."""
        x, features = audio[:, None], []
        for _ in range(self.n_halvings):
            x = F.avg_pool1d(x, 4, 2, padding=1, count_include_pad=False)
        for conv in self.convs:
            x = F.leaky_relu(conv(x), 0.2)
            features.append(x)
        return self.judge(x), features


class SpectrumUnit(nn.Module):
    """Two convolutions over time and frequency, the second strided, with a strided skip."""

    def __init__(self, channels: int, wider: int, stride: tuple[int, int]) -> None:
        super().__init__()
        self.first = weight_norm(nn.Conv2d(channels, channels, 3, padding=1))
        kernel = (stride[0] + 2, stride[1] + 2)
        self.second = weight_norm(nn.Conv2d(channels, wider, kernel, stride, padding=1))
        self.skip = weight_norm(nn.Conv2d(channels, wider, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, channels, n_frames, n_bins]` -> wider, and shorter by the stride."""
        y = self.second(F.elu(self.first(F.elu(x))))
        return y + self.skip(x)[:, :, : y.shape[2], : y.shape[3]]


class SpectrumDiscriminator(nn.Module):
    """Residual units over one complex spectrogram, windows of 1,024 samples every 256."""

    window: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.n_bins = _N_FFT // 2
        window = torch.hann_window(_N_FFT)
        window = window / window.square().sum().sqrt()
        self.register_buffer("window", window, persistent=False)
        self.start = weight_norm(nn.Conv2d(2, channels, 7, padding=3))
        self.units = nn.ModuleList()
        for i, times in enumerate(_GROWTH):
            stride = (1 + i % 2, 2)
            self.units.append(SpectrumUnit(channels, channels * times, stride))
            channels *= times
        self.judge = weight_norm(nn.Conv2d(channels, 1, (1, self.n_bins >> len(_GROWTH))))

    def forward(self, audio: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Audio `[batch, n_samples]` -> judgement per stretch, and the features that led to it."""
        whole = audio[:, : (audio.shape[1] - _N_FFT) // _HOP * _HOP + _N_FFT]
        parts = stft.analyse(whole, self.window, _HOP)
        x = self.start(torch.stack(parts, dim=1)[..., : self.n_bins])
        features = [x]
        for unit in self.units:
            x = unit(x)
            features.append(x)
        return self.judge(F.elu(x)), features
