"""How fast a corpus becomes codes, and how large: what docs/corpus.md quotes.

    python benchmarks/corpus.py RECORDINGS --out out --files 600

Tokenises the same recordings with one worker and with one per core, and encodes them in this
process one at a time, on all threads, and in batches of like length. Ratios are to one worker.
"""

import argparse
import os
import resource
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile

import rvq
from rvq.corpus.sources import list_sources
from rvq.corpus.tokenize import tokenize

BATCH = 8


def measured(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds of wall time, and of processor time with child processes."""

    def cpu() -> float:
        usages = [resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(usage.ru_utime + usage.ru_stime for usage in usages)

    start, cpu_start = time.perf_counter(), cpu()
    work()
    return time.perf_counter() - start, cpu() - cpu_start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recordings", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--files", type=int, default=600)
    parser.add_argument("--bitrate", type=float, default=6)
    arguments = parser.parse_args()
    sources = list(list_sources(str(arguments.recordings)))
    chosen = np.unique(np.linspace(0, len(sources) - 1, arguments.files).astype(int))
    arguments.out.mkdir(parents=True, exist_ok=True)
    manifest = arguments.out / "list.csv"
    paths = [str(Path(sources[i].path).resolve()) for i in chosen]
    manifest.write_text("\n".join(["path", *paths]))
    audio = [soundfile.read(path, dtype="float32") for path in paths]
    hours = sum(len(x) / rate for x, rate in audio) / 3600
    print(f"{len(paths)} recordings, {hours:.3f} h, {arguments.bitrate:g} kbps")

    rows = {}
    cores = os.cpu_count() or 1
    for workers in (1, cores):
        folder = arguments.out / f"workers{workers}"

        def run(workers: int = workers, folder: Path = folder) -> None:
            done = tokenize(
                manifest,
                folder,
                bitrate=arguments.bitrate,
                workers=workers,
                shard_bytes=sum(sources[i].n_bytes for i in chosen) // 16,  # work for all
            )
            print(f"{done.n_bytes / hours:.0f} bytes an hour in {len(done.shards)} shards")

        rows[f"tokenize, {workers} workers"] = measured(run)

    by_length = sorted(audio, key=lambda item: len(item[0]))
    batches = []
    for rate in sorted({rate for _, rate in audio}):
        same = [samples for samples, other in by_length if other == rate]
        for i in range(0, len(same), BATCH):
            part = same[i : i + BATCH]
            batches.append((np.stack([samples[: len(part[0])] for samples in part]), rate))
    batched_hours = sum(samples.size / rate for samples, rate in batches) / 3600

    def one_at_a_time(threads: int) -> None:
        codec = rvq.Codec.load(threads=threads)
        for samples, rate in audio:
            codec.encode(samples[None], rate, bitrate=arguments.bitrate)

    def batched() -> None:
        # What batching could gain at best: recordings of nearly one length, cut to the shortest.
        codec = rvq.Codec.load()
        for together, rate in batches:
            codec.encode(together, rate, bitrate=arguments.bitrate)

    rows["encode one at a time, 1 thread"] = measured(lambda: one_at_a_time(1))
    rows[f"encode one at a time, {cores} threads"] = measured(lambda: one_at_a_time(cores))
    rows[f"encode {BATCH} of like length at once, 1 thread"] = measured(batched)
    first = next(iter(rows.values()))[0]
    print("| | wall s | times faster | processor s | hours per core-hour |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, (wall, cpu) in rows.items():
        done = batched_hours if "at once" in name else hours
        faster = first / wall * done / hours
        print(f"| {name} | {wall:.1f} | {faster:.2f} | {cpu:.1f} | {done * 3600 / cpu:.0f} |")


if __name__ == "__main__":
    main()
