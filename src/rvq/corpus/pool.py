"""Worker processes with one thread each, which end with the process that started them."""

import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from rvq.errors import InputError
from rvq.single_threaded import single_threaded

Task = TypeVar("Task")
Result = TypeVar("Result")
Event = TypeVar("Event")

_NOTE_BYTES = 4096

_events: Any = None
_stop: Any = None
_note: Any = None


class StopWorkError(Exception):
    """Raised in a worker by its report when the parent was interrupted."""


class WorkerDiedError(InputError):
    """A worker was killed, by a library that crashed or for want of memory.

    Attributes:
        notes: what the workers were at, see `note`.
    """

    def __init__(self, notes: list[str]) -> None:
        super().__init__(
            "worker processes were killed, perhaps for want of memory; the same command goes on, "
            "with fewer --workers if need be"
        )
        self.notes = notes


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
        InputError: no workers.
        WorkerDiedError: a worker was killed; what it raised itself comes through as it is.
    """
    if workers < 1:
        raise InputError(f"workers must be at least 1, got {workers}")
    context = multiprocessing.get_context("spawn")
    events, stop = context.Queue(), context.Event()
    notes = [context.RawArray("c", _NOTE_BYTES) for _ in range(workers)]
    waiting: set[Future] = set()
    todo = iter(tasks)
    with (
        single_threaded(),
        ProcessPoolExecutor(
            workers,
            mp_context=context,
            initializer=_begin,
            initargs=(events, stop, notes, context.Value("i", 0)),
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
            raise WorkerDiedError([n.value.decode() for n in notes]) from None
        finally:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)


def _drain(events: Any, on_event: Callable[[Any], None]) -> None:
    while True:
        try:
            on_event(events.get_nowait())
        except queue.Empty:
            return


def _begin(events: Any, stop: Any, notes: list[Any], started: Any) -> None:
    global _events, _stop, _note
    _events, _stop = events, stop
    with started:
        _note = notes[started.value]
        started.value += 1
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent says when to stop

    def follow_parent() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=follow_parent, daemon=True).start()


def note(text: str) -> None:
    """Note in a worker what it is at, where the parent reads it if the worker dies of it."""
    if _note is not None:
        data = text.encode()
        _note.value = data if len(data) < _NOTE_BYTES else b""


def _report(event: Any) -> None:
    if _stop.is_set():
        raise StopWorkError
    _events.put(event)


def _run(work: Callable, task: Any) -> Any:
    return work(task, _report)
