import json
import subprocess
import sys
import zlib

import numpy as np
import pytest
from safetensors.numpy import load, save

from rvq import Codec
from rvq.codec.packets import NUMBERS, Packet
from rvq.errors import FormatError, InputError, ModelError


@pytest.fixture(scope="module")
def clip(speech):
    return speech[:, 10_000 : 10_000 + 100 * 320]


@pytest.fixture(scope="module")
def packets(codec, clip):
    encoder = codec.stream_encoder(channels=1, sample_rate=24_000, bitrate=6)
    return [*encoder.push(clip), *encoder.flush()]


@pytest.fixture
def decoder(codec):
    return codec.stream_decoder(channels=1, sample_rate=24_000)


def hear(decoder, packets):
    return np.concatenate([*map(decoder.push, packets), decoder.flush()], axis=1)[0]


def steepest(audio):
    return np.abs(np.diff(audio)).max()


@pytest.mark.parametrize("n_codebooks", [1, 5, 32])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("bits", [1, 4, 10, 16])
def test_packets_hold_their_codes(n_codebooks, channels, bits):
    random = np.random.default_rng(0)
    for n_frames in (1, 3):
        indices = random.integers(0, 2**bits, (channels, n_frames, n_codebooks))
        data = Packet(2047, indices).to_bytes(bits)
        assert len(data) == 2 + n_frames * -(-channels * n_codebooks * bits // 8)
        back = Packet.from_bytes(data, channels=channels, bits=bits)
        assert back.number == 2047
        np.testing.assert_array_equal(back.indices, indices)
        with pytest.raises(FormatError):
            Packet.from_bytes(data[:2], channels=channels, bits=bits)
    with pytest.raises(InputError):
        Packet(0, np.zeros((1, 1, 33), int)).to_bytes(bits)


@pytest.mark.parametrize("step", [1, 320, 333, 7_777])
@pytest.mark.parametrize("frames_per_packet", [1, 3])
def test_streams_sound_as_files_do(codec, clip, step, frames_per_packet):
    audio = clip if step > 1 else clip[:, :2_000]
    encoder = codec.stream_encoder(
        channels=1, sample_rate=24_000, bitrate=6, frames_per_packet=frames_per_packet
    )
    starts = range(0, audio.shape[1], step)
    sent = [p for i in starts for p in encoder.push(audio[:, i : i + step])] + encoder.flush()
    decoder = codec.stream_decoder(channels=1, sample_rate=24_000)
    expected = codec.decode(codec.encode(audio, 24_000, 6))
    np.testing.assert_array_equal(hear(decoder, sent)[: audio.shape[1]], expected[0])


def test_stereo_at_another_rate(codec, speech):
    audio = np.stack([speech[0, :16_000], speech[0, 16_000:32_000]])
    encoder = codec.stream_encoder(channels=2, sample_rate=16_000, bitrate=3)
    sent = [p for i in range(0, 16_000, 160) for p in encoder.push(audio[:, i : i + 160])]
    sent += encoder.flush()
    decoder = codec.stream_decoder(channels=2, sample_rate=16_000)
    heard = np.concatenate([*map(decoder.push, sent), decoder.flush()], axis=1)
    expected = codec.decode(codec.encode(audio, 16_000, 3))
    np.testing.assert_allclose(heard[:, :16_000], expected, atol=1e-5)


def test_sound_comes_as_late_as_the_runtime_says(codec, clip, decoder):
    encoder = codec.stream_encoder(channels=1, sample_rate=24_000)
    pushed = heard = 0
    for start in range(0, clip.shape[1], 320):
        pushed += 320
        for packet in encoder.push(clip[:, start : start + 320]):
            heard += decoder.push(packet).shape[1]
        # The oldest sample of the newest frame has waited for a hop and for the delay.
        assert pushed - heard + 320 <= codec.runtime.latency * 24_000 + 0.5 or heard == 0
    assert heard == clip.shape[1] - codec.runtime.delay * 320


def test_bitrate_changes_between_packets(codec, clip, decoder):
    encoder = codec.stream_encoder(channels=1, sample_rate=24_000, frames_per_packet=2)
    sent, expected = [], []
    for n, start in zip((16, 4, 9), (0, 9_600, 16_000), strict=True):
        encoder.n_codebooks = n
        before = len(sent)
        sent += encoder.push(clip[:, start : start + 6_400])
        expected += [n] * (len(sent) - before)
    sent += encoder.flush()
    sizes = [Packet.from_bytes(p, channels=1, bits=10).indices.shape[2] for p in sent]
    assert set(sizes) == {16, 4, 9}
    assert np.isfinite(hear(decoder, sent)).all()
    for n in (0, len(codec.runtime.codebooks) + 1, 2.5, "2"):
        with pytest.raises(InputError, match="n_codebooks must be an integer"):
            encoder.n_codebooks = n
    for n in (0, 1.5, "2"):
        with pytest.raises(InputError, match="frames_per_packet must be an integer"):
            codec.stream_encoder(channels=1, sample_rate=24_000, frames_per_packet=n)


@pytest.mark.parametrize(("beam_size", "cut"), [(1, 2), (8, 8)])
def test_a_packet_cut_to_fewer_layers_is_that_of_a_lower_bitrate(codec, clip, beam_size, cut):
    high, low = (
        codec.stream_encoder(channels=1, sample_rate=24_000, bitrate=n * 0.75, beam_size=beam_size)
        for n in (11, cut)
    )
    packets = [*high.push(clip), *high.flush()]
    lower = [*low.push(clip), *low.flush()]
    parsed = [Packet.from_bytes(p, channels=1, bits=10) for p in packets]
    assert [packet.prefix(cut).to_bytes(10) for packet in parsed] == lower


@pytest.mark.parametrize("seed", range(12))
def test_lost_packets_leave_no_gap_and_no_click(codec, packets, decoder, seed):
    whole = hear(codec.stream_decoder(channels=1, sample_rate=24_000), packets)
    random = np.random.default_rng(seed)
    kept = [p for i, p in enumerate(packets) if i in (0, 101) or random.random() > 0.3]
    heard = hear(decoder, kept)
    assert len(kept) < 85
    assert heard.shape == whole.shape
    assert steepest(heard) < 1.25 * steepest(whole)
    assert np.abs(heard).max() < 1.25 * np.abs(whole).max()


def test_a_long_gap_fades_to_silence_and_back(codec, packets, decoder):
    whole = hear(codec.stream_decoder(channels=1, sample_rate=24_000), packets)
    heard = hear(decoder, packets[:30] + packets[55:])
    hop, ahead = 320, codec.runtime.delay
    np.testing.assert_array_equal(heard[: (30 - ahead) * hop], whole[: (30 - ahead) * hop])
    assert np.abs(heard[30 * hop : 33 * hop]).max() > 0.01
    assert not heard[38 * hop : 55 * hop].any()
    assert steepest(heard) < 1.25 * steepest(whole)
    # What the blocks remember of the gap has passed after as many frames as they see.
    passed = 55 + 6 * 6 + 1
    np.testing.assert_allclose(heard[passed * hop :], whole[passed * hop :], atol=1e-6)


@pytest.mark.parametrize("wrong", [-1, 1.5, "a", None, 2048])
def test_only_so_many_frames_can_be_concealed(decoder, packets, wrong):
    decoder.push(packets[0])
    with pytest.raises(InputError, match=r"n_frames must be an integer in 0\.\.2047"):
        decoder.conceal(wrong)
    assert decoder.push(packets[0]).shape == (1, 0)
    assert (decoder.refused, decoder.concealed) == (1, 0)


def test_concealed_frames_that_come_late_are_left_out(codec, packets, decoder):
    parts = [decoder.push(p) for p in packets[:20]]
    parts += [decoder.conceal(), decoder.push(packets[20]), decoder.push(packets[19])]
    assert parts[-3].shape == (1, 320)
    assert not parts[-2].size
    assert not parts[-1].size
    parts += [decoder.push(p) for p in packets[21:]]
    assert sum(p.shape[1] for p in parts) == 100 * 320


def test_sound_resumes_at_once_after_a_long_outage(packets, decoder):
    def numbered(number, packet):
        return Packet(number, Packet.from_bytes(packet, channels=1, bits=10).indices).to_bytes(10)

    for packet in packets[:20]:
        decoder.push(packet)
    ahead = numbered(20 + 1_099, packets[20])
    assert decoder.push(ahead).shape[1] == (1_099 + 1) * 320
    assert not decoder.push(numbered(1_120 - 10, packets[20])).size
    heard = [decoder.push(numbered(1_100 + i, packets[i])) for i in range(20, 40)][1:]
    assert [samples.shape[1] for samples in heard] == [320] * 19
    assert np.abs(np.concatenate(heard, axis=1)).max() > 0.01


def test_damaged_packets_count_as_lost(codec, packets, decoder):
    random = np.random.default_rng(0)
    heard = []
    for i, packet in enumerate(packets[:60]):
        if i % 3 == 1:
            packet = packet[: random.integers(0, len(packet))]
        heard.append(decoder.push(packet))
    for _ in range(300):
        heard.append(decoder.push(random.bytes(random.integers(0, 40))))
    assert np.isfinite(np.concatenate(heard, axis=1)).all()


def test_numbers_start_again(codec, decoder):
    encoder = codec.stream_encoder(channels=1, sample_rate=24_000, bitrate=0.75)
    n = NUMBERS + 10
    sent = encoder.push(np.zeros((1, n * 320), np.float32))
    del sent[NUMBERS - 1 : NUMBERS + 2]
    assert sum(decoder.push(p).shape[1] for p in sent) == (n - 2) * 320


def test_a_stream_goes_on_where_it_was_saved(codec, clip, packets):
    sent, heard = [], []
    encoder = codec.stream_encoder(channels=1, sample_rate=24_000, bitrate=6)
    decoder = codec.stream_decoder(channels=1, sample_rate=24_000)
    for start in range(0, clip.shape[1], 5_000):
        new = encoder.push(clip[:, start : start + 5_000])
        sent += new
        heard += [decoder.push(p) for p in new]
        saved = encoder.save(), decoder.save()
        encoder = codec.stream_encoder(channels=1, sample_rate=24_000, bitrate=0.75)
        decoder = codec.stream_decoder(channels=1, sample_rate=24_000)
        encoder.restore(saved[0])
        decoder.restore(saved[1])
    sent += encoder.flush()
    assert sent == packets
    whole = hear(codec.stream_decoder(channels=1, sample_rate=24_000), packets)
    heard = np.concatenate(heard, axis=1)[0]
    np.testing.assert_array_equal(heard, whole[: len(heard)])


def test_states_that_do_not_fit(codec, decoder):
    encoder = codec.stream_encoder(channels=1, sample_rate=24_000)
    saved = encoder.save()
    with pytest.raises(FormatError, match="decoder"):
        decoder.restore(saved)
    with pytest.raises(FormatError, match="fit"):
        codec.stream_encoder(channels=2, sample_rate=24_000).restore(saved)
    for damaged in (b"", saved[:-1], saved[:50] + b"\1" + saved[51:]):
        with pytest.raises(FormatError):
            encoder.restore(damaged)
    with pytest.raises(InputError, match="resample"):
        codec.stream_encoder(channels=1, sample_rate=16_000).save()
    encoder._runtime = type("Other", (), {"hash": "00" * 32})()
    with pytest.raises(ModelError):
        encoder.restore(saved)


def tampered(saved, name, value):
    """A saved state with one of its arrays replaced, itself or in the frames' own state."""
    arrays = dict(load(saved[:-4]))
    if name in arrays:
        arrays[name] = np.asarray(value)
    else:
        inner = tampered(arrays["frames"].tobytes(), name, value)
        arrays["frames"] = np.frombuffer(inner, np.uint8)
    data = save(arrays)
    return data + zlib.crc32(data).to_bytes(4, "big")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("number", np.array([NUMBERS])),
        ("codes", np.full((1, 1, 18), 1024)),
        ("codes", np.zeros((1, 0, 18), np.int32)),
        ("numbers", np.array([1, 99])),
        ("pending", np.zeros((1, 3), np.float64)),
        ("pending", np.full((1, 3), np.nan, np.float32)),
        ("network", np.zeros(3, np.float32)),
    ],
)
def test_encoders_refuse_states_that_none_has(codec, clip, name, value):
    encoder = codec.stream_encoder(channels=1, sample_rate=24_000)
    encoder.push(clip[:, :700])
    saved = encoder.save()
    sent = encoder.push(clip[:, 700:])
    other = codec.stream_encoder(channels=1, sample_rate=24_000)
    with pytest.raises(FormatError):
        other.restore(tampered(saved, name, value))
    fresh = codec.stream_encoder(channels=1, sample_rate=24_000)
    assert other.push(clip) == fresh.push(clip)
    encoder.restore(saved)
    assert encoder.push(clip[:, 700:]) == sent


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("next", np.array([-2])),
        ("gains", np.ones(7)),
        ("numbers", np.array([1e9, 1, 0, 1])),
        ("numbers", np.array([0, 1, np.nan, 1])),
        ("numbers", np.array([0, 1, -1.0, 1])),
        ("waiting", np.zeros((1, 0, 128), np.float16)),
        ("last", np.full((1, 128), np.inf, np.float32)),
    ],
)
def test_decoders_refuse_states_that_none_has(codec, packets, name, value):
    decoder = codec.stream_decoder(channels=1, sample_rate=24_000)
    for packet in packets[:5]:
        decoder.push(packet)
    saved = decoder.save()
    expected = decoder.push(packets[5])
    with pytest.raises(FormatError):
        decoder.restore(tampered(saved, name, value))
    decoder.restore(saved)
    np.testing.assert_array_equal(decoder.push(packets[5]), expected)


@pytest.mark.parametrize(
    "samples",
    [
        np.zeros(320, np.float32),
        np.zeros((2, 320), np.float32),
        np.zeros((1, 320), np.int16),
        np.full((1, 320), np.nan, np.float32),
    ],
)
def test_bad_samples(codec, samples):
    encoder = codec.stream_encoder(channels=1, sample_rate=24_000)
    with pytest.raises(InputError):
        encoder.push(samples)


def test_models_that_look_into_the_future_are_refused(tmp_path):
    """What is exported is causal; this folder claims otherwise, as a hand-made one might."""
    pytest.importorskip("torch")
    from rvq.nn.export import export
    from rvq.nn.model import CodecConfig, CodecModel
    from rvq.nn.quantizer import QuantizerConfig
    from rvq.nn.seanet import SEANetConfig

    network = SEANetConfig(width=2, dim=4, strides=(2,), lstm_layers=0)
    model = CodecModel(CodecConfig(network, QuantizerConfig(2, 4, 4))).eval()
    export(model, tmp_path, name="small", facts={})
    Codec.load(tmp_path).stream_encoder(channels=1, sample_rate=24_000)
    card = json.loads((tmp_path / "model.json").read_text())
    card["model"]["network"]["causal"] = False
    (tmp_path / "model.json").write_text(json.dumps(card))
    with pytest.raises(ModelError, match="not causal, so it can neither stream"):
        Codec.load(tmp_path)
    for direction in ("encode", "decode"):
        command = [sys.executable, "-m", "rvq", "stream", direction, "--model", str(tmp_path)]
        run = subprocess.run(command, input=b"", capture_output=True)
        assert run.returncode == 1
        assert not run.stdout
        assert run.stderr.startswith(b"rvq: model small is not causal")
        assert run.stderr.count(b"\n") == 1
