"""Random training crops from packed recordings.

A batch is a function of seed and step alone, so that a resumed run sees what an uninterrupted one
would have seen; a thread prepares batches ahead of the training step.
"""

import json
import math
import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soxr

from rvq.errors import InputError

Audio = npt.NDArray[np.float32]

_MOST_GAIN = 10**1.5
"""30 dB."""


@dataclass(frozen=True)
class Source:
    """One packed source of recordings.

    Attributes:
        name: of the file.
        samples: all clips in a row, int16, memory-mapped.
        weight: share of the crops drawn from here, relative to the other sources.
    """

    name: str
    samples: npt.NDArray[np.int16]
    weight: float


def load_sources(folders: list[Path], sample_rate: int) -> list[Source]:
    """Open every packed source below the folders that `rvq data prepare` wrote.

    A source is drawn by the square root of its length times the weight of its recipe, so that small
    sources are heard without being learned by heart.

    Raises:
        InputError: nothing packed there, or at another sample rate.
    """
    sources = []
    for folder in folders:
        for path in sorted((folder / "train").glob("*.npy")):
            facts = json.loads(path.with_suffix(".json").read_text())
            if facts["sample_rate"] != sample_rate:
                raise InputError(
                    f"{path} is at {facts['sample_rate']} Hz, the model at {sample_rate} Hz; "
                    "prepare the data with a recipe of the model's rate"
                )
            samples = np.load(path, mmap_mode="r")
            weight = facts.get("weight", 1.0) * len(samples) ** 0.5
            sources.append(Source(path.stem, samples, weight))
    if not sources:
        listed = ", ".join(map(str, folders))
        raise InputError(f"no packed recordings under {listed}; run `rvq data prepare` first")
    return sources


def _gain(crop: Audio, peak: float) -> float:
    """What brings a crop's loudest sample to `peak`, at most 30 dB: near silence stays that."""
    return min(peak / (float(np.abs(crop).max()) + 1e-9), _MOST_GAIN)


class Crops:
    """Batches of random crops.

    Args:
        sources: where to draw from.
        batch_size: crops per batch.
        n_samples: length of a crop.
        gain_db: range of the random level of a crop's loudest sample, dB below full scale.
        mix_probability: how often a second crop is added, 0 to 15 dB below the first.
        speed: how much faster or slower half of the stretches are played at most, 0 to 0.5: other
            pitches and vocal tracts from few speakers (speed perturbation, Ko et al. 2015).
        seed: of everything random.
    """

    def __init__(
        self,
        sources: list[Source],
        *,
        batch_size: int,
        n_samples: int,
        gain_db: tuple[float, float] = (-26.0, -0.5),
        mix_probability: float = 0.1,
        speed: float = 0.0,
        seed: int = 0,
    ) -> None:
        longest = math.ceil(n_samples * (1 + speed))
        self.sources = [s for s in sources if len(s.samples) > longest]
        if not self.sources:
            raise InputError(f"every source is shorter than a crop of {n_samples} samples")
        self.batch_size = batch_size
        self.n_samples = n_samples
        self.gain_db = gain_db
        self.mix_probability = mix_probability
        self.speed = speed
        self.seed = seed
        weights = np.array([s.weight for s in self.sources])
        self._shares = weights / weights.sum()

    def batch(self, step: int) -> Audio:
        """The crops of one step, `[batch_size, n_samples]`."""
        random = np.random.default_rng([self.seed, step])
        return np.stack([self._augmented(random) for _ in range(self.batch_size)])

    def _crop(self, random: np.random.Generator) -> Audio:
        """A random stretch of a random source; another try or two where it is silent."""
        for _ in range(3):
            source = self.sources[random.choice(len(self.sources), p=self._shares)]
            factor = self._factor(random)
            length = math.ceil(self.n_samples * factor)
            start = random.integers(len(source.samples) - length)
            crop = source.samples[start : start + length].astype(np.float32)
            crop /= 32768
            if factor != 1:
                crop = self._at_speed(crop, factor)
            if np.abs(crop).max() > 0.02:
                break
        return crop

    def _factor(self, random: np.random.Generator) -> float:
        """How fast to play a stretch: as it was recorded, or slower or faster equally often."""
        if not self.speed or random.random() < 0.5:
            return 1.0
        return float((1 + self.speed) ** random.uniform(-1, 1))

    def _at_speed(self, stretch: Audio, factor: float) -> Audio:
        """Play a stretch `factor` times as fast; it ends up `n_samples` long."""
        crop = soxr.resample(stretch, factor, 1.0)[: self.n_samples]
        return np.pad(crop, (0, self.n_samples - len(crop)))

    def _augmented(self, random: np.random.Generator) -> Audio:
        crop = self._crop(random)
        if random.random() < self.mix_probability:
            other = self._crop(random)
            peak = np.abs(crop).max() * 10 ** (-random.uniform(0, 15) / 20)
            crop = crop + other * _gain(other, peak)
        gain = _gain(crop, 10 ** (random.uniform(*self.gain_db) / 20))
        polarity = random.choice([-1, 1])
        return np.asarray(crop * (gain * polarity), np.float32)

    def stream(self, first_step: int, *, ahead: int = 8) -> Iterator[Audio]:
        """Batches from `first_step` on, without end, prepared by a background thread."""
        batches: queue.Queue[Audio | Exception] = queue.Queue(maxsize=ahead)
        stopped = threading.Event()

        def work() -> None:
            step = first_step
            while not stopped.is_set():
                item: Audio | Exception
                try:
                    item = self.batch(step)
                except Exception as error:  # hand it to the consumer instead of dying silently
                    item = error
                while not stopped.is_set():
                    try:
                        batches.put(item, timeout=0.5)
                        break
                    except queue.Full:
                        continue
                step += 1

        threading.Thread(target=work, daemon=True, name="crops").start()
        try:
            while True:
                item = batches.get()
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            stopped.set()
