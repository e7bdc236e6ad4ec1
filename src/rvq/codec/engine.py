"""The networks of the default family in C: AVX-512, AVX2 or portable, as the processor has.

Every number is computed by the same operations in the same order, whatever kernel runs and however
frames are cut into calls, so that latents, and with them codes, are equal to the bit: between
chunk sizes, numbers of threads, and processors. `native/product.h` says how.
"""

from functools import lru_cache
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

try:
    _native: Any = import_module("rvq.codec._spectral")
except ImportError:  # installed without a compiler
    _native = None

Floats = npt.NDArray[np.float32]

_SHAPE = {
    "sample_rate",
    "hop_length",
    "lookahead",
    "companding",
    "width",
    "hidden",
    "kernel_size",
    "encoder_blocks",
    "decoder_blocks",
    "dim",
}
"""What a model card says of a network that is known here."""


@lru_cache
def kernels() -> dict[str, int]:
    """Kernels that run on this processor, fastest first: name -> number."""
    return dict(_native.kernels()) if _native is not None else {}


class Engine:
    """The encoder or the decoder, loaded.

    Args:
        part: "encoder" or "decoder".
        shape: of the networks, from the model's card.
        weights: by name, as torch keeps them.
        kernel: one of `kernels()`; default the fastest.

    Attributes:
        lookahead: frames that the input of a call holds beyond those it makes.
        memory: frames before one that can have any influence on it.
    """

    def __init__(
        self,
        part: str,
        shape: dict[str, Any],
        weights: dict[str, Floats],
        kernel: str | None = None,
    ) -> None:
        decoder = part == "decoder"
        n_blocks = shape[f"{part}_blocks"]
        exponent = 1 / shape["companding"] if decoder else shape["companding"]
        sizes = [shape[k] for k in ("hop_length", "dim", "width", "hidden", "kernel_size")]
        self.lookahead = shape["lookahead"] if decoder else 0
        # One frame more: a decoder's frame also completes the window of the one before.
        self.memory = n_blocks * (shape["kernel_size"] - 1) + 1
        window, cosine, sine = _transforms(shape["hop_length"])
        tensors = (
            window,
            cosine,
            *(() if decoder else (sine,)),
            *(np.ascontiguousarray(weights[name]) for name in _names(part, n_blocks)),
        )
        number = kernels()[kernel or next(iter(kernels()))]
        self._network = _native.load(
            number,
            decoder,
            (*sizes, n_blocks, self.lookahead),
            (exponent - 1) / 2,
            tensors,
        )

    def run(
        self, n_frames: int, source: Floats, samples: Floats, state: Floats, out: Floats
    ) -> None:
        """Frames of one channel; all arrays contiguous.

        Args:
            n_frames: at least 1.
            source: encoder: samples `[n_frames * hop_length]`; decoder: latents
                `[lookahead + n_frames, dim]`.
            samples: `State.samples` of the channel, changed in place.
            state: what the blocks remember, changed in place.
            out: latents `[n_frames, dim]`, or samples.
        """
        _native.run(self._network, n_frames, source, samples, state, out)


def fits(shape: dict[str, Any], encoder: dict[str, Floats], decoder: dict[str, Floats]) -> bool:
    """Whether networks of this shape, with these weights, can run here."""
    return (
        bool(kernels())
        and set(shape) == _SHAPE
        and shape["hop_length"] % 32 == 0
        and set(_names("encoder", shape["encoder_blocks"])) == set(encoder)
        and set(_names("decoder", shape["decoder_blocks"])) == set(decoder)
    )


def _names(part: str, n_blocks: int) -> list[str]:
    """Parameters in the order in which the C side takes them."""
    names = ["linear.weight", "embed.weight", "embed.bias", "norm.weight", "norm.bias"]
    for i in range(n_blocks):
        layers = ("depthwise", "norm", "expand", "contract")
        names += [f"stack.blocks.{i}.{n}.{kind}" for n in layers for kind in ("weight", "bias")]
        names.append(f"stack.blocks.{i}.scale")
    out = "head" if part == "decoder" else "project"
    return [*names, "final_norm.weight", "final_norm.bias", f"{out}.weight", f"{out}.bias"]


@lru_cache
def _transforms(hop: int) -> tuple[Floats, Floats, Floats]:
    """Sine window, DCT-IV and DST-IV, orthonormal: `rvq.lapped` at half the cost.

    The MDCT folds the two hops of a window into one before it transforms (Malvar 1990): the basis
    is even about one of its ends and odd about the other.
    """
    # From a short table by whole numbers: few roundings that another machine could do otherwise.
    turn = 2 * np.pi / (8 * hop) * np.arange(8 * hop)
    odd = 2 * np.arange(hop) + 1
    where = np.outer(odd, odd) % (8 * hop)
    window = np.sin(np.pi * (np.arange(2 * hop) + 0.5) / (2 * hop))
    scale = np.sqrt(2 / hop)
    cosine, sine = scale * np.cos(turn)[where], scale * np.sin(turn)[where]
    return window.astype(np.float32), cosine.astype(np.float32), sine.astype(np.float32)
