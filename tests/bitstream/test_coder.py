"""The C coder and its definition in numpy do the same to the bit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rvq.bitstream import coder, reference
from rvq.bitstream.tables import ABSENT, Linear, Tables

needs_c = pytest.mark.skipif(coder._native is None, reason="installed without a compiler")


def linear(n_inputs, n_outputs, random):
    return Linear(
        weights=random.integers(-3000, 3000, (n_outputs, n_inputs)).astype(np.int16),
        bias=random.integers(-100_000, 100_000, n_outputs).astype(np.int32),
    )


def case(size, hidden, memory, channels, n_frames, optional, seed):
    random = np.random.default_rng(seed)
    tables = Tables(
        below=linear(8, hidden, random),
        here=linear(4, hidden, random),
        logits=linear(hidden, size, random),
        past=random.integers(-4000, 4000, (memory, size, hidden)).astype(np.int32),
        precision=int(random.integers(8, 20)),
        shift=int(random.integers(0, 6)),
    )
    n = channels * n_frames
    base = random.integers(-10_000, 10_000, (n, hidden)).astype(np.int32)
    below = np.ones(n, bool)
    codes = random.integers(0, size, n).astype(np.uint16)
    if optional:
        below = random.random(n) < 0.8
        codes[~below | (random.random(n) < 0.3)] = ABSENT
    return tables, base, below, codes


shapes = {
    "size": st.sampled_from([2, 3, 64, 100, 1024]),
    "hidden": st.sampled_from([2, 6, 64, 128]),
    "memory": st.integers(0, 4),
    "channels": st.integers(1, 2),
    "n_frames": st.integers(1, 20),
    "optional": st.booleans(),
    "seed": st.integers(0, 1000),
}


@needs_c
@settings(max_examples=40, deadline=None)
@given(**shapes)
def test_c_equals_numpy_both_ways(size, hidden, memory, channels, n_frames, optional, seed):
    tables, base, below, codes = case(size, hidden, memory, channels, n_frames, optional, seed)
    how = {"n_frames": n_frames, "optional": optional}
    data = coder.encode(tables, base, below, codes, **how)
    assert data == reference.encode(tables, base, below, codes, **how)
    for decode in (coder.decode, reference.decode):
        found, exact = decode(tables, base, below, data, **how)
        np.testing.assert_array_equal(found, codes)
        assert exact


@needs_c
@settings(max_examples=30, deadline=None)
@given(data=st.binary(max_size=60), **shapes)
def test_any_bytes_decode_alike(data, size, hidden, memory, channels, n_frames, optional, seed):
    tables, base, below, _ = case(size, hidden, memory, channels, n_frames, optional, seed)
    how = {"n_frames": n_frames, "optional": optional}
    found, exact = coder.decode(tables, base, below, data, **how)
    expected, also = reference.decode(tables, base, below, data, **how)
    np.testing.assert_array_equal(found, expected)
    assert exact == also
    # Bytes count as exact if and only if they are what an encoder makes of these codes.
    assert exact == (coder.encode(tables, base, below, found, **how) == data)


@needs_c
@pytest.mark.parametrize("kernel", range(len(coder.KERNELS)), ids=coder.KERNELS)
@pytest.mark.parametrize(("size", "hidden"), [(100, 6), (1024, 64), (2, 2)])
def test_frequencies_are_those_of_the_definition(kernel, size, hidden):
    tables, base, _, codes = case(size, hidden, 3, 1, 9, False, 4)
    for before in range(9):
        active = reference.activations(tables, base[before], codes[:before], before)
        np.testing.assert_array_equal(
            coder.frequencies(tables, base[before], codes[:before], kernel=kernel),
            reference.frequencies(tables, active),
        )


@needs_c
@pytest.mark.parametrize("kernel", range(len(coder.KERNELS)), ids=coder.KERNELS)
@pytest.mark.parametrize(("n_inputs", "n_outputs"), [(1, 1), (6, 100), (7, 64), (320, 64)])
def test_products_are_those_of_the_definition(kernel, n_inputs, n_outputs):
    random = np.random.default_rng(n_inputs)
    matrix = linear(n_inputs, n_outputs, random)
    inputs = random.integers(-2000, 2000, (5, n_inputs)).astype(np.int16)
    found = coder.apply(matrix, inputs, kernel=kernel)
    np.testing.assert_array_equal(found, reference.apply(matrix, inputs))
    # By hand, in Python's own integers.
    row = [int(x) for x in inputs[3]]
    sums = sum(w * x for w, x in zip(matrix.weights[-1].tolist(), row, strict=True))
    assert found[3, -1] == sums + int(matrix.bias[-1])


def test_size_is_the_ideal_code_length():
    tables, base, below, codes = case(64, 16, 2, 1, 400, False, 3)
    bits = 0.0
    for t in range(400):
        counts = coder.frequencies(tables, base[t], codes[:t])
        bits += np.log2(counts.sum() / counts[codes[t]])
    data = coder.encode(tables, base, below, codes, n_frames=400, optional=False)
    assert bits / 8 - 1 <= len(data) <= bits / 8 + 1


@needs_c
def test_the_c_coder_refuses_arrays_that_do_not_fit():
    tables, base, below, codes = case(64, 16, 2, 1, 5, False, 3)
    bad = codes.copy()
    bad[2] = 64
    for arguments in ((base[:4], below, codes), (base, below[:4], codes), (base, below, bad)):
        with pytest.raises(ValueError, match=r"wrong size|out of range"):
            coder.encode(tables, *arguments, n_frames=5, optional=False)
    with pytest.raises(ValueError, match="wrong size"):
        coder.encode(tables, base, below, codes, n_frames=3, optional=False)


@pytest.mark.parametrize("crc8", [coder.crc8, reference.crc8])
def test_crc8_check_value(crc8):
    assert crc8(b"123456789") == 0xF4  # the published check value of CRC-8/SMBUS
    assert crc8(b"") == 0
