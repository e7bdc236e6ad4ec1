import io
import struct
import tracemalloc
import zlib
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
from bitstream_samples import random_codes, read, tensors, write
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from rvq.bitstream import blocks
from rvq.bitstream.blocks import write_layers
from rvq.bitstream.container import Reader, dumps, loads, trim
from rvq.bitstream.entropy import EntropyModel
from rvq.bitstream.header import HEADER_SIZE, Header
from rvq.errors import FormatError, ModelError

MODEL = EntropyModel(save(tensors()))


def test_the_search_behind_damage_ends(monkeypatch):
    codes = random_codes(1, 3_000, 2, 8)
    data = bytearray(write(codes, (), 1_000))
    data[60:400] = bytes(340)
    indices = [block.indices for block in Reader(io.BytesIO(data)).blocks()]
    np.testing.assert_array_equal(indices[1], codes.indices[:, 1_000:2_000])
    examined = []
    monkeypatch.setattr(blocks, "_EXAMINED", 10_000)
    monkeypatch.setattr(blocks, "_EXAMINED_PER_BYTE", 0)
    block = blocks.Framing.block

    def counted(self, layer, sized, check):
        examined.append(len(sized))
        return block(self, layer, sized, check)

    monkeypatch.setattr(blocks.Framing, "block", counted)
    for _ in Reader(io.BytesIO(data)).payloads():
        pass
    assert sum(examined) < 10_000 + 2 * 2_000 * 3


def test_the_search_behind_damage_passes_every_place_once(monkeypatch):
    """Though every block has a first layer that cannot be put right and a last one that is."""
    codes = random_codes(1, 2_000, 2, 8)
    data = bytearray(write(codes, (), 10))
    at = HEADER_SIZE
    for stored in Reader(io.BytesIO(data)).payloads():
        data[at + 5 : at + 9] = bytes(byte ^ 255 for byte in data[at + 5 : at + 9])
        at += len(write_layers(stored))
    places = []
    begins = blocks._BlockReader._begins

    def counted(self, offset, least):
        places.append(offset)
        return begins(self, offset, least)

    monkeypatch.setattr(blocks._BlockReader, "_begins", counted)
    found = list(Reader(io.BytesIO(data)).payloads())
    assert [block.layers[0] for block in found] == [None] * 200
    assert all(block.layers[1] for block in found)
    assert len(places) < 2 * len(data)


def sample(variable=False, n_frames=29, channels=2):
    codes = random_codes(channels, n_frames, 3, 3, variable=variable)
    # Skewed, so that entropy coding is worth it and streams are not simply packed.
    data = write(codes, (), 8, entropy=MODEL, variable=variable, metadata={"title": "x"})
    return codes, data


def layer_spans(data):
    """Where every layer of every block stands, in order."""
    reader = Reader(io.BytesIO(data))
    at, spans = reader.header_size, []
    for stored in reader.payloads():
        for layer in range(len(stored.layers)):
            size = len(write_layers(replace(stored, layers=stored.layers[: layer + 1])))
            before = len(write_layers(replace(stored, layers=stored.layers[:layer])))
            spans.append((at + before, at + size, stored.index, layer))
        at += len(write_layers(stored))
    return spans


def assert_right(blocks, codes, frames_per_block=8):
    for block in blocks:
        if block.indices is not None:
            at = frames_per_block * block.index
            expected = codes.indices[:, at : at + block.n_frames, : block.indices.shape[2]]
            np.testing.assert_array_equal(block.indices, expected)


@pytest.mark.parametrize("variable", [False, True])
def test_every_bit_flip_is_put_right_and_reported(variable):
    codes, data = sample(variable)
    for position in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[position // 8] ^= 1 << position % 8
        with pytest.raises((FormatError, ModelError)):
            loads(bytes(damaged), entropy=MODEL)
        reader = Reader(io.BytesIO(damaged), entropy=MODEL)
        blocks = list(reader.blocks())
        assert [block.intact for block in blocks] == [True] * 4
        assert reader.header.repaired or reader.whole is False
        assert_right(blocks, codes)
        target = io.BytesIO()
        assert trim(io.BytesIO(damaged), target, 2).damaged
        assert Reader(io.BytesIO(target.getvalue())).header.n_codebooks == 2


@pytest.mark.parametrize("variable", [False, True])
def test_two_damaged_bits_cost_layers_of_their_blocks_and_are_reported(variable):
    codes, data = sample(variable)
    spans = layer_spans(data)
    random = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(data)
        first = int(random.integers(8 * spans[0][0], 8 * (len(data) - 4)))
        positions = {first, first + int(random.integers(1, 40))}
        for position in positions:
            damaged[position // 8] ^= 1 << position % 8
        reader = Reader(io.BytesIO(damaged), entropy=MODEL)
        blocks = list(reader.blocks())
        assert reader.whole is False
        assert_right(blocks, codes)
        hit = {s[2] for s in spans for p in positions if s[0] <= p // 8 < s[1]}
        assert {block.index for block in blocks if not block.intact} <= hit


def test_every_truncation_keeps_what_is_before_it():
    codes, data = sample()
    for length in range(len(data)):
        with pytest.raises(FormatError):
            loads(data[:length], entropy=MODEL)
        if length < HEADER_SIZE:
            continue
        blocks = read(data[:length], entropy=MODEL)
        assert sum(block.lost_layers for block in blocks) or length >= len(data) - 4
        assert_right(blocks, codes)
        target = io.BytesIO()
        assert trim(io.BytesIO(data[:length]), target, 1).damaged
        intact = [block.intact for block in read(target.getvalue(), entropy=MODEL)]
        assert intact[: len(blocks) - 1] == [True] * (len(blocks) - 1)


@pytest.mark.parametrize("n_codebooks", [1, 3])
def test_a_hole_of_any_length_costs_the_blocks_in_it(n_codebooks):
    codes = random_codes(1, 300, n_codebooks, 3)
    data = write(codes, (), 10)
    spans = layer_spans(data)
    random = np.random.default_rng(0)
    for size in (1, 3, 10, 40, 100):
        for _ in range(10):
            start = int(random.integers(HEADER_SIZE, len(data) - size - 30))
            for damaged in (
                data[:start] + random.bytes(size) + data[start + size :],
                data[:start] + data[start + size :],
            ):
                touched = {s[2] for s in spans if s[0] < start + size and s[1] > start}
                blocks = read(damaged)
                assert len({block.index for block in blocks}) == 30
                for block in blocks:
                    if block.indices is not None and block.index not in touched:
                        at = 10 * block.index
                        np.testing.assert_array_equal(block.indices, codes.indices[:, at : at + 10])
                lost = {block.index for block in blocks if not block.intact}
                # One layer has one check: by chance it may need a block more to be sure.
                assert len(lost - touched) <= (2 if n_codebooks == 1 else 0)


def test_cutting_keeps_damage_recognisable():
    codes = random_codes(n_frames=24)
    data = bytearray(write(codes, frames_per_block=8))
    spans = {(index, layer): (a, b) for a, b, index, layer in layer_spans(bytes(data))}
    data[spans[1, 0][1] - 1] ^= 3
    data[spans[2, 1][1] - 1] ^= 3  # in the layer that is cut away
    target = io.BytesIO()
    trim(io.BytesIO(data), target, 1)
    reader = Reader(io.BytesIO(target.getvalue()))
    blocks = list(reader.blocks())
    assert [block.intact for block in blocks] == [True, False, True]
    assert reader.whole is False
    np.testing.assert_array_equal(blocks[2].indices, codes.indices[:, 16:, :1])


def test_exchanged_blocks_and_trailing_bytes_are_noticed():
    data = write(random_codes(n_frames=24), frames_per_block=8)
    spans = {(index, layer): (a, b) for a, b, index, layer in layer_spans(data)}
    first, second, third = (spans[index, 0][0] for index in range(3))
    exchanged = data[:first] + data[second:third] + data[first:second] + data[third:]
    with pytest.raises(FormatError):
        loads(exchanged)
    assert sum(block.intact for block in read(exchanged)) >= 1
    with pytest.raises(FormatError, match="added to"):
        loads(data + b"\0")


@settings(max_examples=300, deadline=None)
@given(
    version=st.sampled_from([1, 2, 3]),
    fields=st.binary(max_size=HEADER_SIZE - 9),
    payload=st.binary(max_size=300),
)
def test_random_bytes_raise_only_format_error(version, fields, payload):
    size = (HEADER_SIZE if version > 1 else 38) - 9
    sealed = b"RVQ\x1a" + bytes([version]) + fields[:size].ljust(size, b"\1")
    sealed += struct.pack("<I", zlib.crc32(sealed))
    for data in (payload, b"RVQ\x1a\x03" + fields + payload, sealed + payload):
        for attempt in (
            lambda data: loads(data, entropy=MODEL),
            lambda data: read(data, entropy=MODEL),
            lambda data: trim(io.BytesIO(data), io.BytesIO(), 1),
        ):
            with suppress(FormatError, ModelError):
                attempt(data)


@settings(max_examples=30, deadline=None)
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
    data = header.to_bytes() + b"\xff" * payload
    tracemalloc.start()
    try:
        with pytest.raises(FormatError):
            loads(data)
        for _ in Reader(io.BytesIO(data)).blocks():
            pass
        assert tracemalloc.get_traced_memory()[1] < 10 * len(data) + 100_000
    finally:
        tracemalloc.stop()


def test_a_large_layer_that_is_not_there_is_not_made_room_for(tmp_path):
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
    path = tmp_path / "short.rvq"
    path.write_bytes(header.to_bytes() + b"\x80\xf0\x07\x00" + bytes(1000))  # 128,000 bytes
    tracemalloc.start()
    try:
        with path.open("rb") as file:
            assert [block.intact for block in Reader(file).blocks()] == [False]
        assert tracemalloc.get_traced_memory()[1] < 400_000
    finally:
        tracemalloc.stop()


def test_a_small_file_that_claims_many_entropy_coded_frames_takes_no_memory():
    header = Header(
        channels=1,
        n_codebooks=1,
        bits=3,
        frames_per_block=2**15,
        sample_rate=8000,
        n_samples=0,
        n_frames=2**32 - 1,
        model=bytes(8),
        entropy=MODEL.tag,
    )
    data = header.to_bytes() + b"\1\0\1" * 100
    tracemalloc.start()
    try:
        for _ in Reader(io.BytesIO(data), entropy=MODEL).blocks():
            pass
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


def test_packed_files_are_still_checked_without_any_model():
    data = bytearray(dumps(random_codes(1, 100, 2, 10)))
    data[100] ^= 3
    with pytest.raises(FormatError, match="block 0"):
        loads(bytes(data))
