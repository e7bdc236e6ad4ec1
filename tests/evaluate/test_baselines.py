import pickle
import shutil

import numpy as np
import pytest
import soundfile

from rvq.errors import FormatError, InputError, RvqError
from rvq.evaluate.baselines import Command, RvqCodec, VariableRvqCodec
from rvq.evaluate.metrics import align, score
from rvq.evaluate.ogg import packet_sizes
from rvq.evaluate.peers import PEERS, Aac, Codec2, Mp3, Opus, Vorbis, is_installed

needs_lame = pytest.mark.skipif(not shutil.which("lame"), reason="lame is not installed")
needs_opus = pytest.mark.skipif(
    not (shutil.which("opusenc") and shutil.which("opusdec")), reason="no opus-tools"
)


def pesq_after(system, speech):
    result = system.roundtrip(speech[None], 16000)
    assert result.audio.dtype == np.float32
    aligned = align(speech[None], result.audio, 16000)[0]
    return score(speech, aligned, 16000).pesq_wb, result


@needs_lame
def test_mp3_has_its_bitrate_and_improves_with_it(speech):
    qualities = []
    for kbps in (16, 32, 64):
        quality, result = pesq_after(Mp3(kbps), speech)
        # The tag frame and the encoder's padding come on top.
        assert kbps <= result.n_bytes / 125 / (len(speech) / 16000) < kbps * 1.15
        assert result.payload_bytes is None
        qualities.append(quality)
    assert qualities == sorted(qualities)
    assert qualities[-1] > 4


@needs_opus
def test_opus_has_its_bitrate_and_improves_with_it(speech):
    qualities = []
    for kbps in (6, 12, 24):
        quality, result = pesq_after(Opus(kbps), speech)
        payload_kbps = result.payload_bytes / 125 / (len(speech) / 16000)
        assert 0.6 * kbps < payload_kbps < 1.4 * kbps
        assert 100 < result.n_bytes - result.payload_bytes < 1500
        qualities.append(quality)
    assert qualities == sorted(qualities)
    assert qualities[-1] > 4


@needs_lame
@needs_opus
@pytest.mark.parametrize("system", [Mp3(64), Opus(64)])
def test_stereo_at_another_rate_keeps_its_channels(speech, system):
    audio = np.stack([speech, np.zeros_like(speech)])
    result = system.roundtrip(audio, 22050)
    decoded = align(audio, result.audio, 22050)
    assert np.mean(decoded[1] ** 2) < 0.01 * np.mean(decoded[0] ** 2)
    assert np.corrcoef(decoded[0], speech)[0, 1] > 0.95


@pytest.mark.parametrize(
    ("name", "rates"), [("vorbis", (24, 48)), ("aac", (16, 48)), ("codec2", (1.2, 3.2))]
)
def test_other_peers_have_their_bitrate_and_improve_with_it(speech, name, rates):
    if not is_installed(name):
        pytest.skip(f"{name} is not installed")
    qualities = []
    for kbps in rates:
        quality, result = pesq_after(PEERS[name](kbps), speech)
        payload_kbps = result.payload_bytes / 125 / (len(speech) / 16000)
        assert 0.7 * kbps < payload_kbps < 1.3 * kbps
        assert result.payload_bytes <= result.n_bytes
        qualities.append(quality)
    assert qualities == sorted(qualities)


@needs_opus
def test_versions_name_the_library():
    assert "libopus" in Opus(6).version


@needs_lame
def test_version_of_lame():
    assert Mp3(32).version.startswith("LAME")


@pytest.mark.parametrize("system", [Mp3(32), Opus(6)])
def test_a_missing_program_is_one_clear_sentence(speech, system, monkeypatch):
    from rvq.evaluate.programs import program_version

    program_version.cache_clear()
    monkeypatch.setenv("PATH", "")
    with pytest.raises(RvqError, match=r"was not found; apt install (lame|opus-tools)"):
        system.roundtrip(speech[None], 16000)
    with pytest.raises(RvqError, match="was not found"):
        _ = system.version


def test_a_command_is_given_two_wav_files(speech):
    result = Command("copy", "cp {input} {output}", kbps=256).roundtrip(speech[None], 16000)
    np.testing.assert_allclose(result.audio[0], speech, atol=1 / 32000)
    assert result.n_bytes == pytest.approx(2 * len(speech))


def test_a_failing_command_says_why(speech):
    fails = Command("fails", "ls {input} {output}", kbps=1)
    with pytest.raises(RvqError, match=r"ls failed with status \d.*No such file"):
        fails.roundtrip(speech[None], 16000)
    with pytest.raises(RvqError, match="no readable wav"):
        Command("lazy", "touch {input} {output}", kbps=1).roundtrip(speech[None], 16000)
    with pytest.raises(RvqError, match="'no-such-codec' was not found"):
        _ = Command("absent", "no-such-codec {input} {output}", kbps=1).version


def test_own_model_has_its_bitrate(speech):
    system = pickle.loads(pickle.dumps(RvqCodec("speech_24khz", 3, family="ours")))
    assert system.name == "ours 3"
    assert len(system.version.split()[0]) == 64
    result = system.roundtrip(speech[None], 16000)
    assert result.audio.shape == (1, len(speech))
    seconds = len(speech) / 16000
    # Entropy coding saves some; the frames that complete the end count too.
    assert 1.5 < result.payload_bytes / 125 / seconds < 3 * (1 + 4 / (75 * seconds))
    # Header and checksums are a small part of the file.
    assert result.payload_bytes < result.n_bytes < 1.2 * result.payload_bytes
    # Every frame chose a codeword of each codebook.
    counts = np.array(result.code_counts)
    assert counts.shape == (4, 1024)
    assert len(set(counts.sum(axis=1))) == 1
    assert counts.sum(axis=1)[0] >= 75 * seconds


def test_own_model_at_a_variable_bitrate(speech):
    low, high = (VariableRvqCodec("speech_24khz", kbps) for kbps in (1.5, 6))
    assert (low.name, low.version) == ("rvq variable 1.5", high.version)
    sizes = [system.roundtrip(speech[None], 16000).payload_bytes for system in (low, high)]
    kbps = [size / 125 / (len(speech) / 16000) for size in sizes]
    assert 1 < kbps[0] < 2.5
    assert 4.5 < kbps[1] < 7


def test_settings_are_checked():
    with pytest.raises(InputError, match="33"):
        Mp3(33)
    with pytest.raises(InputError, match="3"):
        Opus(3)
    with pytest.raises(InputError, match="700"):
        Codec2(700)
    with pytest.raises(InputError, match="4"):
        Vorbis(4)
    with pytest.raises(InputError, match="4"):
        Aac(4)
    with pytest.raises(InputError, match="whole"):
        PEERS["mp3"](16.5)
    with pytest.raises(InputError, match="must contain"):
        Command("x", "cp {input}", kbps=1)
    with pytest.raises(InputError, match="mend its quotes"):
        Command("x", "cp '{input} {output}", kbps=1)
    with pytest.raises(InputError, match="above 0"):
        Command("x", "cp {input} {output}", kbps=0)
    with pytest.raises(InputError, match="channels"):
        Mp3(32).roundtrip(np.zeros((3, 1000), np.float32), 16000)


def test_packets_are_found_across_segments_and_pages():
    # A page per list; 255 means that the packet goes on in the next segment.
    pages = [[19], [30], [10, 255, 255], [0, 255, 7]]
    data = b"".join(
        b"OggS" + bytes(22) + bytes([len(lacing)]) + bytes(lacing) + bytes(sum(lacing))
        for lacing in pages
    )
    assert packet_sizes(data) == [19, 30, 10, 510, 262]
    for cut in (1, 27, len(data) - 1, len(data) - 262):
        with pytest.raises(FormatError, match="damaged"):
            packet_sizes(data[:cut])
    with pytest.raises(FormatError, match="damaged"):
        packet_sizes(b"RIFF" + data)


def test_pages_of_a_real_file_add_up(tmp_path, speech):
    path = tmp_path / "x.ogg"
    soundfile.write(path, speech, 16000)
    sizes = packet_sizes(path.read_bytes())
    assert sizes[0] == 30  # Vorbis's identification header
    assert 0.9 * path.stat().st_size < sum(sizes) < path.stat().st_size
