"""DAC and Mimi checkpoints: transformers as reference."""

import json

import numpy as np
import onnxruntime
import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file

from rvq import Codec
from rvq.errors import InputError, ModelError
from rvq.interop.code_encoder import CodeEncoder
from rvq.interop.dac import read_dac
from rvq.interop.mimi import read_mimi

transformers = pytest.importorskip("transformers")


def enliven(network, factor):
    """Random weights of a strength that keeps signals alive, small random biases and scales."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim == 3 and name.endswith("weight"):
                fan = parameter[0].numel() if "conv_t" not in name else parameter[:, 0].numel() / 4
                parameter.normal_(std=factor * fan**-0.5)
            elif name.endswith("bias"):
                parameter.uniform_(-0.01, 0.01)
            elif name.endswith("alpha"):
                parameter.uniform_(0.5, 2)
            elif name.endswith("scale"):
                parameter.uniform_(0.2, 0.6)


@pytest.fixture(scope="module")
def dac(clips, codebooks_from, tmp_path_factory):
    torch.manual_seed(0)
    fields = {"encoder_hidden_size": 8, "decoder_hidden_size": 64, "n_codebooks": 6}
    theirs = transformers.DacModel(transformers.DacConfig(**fields)).eval()
    enliven(theirs, 0.75)  # stronger ones amplify roundings by thousands
    theirs.requires_grad_(False)
    latents = [theirs.encoder(x[:, :, :16_384]) for x in clips(16_000, 1)]
    for stage in theirs.quantizer.quantizers:
        low = [stage.in_proj(x).transpose(1, 2) for x in latents]
        stage.codebook.weight.copy_(codebooks_from(low, 1, 1024)[0])
    folder = tmp_path_factory.mktemp("dac")
    theirs.save_pretrained(folder)
    return theirs, folder, read_dac(folder)


@pytest.fixture(scope="module")
def mimi(clips, codebooks_from, tmp_path_factory):
    torch.manual_seed(0)
    config = transformers.MimiConfig(
        num_filters=8,
        hidden_size=64,
        upsample_groups=64,
        num_hidden_layers=2,
        intermediate_size=96,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=16,
        sliding_window=20,
        codebook_size=256,
        codebook_dim=32,
        vector_quantization_hidden_dimension=32,
        num_quantizers=8,
    )
    theirs = transformers.MimiModel(config).eval()
    enliven(theirs, 1.2)
    theirs.requires_grad_(False)
    latents = [theirs.encoder(x).latents for x in clips(24_000, 1)]
    for part in ("semantic", "acoustic"):
        quantizer = getattr(theirs.quantizer, f"{part}_residual_vector_quantizer")
        low = [quantizer.input_proj(x).transpose(1, 2) for x in latents]
        books = codebooks_from(low, len(quantizer.layers), 256)
        for layer, book in zip(quantizer.layers, books, strict=True):
            usage = torch.rand(256) + 0.5
            layer.codebook.cluster_usage.copy_(usage)
            layer.codebook.embed_sum.copy_(book * usage[:, None])
            layer.codebook._embed = None
    folder = tmp_path_factory.mktemp("mimi")
    theirs.save_pretrained(folder)
    return theirs, folder, read_mimi(folder)


@pytest.mark.parametrize("n_codebooks", [1, 4, None])
def test_dac_gives_the_same(dac, clips, n_codebooks):
    theirs, _, ours = dac
    for audio in clips(16_000, 1):
        audio = audio[:, :, : audio.shape[2] // 512 * 512].repeat(2, 1, 1)
        expected = theirs.encode(audio, n_codebooks)
        latents = ours.encode(audio)
        codes = ours.quantize(latents, n_codebooks)
        assert (codes.transpose(1, 2) == expected.audio_codes).all()
        assert len(codes[0, :, 0].unique()) > 10
        output = ours.decode(ours.dequantize(codes))
        reference = theirs.decode(audio_codes=expected.audio_codes).audio_values
        assert output.std() > 0.01
        torch.testing.assert_close(output[:, 0], reference, atol=1e-4, rtol=0)
        words = ours.codewords()
        summed = sum(words[k][codes[:, :, k]] for k in range(codes.shape[2]))
        torch.testing.assert_close(ours.dequantize(codes), summed, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("n_codebooks", [1, 4, None])
@pytest.mark.parametrize("n_samples", [1, 1919, 1921, 40_000])
def test_mimi_gives_the_same(mimi, clips, n_codebooks, n_samples):
    theirs, _, ours = mimi
    for audio in clips(24_000, 1):
        audio = audio[:, :, 20_000 : 20_000 + n_samples]
        expected = theirs.encode(audio, num_quantizers=n_codebooks)
        latents = ours.encode(audio)
        codes = ours.quantize(latents, n_codebooks)
        assert (codes.transpose(1, 2) == expected.audio_codes).all()
        output = ours.decode(ours.dequantize(codes))
        reference = theirs.decode(expected.audio_codes).audio_values
        torch.testing.assert_close(output, reference, atol=1e-4, rtol=0)
        words = ours.codewords()
        summed = sum(words[k][codes[:, :, k]] for k in range(codes.shape[2]))
        torch.testing.assert_close(ours.dequantize(codes), summed, atol=1e-5, rtol=1e-4)
        if n_samples > 20_000:
            assert output.std() > 0.01
            assert len(codes[0, :, -1].unique()) > 8


def test_mimi_needs_its_semantic_codebooks(mimi):
    _, _, ours = mimi
    with pytest.raises(InputError, match="at least 1"):
        ours.quantize(torch.zeros(1, 3, 64), 0)


@pytest.mark.parametrize("name", ["dac", "mimi"])
def test_damaged_checkpoints_are_refused_by_the_tensor(request, name, tmp_path):
    _, folder, _ = request.getfixturevalue(name)
    read = {"dac": read_dac, "mimi": read_mimi}[name]
    tensors = load_file(folder / "model.safetensors")
    fields = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(fields))
    lost = next(n for n in sorted(tensors) if "codebook" in n and "initialized" not in n)
    for change, message in (
        ({lost: None}, f"no tensor {lost}"),
        ({lost: torch.ones(3)}, rf"tensor {lost} .* shape \[3\]"),
        ({"other": torch.ones(3)}, "a tensor other that the model lacks"),
    ):
        changed = {n: t for n, t in (tensors | change).items() if t is not None}
        save_file(changed, tmp_path / "model.safetensors")
        with pytest.raises(ModelError, match=message):
            read(tmp_path)
    save_file(tensors, tmp_path / "model.safetensors")
    some = {"dac": "codebook_dim", "mimi": "sliding_window"}[name]
    for change, message in (
        ({"model_type": "encodec"}, f"'encodec', not '{name}'"),
        ({some: None}, "damaged or lacks a field"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(fields | change))
        if some == "sliding_window" and some in change:
            fields.pop(some)
            (tmp_path / "config.json").write_text(json.dumps(fields))
        with pytest.raises(ModelError, match=message):
            read(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(ModelError, match=r"no config\.json"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        (
            "dac",
            {
                "sampling_rate": [0, 2**30],
                "codebook_dim": [-1],
                "codebook_size": [-1, 1],
                "encoder_hidden_size": [-1],
                "decoder_hidden_size": [0, 65],
                "downsampling_ratios": [[], [0], [4096, 4096], [2] * 99],
                "n_codebooks": [0, 10**9],
            },
        ),
        (
            "mimi",
            {
                "sampling_rate": [0],
                "upsampling_ratios": [[0], [1, 2], [4096, 4096]],
                "audio_channels": [0, -1],
                "kernel_size": [None, -1],
                "compress": [0, 3],
                "num_attention_heads": [0, 3],
                "num_quantizers": [0, 1],
                "num_semantic_quantizers": [0, 8],
                "sliding_window": [0, 10**9],
                "rope_parameters": ["x", {"rope_theta": "x"}],
                "dilation_growth_rate": [0, 10**9],
                "num_hidden_layers": [0, 10**9],
            },
        ),
    ],
)
def test_damaged_configs_are_refused_by_the_field(request, name, changes, tmp_path, damage):
    _, folder, _ = request.getfixturevalue(name)
    read = {"dac": read_dac, "mimi": read_mimi}[name]
    more = [(field, value) for field, values in changes.items() for value in values]
    more += [("encoder_hidden_size", 2**16), ("num_filters", 2**16)]
    raised = damage(folder, tmp_path, read, more)
    assert [c for c, e in raised.items() if e and not isinstance(e, ModelError)] == []
    for field, value in more[:-2]:
        with pytest.raises(ModelError, match=field):
            raise raised[field, repr(value)]
    largest = {"dac": more[-2], "mimi": more[-1]}[name]
    with pytest.raises(ModelError, match="its tensors hold"):
        raise raised[largest[0], repr(largest[1])]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_key_value_heads": 2}, "num_key_value_heads 2"),
        ({"hidden_act": "relu"}, "hidden_act"),
        ({"frame_rate": 25.0}, "frame_rate 25"),
    ],
)
def test_other_kinds_of_mimi_are_refused(mimi, tmp_path, change, message):
    _, folder, _ = mimi
    fields = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(fields | change))
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    with pytest.raises(ModelError, match=message):
        read_mimi(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dac", "mimi"])
def test_encoders_of_codes_run_in_onnxruntime(request, name, clips, tmp_path):
    *_, codec = request.getfixturevalue(name)
    encoder = CodeEncoder(codec).eval()
    clip = clips(codec.sample_rate, 1)[0]
    torch.onnx.export(
        encoder,
        (clip[:, :, :20_003].repeat(2, 1, 1),),
        tmp_path / "encoder.onnx",
        input_names=["audio"],
        dynamic_shapes=({0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC},),
        dynamo=True,
        optimize=False,
        verbose=False,
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(tmp_path / "encoder.onnx", options)
    for n_samples in (777, 16_384, 30_001):
        audio = clip[:, :, :n_samples]
        expected = codec.quantize(codec.encode(audio))
        (codes,) = session.run(None, {"audio": audio.numpy()})
        assert codes.shape == tuple(expected.shape)
        # Sums are rounded otherwise, and a code that differs changes those after it.
        assert (torch.from_numpy(codes) == expected)[:, :, 0].float().mean() > 0.99


@pytest.mark.parametrize("n_frames", [1, 7, 12])
def test_mimi_streams(mimi, clips, n_frames):
    _, _, codec = mimi
    audio = clips(24_000, 1)[0][:, :, : 1920 * 30 + 700].repeat(2, 1, 1)
    whole = codec.encode(audio)
    sound = codec.decode(whole)
    for network, inputs, dim, size in (
        (codec.encoder, audio, 2, 1920 * n_frames),
        (codec.decoder, whole, 1, n_frames),
    ):
        state, parts = torch.zeros(2, network.state_size), []
        for part in inputs.split(size, dim):
            output, state = network(part, state)
            parts.append(output)
        expected = whole if network is codec.encoder else sound
        streamed = torch.cat(parts, dim=3 - dim)
        torch.testing.assert_close(streamed, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_imported_mimi_runs_without_torch(mimi, clips, tmp_path, run_rvq):
    _, folder, ours = mimi
    run_rvq("import", "mimi", folder, tmp_path / "model")
    codec = Codec.load(tmp_path / "model")
    audio = clips(24_000, 1)[0][:, :, : 1920 * 30]
    codes = codec.encode(audio[0].numpy(), 24_000, beam_size=1)
    expected = ours.quantize(ours.encode(audio))
    equal = torch.from_numpy(codes.indices) == expected
    assert equal.float().mean() > 0.99  # sums are rounded otherwise
    output = torch.from_numpy(codec.decode(codes))
    reference = ours.decode(ours.dequantize(torch.from_numpy(codes.indices)))[0]
    torch.testing.assert_close(output, reference, atol=1e-4, rtol=0)


@pytest.mark.slow
def test_imported_dac_runs_without_torch(dac, clips, tmp_path, run_rvq):
    theirs, folder, _ = dac
    model = tmp_path / "model"
    run_rvq("import", "dac", folder, model)
    codec = Codec.load(model)
    assert codec.model_hash != Codec.load().model_hash
    # Longer than two chunks, and no whole number of hops.
    voice = torch.cat(clips(16_000, 1), dim=2)[0]
    audio = voice.repeat(1, 4)[:, : 512 * 330 + 77]
    padded = torch.nn.functional.pad(audio, (0, 512 - 77))
    for n_codebooks, bitrate in ((6, None), (2, 2 * codec.kbps_per_codebook)):
        codes = codec.encode(audio.numpy(), 16_000, bitrate)
        expected = theirs.encode(padded[None], n_codebooks).audio_codes[0]
        equal = torch.from_numpy(codes.indices[0].T) == expected
        assert equal.float().mean() > 0.99  # sums are rounded otherwise
        output = torch.from_numpy(codec.decode(codes))
        assert output.shape == audio.shape
        indices = torch.from_numpy(codes.indices.transpose(0, 2, 1))
        reference = theirs.decode(audio_codes=indices).audio_values[:, : audio.shape[1]]
        torch.testing.assert_close(output, reference, atol=1e-4, rtol=0)
    for refused in (codec.stream_encoder, codec.stream_decoder):
        with pytest.raises(InputError, match="is not causal: it looks ahead, so it cannot stream"):
            refused(channels=1, sample_rate=16_000)
    with pytest.raises(ModelError, match="constant bitrates only"):
        codec.encode(audio.numpy(), 16_000, quality=5)
    wav, file, cut, back = (tmp_path / f"x.{e}" for e in ("wav", "rvq", "cut.rvq", "back.wav"))
    soundfile.write(wav, audio[0].numpy(), 16_000, subtype="FLOAT")
    for command in (
        ["encode", wav, file, "--model", model, "--bitrate", "1.8"],
        ["trim", file, cut, "--codebooks", "2"],
        ["decode", cut, back, "--model", model],
        ["info", cut],
    ):
        run_rvq(*command)
    decoded, rate = soundfile.read(back, dtype="float32")
    assert rate == 16_000
    np.testing.assert_allclose(decoded, output[0].clamp(-1, 1).numpy(), atol=1e-4)
