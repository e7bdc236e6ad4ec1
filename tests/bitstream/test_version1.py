"""Files of version 1 are read, cut and refused as those of the present version."""

import io
import struct
import zlib

import numpy as np
import pytest
from bitstream_samples import HASH, random_codes, write
from hypothesis import given, settings
from hypothesis import strategies as st

from rvq.bitstream.container import Reader, loads, trim
from rvq.errors import FormatError


def version1(codes, frames_per_block=75):
    """Written as docs/format.md says, bit by bit."""
    channels, n_frames, n_codebooks = codes.indices.shape
    bits = codes.codebook_size.bit_length() - 1
    head = struct.pack(
        "<4sBBBBHIQI8s",
        b"RVQ\x1a",
        1,
        channels,
        n_codebooks,
        bits,
        frames_per_block,
        codes.sample_rate,
        codes.n_samples,
        n_frames,
        bytes.fromhex(codes.model_hash),
    )
    data = head + struct.pack("<I", zlib.crc32(head))
    for index, start in enumerate(range(0, n_frames, frames_per_block)):
        rows = b""
        for codebook in range(n_codebooks):
            for channel in range(channels):
                row = codes.indices[channel, start : start + frames_per_block, codebook]
                text = "".join(f"{code:0{bits}b}" for code in row)
                text += "0" * (-len(text) % 8)
                rows += int(text, 2).to_bytes(len(text) // 8, "big")
        data += rows + struct.pack("<I", zlib.crc32(struct.pack("<I", index) + rows))
    return data


@settings(max_examples=30, deadline=None)
@given(
    channels=st.integers(1, 3),
    n_frames=st.integers(0, 200),
    n_codebooks=st.integers(1, 6),
    bits=st.integers(1, 16),
    data=st.data(),
)
def test_codes_come_back_and_cutting_makes_a_new_file(channels, n_frames, n_codebooks, bits, data):
    codes = random_codes(channels, n_frames, n_codebooks, bits)
    old = version1(codes)
    back = loads(old)
    np.testing.assert_array_equal(back.indices, codes.indices)
    assert (back.n_samples, back.sample_rate) == (codes.n_samples, codes.sample_rate)
    kept = data.draw(st.integers(1, n_codebooks))
    target = io.BytesIO()
    trim(io.BytesIO(old), target, kept)
    assert target.getvalue() == write(codes.prefix(kept), frames_per_block=75)


def test_the_example_of_the_first_version():
    data = bytes.fromhex(
        "5256511a 0101020a 4b00 401f0000 8002000000000000 03000000 0123456789abcdef 84a2fb4c"
        "0040200c ffc00014 ed1ff2a8"
    )
    assert loads(data).indices.tolist() == [[[1, 1023], [2, 0], [3, 5]]]
    assert data == version1(
        type(random_codes())(np.array([[[1, 1023], [2, 0], [3, 5]]]), 1024, 8000, 640, HASH)
    )


def test_damage_is_found_and_confined():
    codes = random_codes(1, 160, 2, 5)
    data = version1(codes)
    for position in range(0, 8 * len(data), 7):
        damaged = bytearray(data)
        damaged[position // 8] ^= 1 << position % 8
        with pytest.raises(FormatError):
            loads(bytes(damaged))
        if position // 8 >= 38:
            intact = [block.intact for block in Reader(io.BytesIO(damaged)).blocks()]
            assert intact.count(False) == 1
            assert len(intact) == 3
    for length in (10, 60, len(data) - 1):
        with pytest.raises(FormatError):
            loads(data[:length])
    with pytest.raises(FormatError, match="added to"):
        loads(data + b"\0")
