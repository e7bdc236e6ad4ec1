import doctest

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from rvq.errors import InputError
from rvq.evaluate import baselines
from rvq.evaluate.perplexity import perplexity


@given(st.lists(st.integers(0, 15), min_size=1, max_size=200))
def test_agrees_with_scipy_s_entropy(codes):
    expected = np.exp(scipy.stats.entropy(np.bincount(codes, minlength=16)))
    both = perplexity(np.array([codes, [3] * len(codes)]).T, 16)
    np.testing.assert_allclose(both, [expected, 1])


def test_equal_use_is_the_codebook_size():
    codes = np.random.default_rng(0).permuted(np.tile(np.arange(64), (3, 5)), axis=1).T
    np.testing.assert_allclose(perplexity(codes, 64), 64)


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (np.zeros((0, 2), int), "not empty"),
        (np.zeros(5, int), "n_codebooks"),
        (np.zeros((5, 2)), "integers"),
        (np.array([[4]]), r"0\.\.3, got 4"),
        (np.array([[-1]]), "got -1"),
    ],
)
def test_bad_codes_are_refused(codes, message):
    with pytest.raises(InputError, match=message):
        perplexity(codes, 4)


def test_examples_in_the_documentation_run():
    from rvq.evaluate import perplexity as module

    for one in (module, baselines):
        outcome = doctest.testmod(one)
        assert outcome.attempted
        assert not outcome.failed
