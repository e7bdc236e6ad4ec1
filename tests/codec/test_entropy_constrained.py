import numpy as np
import pytest
from safetensors.numpy import save

from rvq.bitstream.entropy import EntropyModel
from rvq.codec import entropy_constrained
from rvq.codec.entropy_constrained import EntropyConstrainedSearch
from rvq.errors import InputError
from rvq.quantize.search import Search, decode

needs_c = pytest.mark.skipif(
    entropy_constrained._native is None, reason="installed without a compiler"
)


def entropy_model(n_codebooks, size, *, hidden, memory, around, seed):
    random = np.random.default_rng(seed)

    def integers(most, dtype, *shape):
        return random.integers(-most, most + 1, shape).astype(dtype)

    arrays = {
        "model": np.zeros(32, np.uint8),
        "features": integers(127, np.int8, n_codebooks, size, 4),
        "around": np.array(around, np.int32),
        "lower": integers(900, np.int16, n_codebooks, len(around), 4, hidden),
        "own": integers(900, np.int16, n_codebooks, memory, 4, hidden),
        "offset": integers(90_000, np.int32, n_codebooks, hidden),
        "shift": np.full(n_codebooks, 8, np.int32),
        "weights": integers(127, np.int8, n_codebooks, size, hidden),
        "bias": integers(3000, np.int32, n_codebooks, size),
        "precision": np.full(n_codebooks, 15, np.int32),
    }
    return EntropyModel(save(arrays))


def case(size=32, dim=6, n_codebooks=4, n=30, *, hidden=6, memory=2, around=(-1, 0, 1), seed=0):
    random = np.random.default_rng(seed)
    scales = 0.6 ** np.arange(n_codebooks)[:, None, None]
    books = (scales * random.standard_normal((n_codebooks, size, dim))).astype(np.float32)
    latents = random.standard_normal((n, dim)) * random.uniform(0.1, 2, (n, 1))
    model = entropy_model(n_codebooks, size, hidden=hidden, memory=memory, around=around, seed=seed)
    return books, model, latents.astype(np.float32)


def cost(found, books, model, latents, lagrangian):
    error = np.square(latents - decode(found.codes, books)).sum()
    return error + lagrangian * 8 * sum(map(len, model.encode(found.codes[None], variable=True)))


@needs_c
@pytest.mark.parametrize(
    ("beam_size", "shape"),
    [
        (1, {}),
        (3, {"memory": 0, "around": (-2, 2)}),
        (4, {"size": 100, "dim": 130, "hidden": 64}),
        (7, {"size": 2, "n": 1}),
        (32, {"size": 16, "seed": 3}),
    ],
)
def test_c_equals_numpy(beam_size, shape, monkeypatch):
    books, model, latents = case(**shape)
    search = EntropyConstrainedSearch(books, model, beam_size=beam_size)
    lagrangians = np.random.default_rng(1).uniform(0, 0.2, len(latents))
    most = np.random.default_rng(2).integers(2, 5, len(latents))
    compiled = search(latents, lagrangians, len(books), most)
    monkeypatch.setattr(entropy_constrained, "_native", None)
    plain = search(latents, lagrangians, len(books), most)
    np.testing.assert_array_equal(compiled.codes, plain.codes)
    assert compiled.bits == plain.bits
    assert len(latents) == 1 or len(np.unique((compiled.codes >= 0).sum(axis=1))) > 1


def test_free_bits_leave_nearest_codewords():
    books, model, latents = case(n=200)
    found = EntropyConstrainedSearch(books, model, beam_size=1)(latents, np.zeros(200), 4)
    nearest = Search(books)(latents).codes
    assert (found.codes >= 0).mean() > 0.8
    reached = np.minimum.accumulate(found.codes >= 0, axis=1)
    np.testing.assert_array_equal(found.codes >= 0, reached)
    np.testing.assert_array_equal(found.codes[reached], nearest[reached])


def test_dear_bits_leave_one_likely_code_per_frame():
    books, model, latents = case()
    found = EntropyConstrainedSearch(books, model, beam_size=4)(latents, np.full(30, 1e6), 4)
    assert (found.codes[:, 0] >= 0).all()
    assert (found.codes[:, 1:] < 0).all()
    cheaper = EntropyConstrainedSearch(books, model, beam_size=4)(latents, np.full(30, 1e-3), 4)
    assert found.bits < cheaper.bits


def test_on_speech_a_beam_costs_less_and_knows_its_bits(codec, speech):
    encoder = codec.runtime.start("encoder", 1)
    latents = codec.runtime.encode(speech[:, : 150 * 320], encoder)[0, 75:]
    books = codec.runtime.codebooks
    lagrangian = float(np.square(books[0]).sum(axis=1).mean()) / 800
    costs = []
    for beam_size in (1, 4):
        search = EntropyConstrainedSearch(books, codec.entropy, beam_size=beam_size)
        found = search(latents, np.full(75, lagrangian), 10)
        coded = sum(map(len, codec.entropy.encode(found.codes[None], variable=True)))
        assert found.bits == pytest.approx(8 * coded, rel=0.04)
        costs.append(cost(found, books, codec.entropy, latents, lagrangian))
    assert costs[1] < 0.97 * costs[0]


def test_a_frames_worth_is_its_own():
    books, model, latents = case(n=20)
    search = EntropyConstrainedSearch(books, model, beam_size=4)
    lagrangians = np.repeat([1e6, 1e-4], 10)
    depth = (search(latents, lagrangians, 4).codes >= 0).sum(axis=1)
    assert depth[:10].max() == 1
    assert depth[10:].min() > 1


def test_a_frame_has_at_most_its_number_of_layers():
    books, model, latents = case(n=20)
    most = np.repeat([1, 3], 10)
    search = EntropyConstrainedSearch(books, model, beam_size=4)
    depth = (search(latents, np.full(20, 1e-6), 4, most).codes >= 0).sum(axis=1)
    assert (depth <= most).all()
    assert (depth == most).mean() > 0.8


def test_bad_settings():
    books, model, _ = case()
    for beam_size in (0, 33):
        with pytest.raises(InputError, match="beam_size"):
            EntropyConstrainedSearch(books, model, beam_size=beam_size)
    with pytest.raises(InputError, match="entropy model"):
        EntropyConstrainedSearch(books[:, :8], model, beam_size=2)
