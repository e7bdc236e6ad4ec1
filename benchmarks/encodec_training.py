"""EnCodec from random weights on a processor: does it learn, and what?

    python benchmarks/encodec_training.py --data data --threads 1

Trains the full-size networks by EnCodec's reconstruction losses, without discriminators, on small
batches. Printed on the way, on held-out clips: the mel distance beside that of silence, of the best
constant spectrum and of noise of the clip's mean spectrum; how well the level of each mel band
follows the original's (correlation over time); how often the pitch of voiced frames is right within
10%; deviation of the latents; perplexity of the codes of fresh crops. `--start torch` leaves out
the scaling of layers.
"""

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor

from rvq.nn.model import CodecModel
from rvq.train.config import TrainConfig, config_from_dict
from rvq.train.losses import SpectralLoss
from rvq.train.trainer import Trainer

RATE = 24_000
RUN = {
    "name": "encodec_short",
    "model": {
        "network": {"strides": [2, 4, 5, 8]},
        "quantizer": {
            "n_codebooks": 8,
            "warmup_vectors": 15_000,
            "init_vectors": 4_000,
            # Of small batches: what falls out of use is noticed within twenty steps.
            "decay": 0.9,
            "restart_every": 5,
        },
    },
    "data": {"batch_size": 4, "crop_frames": 38},
    "loss": {"mel": 0, "complex": 0, "time": 0.1, "mel_magnitude": 1, "waveform_codebooks": 1},
    "schedule": {"warmup_steps": 20, "adversarial_start": 1.0},
}


def settings(steps: int, rate: float) -> TrainConfig:
    config = config_from_dict(RUN, "the run")
    schedule = replace(config.schedule, total_steps=steps, learning_rate=rate)
    return replace(config, schedule=schedule)


def log_mel(audio: Tensor, losses: SpectralLoss, n_fft: int) -> Tensor:
    """`[1, n_samples]` -> `[n_frames, n_mels]`."""
    return losses._spectra(audio, n_fft)[0][0]


def references(clips: list[Tensor], losses: SpectralLoss) -> None:
    """Mel distances of what follows nothing of the clips."""
    torch.manual_seed(0)
    constant, noise = [], []
    for clip in clips:
        spectra = [log_mel(clip, losses, n) for n in losses.n_ffts]
        # The median is the constant of least L1 distance.
        constant.append(np.mean([float((x - x.median(0).values).abs().mean()) for x in spectra]))
        window = torch.hann_window(1024)
        of_clip, of_noise = (
            torch.stft(x[0], 1024, 256, window=window, return_complex=True)
            for x in (clip, torch.randn_like(clip))
        )
        level = of_clip.abs().square().mean(1, keepdim=True).sqrt()
        shaped = of_noise / of_noise.abs().square().mean().sqrt() * level
        shaped = torch.istft(shaped, 1024, 256, window=window, length=clip.shape[1])[None]
        noise.append(float(losses(shaped, clip)["mel"]))
    silence = [float(losses(torch.zeros_like(clip), clip)["mel"]) for clip in clips]
    print(
        f"mel distance of silence {np.mean(silence):.3f}, of noise with the clip's mean spectrum "
        f"{np.mean(noise):.3f}, of the clip's best constant spectrum {np.mean(constant):.3f}"
    )


def pitch(audio: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Hz of frames of 43 ms by autocorrelation, 70 to 400 Hz, and how periodic they are."""
    frames = np.lib.stride_tricks.sliding_window_view(audio, 1024)[::480]
    frames = (frames - frames.mean(1, keepdims=True)) * np.hanning(1024)
    of_frames, of_window = (
        np.fft.irfft(np.abs(np.fft.rfft(x, 2048)) ** 2)[..., :343]
        for x in (frames, np.hanning(1024))
    )
    correlation = of_frames / of_window
    lags = 60 + correlation[:, 60:].argmax(1)
    periodic = correlation[np.arange(len(lags)), lags] / (correlation[:, 0] + 1e-9)
    loud = correlation[:, 0] > 0.1 * correlation[:, 0].mean()
    return RATE / lags, np.where(loud, periodic, 0)


def follows(output: Tensor, clip: Tensor, losses: SpectralLoss) -> tuple[float, float]:
    """Correlation of band levels over time, and share of voiced frames of the right pitch."""
    ours, theirs = (log_mel(x, losses, 512) for x in (output, clip))
    ours, theirs = ours - ours.mean(0), theirs - theirs.mean(0)
    norms = (ours.square().sum(0) * theirs.square().sum(0)).sqrt() + 1e-9
    bands = float(((ours * theirs).sum(0) / norms).mean())
    (found, _), (right, periodic) = (pitch(x[0].numpy()) for x in (output, clip))
    voiced = periodic > 0.6
    if not voiced.any():
        return bands, np.nan
    return bands, float((np.abs(np.log(found / right))[voiced] < 0.1).mean())


@torch.no_grad()
def report(trainer: Trainer, clips: list[Tensor], losses: SpectralLoss) -> None:
    model = trainer.model.eval()  # in a short run an average of weights lags far behind
    depths = (None, 8) if model.quantizer.initialised else (None,)
    for depth in depths:
        rows = []
        for clip in clips:
            latents = model.encode(clip)
            if depth:
                latents = model.quantizer(latents, depth).latents
            output = model.decode(latents, clip.shape[1])
            mel = float(losses(output, clip)["mel"])
            spread = latents.std((0, 1)).mean(), latents.mean((0, 1)).square().mean().sqrt()
            rows.append((mel, *follows(output, clip, losses), *map(float, spread)))
        mel, bands, right, deviation, mean = np.nanmean(rows, axis=0)
        print(
            f"  {f'{depth} codebooks' if depth else 'unquantized'}: mel {mel:.3f}, bands follow "
            f"{bands:.2f}, pitch right {right:.0%}, latents deviate by {deviation:.3f} from "
            f"means of {mean:.3f}",
            flush=True,
        )
    if model.quantizer.initialised:
        crops = [torch.from_numpy(trainer.crops.batch(10**6 + i)) for i in range(20)]
        codes = torch.cat([model.quantizer(model.encode(x), 8).codes.flatten(0, 1) for x in crops])
        counts = torch.stack([torch.bincount(column, minlength=1024) for column in codes.T])
        p = counts.double() / len(codes)
        perplexities = torch.exp(-(p * p.clamp(min=1e-12).log()).sum(1))
        listed = " ".join(f"{x:.0f}" for x in perplexities.tolist())
        print(f"  perplexities of {len(codes)} codes: {listed}", flush=True)
    model.train()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="written by `rvq data prepare`")
    parser.add_argument("--steps", type=int, default=450)
    parser.add_argument("--rate", type=float, default=3e-4, help="learning rate")
    parser.add_argument("--start", choices=("scaled", "torch"), default="scaled")
    parser.add_argument("--threads", type=int, default=0, help="processor threads; 0 for all cores")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.start == "torch":
        CodecModel.start_from = lambda *_: None  # type: ignore[method-assign]
    losses = SpectralLoss(RATE, (2048, 512, 128), (128, 64, 16))
    paths = sorted(arguments.data.glob("dev/*/*.flac"))
    clips = []
    for path in paths[:: max(1, len(paths) // 8)]:
        samples, _ = soundfile.read(path, dtype="float32", frames=36_000)
        clips.append(torch.from_numpy(samples)[None])
    print(f"{len(clips)} clips of at most 1.5 s")
    references(clips, losses)
    with tempfile.TemporaryDirectory() as out:
        trainer = Trainer(
            settings(arguments.steps, arguments.rate), [arguments.data], Path(out), "cpu"
        )
        start = time.process_time()
        for step in range(1, arguments.steps + 1):
            logs = trainer.train_step(torch.from_numpy(trainer.crops.batch(trainer.step)))
            if step % 20 == 0 or step == 1:
                values = ", ".join(f"{name} {float(value):.3g}" for name, value in logs.items())
                print(f"step {step}, {time.process_time() - start:.0f} s: {values}", flush=True)
            if step % 100 == 0 or step == arguments.steps:
                report(trainer, clips, losses)


if __name__ == "__main__":
    main()
