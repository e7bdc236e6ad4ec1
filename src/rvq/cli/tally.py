"""The progress of a corpus on standard error: a bar on a terminal, else a line now and then."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rvq.corpus.encoding import Tally

_SECONDS_BETWEEN_LINES = 30


@contextmanager
def tally(title: str) -> Iterator[Callable[["Tally"], None]]:
    """Shows how much of the sources is done, recordings, hours, files skipped and the time left."""
    if not sys.stderr.isatty():
        yield _lines(title)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
    from rich.progress import TimeRemainingColumn as TimeLeft

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeLeft())
    with Progress(
        *columns, console=Console(stderr=True), transient=True, speed_estimate_period=300
    ) as bar:
        task = bar.add_task(title, total=None)
        yield lambda now: bar.update(
            task, total=now.of_bytes, completed=now.n_bytes, description=_numbers(now)
        )


def _numbers(now: "Tally") -> str:
    skipped = f", {now.n_skipped} skipped" if now.n_skipped else ""
    return f"{now.n_recordings} recordings, {now.seconds / 3600:.2f} h{skipped}"


def _lines(title: str) -> Callable[["Tally"], None]:
    start = last = time.monotonic()
    n_bytes_at_start: int | None = None

    def report(now: "Tally") -> None:
        nonlocal last, n_bytes_at_start
        if n_bytes_at_start is None:
            n_bytes_at_start = now.n_bytes
        tick = time.monotonic()
        if tick - last < _SECONDS_BETWEEN_LINES:
            return
        last = tick
        share = now.n_bytes / max(1, now.of_bytes)
        line = f"{title}: {share:.1%}, {_numbers(now)}"
        if now.n_bytes > n_bytes_at_start:
            left = (now.of_bytes - now.n_bytes) / (now.n_bytes - n_bytes_at_start) * (tick - start)
            line += f", {timedelta(seconds=round(left))} left"
        print(line, file=sys.stderr, flush=True)

    return report
