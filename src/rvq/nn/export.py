"""CodecModel -> the folder that `rvq.codec` loads: two ONNX networks, codebooks, a card; and back.

Weights are stored in half precision and widened when the runtime loads them, which halves the
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

from rvq.errors import ModelError
from rvq.nn.model import CodecConfig, CodecModel

FORMAT = 2
"""Of the model folder; raised when an older runtime could not load it."""


def export(model: CodecModel, folder: Path, *, name: str, facts: dict[str, object]) -> None:
    """Write the model folder.

    Args:
        model: trained, in evaluation mode.
        folder: created if need be; what is there is replaced.
        name: of the model.
        facts: about its training, for the card.
    """
    folder.mkdir(parents=True, exist_ok=True)
    network = model.config.network
    frames = torch.zeros(1, 4, network.hop_length)
    latents = torch.zeros(1, 4, network.dim)
    encoder_state = torch.zeros(1, model.encoder.state_size)
    decoder_state = torch.zeros(1, model.decoder.state_size)
    _export_network(
        model.encoder,
        (frames, frames + 1, encoder_state),
        inputs=["cosine", "sine", "state"],
        outputs=["latents", "next_state"],
        path=folder / "encoder.onnx",
    )
    _export_network(
        model.decoder,
        (latents, decoder_state),
        inputs=["latents", "state"],
        outputs=["coefficients", "next_state"],
        path=folder / "decoder.onnx",
    )
    codebooks = model.quantizer.codebooks().numpy().astype(np.float16)
    (folder / "codebooks.safetensors").write_bytes(save({"codebooks": codebooks}))
    files = ["encoder.onnx", "decoder.onnx", "codebooks.safetensors"]
    digest = hashlib.sha256()
    for file in files:
        digest.update((folder / file).read_bytes())
    card = {
        "format": FORMAT,
        "name": name,
        "hash": digest.hexdigest(),
        "sample_rate": network.sample_rate,
        "hop_length": network.hop_length,
        "delay": network.delay,
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
    path: Path,
) -> None:
    batch, time = torch.export.Dim("batch"), torch.export.Dim("n_frames")
    state = {0: batch}
    shapes = tuple({0: batch, 1: time} if n != "state" else state for n in inputs)
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
    for name, parameter in module.named_parameters():
        parameter.copy_(torch.from_numpy(stored[name]))
