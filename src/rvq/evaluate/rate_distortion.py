"""Quality against bitrate: systems over clips, in parallel and resumable."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from rvq.errors import InputError, RvqError
from rvq.evaluate import metrics
from rvq.evaluate.baselines import System
from rvq.evaluate.cache import RecordCache, record_key
from rvq.evaluate.results import Evaluation, Failure, Record, SystemInfo, speakers
from rvq.single_threaded import single_threaded


def evaluate(
    clips: Sequence[str | Path],
    systems: Sequence[System],
    *,
    workers: int = 2,
    cache: Path | None = None,
    measures: Sequence[str] = metrics.CORE,
    speaker_pattern: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Send every clip through every system and measure what comes back.

    Clips that cannot be read, and pairs that a system refuses, are listed under `failures`; the
    rest goes on. They are tried again next time, cache or not.

    Args:
        clips: paths of audio files, in any format libsndfile reads; repeated ones count once.
        systems: what to compare, with distinct names.
        workers: processes to spread the pairs over, each with one thread; 1 stays in this
            process. More need, in a script, the usual `if __name__ == "__main__":`.
        cache: file of finished records to skip and to append to.
        measures: what to measure, of `metrics.METRICS`.
        speaker_pattern: regular expression, see `rvq.evaluate.results.speakers`: clips of a speaker
            are alike, and intervals then hold for new speakers; default clips count as independent.
        progress: called with (pairs finished, pairs in all) after every pair and once at the
            start.

    Raises:
        InputError: no clips or systems, two systems of one name, a measure that there is not, or a
            pattern that finds no speaker.
        FormatError: the cache is a file of another kind.
        RvqError: a program, model or package is missing, or a worker process died.
    """
    if not clips or not systems:
        raise InputError(f"nothing to do with {len(clips)} clips and {len(systems)} systems")
    infos = tuple(SystemInfo(s.name, s.family, s.nominal_kbps, s.version) for s in systems)
    names = [info.name for info in infos]
    if len(set(names)) < len(names):
        raise InputError(f"systems must have distinct names, got {', '.join(names)}")
    # In the order of METRICS; any others come last, and are refused by name.
    measures = tuple(sorted(set(measures), key=(*metrics.METRICS, *measures).index)) or metrics.CORE
    versions = metrics.versions(measures)
    store = RecordCache(cache)

    results: dict[int, Record | Failure] = {}  # by place: clips in order, then systems
    jobs: list[_Job] = []
    paths = list(dict.fromkeys(map(str, clips)))
    whose = {} if speaker_pattern is None else speakers(paths, speaker_pattern)
    for index, clip in enumerate(paths):
        first = index * len(systems)
        try:
            digest = hashlib.sha256(Path(clip).read_bytes()).hexdigest()
        except OSError as error:
            results[first] = Failure(clip, None, error.strerror or str(error))
            continue
        for place, (system, info) in enumerate(zip(systems, infos, strict=True), start=first):
            key = record_key(digest, info, versions, measures)
            record = store.find(key, clip)
            if record is None:
                jobs.append(_Job(place, key, clip, system, measures))
            else:
                results[place] = record

    total = len(paths) * len(systems)
    done = total - len(jobs)
    if progress:
        progress(done, total)
    for job, result in _run(jobs, workers):
        results[job.place] = result
        if isinstance(result, Record):
            store.add(job.key, result)
        done += 1
        if progress:
            progress(done, total)
    ordered = [results[place] for place in sorted(results)]
    records = tuple(result for result in ordered if isinstance(result, Record))
    # An unreadable clip fails once per system, and is named once.
    failures = dict.fromkeys(result for result in ordered if isinstance(result, Failure))
    return Evaluation(infos, records, tuple(failures), versions, measures, whose)


def measure(clip: str, system: System, measures: Sequence[str] = metrics.CORE) -> Record | Failure:
    """One clip through one system: what a worker does."""
    from rvq.codec.files import read_audio

    try:
        audio, sample_rate = read_audio(Path(clip))
    except RvqError as error:
        return Failure(clip, None, str(error).removeprefix(f"{clip} "))
    if audio.size == 0 or not np.isfinite(audio).all():
        return Failure(clip, None, "no samples, or samples that are not finite")
    try:
        result = system.roundtrip(audio, sample_rate)
        decoded = metrics.align(audio, result.audio, sample_rate)
        scores = metrics.score(audio, decoded, sample_rate, measures)
    except RvqError as error:
        return Failure(clip, system.name, str(error))
    except Exception as error:  # whatever a codec or a measure trips over, other clips go on
        return Failure(clip, system.name, f"{type(error).__name__}: {error}")
    seconds = audio.shape[1] / sample_rate
    return Record(
        clip,
        system.name,
        seconds,
        result.n_bytes,
        result.payload_bytes,
        scores,
        result.code_counts,
    )


@dataclass(frozen=True)
class _Job:
    place: int
    key: str
    clip: str
    system: System
    measures: tuple[str, ...]


def _run(jobs: Sequence[_Job], workers: int) -> Iterator[tuple[_Job, Record | Failure]]:
    """Results as they come."""
    if workers <= 1 or len(jobs) <= 1:
        for job in jobs:
            yield job, measure(job.clip, job.system, job.measures)
        return
    # Spawned, not forked: onnxruntime's and BLAS's threads do not survive a fork.
    with (
        single_threaded(),
        ProcessPoolExecutor(min(workers, len(jobs)), mp_context=get_context("spawn")) as pool,
    ):
        waiting = {pool.submit(measure, job.clip, job.system, job.measures): job for job in jobs}
        try:
            while waiting:
                for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                    yield waiting.pop(future), future.result()
        except BrokenProcessPool:
            raise RvqError(
                "a worker process died, perhaps for lack of memory; "
                "run again with workers=1 (finished clips are kept if there is a cache)"
            ) from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
