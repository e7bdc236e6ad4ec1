"""Codes <-> tokens."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rvq.corpus.layouts import CoarseToFine, Delay, Flat
from rvq.errors import InputError

SIZE = 7
shapes = st.tuples(st.integers(0, 12), st.integers(2, 5))
codes = shapes.flatmap(lambda shape: arrays(np.int64, shape, elements=st.integers(0, SIZE - 1)))


def layouts(n_codebooks):
    return [
        Flat(n_codebooks, SIZE),
        CoarseToFine(n_codebooks, SIZE, n_coarse=1),
        CoarseToFine(n_codebooks, SIZE, n_coarse=n_codebooks - 1),
        Delay(n_codebooks, SIZE),
    ]


@given(codes)
def test_there_and_back(codes):
    for layout in layouts(codes.shape[1]):
        tokens = layout.tokens(codes)
        assert tokens.min(initial=0) >= 0
        assert tokens.max(initial=0) < layout.vocabulary_size
        assert layout.pad not in tokens or isinstance(layout, Delay)
        np.testing.assert_array_equal(layout.codes(tokens), codes)
        padding = np.full((3, *tokens.shape[1:]), layout.pad)
        np.testing.assert_array_equal(layout.codes(np.concatenate([tokens, padding])), codes)


@given(codes, st.data())
def test_tokens_that_break_off_give_the_first_frames(codes, data):
    for layout in layouts(codes.shape[1]):
        tokens = layout.tokens(codes)
        stop = data.draw(st.integers(0, len(tokens)))
        if isinstance(layout, CoarseToFine) and layout.separator not in tokens[:stop]:
            continue
        part = layout.codes(tokens[:stop])
        np.testing.assert_array_equal(part, codes[: len(part)])


def test_every_code_of_every_codebook_has_a_token_of_its_own():
    everything = np.tile(np.arange(SIZE)[:, None], 3)
    for layout in (Flat(3, SIZE), CoarseToFine(3, SIZE, n_coarse=2)):
        inner = set(layout.tokens(everything).tolist())
        assert len(inner) == 3 * SIZE + (2 if isinstance(layout, Flat) else 3)


def test_a_delayed_step_follows_all_earlier_codes_of_its_frame():
    codes = np.arange(12).reshape(4, 3)
    steps = Delay(3, 12).tokens(codes)
    for frame in range(4):
        places = [int(np.flatnonzero(steps[:, q] == codes[frame, q])[0]) for q in range(3)]
        assert places == [1 + frame, 2 + frame, 3 + frame]


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputError, match=r"\[n_frames, 2\]"):
        Flat(2).tokens(np.zeros((3, 3), int))
    with pytest.raises(InputError, match=r"0\.\.6"):
        Delay(2, SIZE).tokens([[0, SIZE]])
    with pytest.raises(InputError, match="another codebook"):
        Flat(2, SIZE).codes([1, 1])
    with pytest.raises(InputError, match="no separator"):
        CoarseToFine(2, SIZE, n_coarse=1).codes([1, 2])
    with pytest.raises(InputError, match=r"1\.\.1"):
        CoarseToFine(2, SIZE, n_coarse=2)
    with pytest.raises(InputError, match="at least 1"):
        Flat(0)
