import pytest
from hypothesis import given
from hypothesis import strategies as st

from rvq.bitstream.bitrates import codebooks_at
from rvq.errors import InputError


@given(
    rate=st.integers(8_000, 96_000),
    hop=st.integers(64, 2048),
    bits=st.integers(1, 16),
    available=st.integers(1, 32),
    data=st.data(),
)
def test_a_bitrate_as_it_is_printed_means_what_it_was_printed_for(rate, hop, bits, available, data):
    each = rate / hop * bits / 1000
    n = data.draw(st.integers(1, available))
    assert codebooks_at(float(f"{n * each:g}"), each, available) == n
    if n < available:
        assert codebooks_at((n + 0.99) * each, each, available) == n


@pytest.mark.parametrize("bitrate", [0, -1, 0.749, 12.01, float("inf"), float("nan")])
def test_bitrates_that_there_are_not(bitrate):
    with pytest.raises(InputError, match=r"0\.75 to 12 kbps"):
        codebooks_at(bitrate, 0.75, 16)
