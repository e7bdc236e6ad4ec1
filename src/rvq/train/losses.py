"""What training minimises: distances between a recording and its reconstruction.

All take `[batch, n_samples]` audio; the multi-scale losses follow EnCodec (Défossez et al. 2022)
and DAC (Kumar et al. 2023), the hinge and feature losses SoundStream (Zeghidour et al. 2021).
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from rvq.mel import mel_filterbank
from rvq.nn import distributed, stft
from rvq.nn.turns import in_turn
from rvq.train.config import LossConfig

Judgements = list[tuple[Tensor, list[Tensor]]]

_LOG10_MAGNITUDE = 0.5 / math.log(10)
"""Of a magnitude in natural logarithms of its power."""


def time_loss(reconstruction: Tensor, audio: Tensor, weights: Tensor | None = None) -> Tensor:
    """L1 distance of waveforms relative to each item's mean amplitude.

    Args:
        reconstruction: `[batch, n_samples]`.
        audio: the same.
        weights: of the items, `[batch]`; default equal.
    """
    distance = (reconstruction - audio).abs().mean(1) / (audio.abs().mean(1) + 1e-3)
    return (distance if weights is None else distance * weights).mean()


class _Levels(torch.autograd.Function):
    """Magnitude, log power and compressed spectrum of a spectrum.

    Written out, the backward pass goes through memory less often than the operations one by one.
    """

    @staticmethod
    def forward(ctx: Any, real: Tensor, imag: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        power = real.square().addcmul_(imag, imag).add_(1e-9)
        magnitude, log_power = power.sqrt(), power.log()
        compression = torch.exp(log_power * -0.35)
        ctx.save_for_backward(real, imag, magnitude, compression)
        return magnitude, log_power, real * compression, imag * compression

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        real, imag, magnitude, compression = ctx.saved_tensors
        to_magnitude, to_log_power, to_real, to_imag = gradients
        to_real, to_imag = (torch.zeros_like(real) if g is None else g for g in (to_real, to_imag))
        # Levels depend on the power alone: all that reaches them goes along the spectrum.
        along = (to_real * real).addcmul_(to_imag, imag).mul_(compression).mul_(-0.7)
        if to_log_power is not None:
            along.add_(to_log_power, alpha=2)
        along.div_(magnitude)
        if to_magnitude is not None:
            along.add_(to_magnitude)
        along.div_(magnitude)
        return (
            torch.mul(to_real, compression).addcmul_(along, real),
            torch.mul(to_imag, compression).addcmul_(along, imag),
        )


class SpectralLoss(nn.Module):
    """Three distances on shared short-time spectra at several resolutions.

    - mel: L1 of log10 mel magnitudes.
    - log_magnitude: L1 of log10 magnitudes of every bin (Yamamoto et al. 2020). High mel bands are
      many bins wide; without it a decoder fills a few of them and leaves stripes in between.
    - complex: squared distance of spectra whose magnitude is compressed to |X|^0.3, which weighs
      phase and quiet detail alike.

    Args:
        sample_rate: of the audio, Hz.
        n_ffts: window lengths in samples.
        n_mels: bands of each.
        log_magnitude: whether that distance is asked for; the other two come in any case.
    """

    def __init__(
        self,
        sample_rate: int,
        n_ffts: tuple[int, ...],
        n_mels: tuple[int, ...],
        *,
        log_magnitude: bool = True,
    ) -> None:
        super().__init__()
        self.n_ffts = n_ffts
        self.log_magnitude = log_magnitude
        for n_fft, n in zip(n_ffts, n_mels, strict=True):
            filters = torch.from_numpy(mel_filterbank(sample_rate, n_fft, n)).float()
            self.register_buffer(f"filters_{n_fft}", filters, persistent=False)
            self.register_buffer(f"window_{n_fft}", torch.hann_window(n_fft), persistent=False)

    def _spectra(self, audio: Tensor, n_fft: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Log-mel `[batch, n_frames, n_mels]`, log power and compressed spectrum."""
        window: Tensor = getattr(self, f"window_{n_fft}")
        filters: Tensor = getattr(self, f"filters_{n_fft}")
        real, imag = stft.centred(audio, window * (2 / n_fft))
        magnitude, log_power, *compressed = _Levels.apply(real, imag)
        mel = (magnitude @ filters).clamp(min=1e-5).log10()
        return mel, log_power, *compressed

    def forward(
        self,
        reconstruction: Tensor,
        audio: Tensor,
        weights: Tensor | None = None,
        turn: int | None = None,
    ) -> dict[str, Tensor]:
        """Losses by name.

        Args:
            reconstruction: `[batch, n_samples]`.
            audio: the same.
            weights: of the items in the complex distance, `[batch]`; default equal.
            turn: counts the calls that take one resolution each; default all of them.
        """
        mel = magnitude = compressed = reconstruction.new_zeros(())
        n_ffts = in_turn(self.n_ffts, turn)
        for n_fft in n_ffts:
            with torch.no_grad():
                mel_target, log_target, *target = self._spectra(audio, n_fft)
            mel_estimate, log_estimate, *estimate = self._spectra(reconstruction, n_fft)
            mel = mel + F.l1_loss(mel_estimate, mel_target)
            if self.log_magnitude:
                magnitude = magnitude + F.l1_loss(log_estimate, log_target) * _LOG10_MAGNITUDE
            for part, part_target in zip(estimate, target, strict=True):
                distance = F.mse_loss(part, part_target, reduction="none").mean((1, 2))
                compressed = (
                    compressed + (distance if weights is None else distance * weights).mean()
                )
        losses = {"mel": mel, "log_magnitude": magnitude, "complex": compressed}
        return {name: loss / len(n_ffts) for name, loss in losses.items()}


class MelMagnitudeLoss(nn.Module):
    """Distances of mel magnitudes at windows from 32 to 2,048 samples, as EnCodec has them.

    Of every frame the L1 and the L2 norm of the difference, with equal weights (Défossez et al.
    2022, equation 3).
    """

    def __init__(self, sample_rate: int, *, n_mels: int = 64) -> None:
        super().__init__()
        self.n_ffts = tuple(2**i for i in range(5, 12))
        for n_fft in self.n_ffts:
            filters = torch.from_numpy(mel_filterbank(sample_rate, n_fft, n_mels)).float()
            window = torch.hann_window(n_fft)
            window = window / window.square().sum().sqrt()
            self.register_buffer(f"filters_{n_fft}", filters, persistent=False)
            self.register_buffer(f"window_{n_fft}", window, persistent=False)

    def _mel(self, audio: Tensor, n_fft: int) -> Tensor:
        """Mel magnitudes `[batch, n_frames, n_mels]`."""
        real, imag = stft.centred(audio, getattr(self, f"window_{n_fft}"))
        magnitude = (real.square() + imag.square() + 1e-12).sqrt()
        return magnitude @ getattr(self, f"filters_{n_fft}")

    def second_term(self, estimate: Tensor, target: Tensor, n_fft: int) -> Tensor:
        """What is added to the L1 norm of every frame, `[batch, n_frames]`."""
        return ((estimate - target).square().sum(-1) + 1e-12).sqrt()

    def forward(self, reconstruction: Tensor, audio: Tensor, turn: int | None = None) -> Tensor:
        """Distance of `[batch, n_samples]` and the same, at all windows or the one in turn."""
        total = reconstruction.new_zeros(())
        n_ffts = in_turn(self.n_ffts, turn)
        for n_fft in n_ffts:
            with torch.no_grad():
                target = self._mel(audio, n_fft)
            estimate = self._mel(reconstruction, n_fft)
            l1 = (estimate - target).abs().sum(-1)
            total = total + (l1 + self.second_term(estimate, target, n_fft)).mean()
        return total / len(n_ffts)


class LogMelMagnitudeLoss(MelMagnitudeLoss):
    """The same with L2 norms of logarithms, sqrt(window / 2) times, as SoundStream has them.

    Zeghidour et al. (2021), equations 6 and 7, after Gritsenko et al. (2020).
    """

    def second_term(self, estimate: Tensor, target: Tensor, n_fft: int) -> Tensor:
        """What is added to the L1 norm of every frame, `[batch, n_frames]`."""
        of_estimate, of_target = (x.clamp(min=1e-5).log() for x in (estimate, target))
        return (n_fft / 2) ** 0.5 * super().second_term(of_estimate, of_target, n_fft)


class ReconstructionLosses(nn.Module):
    """The losses that a configuration gives weight to, by name.

    Args:
        config: of the losses.
        sample_rate: of the audio, Hz.

    Attributes:
        weights: of the losses, above 0.
    """

    def __init__(self, config: LossConfig, sample_rate: int) -> None:
        super().__init__()
        self.weights = {name: w for name, w in config.reconstruction().items() if w > 0}
        self.spectral = None
        if self.weights.keys() & {"mel", "log_magnitude", "complex"}:
            self.spectral = SpectralLoss(
                sample_rate,
                config.n_ffts,
                config.n_mels,
                log_magnitude="log_magnitude" in self.weights,
            )
        kinds = {"mel_magnitude": MelMagnitudeLoss, "log_mel_magnitude": LogMelMagnitudeLoss}
        self.magnitudes = nn.ModuleDict(
            {name: kind(sample_rate) for name, kind in kinds.items() if name in self.weights}
        )

    def forward(
        self,
        reconstruction: Tensor,
        audio: Tensor,
        weights: Tensor | None = None,
        turn: int | None = None,
    ) -> dict[str, Tensor]:
        """Losses of `[batch, n_samples]` and the same.

        Args:
            reconstruction: what the model made.
            audio: what it was to make.
            weights: of the items in the losses that compare waveforms, `[batch]`; default equal.
            turn: counts the calls that compare spectra at one resolution each; default at all.
        """
        losses = {}
        if "time" in self.weights:
            losses["time"] = time_loss(reconstruction, audio, weights)
        if self.spectral is not None:
            losses |= self.spectral(reconstruction, audio, weights, turn)
        losses |= {
            name: loss(reconstruction, audio, turn) for name, loss in self.magnitudes.items()
        }
        return {name: loss for name, loss in losses.items() if name in self.weights}


def discriminator_loss(real: Judgements, fake: Judgements) -> Tensor:
    """Hinge loss of the discriminator, averaged over scales."""
    loss = sum(
        F.relu(1 - r).mean() + F.relu(1 + f).mean()
        for (r, _), (f, _) in zip(real, fake, strict=True)
    )
    return torch.as_tensor(loss) / len(real)


def adversarial_losses(real: Judgements, fake: Judgements) -> dict[str, Tensor]:
    """What the generator feels of the discriminators: hinge loss and relative feature distance."""
    hinge = sum(F.relu(1 - f).mean() for f, _ in fake)
    feature = sum(
        (x.detach() - y).abs().mean() / (distributed.mean(x.detach().abs().mean()) + 1e-4)
        for (_, xs), (_, ys) in zip(real, fake, strict=True)
        for x, y in zip(xs, ys, strict=True)
    )
    n_features = sum(len(xs) for _, xs in real)
    return {
        "adversarial": torch.as_tensor(hinge) / len(fake),
        "feature": torch.as_tensor(feature) / n_features,
    }
