"""The search kernels in C: AMX, AVX-512 (with VNNI, with bf16 or without), AVX2 or portable.

Greedy codes follow the definition of `reference.greedy` to the bit whatever kernel runs: scores are
computed in float32, or in 8 bits first where the processor multiplies those, and where two are
closer than the largest errors of such scores the order is settled in float64.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rvq.quantize.kernels.books import TABLES_LIMIT, Books, Tables, products_of

try:
    _native: Any = import_module("rvq.quantize.kernels._native")
except ImportError:  # installed without a compiler
    _native = None

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

MAX_BEAM = 32
MAX_STAGES = 256
_GRAIN = 48 * 16
"""Rows that a thread takes at a time."""
_LEAST_DIMS8 = 16
"""Fewer are multiplied in float32 sooner than rounded to bytes."""
_LEAST_DIMS8_FAST = 128
"""The same of bfloat16."""
_MANY_FAST = 16_384
"""Vectors that it takes, with bfloat16 at hand, for codebooks to be worth rounding to bytes."""
_NOTHING = np.empty(0, np.float32)


class Kernel(NamedTuple):
    """What one kernel has.

    Attributes:
        number: by which the extension knows it.
        bf16: products of bfloat16 numbers.
        int8: products of bytes.
    """

    number: int
    bf16: bool
    int8: bool


@lru_cache
def kernels() -> dict[str, Kernel]:
    """Kernels that run on this processor by name, fastest first."""
    if _native is None:
        return {}
    return {name: Kernel(*found) for name, *found in _native.kernels()}


def n_cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def available() -> bool:
    """Whether the C kernels were compiled."""
    return bool(kernels())


def greedy(
    x: Floats, books: Books, *, fast: bool = False, threads: int = 1, kernel: str | None = None
) -> tuple[Integers, Floats]:
    """Greedy search: codes `[n, n_codebooks]` and what is left of the vectors, `[n, dim]`.

    Args:
        x: vectors, `[n, dim]`, finite.
        books: the codebooks.
        fast: scores from bf16 products, where the processor has them and nothing exact is as fast:
            nearly tied codewords may be taken for one another.
        threads: that share the rows.
        kernel: one of `kernels()`; default the fastest.
    """
    codes = np.empty((len(x), len(books.codebooks)), np.int64)
    left = np.empty_like(x)
    _run(kernel, 1, fast, x, books, codes, left, threads)
    return codes, left


def nearest(x: Floats, codebook: Floats, *, threads: int = 1) -> Integers:
    """Codes `[n]` of vectors `[n, dim]` in one codebook, as `greedy` finds them."""
    codes = np.empty((len(x), 1), np.int64)
    _run(None, 1, False, x, Books.of(codebook[None]), codes, _NOTHING, threads)
    return codes[:, 0]


def beam(
    x: Floats,
    books: Books,
    width: int,
    *,
    kept: int = 1,
    fast: bool = False,
    threads: int = 1,
    kernel: str | None = None,
) -> Integers:
    """Search that follows the `width` best code sequences; arguments as for `greedy`.

    Codes are the same for every kernel and number of threads, unless `fast`.

    Returns:
        The `kept` best sequences of every vector, best first, `[n, kept, n_codebooks]`.
    """
    codes = np.empty((len(x), kept, len(books.codebooks)), np.int64)
    _run(kernel, width, fast, x, books, codes, _NOTHING, threads)
    return codes


def _run(
    name: str | None,
    width: int,
    fast: bool,
    x: Floats,
    books: Books,
    codes: Integers,
    left: Floats,
    threads: int,
) -> None:
    n_codebooks, size, dim = books.codebooks.shape
    kernel = _kernel(name)
    products: npt.NDArray[np.floating] = _NOTHING
    scale = 0.0
    if width > 1 and books.n_products * 2 <= TABLES_LIMIT:
        tables = _tables(kernel.number, books, threads)
        products, scale = tables.products[: books.n_products], tables.scale
    fast = fast and kernel.bf16
    least = _LEAST_DIMS8_FAST if fast else _LEAST_DIMS8
    pays = not fast or len(x) >= _MANY_FAST or "bytes" in vars(books)
    made = books.bytes if kernel.int8 and width == 1 and dim >= least and pays else None
    fast = fast and made is None
    packed16 = books.packed16 if fast else _NOTHING
    in_bytes = vars(made).values() if made else [_NOTHING] * 4
    arrays = (books.codebooks, books.packed, packed16, books.costs, books.offsets, books.reach)
    shape = (n_codebooks, size, books.padded, dim)
    kept = codes.shape[1] if codes.ndim == 3 else 1
    how = (kernel.number, width, kept, fast, shape)

    def search(start: int, stop: int) -> None:
        _native.search(*how, start, stop, x, *arrays, *in_bytes, products, scale, codes, left)

    in_chunks(search, len(x), threads)


def _kernel(name: str | None) -> Kernel:
    return kernels()[name or next(iter(kernels()))]


def _tables(number: int, books: Books, threads: int) -> Tables:
    """Products of the codewords of all stages; those still missing are made."""
    n_codebooks, size, dim = books.codebooks.shape
    tables = books.tables

    def make(stage: int) -> None:
        earlier = books.codebooks[:stage].reshape(-1, dim)
        rows = tables.products[products_of(stage, size, books.padded) :]
        arrays = (earlier, books.packed[stage], tables.scale, rows)

        def multiply(start: int, stop: int) -> None:
            _native.products(number, (books.padded, dim), start, stop, *arrays)

        in_chunks(multiply, len(earlier), threads)

    with tables.lock:
        for stage in range(tables.n_made, n_codebooks):
            make(stage)
        tables.n_made = max(tables.n_made, n_codebooks)
    return tables


def in_chunks(work: Callable[[int, int], None], n: int, threads: int, grain: int = _GRAIN) -> None:
    """Call `work(start, stop)` on ranges of rows; idle threads take the next range."""
    if threads == 1 or n <= grain:
        work(0, n)
        return
    with ThreadPoolExecutor(threads) as pool:
        starts = range(0, n, grain)
        for done in [pool.submit(work, start, min(start + grain, n)) for start in starts]:
            done.result()


def decode(codes: Integers, codebooks: Floats, *, kernel: str | None = None) -> Floats:
    """Sums of codewords: `[n, any prefix]` -> `[n, dim]`, the same with every kernel."""
    _, size, dim = codebooks.shape
    n, used = codes.shape
    vectors = np.empty((n, dim), np.float32)
    _native.decode(_kernel(kernel).number, (n, used, size, dim), codes, codebooks, vectors)
    return vectors


def scan(
    codes: npt.NDArray[np.unsignedinteger],
    table: Floats,
    norms: Floats,
    distances: Floats,
    ids: Integers,
) -> None:
    """Find the smallest  norms[i] - sum_m table[m, codes[i, m]],  best first, ties to the lowest i.

    Args:
        codes: `[n, n_codebooks]`, uint8 for codebooks of up to 256 codewords, else uint16.
        table: `[n_codebooks, codebook_size]`.
        norms: `[n]`.
        distances: where the k values go, `[k]`.
        ids: where their rows go, `[k]`.
    """
    n, m = codes.shape
    _native.scan((n, m, table.shape[1], len(ids)), codes, table, norms, distances, ids)


def sums_by_code(x: Floats, codes: Integers, size: int) -> npt.NDArray[np.float64]:
    """Sum of the vectors of every code: `[n, dim]`, `[n]` -> `[size, dim]`."""
    sums = np.zeros((size, x.shape[1]))
    _native.sums((*x.shape, size), x, codes, sums)
    return sums
