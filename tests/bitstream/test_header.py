import struct
import zlib
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rvq.bitstream.container import Writer, trim
from rvq.bitstream.header import HEADER_SIZE, Header
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
)


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
    assert Header.from_bytes(HEADER.to_bytes()) == HEADER
    assert len(HEADER.to_bytes()) == HEADER_SIZE
    assert HEADER.block_size(75) == 8 * 2 * 94 + 4  # 75 * 10 bits are 93.75 bytes
    assert HEADER.n_blocks == 2
    assert HEADER.duration == 2.0
    assert HEADER.bitrate == 75 * 8 * 10 * 2 / 1000
    assert replace(HEADER, n_samples=0).bitrate == 0
    assert replace(HEADER, n_frames=160).file_size == HEADER_SIZE + 2 * 1508 + 16 * 13 + 4


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
    ],
)
def test_impossible_values_are_named(name, value):
    with pytest.raises(InputError, match=name):
        replace(HEADER, **{name: value})


def test_a_block_is_bounded():
    with pytest.raises(InputError, match="frames_per_block"):
        replace(HEADER, channels=255, n_codebooks=255, frames_per_block=200)
    replace(HEADER, channels=255, n_codebooks=255)  # the default length always fits


@settings(max_examples=300, deadline=None)
@given(st.binary(min_size=HEADER_SIZE - 9, max_size=HEADER_SIZE - 9))
def test_any_fields_with_a_right_checksum_are_possible_or_refused(fields):
    try:
        header = Header.from_bytes(sealed(b"RVQ\x1a\x01" + fields))
    except FormatError:
        return
    assert header.to_bytes() == sealed(b"RVQ\x1a\x01" + fields)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not an .rvq file"),
        (b"OggS" + bytes(60), "not an .rvq file"),
        (HEADER.to_bytes()[:20], "ends inside its header"),
        (b"RVQ\x1a\x02", "version 2.*upgrade"),
        (sealed(b"RVQ\x1a\x00" + HEADER.to_bytes()[5:-4]), "version 0"),
        (HEADER.to_bytes()[:-1] + b"?", "damaged"),
        (HEADER.to_bytes().replace(b"\x00", b""), "ends inside|damaged"),
        (sealed(HEADER.to_bytes()[:5] + b"\x00" + HEADER.to_bytes()[6:-4]), "channels must be"),
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
