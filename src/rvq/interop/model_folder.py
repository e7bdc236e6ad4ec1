"""Folders of imported models for `rvq.codec`, whose networks take samples as they are."""

import hashlib
import json
from pathlib import Path

import torch
from safetensors.numpy import save
from torch import Tensor, nn

from rvq.nn.export import FORMAT, _export_network


def write_model_folder(
    folder: Path,
    *,
    encoder: nn.Module,
    decoder: nn.Module,
    codebooks: Tensor,
    name: str,
    sample_rate: int,
    hop_length: int,
    facts: dict[str, object],
) -> None:
    """Write a model folder.

    Args:
        folder: created if need be; what is there is replaced.
        encoder: audio `[batch, 1, n_samples]`, state -> vectors `[batch, n_frames, dim]`, state;
            with `state_size`.
        decoder: vectors, state -> audio, state; without delay.
        codebooks: of the vectors' residual quantizer, `[n_codebooks, codebook_size, dim]`.
        name: of the model.
        sample_rate: Hz.
        hop_length: samples per frame.
        facts: about where the model is from, for its card.
    """
    folder.mkdir(parents=True, exist_ok=True)
    dim, sizes = codebooks.shape[2], {}
    for part, network, example, axis in (
        ("encoder", encoder, torch.zeros(1, 1, 5 * hop_length), 2),
        ("decoder", decoder, torch.zeros(1, 5, dim), 1),
    ):
        sizes[part] = int(network.state_size)  # type: ignore[arg-type]
        _export_network(
            network,
            (example, torch.zeros(1, sizes[part])),
            inputs=["audio" if part == "encoder" else "latents", "state"],
            outputs=["latents" if part == "encoder" else "audio", "next_state"],
            axis=axis,
            half_weights=False,
            path=folder / f"{part}.onnx",
        )
    (folder / "codebooks.safetensors").write_bytes(save({"codebooks": codebooks.numpy()}))
    digest = hashlib.sha256()
    for file in ("encoder.onnx", "decoder.onnx", "codebooks.safetensors"):
        digest.update((folder / file).read_bytes())
    card = {
        "format": FORMAT,
        "family": "waveform",
        "name": name,
        "hash": digest.hexdigest(),
        "sample_rate": sample_rate,
        "hop_length": hop_length,
        "delay": 0,
        "first_frames": 1,
        "n_codebooks": codebooks.shape[0],
        "codebook_size": codebooks.shape[1],
        "encoder_state": sizes["encoder"],
        "decoder_state": sizes["decoder"],
        "training": facts,
    }
    (folder / "model.json").write_text(json.dumps(card, indent=1) + "\n")
