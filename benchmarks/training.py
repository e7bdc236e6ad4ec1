"""Audio-seconds trained per second, without and with discriminators, and where a step's time goes.

    python benchmarks/training.py --data data

Medians over twenty steps of the shipped configuration, on data that `rvq data prepare` wrote. No
peer is measured: published codecs come without training programs that run on a processor.
"""

import argparse
import itertools
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from rvq.train.config import TrainConfig, read_config, shipped_config
from rvq.train.trainer import Trainer


def median(work: Callable[[], object], n: int) -> float:
    """Seconds of one call, median of n."""
    times = []
    for _ in range(n):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def trainer(config: TrainConfig, data: list[Path], adversarial: bool, in_turn: bool) -> Trainer:
    """A trainer whose codebooks stand and that is past its first steps."""
    start = 0.0 if adversarial else 1.0
    schedule = replace(config.schedule, adversarial_start=start, in_turn=in_turn)
    quantizer = replace(config.model.quantizer, warmup_vectors=0, init_vectors=3_000)
    config = replace(config, schedule=schedule, model=replace(config.model, quantizer=quantizer))
    made = Trainer(config, data, Path(tempfile.mkdtemp()))
    for step in range(6):
        made.train_step(torch.from_numpy(made.crops.batch(step)).to(made.device))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, action="append", required=True)
    parser.add_argument("--config", default="speech_24khz")
    options = parser.parse_args()
    config = read_config(shipped_config(options.config))
    hop, rate = config.model.network.hop_length, config.model.network.sample_rate
    seconds = config.data.batch_size * config.data.crop_frames * hop / rate
    for in_turn, adversarial in itertools.product((False, True), repeat=2):
        run = trainer(config, options.data, adversarial, in_turn)
        audio = torch.from_numpy(run.crops.batch(0)).to(run.device)
        step = median(lambda run=run, audio=audio: run.train_step(audio), 20)
        name = "with discriminators" if adversarial else "reconstruction losses alone"
        name += ", in turn" if in_turn else ", all at once"
        print(f"{name}: {seconds / step:.0f} audio-seconds/s ({1000 * step:.0f} ms a step)")
    output = audio.clone().requires_grad_()
    with torch.no_grad(), run.autocast():
        latents = run.model.encode(audio)

    def network() -> None:
        with run.autocast():
            latents = run.model.encode(audio)
            run.model.decode(latents, audio.shape[1]).float().sum().backward()

    def losses() -> None:
        torch.autograd.grad(sum(run.losses(output, audio).values()), output)

    def quantizer() -> None:
        with run.autocast():
            run.model.quantizer(latents)

    parts = {
        "network, forward and backward": network,
        "reconstruction losses at all resolutions, forward and backward": losses,
        "quantizer": quantizer,
    }
    if "muon" in run.optimizers:
        parts["Muon"] = run.optimizers["muon"].step
    for name, part in parts.items():
        print(f"  {name}: {1000 * median(part, 10):.0f} ms")


if __name__ == "__main__":
    main()
