"""CodecModel -> the folder that `rvq.codec` loads: two ONNX networks, codebooks, a card; and back.

Weights may be stored in half precision and widened when the runtime loads them, which halves the
package; the arithmetic stays float32. They keep the names of the model's parameters, so that
training can start from an exported model.
"""

import hashlib
import json
import tempfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx
import torch
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper, numpy_helper
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load, save
from torch import nn
from torch.nn.utils import parametrize

from rvq.errors import ModelError
from rvq.nn.convolution import fold_weight_norm
from rvq.nn.model import CodecConfig, CodecModel
from rvq.nn.spectral import SpectralConfig

FORMAT = 2
"""Of the model folder; raised when an older runtime could not load it."""


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
    folder.mkdir(parents=True, exist_ok=True)
    trained, model = model, CodecModel(model.config).eval()  # a copy's parametrizations are shared
    model.load_state_dict(trained.state_dict())
    fold_weight_norm(model)
    network = model.config.network
    spectral = isinstance(network, SpectralConfig)
    audio = torch.zeros(1, 2 * network.first_frames * network.hop_length)
    inputs = model.transform.analyse(audio)
    latents = torch.zeros(1, 2 * network.first_frames, network.dim)
    _export_network(
        model.encoder,
        (*inputs, torch.zeros(1, model.encoder.state_size)),
        inputs=["cosine", "sine", "state"] if spectral else ["audio", "state"],
        outputs=["latents", "next_state"],
        axis=1 if spectral else 2,
        half_weights=half_weights,
        path=folder / "encoder.onnx",
    )
    _export_network(
        model.decoder,
        (latents, torch.zeros(1, model.decoder.state_size)),
        inputs=["latents", "state"],
        outputs=["coefficients" if spectral else "audio", "next_state"],
        axis=1,
        half_weights=half_weights,
        path=folder / "decoder.onnx",
    )
    precision = np.float16 if half_weights else np.float32
    codebooks = model.quantizer.codebooks().numpy().astype(precision)
    (folder / "codebooks.safetensors").write_bytes(save({"codebooks": codebooks}))
    files = ["encoder.onnx", "decoder.onnx", "codebooks.safetensors"]
    digest = hashlib.sha256()
    for file in files:
        digest.update((folder / file).read_bytes())
    card = {
        "format": FORMAT,
        "family": "spectral" if spectral else "waveform",
        "name": name,
        "hash": digest.hexdigest(),
        "sample_rate": network.sample_rate,
        "hop_length": network.hop_length,
        "delay": network.delay,
        "first_frames": network.first_frames,
        "n_codebooks": model.config.quantizer.n_codebooks,
        "codebook_size": model.config.quantizer.codebook_size,
        "encoder_state": model.encoder.state_size,
        "decoder_state": model.decoder.state_size,
        "model": asdict(model.config),
        "training": facts,
    }
    (folder / "model.json").write_text(json.dumps(card, indent=1) + "\n")


def _export_network(
    module: nn.Module,
    example: tuple[torch.Tensor, ...],
    *,
    inputs: list[str],
    outputs: list[str],
    axis: int,
    half_weights: bool,
    path: Path,
) -> None:
    """Write a network whose batch and `axis` of time are free."""
    batch, time = torch.export.Dim.DYNAMIC, torch.export.Dim.DYNAMIC
    shapes = tuple({0: batch, axis: time} if n != "state" else {0: batch} for n in inputs)
    with tempfile.TemporaryDirectory() as temporary:
        wide = Path(temporary) / "network.onnx"
        torch.onnx.export(
            module,
            tuple(torch.cat([x, x]) for x in example),
            wide,
            input_names=inputs,
            output_names=outputs,
            dynamic_shapes=shapes,
            dynamo=True,
            optimize=False,  # which would transpose, merge and rename weights; the runtime does it
            external_data=False,
            verbose=False,
        )
        network = onnx.load(wide)
    if half_weights:
        _halve_weights(network)
    _forget_sources(network)
    onnx.save(network, path)


def _halve_weights(network: onnx.ModelProto) -> None:
    """Store large weights as float16, each followed by a cast that the runtime folds on loading."""
    casts = []
    for weight in network.graph.initializer:
        values = numpy_helper.to_array(weight)
        if values.dtype != np.float32 or values.size < 1024:
            continue
        name = weight.name
        weight.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}_half"))
        casts.append(helper.make_node("Cast", [f"{name}_half"], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *network.graph.node]
    del network.graph.node[:]
    network.graph.node.extend(nodes)
    del network.graph.value_info[:]


def _forget_sources(network: onnx.ModelProto) -> None:
    """Drop notes on source lines: they bloat the file and name folders of the build machine."""
    for node in network.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    del network.metadata_props[:]
    del network.graph.metadata_props[:]


def read_exported(folder: Path) -> CodecModel:
    """The model that `export` wrote, ready to be trained on.

    Raises:
        ModelError: there is no model, it is damaged or of another version.
    """
    try:
        card = json.loads((folder / "model.json").read_text())
        config = TypeAdapter(CodecConfig).validate_python(card["model"])
        model = CodecModel(config)
        for part in ("encoder", "decoder"):
            _read_weights(onnx.load(folder / f"{part}.onnx"), getattr(model, part))
        codebooks = load((folder / "codebooks.safetensors").read_bytes())["codebooks"]
        model.quantizer.set_codebooks(torch.from_numpy(codebooks.astype(np.float32)))
    except OSError as error:
        raise ModelError(f"no model at {folder}: {error.strerror}") from None
    except (
        ValueError,
        KeyError,
        RuntimeError,
        ValidationError,
        SafetensorError,
        DecodeError,
    ) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(
            f"{folder} holds no model to train on, or a damaged one: {reason}"
        ) from None
    return model


@torch.no_grad()
def _read_weights(network: onnx.ModelProto, module: nn.Module) -> None:
    """Put weights back under their names."""
    stored = {
        weight.name.removesuffix("_half"): numpy_helper.to_array(weight).astype(np.float32)
        for weight in network.graph.initializer
    }
    for path, layer in module.named_modules():
        if isinstance(layer, parametrize.ParametrizationList):
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
