"""What an evaluation finds: records, failures, and their means with intervals."""

import math
import re
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rvq.errors import InputError
from rvq.evaluate.metrics import CORE, Scores
from rvq.evaluate.perplexity import perplexity_of_counts


@dataclass(frozen=True)
class Record:
    """One clip through one system.

    Attributes:
        clip: path of the clip as it was given.
        system: name of the system.
        seconds: length of the clip.
        n_bytes: size of the compressed file.
        payload_bytes: size without container, or None if not known.
        scores: quality after removing a constant delay of up to 100 ms.
        code_counts: of codecs of this package, how often every codeword was used,
            `[n_codebooks][codebook_size]`.
    """

    clip: str
    system: str
    seconds: float
    n_bytes: int
    payload_bytes: int | None
    scores: Scores
    code_counts: tuple[tuple[int, ...], ...] | None = None

    @property
    def file_kbps(self) -> float:
        """True bitrate of the file."""
        return self.n_bytes / 125 / self.seconds

    @property
    def payload_kbps(self) -> float:
        """True bitrate without container; nan if not known."""
        if self.payload_bytes is None:
            return math.nan
        return self.payload_bytes / 125 / self.seconds


@dataclass(frozen=True)
class Failure:
    """A clip, or one system's attempt at it, that gave no record.

    Attributes:
        clip: path of the clip as it was given.
        system: name of the system, or None if the clip itself cannot be read.
        reason: what went wrong.
    """

    clip: str
    system: str | None
    reason: str


@dataclass(frozen=True)
class SystemInfo:
    """What was measured: the properties of a `System` of the same names."""

    name: str
    family: str
    nominal_kbps: float
    version: str


@dataclass(frozen=True)
class Interval:
    """A mean with its uncertainty.

    Attributes:
        mean: over the clips that have a value; nan without any.
        half_width: the 95% interval is mean ± half_width; nan for fewer than two clips or groups.
        n: how many clips have a value.
    """

    mean: float
    half_width: float
    n: int

    @classmethod
    def of(cls, values: Iterable[float], groups: Iterable[Hashable] | None = None) -> "Interval":
        """Student's t interval of the finite values among `values`.

        Args:
            values: one per clip.
            groups: what clip belongs to whom; default each to itself. Clips of a speaker are alike,
                so the error is that of the groups' sums (Liang and Zeger 1986) and holds for others
                of their kind, if there are enough of them.
        """
        pairs = enumerate(values) if groups is None else zip(groups, values, strict=True)
        finite = [(group, value) for group, value in pairs if math.isfinite(value)]
        n = len(finite)
        if n == 0:
            return cls(math.nan, math.nan, 0)
        mean = float(np.mean([value for _, value in finite]))
        sums: dict[Hashable, float] = {}
        for group, value in finite:
            sums[group] = sums.get(group, 0.0) + value - mean
        half, n_groups = math.nan, len(sums)
        if n_groups > 1:
            squares = sum(total**2 for total in sums.values()) * n_groups / (n_groups - 1)
            half = _t_quantile(n_groups - 1) * math.sqrt(squares) / n
        return cls(mean, half, n)


@dataclass(frozen=True)
class Evaluation:
    """All that `evaluate` found.

    Attributes:
        systems: the systems in the order given.
        records: one per clip and system, in the order of clips, then systems.
        failures: what gave no record.
        metric_versions: the packages that measured.
        metrics: names of what was measured.
        speakers: whose clip it is, by path; empty where clips count as independent.
    """

    systems: tuple[SystemInfo, ...]
    records: tuple[Record, ...]
    failures: tuple[Failure, ...]
    metric_versions: dict[str, str]
    metrics: tuple[str, ...] = CORE
    speakers: dict[str, str] = field(default_factory=dict)

    def of(self, system: str) -> list[Record]:
        """The records of one system.

        Raises:
            InputError: no system has that name.
        """
        names = [info.name for info in self.systems]
        if system not in names:
            raise InputError(f"no system is named {system!r}; there are {', '.join(names)}")
        return [record for record in self.records if record.system == system]

    def summary(self, system: str, metric: str) -> Interval:
        """Mean of one measure over clips, with its 95% interval.

        Args:
            system: name of a system.
            metric: name of a field of `Scores`.
        """
        return self._interval({r.clip: getattr(r.scores, metric) for r in self.of(system)})

    def difference(self, system: str, other: str, metric: str) -> Interval:
        """Mean over clips of `system`'s score minus `other`'s, with its 95% interval.

        Clips differ more than codecs do: paired per clip, a difference shows that the intervals of
        the two means hide. Clips that lack one of the values are left out.
        """
        base = {record.clip: getattr(record.scores, metric) for record in self.of(other)}
        return self._interval(
            {
                record.clip: getattr(record.scores, metric) - base[record.clip]
                for record in self.of(system)
                if record.clip in base
            }
        )

    def _interval(self, values: dict[str, float]) -> Interval:
        return Interval.of(values.values(), [self.speakers.get(clip, clip) for clip in values])

    def codebook_use(self, system: str) -> npt.NDArray[np.float64] | None:
        """Perplexity of each codebook of a system over all clips, as a share of its size.

        Returns:
            Shares in (0, 1], `[n_codebooks]`; None for codecs of other houses.
        """
        counts = [record.code_counts for record in self.of(system)]
        if not counts or None in counts:
            return None
        pooled = np.sum([np.array(one) for one in counts], axis=0)
        return perplexity_of_counts(pooled) / pooled.shape[1]

    def file_kbps(self, system: str) -> float:
        """True bitrate of a system's files: all bits over all seconds; nan without records."""
        records = self.of(system)
        seconds = sum(record.seconds for record in records)
        return sum(record.n_bytes for record in records) / 125 / seconds if records else math.nan

    def payload_kbps(self, system: str) -> float:
        """The same without containers; nan if not known."""
        records = self.of(system)
        seconds = sum(record.seconds for record in records)
        payloads = [record.payload_bytes for record in records]
        known = [payload for payload in payloads if payload is not None]
        return sum(known) / 125 / seconds if records and known == payloads else math.nan


def speakers(clips: Iterable[str | Path], pattern: str) -> dict[str, str]:
    """Whose clip it is, from the paths of clips.

    Args:
        clips: paths.
        pattern: regular expression whose first group, or all that it matches, names the speaker.

    Raises:
        InputError: not a regular expression, or it matches nothing in a path.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise InputError(f"{pattern!r} is not a regular expression: {error}") from None
    found = {}
    for clip in map(str, clips):
        match = compiled.search(clip)
        name = match and match.group(1 if compiled.groups else 0)
        if not name:
            raise InputError(f"no speaker in {clip}: {pattern!r} matches nothing there")
        found[clip] = name
    return found


def _t_quantile(degrees: int) -> float:
    """97.5% quantile of Student's t, within 0.03 (Abramowitz and Stegun 1964, 26.7.5)."""
    if degrees <= 2:
        return (12.706, 4.303)[degrees - 1]
    z = 1.959964
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return sum(term / degrees**power for power, term in enumerate(terms))
