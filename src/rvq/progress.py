"""How long work tells how far it is."""

from collections.abc import Callable

Progress = Callable[[float], None]
"""Called with the share of the work done, 0 to 1."""
