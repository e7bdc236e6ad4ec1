import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from rvq.bitstream.packing import pack, packed_size, unpack


def pack_by_text(row: list[int], bits: int) -> bytes:
    """The definition: write the integers down in binary, one after another, and cut into bytes."""
    text = "".join(f"{value:0{bits}b}" for value in row)
    text += "0" * (-len(text) % 8)
    return bytes(int(text[i : i + 8], 2) for i in range(0, len(text), 8))


@settings(max_examples=200, deadline=None)
@given(data=st.data(), bits=st.integers(1, 16))
def test_equals_the_definition_and_comes_back(data, bits):
    row = data.draw(st.lists(st.integers(0, 2**bits - 1), max_size=70))
    packed = pack(np.array(row, np.int64), bits)
    assert packed.tobytes() == pack_by_text(row, bits)
    assert len(packed) == packed_size(len(row), bits)
    assert unpack(packed, len(row), bits).tolist() == row


def test_every_row_starts_at_a_byte():
    values = np.random.default_rng(0).integers(0, 2**11, (3, 2, 5))
    packed = pack(values, 11)
    assert packed.shape == (3, 2, 7)
    for layer in range(3):
        for channel in range(2):
            expected = pack_by_text(values[layer, channel].tolist(), 11)
            assert packed[layer, channel].tobytes() == expected
    np.testing.assert_array_equal(unpack(packed, 5, 11), values)


def test_padding_bits_are_ignored():
    packed = pack(np.array([5, 6, 7]), 3)
    packed[-1] |= 0b0111_1111
    assert unpack(packed, 3, 3).tolist() == [5, 6, 7]
