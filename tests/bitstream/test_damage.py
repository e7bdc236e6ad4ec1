import io
import os
import struct
import tracemalloc
import zlib
from contextlib import suppress
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rvq.bitstream.codes import Codes
from rvq.bitstream.container import Reader, Writer, dumps, loads, trim
from rvq.bitstream.header import HEADER_SIZE, Header
from rvq.errors import FormatError, InputError


def make(channels=1, n_frames=40, n_codebooks=2, bits=3, seed=0):
    indices = np.random.default_rng(seed).integers(0, 1 << bits, (channels, n_frames, n_codebooks))
    return Codes(indices, 1 << bits, 8000, n_frames * 100, "0123456789abcdef")


def write(codes, pieces=(), frames_per_block=75):
    file = BytesIO()
    writer = Writer(
        file,
        channels=codes.indices.shape[0],
        n_codebooks=codes.n_codebooks,
        codebook_size=codes.codebook_size,
        sample_rate=codes.sample_rate,
        model_hash=codes.model_hash,
        frames_per_block=frames_per_block,
    )
    for piece in np.split(codes.indices, sorted(pieces), axis=1):
        writer.write(piece)
    writer.close(codes.n_samples)
    return file.getvalue()


def read(data, start_frame=0):
    return list(Reader(BytesIO(data)).blocks(start_frame))


@settings(max_examples=80, deadline=None)
@given(
    channels=st.integers(1, 8),
    n_frames=st.integers(0, 400),
    n_codebooks=st.integers(1, 32),
    bits=st.integers(1, 16),
    frames_per_block=st.integers(1, 100),
    data=st.data(),
)
def test_any_shape_survives_writing_seeking_and_cutting(
    channels, n_frames, n_codebooks, bits, frames_per_block, data
):
    codes = make(channels, n_frames, n_codebooks, bits)
    pieces = data.draw(st.lists(st.integers(0, n_frames), max_size=5))
    encoded = write(codes, pieces, frames_per_block)
    assert encoded == write(codes, (), frames_per_block)
    np.testing.assert_array_equal(loads(encoded).indices, codes.indices)

    start = data.draw(st.integers(0, n_frames))
    first = start // frames_per_block * frames_per_block
    found = [block.indices for block in read(encoded, start)]
    expected = codes.indices[:, first:] if start < n_frames else codes.indices[:, :0]
    np.testing.assert_array_equal(np.concatenate([codes.indices[:, :0], *found], 1), expected)

    kept = data.draw(st.integers(1, n_codebooks))
    target = BytesIO()
    header = trim(BytesIO(encoded), target, kept)
    assert target.getvalue() == write(codes.prefix(kept), (), frames_per_block)
    assert header == Header.from_bytes(target.getvalue())


def test_every_bit_flip_damages_exactly_its_block():
    codes = make(channels=2, n_frames=19)
    data = write(codes, frames_per_block=8)
    size = Header.from_bytes(data).block_size(8)
    good = [block.indices for block in read(data)]
    for position in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[position // 8] ^= 1 << position % 8
        if position // 8 < HEADER_SIZE:
            with pytest.raises(FormatError):
                Reader(BytesIO(damaged))
            continue
        hit = (position // 8 - HEADER_SIZE) // size
        blocks = read(damaged)
        assert [block.intact for block in blocks] == [index != hit for index in range(3)]
        assert [block.n_frames for block in blocks] == [8, 8, 3]
        for block in blocks:
            if block.intact:
                np.testing.assert_array_equal(block.indices, good[block.index])


def test_every_truncation_keeps_the_blocks_before_it():
    codes = make(n_frames=19)
    data = write(codes, frames_per_block=8)
    header = Header.from_bytes(data)
    for length in range(len(data)):
        with pytest.raises(FormatError):
            loads(data[:length])
        if length < HEADER_SIZE:
            continue
        whole = (length - HEADER_SIZE) // header.block_size(8)
        blocks = read(data[:length])
        assert [block.intact for block in blocks] == [True] * whole + [False]
        assert [block.n_frames for block in blocks] == [8, 8, 3][: whole + 1]
        target = BytesIO()
        trim(BytesIO(data[:length]), target, 1)
        assert target.getvalue() == write(codes.prefix(1), (), 8)[: len(target.getvalue())]
        assert [block.intact for block in read(target.getvalue())] == [True] * whole + [False]


def test_cutting_keeps_damage_recognisable():
    codes = make(n_frames=24)
    data = bytearray(write(codes, frames_per_block=8))
    header = Header.from_bytes(bytes(data))
    data[header.block_offset(2) - 5] ^= 1  # in the layer that is cut away
    target = BytesIO()
    trim(BytesIO(data), target, 1)
    blocks = read(target.getvalue())
    assert [block.intact for block in blocks] == [True, False, True]
    np.testing.assert_array_equal(blocks[2].indices, codes.indices[:, 16:, :1])


def test_repeated_block_and_trailing_bytes_are_noticed():
    data = write(make(n_frames=16), frames_per_block=8)
    second = Header.from_bytes(data).block_offset(1)
    repeated = data[:second] + data[HEADER_SIZE:second]
    assert [block.intact for block in read(repeated)] == [True, False]
    with pytest.raises(FormatError, match="added to"):
        loads(data + b"\0")


@settings(max_examples=200, deadline=None)
@given(fields=st.binary(max_size=HEADER_SIZE - 9), payload=st.binary(max_size=300))
def test_random_bytes_raise_only_format_error(fields, payload):
    sealed = b"RVQ\x1a\x01" + fields.ljust(HEADER_SIZE - 9, b"\1")
    sealed += struct.pack("<I", zlib.crc32(sealed))
    for data in (payload, b"RVQ\x1a\x01" + fields + payload, sealed + payload):
        with suppress(FormatError):
            loads(data)
        with suppress(FormatError):
            read(data)
        with suppress(FormatError):
            trim(BytesIO(data), BytesIO(), 1)


@settings(max_examples=100, deadline=None)
@given(
    channels=st.integers(1, 255),
    n_codebooks=st.integers(1, 255),
    bits=st.integers(1, 16),
    n_frames=st.integers(1000, 2**32 - 1),
    payload=st.integers(0, 5000),
)
def test_declared_sizes_allocate_nothing(channels, n_codebooks, bits, n_frames, payload):
    header = Header(
        channels=channels,
        n_codebooks=n_codebooks,
        bits=bits,
        frames_per_block=2**23 // (channels * n_codebooks * 129) + 1,
        sample_rate=2**32 - 1,
        n_samples=n_frames,
        n_frames=n_frames,
        model=bytes(8),
    )
    data = header.to_bytes() + bytes(payload)
    tracemalloc.start()
    try:
        with pytest.raises(FormatError):
            loads(data)
        for _ in Reader(BytesIO(data)).blocks():
            pass
        assert tracemalloc.get_traced_memory()[1] < 4 * len(data) + 20_000
    finally:
        tracemalloc.stop()


def test_a_large_block_that_is_not_there_is_not_made_room_for(tmp_path):
    # An open file, unlike BytesIO, makes room for all that it is asked for.
    header = Header(
        channels=128,
        n_codebooks=128,
        bits=16,
        frames_per_block=500,
        sample_rate=8000,
        n_samples=0,
        n_frames=500,
        model=bytes(8),
    )
    assert header.block_size(500) > 16_000_000
    path = tmp_path / "short.rvq"
    path.write_bytes(header.to_bytes() + bytes(1000))
    tracemalloc.start()
    try:
        with path.open("rb") as file:
            assert [block.intact for block in Reader(file).blocks()] == [False]
        assert tracemalloc.get_traced_memory()[1] < 400_000
    finally:
        tracemalloc.stop()


class Pipe(io.RawIOBase):
    """A stream that cannot seek and hands over a few bytes at a time."""

    def __init__(self, data=b""):
        self.source = BytesIO(data)
        self.received = bytearray()

    def readable(self):
        return True

    def writable(self):
        return True

    def readinto(self, buffer):
        return self.source.readinto(memoryview(buffer)[:5])

    def write(self, data):
        self.received += data
        return len(data)


def test_pipes_are_read_forward_and_written_by_trim():
    codes = make(n_frames=30)
    data = write(codes, frames_per_block=8)
    reader = Reader(Pipe(data))
    blocks = list(reader.blocks(start_frame=9))
    assert [block.index for block in blocks] == [1, 2, 3]
    found = np.concatenate([block.indices for block in blocks], axis=1)
    np.testing.assert_array_equal(found, codes.indices[:, 8:])
    with pytest.raises(InputError, match="pipe"):
        reader.blocks()
    target = Pipe()
    trim(Pipe(data), target, 1)
    assert bytes(target.received) == write(codes.prefix(1), (), 8)
    with pytest.raises(InputError, match="pipe"):
        Writer(
            Pipe(), channels=1, n_codebooks=1, codebook_size=2, sample_rate=1, model_hash="0" * 16
        )


def test_file_inside_another_and_interleaved_iterators(tmp_path):
    codes = make(n_frames=30)
    path = tmp_path / "archive"
    path.write_bytes(os.urandom(7) + write(codes, frames_per_block=8) + b"more")
    with path.open("rb") as file:
        file.seek(7)
        reader = Reader(file)
        for a, b in zip(reader.blocks(), reader.blocks(8), strict=False):
            np.testing.assert_array_equal(a.indices, codes.indices[:, a.index * 8 :][:, :8])
            np.testing.assert_array_equal(b.indices, codes.indices[:, b.index * 8 :][:, :8])
        with pytest.raises(InputError, match="start_frame"):
            reader.blocks(31)


def test_memory_does_not_grow_with_length(tmp_path):
    def peak(n_blocks):
        codes = make(n_frames=75, n_codebooks=8, bits=10).indices
        tracemalloc.start()
        try:
            with (tmp_path / "long.rvq").open("w+b") as file:
                writer = Writer(
                    file,
                    channels=1,
                    n_codebooks=8,
                    codebook_size=1024,
                    sample_rate=8000,
                    model_hash="0" * 16,
                )
                for _ in range(n_blocks):
                    writer.write(codes)
                writer.close(0)
                file.seek(0)
                assert sum(block.n_frames for block in Reader(file).blocks()) == 75 * n_blocks
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(400) < 1.1 * peak(20) + 4096


def test_dumps_equals_writer():
    assert dumps(make()) == write(make())
