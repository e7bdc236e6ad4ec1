"""EnCodec checkpoints: the `encodec` package and transformers as references."""

import json

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from rvq import Codec
from rvq.bitstream.container import Reader
from rvq.cli.app import app
from rvq.errors import InputError, ModelError
from rvq.interop.checkpoint import find
from rvq.interop.ecdc import Segment, loads
from rvq.interop.encodec import Encodec, read_encodec
from rvq.nn.seanet import SEANetConfig, SegmentConfig

transformers = pytest.importorskip("transformers")

MODELS = {"encodec_24khz": (24_000, 1, 32), "encodec_48khz": (48_000, 2, 16)}


@pytest.fixture(scope="module", params=sorted(MODELS))
def original(request, encodec, clips, strengthen, codebooks_from, tmp_path_factory):
    """The package's model, the path of its state dict, and ours read from there."""
    name = request.param
    rate, channels, n_codebooks = MODELS[name]
    torch.manual_seed(0)
    make = encodec.EncodecModel
    build = make.encodec_model_24khz if channels == 1 else make.encodec_model_48khz
    theirs = build(pretrained=False).requires_grad_(False)
    strengthen(theirs)
    latents = [theirs.encoder(x[:, :, :rate]).transpose(1, 2) for x in clips(rate, channels)]
    books = codebooks_from(latents, n_codebooks, 1024)
    for layer, book in zip(theirs.quantizer.vq.layers, books, strict=True):
        layer._codebook.embed.copy_(book)
    path = tmp_path_factory.mktemp("original") / f"{name}.th"
    torch.save(theirs.state_dict(), path)
    return theirs, path, read_encodec(path)


@pytest.mark.parametrize("kbps", [3.0, 24.0])
@pytest.mark.parametrize("seconds", [0.01, 1.9876])
def test_same_codes_and_audio_as_the_package(original, clips, kbps, seconds):
    theirs, _, ours = original
    theirs.set_target_bandwidth(kbps)
    n_codebooks = int(kbps * 1000 / (ours.sample_rate / ours.hop_length * 10))
    for clip in clips(ours.sample_rate, ours.channels):
        audio = clip[:, :, : round(seconds * ours.sample_rate)]
        frames = theirs.encode(audio)
        segments = ours.compress(audio[0], n_codebooks)
        assert len(segments) == len(frames)
        for (codes, scale), segment in zip(frames, segments, strict=True):
            assert (torch.from_numpy(segment.codes) == codes[0].T).all()
            assert len(set(segment.codes[:, 0])) > len(segment.codes) // 8
            if scale is not None:
                assert segment.scale == pytest.approx(float(scale))
        expected = theirs.decode(frames)[0, :, : audio.shape[2]]
        output = ours.decompress(segments, audio.shape[2])
        assert output.std() > 1e-3 or seconds < 1
        torch.testing.assert_close(output, expected, atol=1e-4, rtol=0)


def test_folders_give_the_same_as_the_package(original, clips, tmp_path):
    theirs, _, ours = original
    if ours.channels > 1:
        pytest.skip("another test's")
    ours.write(tmp_path, {})
    codec = Codec.load(tmp_path)
    theirs.set_target_bandwidth(6.0)
    for clip in clips(24_000, 1):
        frames = theirs.encode(clip)
        codes = codec.encode(clip[0].numpy(), 24_000, 6, beam_size=1)
        assert (torch.from_numpy(codes.indices[0]) == frames[0][0][0].T).all()
        expected = theirs.decode(frames)[0, :, : clip.shape[2]]
        assert expected.std() > 1e-3
        torch.testing.assert_close(
            torch.from_numpy(codec.decode(codes)), expected, atol=1e-4, rtol=0
        )


def test_models_are_told_apart(original):
    _, path, ours = original
    assert ours.name == path.stem
    rate, channels, n_codebooks = MODELS[path.stem]
    assert (ours.sample_rate, ours.channels, ours.n_codebooks) == (rate, channels, n_codebooks)
    with pytest.raises(InputError, match=rf"\[{channels}, n_samples\]"):
        ours.compress(torch.zeros(3, 100))
    with pytest.raises(InputError, match="no segments"):
        ours.decompress([], 5)


@pytest.fixture(scope="module", params=sorted(MODELS))
def hugging_face(request, clips, strengthen, codebooks_from, tmp_path_factory):
    """transformers' model, the folder it was saved to, and ours read from there."""
    name = request.param
    rate, channels, n_codebooks = MODELS[name]
    fields = {"num_filters": 8}
    if channels == 2:
        fields |= {
            "target_bandwidths": [3.0, 6.0, 12.0, 24.0],
            "sampling_rate": rate,
            "audio_channels": 2,
            "normalize": True,
            "chunk_length_s": 1.0,
            "overlap": 0.01,
            "norm_type": "time_group_norm",
            "use_causal_conv": False,
        }
    torch.manual_seed(0)
    theirs = transformers.EncodecModel(transformers.EncodecConfig(**fields)).eval()
    theirs.requires_grad_(False)
    strengthen(theirs)
    latents = [theirs.encoder(x[:, :, :rate]).transpose(1, 2) for x in clips(rate, channels)]
    books = codebooks_from(latents, n_codebooks, 1024)
    for layer, book in zip(theirs.quantizer.layers, books, strict=True):
        layer.codebook.embed.copy_(book)
    folder = tmp_path_factory.mktemp(name)
    theirs.save_pretrained(folder)
    return theirs, folder, read_encodec(folder)


@pytest.mark.parametrize("kbps", [3.0, 24.0])
def test_same_codes_and_audio_as_transformers(hugging_face, clips, kbps):
    theirs, folder, ours = hugging_face
    assert ours.name == folder.name.rstrip("0123456789")
    n_codebooks = int(kbps * 1000 / (ours.sample_rate / ours.hop_length * 10))
    for clip in clips(ours.sample_rate, ours.channels):
        audio = clip[:, :, : round(1.7 * ours.sample_rate)]
        encoded = theirs.encode(audio, bandwidth=kbps)
        segments = ours.compress(audio[0], n_codebooks)
        assert len(segments) == len(encoded.audio_codes)
        for codes, segment in zip(encoded.audio_codes, segments, strict=True):
            codes = codes[0].T[: len(segment.codes)]
            assert (torch.from_numpy(segment.codes) == codes).all()
        expected = theirs.decode(
            encoded.audio_codes,
            encoded.audio_scales,
            last_frame_pad_length=encoded.last_frame_pad_length,
        ).audio_values[0, :, : audio.shape[2]]
        output = ours.decompress(segments, audio.shape[2])
        torch.testing.assert_close(output, expected, atol=1e-4, rtol=0)


def test_damaged_folders_are_refused_by_the_tensor(hugging_face, tmp_path):
    _, folder, _ = hugging_face
    config, file = tmp_path / "config.json", tmp_path / "model.safetensors"
    config.write_text((folder / "config.json").read_text())
    whole = (folder / "model.safetensors").read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match=r"truncated: it ends before tensor \w+\.layers\.\d+"):
        read_encodec(tmp_path)
    file.write_bytes(whole[:100])
    with pytest.raises(ModelError, match="truncated in its header"):
        read_encodec(tmp_path)
    tensors = load_file(folder / "model.safetensors")
    for change, message in (
        ({"encoder.layers.3.conv.bias": None}, r"no tensor encoder\.layers\.3\.conv\.bias"),
        ({"encoder.layers.3.conv.bias": torch.ones(5)}, r"conv\.bias of .* shape \[5\] and not"),
        ({"decoder.more": torch.ones(5)}, r"a tensor decoder\.more that the model lacks"),
        (
            {"quantizer.layers.2.codebook.embed": torch.full((1024, 128), torch.nan)},
            r"quantizer\.layers\.2\.codebook\.embed .* not finite",
        ),
    ):
        changed = {n: t for n, t in (tensors | change).items() if t is not None}
        save_file(changed, file)
        with pytest.raises(ModelError, match=message):
            read_encodec(tmp_path)
    save_file(tensors, file)
    fields = json.loads(config.read_text())
    for change, message in (
        ({"model_type": "dac"}, "of type 'dac', not 'encodec'"),
        ({"target_bandwidths": [0.1]}, "no codebook"),
        ({"hidden_size": 64}, r"tensor quantizer\.layers\.0"),
        ({"upsampling_ratios": None}, "damaged or lacks a field"),
        ({"trim_right_ratio": 0.5}, "trim_right_ratio"),
    ):
        config.write_text(json.dumps(fields | change))
        with pytest.raises(ModelError, match=message):
            read_encodec(tmp_path)
    config.write_text("{")
    with pytest.raises(ModelError, match="no JSON"):
        read_encodec(tmp_path)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Folder of a random model of EnCodec's kind that is much smaller."""
    fields = {"num_filters": 4, "hidden_size": 16, "num_lstm_layers": 1}
    fields["target_bandwidths"] = [1.5, 3.0]
    folder = tmp_path_factory.mktemp("tiny")
    transformers.EncodecModel(transformers.EncodecConfig(**fields)).save_pretrained(folder)
    return folder


def test_damaged_configs_are_refused_by_the_field(tiny, tmp_path, damage):
    more = [
        ("codebook_size", 1),
        ("num_filters", 40_000),
        ("hidden_size", 65_536),
        ("num_residual_layers", 16),
        ("upsampling_ratios", [2] * 16),
        ("upsampling_ratios", [2] * 100_000),
        ("upsampling_ratios", [4096, 4096]),
        ("upsampling_ratios", [8, 5, 4, 1]),
        ("compress", 3),
        ("norm_type", "time_group_norm"),
        ("normalize", True),
        ("chunk_length_s", 1.0),
        ("target_bandwidths", []),
        ("target_bandwidths", [-1]),
    ]
    raised = damage(tiny, tmp_path, read_encodec, more)
    assert [c for c, e in raised.items() if e and not isinstance(e, ModelError)] == []
    wrong = [(field, repr(value)) for field, value in more]
    for field, message in (
        ("sampling_rate", "sampling_rate: input should be"),
        ("upsampling_ratios", r"upsampling_ratios|tensor"),
        ("kernel_size", "kernel_size: "),
        ("last_kernel_size", "last_kernel_size: "),
        ("residual_kernel_size", "residual_kernel_size: "),
        ("audio_channels", "audio_channels: "),
        ("num_lstm_layers", "num_lstm_layers: |tensor encoder"),
        ("use_causal_conv", "use_causal_conv: "),
    ):
        for value in (0, -1, "x", None, [0], 1.5, {}):
            wrong.append((field, repr(value)))
            with pytest.raises(ModelError, match=message):
                raise raised[field, repr(value)]
    for case in wrong:
        assert isinstance(raised[case], ModelError), case
        assert "\n" not in str(raised[case])


def test_configs_nested_too_deep_are_refused(tiny, tmp_path):
    (tmp_path / "model.safetensors").write_bytes((tiny / "model.safetensors").read_bytes())
    (tmp_path / "config.json").write_text("[" * 100_000)
    with pytest.raises(ModelError, match="no JSON"):
        read_encodec(tmp_path)


def test_configs_cannot_ask_for_memory(tiny, tmp_path, monkeypatch):
    """No network is made whose size only the config tells."""
    (tmp_path / "model.safetensors").write_bytes((tiny / "model.safetensors").read_bytes())
    fields = json.loads((tiny / "config.json").read_text())
    made = []
    convolution = torch.nn.Conv1d.__init__

    def spy(self, *arguments, **options):
        convolution(self, *arguments, **options)
        made.append(self.weight.numel() * (not self.weight.is_meta))

    monkeypatch.setattr(torch.nn.Conv1d, "__init__", spy)
    read_encodec(tiny)
    assert max(made) > 0
    made.clear()
    for change in ({"num_filters": 1024}, {"num_filters": 65_536, "upsampling_ratios": [2] * 16}):
        (tmp_path / "config.json").write_text(json.dumps(fields | change))
        with pytest.raises(ModelError, match=r"its tensors hold|has no tensor"):
            read_encodec(tmp_path)
    assert max(made) == 0


def test_damaged_originals_are_refused(original, tmp_path):
    theirs, path, _ = original
    with pytest.raises(ModelError, match="no checkpoint at"):
        read_encodec(tmp_path / "none.th")
    with pytest.raises(ModelError, match="no checkpoint in"):
        read_encodec(tmp_path)
    file = tmp_path / "damaged.th"
    file.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ModelError, match="damaged or truncated"):
        read_encodec(file)
    state = theirs.state_dict()
    bias = "decoder.model.3.convtr.convtr.bias"
    del state[bias]
    torch.save(state, file)
    with pytest.raises(ModelError, match=f"no tensor {bias}"):
        read_encodec(file)
    torch.save([1, 2], file)
    with pytest.raises(ModelError, match="no state dict"):
        read_encodec(file)


def test_models_to_train_on_are_the_same(hugging_face, clips):
    _, _, ours = hugging_face
    if not ours.network.causal:
        with pytest.raises(InputError, match="causal networks on one channel"):
            ours.codec_model()
        return
    model = ours.codec_model()
    audio = clips(24_000, 1)[0][0]
    latents = model.encode(audio)
    torch.testing.assert_close(latents, ours.encode(audio[None]), atol=1e-5, rtol=1e-5)
    assert (model.quantizer(latents, 8).codes[..., :8] == ours.quantize(latents, 8)).all()
    assert any(parameter.requires_grad for parameter in model.parameters())


def test_imported_models_run_without_torch(tmp_path, clips, run_rvq):
    from rvq import Codec

    torch.manual_seed(0)
    fields = {"num_filters": 4, "upsampling_ratios": [4, 2], "hidden_size": 16}
    fields["target_bandwidths"] = [240.0]
    theirs = transformers.EncodecModel(transformers.EncodecConfig(**fields)).eval()
    for i, layer in enumerate(theirs.quantizer.layers):
        layer.codebook.embed.copy_(torch.randn(1024, 16) * 0.1 * 0.9**i)
    theirs.save_pretrained(tmp_path / "theirs")
    command = ["import", "encodec", str(tmp_path / "theirs"), str(tmp_path / "ours")]
    assert "encodec_24khz" in run_rvq(*command).output
    audio = clips(24_000, 1)[0][0, :, :12_000]
    codec = Codec.load(tmp_path / "ours")
    codes = codec.encode(audio.numpy(), 24_000, beam_size=1)
    expected = theirs.encode(audio[None], bandwidth=240.0).audio_codes[0, 0].T
    assert expected.shape[1] == 8
    equal = torch.from_numpy(codes.indices[0]) == expected
    assert equal.float().mean() > 0.99  # the runtime's sums round otherwise
    again = CliRunner().invoke(app, command)
    assert isinstance(again.exception, InputError)
    assert "--force" in str(again.exception)


def test_hub_names_are_refused_where_there_is_no_hub(monkeypatch):
    hub = pytest.importorskip("huggingface_hub")

    def unreachable(*_, **__):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(hub, "snapshot_download", unreachable)
    with pytest.raises(ModelError, match=r"cannot be downloaded \(no route to host\)"):
        find("owner/name")
    with pytest.raises(ModelError, match="no checkpoint at missing"):
        find("missing")


@pytest.mark.parametrize("segments", [None, SegmentConfig(overlap=0.6)])
def test_models_that_cannot_be_folders_say_what_serves_them(segments, tmp_path):
    network = SEANetConfig(width=8, causal=False, segments=segments)
    model = Encodec("encodec_32khz", network, torch.zeros(1, 4, 128))
    with pytest.raises(InputError, match=r"cannot be a model folder; use `rvq\.interop\.encodec`"):
        model.write(tmp_path / "folder", {})
    assert not (tmp_path / "folder").exists()


@pytest.mark.slow
def test_imported_segments_run_without_torch(hugging_face, clips, tmp_path, run_rvq):
    theirs, folder, ours = hugging_face
    if ours.network.causal:
        pytest.skip("this one has no segments")
    model = tmp_path / "model"
    run_rvq("import", "encodec", folder, model)
    codec = Codec.load(model)
    audio = clips(48_000, 2)[0][:, :, : round(1.7 * 48_000)]
    codes = codec.encode(audio[0].numpy(), 48_000, 6, beam_size=1)
    encoded = theirs.encode(audio, bandwidth=6.0)
    n_whole, n_head = codec.runtime.frames_per_segment, codec.runtime.n_head
    assert (n_whole, n_head, codes.n_codebooks) == (152, 2, 4)
    segments = np.split(codes.indices[0], range(n_whole, codes.indices.shape[1], n_whole))
    assert len(segments) == len(encoded.audio_codes)
    ours_scaled = []
    for segment, expected, scale in zip(
        segments, encoded.audio_codes, encoded.audio_scales, strict=True
    ):
        own = torch.from_numpy(segment[n_head:])
        assert (own == expected[0].T[: len(own)]).float().mean() > 0.99  # rounded otherwise
        assert codec.runtime.loudness(segment[:n_head]) == pytest.approx(float(scale), rel=3e-5)
        ours_scaled.append(Segment(segment[n_head:], float(scale)))
    output = torch.from_numpy(codec.decode(codes))
    expected = ours.decompress(ours_scaled, audio.shape[2])
    torch.testing.assert_close(output, expected, atol=1e-4, rtol=0)
    for refused in (codec.stream_encoder, codec.stream_decoder):
        with pytest.raises(InputError, match="is not causal: it looks ahead, so it cannot stream"):
            refused(channels=2, sample_rate=48_000)
    with pytest.raises(ModelError, match="constant bitrates only"):
        codec.encode(audio[0].numpy(), 48_000, quality=5)
    wav, file, cut, back = (tmp_path / f"x.{e}" for e in ("wav", "rvq", "cut.rvq", "back.wav"))
    soundfile.write(wav, audio[0].T.numpy(), 48_000, subtype="FLOAT")
    for command in (
        ["encode", wav, file, "--model", model, "--bitrate", "12", "--beam-size", "1"],
        ["trim", file, cut, "--codebooks", "4"],
        ["decode", cut, back, "--model", model],
        ["info", cut],
    ):
        run_rvq(*command)
    decoded, rate = soundfile.read(back, dtype="float32")
    assert rate == 48_000
    np.testing.assert_allclose(decoded.T, output.clamp(-1, 1).numpy(), atol=1e-4)
    data = bytearray(cut.read_bytes())
    with cut.open("rb") as stream:
        first = Reader(stream).header_size
    data[first + 20 : first + 30] = bytes(10)  # the first of two blocks, which is then silent
    cut.write_bytes(data)
    run_rvq("decode", cut, back, "--force", "--model", model)
    damaged, _ = soundfile.read(back, dtype="float32")
    assert not damaged[:47_520].any()
    np.testing.assert_array_equal(damaged[48_000:], decoded[48_000:])
    # The same codes in EnCodec's own format, without torch too.
    ecdc, again = tmp_path / "x.ecdc", tmp_path / "again.wav"
    for command in (
        ["encode", wav, ecdc, "--model", model, "--beam-size", "1"],
        ["decode", ecdc, again, "--model", model],
    ):
        run_rvq(*command)
    read = loads(ecdc.read_bytes())
    for segment, ours_segment in zip(read.segments, segments, strict=True):
        np.testing.assert_array_equal(segment.codes, ours_segment[n_head:])
    played, _ = soundfile.read(again, dtype="float32")
    np.testing.assert_allclose(played, decoded, atol=2e-4)
