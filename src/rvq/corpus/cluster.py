"""The same work as tasks of a Ray cluster, which survives the loss of workers and machines."""

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from rvq.corpus.pool import Result, Task
from rvq.errors import InputError
from rvq.single_threaded import ONE_THREAD

_RETRIES = 5
"""How often a task is tried again whose worker or machine died."""


def run_on_ray(
    work: Callable[[Task, Callable[[Any], None]], Result], tasks: Iterable[Task], *, address: str
) -> Iterator[Result]:
    """Results of `work(task, report)` as they come; a task takes one core and reports nothing.

    Args:
        work: must give the same whenever it is repeated.
        tasks: handed out a few at a time.
        address: of the cluster; `auto` for the one at hand, `local` for one of this machine.

    Raises:
        InputError: no such cluster, or a task whose workers die again and again.
    """
    try:
        import ray
    except ImportError as error:
        raise InputError(f"a cluster needs `pip install 'rvq[ray]'` ({error})") from None
    started = not ray.is_initialized()
    if started:
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, ValueError) as error:
            raise InputError(f"no Ray cluster at {address!r}: {error}") from None
    remote = ray.remote(num_cpus=1, max_retries=_RETRIES, runtime_env={"env_vars": ONE_THREAD})(
        _run
    )
    waiting: list[Any] = []
    todo = iter(tasks)
    try:
        while True:
            # Counted anew each time: machines come and go.
            room = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
            while len(waiting) < room and (task := next(todo, None)) is not None:
                waiting.append(remote.remote(work, task))
            if not waiting:
                return
            done, waiting = ray.wait(waiting, num_returns=1)
            yield ray.get(done[0])
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.WorkerCrashedError:
        raise InputError(
            f"the workers of a shard died {_RETRIES + 1} times; the same command goes on"
        ) from None
    finally:
        if started:
            ray.shutdown()


def _run(work: Callable, task: Any) -> Any:
    return work(task, lambda event: None)
