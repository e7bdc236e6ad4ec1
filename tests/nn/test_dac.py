"""How far DAC's networks see, which decides how its folders cut recordings into chunks."""

import pytest
import torch

from rvq.nn.dac import DacConfig, DacDecoder, DacEncoder


@pytest.mark.parametrize("strides", [(2, 4, 8, 8), (2, 4, 5, 8), (3, 5)])
def test_nothing_depends_on_what_is_out_of_reach(strides):
    torch.manual_seed(0)
    config = DacConfig(width=2, strides=strides, decoder_width=2 ** len(strides))
    hop, n_frames, at = config.hop_length, 60, 30
    audio = torch.randn(1, 1, n_frames * hop, requires_grad=True)
    DacEncoder(config)(audio)[0, :, at].square().sum().backward()
    seen = audio.grad.view(n_frames, hop).abs().sum(1).nonzero().flatten() - at
    assert seen.min() < -1
    assert seen.max() > 1
    assert seen.abs().max() <= config.encoder_reach <= seen.abs().max() + 3
    latents = torch.randn(1, config.dim, n_frames, requires_grad=True)
    sound = DacDecoder(config)(latents)[0, 0, at * hop : (at + 1) * hop]
    sound.square().sum().backward()
    seen = latents.grad[0].abs().sum(0).nonzero().flatten() - at
    assert seen.abs().max() <= config.decoder_reach <= seen.abs().max() + 3
