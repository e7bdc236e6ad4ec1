"""docs/format.md says what the code does: its example and its decoder are run here."""

import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from bitstream_samples import random_codes, tensors
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from rvq.bitstream.codes import Codes
from rvq.bitstream.container import dumps
from rvq.bitstream.entropy import EntropyModel
from rvq.bitstream.header import HEADER_SIZE, MAX_CODES_PER_BLOCK, VERSION

DOCUMENT = (Path(__file__).parents[2] / "docs" / "format.md").read_text(encoding="utf-8")


def fenced(language):
    return re.findall(rf"```{language}\n(.*?)```", DOCUMENT, re.DOTALL)[-1]


@pytest.fixture(scope="module")
def decode():
    namespace = {}
    exec(fenced("python"), namespace)
    return namespace["decode"]


def test_example(decode):
    listed = re.findall(r"^((?:[0-9a-f]{2} )*[0-9a-f]{2})  ", fenced("text"), re.MULTILINE)
    indices = np.array([[[1, 1023], [2, 0], [3, 5]]])
    codes = Codes(indices, 1024, 8000, 640, "0123456789abcdef", Fraction(75))
    assert len(listed) == 18
    assert bytes.fromhex(" ".join(listed)) == dumps(codes)
    assert decode(dumps(codes)) == codes.indices.tolist()


def test_numbers_in_the_text():
    table = DOCUMENT[: DOCUMENT.index("## Blocks")]
    rows = re.findall(r"^\| (\d+) \| (\d+) \|", table, re.MULTILINE)
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
    codes = random_codes(channels, n_frames, n_codebooks, bits, seed)
    assert decode(dumps(codes, metadata={"title": "x"})) == codes.indices.tolist()


@settings(max_examples=15, deadline=None)
@given(
    channels=st.integers(1, 2),
    n_frames=st.integers(0, 90),
    seed=st.integers(0, 9),
    variable=st.booleans(),
)
def test_decoder_of_entropy_coded_files(decode, channels, n_frames, seed, variable):
    model = tensors(seed=seed)
    codes = random_codes(channels, n_frames, 3, 3, seed, variable=variable)
    data = dumps(codes, entropy=EntropyModel(save(model)), variable=variable)
    assert decode(data, model) == codes.indices.tolist()


def test_decoder_notices_damage(decode):
    data = bytearray(dumps(Codes(np.ones((1, 80, 2), np.int64), 4, 8000, 80, "0" * 16)))
    for position in range(len(data)):
        data[position] ^= 16
        with pytest.raises(ValueError, match="damaged"):
            decode(bytes(data))
        data[position] ^= 16
