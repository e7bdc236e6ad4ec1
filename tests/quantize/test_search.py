import numpy as np
import pytest

from rvq.errors import InputError
from rvq.quantize.search import Search


@pytest.fixture
def problem():
    random = np.random.default_rng(3)
    scale = np.linspace(2, 0.2, 12)
    x = (random.normal(size=(700, 12)) * scale).astype(np.float32)
    codebooks = (random.normal(size=(4, 16, 12)) * scale).astype(np.float32)
    codebooks *= np.array([1, 0.6, 0.4, 0.25], np.float32)[:, None, None]
    return x, codebooks


@pytest.fixture(params=["native", "blas"])
def either(request, monkeypatch):
    """Both with the compiled kernels and without."""
    from rvq.quantize.kernels import native

    if request.param == "blas":
        monkeypatch.setattr(native, "available", lambda: False)
    return request.param


def test_ties_go_to_the_lowest_index(either):
    codebooks = np.ones((1, 4, 3), np.float32)
    for beam_size in (1, 2):
        codes = Search(codebooks, beam_size=beam_size)(np.zeros((5, 3), np.float32)).codes
        assert not codes.any()


@pytest.mark.parametrize("beam_size", [1, 4])
def test_a_vector_alone_gets_the_codes_it_has_in_company(problem, beam_size, either):
    x, codebooks = problem
    search = Search(codebooks, beam_size=beam_size)
    together = search(x).codes
    alone = [search(row[None]).codes[0] for row in x[:200]]
    np.testing.assert_array_equal(together[:200], alone)


def test_residual_is_what_the_codes_leave(problem, either):
    x, codebooks = problem
    for beam_size in (1, 4):
        found = Search(codebooks, beam_size=beam_size)(x)
        decoded = sum(codebooks[i][found.codes[:, i]] for i in range(4))
        np.testing.assert_allclose(found.residual, x - decoded, atol=1e-5)


def test_wider_beams_lower_the_error(problem, either):
    x, codebooks = problem
    errors = [
        np.square(Search(codebooks, beam_size=b)(x).residual).sum() for b in (1, 2, 3, 4, 8, 16, 32)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.95 * errors[0]


@pytest.mark.parametrize("beam_size", [1, 4])
def test_penalties_trade_error_for_cheap_codewords(problem, beam_size, either):
    x, codebooks = problem
    penalties = np.zeros((4, 16))
    penalties[:, 8:] = 0.5
    plain = Search(codebooks, beam_size=beam_size)(x)
    thrifty = Search(codebooks, beam_size=beam_size, penalties=penalties)(x)
    assert (thrifty.codes >= 8).mean() < 0.85 * (plain.codes >= 8).mean()

    def cost(found):
        paid = penalties[np.arange(4), found.codes].sum()
        return np.square(found.residual).sum() + paid

    assert cost(thrifty) < cost(plain)


def test_no_vectors(problem, either):
    found = Search(problem[1])(np.empty((0, 12), np.float32))
    assert found.codes.shape == (0, 4)


@pytest.mark.parametrize("settings", [{"beam_size": 0}, {"beam_size": 33}])
def test_bad_beam(problem, settings):
    with pytest.raises(InputError, match="beam_size"):
        Search(problem[1], **settings)
