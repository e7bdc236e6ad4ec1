import numpy as np
import pytest
from scipy.cluster.vq import kmeans2

import rvq
from rvq.errors import InputError, ModelError
from rvq.quantize.kmeans import kmeans


def frames(n, seed=0, dim=16):
    """Correlated vectors with a spectrum like that of log-mel frames."""
    random = np.random.default_rng(seed)
    mixing = np.random.default_rng(1).normal(size=(dim, dim)) * np.linspace(2, 0.2, dim)[:, None]
    return (random.normal(size=(n, dim)) @ mixing).astype(np.float32)


@pytest.fixture(scope="module")
def fitted():
    return rvq.ResidualQuantizer(n_codebooks=4, codebook_size=64, seed=5).fit(frames(4000))


def test_error_falls_with_every_codebook_on_unseen_vectors(fitted):
    errors = fitted.reconstruction_error(frames(2000, seed=9))
    assert (np.diff(errors) < 0).all()
    assert errors[0] < 0.7


def test_as_good_as_scipys_kmeans_stage_by_stage(fitted):
    residual = frames(4000).astype(np.float64)
    variance = np.square(residual - residual.mean(0)).sum(1).mean()
    for _ in range(4):
        codebook, labels = kmeans2(residual, 64, iter=25, minit="++", seed=5)
        residual = residual - codebook[labels]
    expected = np.square(residual).sum(1).mean() / variance
    assert fitted.reconstruction_error(frames(4000))[-1] < 1.02 * expected


def test_a_prefix_of_the_codes_decodes_to_the_sum_of_its_codewords(fitted):
    codes = fitted.encode(frames(50, seed=2))
    for n in range(1, 5):
        expected = sum(fitted.codebooks_[i][codes[:, i]] for i in range(n))
        np.testing.assert_allclose(fitted.decode(codes[:, :n]), expected, atol=1e-6)
    np.testing.assert_array_equal(fitted.encode(frames(50, seed=2), n_codebooks=2), codes[:, :2])


def test_leading_axes_are_kept(fitted):
    x = frames(24).reshape(2, 3, 4, 16)
    codes = fitted.encode(x)
    assert codes.shape == (2, 3, 4, 4)
    assert fitted.decode(codes).shape == x.shape


def test_beam_lowers_the_error_on_unseen_vectors(fitted):
    x = frames(2000, seed=9)
    beam = rvq.ResidualQuantizer.from_codebooks(fitted.codebooks_, beam_size=8)
    assert beam.reconstruction_error(x)[-1] < 0.97 * fitted.reconstruction_error(x)[-1]


def test_same_seed_same_codebooks(fitted):
    again = rvq.ResidualQuantizer(n_codebooks=4, codebook_size=64, seed=5).fit(frames(4000))
    np.testing.assert_array_equal(again.codebooks_, fitted.codebooks_)
    other = rvq.ResidualQuantizer(n_codebooks=4, codebook_size=64, seed=6).fit(frames(4000))
    assert not np.array_equal(other.codebooks_, fitted.codebooks_)


def test_save_and_load(fitted, tmp_path):
    fitted.save(tmp_path / "q.safetensors")
    loaded = rvq.ResidualQuantizer.load(tmp_path / "q.safetensors")
    np.testing.assert_array_equal(loaded.codebooks_, fitted.codebooks_)
    assert [p.name for p in tmp_path.iterdir()] == ["q.safetensors"]


def test_damaged_and_missing_files(fitted, tmp_path):
    path = tmp_path / "q.safetensors"
    with pytest.raises(ModelError):
        rvq.ResidualQuantizer.load(path)
    fitted.save(path)
    data = path.read_bytes()
    for damaged in (b"", data[:40], b"x" * 100, data[:-10]):
        path.write_bytes(damaged)
        with pytest.raises(ModelError):
            rvq.ResidualQuantizer.load(path)


def test_no_codeword_is_dead_although_most_vectors_coincide():
    x = np.concatenate([np.zeros((5000, 4), np.float32), frames(300, dim=4)])
    assert (kmeans(x, 32, seed=1).counts > 0).all()


def test_constant_vectors_are_quantized_exactly():
    x = np.full((100, 3), 0.5, np.float32)
    quantizer = rvq.ResidualQuantizer(n_codebooks=2, codebook_size=4).fit(x)
    np.testing.assert_allclose(quantizer.decode(quantizer.encode(x)), x)


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((0, 16), np.float32),
        np.zeros(16, np.float32),
        np.zeros((4, 15), np.float32),
        np.zeros((4, 16), np.int64),
        np.full((4, 16), np.nan, np.float32),
        np.full((4, 16), np.inf, np.float32),
    ],
)
def test_bad_vectors(fitted, bad):
    with pytest.raises(InputError):
        fitted.encode(bad)


@pytest.mark.parametrize(
    "bad", [np.full((3, 4), 64), np.full((3, 4), -1), np.zeros((3, 5), int), np.zeros((3, 4))]
)
def test_bad_codes(fitted, bad):
    with pytest.raises(InputError):
        fitted.decode(bad)


def test_bad_settings_and_order():
    with pytest.raises(InputError):
        rvq.ResidualQuantizer(n_codebooks=0)
    with pytest.raises(InputError):
        rvq.ResidualQuantizer(codebook_size=2.5)
    with pytest.raises(InputError):
        rvq.ResidualQuantizer().encode(frames(3))
    with pytest.raises(InputError, match="too few"):
        rvq.ResidualQuantizer(codebook_size=64).fit(frames(10))
