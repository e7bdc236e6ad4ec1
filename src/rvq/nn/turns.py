"""One of several, in turn: what a training step leaves to the steps after it."""

from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T")


def in_turn(several: Iterable[T], turn: int | None) -> tuple[T, ...]:
    """The one of `several` whose turn it is, or all of them if turn is None."""
    every = tuple(several)
    return every if turn is None else (every[turn % len(every)],)
