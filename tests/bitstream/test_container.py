import io
import os
import tracemalloc
import zlib
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from bitstream_samples import HASH, random_codes, read, tensors, write
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from rvq.bitstream.container import FRAMES_PER_BLOCK, Reader, Writer, dumps, loads, trim
from rvq.bitstream.entropy import EntropyModel
from rvq.bitstream.header import HEADER_SIZE, Header
from rvq.errors import FormatError, InputError, ModelError

MODEL = EntropyModel(save(tensors(5, 8)))


def trimmed(data, n_codebooks):
    target = io.BytesIO()
    trim(io.BytesIO(data), target, n_codebooks)
    return target.getvalue()


@settings(max_examples=80, deadline=None)
@given(
    channels=st.integers(1, 8),
    n_frames=st.integers(0, 300),
    n_codebooks=st.integers(1, 20),
    bits=st.integers(1, 16),
    frames_per_block=st.integers(1, 100),
    data=st.data(),
)
def test_any_shape_survives_writing_seeking_and_cutting(
    channels, n_frames, n_codebooks, bits, frames_per_block, data
):
    codes = random_codes(channels, n_frames, n_codebooks, bits)
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
    assert trimmed(encoded, kept) == write(codes.prefix(kept), (), frames_per_block)


@settings(max_examples=40, deadline=None)
@given(
    channels=st.integers(1, 3),
    n_frames=st.integers(0, 60),
    frames_per_block=st.integers(1, 30),
    variable=st.booleans(),
    seed=st.integers(0, 99),
    data=st.data(),
)
def test_entropy_coded_files_too(channels, n_frames, frames_per_block, variable, seed, data):
    codes = random_codes(channels, n_frames, 5, 3, seed, variable=variable)
    how = {"entropy": MODEL, "variable": variable, "metadata": {"title": "t"}}
    encoded = write(codes, (), frames_per_block, **how)
    np.testing.assert_array_equal(loads(encoded, entropy=MODEL).indices, codes.indices)
    kept = data.draw(st.integers(1, 5))
    shorter = write(codes.prefix(kept), (), frames_per_block, **how)
    assert trimmed(encoded, kept) == shorter
    start = data.draw(st.integers(0, n_frames))
    for block in read(shorter, start, MODEL):
        at = block.index * frames_per_block
        expected = codes.indices[:, at : at + block.n_frames, :kept]
        np.testing.assert_array_equal(block.indices, expected)
    split = data.draw(st.integers(0, n_frames))
    file = io.BytesIO(
        write(replace(codes, indices=codes.indices[:, :split]), (), frames_per_block, **how)
        if split * 8000 >= codes.n_samples
        else b""
    )
    if file.getvalue():
        writer = Writer.append(file, MODEL)
        writer.write(codes.indices[:, split:])
        writer.close(codes.n_samples)
        assert file.getvalue() == encoded


def test_what_the_header_holds_comes_back():
    codes = replace(random_codes(2, 100, 3), frame_rate=Fraction(24_000, 320))
    data = dumps(codes, metadata={"title": "Läuft", "artist": "♫"})
    reader = Reader(io.BytesIO(data))
    assert reader.header.metadata == {"title": "Läuft", "artist": "♫"}
    assert reader.header.kbps_per_codebook == pytest.approx(0.225)
    back = loads(data)
    assert (back.sample_rate, back.n_samples) == (codes.sample_rate, codes.n_samples)
    assert (back.frame_rate, back.model_hash) == (75, HASH)


def test_a_layer_is_never_longer_than_packed(small_model):
    codes = random_codes(2, 150, 3, 3)  # noise, which entropy coding would make longer
    assert len(dumps(codes, entropy=small_model)) <= len(dumps(codes))
    np.testing.assert_array_equal(
        loads(dumps(codes, entropy=small_model), entropy=small_model).indices, codes.indices
    )


def test_codes_need_the_right_entropy_model_and_cutting_none(small_model):
    data = dumps(random_codes(1, 100, 3), entropy=small_model)
    for wrong in (None, EntropyModel(save(tensors(seed=1)))):
        with pytest.raises(ModelError, match=small_model.tag.hex()):
            loads(data, entropy=wrong)
    assert trimmed(data, 2) == dumps(random_codes(1, 100, 3).prefix(2), entropy=small_model)
    with pytest.raises(InputError, match="3 codebooks of 8"):
        dumps(random_codes(1, 10, 4), entropy=small_model)


def respelled(data):
    """A file whose metadata are `{"title": "x"}`, with a space that this package leaves out."""
    old, new = b'{"title":"x"}', b'{"title": "x"}'
    fixed = data[: HEADER_SIZE - 6] + len(new).to_bytes(2, "little")
    fixed += zlib.crc32(fixed).to_bytes(4, "little")
    text = new + zlib.crc32(new).to_bytes(4, "little")
    return fixed + text + data[HEADER_SIZE + len(old) + 4 :]


def test_appending_refuses_what_it_cannot_go_on_with(small_model):
    data = bytearray(dumps(random_codes(1, 100, 3), entropy=small_model))
    other = EntropyModel(save(tensors(seed=1)))
    for n_frames in (100, FRAMES_PER_BLOCK):  # within a block, and at its end
        whole = dumps(random_codes(1, n_frames, 3), entropy=small_model)
        for wrong in (None, other):
            file = io.BytesIO(whole)
            with pytest.raises(ModelError):
                Writer.append(file, wrong)
            assert file.getvalue() == whole
    title = dumps(random_codes(1, 100, 3), metadata={"title": "x"})
    spelled = respelled(title)
    np.testing.assert_array_equal(loads(spelled).indices, loads(title).indices)
    assert Reader(io.BytesIO(spelled)).header.metadata == {"title": "x"}
    with pytest.raises(FormatError, match="spelled"):
        Writer.append(file := io.BytesIO(spelled))
    assert file.getvalue() == spelled
    data[80] ^= 1  # which reading puts right, but a new checksum would hide
    with pytest.raises(FormatError, match="damaged"):
        Writer.append(io.BytesIO(data), small_model)


def test_bad_codes_and_settings(small_model):
    codes = random_codes(1, 5, 3)
    with pytest.raises(InputError):
        trimmed(dumps(codes), 4)
    with pytest.raises(InputError):
        dumps(replace(codes, indices=np.full((1, 2, 1), 8)))
    with pytest.raises(InputError):
        dumps(replace(codes, codebook_size=1000))
    with pytest.raises(InputError, match="entropy model"):
        dumps(codes, variable=True)
    for gap in ([[[1, -1, 2]]], [[[-1, -1, -1]]]):
        with pytest.raises(InputError, match="first layer"):
            dumps(replace(codes, indices=np.array(gap)), entropy=small_model, variable=True)


class Pipe(io.RawIOBase):
    """A stream that cannot seek and hands over a few bytes at a time."""

    def __init__(self, data=b""):
        self.source = io.BytesIO(data)
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
    codes = random_codes(n_frames=30)
    data = write(codes, frames_per_block=8)
    reader = Reader(Pipe(data))
    blocks = list(reader.blocks(start_frame=9))
    assert [block.index for block in blocks] == [1, 2, 3]
    found = np.concatenate([block.indices for block in blocks], axis=1)
    np.testing.assert_array_equal(found, codes.indices[:, 8:])
    with pytest.raises(InputError, match="pipe"):
        reader.blocks()
    target = Pipe()
    assert not trim(Pipe(data), target, 1).damaged
    assert bytes(target.received) == write(codes.prefix(1), (), 8)
    assert trim(Pipe(data[:-9]), Pipe(), 1).weakened == 1
    with pytest.raises(InputError, match="pipe"):
        Writer(
            Pipe(), channels=1, n_codebooks=1, codebook_size=2, sample_rate=1, model_hash="0" * 16
        )


def test_file_inside_another_and_interleaved_iterators(tmp_path):
    codes = random_codes(n_frames=30)
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
        codes = random_codes(n_frames=FRAMES_PER_BLOCK, n_codebooks=8, bits=10).indices
        tracemalloc.start()
        try:
            with (tmp_path / "long.rvq").open("w+b") as file:
                writer = Writer(
                    file,
                    channels=1,
                    n_codebooks=8,
                    codebook_size=1024,
                    sample_rate=8000,
                    model_hash=HASH,
                )
                for _ in range(n_blocks):
                    writer.write(codes)
                writer.close(0)
                file.seek(0)
                assert sum(block.intact for block in Reader(file).blocks()) == n_blocks
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(2)
    assert peak(200) < peak(20) + 100_000


def test_container_overhead_is_small():
    codes = random_codes(1, 60 * 75, 2, 10)
    packed = Header.from_bytes(dumps(codes)).payload_size
    assert len(dumps(codes)) < 1.017 * packed
