"""An exported model does what the trained one did."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import rvq
from rvq.codec.runtime import load_runtime
from rvq.errors import ModelError
from rvq.model_folder import ModelFolder
from rvq.nn.export import export, read_exported
from rvq.nn.model import CodecConfig, CodecModel
from rvq.nn.quantizer import QuantizerConfig
from rvq.nn.seanet import SEANetConfig
from rvq.nn.spectral import SpectralConfig

NETWORKS = {
    "spectral": SpectralConfig(width=24, hidden=48, encoder_blocks=2, decoder_blocks=3, dim=8),
    "no_state": SpectralConfig(
        width=24, hidden=48, encoder_blocks=1, decoder_blocks=1, dim=8, kernel_size=1, lookahead=0
    ),
    "seanet": SEANetConfig(width=4, strides=(4, 8, 10), dim=8, lstm_layers=1),
}


@pytest.fixture(scope="module", params=NETWORKS)
def model(request, speech):
    torch.manual_seed(0)
    model = CodecModel(
        CodecConfig(
            NETWORKS[request.param],
            QuantizerConfig(
                n_codebooks=3, codebook_size=32, dim=8, warmup_vectors=0, init_vectors=200
            ),
        )
    ).train()
    with torch.no_grad():
        model(torch.from_numpy(speech))
    assert model.quantizer.initialised
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "tiny"
    # An untrained SEANet's latents are too alike to choose codewords by half precision.
    half = isinstance(model.config.network, SpectralConfig)
    export(model, folder, name="tiny", facts={"step": 7}, half_weights=half)
    return folder


def test_codes_and_audio_agree(model, folder, speech):
    codec = rvq.Codec.load(folder)
    audio = torch.from_numpy(speech)
    codes = codec.encode(speech, 24_000, beam_size=1)
    expected = model.quantizer(model.encode(audio)).codes
    assert codes.indices.shape == expected.shape
    # Weights are stored in half precision: only near ties may fall the other way.
    assert (codes.indices == expected.numpy()).mean() > 0.95
    latents = model.quantizer.decode(torch.from_numpy(codes.indices))
    decoded = model.decode(latents, audio.shape[1]).numpy()
    error = np.square(decoded - codec.decode(codes)).sum() / np.square(decoded).sum()
    assert error < 1e-4


@pytest.mark.parametrize("n_samples", [1, 319, 320, 321, 7_777])
def test_any_length_agrees(model, folder, speech, n_samples):
    codec = rvq.Codec.load(folder)
    codes = codec.encode(speech[:, 20_000 : 20_000 + n_samples], 24_000)
    expected = model.encode(torch.from_numpy(speech[:, 20_000 : 20_000 + n_samples]))
    assert codes.indices.shape[1] == expected.shape[1]
    latents = model.quantizer.decode(torch.from_numpy(codes.indices))
    np.testing.assert_allclose(
        codec.decode(codes), model.decode(latents, n_samples).numpy(), atol=0.01
    )


def test_latents_agree(model, folder, speech):
    runtime = load_runtime(folder)
    audio = speech[:, : 100 * 320]
    latents = runtime.encode(audio, runtime.start("encoder", 1))
    expected = model.encode(torch.from_numpy(audio)).numpy()[:, :100]
    assert np.square(latents - expected).sum() < 1e-4 * np.square(expected).sum()


def test_the_card_says_what_it_is(model, folder):
    card = json.loads((folder / "model.json").read_text())
    assert card["name"] == "tiny"
    assert (
        card["family"]
        == {"SpectralConfig": "spectral", "SEANetConfig": "waveform"}[
            type(model.config.network).__name__
        ]
    )
    assert card["training"] == {"step": 7}
    assert rvq.Codec.load(folder).model_hash == card["hash"]
    assert rvq.Codec.load(folder).kbps_per_codebook == 75 * 5 / 1000


def test_exporting_twice_gives_the_same_model(model, folder, tmp_path):
    half = isinstance(model.config.network, SpectralConfig)
    export(model, tmp_path, name="tiny", facts={}, half_weights=half)
    assert rvq.Codec.load(tmp_path).model_hash == rvq.Codec.load(folder).model_hash


def test_pieces_agree_with_the_whole(folder, speech):
    runtime = load_runtime(folder)
    audio = speech[:, : 60 * 320 + 100]
    if runtime.delay:  # such networks are given whole hops
        audio = audio[:, : 60 * 320]
    latents = runtime.encode(audio, runtime.start("encoder", 1))
    decoded = runtime.decode(latents, runtime.start("decoder", 1))
    for n_frames in (runtime.first_frames, 25):
        encoder, decoder = runtime.start("encoder", 1), runtime.start("decoder", 1)
        hops, first = n_frames * 320, runtime.first_frames
        starts = range(0, audio.shape[1], hops)
        parts = [runtime.encode(audio[:, i : i + hops], encoder) for i in starts]
        np.testing.assert_allclose(np.concatenate(parts, axis=1), latents, atol=1e-5)
        pieces = [latents[:, :first], *np.split(latents[:, first:], range(1, 40), axis=1)]
        parts = [runtime.decode(piece, decoder) for piece in pieces if piece.shape[1]]
        np.testing.assert_allclose(np.concatenate(parts, axis=1), decoded, atol=1e-5)


def test_weights_can_stay_as_they_are(model, tmp_path, speech):
    export(model, tmp_path, name="tiny", facts={}, half_weights=False)
    audio = speech[:, : 50 * 320]
    runtime = load_runtime(tmp_path)
    latents = runtime.encode(audio, runtime.start("encoder", 1))
    expected = model.encode(torch.from_numpy(audio)).numpy()[:, :50]
    np.testing.assert_allclose(latents, expected, atol=1e-4 * np.abs(expected).max())
    assert (runtime.codebooks == model.quantizer.codebooks().numpy()).all()


def test_training_can_start_from_it(model, folder):
    again = read_exported(folder)
    assert again.config == model.config
    assert again.quantizer.initialised
    for (name, p), q in zip(model.named_parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(q, p, atol=1e-3, rtol=1e-3, msg=name)
    torch.testing.assert_close(
        again.quantizer.codebooks(), model.quantizer.codebooks(), atol=1e-2, rtol=1e-3
    )


def test_what_is_no_model_to_train_on(folder, tmp_path):
    with pytest.raises(ModelError, match="no model"):
        read_exported(tmp_path)
    whole = ModelFolder.read(folder)
    for file in whole.files:
        whole.write(tmp_path)
        (tmp_path / file).write_bytes(b"{}")
        with pytest.raises(ModelError, match="do not match its card"):
            read_exported(tmp_path)
        ModelFolder.of(whole.files | {file: b"{}"}, whole.card).write(tmp_path)
        with pytest.raises(ModelError, match="no model to train on"):
            read_exported(tmp_path)
    whole.write(tmp_path)
    read_exported(tmp_path)


def test_nothing_of_the_build_machine_is_in_it(folder):
    traces = [str(folder.parent), str(Path.home()), str(Path(rvq.__file__).parents[1]), ".py"]
    for path in folder.iterdir():
        for trace in traces:
            assert trace.encode() not in path.read_bytes(), path
