"""Worker processes with one thread each, which end with the process that started them."""

import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, TypeVar

from rvq.errors import InputError

ONE_THREAD = {
    name: "1"
    for name in (
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "MKL_NUM_THREADS",
        "VECLIB_MAXIMUM_THREADS",
    )
}
"""Environment of a process whose libraries keep to one thread."""

Task = TypeVar("Task")
Result = TypeVar("Result")
Event = TypeVar("Event")

_events: Any = None
_stop: Any = None


class StopWorkError(Exception):
    """Raised in a worker by its report when the parent was interrupted."""


def run_pool(
    work: Callable[[Task, Callable[[Event], None]], Result],
    tasks: Iterable[Task],
    *,
    workers: int,
    on_event: Callable[[Event], None],
) -> Iterator[Result]:
    """Results of `work(task, report)` as they come; what workers report reaches `on_event` here.

    Few tasks are under way at a time, so that there may be any number of them.

    Raises:
        InputError: a worker was killed; what it raised itself comes through as it is.
    """
    context = multiprocessing.get_context("spawn")
    events, stop = context.Queue(), context.Event()
    waiting: set[Future] = set()
    todo = iter(tasks)
    with (
        _environment(ONE_THREAD),
        ProcessPoolExecutor(
            workers, mp_context=context, initializer=_begin, initargs=(events, stop)
        ) as pool,
    ):
        try:
            while True:
                while len(waiting) < 2 * workers and (task := next(todo, None)) is not None:
                    waiting.add(pool.submit(_run, work, task))
                if not waiting:
                    break
                done, waiting = wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED)
                _drain(events, on_event)
                for future in done:
                    yield future.result()
            _drain(events, on_event)
        except BrokenProcessPool:
            raise InputError(
                "a worker process was killed, perhaps for want of memory; the same command goes "
                "on, with fewer --workers if need be"
            ) from None
        finally:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)


def _drain(events: Any, on_event: Callable[[Any], None]) -> None:
    while True:
        try:
            on_event(events.get_nowait())
        except queue.Empty:
            return


def _begin(events: Any, stop: Any) -> None:
    global _events, _stop
    _events, _stop = events, stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent says when to stop

    def follow_parent() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=follow_parent, daemon=True).start()


def _report(event: Any) -> None:
    if _stop.is_set():
        raise StopWorkError
    _events.put(event)


def _run(work: Callable, task: Any) -> Any:
    return work(task, _report)


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Processes started meanwhile have these variables."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
