import struct
import zlib
from dataclasses import replace
from fractions import Fraction
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rvq.bitstream.container import Writer, trim
from rvq.bitstream.header import HEADER_SIZE, MAGIC, Header, metadata_size
from rvq.errors import FormatError, InputError

HEADER = Header(
    channels=2,
    n_codebooks=8,
    bits=10,
    frames_per_block=75,
    sample_rate=24_000,
    n_samples=48_000,
    n_frames=150,
    model=bytes.fromhex("0123456789abcdef"),
    frame_rate=Fraction(24_000, 321),
    entropy=b"abcd",
    variable=True,
    metadata={"title": "Ein Märchen", "artist": "Anna"},
)
FIXED = HEADER.to_bytes()[:HEADER_SIZE]


def sealed(fields: bytes) -> bytes:
    """Header bytes with a right checksum, whatever they say."""
    return fields + struct.pack("<I", zlib.crc32(fields))


def writer(file=None, **changes):
    settings = {
        "channels": 1,
        "n_codebooks": 2,
        "codebook_size": 4,
        "sample_rate": 10,
        "model_hash": "0123456789ABCDEF0123",
    }
    return Writer(BytesIO() if file is None else file, **(settings | changes))


def test_round_trip_and_sizes():
    data = HEADER.to_bytes()
    assert len(data) == HEADER_SIZE + metadata_size(data) + 4
    read = Header.from_bytes(data)
    assert read == replace(HEADER, metadata={})
    assert read.with_metadata(data[HEADER_SIZE:-4], data[-4:]) == HEADER
    plain = replace(HEADER, entropy=None, variable=False, metadata={})
    assert len(plain.to_bytes()) == HEADER_SIZE
    assert Header.from_bytes(plain.to_bytes()) == plain
    assert plain.packed_layer(75) == plain.longest_layer(75) == 188  # 1500 bits are 187.5 bytes
    assert plain.n_blocks == 2
    assert plain.duration == 2.0
    assert plain.kbps_per_codebook == pytest.approx(0.7477, abs=1e-4)
    assert replace(plain, frame_rate=Fraction(0)).kbps_per_codebook is None


def test_any_damaged_bit_of_the_fixed_part_is_put_right():
    for position in range(8 * HEADER_SIZE):
        damaged = bytearray(FIXED)
        damaged[position // 8] ^= 1 << position % 8
        read = Header.from_bytes(bytes(damaged))
        assert read == replace(HEADER, metadata={})
        assert read.repaired
        assert metadata_size(bytes(damaged)) == len(HEADER.to_bytes()) - HEADER_SIZE - 4
    assert not Header.from_bytes(FIXED).repaired


@pytest.mark.parametrize("metadata", [{"year": 2024}, {1: "x"}, {"title": "\ud800"}])
def test_metadata_are_text(metadata):
    with pytest.raises(InputError, match="text by name"):
        replace(HEADER, metadata=metadata)


def test_damaged_metadata_are_left_out():
    text = HEADER.to_bytes()[HEADER_SIZE:-4]
    for bad in (b"", text[:-1] + b"?", b"[1]", b'{"a": 1}', b"\xff", b"[" * 50_000):
        crc = struct.pack("<I", zlib.crc32(bad) ^ (bad == text[:-1] + b"?"))
        read = replace(HEADER, metadata={}).with_metadata(bad, crc)
        assert not read.metadata
        assert read.repaired


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("channels", 0),
        ("channels", 256),
        ("n_codebooks", 0),
        ("bits", 0),
        ("bits", 17),
        ("frames_per_block", 0),
        ("sample_rate", 0),
        ("n_frames", 2**32),
        ("n_samples", -1),
        ("n_samples", 150 * 24_000 + 1),
        ("model", b"0123"),
        ("frame_rate", Fraction(1, 2**16)),
        ("entropy", b"0"),
        ("metadata", {"title": "x" * 2**16}),
    ],
)
def test_impossible_values_are_named(name, value):
    with pytest.raises(InputError, match=name):
        replace(HEADER, **{name: value})


def test_entropy_coding_bounds_what_else_may_be():
    with pytest.raises(InputError, match="entropy model"):
        replace(HEADER, entropy=None)
    with pytest.raises(InputError, match="65536"):
        replace(HEADER, bits=16)
    with pytest.raises(InputError, match="frames_per_block"):
        replace(HEADER, channels=255, frames_per_block=300)


def test_a_block_is_bounded():
    with pytest.raises(InputError, match="frames_per_block"):
        replace(HEADER, channels=255, n_codebooks=255, frames_per_block=200)
    replace(HEADER, channels=255, n_codebooks=255)  # the default length always fits


@settings(max_examples=300, deadline=None)
@given(st.binary(min_size=HEADER_SIZE - 9, max_size=HEADER_SIZE - 9))
def test_any_fields_with_a_right_checksum_are_possible_or_refused(fields):
    data = sealed(MAGIC + b"\x03" + fields)
    try:
        header = Header.from_bytes(data)
    except FormatError:
        return
    same = header.to_bytes()
    # Only an unused name of an entropy model and the size of absent metadata may differ.
    assert same[:41] == data[:41]
    assert header.entropy is None or same[41:45] == data[41:45]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not an .rvq file"),
        (b"OggS" + bytes(60), "not an .rvq file"),
        (FIXED[:20], "ends inside its header"),
        (MAGIC + b"\x04", "version 4.*upgrade"),
        (sealed(MAGIC + b"\x04" + FIXED[5:-4]), "version 4.*upgrade"),
        (sealed(MAGIC + b"\x00" + FIXED[5:-4]), "version 0"),
        (sealed(MAGIC + b"\x03\x04" + FIXED[6:-4]), "newer rvq"),
        (sealed(FIXED[:19] + b"\0\0" + FIXED[21:-4]), "frame rate"),
        (FIXED[:-2] + b"??", "damaged"),
        (sealed(FIXED[:6] + b"\x00" + FIXED[7:-4]), "channels must be"),
    ],
)
def test_refusals_say_why(data, message):
    with pytest.raises(FormatError, match=message):
        Header.from_bytes(data)


def test_an_unfinished_file_is_refused():
    file = BytesIO()
    unfinished = writer(file)
    unfinished.write(np.zeros((1, 200, 2), np.int64))
    with pytest.raises(FormatError, match="never finished"):
        Header.from_bytes(file.getvalue())
    unfinished.close(20)
    assert Header.from_bytes(file.getvalue()).model.hex() == "0123456789abcdef"
    assert file.tell() == len(file.getvalue())


@pytest.mark.parametrize(
    "indices",
    [
        np.zeros((1, 3), np.int64),
        np.zeros((2, 3, 2), np.int64),
        np.zeros((1, 3, 1), np.int64),
        np.zeros((1, 3, 2), np.float32),
        np.full((1, 3, 2), 4),
        np.full((1, 3, 2), -1),
    ],
)
def test_writer_refuses_codes_that_do_not_fit(indices):
    with pytest.raises(InputError, match="codes must be"):
        writer().write(indices)


def test_writer_refuses_bad_settings_and_use_after_close():
    for changes in ({"codebook_size": 1000}, {"codebook_size": 0}, {"codebook_size": 2**17}):
        with pytest.raises(InputError):
            writer(**changes)
    for model_hash in ("0123", "0123456789abcdeg", "01 23 45 67 89 ab"):
        with pytest.raises(InputError, match="model_hash"):
            writer(model_hash=model_hash)
    done = writer()
    with pytest.raises(InputError, match="n_samples"):
        done.close(1)  # no frames: no sound
    done.close(0)
    with pytest.raises(InputError, match="closed"):
        done.close(0)
    with pytest.raises(InputError, match="closed"):
        done.write(np.zeros((1, 1, 2), np.int64))


@pytest.mark.parametrize("n_codebooks", [0, 3])
def test_trim_refuses_what_is_not_there(n_codebooks):
    file = BytesIO()
    writer(file).close(0)
    target = BytesIO()
    file.seek(0)
    with pytest.raises(InputError, match=r"1\.\.2"):
        trim(file, target, n_codebooks)
    assert not target.getvalue()
