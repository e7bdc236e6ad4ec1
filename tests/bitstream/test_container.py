from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rvq.bitstream.codes import Codes
from rvq.bitstream.container import Reader, Writer, dumps, loads, trim
from rvq.bitstream.header import HEADER_SIZE, Header
from rvq.errors import FormatError, InputError

HASH = "00112233445566778899"


def make(channels=1, n_frames=160, n_codebooks=3, bits=10, seed=0):
    indices = np.random.default_rng(seed).integers(0, 1 << bits, (channels, n_frames, n_codebooks))
    return Codes(indices, 1 << bits, 16_000, n_frames * 200, HASH)


shapes = {
    "channels": st.integers(1, 4),
    "n_frames": st.integers(0, 200),
    "n_codebooks": st.integers(1, 20),
    "bits": st.integers(1, 16),
}


@settings(max_examples=60, deadline=None)
@given(**shapes)
def test_round_trip(channels, n_frames, n_codebooks, bits):
    codes = make(channels, n_frames, n_codebooks, bits)
    data = dumps(codes)
    back = loads(data)
    np.testing.assert_array_equal(back.indices, codes.indices)
    assert (back.sample_rate, back.n_samples) == (codes.sample_rate, codes.n_samples)
    assert len(data) == Header.from_bytes(data).file_size


@settings(max_examples=30, deadline=None)
@given(cut=st.integers(1, 5), **(shapes | {"n_codebooks": st.just(5)}))
def test_trim_equals_encoding_at_that_bitrate(cut, channels, n_frames, n_codebooks, bits):
    codes = make(channels, n_frames, n_codebooks, bits)
    target = BytesIO()
    trim(BytesIO(dumps(codes)), target, cut)
    assert target.getvalue() == dumps(codes.prefix(cut))


@given(pieces=st.lists(st.integers(0, 90), max_size=6))
@settings(max_examples=30, deadline=None)
def test_any_chunking_gives_the_same_bytes(pieces):
    codes = make(n_frames=sum(pieces))
    file = BytesIO()
    writer = Writer(
        file,
        channels=1,
        n_codebooks=3,
        codebook_size=1024,
        sample_rate=16_000,
        model_hash=HASH,
    )
    start = 0
    for n in pieces:
        writer.write(codes.indices[:, start : start + n])
        start += n
    writer.close(codes.n_samples)
    assert file.getvalue() == dumps(codes)


def test_every_bit_flip_is_found_and_confined():
    codes = make(n_frames=160, n_codebooks=1, bits=4)
    data = dumps(codes)
    good = [b.indices for b in Reader(BytesIO(data)).blocks()]
    block = Header.from_bytes(data).block_size(75)
    for position in range(len(data)):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[position] ^= 1 << bit
            with pytest.raises(FormatError):
                loads(bytes(damaged))
            if position < HEADER_SIZE:
                continue
            hit = (position - HEADER_SIZE) // block
            for found in Reader(BytesIO(bytes(damaged))).blocks():
                if found.index == hit:
                    assert found.indices is None
                else:
                    np.testing.assert_array_equal(found.indices, good[found.index])


def test_truncation_never_raises_anything_but_format_error():
    data = dumps(make())
    for length in range(len(data)):
        with pytest.raises(FormatError):
            loads(data[:length])
        if length >= HEADER_SIZE:
            blocks = list(Reader(BytesIO(data[:length])).blocks())
            assert blocks[-1].indices is None


@given(st.binary(max_size=300))
def test_random_bytes(data):
    with pytest.raises(FormatError):
        loads(data)
    with pytest.raises(FormatError):
        loads(b"RVQ\x1a" + data)


def test_huge_declared_sizes_allocate_nothing():
    header = replace(Header.from_bytes(dumps(make())), n_frames=2**32 - 1, channels=255)
    blocks = list(Reader(BytesIO(header.to_bytes())).blocks())
    assert len(blocks) == 1
    assert blocks[0].indices is None


def test_exchanged_blocks_are_noticed():
    data = dumps(make(n_frames=150))
    size = Header.from_bytes(data).block_size(75)
    first, second = data[HEADER_SIZE : HEADER_SIZE + size], data[HEADER_SIZE + size :]
    assert first != second
    with pytest.raises(FormatError):
        loads(data[:HEADER_SIZE] + second + first)


def test_newer_version_says_to_upgrade():
    data = bytearray(dumps(make()))
    data[4] = 9
    with pytest.raises(FormatError, match="upgrade"):
        loads(bytes(data))


def test_bad_arguments():
    with pytest.raises(InputError):
        trim(BytesIO(dumps(make())), BytesIO(), 4)
    with pytest.raises(InputError):
        dumps(replace(make(), indices=np.full((1, 2, 1), 1024)))
    with pytest.raises(InputError):
        dumps(replace(make(), codebook_size=1000))


def test_documented_example():
    codes = Codes(np.array([[[1, 1023], [2, 0], [3, 5]]]), 1024, 8000, 640, "0123456789abcdef")
    documented = (
        "5256511a 01 01 02 0a 4b00 401f0000 8002000000000000 03000000 0123456789abcdef"
    ).replace(" ", "")
    data = dumps(codes)
    assert data[: HEADER_SIZE - 4].hex() == documented
    # 0000000001 0000000010 0000000011 00 | 1111111111 0000000000 0000000101 00
    assert data[HEADER_SIZE:-4].hex() == "0040200c" + "ffc00014"
