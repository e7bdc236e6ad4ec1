"""EnCodec's multi-scale STFT discriminator (Défossez et al. 2022, section 3.4 and figure 2)."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from rvq.nn import stft


@dataclass(frozen=True)
class EncodecDiscriminatorConfig:
    """Shape of EnCodec's discriminators.

    Attributes:
        kind: names them in a configuration.
        n_ffts: window lengths in samples, multiples of 4, one discriminator each; hops are a
            quarter of it.
        channels: channels of the hidden layers.
    """

    kind: Literal["encodec"] = "encodec"
    n_ffts: stft.Windows = (2048, 1024, 512, 256, 128)
    channels: PositiveInt = 32

    def __post_init__(self) -> None:
        stft.check_windows(self.n_ffts)

    @property
    def least_samples(self) -> int:
        """The shortest audio that they judge: the longest window."""
        return max(self.n_ffts)


class EncodecSTFTDiscriminator(nn.Module):
    """2-D convolutions over one complex spectrogram, dilated over time and strided over frequency.

    Args:
        n_fft: window length in samples.
        channels: of the hidden layers.
    """

    window: Tensor

    def __init__(self, n_fft: int, channels: int) -> None:
        super().__init__()
        window = torch.hann_window(n_fft)
        window = window / window.square().sum().sqrt()
        self.register_buffer("window", window, persistent=False)
        self.convs = nn.ModuleList([nn.Conv2d(2, channels, (3, 9), padding=(1, 4))])
        for dilation in (1, 2, 4):
            conv = nn.Conv2d(
                channels, channels, (3, 9), (1, 2), padding=(dilation, 4), dilation=(dilation, 1)
            )
            self.convs.append(weight_norm(conv))
        self.convs.append(weight_norm(nn.Conv2d(channels, channels, (3, 3), padding=1)))
        self.judge = weight_norm(nn.Conv2d(channels, 1, (3, 3), padding=1))

    def forward(self, audio: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Audio `[batch, n_samples]` -> judgement per patch, and the features that led to it."""
        n_fft = len(self.window)
        hop = n_fft // 4
        whole = audio[:, : (audio.shape[1] - n_fft) // hop * hop + n_fft]
        x = torch.stack(stft.analyse(whole, self.window, hop), dim=1)
        features = []
        for conv in self.convs:
            x = F.leaky_relu(conv(x), 0.2)
            features.append(x)
        return self.judge(x), features
