"""Networks of torch as ONNX, in a model folder that `rvq.codec` loads."""

import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save
from torch import Tensor, nn

from rvq.model_folder import CODEBOOKS, DECODER, ENCODER, ModelFolder


@dataclass(frozen=True)
class Part:
    """An encoder or a decoder to be exported.

    Attributes:
        network: takes its inputs and a state `[batch, state_size]`, returns its output and the next
            state; has `state_size`. One without takes only its inputs and returns only its output.
        inputs: example of each by name, `[1, n_frames, any]`, or `audio` `[1, 1, n_samples]`.
        output: its name.
    """

    network: nn.Module
    inputs: dict[str, Tensor]
    output: str

    @property
    def state_size(self) -> int:
        """Numbers that the network remembers per item, 0 for none."""
        return int(getattr(self.network, "state_size", 0))


def write_model_folder(
    folder: Path,
    *,
    encoder: Part,
    decoder: Part,
    codebooks: npt.NDArray[np.float32],
    card: dict[str, object],
    half_weights: bool,
    projections: Mapping[str, npt.NDArray[np.float32]] | None = None,
) -> None:
    """Write a model folder.

    Args:
        folder: created if need be; what is there is replaced.
        encoder: to latents.
        decoder: from latents.
        codebooks: of the latents' residual quantizer, `[n_codebooks, codebook_size, dim]`.
        card: family, name, sample_rate, hop_length, delay, first_frames, training, and what else
            there is to say.
        half_weights: whether weights and codebooks are rounded to half precision.
        projections: other tensors of the quantizer by name, kept beside the codebooks.
    """
    precision = np.float16 if half_weights else np.float32
    tensors = {"codebooks": codebooks, **(projections or {})}
    stored = {n: np.ascontiguousarray(t.astype(precision)) for n, t in tensors.items()}
    files = {
        ENCODER: _export_network(encoder, half_weights=half_weights),
        DECODER: _export_network(decoder, half_weights=half_weights),
        CODEBOOKS: save(stored),
    }
    sizes = {
        "n_codebooks": codebooks.shape[0],
        "codebook_size": codebooks.shape[1],
        "encoder_state": encoder.state_size,
        "decoder_state": decoder.state_size,
    }
    ModelFolder.of(files, sizes | card).write(folder)


def _export_network(part: Part, *, half_weights: bool) -> bytes:
    """A network as ONNX, its batch and time free."""
    examples, outputs = dict(part.inputs), [part.output]
    if hasattr(part.network, "state_size"):
        examples["state"] = torch.zeros(1, part.state_size)
        outputs.append("next_state")
    free = torch.export.Dim.DYNAMIC
    time = {"state": {}, "audio": {2: free}}
    with tempfile.TemporaryDirectory() as temporary:
        wide = Path(temporary) / "network.onnx"
        with _silence():
            torch.onnx.export(
                part.network,
                tuple(torch.cat([x, x]) for x in examples.values()),
                wide,
                input_names=list(examples),
                output_names=outputs,
                dynamic_shapes=tuple({0: free, **time.get(name, {1: free})} for name in examples),
                dynamo=True,
                optimize=False,  # it would transpose, merge and rename weights; the runtime does it
                external_data=False,
                verbose=False,
            )
        network = onnx.load(wide)
    if half_weights:
        _halve_weights(network)
    _forget_sources(network)
    return bytes(network.SerializeToString())


@contextmanager
def _silence() -> Iterator[None]:
    """Without what the exporter says of torch's own insides and of packages that are not needed."""
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        exporter.setLevel(level)


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
