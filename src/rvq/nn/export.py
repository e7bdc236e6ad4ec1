"""CodecModel -> the folder that `rvq.codec` loads: two ONNX networks, codebooks, a card; and back.

Weights may be stored in half precision and widened when the runtime loads them, which halves the
package; the arithmetic stays float32. They keep the names of the model's parameters, so that
training can start from an exported model.
"""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from pydantic import TypeAdapter
from safetensors import SafetensorError
from safetensors.numpy import load
from torch import nn
from torch.nn.utils import parametrize

from rvq.errors import ModelError
from rvq.model_folder import CODEBOOKS, DECODER, ENCODER, ModelFolder
from rvq.nn.convolution import prepare_export, restore_lstm
from rvq.nn.model import CodecConfig, CodecModel
from rvq.nn.onnx_networks import Part, write_model_folder
from rvq.nn.spectral import SpectralConfig
from rvq.onnx_weights import read_weights


def export(
    model: CodecModel,
    folder: Path,
    *,
    name: str,
    facts: dict[str, object],
    half_weights: bool = True,
) -> None:
    """Write the model folder.

    Args:
        model: trained, in evaluation mode.
        folder: created if need be; what is there is replaced.
        name: of the model.
        facts: about its training, for the card.
        half_weights: whether weights and codebooks are rounded to half precision.
    """
    trained, model = model, CodecModel(model.config).eval()  # a copy's parametrizations are shared
    model.load_state_dict(trained.state_dict())
    prepare_export(model)
    network = model.config.network
    spectral = isinstance(network, SpectralConfig)
    n_frames = 2 * network.first_frames
    inputs = model.transform.analyse(torch.zeros(1, n_frames * network.hop_length))
    names = ("cosine", "sine") if spectral else ("audio",)
    latents = {"latents": torch.zeros(1, n_frames, network.dim)}
    write_model_folder(
        folder,
        encoder=Part(model.encoder, dict(zip(names, inputs, strict=True)), "latents"),
        decoder=Part(model.decoder, latents, "coefficients" if spectral else "audio"),
        codebooks=model.quantizer.codebooks().numpy(),
        card={
            "family": "spectral" if spectral else "waveform",
            "name": name,
            "sample_rate": network.sample_rate,
            "hop_length": network.hop_length,
            "delay": network.delay,
            "first_frames": network.first_frames,
            "model": asdict(model.config),
            "training": facts,
        },
        half_weights=half_weights,
    )


def read_exported(folder: Path) -> CodecModel:
    """The model that `export` wrote, ready to be trained on.

    Raises:
        ModelError: there is no model, it is damaged or of another version.
    """
    stored = ModelFolder.read(folder)
    try:
        model = CodecModel(TypeAdapter(CodecConfig).validate_python(stored.card["model"]))
        _put_back(read_weights(stored.files[ENCODER]), model.encoder)
        _put_back(read_weights(stored.files[DECODER]), model.decoder)
        codebooks = load(stored.files[CODEBOOKS])["codebooks"]
        model.quantizer.set_codebooks(torch.from_numpy(codebooks.astype(np.float32)))
    except (ValueError, KeyError, RuntimeError, SafetensorError, ModelError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"{folder} holds no model to train on: {reason}") from None
    return model


@torch.no_grad()
def _put_back(stored: dict[str, npt.NDArray[np.float32]], module: nn.Module) -> None:
    """Put weights back under their names."""
    for path, layer in module.named_modules():
        if isinstance(layer, parametrize.ParametrizationList):
            continue
        if isinstance(layer, nn.LSTM):
            start = f"{path}."
            restore_lstm(
                layer,
                {
                    name.removeprefix(start): torch.from_numpy(value)
                    for name, value in stored.items()
                    if name.startswith(start)
                },
            )
            continue
        names = [name for name, _ in layer.named_parameters(recurse=False)]
        if parametrize.is_parametrized(layer, "weight"):
            names.append("weight")
        for name in names:  # assignment to a weight-normed weight finds its direction and length
            value = torch.from_numpy(stored[f"{path}.{name}".removeprefix(".")])
            if name == "weight" and parametrize.is_parametrized(layer, name):
                layer.weight = value
            else:
                getattr(layer, name).copy_(value)
