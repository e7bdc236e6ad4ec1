"""Every kind of checkpoint that can be read, by name."""

from collections.abc import Callable
from pathlib import Path

from rvq.interop.dac import read_dac
from rvq.interop.encodec import read_encodec
from rvq.interop.mimi import read_mimi
from rvq.interop.published import PublishedCodec

READERS: dict[str, Callable[[Path], PublishedCodec]] = {
    "encodec": read_encodec,
    "dac": read_dac,
    "mimi": read_mimi,
}
