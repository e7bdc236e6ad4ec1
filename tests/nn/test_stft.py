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


def test_synthesis_is_windowed_overlap_add_of_inverse_transforms(audio):
    real, imag = stft.analyse(audio, window(32), 8)
    result = stft.synthesise(real, imag, window(32), 8)
    expected = torch.zeros_like(audio)
    frames = torch.fft.irfft(torch.complex(real, imag), n=32) * window(32)
    for t in range(frames.shape[1]):
        expected[:, 8 * t : 8 * t + 32] += frames[:, t]
    torch.testing.assert_close(result, expected)


@pytest.mark.parametrize(("n_fft", "hop"), [(16, 4), (12, 4)])
def test_gradient_of_analysis(audio, n_fft, hop):
    x = audio[:, :28].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: stft.analyse(x, window(n_fft), hop), (x,))


@pytest.mark.parametrize(("n_fft", "hop"), [(16, 4), (12, 4)])
def test_gradient_of_synthesis(audio, n_fft, hop):
    parts = [p.requires_grad_() for p in stft.analyse(audio[:, :28], window(n_fft), hop)]
    assert torch.autograd.gradcheck(lambda r, i: stft.synthesise(r, i, window(n_fft), hop), parts)


def test_centred_agrees_with_torch(audio):
    # 96 samples are a whole number of hops, so that only the padding by half a window remains.
    real, imag = stft.centred(audio, window(32))
    expected = torch.stft(
        audio, 32, 8, window=window(32), center=True, pad_mode="constant", return_complex=True
    )
    torch.testing.assert_close(torch.complex(real, imag), expected.transpose(1, 2))
