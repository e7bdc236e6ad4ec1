"""Teach a trained spectral model its treble alone: what experiment 23 of docs/experiments.md did.

    python benchmarks/treble.py speech_24khz runs/speech_24khz/checkpoint.pt --data data --out model

Dead bins above 8 kHz are restarted, then only the decoder's last layers learn, and of them only the
rows of bins above 8 kHz. Codes, and all that is heard below, stay as they are to the bit, so that
entropy models and measurements of what lies below stay valid. The discriminators of the checkpoint
are taken over; waveform terms, which ask for silence where signs cannot be told, are left out.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rvq.bitstream.entropy import FILE as ENTROPY
from rvq.codec.models import find
from rvq.model_folder import CODEBOOKS, DECODER, ModelFolder
from rvq.nn.dead_bins import restart_dead_bins, treble
from rvq.nn.export import export, read_exported
from rvq.nn.model import CodecModel
from rvq.nn.spectral import SpectralDecoder
from rvq.train.balancer import Balancer
from rvq.train.checkpoint import read_checkpoint
from rvq.train.config import config_from_dict
from rvq.train.entropy import take_over
from rvq.train.trainer import Trainer

RATE, KEPT = 1e-3, 0.99
DEPTHS = (1, 2, 3, 4, 6, 8, 12, 18)
"""Numbers of codebooks, four a step, a quarter of the batch each."""
WEIGHTS = {"mel": 5.0, "log_magnitude": 5.0, "adversarial": 1.0, "feature": 2.0}


def what_learns(decoder: SpectralDecoder) -> list[tuple[torch.nn.Parameter, Tensor]]:
    """Parameters, and which of their rows."""
    rows, head = treble(decoder.config), decoder.head
    return [
        (head.weight, rows.repeat(2)),
        (head.bias, rows.repeat(2)),
        (decoder.linear.weight, rows),
    ]


def decoded(trainer: Trainer, model: CodecModel, audio: Tensor, step: int) -> Tensor:
    """A batch as the model decodes it from codes of several bitrates."""
    random = np.random.default_rng(step)
    most = model.config.quantizer.n_codebooks
    depths = random.choice([n for n in DEPTHS if n <= most], 4)
    with trainer.autocast():
        output, _ = model(audio, torch.from_numpy(depths).repeat_interleave(len(audio) // 4))
    return output.float()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", help="name or folder of the model")
    parser.add_argument("checkpoint", type=Path, help="of its run")
    parser.add_argument("--data", type=Path, action="append", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1500)
    options = parser.parse_args()
    state = read_checkpoint(options.checkpoint)
    config = config_from_dict(state["config"], str(options.checkpoint))
    losses = replace(config.loss, time=0.0, complex=0.0, **WEIGHTS)
    turns = replace(config.schedule, discriminator_every=2, in_turn=False)
    config = replace(config, loss=losses, schedule=turns)
    trainer = Trainer(config, options.data, Path(tempfile.mkdtemp()))
    trainer.discriminator.load_state_dict(state["discriminator"])
    judge = trainer.optimizers["discriminator"]
    judge.load_state_dict(state["optimizers"]["discriminator"])
    model = read_exported(find(options.model)).eval().requires_grad_(False)
    trainer.model = model
    examples = np.concatenate([trainer.crops.batch(30_000_000 + i) for i in range(6)])
    print(f"{restart_dead_bins(model, torch.from_numpy(examples))} bins restarted")
    learning = what_learns(model.decoder)
    parameters = [parameter.requires_grad_() for parameter, _ in learning]
    averages = [parameter.detach().clone() for parameter in parameters]
    optimizer = torch.optim.AdamW(parameters, betas=(0.8, 0.98), weight_decay=0.0)
    balancer = Balancer(WEIGHTS, reference="mel")
    schedule = replace(config.schedule, total_steps=options.steps, warmup_steps=50, decay_share=0.6)
    for step in range(options.steps):
        trainer.step = step
        torch.manual_seed(step)
        for one, top in ((optimizer, RATE), (judge, schedule.discriminator_rate)):
            for group in one.param_groups:
                group["lr"] = top * schedule.rate(step)
        audio = torch.from_numpy(trainer.crops.batch(40_000_000 + step))
        output = decoded(trainer, model, audio, step)
        leaf = output.detach().requires_grad_()
        found = trainer.losses(leaf, audio)
        _, judged = trainer._discriminate(leaf, audio)
        gradient = balancer.gradient(found | judged, leaf, measure=step % 10 == 0)
        if step % schedule.discriminator_every == 0:
            judge.step()
        optimizer.zero_grad()
        output.backward(gradient)
        for parameter, rows in learning:
            assert parameter.grad is not None
            parameter.grad[~rows] = 0
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        kept = min(KEPT, (step + 1) / (step + 10))
        torch._foreach_lerp_(averages, [p.detach() for p in parameters], 1 - kept)
        if step % 50 == 0:
            print(step, {name: round(float(loss.detach()), 4) for name, loss in found.items()})
    with torch.no_grad():
        for parameter, average in zip(parameters, averages, strict=True):
            parameter.copy_(average)
    with tempfile.TemporaryDirectory() as folder:
        export(model, Path(folder), name=config.name, facts={})
        replace_decoder(find(options.model), ModelFolder.read(Path(folder)), options.out)


def replace_decoder(old: Path, new: ModelFolder, out: Path) -> None:
    """Write the old model with the new one's decoder; its entropy model knows the new hash."""
    before = ModelFolder.read(old)
    assert before.files[CODEBOOKS] == new.files[CODEBOOKS]
    made = ModelFolder.of(before.files | {DECODER: new.files[DECODER]}, before.card)
    made.write(out)
    if (old / ENTROPY).exists():
        take_over(old, out)
    print(f"{out}: {made.card['hash'][:16]}")


if __name__ == "__main__":
    main()
