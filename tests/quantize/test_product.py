import numpy as np
import pytest

import rvq
from rvq.errors import InputError


def vectors(n, seed=0):
    random = np.random.default_rng(seed)
    mixing = np.random.default_rng(1).normal(size=(12, 12))
    return (random.normal(size=(n, 12)) @ mixing).astype(np.float32)


def test_product_quantizer_quantizes_every_part_by_itself():
    x = vectors(3000)
    quantizer = rvq.ProductQuantizer(n_codebooks=3, codebook_size=32).fit(x)
    codes, unseen = quantizer.encode(vectors(500, 2)), vectors(500, 2)
    assert codes.shape == (500, 3)
    for part in range(3):
        columns = slice(4 * part, 4 * part + 4)
        distances = ((unseen[:, None, columns] - quantizer.codebooks_[part]) ** 2).sum(2)
        np.testing.assert_array_equal(codes[:, part], distances.argmin(1))
    assert 0.3 < quantizer.score(unseen) < 0.95


def test_residual_quantizer_beats_it_at_equal_bits():
    x, unseen = vectors(4000), vectors(2000, 2)
    product = rvq.ProductQuantizer(n_codebooks=3, codebook_size=64).fit(x)
    residual = rvq.ResidualQuantizer(n_codebooks=3, codebook_size=64).fit(x)
    assert residual.score(unseen) > product.score(unseen)


@pytest.mark.parametrize("n_bits", [1, 4, 12])
def test_scalar_quantizer_errs_by_half_a_step_at_most(n_bits):
    x = vectors(1000)
    quantizer = rvq.ScalarQuantizer(n_bits=n_bits).fit(x)
    codes = quantizer.encode(x)
    assert codes.max() == 2**n_bits - 1
    assert codes.min() == 0
    error = np.abs(x - quantizer.decode(codes))
    assert (error <= quantizer.step_ * 0.5001 + 1e-6).all()
    # Six decibels a bit, once cells are small.
    if n_bits == 12:
        expected = 1 - np.square(quantizer.step_).sum() / 12 / x.var(0).sum()
        assert quantizer.score(x) == pytest.approx(expected, abs=1e-6)


def test_values_beyond_the_range_are_clipped():
    quantizer = rvq.ScalarQuantizer(n_bits=3).fit(vectors(100))
    assert quantizer.encode(np.full((2, 12), 1e9, np.float32)).max() == 7


def test_a_range_beyond_float32():
    x = np.array([[-3e38], [0], [3e38]], np.float32)
    quantizer = rvq.ScalarQuantizer(n_bits=8).fit(x)
    assert quantizer.encode(x).ravel().tolist() == [0, 128, 255]
    assert (np.abs(quantizer.decode(quantizer.encode(x)) - x) <= 1.2e36).all()
    assert quantizer.score(x) > 0.99


def test_the_dimension_is_known_after_fit():
    product = rvq.ProductQuantizer(n_codebooks=3, codebook_size=8)
    for quantizer in (product, rvq.ScalarQuantizer()):
        assert quantizer.fit(vectors(100)).n_features_in_ == 12


def test_parameters_set_after_fit_wait_for_the_next():
    x = vectors(1000)
    scalar = rvq.ScalarQuantizer(n_bits=8).fit(x)
    codes, score = scalar.encode(x), scalar.score(x)
    scalar.set_params(n_bits=4)
    np.testing.assert_array_equal(scalar.encode(x), codes)
    assert scalar.score(x) == score
    assert scalar.fit(x).encode(x).max() == 15
    product = rvq.ProductQuantizer(n_codebooks=4, codebook_size=16).fit(x)
    codes = product.encode(x)
    product.set_params(n_codebooks=6, codebook_size=8)
    np.testing.assert_array_equal(product.encode(x), codes)
    product.decode(codes)
    assert product.fit(x).encode(x).shape == (1000, 6)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: rvq.ProductQuantizer(n_codebooks=5).fit(vectors(300)), "divide"),
        (lambda: rvq.ProductQuantizer().encode(vectors(3)), "fit"),
        (lambda: rvq.ScalarQuantizer().decode(np.zeros((1, 12), int)), "fit"),
        (lambda: rvq.ScalarQuantizer(n_bits=17), "n_bits"),
        (lambda: rvq.ScalarQuantizer().fit(vectors(9)).decode(np.zeros((1, 3), int)), "12"),
    ],
)
def test_mistakes(make, match):
    with pytest.raises(InputError, match=match):
        make()
