"""Short-time transforms against torch's own, and their hand-written gradients."""

import pytest
import torch

from rvq.nn import stft


@pytest.fixture
def audio():
    return torch.randn(2, 96, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def window(n_fft, dtype=torch.float64):
    return torch.hann_window(n_fft, dtype=dtype) + 0.1


@pytest.mark.parametrize(("n_fft", "hop"), [(32, 8), (32, 16), (24, 8)])
def test_analysis_agrees_with_torch(audio, n_fft, hop):
    real, imag = stft.analyse(audio, window(n_fft), hop)
    expected = torch.stft(
        audio, n_fft, hop, window=window(n_fft), center=False, return_complex=True
    ).transpose(1, 2)
    torch.testing.assert_close(torch.complex(real, imag), expected)


@pytest.mark.parametrize(("n_fft", "hop"), [(16, 4), (12, 4)])
def test_gradient_of_analysis(audio, n_fft, hop):
    x = audio[:, :28].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: stft.analyse(x, window(n_fft), hop), (x,))


def test_centred_agrees_with_torch(audio):
    # 96 samples are a whole number of hops, so that only the padding by half a window remains.
    real, imag = stft.centred(audio, window(32))
    expected = torch.stft(
        audio, 32, 8, window=window(32), center=True, pad_mode="constant", return_complex=True
    )
    torch.testing.assert_close(torch.complex(real, imag), expected.transpose(1, 2))


@pytest.mark.parametrize(("n_fft", "hop"), [(16, 4), (12, 4), (8, 8)])
def test_overlap_add_is_the_adjoint_of_framing(audio, n_fft, hop):
    x = audio[:, : n_fft + 5 * hop]
    frames = torch.randn(2, 6, n_fft, dtype=torch.float64)
    framed = (stft._frames(x, n_fft, hop) * frames).sum()
    torch.testing.assert_close(framed, (x * stft._overlap_add(frames, hop)).sum())


def test_centred_covers_a_ragged_end(audio):
    for n in range(65, 97):
        real, _ = stft.centred(audio[:, :n], window(32))
        padded, _ = stft.centred(torch.nn.functional.pad(audio[:, :n], (0, -n % 8)), window(32))
        torch.testing.assert_close(real, padded)
