"""Files of version 2, in which checks are a byte, are read and cut as those of version 3."""

import io
import zlib
from pathlib import Path

import numpy as np
import pytest
from bitstream_samples import random_codes, tensors, write
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from rvq.bitstream.container import Reader, Writer, loads, trim
from rvq.bitstream.entropy import EntropyModel
from rvq.bitstream.header import HEADER_SIZE
from rvq.errors import FormatError

MODEL = EntropyModel(save(tensors()))
CORPUS = Path(__file__).parents[2] / "fuzz" / "corpus"


def crc8(data):
    check = 0
    for byte in data:
        check ^= byte
        for _ in range(8):
            check = check << 1 ^ (0x107 if check & 128 else 0)
    return check


def version2(data):
    """A file of version 3 without metadata, written as docs/format.md says that version 2 was."""
    head = data[:4] + b"\2" + data[5 : HEADER_SIZE - 4]
    blocks = b""
    for stored in Reader(io.BytesIO(data)).payloads():
        for layer, payload in enumerate(stored.layers):
            size = len(payload)
            digits = bytes([size]) if size < 128 else bytes([size & 127 | 128, size >> 7])
            check = crc8(digits + payload) ^ (stored.index + 37 * layer) & 255
            blocks += digits + bytes([check]) + payload
    trailer = zlib.crc32(blocks).to_bytes(4, "little")
    return head + zlib.crc32(head).to_bytes(4, "little") + blocks + trailer


@settings(max_examples=25, deadline=None)
@given(
    channels=st.integers(1, 2),
    n_frames=st.integers(0, 200),
    variable=st.booleans(),
    kept=st.integers(1, 3),
)
def test_codes_come_back_and_cutting_makes_a_new_file(channels, n_frames, variable, kept):
    codes = random_codes(channels, n_frames, 3, 3, variable=variable)
    how = {"entropy": MODEL, "variable": variable}
    old = version2(write(codes, **how))
    np.testing.assert_array_equal(loads(old, entropy=MODEL).indices, codes.indices)
    target = io.BytesIO()
    trim(io.BytesIO(old), target, kept)
    assert target.getvalue() == write(codes.prefix(kept), **how)


@pytest.mark.parametrize("name", ["coded", "packed", "variable"])
def test_a_file_that_was_written_then(name):
    data = (CORPUS / "container" / f"{name}2.rvq").read_bytes()
    model = EntropyModel((CORPUS / "entropy" / "small.safetensors").read_bytes())
    assert data[4] == 2
    codes = loads(data, entropy=model)
    assert codes.variable == (name == "variable")
    target = io.BytesIO()
    trim(io.BytesIO(data), target, codes.n_codebooks)
    again = loads(target.getvalue(), entropy=model)
    np.testing.assert_array_equal(again.indices, codes.indices)


def test_a_damaged_bit_costs_a_layer_of_a_block_at_most_and_is_reported():
    codes = random_codes(1, 29, 3, 3)
    data = version2(write(codes, (), 8, entropy=MODEL))
    for position in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[position // 8] ^= 1 << position % 8
        reader = Reader(io.BytesIO(damaged), entropy=MODEL)
        blocks = list(reader.blocks())
        assert sum(not block.intact for block in blocks) == (
            HEADER_SIZE <= position // 8 < len(data) - 4
        )
        assert reader.header.repaired or reader.whole is False
        for block in blocks:
            if block.indices is not None:
                right = codes.indices[:, 8 * block.index :][:, : block.n_frames]
                np.testing.assert_array_equal(block.indices, right[..., : block.indices.shape[2]])


def test_nothing_is_appended():
    data = version2(write(random_codes()))
    with pytest.raises(FormatError, match="version 3 can be appended to"):
        Writer.append(io.BytesIO(data))
