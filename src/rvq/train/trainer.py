"""The training program: one readable loop, resumable to the bit on the same device.

Randomness is a function of seed and step, so a checkpoint needs no generator states: weights,
averages, optimizers, balancer, latents gathered for the codebooks and step are the whole run.
"""

import copy
import json
import math
import signal
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from rvq.errors import InputError, ModelError
from rvq.nn import distributed
from rvq.nn.dead_bins import restart_dead_bins
from rvq.nn.discriminators import build_discriminators
from rvq.nn.export import read_exported
from rvq.nn.model import CodecModel
from rvq.nn.quantizer import Quantized
from rvq.replacing import replacing
from rvq.train.balancer import Balancer
from rvq.train.checkpoint import CHECKPOINT, diverged, read_checkpoint, write_checkpoint
from rvq.train.config import ScheduleConfig, TrainConfig
from rvq.train.data import Crops, load_sources
from rvq.train.losses import ReconstructionLosses, adversarial_losses, discriminator_loss

_START_BATCHES = 16
"""Batches of recordings that the weights of a new model are made to suit."""
_TOGETHER_EVERY = 20
"""Steps after which processes take over the first one's weights: on processors of different kinds
they round differently, and would drift apart."""
_EXAMINED = 64
"""Recordings in which the bins of a model that is trained on are looked at."""
_BALANCE_EVERY = 11
"""Steps between measurements of the gradients' norms; a prime, so that all get their turn."""


def pick_precision(wanted: str, device: torch.device) -> torch.dtype:
    """bf16 where it is faster: on GPUs, and on CPUs with instructions for it."""
    fast = device.type == "cuda" or torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if wanted == "bf16" or (wanted == "auto" and fast) else torch.float32


def model_optimizers(
    model: nn.Module, schedule: ScheduleConfig
) -> dict[str, torch.optim.Optimizer]:
    """Muon (Jordan et al. 2024) for the matrices of the networks, AdamW for everything else.

    Muon's steps are scaled to the size of AdamW's, so that both share a learning rate. The linear
    paths start as what they should be and are left to AdamW.
    """
    matrices = {
        id(module.weight): module.weight
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not name.endswith("linear")
    }
    others = [p for p in model.parameters() if id(p) not in matrices]
    rate = schedule.learning_rate
    optimizers: dict[str, torch.optim.Optimizer] = {
        "adamw": torch.optim.AdamW(
            others, lr=rate, betas=schedule.betas, weight_decay=0.0, fused=True
        ),
    }
    if matrices:  # convolutional networks have none
        optimizers["muon"] = torch.optim.Muon(
            list(matrices.values()),
            lr=rate,
            weight_decay=schedule.weight_decay,
            adjust_lr_fn="match_rms_adamw",
        )
    return optimizers


class Trainer:
    """State of a run, one method per thing that happens to it.

    Made over a checkpoint in the run's folder, it goes on from there; without one the run is new.

    Args:
        config: the run.
        data: folders written by `rvq data prepare`.
        out: folder of the run: checkpoint, curves, configuration.
        device: where to train; default the GPU if there is one.
        start: folder of an exported model whose weights and codebooks a new run starts from; it
            may have fewer blocks than the configuration. Its dead bins are restarted. A run that
            goes on from its checkpoint does not look there.

    Raises:
        InputError: data or settings that do not fit, or no model for a decoder to start from.
        ModelError: no model at `start`, or one of another shape or other settings; or a checkpoint
            that is damaged or of another model.
    """

    def __init__(
        self,
        config: TrainConfig,
        data: list[Path],
        out: Path,
        device: str | None = None,
        start: Path | None = None,
    ) -> None:
        self.config = config
        self.out = out
        self.checkpoint = out / CHECKPOINT
        name = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.device = torch.device(name)
        self.first = distributed.rank() == 0
        self.rows = distributed.share(config.data.batch_size)
        self.dtype = pick_precision(config.precision, self.device)
        network, schedule = config.model.network, config.schedule
        torch.manual_seed(config.seed)
        self.model = CodecModel(config.model).to(self.device)
        self._average = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.discriminator = build_discriminators(config.discriminator).to(self.device)
        self.losses = ReconstructionLosses(config.loss, network.sample_rate).to(self.device)
        self.optimizers = model_optimizers(self.model, schedule)
        self.optimizers["discriminator"] = torch.optim.AdamW(
            self.discriminator.parameters(),
            lr=schedule.discriminator_rate,
            betas=schedule.betas,
            weight_decay=0.0,
            fused=True,
        )
        weights = self.losses.weights
        reference = next(iter(weights))
        weights = weights | {n: getattr(config.loss, n) for n in ("adversarial", "feature")}
        self.balancer = Balancer(weights, reference=reference)
        self.step = 0
        self.seconds = 0.0
        self.data = data
        self.crops = Crops(
            load_sources(data, network.sample_rate),
            batch_size=config.data.batch_size,
            n_samples=config.data.crop_frames * network.hop_length,
            mix_probability=config.data.mix_probability,
            speed=config.data.speed,
            seed=config.seed,
        )
        if not self.load():
            self._start(start)
        if config.decoder_only:
            self.model.encoder.requires_grad_(False)
            self.model.quantizer.eval()

    def _start(self, exported: Path | None) -> None:
        """Give a new run its first weights: an exported model's, or what suits examples."""
        if exported is None:
            if self.config.decoder_only:
                raise InputError(
                    "a decoder learns to decode a model's codes: give the model, --from"
                )
            self.model.start_from(self._examples(_START_BATCHES))
        else:
            self._take_over(exported)
            n_batches = min(_START_BATCHES, math.ceil(_EXAMINED / self.crops.batch_size))
            restart_dead_bins(self.model, self._examples(n_batches)[:_EXAMINED])
        distributed.copy_first([*self.model.state_dict().values()])
        self._average.load_state_dict(self.model.state_dict())
        distributed.copy_first([*self.discriminator.state_dict().values()])

    def _examples(self, n_batches: int) -> Tensor:
        """The crops of the first steps, `[n_batches * batch_size, n_samples]`."""
        batches = np.concatenate([self.crops.batch(i) for i in range(n_batches)])
        return torch.from_numpy(batches).to(self.device)

    def _take_over(self, start: Path) -> None:
        """Start from the weights and codebooks of an exported model."""
        exported = read_exported(start)
        try:
            self.model.take_over(exported)
        except ModelError as error:
            raise ModelError(f"a run cannot start from {start}: {error}") from None
        except RuntimeError:
            raise ModelError(
                f"{start} has another shape than the configuration's model; train it with "
                f"{exported.config}"
            ) from None

    # -- one step ----------------------------------------------------------------------------

    def autocast(self) -> AbstractContextManager[object]:
        """Mixed precision around the networks; float32 needs none."""
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def train_step(self, audio: Tensor) -> dict[str, Tensor]:
        """One update of model, codebooks and discriminator; returns what to plot.

        Args:
            audio: the rows of the batch that are this process's, `[batch, n_samples]`.
        """
        schedule = self.config.schedule
        torch.manual_seed(self.config.seed * 1_000_003 + self.step)
        rate = schedule.rate(self.step)
        for name, optimizer in self.optimizers.items():
            top = schedule.learning_rate
            if name == "discriminator":
                top = schedule.discriminator_rate
            for group in optimizer.param_groups:
                group["lr"] = top * rate
        with self.autocast():
            output, quantized = self.model(audio, self._depths())
        output = output.float()
        # Losses act on a leaf, so that each one's gradient at the output is had by itself.
        reconstruction = output.detach().requires_grad_()
        weights = self._waveform_weights(quantized)
        losses = self.losses(reconstruction, audio, weights, self._turn)
        logs = {}
        adversarial = self.step >= schedule.adversarial_start * schedule.total_steps
        if adversarial:
            logs["discriminator"], judged = self._discriminate(reconstruction, audio)
            losses |= judged
        logs |= {name: loss.detach() for name, loss in losses.items()}
        measure = self.step % _BALANCE_EVERY == 0
        gradient = self.balancer.gradient(losses, reconstruction, measure=measure)
        if adversarial and self.step % schedule.discriminator_every == 0:
            distributed.average_gradients(self.discriminator.parameters())
            self.optimizers["discriminator"].step()
        logs["commitment"] = quantized.commitment.detach()
        self.model.zero_grad()
        commitment = quantized.commitment * self.config.loss.commitment
        if commitment.requires_grad:
            torch.autograd.backward([output, commitment], [gradient, None])
        else:
            output.backward(gradient)
        distributed.average_gradients(self.model.parameters())
        logs["gradient_norm"] = nn.utils.clip_grad_norm_(
            self.model.parameters(), schedule.clip_norm
        )
        for name in self.optimizers.keys() - {"discriminator"}:
            self.optimizers[name].step()
        self._update_average()
        self.step += 1
        if self.step % _TOGETHER_EVERY == 0:
            distributed.copy_first([*self.model.parameters(), *self.discriminator.parameters()])
        return logs

    def _depths(self) -> Tensor | None:
        """Codebooks of every item, for a quantizer that does not learn; None for one that draws."""
        if not self.config.decoder_only:
            return None
        batch_size = self.config.data.batch_size
        return self.model.quantizer.random_depths(batch_size, self.device)[self.rows]

    @property
    def _turn(self) -> int | None:
        """Whose turn it is among windows and discriminators; None for all at once."""
        schedule = self.config.schedule
        return self.step // schedule.discriminator_every if schedule.in_turn else None

    def _waveform_weights(self, quantized: Quantized) -> Tensor:
        """Weights `[batch]` of the items in the losses that compare waveforms.

        A waveform cannot be coded with a few codebooks; trying makes the result dull.
        """
        depth = (quantized.codes[:, 0] >= 0).sum(-1)
        weights = (depth / self.config.loss.waveform_codebooks).clamp(max=1.0)
        return torch.where(depth > 0, weights, 1.0)  # while nothing is quantized yet, all count

    def _discriminate(
        self, reconstruction: Tensor, audio: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Show the discriminators a stretch of every crop and of what the model made of it.

        Returns their loss, and those of the model. Both come from the same forward passes, so the
        discriminators must not be updated before the model's gradient is taken.
        """
        length = self.config.judged_samples
        start = int(torch.randint(audio.shape[1] - length + 1, ()))
        learns = self.step % self.config.schedule.discriminator_every == 0
        self.discriminator.requires_grad_(learns)
        with self.autocast():
            real = self.discriminator(audio[:, start : start + length], self._turn)
            fake = self.discriminator(reconstruction[:, start : start + length], self._turn)
            loss = discriminator_loss(real, fake)
            judged = adversarial_losses(real, fake)
        if learns:
            self.optimizers["discriminator"].zero_grad()
            loss.backward(retain_graph=True, inputs=list(self.discriminator.parameters()))
        return loss.detach(), judged

    @torch.no_grad()
    def _update_average(self) -> None:
        """Move the averaged weights."""
        decay = min(self.config.schedule.ema_decay, (self.step + 1) / (self.step + 10))
        torch._foreach_lerp_(
            list(self._average.parameters()), list(self.model.parameters()), 1 - decay
        )

    @property
    def average(self) -> CodecModel:
        """The model with averaged weights; its buffers (codebooks) are averages already."""
        for kept, new in zip(self._average.buffers(), self.model.buffers(), strict=True):
            kept.copy_(new)
        return self._average

    # -- the run -----------------------------------------------------------------------------

    def run(self) -> bool:
        """Train to the end of the schedule, or until interrupted; True when the end was reached.

        Raises:
            InputError: the checkpoint cannot be written.
            ModelError: losses or weights are no longer finite.
        """
        if self.first:
            self.out.mkdir(parents=True, exist_ok=True)
            (self.out / "config.json").write_text(json.dumps(asdict(self.config), indent=1))
            self._forget_later_steps()
        stop = _StopSignal()
        total = self.config.schedule.total_steps
        network = self.config.model.network
        crop_seconds = self.config.data.crop_frames * network.hop_length / network.sample_rate
        audio_seconds = crop_seconds * self.config.data.batch_size
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total} steps"),
            TimeRemainingColumn(),
        )
        # Of a run that was killed, curves beyond its checkpoint are drawn again.
        purge = self.step + 1
        curves = SummaryWriter(str(self.out), purge_step=purge) if self.first else nullcontext()
        bar = Progress(*columns, speed_estimate_period=600, disable=not self.first)
        with stop, curves as writer, bar as progress:
            task = progress.add_task(self.config.name, total=total, completed=self.step)
            tick = saved = time.monotonic()
            for batch in self.crops.stream(self.step):
                if self.step >= total or distributed.any_of(stop.set, self.device):
                    break
                logs = self.train_step(torch.from_numpy(batch[self.rows]).to(self.device))
                now = time.monotonic()
                self.seconds, tick = self.seconds + now - tick, now
                progress.update(task, completed=self.step)
                if self.step % self.config.report_steps == 0:
                    speed = audio_seconds * self.step / self.seconds
                    self._report(writer, logs, speed)
                if writer is not None and self.step % self.config.listen_steps == 0:
                    self._listen(writer)
                    tick = time.monotonic()
                if now - saved > self.config.checkpoint_minutes * 60:
                    self.save()
                    saved = tick = time.monotonic()
            self.save()
        return self.step >= total

    def _report(self, writer: SummaryWriter | None, logs: dict[str, Tensor], speed: float) -> None:
        """Plot the means over processes; the first one writes, all stop where they must."""
        logs = {name: distributed.mean(value.float()) for name, value in logs.items()}
        summary = {name: round(float(value), 4) for name, value in logs.items()}
        if writer is not None:
            self._write(writer, logs, summary, speed)
        if not all(math.isfinite(value) for value in summary.values()):
            raise diverged(self.step, self.checkpoint)

    def _write(
        self,
        writer: SummaryWriter,
        logs: dict[str, Tensor],
        summary: dict[str, float],
        speed: float,
    ) -> None:
        for name, value in logs.items():
            writer.add_scalar(f"train/{name}", float(value), self.step)
        for i, value in enumerate(self.model.quantizer.perplexities().tolist()):
            writer.add_scalar(f"perplexity/{i:02d}", value, self.step)
        writer.add_scalar("speed/audio_seconds_per_second", speed, self.step)
        line = {"step": self.step, "seconds": round(self.seconds, 1), **summary}
        with (self.out / "log.jsonl").open("a") as log:
            log.write(json.dumps(line) + "\n")

    def _forget_later_steps(self) -> None:
        """Drop what a run that was killed logged beyond its checkpoint: it will log it again."""
        log = self.out / "log.jsonl"
        if not log.exists():
            return
        lines = log.read_text().splitlines(keepends=True)
        kept = [line for line in lines if _logged_step(line) <= self.step]
        if len(kept) < len(lines):
            with replacing(log) as temporary:
                temporary.write_text("".join(kept))

    @torch.no_grad()
    def _listen(self, writer: SummaryWriter) -> None:
        """Reconstruct held-out clips at several bitrates: audio samples and their distances."""
        import soundfile

        network, model = self.config.model.network, self.average
        clips = sorted(path for folder in self.data for path in folder.glob("dev/*/*.flac"))
        for clip in clips[:: max(1, len(clips) // 8)]:
            samples, _ = soundfile.read(clip, dtype="float32", frames=4 * network.sample_rate)
            audio = torch.from_numpy(np.ascontiguousarray(samples)).to(self.device)[None]
            latents = model.encode(audio)
            for n in (2, 4, 8, 16):
                if n > self.config.model.quantizer.n_codebooks:
                    continue
                quantized = model.quantizer(latents, n).latents
                output = model.decode(quantized, audio.shape[1])
                for name, value in self.losses(output, audio).items():
                    writer.add_scalar(f"dev_{n:02d}_{name}/{clip.stem}", float(value), self.step)
                writer.add_audio(
                    f"{clip.stem}/{n:02d}", output[0].cpu(), self.step, network.sample_rate
                )

    # -- checkpoints -------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The whole run."""
        return {
            "config": asdict(self.config),
            "step": self.step,
            "seconds": self.seconds,
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "discriminator": self.discriminator.state_dict(),
            "optimizers": {name: o.state_dict() for name, o in self.optimizers.items()},
            "balancer": self.balancer.state_dict(),
            "pool": self.model.quantizer.pool,
        }

    def save(self) -> None:
        """Write the checkpoint; the first process alone does.

        Raises:
            InputError: it cannot be written.
            ModelError: the state is no longer finite.
        """
        if self.first:
            write_checkpoint(self.state_dict(), self.checkpoint)

    def load(self) -> bool:
        """Take up the checkpoint of the run's folder, as a new trainer does; False without one.

        The number of processes may be another than the one that wrote it.

        Raises:
            ModelError: the checkpoint is damaged or of another model.
        """
        path = self.checkpoint
        found = path.exists()
        if distributed.any_of(found, self.device) != found:
            raise ModelError(
                f"some processes find no {path}; keep it where all of them can read it"
            )
        if not found:
            return False
        state = read_checkpoint(path)
        try:
            self.model.load_state_dict(state["model"])
            self._average.load_state_dict(state["average"])
            self.discriminator.load_state_dict(state["discriminator"])
            for name, optimizer in self.optimizers.items():
                # Settings are the configuration's, which may have changed; the rest is the run's.
                settings = [_settings(group) for group in optimizer.param_groups]
                optimizer.load_state_dict(state["optimizers"][name])
                for group, wanted in zip(optimizer.param_groups, settings, strict=True):
                    group.update(wanted)
        except (RuntimeError, ValueError, KeyError):
            raise ModelError(
                f"{path} holds a model of another shape; use another --out or its configuration"
            ) from None
        self.balancer.load_state_dict(state["balancer"])
        self.model.quantizer.pool = state["pool"]
        self.step, self.seconds = state["step"], state["seconds"]
        return True


def _settings(group: dict[str, Any]) -> dict[str, Any]:
    """What a configuration says of a group of an optimizer's parameters."""
    return {name: group[name] for name in ("betas", "weight_decay") if name in group}


def _logged_step(line: str) -> float:
    """Step of a line of the log; infinity for one cut short as the run was killed."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, TypeError, KeyError):
        return math.inf


class _StopSignal:
    """Turns Ctrl-C and SIGTERM into a flag, so that a run ends between steps with a checkpoint."""

    def __init__(self) -> None:
        self.set = False

    def __enter__(self) -> None:
        self._before = {s: signal.signal(s, self._on_signal) for s in self._SIGNALS}

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    _SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def _on_signal(self, *_: object) -> None:
        self.set = True
