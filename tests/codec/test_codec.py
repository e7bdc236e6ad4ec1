import json
import pickle
import shutil
from dataclasses import replace

import numpy as np
import pytest

import rvq
from rvq.bitstream.container import dumps
from rvq.bitstream.header import Header
from rvq.codec.models import DEFAULT_MODEL, find, shipped
from rvq.errors import FormatError, InputError, ModelError, RvqError
from rvq.quantize.search import decode


def si_sdr(reference, estimate):
    scale = (reference * estimate).sum() / np.square(reference).sum()
    return 10 * np.log10(
        np.square(scale * reference).sum() / np.square(estimate - scale * reference).sum()
    )


def test_tensors_are_taken_as_arrays_are(codec, speech):
    torch = pytest.importorskip("torch")
    expected = codec.compress(speech[:, :4_800], 24_000, bitrate=1.5)
    tensor = torch.tensor(speech[:, :4_800], requires_grad=True)
    assert codec.compress(tensor, 24_000, bitrate=1.5) == expected
    halves = torch.from_numpy(speech[:, :4_800]).bfloat16()
    assert codec.encode(halves, 24_000).n_samples == 4_800


def test_quality_rises_with_bitrate_and_the_signal_is_recognised(codec, speech):
    values = [
        si_sdr(speech, codec.decompress(codec.compress(speech, 24_000, rate)))
        for rate in (1.5, 3, 6, 12)
    ]
    assert values == sorted(values)
    assert values[-1] > 3  # aligned to the sample: a lag of a few samples would make it negative


@pytest.mark.parametrize("rate", [1.5, 3, 6, 12])
def test_bitrate_is_at_most_what_was_asked(codec, speech, rate):
    audio = np.tile(speech, 10)
    data = codec.compress(audio, 24_000, rate)
    assert Header.from_bytes(data).n_codebooks == rate / 0.75
    seconds = audio.shape[1] / 24_000
    assert 0.6 * rate < len(data) / 125 / seconds < 0.95 * rate  # entropy coding saves the rest
    packed = rvq.Codec(codec.runtime).compress(audio, 24_000, rate)
    assert len(packed) / 125 / seconds == pytest.approx(rate, rel=0.05)


@pytest.mark.parametrize(
    ("channels", "n", "sample_rate"),
    [
        (1, 1, 24_000),
        (1, 1, 8_000),
        (1, 319, 24_000),
        (1, 320, 24_000),
        (2, 4_800, 48_000),
        (1, 800, 8_000),
        (3, 4_410, 44_100),
        (1, 100_000, 16_000),
    ],
)
def test_any_length_rate_and_number_of_channels(codec, speech, channels, n, sample_rate):
    audio = np.resize(speech, (channels, n)).astype(np.float32)
    output = codec.decompress(codec.compress(audio, sample_rate, 3))
    assert output.shape == audio.shape
    assert np.isfinite(output).all()


def test_silence_stays_silent(codec):
    output = codec.decompress(codec.compress(np.zeros((1, 48_000), np.float32), 24_000, 6))
    assert np.abs(output).max() < 0.01


@pytest.mark.parametrize(("beam_size", "rates"), [(1, (0.75, 3, 6, 8.25)), (8, (6,))])
def test_prefix_of_codes_is_the_encode_at_that_bitrate(codec, speech, beam_size, rates):
    full = codec.encode(speech, 24_000, beam_size=beam_size)
    for rate in rates:
        lower = codec.encode(speech, 24_000, rate, beam_size=beam_size)
        np.testing.assert_array_equal(lower.indices, full.prefix(lower.n_codebooks).indices)


def test_beam_search_codes_latents_better_even_cut_to_a_lower_bitrate(codec, speech):
    whole = speech[:, : speech.shape[1] // 320 * 320]
    latents = codec.runtime.encode(whole, codec.runtime.start("encoder", 1))[0]
    greedy, beam = (codec.runtime.search(size)(latents, 12) for size in (1, 8))
    for n, least in ((3, 0.0), (4, 0.02), (8, 0.08), (12, 0.1)):
        errors = [
            np.square(latents - decode(codes[:, :n], codec.runtime.codebooks)).sum()
            for codes in (greedy, beam)
        ]
        assert errors[1] < (1 - least) * errors[0]


def test_beam_size_out_of_range_is_refused(codec, speech):
    for wrong in (0, 33):
        with pytest.raises(InputError, match="beam_size"):
            codec.encode(speech, 24_000, beam_size=wrong)


@pytest.mark.parametrize("sample_rate", [24_000, 16_000])
def test_codes_do_not_depend_on_how_samples_are_pushed(codec, speech, sample_rate):
    expected = codec.encode(speech, sample_rate, 6).indices
    encoder = codec.frame_encoder(channels=1, sample_rate=sample_rate, bitrate=6)
    random = np.random.default_rng(0)
    parts, start = [], 0
    while start < speech.shape[1]:
        n = int(random.integers(1, 5_000))
        parts.append(encoder.push(speech[:, start : start + n]))
        start += n
    parts.append(encoder.flush())
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), expected)


def test_decoding_in_pieces_gives_the_same_audio(codec, speech):
    codes = codec.encode(speech, 24_000, 6)
    whole = codec.decode(codes)
    decoder = codec.frame_decoder(channels=1, sample_rate=24_000)
    pieces = np.array_split(codes.indices, 23, axis=1)
    audio = np.concatenate([*(decoder.push(p) for p in pieces), decoder.flush()], axis=1)
    np.testing.assert_allclose(audio[:, : whole.shape[1]], whole, atol=1e-5)


def test_same_input_same_bytes(codec, speech):
    again = rvq.Codec.load(threads=2)
    assert codec.compress(speech, 24_000, 6) == codec.compress(speech, 24_000, 6)
    assert codec.compress(speech, 24_000, 6) == again.compress(speech, 24_000, 6)


def test_channels_are_coded_apart(codec, speech):
    stereo = np.concatenate([speech, speech[:, ::-1]])
    both = codec.encode(stereo, 24_000, 3).indices
    left = codec.encode(stereo[:1], 24_000, 3).indices
    assert (both[:1] == left).mean() > 0.999


@pytest.mark.parametrize(
    "audio",
    [
        np.zeros((1, 0), np.float32),
        np.zeros((0, 5), np.float32),
        np.zeros(5, np.float32),
        np.full((1, 100), np.nan, np.float32),
        np.full((1, 100), np.inf, np.float32),
        np.zeros((1, 100), np.int16),
        np.zeros((1, 2, 3), np.float32),
    ],
)
def test_bad_audio(codec, audio):
    with pytest.raises(InputError):
        codec.encode(audio, 24_000)


@pytest.mark.parametrize("rate", [0, 0.5, 14.0, -1, float("nan")])
def test_bad_bitrate(codec, speech, rate):
    with pytest.raises(InputError):
        codec.encode(speech, 24_000, rate)


@pytest.mark.parametrize("sample_rate", [0, -8_000, 10**9, 24_000.0])
def test_bad_sample_rate(codec, speech, sample_rate):
    with pytest.raises(InputError):
        codec.encode(speech, sample_rate)


def test_samples_beyond_float32(codec):
    with pytest.raises(InputError, match="infinity"):
        codec.encode(np.full((1, 2_000), 1e300), 24_000)
    with pytest.raises(InputError, match="infinity"):
        codec.stream_encoder(channels=1, sample_rate=24_000).push(np.full((1, 2_000), 1e300))


def test_samples_in_the_range_of_integers_are_refused(codec, speech):
    wrong = speech * 32768
    for take in (
        lambda: codec.compress(wrong, 24_000),
        lambda: codec.frame_encoder(channels=1, sample_rate=24_000).push(wrong),
        lambda: codec.variable_encoder(channels=1, sample_rate=24_000, quality=3).push(wrong),
        lambda: codec.stream_encoder(channels=1, sample_rate=24_000).push(wrong),
    ):
        with pytest.raises(InputError, match=r"expected in \[-1, 1\]: divide int16 by 32768"):
            take()
    codec.encode(np.clip(speech * 20, -16, 16), 24_000)  # overshoots, and is sound


@pytest.mark.parametrize("wrong", ["3", [3]])
def test_choices_that_are_no_numbers(codec, speech, wrong):
    for name in ("bitrate", "quality", "average"):
        with pytest.raises(InputError, match=f"{name}.* must be a number"):
            codec.encode(speech, 24_000, **{name: wrong})
    for threads in (wrong, -1, 1.5):
        with pytest.raises(InputError, match="threads must be an integer"):
            rvq.Codec.load(threads=threads)


@pytest.mark.parametrize("channels", [0, 256, 1.5])
def test_numbers_of_channels_that_there_are_not(codec, channels):
    for start in (codec.stream_encoder, codec.stream_decoder, codec.frame_decoder):
        with pytest.raises(InputError, match=r"channels must be an integer in 1\.\.255"):
            start(channels=channels, sample_rate=24_000)


def test_few_frames_do_not_stand_for_hours(codec, speech):
    codes = codec.encode(speech[:, :24_000], 24_000, 1.5)
    long = replace(codes, n_samples=24_000 * 60)
    with pytest.raises(FormatError, match="cannot stand for"):
        codec.decode(long)
    with pytest.raises(FormatError, match="cannot stand for"):
        codec.decompress(dumps(long, entropy=codec.entropy))


def test_codes_from_elsewhere_are_decoded(codec, speech):
    coded = codec.encode(speech[:, : 320 * 50], 24_000, bitrate=3)
    again = codec.codes(coded.indices.astype(np.int16)[:, :50])
    assert (again.sample_rate, again.n_samples) == (24_000, 320 * 50)
    expected = codec.decode(coded)[:, : 320 * 40]
    np.testing.assert_array_equal(codec.decode(again)[:, : 320 * 40], expected)
    for wrong in ([[[1024]]], [[[-1]]], [[1, 2]], [[[0.5]]], np.zeros((1, 4, 19), int)):
        with pytest.raises(InputError, match="codes must be"):
            codec.codes(wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"n_samples": -1},
        {"n_samples": 1.5},
        {"sample_rate": 0},
        {"codebook_size": 0},
        {"codebook_size": 4},
        {"indices": [[[1, 2]]]},
        {"indices": np.zeros((1, 2, 3))},
        {"indices": np.zeros((1, 2), int)},
        {"indices": np.zeros((1, 2, 0), int)},
        {"indices": np.full((1, 2, 3), -2)},
        {"indices": np.array([[[5, -1, 5]]])},
        {"indices": np.full((1, 2, 3), -1)},
    ],
)
def test_codes_that_none_has(codec, speech, wrong):
    codes = codec.encode(speech[:, :3_200], 24_000, 3)
    with pytest.raises(InputError, match=r"must (be|have)"):
        replace(codes, **wrong)


def test_what_is_not_of_the_model_is_not_decoded(codec, speech):
    codes = codec.encode(speech[:, :3_200], 24_000, 3)
    with pytest.raises(InputError, match=r"must be rvq\.Codes, got ndarray"):
        codec.decode(codes.indices)
    for wrong in ({"codebook_size": 2048}, {"indices": np.zeros((1, 10, 19), int)}):
        with pytest.raises(InputError, match="do not fit the model's"):
            codec.decode(replace(codes, **wrong))
    with pytest.raises(FormatError, match=r"at 4\d* Hz: these codes are damaged"):
        codec.decode(replace(codes, sample_rate=4 * 10**9))


def test_workers_can_be_sent_a_codec(codec, speech):
    sent = pickle.loads(pickle.dumps(codec))
    assert sent.compress(speech, 24_000) == codec.compress(speech, 24_000)


def test_damaged_bytes(codec, speech):
    data = codec.compress(speech, 24_000, 3)
    for damaged in (b"", data[:20], data[:-1], data[:100] + b"\0\0\0" + data[103:], b"RIFF" + data):
        with pytest.raises(FormatError):
            codec.decompress(damaged)


def test_codes_of_another_model_are_refused(codec, speech, tmp_path):
    folder = tmp_path / "other"
    shutil.copytree(find(DEFAULT_MODEL), folder)
    card = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(card | {"hash": "0" * 64}))
    with pytest.raises(ModelError, match="do not match"):
        rvq.Codec.load(folder)
    (folder / "model.json").write_text(json.dumps(card | {"format": 99}))
    with pytest.raises(ModelError, match="newer"):
        rvq.Codec.load(folder)
    codes = codec.encode(speech, 24_000, 3)
    object.__setattr__(codes, "model_hash", "0" * 64)
    with pytest.raises(ModelError, match="0000000000000000"):
        codec.decode(codes)


@pytest.mark.parametrize("card", ["{", "[1]", "[" * 100_000, "{}"])
def test_damaged_cards(tmp_path, card):
    (tmp_path / "model.json").write_text(card)
    with pytest.raises(ModelError, match="is damaged; install it again"):
        rvq.Codec.load(tmp_path)


def test_cards_that_lack_something(tmp_path):
    folder = find(DEFAULT_MODEL)
    for file in folder.iterdir():
        shutil.copy(file, tmp_path)
    card = json.loads((folder / "model.json").read_text())
    for field in ("sample_rate", "delay", "encoder_state", "name", "model"):
        left = {name: value for name, value in card.items() if name != field}
        (tmp_path / "model.json").write_text(json.dumps(left))
        with pytest.raises(ModelError, match=f"lacks '{field}'"):
            rvq.Codec.load(tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("format", "2"),
        ("name", None),
        ("family", 3),
        ("sample_rate", "24000"),
        ("hop_length", 0),
        ("delay", -1),
        ("first_frames", 0),
        ("encoder_state", 3.5),
        ("decoder_state", True),
    ],
)
def test_cards_with_impossible_facts(tmp_path, field, value):
    folder = find(DEFAULT_MODEL)
    for file in folder.iterdir():
        shutil.copy(file, tmp_path)
    card = json.loads((folder / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps(card | {field: value}))
    with pytest.raises(ModelError, match="is damaged"):
        rvq.Codec.load(tmp_path)


def test_missing_model():
    with pytest.raises(RvqError, match="speech_24khz"):
        rvq.Codec.load("nonesuch")


def test_shipped_model_is_small_and_has_a_card():
    for folder in shipped():
        assert sum(p.stat().st_size for p in folder.iterdir()) < 20e6
        assert (folder / "README.md").exists()
