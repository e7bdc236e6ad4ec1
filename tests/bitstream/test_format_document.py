"""docs/format.md says what the code does: its example and its decoder are run here."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rvq.bitstream.codes import Codes
from rvq.bitstream.container import dumps
from rvq.bitstream.header import HEADER_SIZE, MAX_CODES_PER_BLOCK, VERSION

DOCUMENT = (Path(__file__).parents[2] / "docs" / "format.md").read_text(encoding="utf-8")


def fenced(language):
    (text,) = re.findall(rf"```{language}\n(.*?)```", DOCUMENT, re.DOTALL)
    return text


@pytest.fixture(scope="module")
def decode():
    namespace = {}
    exec(fenced("python"), namespace)
    return namespace["decode"]


def test_example(decode):
    listed = re.findall(r"^((?:[0-9a-f]{2} )*[0-9a-f]{2})  ", fenced("text"), re.MULTILINE)
    codes = Codes(np.array([[[1, 1023], [2, 0], [3, 5]]]), 1024, 8000, 640, "0123456789abcdef")
    assert len(listed) == 11
    assert bytes.fromhex(" ".join(listed)) == dumps(codes)
    assert decode(dumps(codes)) == codes.indices.tolist()


def test_numbers_in_the_text():
    rows = re.findall(r"^\| (\d+) \| (\d+) \|", DOCUMENT, re.MULTILINE)
    ends = [int(offset) + int(size) for offset, size in rows]
    assert [int(offset) for offset, _ in rows] == [0, *ends[:-1]]
    assert ends[-1] == HEADER_SIZE
    assert MAX_CODES_PER_BLOCK == 2**23
    assert f"version {VERSION}\n" in DOCUMENT


@settings(max_examples=40, deadline=None)
@given(
    channels=st.integers(1, 3),
    n_frames=st.integers(0, 160),
    n_codebooks=st.integers(1, 4),
    bits=st.integers(1, 16),
    seed=st.integers(0, 9),
)
def test_decoder(decode, channels, n_frames, n_codebooks, bits, seed):
    indices = np.random.default_rng(seed).integers(0, 2**bits, (channels, n_frames, n_codebooks))
    data = dumps(Codes(indices, 2**bits, 8000, n_frames, "0" * 16))
    assert decode(data) == indices.tolist()


def test_decoder_notices_damage(decode):
    data = bytearray(dumps(Codes(np.ones((1, 80, 2), np.int64), 4, 8000, 80, "0" * 16)))
    for position in range(len(data)):
        data[position] ^= 16
        with pytest.raises(ValueError, match="damaged"):
            decode(bytes(data))
        data[position] ^= 16
