"""Every kernel against the definition, on shapes that do not fit its blocks."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from rvq.quantize.kernels import blas, native, reference
from rvq.quantize.kernels.books import Books

KERNELS = list(native.kernels())
SHAPES = [(1, 1, 2, 1), (50, 3, 2, 5), (97, 4, 16, 12), (200, 3, 100, 37), (60, 8, 256, 64)]
SHAPES += [(0, 2, 40, 20), (1, 2, 40, 67), (33, 2, 33, 131), (400, 2, 64, 150)]

needs_compiler = pytest.mark.skipif(not KERNELS, reason="the C kernels were not compiled")


def problem(n, n_codebooks, size, dim, seed=0):
    """Vectors, and codebooks of falling scale with a few codewords twice."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, dim)).astype(np.float32)
    codebooks = random.normal(size=(n_codebooks, size, dim)).astype(np.float32)
    codebooks *= (0.7 ** np.arange(n_codebooks, dtype=np.float32))[:, None, None]
    codebooks[:, size // 2] = codebooks[:, 0]
    return x, codebooks


def test_kernels_are_compiled_where_a_compiler_is():
    import shutil

    if shutil.which("gcc"):
        assert "portable" in KERNELS


def test_matrix_registers_are_used_where_they_are():
    flags = Path("/proc/cpuinfo")
    if not flags.exists() or not {"amx_int8", "amx_bf16"} <= set(flags.read_text().split()):
        pytest.skip("this processor has no AMX, or the system does not say")
    assert KERNELS[0] == "amx"


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kernel", ["blas", *KERNELS])
@pytest.mark.parametrize("penalised", [False, True])
def test_greedy_is_the_definition_to_the_bit(kernel, shape, penalised):
    x, codebooks = problem(*shape)
    penalties = np.zeros(codebooks.shape[:2])
    if penalised:
        penalties = np.random.default_rng(1).exponential(size=codebooks.shape[:2])
    codes, left = reference.greedy(x, codebooks, penalties)
    books = Books.of(codebooks, penalties)
    if kernel == "blas":
        found, found_left = blas.greedy(x, books)
    else:
        found, found_left = native.greedy(x, books, kernel=kernel)
    np.testing.assert_array_equal(found, codes)
    np.testing.assert_array_equal(found_left, left)


@pytest.mark.parametrize("kernel", ["blas", *KERNELS])
def test_near_ties_are_settled_exactly(kernel):
    """Codewords that differ by less than float32 scores can tell."""
    random = np.random.default_rng(0)
    x = random.normal(size=(300, 48)).astype(np.float32)
    centre = random.normal(size=48).astype(np.float32)
    codebook = np.nextafter(
        np.tile(centre, (64, 1)), random.normal(size=(64, 48)).astype(np.float32)
    )[None]
    expected, _ = reference.greedy(x, codebook)
    books = Books.of(codebook)
    found, _ = blas.greedy(x, books) if kernel == "blas" else native.greedy(x, books, kernel=kernel)
    np.testing.assert_array_equal(found, expected)
    assert len(np.unique(expected)) > 10


@pytest.mark.parametrize("kernel", ["blas", *KERNELS])
@pytest.mark.parametrize(
    ("scale", "offset"), [(1, 0), (1, 1e4), (1e-3, 1), (1e-33, 0), (1e7, 0), (1e17, 0)]
)
def test_vectors_between_codewords_get_the_nearer_one(kernel, scale, offset):
    """Rounded scores can't tell, nor float32 ones where all is far from the origin."""
    random = np.random.default_rng(2)
    codebook = scale * (offset + random.normal(size=(80, 50)) * np.geomspace(1, 1e-3, 50))
    codebook[40:60] = codebook[0] + scale * random.normal(size=(20, 50)) * 1e-3
    pairs = random.integers(80, size=(2, 150))
    x = (codebook[pairs[0]] + codebook[pairs[1]]) / 2
    x *= 1 + 1e-6 * random.normal(size=(150, 1))
    x, books = x.astype(np.float32), Books.of(codebook[None].astype(np.float32))
    expected, _ = reference.greedy(x, books.codebooks)
    found, _ = blas.greedy(x, books) if kernel == "blas" else native.greedy(x, books, kernel=kernel)
    np.testing.assert_array_equal(found, expected)


@needs_compiler
def test_bytes_stay_within_their_bounds():
    _, codebooks = problem(1, 3, 40, 21)
    codebooks[1] += 100
    made = Books.of(codebooks).bytes
    steps, offsets, reach = made.levels[:, :, :40].transpose(1, 0, 2)
    codewords = made.packed.transpose(0, 1, 3, 2, 4).reshape(3, 64, 24)[:, :40, :21] - 128.0
    moved = codebooks - made.centres[:, None].astype(np.float64)
    remainders = np.linalg.norm(moved - codewords * steps[:, :, None], axis=2)
    assert (np.linalg.norm(moved, axis=2) <= reach * (1 + 1e-6)).all()
    assert (remainders <= reach * made.bounds[:, :1]).all()
    assert (remainders > 0.5 * reach * made.bounds[:, :1]).mean() > 0.5  # and no looser than that
    squared = np.square(moved).sum(2) - 2 * (np.square(made.centres).sum(1) / 2)[:, None]
    np.testing.assert_allclose(offsets, -squared / 2, rtol=1e-5)


@needs_compiler
def test_prefixes_share_what_was_made_for_all():
    x, codebooks = problem(200, 4, 64, 32)
    books = Books.of(codebooks)
    prefix = books.prefix(2)
    assert np.shares_memory(prefix.bytes.levels, books.bytes.levels)
    np.testing.assert_array_equal(native.greedy(x, prefix)[0], native.greedy(x, books)[0][:, :2])


@needs_compiler
@pytest.mark.parametrize("shape", SHAPES)
def test_beam_codes_are_the_same_for_every_kernel_and_way(shape, monkeypatch):
    x, codebooks = problem(*shape)
    books = Books.of(codebooks)
    paths = native.beam(x, books, 5, kept=5, kernel="portable")
    expected = paths[:, 0]
    for kernel in KERNELS:
        np.testing.assert_array_equal(native.beam(x, books, 5, kept=5, kernel=kernel), paths)
        np.testing.assert_array_equal(native.beam(x, books, 5, kernel=kernel)[:, 0], expected)
    errors = np.stack(
        [np.square(x - blas.decode(paths[:, p], codebooks)).sum(1) for p in range(5)], axis=1
    )
    assert (np.diff(errors, axis=1) > -1e-3 * errors[:, :1]).all()  # best first
    error = np.square(x - blas.decode(expected, codebooks)).sum()
    # With residuals instead of tables, and in numpy: other roundings, the same search.
    monkeypatch.setattr(native, "TABLES_LIMIT", 0)
    for codes in (native.beam(x, books, 5)[:, 0], blas.beam(x, books, 5)[:, 0]):
        other = np.square(x - blas.decode(codes, codebooks)).sum()
        assert other == pytest.approx(error, rel=1e-3)


@needs_compiler
def test_tables_are_products_whoever_makes_them_and_however_far():
    _, codebooks = problem(1, 4, 50, 13)
    codebooks[3] *= 1e-4  # products below the normal numbers of half precision
    made = {}
    for kernel in KERNELS:
        books = Books.of(codebooks)
        for n in (2, 4, 3):
            native.beam(codebooks[0], books.prefix(n), 3, kernel=kernel, threads=2)
        made[kernel] = books.tables.products
        np.testing.assert_array_equal(
            made[kernel].view(np.uint16), made[KERNELS[0]].view(np.uint16)
        )
    stages = np.split(made[KERNELS[0]], np.cumsum([1, 2])[:2] * 50 * 64)
    for m, found in enumerate(stages, 1):
        expected = codebooks[:m].reshape(-1, 13) @ codebooks[m].T / books.tables.scale
        np.testing.assert_allclose(found.reshape(-1, 64)[:, :50], expected, rtol=6e-4, atol=6e-8)
        assert not found.reshape(-1, 64)[:, 50:].any()


@needs_compiler
def test_wide_beam_finds_the_best_of_all_sequences():
    x, codebooks = problem(80, 3, 4, 6)
    sums = [
        sum(codebooks[i][c] for i, c in enumerate(choice))
        for choice in itertools.product(range(4), repeat=3)
    ]
    best = ((x[:, None] - np.stack(sums)) ** 2).sum(2).min(1)
    codes = native.beam(x, Books.of(codebooks), 16)[:, 0]  # all sequences of two
    left = x - blas.decode(codes, codebooks)
    np.testing.assert_allclose(np.square(left).sum(1), best, rtol=1e-4, atol=1e-5)


@needs_compiler
@pytest.mark.parametrize("width", [1, 4])
@pytest.mark.parametrize("threads", [2, 5])
def test_threads_change_nothing(width, threads):
    x, codebooks = problem(5_000, 4, 32, 16)
    books = Books.of(codebooks)
    if width == 1:
        one, many = native.greedy(x, books)[0], native.greedy(x, books, threads=threads)[0]
    else:
        one, many = native.beam(x, books, 4), native.beam(x, books, 4, threads=threads)
    np.testing.assert_array_equal(many, one)


@needs_compiler
@pytest.mark.parametrize(
    "kernel", [name for name, kernel in native.kernels().items() if kernel.bf16]
)
@pytest.mark.parametrize("dim", [33, 70, 150])
def test_fast_mode_loses_next_to_nothing(dim, kernel):
    x, codebooks = problem(4_000, 6, 128, dim)
    books = Books.of(codebooks)
    exact, fast = (native.greedy(x, books, fast=f, kernel=kernel)[1] for f in (False, True))
    assert np.square(fast).sum() == pytest.approx(np.square(exact).sum(), rel=3e-3)
    exact, fast = (
        x - blas.decode(native.beam(x, books, 4, fast=f, kernel=kernel)[:, 0], codebooks)
        for f in (False, True)
    )
    assert np.square(fast).sum() == pytest.approx(np.square(exact).sum(), rel=5e-3)


@needs_compiler
@pytest.mark.parametrize("limit", [0, native.TABLES_LIMIT])
def test_fast_beams_of_many_codebooks_stay_in_their_memory(limit, monkeypatch):
    """Its size once fell short, where the allocator noticed at best."""
    monkeypatch.setattr(native, "TABLES_LIMIT", limit)
    x, codebooks = problem(200, 40, 256, 90)
    for width in (2, 32):
        exact, fast = (native.beam(x, Books.of(codebooks), width, fast=f)[:, 0] for f in (0, 1))
        errors = [np.square(x - blas.decode(codes, codebooks)).sum() for codes in (exact, fast)]
        assert errors[1] == pytest.approx(errors[0], rel=0.05)


@needs_compiler
@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1e9])
def test_the_scale_of_vectors_does_not_matter(scale):
    x, codebooks = problem(300, 4, 32, 16)
    plain = native.beam(x, Books.of(codebooks), 5)[:, 0]
    factor = np.float32(2.0 ** round(np.log2(scale)))
    scaled = native.beam(x * factor, Books.of(codebooks * factor), 5)[:, 0]
    assert (scaled == plain).mean() > 0.99


@needs_compiler
def test_values_beyond_float32_do_no_harm():
    x, codebooks = problem(20, 2, 16, 8)
    x[3] = 3e38
    codes, _ = native.greedy(x, Books.of(codebooks))
    beams = native.beam(x, Books.of(codebooks), 3)
    for found in (codes, beams):
        assert found.min() >= 0
        assert found.max() < 16
    rest = np.delete(np.arange(20), 3)
    np.testing.assert_array_equal(codes[rest], reference.greedy(x[rest], codebooks)[0])


@needs_compiler
@pytest.mark.parametrize("size", [16, 256, 300])
def test_decode_and_scan_agree_with_numpy(size):
    random = np.random.default_rng(0)
    codebooks = random.normal(size=(8, size, 10)).astype(np.float32)
    codes = random.integers(size, size=(1_000, 8))
    for dim in (10, 70, 75):
        wide = np.tile(codebooks, 8)[:, :, :dim].copy()
        for kernel in KERNELS:
            found = native.decode(codes, wide, kernel=kernel)
            np.testing.assert_array_equal(found, blas.decode(codes, wide))
    with pytest.raises(ValueError, match="range"):
        native.decode(np.full((1, 8), size), codebooks)
    small = codes.astype(np.uint8 if size <= 256 else np.uint16)
    table = random.normal(size=(8, size)).astype(np.float32)
    norms = random.normal(size=1_000).astype(np.float32)
    found = [(np.empty(20, np.float32), np.empty(20, np.int64)) for _ in range(2)]
    native.scan(small, table, norms, *found[0])
    blas.scan(small, table, norms, *found[1])
    np.testing.assert_array_equal(found[0][1], found[1][1])
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-5, atol=1e-5)


@needs_compiler
def test_sums_agree_with_numpy():
    random = np.random.default_rng(0)
    x = random.normal(size=(1_000, 7)).astype(np.float32)
    codes = random.integers(20, size=1_000)
    codes[codes == 3] = 4  # one without vectors
    for found in (native.sums_by_code(x, codes, 20), blas.sums_by_code(x, codes, 20)):
        expected = np.zeros((20, 7))
        np.add.at(expected, codes, x)
        np.testing.assert_allclose(found, expected, atol=1e-9)
    with pytest.raises(ValueError, match="range"):
        native.sums_by_code(x, codes, 19)


@needs_compiler
def test_wrong_sizes_are_refused_not_read():
    from rvq.quantize.kernels import _native

    x, codebooks = problem(10, 2, 16, 8)
    books = Books.of(codebooks)
    arrays = [books.codebooks, books.packed, x[:0], books.costs, books.offsets, books.reach]
    arrays += [x[:0]] * 4  # no bytes
    out = [np.empty((10, 2), np.int64), np.empty((10, 8), np.float32)]
    number = native.kernels()["portable"][0]

    def call(stop=10, shape=(2, 16, 32, 8), arrays=arrays, out=out):
        _native.search(number, 1, 1, 0, shape, 0, stop, x, *arrays, x[:0], 0.0, *out)

    call()
    for wrong in (
        {"stop": 11},
        {"stop": -1},
        {"shape": (2, 16, 32, 9)},
        {"shape": (2, 16, 31, 8)},
        {"shape": (0, 16, 32, 8)},
        {"arrays": [*arrays[:3], books.costs[:1], *arrays[4:]]},
        {"out": [out[0][:9], out[1]]},
    ):
        with pytest.raises(ValueError, match=r"size|range"):
            call(**wrong)
