import itertools

import numpy as np
import pytest

from rvq.errors import InputError
from rvq.quantize.kernels import blas, reference
from rvq.quantize.search import search


@pytest.fixture
def problem():
    random = np.random.default_rng(3)
    scale = np.linspace(2, 0.2, 12)
    x = (random.normal(size=(700, 12)) * scale).astype(np.float32)
    codebooks = (random.normal(size=(4, 16, 12)) * scale).astype(np.float32)
    codebooks *= np.array([1, 0.6, 0.4, 0.25], np.float32)[:, None, None]
    return x, codebooks


def test_greedy_equals_the_definition(problem):
    codes, left = blas.greedy(*problem)
    expected, expected_left = reference.greedy(*problem)
    np.testing.assert_array_equal(codes, expected)
    np.testing.assert_allclose(left, expected_left, atol=1e-4)


def test_ties_go_to_the_lowest_index():
    codebooks = np.ones((1, 4, 3), np.float32)
    for beam_size in (1, 2):
        codes = search(np.zeros((5, 3), np.float32), codebooks, beam_size=beam_size).codes
        assert not codes.any()


@pytest.mark.parametrize("beam_size", [1, 4])
def test_a_vector_alone_gets_the_codes_it_has_in_company(problem, beam_size):
    x, codebooks = problem
    together = search(x, codebooks, beam_size=beam_size).codes
    alone = [search(row[None], codebooks, beam_size=beam_size).codes[0] for row in x[:200]]
    np.testing.assert_array_equal(together[:200], alone)


def test_beam_of_one_is_greedy(problem):
    np.testing.assert_array_equal(blas.beam(*problem, 1)[0], blas.greedy(*problem)[0])


def test_wide_beam_finds_the_best_of_all_sequences(problem):
    x, codebooks = problem[0][:100], problem[1][:3, :8]
    left = search(x, codebooks, beam_size=512).residual
    combinations = itertools.product(range(8), repeat=3)
    sums = np.stack([sum(codebooks[i][c] for i, c in enumerate(cs)) for cs in combinations])
    best = ((x[:, None] - sums) ** 2).sum(-1).min(1)
    np.testing.assert_allclose(np.square(left).sum(1), best, rtol=1e-3, atol=1e-4)


def test_wider_beams_lower_the_error(problem):
    errors = [np.square(search(*problem, beam_size=b).residual).sum() for b in (1, 2, 4, 16)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.95 * errors[0]


def test_bad_beam(problem):
    with pytest.raises(InputError):
        search(*problem, beam_size=0)
