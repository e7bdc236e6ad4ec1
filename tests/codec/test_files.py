import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import soundfile

from rvq.bitstream.blocks import write_layers
from rvq.bitstream.container import Reader, dumps
from rvq.codec.codec import Codec
from rvq.codec.decoding import FileDecoder
from rvq.codec.files import codec_for, decode_file, encode_file
from rvq.codec.models import shipped
from rvq.errors import FormatError, InputError, ModelError, RvqError


@pytest.fixture
def compressed(codec, speech_path, tmp_path):
    target = tmp_path / "speech.rvq"
    encode_file(codec, speech_path, target, bitrate=3)
    return target


@pytest.fixture
def several_blocks(codec, speech, tmp_path):
    source, target = tmp_path / "long.wav", tmp_path / "long.rvq"
    soundfile.write(source, np.tile(speech, 4)[:, : 12 * 24_000].T, 24_000)
    encode_file(codec, source, target, bitrate=1.5)
    return target


def test_a_file_holds_what_compress_gives(codec, speech, compressed):
    assert compressed.read_bytes() == codec.compress(speech, 24_000, 3)


@pytest.mark.parametrize("ending", [".wav", ".flac", ".ogg"])
def test_decodes_to_the_format_of_the_ending(codec, compressed, speech, ending):
    target = compressed.with_suffix(ending)
    assert decode_file(codec, compressed, target).lost == 0
    info = soundfile.info(target)
    assert (info.samplerate, info.channels, info.frames) == (24_000, 1, speech.shape[1])


def test_damage_is_confined_and_reported(codec, several_blocks):
    whole = several_blocks.with_suffix(".wav")
    decode_file(codec, several_blocks, whole)
    data = bytearray(several_blocks.read_bytes())
    with several_blocks.open("rb") as file:
        reader = Reader(file)
        header = reader.header
        first = next(reader.payloads())
    at = reader.header_size + len(write_layers(first)) + 8  # first layer of the second block
    target = several_blocks.with_name("damaged.wav")
    before = soundfile.read(whole)[0]
    for bits, lost in ((4, 0), (3, 1)):  # one bit is put right, two are not
        data[at] ^= bits
        several_blocks.write_bytes(data)
        damage = decode_file(codec, several_blocks, target)
        assert (damage.lost, damage.n_blocks, damage.noticed) == (lost, header.n_blocks, True)
        after = soundfile.read(target)[0]
        assert len(before) == len(after)
        if not lost:
            np.testing.assert_array_equal(before, after)
        data[at] ^= bits
    block = 24_000 * header.frames_per_block // 75
    np.testing.assert_allclose(before[: block - 960], after[: block - 960], atol=1e-4)
    assert np.abs(after[block + 640 : 2 * block - 960]).max() < 1e-3


def test_truncated_file_plays_as_far_as_it_goes(codec, several_blocks):
    data = several_blocks.read_bytes()
    several_blocks.write_bytes(data[: len(data) // 2])
    target = several_blocks.with_suffix(".wav")
    damage = decode_file(codec, several_blocks, target)
    assert 0 < damage.lost < damage.n_blocks
    assert soundfile.info(target).frames > 24_000


@pytest.mark.parametrize("folder", shipped(), ids=lambda folder: folder.name)
def test_a_file_is_played_by_the_model_that_made_it(speech, tmp_path, folder):
    path = tmp_path / "made.rvq"
    path.write_bytes(Codec.load(folder).compress(speech[:, :24_000], 24_000, bitrate=3))
    assert codec_for(path).folder == folder
    assert codec_for(path, folder.name).folder == folder


def test_a_file_of_an_unknown_model_names_it(codec, speech, tmp_path):
    codes = codec.encode(speech[:, :8000], 24_000, bitrate=1.5)
    path = tmp_path / "made.rvq"
    path.write_bytes(dumps(replace(codes, model_hash="12345678" * 8)))
    with pytest.raises(ModelError, match=r"1234567812345678.*speech_24khz.*give the folder"):
        codec_for(path)


@pytest.mark.parametrize("ending", ["wav", "w64", "rf64", "aiff", "au", "ogg", "mp3"])
def test_recordings_that_were_cut_off_are_told(codec, speech, tmp_path, ending):
    whole, cut = tmp_path / f"whole.{ending}", tmp_path / f"cut.{ending}"
    soundfile.write(whole, speech.T, 24_000)
    data = whole.read_bytes()
    cut.write_bytes(data[: 2 * len(data) // 3])
    assert encode_file(codec, whole, tmp_path / "whole.rvq", bitrate=0.75) is None
    target = tmp_path / "out.rvq"
    told = encode_file(codec, cut, target, bitrate=0.75)
    with target.open("rb") as file:
        assert told == f"cut off after {Reader(file).header.duration:.1f} s"


def test_a_length_that_its_writer_did_not_know_is_no_cut(codec, speech, tmp_path):
    source = tmp_path / "piped.wav"
    soundfile.write(source, speech.T, 24_000, subtype="PCM_16")
    data = bytearray(source.read_bytes())
    at = data.index(b"data") + 4
    for size in (0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000):
        data[at : at + 4] = size.to_bytes(4, "little")
        source.write_bytes(data)
        assert encode_file(codec, source, tmp_path / "x.rvq", bitrate=0.75) is None


def test_recording_that_breaks_off(codec, speech, tmp_path):
    source, target = tmp_path / "hole.flac", tmp_path / "out.rvq"
    soundfile.write(source, np.tile(speech, 5).T, 24_000)
    data = bytearray(source.read_bytes())
    middle = len(data) // 3
    data[middle : middle + 50] = bytes(50)
    source.write_bytes(data)
    assert encode_file(codec, source, target, bitrate=3).startswith("damaged after 5.")
    with target.open("rb") as file:
        assert 5 < Reader(file).header.duration < 6


def test_codes_that_the_model_cannot_have(codec, speech, tmp_path):
    codes = codec.encode(speech[:, :8000], 24_000, bitrate=1.5)
    path = tmp_path / "made.rvq"
    path.write_bytes(dumps(replace(codes, codebook_size=2048)))
    with pytest.raises(FormatError, match="2048 codewords, and its model has 18 of 1024"):
        decode_file(codec, path, tmp_path / "made.wav")
    assert not (tmp_path / "made.wav").exists()


def test_long_blocks_are_decoded_in_slices(codec, speech, tmp_path):
    """And frames beyond the last sample cost nothing, however many a header claims."""
    codes = codec.encode(np.tile(speech[:, :24_000], (60, 1)), 24_000, bitrate=0.75)
    path, target = tmp_path / "made.rvq", tmp_path / "made.wav"
    path.write_bytes(dumps(codes, frames_per_block=80))
    pieces = []
    with path.open("rb") as file:
        pieces += FileDecoder(codec, file).pieces()
    assert max(piece.shape[1] for piece in pieces) < 24_000 * 55 / 75
    np.testing.assert_array_equal(np.concatenate(pieces, axis=1), codec.decode(codes))
    path.write_bytes(dumps(replace(codes, n_samples=0)))
    assert decode_file(codec, path, target).noticed is False
    assert soundfile.info(target).frames == 0


@pytest.mark.parametrize("content", [b"", b"not audio at all" * 20, b"RIFF\0\0\0\0WAVE"])
def test_what_is_no_audio_leaves_nothing_behind(codec, tmp_path, content):
    source = tmp_path / "x.wav"
    source.write_bytes(content)
    with pytest.raises(InputError):
        encode_file(codec, source, tmp_path / "x.rvq")
    assert [p.name for p in tmp_path.iterdir()] == ["x.wav"]


def test_nan_is_refused(codec, tmp_path):
    source = tmp_path / "nan.wav"
    soundfile.write(source, np.full(4_000, np.nan, np.float32), 16_000, subtype="FLOAT")
    with pytest.raises(InputError, match="NaN"):
        encode_file(codec, source, tmp_path / "nan.rvq")
    assert [p.name for p in tmp_path.iterdir()] == ["nan.wav"]


def test_unwritable_targets(codec, compressed, speech_path, tmp_path):
    with pytest.raises(RvqError):
        encode_file(codec, speech_path, tmp_path / "no" / "such" / "folder.rvq")
    with pytest.raises(RvqError, match=r"\.wav"):
        decode_file(codec, compressed, tmp_path / "x.xyz")
    with pytest.raises(RvqError, match=r"\.raw"):
        decode_file(codec, compressed, tmp_path / "x.raw")


@pytest.mark.slow
def test_an_hour_in_constant_memory(speech, tmp_path):
    source = tmp_path / "hour.wav"
    with soundfile.SoundFile(source, "w", 24_000, 1) as file:
        for _ in range(3600 * 24_000 // speech.shape[1] + 1):
            file.write(speech.T)
    script = (
        "import resource, rvq; from pathlib import Path; from rvq.codec.files import *;"
        f"c = rvq.Codec.load(); p = Path({str(tmp_path)!r});"
        "encode_file(c, p / 'hour.wav', p / 'hour.rvq', bitrate=6);"
        "decode_file(c, p / 'hour.rvq', p / 'back.wav');"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(run.stdout) < 1_000_000  # kilobytes
    assert soundfile.info(tmp_path / "back.wav").frames == soundfile.info(source).frames
