"""What codes alone tell: labels of recordings predicted, and like recordings found, from them.

One linear classifier for all features, so that accuracies compare what the features hold.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rvq.codec.codec import Codec
from rvq.codec.models import DEFAULT_MODEL, find
from rvq.corpus.features import pooled_features, read_mono
from rvq.corpus.pool import run_pool
from rvq.corpus.sources import read_manifest
from rvq.errors import InputError
from rvq.quantize.index import Index
from rvq.quantize.residual import ResidualQuantizer

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

_CLIPS_PER_TASK = 16
_COUNTS = (1, 2, 4, 8, 16)
_RESAMPLES = 1000


@dataclass(frozen=True)
class Accuracy:
    """How often a label was right.

    Attributes:
        features: they were predicted from, see `rvq.corpus.features`.
        value: share of the recordings.
        low, high: 95% interval, by resampling the recordings.
    """

    features: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Probed:
    """What codes told about one kind of label.

    Attributes:
        labels: the classes.
        n_clips: recordings.
        n_folds: parts, each of which was predicted from the others.
        chance: share of the commonest label.
        classified: by the linear classifier.
        retrieved: by the label of the nearest recording of the other parts, without training.
        model_hash: of the codec.
    """

    labels: tuple[str, ...]
    n_clips: int
    n_folds: int
    chance: float
    classified: tuple[Accuracy, ...]
    retrieved: tuple[Accuracy, ...]
    model_hash: str


def probe(
    manifest: str | Path,
    *,
    model: str | Path = DEFAULT_MODEL,
    n_codebooks: Sequence[int] | None = None,
    segments: int = 1,
    n_folds: int = 5,
    workers: int = 1,
    seed: int = 0,
    progress: Callable[[float], None] = lambda share: None,
) -> Probed:
    """Classify and retrieve labelled recordings from their codes, latents and log-mel spectra.

    Args:
        manifest: `.csv` or `.jsonl` with columns `path`, `label`, and perhaps `group`: recordings
            of one group (a voice, a source) are never on both sides of a split.
        model: whose codes.
        n_codebooks: numbers of codebooks to compare; default 1, 2, 4, 8 and 16 as far as the model
            has them.
        segments: pool over so many parts of a recording one by one, where their order matters.
        n_folds: of the cross-validation; at most as many as there are groups.
        workers: processes that compute features.
        seed: of the split and the intervals.
        progress: called with the share of the features computed.

    Raises:
        InputError: a manifest without labels, recordings that cannot be read, or numbers of
            codebooks that the model does not have.
    """
    entries = list(read_manifest(manifest))
    stated = [str(rest.get("label", "")) for _, _, rest in entries]
    if not all(stated) or not entries:
        raise InputError(f"{manifest} lacks labels; give every entry a field label")
    labels, y = np.unique(stated, return_inverse=True)
    if len(labels) < 2:
        raise InputError(f"{manifest} has a single label, {stated[0]!r}; nothing can be told apart")
    groups = [_group(rest, i) for i, (_, _, rest) in enumerate(entries)]
    folds = split(y, groups, n_folds, seed)
    codec = Codec.load(find(model))
    most = len(codec.runtime.codebooks)
    counts = sorted(set(n_codebooks or (n for n in _COUNTS if n <= most)))
    if not 1 <= counts[0] <= counts[-1] <= most:
        raise InputError(f"numbers of codebooks must be in 1..{most}, got {counts}")
    task = (str(find(model).resolve()), tuple(counts), segments)
    features = _features([str(path) for path, _, _ in entries], task, workers, progress)
    compared = ["log-mel", "latents", *(f"codes {n}" for n in counts)]
    jobs = [(name, "classified", x, y, folds) for name, x in features.items()]
    jobs += [(name, "retrieved", features[name], y, folds) for name in compared]
    jobs.append((compared[-1], "by index", features[compared[-1]], y, folds))
    right = dict(run_pool(_told, jobs, workers=workers, on_event=lambda event: None))
    classified = [_accuracy(name, right[name, "classified"], seed) for name in features]
    retrieved = [_accuracy(name, right[name, "retrieved"], seed) for name in compared]
    by_index = right[compared[-1], "by index"]
    retrieved.append(_accuracy(f"{compared[-1]}, rvq.Index", by_index, seed))
    return Probed(
        labels=tuple(map(str, labels)),
        n_clips=len(y),
        n_folds=len(np.unique(folds)),
        chance=float(np.bincount(y).max() / len(y)),
        classified=tuple(classified),
        retrieved=tuple(retrieved),
        model_hash=codec.model_hash,
    )


def _group(rest: dict, number: int) -> str:
    """The group of an entry, or one of its own that no other can have."""
    name = str(rest.get("group", ""))
    return f"group {name}" if name else f"entry {number}"


def split(y: Integers, groups: Sequence[str], n_folds: int, seed: int) -> Integers:
    """The part of every recording, `[n]`: groups stay together, labels are spread evenly.

    Raises:
        InputError: fewer than two groups, or a label that only one part would have.
    """
    random = np.random.default_rng(seed)
    names, group = np.unique(groups, return_inverse=True)
    n_folds = min(n_folds, len(names))
    folds = np.zeros(len(names), np.int64)
    counts = np.zeros((n_folds, y.max() + 1))
    sizes = np.bincount(group)
    # The largest groups first, each to the part that has least of its labels.
    for g in sorted(random.permutation(len(names)), key=lambda g: -sizes[g]):
        own = np.bincount(y[group == g], minlength=y.max() + 1)
        folds[g] = np.lexsort((counts.sum(1), counts[:, own > 0].sum(1)))[0]
        counts[folds[g]] += own
    if n_folds < 2 or ((counts > 0).sum(0) < 2).any():
        raise InputError("a label has recordings of one group only; what is to be told from what?")
    return folds[group]


def classify(x: Floats, y: Integers, folds: Integers) -> Integers:
    """Labels predicted for every part from the others, by linear discriminant analysis.

    Covariance within classes is shrunk as by Ledoit & Wolf (2004); classes count alike.
    """
    from sklearn.covariance import ledoit_wolf

    predicted = np.empty_like(y)
    for fold in np.unique(folds):
        train, test = folds != fold, folds == fold
        inputs = _standardised(x, train)
        classes = np.unique(y[train])
        means = np.stack([inputs[train & (y == c)].mean(0) for c in classes])
        centred = inputs[train] - means[np.searchsorted(classes, y[train])]
        covariance, _ = ledoit_wolf(centred, assume_centered=True)
        if not covariance.any():  # a recording of every class: the nearest one decides
            covariance = np.eye(len(covariance))
        weights = np.linalg.solve(covariance, means.T)
        scores = inputs[test] @ weights - 0.5 * (means.T * weights).sum(0)
        predicted[test] = classes[scores.argmax(1)]
    return predicted


def nearest(x: Floats, folds: Integers, *, compressed: bool = False) -> Integers:
    """For every recording the number of the nearest one of the other parts.

    Args:
        x: features `[n, dim]`.
        folds: part of every recording.
        compressed: keep the others as 8 codes of 8 bits each in an `rvq.Index`.
    """
    found = np.empty(len(x), np.int64)
    for fold in np.unique(folds):
        train, test = folds != fold, folds == fold
        inputs = _standardised(x, train)
        others, queries = inputs[train], inputs[test]
        if compressed:
            size = max(2, min(256, len(others) // 4))
            quantizer = ResidualQuantizer(n_codebooks=8, codebook_size=size)
            index = Index(quantizer.fit(others))
            index.add(others)
            ids = index.search(queries, k=1).ids[:, 0]
        else:
            distances = np.square(others).sum(1) - 2 * queries @ others.T
            ids = distances.argmin(1)
        found[test] = np.flatnonzero(train)[ids]
    return found


def _standardised(x: Floats, train: npt.NDArray[np.bool_]) -> Floats:
    """Zero mean and unit variance of every dimension over the training part."""
    return np.asarray((x - x[train].mean(0)) / (x[train].std(0) + 1e-6), np.float32)


def _accuracy(features: str, right: npt.NDArray[np.bool_], seed: int) -> Accuracy:
    random = np.random.default_rng(seed)
    means = random.binomial(len(right), right.mean(), _RESAMPLES) / len(right)
    low, high = np.quantile(means, [0.025, 0.975])
    return Accuracy(features, float(right.mean()), float(low), float(high))


# --- in the workers -------------------------------------------------------------------------------

_Settings = tuple[str, tuple[int, ...], int]


def _features(
    paths: list[str], settings: _Settings, workers: int, progress: Callable[[float], None]
) -> dict[str, Floats]:
    """All features of all recordings, `[n, dim]` each."""
    parts: dict[int, dict[str, Floats]] = {}
    done = 0

    def count(_: int) -> None:
        nonlocal done
        done += 1
        progress(done / len(paths))

    starts = range(0, len(paths), _CLIPS_PER_TASK)
    tasks = ((i, paths[i : i + _CLIPS_PER_TASK], settings) for i in starts)
    for start, part in run_pool(_clips, tasks, workers=workers, on_event=count):
        parts[start] = part
    return {name: np.concatenate([parts[i][name] for i in starts]) for name in parts[0]}


@lru_cache(maxsize=1)
def _codec(model: str) -> Codec:
    return Codec.load(model)


def _clips(
    task: tuple[int, list[str], _Settings], report: Callable[[int], None]
) -> tuple[int, dict[str, Floats]]:
    start, paths, (model, n_codebooks, segments) = task
    codec = _codec(model)
    rows = []
    for path in paths:
        try:
            audio = read_mono(path, codec.runtime.sample_rate)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        rows.append(pooled_features(codec, audio, n_codebooks, segments))
        report(1)
    return start, {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def _told(
    job: tuple[str, str, Floats, Integers, Integers], _: Callable[[None], None]
) -> tuple[tuple[str, str], npt.NDArray[np.bool_]]:
    """Whether the label of every recording was found."""
    name, how, x, y, folds = job
    if how == "classified":
        predicted = classify(x, y, folds)
    else:
        predicted = y[nearest(x, folds, compressed=how == "by index")]
    return (name, how), predicted == y
