"""Residual vector quantization of audio and speech: vectors -> codes -> bytes and back."""

from importlib import import_module
from typing import TYPE_CHECKING

from rvq import errors

if TYPE_CHECKING:
    from rvq.bitstream.codes import Codes
    from rvq.codec.codec import Codec
    from rvq.quantize.index import Index
    from rvq.quantize.product import ProductQuantizer, ScalarQuantizer
    from rvq.quantize.residual import ResidualQuantizer

__version__ = "0.1.0"
__all__ = [
    "Codec",
    "Codes",
    "Index",
    "ProductQuantizer",
    "ResidualQuantizer",
    "ScalarQuantizer",
    "__version__",
    "errors",
]

# Resolved on first use, so that `import rvq` stays fast whatever the parts cost to import.
_HOME = {
    "ResidualQuantizer": "rvq.quantize.residual",
    "ProductQuantizer": "rvq.quantize.product",
    "ScalarQuantizer": "rvq.quantize.product",
    "Index": "rvq.quantize.index",
    "Codes": "rvq.bitstream.codes",
    "Codec": "rvq.codec.codec",
}


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'rvq' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
