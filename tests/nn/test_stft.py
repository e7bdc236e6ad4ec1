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


def test_synthesis_with_a_least_squares_window_agrees_with_torch(audio):
    hann = torch.hann_window(32, dtype=torch.float64)
    gain = hann.square().view(4, 8).sum(0).repeat(4)
    real, imag = stft.centred(audio, hann)
    back = stft.synthesise(real, imag, hann / gain, 8)[:, 16:][:, : audio.shape[1]]
    spectra = torch.complex(real, imag).transpose(1, 2)
    expected = torch.istft(spectra, 32, 8, window=hann, length=audio.shape[1])
    # Half a window from the ends torch divides by the fewer windows that overlap there.
    inside = slice(16, -16)
    torch.testing.assert_close(back[:, inside], expected[:, inside])
    torch.testing.assert_close(back[:, inside], audio[:, inside])


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
