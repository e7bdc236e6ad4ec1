"""Restart of a decoder's dead bins: what dead codewords are to a codebook, these are to its output.

High coefficients of speech are noise. A spectral decoder makes noise of the latents, whose signs
change from frame to frame like those of noise; where training has led a bin to a constant sign
instead, the bin is a tone that every loss wants softer, until it is silent, and mel bands, which
are many bins wide, never miss it. No gradient leads back.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from rvq.nn.model import CodecModel
from rvq.nn.spectral import SpectralConfig, SpectralDecoder

_ONE_SIGN = 0.35
"""Of a coefficient's mean sign, and of its sign's correlation with the next frame's."""
_SILENT_DB = -12.0
"""Level below which a bin is silent, relative to the recordings."""
_AUDIBLE = 3e-8
"""Power of a coefficient of a recording that counts: about -75 dB of full scale."""
_FLOOR = 1e-9
_NEAREST = 10
"""Live bins that a dead one may be made of."""
_FIRST_HZ = 8000
"""From which on bins are restarted. Below, PESQ and ViSQOL prefer silence to noise that is not the
recording's, and training brings back less than the restart cost them."""


@dataclass(frozen=True)
class _Bins:
    """What a decoder makes of every bin, `[hop_length]` each.

    Attributes:
        level: of mean magnitudes, in dB above those of the recordings.
        dead: silent, or of one sign.
        live: like noise, in recordings' range.
    """

    level: Tensor
    dead: Tensor
    live: Tensor


@torch.no_grad()
def restart_dead_bins(model: CodecModel, audio: Tensor) -> int:
    """Give a spectral decoder's dead bins signs like noise, and the level of their neighbours.

    A restarted bin is the sum of two live ones nearby, with random signs; training tells them apart
    again. Other networks than spectral ones have no bins and are left as they are.

    Args:
        model: a trained one.
        audio: recordings, `[batch, n_samples]`, a few minutes of them.

    Returns:
        How many bins were dead.
    """
    decoder = model.decoder
    if not isinstance(decoder, SpectralDecoder):
        return 0
    training = model.training
    try:
        return _restart(model.eval(), decoder, audio)
    finally:
        model.train(training)


def treble(config: SpectralConfig, *, first_hz: float = _FIRST_HZ) -> Tensor:
    """Which bins lie at a frequency and above, by default those that are restarted."""
    return (
        torch.arange(config.hop_length) * (config.sample_rate / 2 / config.hop_length) >= first_hz
    )


def _restart(model: CodecModel, decoder: SpectralDecoder, audio: Tensor) -> int:
    before = _measure(model, decoder, audio)
    live = torch.nonzero(before.live)[:, 0]
    dead = torch.nonzero(before.dead)[:, 0].tolist()
    if not dead or len(live) < _NEAREST:
        return 0
    generator = torch.Generator().manual_seed(0)
    gain, change = decoder.head.weight.view(2, len(before.level), -1)
    gain_bias, change_bias = decoder.head.bias.view(2, -1)
    linear = decoder.linear.weight
    exponent = decoder.config.companding
    for bin_ in dead:
        near = live[(live - bin_).abs().argsort(stable=True)[:_NEAREST]]
        pair = near[torch.randperm(len(near), generator=generator)[:2].to(near.device)]
        signs = torch.randint(0, 2, (2,), generator=generator).to(linear) * 2 - 1
        # Both as loud as the recordings, so that neither hides the other.
        mix = signs * 2**-0.5 * 10 ** (-exponent / 20 * before.level[pair])
        gain[bin_], gain_bias[bin_] = gain[pair].mean(0), gain_bias[pair].mean()
        change[bin_], change_bias[bin_] = mix @ change[pair], mix @ change_bias[pair]
        linear[bin_] = mix @ linear[pair]
    target = _around(before.level, before.live)
    for _ in range(3):
        missing = (target - _measure(model, decoder, audio).level)[dead]
        gain_bias[dead] += missing * (exponent * math.log(10) / 20)
    return len(dead)


def _measure(model: CodecModel, decoder: SpectralDecoder, audio: Tensor) -> _Bins:
    wanted, _ = model.transform.analyse(model.transform.pad(audio))
    latents = model.quantizer(model.encode(audio)).latents
    made, _ = decoder(latents, latents.new_zeros(len(latents), decoder.state_size))
    late = decoder.config.lookahead
    made, wanted = made[:, late:], wanted[:, : wanted.shape[1] - late]
    heard = wanted.square() > _AUDIBLE
    n = heard.sum((0, 1))
    magnitudes = ((x.abs() * heard).sum((0, 1)) + _FLOOR for x in (made, wanted))
    level = 20 * torch.log10(torch.div(*magnitudes))
    sign = made.sign()
    mean = (sign * heard).sum((0, 1)) / n.clamp(min=1)
    both = heard[:, 1:] & heard[:, :-1]
    repeats = (sign[:, 1:] * sign[:, :-1] * both).sum((0, 1)) / both.sum((0, 1)).clamp(min=1)
    one_sign = (mean.abs() > _ONE_SIGN) | (repeats.abs() > _ONE_SIGN)
    dead = (n > 0) & (one_sign | (level < _SILENT_DB))
    high = treble(decoder.config).to(n.device)
    among = treble(decoder.config, first_hz=_FIRST_HZ / 2).to(n.device)
    return _Bins(level, dead & high, (n > 0) & ~dead & among)


def _around(level: Tensor, live: Tensor) -> Tensor:
    """Mean level of the live bins among the 31 around each."""
    sums = F.avg_pool1d(torch.stack([level * live, live.to(level)]), 31, stride=1, padding=15)
    return sums[0] / sums[1].clamp(min=1e-6)
