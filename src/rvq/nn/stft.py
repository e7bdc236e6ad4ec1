"""Short-time Fourier transforms with backward passes made for CPUs.

The automatic backward pass of framing and real FFTs fills and adds one padded tensor per shift and
runs complex transforms; written out, it is a real inverse transform and an overlap-add, which makes
a training step with many spectral losses several times faster.
"""

from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from torch.autograd.function import once_differentiable

from rvq.errors import InputError

Windows = Annotated[tuple[int, ...], Field(min_length=1)]
"""Window lengths in samples, at least one."""


def _frames(audio: Tensor, n_fft: int, hop: int) -> Tensor:
    """Overlapping views, `[batch, n_samples]` -> `[batch, n_frames, n_fft]`."""
    return audio.unfold(1, n_fft, hop)


def _overlap_add(frames: Tensor, hop: int) -> Tensor:
    """Adjoint of `_frames`: `[batch, n_frames, n_fft]` -> `[batch, n_samples]`."""
    batch, n_frames, n_fft = frames.shape
    overlap = n_fft // hop
    hops = frames.new_zeros(batch, n_frames + overlap - 1, hop)
    for i in range(overlap):
        hops[:, i : i + n_frames] += frames[:, :, i * hop : (i + 1) * hop]
    return hops.flatten(1)


class _Analysis(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, audio: Tensor, window: Tensor, hop: int) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(window)
        ctx.hop = hop
        spectrum = torch.fft.rfft(_frames(audio, len(window), hop) * window)
        return spectrum.real.contiguous(), spectrum.imag.contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_real: Tensor, to_imag: Tensor) -> Any:
        (window,) = ctx.saved_tensors
        n_fft = len(window)
        # irfft counts every bin between 0 and the Nyquist frequency twice and divides by n_fft.
        gradient = torch.complex(to_real, to_imag) * (n_fft / 2)
        gradient[..., 0] *= 2
        gradient[..., -1] *= 2
        frames = torch.fft.irfft(gradient, n=n_fft) * window
        return _overlap_add(frames, ctx.hop), None, None


def analyse(audio: Tensor, window: Tensor, hop: int) -> tuple[Tensor, Tensor]:
    """Short-time spectra without padding.

    Args:
        audio: `[batch, n_samples]`; a whole number of hops.
        window: `[n_fft]`, n_fft even and a multiple of hop.
        hop: samples between frames.

    Returns:
        Real and imaginary parts, `[batch, (n_samples - n_fft) / hop + 1, n_fft / 2 + 1]` each.
    """
    return _Analysis.apply(audio, window, hop)


def check_windows(n_ffts: tuple[int, ...]) -> None:
    """Refuse window lengths that `centred` cannot hop through by quarters.

    Raises:
        InputError: one of them is no multiple of 4.
    """
    if any(n < 4 or n % 4 for n in n_ffts):
        raise InputError(f"n_ffts must be multiples of 4, got {list(n_ffts)}")


def centred(audio: Tensor, window: Tensor, overlap: int = 4) -> tuple[Tensor, Tensor]:
    """Spectra at a hop of a window over `overlap`, the ends padded with half a window of silence.

    `[batch, n_samples]` -> real and imaginary parts, `[batch, n_frames, n_bins]` each.
    """
    n_fft, hop = len(window), len(window) // overlap
    half = n_fft // 2
    padded = F.pad(audio, (half, half + -audio.shape[1] % hop))
    return analyse(padded, window, hop)
