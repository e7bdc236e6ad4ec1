"""Learning EnCodec's Transformer over codes from the codes of any model (arXiv 2210.13438, 3.3).

What comes out serves `.ecdc` files with a language model, and comparisons. It is floating point and
never decides a symbol of an `.rvq` file: those are coded by the integer networks of
`rvq.train.entropy`, which every machine evaluates alike.
"""

import json
import math
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError
from safetensors.torch import save_file
from torch import nn

from rvq.codec.codec import Codec
from rvq.errors import InputError, first_problem
from rvq.nn.code_transformer import CodeTransformer, CodeTransformerConfig, tensor_name
from rvq.progress import Progress
from rvq.replacing import replacing
from rvq.train.codes import Integers, gather
from rvq.train.trainer import pick_precision
from rvq.train.yaml_file import read_yaml

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]

_POSITIONS = round(2 * math.pi * 10_000)
"""Frames after which the slowest of the sines that mark positions begins anew."""


class LearningConfig(BaseModel):
    """Shape and schedule, EnCodec's unless said otherwise.

    Attributes:
        n_codebooks: the first ones of the model; default all. Half of these, a quarter and so on
            down to two are learned as well, so that one Transformer serves every bitrate.
        dim, hidden, n_layers, n_heads: see `rvq.nn.code_transformer.CodeTransformerConfig`.
        past_seconds: how far back attention reaches.
        crop_seconds: length of the sequences learned from.
        batch_size: sequences per step.
        steps: of AdamW.
        warmup_steps: in which the learning rate rises; it then falls to zero linearly.
        learning_rate: the highest.
        seed: of everything random.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    n_codebooks: PositiveInt | None = None
    dim: PositiveInt = 200
    hidden: PositiveInt = 800
    n_layers: PositiveInt = 5
    n_heads: PositiveInt = 8
    past_seconds: Seconds = 3.5
    crop_seconds: Annotated[Seconds, Field(le=10)] = 5.0
    batch_size: PositiveInt = 8
    steps: PositiveInt = 1000
    warmup_steps: PositiveInt = 50
    learning_rate: Seconds = 1e-3
    seed: Annotated[int, Field(ge=0)] = 0


def read_learning_config(path: Path) -> LearningConfig:
    """Read a YAML file; what it leaves out has the defaults.

    Raises:
        InputError: the file is missing, no YAML, or has fields that are unknown or out of range.
    """
    try:
        return LearningConfig.model_validate(read_yaml(path) or {})
    except ValidationError as error:
        raise InputError(f"{path}: {first_problem(error)}") from None


def learn(
    codes: Integers,
    config: LearningConfig,
    *,
    codebook_size: int,
    frame_rate: float,
    progress: Progress = lambda share: None,
) -> CodeTransformer:
    """Learn to predict codes, on the GPU if there is one.

    Args:
        codes: sequences, `[n, n_frames, n_codebooks]`; see `rvq.train.codes.gather`.
        config: shape and schedule.
        codebook_size: codewords per codebook.
        frame_rate: frames per second.
        progress: called as work is done.

    Returns:
        The Transformer, in evaluation mode.

    Raises:
        InputError: a shape that does not fit the codes.
    """
    n_codebooks = config.n_codebooks or codes.shape[2]
    if n_codebooks > codes.shape[2]:
        raise InputError(f"n_codebooks is {n_codebooks}, the codes have {codes.shape[2]}")
    shape = CodeTransformerConfig(
        n_codebooks=n_codebooks,
        codebook_size=codebook_size,
        dim=config.dim,
        hidden=config.hidden,
        n_layers=config.n_layers,
        n_heads=config.n_heads,
        past_frames=max(1, int(config.past_seconds * frame_rate)),
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = pick_precision("auto", device)
    torch.manual_seed(config.seed)
    model = CodeTransformer(shape).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=0.0)
    random = np.random.default_rng(config.seed)
    depths = _depths(n_codebooks)
    for step in range(config.steps):
        rate = min((step + 1) / config.warmup_steps, 1 - step / config.steps)
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * rate
        chosen = codes[random.integers(len(codes), size=config.batch_size)]
        batch = torch.from_numpy(chosen[:, :, : random.choice(depths)]).to(device)
        narrow = dtype != torch.float32
        with torch.autocast(device.type, dtype) if narrow else nullcontext():
            loss = model.bits(batch, position=int(random.integers(_POSITIONS))).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        progress((step + 1) / config.steps)
    return model.cpu().eval().requires_grad_(False)


def learn_for(
    codec: Codec,
    data: list[Path],
    target: Path,
    *,
    config: LearningConfig,
    minutes: float = 150.0,
    progress: Progress = lambda share: None,
) -> CodeTransformer:
    """Learn the codes of a codec and write what `rvq.interop.encodec.read_language_model` reads.

    Args:
        codec: whose codes.
        data: folders written by `rvq data prepare`.
        target: the safetensors file to write.
        config: shape and schedule.
        minutes: of audio to learn from.
        progress: called as work is done.

    Raises:
        InputError: nothing packed there, less than a sequence, a shape that does not fit the codes,
            or a file that cannot be written.
    """
    n_frames = max(1, round(config.crop_seconds * codec.frame_rate))
    codes = gather(
        codec, data, minutes, n_frames=n_frames, progress=lambda share: progress(share / 2)
    )
    model = learn(
        codes,
        config,
        codebook_size=codec.codebook_size,
        frame_rate=float(codec.frame_rate),
        progress=lambda share: progress((1 + share) / 2),
    )
    write(model, target, codec_hash=codec.model_hash)
    return model


def write(model: CodeTransformer, target: Path, *, codec_hash: str) -> None:
    """Write a language model: tensors named as EnCodec's, and whose codes it learned.

    Raises:
        InputError: the file cannot be written.
    """
    tensors = {tensor_name(n): p.detach().contiguous() for n, p in model.named_parameters()}
    facts = {"code_transformer": json.dumps(asdict(model.config)), "codec": codec_hash}
    with replacing(target) as temporary:
        save_file(tensors, temporary, metadata=facts)


def _depths(n_codebooks: int) -> list[int]:
    """Numbers of codebooks to learn with: all, half of them and so on, at least two."""
    depths = [n_codebooks]
    while depths[-1] >= 4:
        depths.append(depths[-1] // 2)
    return depths
