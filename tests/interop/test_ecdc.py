"""`.ecdc` files: written by either side, read by the other."""

import hashlib
import importlib
import io
import json
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from rvq.cli.app import app
from rvq.errors import FormatError, InputError, ModelError
from rvq.interop import encodec as interop_encodec
from rvq.interop.ecdc import EcdcFile, Segment, dumps, loads, quantized_cdf
from rvq.interop.encodec import read_encodec, read_language_model
from rvq.nn.code_transformer import CodeProbabilities

MODELS = {"encodec_24khz": (24_000, 32), "encodec_48khz": (48_000, 16)}


def recording(name, n_samples, n_codebooks, seed=0):
    """A file of random codes, the low ones more often."""
    from rvq.interop.ecdc import _LAYOUTS

    rng = np.random.default_rng(seed)
    segments = tuple(
        Segment(
            np.minimum(rng.geometric(0.01, size=(n, n_codebooks)) - 1, 1023),
            1.0 if name == "encodec_24khz" else float(np.float32(rng.random())),
        )
        for n in _LAYOUTS[name].lengths(n_samples)
    )
    return EcdcFile(name, n_samples, segments)


def same(a, b):
    return (
        (a.model, a.n_samples) == (b.model, b.n_samples)
        and [s.scale for s in a.segments] == [s.scale for s in b.segments]
        and all((s.codes == t.codes).all() for s, t in zip(a.segments, b.segments, strict=True))
    )


@pytest.fixture(scope="module", params=sorted(MODELS))
def theirs(request, encodec, strengthen, codebooks_from, clips, tmp_path_factory):
    """The package's model and language model, which their programs load, and ours of them."""
    from encodec.model import LMModel

    compress = importlib.import_module("encodec.compress")
    name = request.param
    rate, n_codebooks = MODELS[name]
    torch.manual_seed(0)
    kind = encodec.EncodecModel
    build = kind.encodec_model_24khz if rate == 24_000 else kind.encodec_model_48khz
    model = build(pretrained=False).requires_grad_(False)
    model.name = name
    strengthen(model)
    latents = [model.encoder(x[:, :, :rate]).transpose(1, 2) for x in clips(rate, model.channels)]
    for layer, book in zip(
        model.quantizer.vq.layers, codebooks_from(latents, n_codebooks, 1024), strict=True
    ):
        layer._codebook.embed.copy_(book)
    lm = LMModel(n_codebooks, 1024, num_layers=5, dim=200, past_context=int(3.5 * rate / 320))
    lm.eval().requires_grad_(False)
    model.get_lm_model = lambda: lm
    folder = tmp_path_factory.mktemp("theirs")
    torch.save(model.state_dict(), folder / f"{name}.th")
    torch.save(lm.state_dict(), folder / "lm.th")
    before = dict(compress.MODELS)
    compress.MODELS[name] = lambda: model
    ours = read_encodec(folder / f"{name}.th")
    yield compress, model, ours, read_language_model(folder / "lm.th"), folder / "lm.th"
    compress.MODELS.update(before)


@pytest.mark.parametrize("with_model", [False, True])
def test_either_side_reads_what_the_other_wrote(theirs, clips, with_model):
    compress, model, ours, language_model, _ = theirs
    rate = ours.sample_rate
    kbps = 1.5 if rate == 24_000 else 3.0
    model.set_target_bandwidth(kbps)
    probabilities = CodeProbabilities(language_model) if with_model else None
    audio = clips(rate, ours.channels)[0][0, :, : round((0.8 if with_model else 1.5) * rate)]
    with torch.no_grad():
        written = compress.compress(model, audio, use_lm=with_model)
    read = loads(written, probabilities)
    assert read.model == ours.name
    assert read.n_samples == audio.shape[1]
    segments = ours.compress(audio, int(kbps * 1000 / (rate / 320 * 10)))
    for mine, his in zip(segments, read.segments, strict=True):
        assert (mine.codes == his.codes).all()
        assert mine.scale == pytest.approx(his.scale)
    again = dumps(read, probabilities)
    assert again == written
    output, _ = compress.decompress(again)
    expected = ours.decompress(list(read.segments), read.n_samples)
    torch.testing.assert_close(output, expected, atol=1e-4, rtol=0)


def test_every_codebook_with_the_language_model(theirs):
    compress, _, ours, language_model, _ = theirs
    file = recording(ours.name, 3200, ours.n_codebooks)
    data = dumps(file, CodeProbabilities(language_model))
    assert same(loads(data, CodeProbabilities(language_model)), file)
    codes = []
    decode = compress.EncodecModel.decode
    try:
        compress.EncodecModel.decode = lambda _, frames: (
            codes.extend(frames) or torch.zeros(1, 2, 9)
        )
        compress.decompress(data)
    finally:
        compress.EncodecModel.decode = decode
    for (their_codes, _), segment in zip(codes, file.segments, strict=True):
        assert (their_codes[0].T.numpy() == segment.codes).all()


def test_language_models_are_refused_by_the_tensor(theirs, tmp_path):
    *_, path = theirs
    state = torch.load(path)
    state.pop("transformer.layers.2.norm1.bias")
    torch.save(state, tmp_path / "lm.th")
    with pytest.raises(ModelError, match=r"no tensor transformer\.layers\.2\.norm1\.bias"):
        read_language_model(tmp_path / "lm.th")


def test_distributions_are_divided_as_theirs(encodec):
    from encodec.quantization.ac import build_stable_quantized_cdf

    torch.manual_seed(0)
    for scale in (0.1, 1, 5, 30):
        p = torch.softmax(torch.randn(7, 1024) * scale, dim=1)
        expected = torch.stack([build_stable_quantized_cdf(row, 24) for row in p])
        assert (torch.from_numpy(quantized_cdf(p.numpy())) == expected).all()


class Skewed:
    """Probabilities far from even, another set for every frame."""

    def start(self):
        self.rng = np.random.default_rng(3)

    def probabilities(self, previous, n_codebooks):
        logits = self.rng.normal(size=(n_codebooks, 1024)) * 6 - np.arange(1024) / 60
        p = np.exp(logits - logits.max(1, keepdims=True))
        return (p / p.sum(1, keepdims=True)).astype(np.float32)


def test_the_arithmetic_coder_is_theirs(encodec):
    from encodec.quantization.ac import ArithmeticCoder

    file = recording("encodec_24khz", 9600, 8)
    data = dumps(file, Skewed())
    stream, model = io.BytesIO(), Skewed()
    coder = ArithmeticCoder(stream)
    model.start()
    for frame in file.segments[0].codes:
        for code, cdf in zip(frame, quantized_cdf(model.probabilities(None, 8)), strict=True):
            coder.push(int(code), torch.from_numpy(cdf))
    coder.flush()
    assert data.endswith(stream.getvalue())
    assert same(loads(data, Skewed()), file)


@settings(max_examples=20, deadline=None)
@given(
    name=st.sampled_from(sorted(MODELS)),
    n_samples=st.integers(1, 120_000),
    n_codebooks=st.integers(1, 16),
)
def test_plain_files_come_back(name, n_samples, n_codebooks):
    file = recording(name, n_samples, n_codebooks)
    assert same(loads(dumps(file)), file)


def test_damaged_files_are_refused():
    data = dumps(recording("encodec_24khz", 5000, 4))
    start = data.index(b"}") + 1
    for at in range(start, len(data)):
        with pytest.raises(FormatError, match="ends in segment 1"):
            loads(data[:at])
    for at in range(start):
        with pytest.raises(FormatError):
            loads(data[:at])
    coded = dumps(recording("encodec_24khz", 5000, 4), Skewed())
    with pytest.raises(FormatError, match="ends in segment 1"):
        loads(coded[:-3], Skewed())
    with pytest.raises(ModelError, match="language model"):
        loads(coded)
    for change, message in (
        ((b"ECDC\0", b"ECDC\1"), "version 1"),
        ((b"ECDC", b"RIFF"), "not an .ecdc file"),
        ((b"encodec_24khz", b"encodec_96khz"), "encodec_96khz"),
        ((b'"nc": 4', b'"nc": 0'), "0 codebooks"),
        ((b'"al": 5000', b'"xx": 5000'), "header of the .ecdc file is damaged"),
        ((b'"al": 5000', b'"al": 1e99'), "ends in segment 1"),
    ):
        with pytest.raises(FormatError, match=message):
            loads(data.replace(*change))


@pytest.mark.parametrize("model", [None, Skewed()])
@pytest.mark.parametrize("name", MODELS)
def test_lengths_that_no_file_can_have_cost_nothing(name, model):
    """Neither time nor memory is spent on what a header only says."""
    data = dumps(recording(name, 5000, 4), model)
    for header, message in (
        ({"al": 10**18}, "cut short"),
        ({"al": float("inf")}, "damaged"),
        ({"al": [[]]}, "damaged"),
    ):
        meta = {"m": name, "nc": 4, "lm": model is not None} | header
        text = json.dumps(meta).encode()
        whole = b"ECDC\0" + len(text).to_bytes(4, "big") + text + data[data.index(b"}") + 1 :]
        tracemalloc.start()
        with pytest.raises(FormatError, match=message):
            loads(whole, model)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
        tracemalloc.stop()
    nested = b"[" * 100_000
    with pytest.raises(FormatError, match="damaged"):
        loads(b"ECDC\0" + len(nested).to_bytes(4, "big") + nested)


def test_scales_that_are_no_numbers_are_refused():
    whole = recording("encodec_48khz", 5000, 4)
    data = dumps(EcdcFile(whole.model, 5000, (Segment(whole.segments[0].codes, np.nan),)))
    with pytest.raises(FormatError, match="scale nan"):
        loads(data)


def test_codes_that_do_not_fit_are_refused():
    whole = recording("encodec_24khz", 5000, 4)
    for segments, message in (
        ((), "got"),
        ((Segment(whole.segments[0].codes[1:]),), "segments of"),
        ((Segment(whole.segments[0].codes + 900),), r"0\.\.1023"),
    ):
        with pytest.raises(InputError, match=message):
            dumps(EcdcFile("encodec_24khz", 5000, segments))
    with pytest.raises(InputError, match="not of 'speech'"):
        dumps(EcdcFile("speech", 5000, whole.segments))


def test_plain_files_need_no_torch():
    program = "import sys, rvq.interop.ecdc; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.fixture
def wav(tmp_path, clips):
    path = tmp_path / "clip.wav"
    soundfile.write(path, clips(24_000, 1)[0][0, 0, :20_000].numpy(), 24_000)
    return path


def rvq(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_command_line_writes_and_reads_what_the_package_does(theirs, wav, tmp_path):
    compress, _, ours, _, lm_path = theirs
    checkpoint = lm_path.parent / f"{ours.name}.th"
    folder = checkpoint
    if ours.sample_rate == 24_000:
        folder = tmp_path / "model"
        result = rvq("import", "encodec", checkpoint, folder)
        assert result.exit_code == 0, result.output
    ecdc, back = tmp_path / "clip.ecdc", tmp_path / "back.wav"
    result = rvq("encode", wav, ecdc, "--model", folder, "--beam-size", 1)
    assert result.exit_code == 0, result.output
    read = loads(ecdc.read_bytes())
    assert read.n_samples == 20_000 * ours.sample_rate / 24_000
    assert read.segments[0].codes.shape[1] == (8 if ours.sample_rate == 24_000 else 4)  # 6 kbps
    result = rvq("decode", ecdc, back, "--model", folder)
    assert result.exit_code == 0, result.output
    audio, rate = soundfile.read(back, dtype="float32", always_2d=True)
    expected, their_rate = compress.decompress(ecdc.read_bytes())
    assert rate == their_rate
    assert audio.shape[1] == ours.channels
    clipped = expected.T.clamp(-1, 1).numpy()
    np.testing.assert_allclose(audio, clipped, atol=3e-4)  # 16-bit samples
    smaller, again = tmp_path / "smaller.ecdc", tmp_path / "again.wav"
    models = ("--model", folder, "--language-model", lm_path)
    result = rvq("encode", wav, smaller, "--beam-size", 1, "--bitrate", 3, *models)
    assert result.exit_code == 0, result.output
    with_model = loads(smaller.read_bytes(), CodeProbabilities(read_language_model(lm_path)))
    first, second = read.segments[0].codes, with_model.segments[0].codes
    assert (second == first[:, : second.shape[1]]).all()
    result = rvq("decode", smaller, again, *models)
    assert result.exit_code == 0, result.output
    assert soundfile.info(again).frames == soundfile.info(back).frames
    result = rvq("decode", smaller, tmp_path / "none.wav", "--model", folder)
    assert "--language-model" in str(result.exception)
    if ours.sample_rate == 48_000:
        other = tmp_path / "other.ecdc"
        other.write_bytes(dumps(recording("encodec_24khz", 3200, 4)))
        result = rvq("decode", other, tmp_path / "other.wav", "--model", checkpoint)
        assert isinstance(result.exception, ModelError)
        assert "made with encodec_24khz" in str(result.exception)
        assert not (tmp_path / "other.wav").exists()


@pytest.fixture
def hugging_face_model(tmp_path):
    """Import a random model of EnCodec's kind that is much smaller; returns the model folder."""
    transformers = pytest.importorskip("transformers")

    def imported(**fields):
        config = transformers.EncodecConfig(
            num_filters=4, hidden_size=16, num_lstm_layers=1, target_bandwidths=[1.5, 6.0], **fields
        )
        transformers.EncodecModel(config).save_pretrained(tmp_path / "theirs")
        result = rvq("import", "encodec", tmp_path / "theirs", tmp_path / "model")
        assert result.exit_code == 0, result.output
        return tmp_path / "model"

    return imported


def test_files_of_other_weights_are_told_of(hugging_face_model, wav, tmp_path):
    model, ecdc = hugging_face_model(), tmp_path / "x.ecdc"
    program = "from rvq.cli import main; main()"
    for source in (model, tmp_path / "theirs"):
        command = [sys.executable, "-c", program, "encode", wav, ecdc, "--model", source, "--force"]
        run = subprocess.run(command, check=True, capture_output=True, text=True)
        assert run.stderr.count("\n") == 1
        assert f"{ecdc} names encodec_24khz, but" in run.stderr
        assert loads(ecdc.read_bytes()).model == "encodec_24khz"
        result = rvq("decode", ecdc, tmp_path / "x.wav", "--model", source, "--force")
        assert result.exit_code == 0, result.output


def test_files_of_published_weights_are_not_told_of(theirs, wav, tmp_path, monkeypatch, caplog):
    """Meta's file is known by its hash, as a checkpoint and in a folder imported from it."""
    _, _, ours, _, lm_path = theirs
    checkpoint = lm_path.parent / f"{ours.name}.th"
    ecdc = tmp_path / "x.ecdc"
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    for published in (False, True):
        if published:
            monkeypatch.setitem(interop_encodec._PUBLISHED, ours.name, digest[:8])
        models = [checkpoint]
        if ours.sample_rate == 24_000:  # the other takes long to export
            models.append(tmp_path / "model")
            rvq("import", "encodec", checkpoint, models[-1], "--force")
        for model in models:
            caplog.clear()
            result = rvq("encode", wav, ecdc, "--model", model, "--force", "--beam-size", 1)
            assert result.exit_code == 0, result.output
            assert ("not known to be those that Meta" in caplog.text) is not published


def test_frames_that_no_file_can_have_are_refused(hugging_face_model, wav, tmp_path):
    model = hugging_face_model(upsampling_ratios=[8, 5, 4])
    for command in (["encode", wav, "x.ecdc"], ["decode", "x.ecdc", "x.wav"]):
        at = [tmp_path / name if name in ("x.ecdc", "x.wav") else name for name in command]
        (tmp_path / "x.ecdc").write_bytes(dumps(recording("encodec_24khz", 3200, 4)))
        result = rvq(*at, "--model", model, "--force")
        with pytest.raises(ModelError, match=r"frames of 320 samples .* has 160"):
            raise result.exception


def test_the_command_line_refuses_in_one_sentence(wav, tmp_path):
    for options, message in (
        ((), r"not of the model speech_24khz; give a folder written by `rvq import encodec`"),
        (("--quality", 3), "no metadata; give --bitrate"),
        (("--title", "x"), "no metadata; give --bitrate"),
        (("--model", tmp_path / "none"), "no model"),
    ):
        result = rvq("encode", wav, tmp_path / "x.ecdc", *options)
        assert isinstance(result.exception, (InputError, ModelError))
        with pytest.raises(type(result.exception), match=message):
            raise result.exception
    assert not (tmp_path / "x.ecdc").exists()
