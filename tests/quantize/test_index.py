import numpy as np
import pytest

import rvq
from rvq.errors import InputError, ModelError


def vectors(n, seed=0):
    random = np.random.default_rng(seed)
    return (random.normal(size=(n, 16)) * np.linspace(2, 0.3, 16)).astype(np.float32)


@pytest.fixture(scope="module", params=[32, 300])
def index(request):
    quantizer = rvq.ResidualQuantizer(n_codebooks=4, codebook_size=request.param, beam_size=2)
    index = rvq.Index(quantizer.fit(vectors(2000)))
    index.add(vectors(1500, 1))
    index.add(vectors(500, 2))
    return index


@pytest.mark.parametrize("metric", ["l2", "ip"])
@pytest.mark.parametrize("compiled", [True, False])
def test_finds_what_brute_force_over_decoded_vectors_finds(index, metric, compiled, monkeypatch):
    from rvq.quantize.kernels import native

    if not compiled:
        monkeypatch.setattr(native, "available", lambda: False)
    other = rvq.Index(index.quantizer, metric=metric)
    other.add_codes(index.codes)
    decoded = index.quantizer.decode(index.codes.astype(np.int64)).astype(np.float64)
    queries = vectors(40, 3)
    found = other.search(queries, k=7)
    if metric == "l2":
        distances = ((queries[:, None] - decoded) ** 2).sum(2)
    else:
        distances = -queries @ decoded.T
    best = np.sort(distances, axis=1)[:, :7]
    np.testing.assert_allclose(found.distances, best, rtol=1e-3, atol=1e-3)
    reached = np.take_along_axis(distances, found.ids, axis=1)
    np.testing.assert_allclose(reached, best, rtol=1e-3, atol=1e-3)


def test_a_code_takes_a_byte_where_it_can(index):
    assert len(index) == 2000
    assert index.codes.itemsize == (1 if index.quantizer.codebook_size <= 256 else 2)


def test_equally_near_ones_come_in_order(index):
    twice = rvq.Index(index.quantizer)
    twice.add_codes(np.repeat(index.codes[:1], 5, axis=0))
    assert twice.search(vectors(1), k=5).ids.tolist() == [[0, 1, 2, 3, 4]]


def test_threads_change_nothing(index):
    many = rvq.Index(index.quantizer, threads=3)
    many.add_codes(index.codes)
    one, other = index.search(vectors(30, 3), k=4), many.search(vectors(30, 3), k=4)
    np.testing.assert_array_equal(one.ids, other.ids)


@pytest.mark.parametrize("memory_map", [True, False])
def test_save_and_load(index, tmp_path, memory_map):
    index.save(tmp_path / "index")
    loaded = rvq.Index.load(tmp_path / "index", memory_map=memory_map)
    assert isinstance(loaded.codes, np.memmap) == memory_map
    np.testing.assert_array_equal(loaded.search(vectors(5, 3)).ids, index.search(vectors(5, 3)).ids)


def test_damaged_folders(index, tmp_path):
    with pytest.raises(ModelError, match="missing"):
        rvq.Index.load(tmp_path)
    index.save(tmp_path)
    codes = (tmp_path / "codes.npy").read_bytes()
    for damaged in (b"", codes[: len(codes) // 2], b"\x80\x04" + codes):
        (tmp_path / "codes.npy").write_bytes(damaged)
        with pytest.raises(ModelError, match="damaged"):
            rvq.Index.load(tmp_path)
    np.save(tmp_path / "codes.npy", np.full_like(index.codes, np.iinfo(index.codes.dtype).max))
    with pytest.raises(ModelError, match="range"):
        rvq.Index.load(tmp_path)


@pytest.mark.parametrize("settings", ["[]", "3", "{}", '{"format": 7, "metric": "l2"}'])
def test_folders_of_something_else(index, tmp_path, settings):
    index.save(tmp_path)
    (tmp_path / "index.json").write_text(settings)
    with pytest.raises(ModelError, match="no index of this version"):
        rvq.Index.load(tmp_path)


@pytest.mark.parametrize("memory_map", [True, False])
def test_arrays_that_search_cannot_take(index, tmp_path, memory_map):
    for name, array in (
        ("norms", index.norms.astype(np.float64)),
        ("norms", index.norms.astype(">f4")),
        ("norms", index.norms[0]),
        ("codes", np.asfortranarray(index.codes)),
    ):
        index.save(tmp_path)
        np.save(tmp_path / f"{name}.npy", array)
        with pytest.raises(ModelError, match="fit together"):
            rvq.Index.load(tmp_path, memory_map=memory_map)


def test_mistakes(index):
    with pytest.raises(InputError, match="metric"):
        rvq.Index(index.quantizer, metric="cosine")
    with pytest.raises(InputError, match="k must"):
        index.search(vectors(1), k=2001)
    with pytest.raises(InputError, match=r"k must be an integer, got 2\.5"):
        index.search(vectors(1), k=2.5)
    assert index.search(vectors(1), k=np.int32(2)).ids.shape == (1, 2)
    with pytest.raises(InputError, match="4"):
        index.add_codes(index.codes[:, :3])
    with pytest.raises(InputError, match="16"):
        index.search(np.zeros((1, 15), np.float32))


def test_nothing_to_search():
    with pytest.raises(InputError, match="call fit first"):
        rvq.Index(rvq.ResidualQuantizer())
    x = np.random.default_rng(0).normal(size=(50, 4))
    index = rvq.Index(rvq.ResidualQuantizer(n_codebooks=2, codebook_size=8).fit(x))
    with pytest.raises(InputError, match="empty"):
        index.search(x[:1], k=1)


def test_vectors_too_large_for_distances_are_refused():
    x = np.random.default_rng(0).normal(size=(200, 8)).astype(np.float32)
    index = rvq.Index(rvq.ResidualQuantizer(n_codebooks=2, codebook_size=16).fit(x))
    index.add(x)
    with pytest.raises(InputError, match="queries are too large"):
        index.search(x[:1] * 1e25)
    with pytest.raises(InputError, match="vectors are too large"):
        index.add(x * 1e20)
    huge = rvq.Index(rvq.ResidualQuantizer.from_codebooks(np.full((4, 2, 1), 9e17)))
    with pytest.raises(InputError, match="vectors are too large"):
        huge.add_codes(np.zeros((1, 4), int))


def test_an_index_does_not_follow_what_becomes_of_the_quantizer():
    x = vectors(1000)
    quantizer = rvq.ResidualQuantizer(n_codebooks=4, codebook_size=64).fit(x)
    index = rvq.Index(quantizer)
    index.add(x)
    before = index.search(x[:5], k=3)
    for change in (
        lambda: quantizer.partial_fit(2 * x),
        lambda: quantizer.set_params(codebook_size=4).fit(x),
        lambda: index.quantizer.set_params(codebook_size=4).fit(x),
    ):
        change()
        after = index.search(x[:5], k=3)
        np.testing.assert_array_equal(after.ids, before.ids)
        np.testing.assert_array_equal(after.distances, before.distances)


def test_other_quantizers_are_refused():
    for other in (rvq.ProductQuantizer(n_codebooks=4, codebook_size=8), rvq.ScalarQuantizer()):
        with pytest.raises(InputError, match=f"ResidualQuantizer, got a {type(other).__name__}"):
            rvq.Index(other.fit(vectors(100)))


def test_folders_that_cannot_be_written(index, tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "index", "/proc/no/index"):
        with pytest.raises(InputError, match="cannot make the folder"):
            index.save(folder)


@pytest.mark.parametrize("memory_map", [True, False])
@pytest.mark.parametrize("name", ["codes", "norms"])
def test_a_flipped_bit_is_noticed(index, tmp_path, name, memory_map):
    index.save(tmp_path)
    path = tmp_path / f"{name}.npy"
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ModelError, match="not those saved"):
        rvq.Index.load(tmp_path, memory_map=memory_map)


def test_indexes_without_a_checksum_still_load(index, tmp_path):
    index.save(tmp_path)
    (tmp_path / "index.json").write_text('{"format": 1, "metric": "l2"}')
    assert len(rvq.Index.load(tmp_path)) == len(index)
