import pickle
from copy import deepcopy

import numpy as np
import pytest
from scipy.cluster.vq import kmeans2

import rvq
from rvq.errors import InputError, ModelError
from rvq.quantize.kmeans import kmeans
from rvq.quantize.refine import prefix_objective, refine, solve
from rvq.quantize.search import Search


def frames(n, seed=0, dim=16):
    """Correlated vectors with a spectrum like that of log-mel frames."""
    random = np.random.default_rng(seed)
    mixing = np.random.default_rng(1).normal(size=(dim, dim)) * np.linspace(2, 0.2, dim)[:, None]
    return (random.normal(size=(n, dim)) @ mixing).astype(np.float32)


@pytest.fixture(scope="module")
def fitted():
    return rvq.ResidualQuantizer(n_codebooks=4, codebook_size=64, seed=5).fit(frames(4000))


def test_error_falls_with_every_codebook_on_unseen_vectors(fitted):
    errors = fitted.reconstruction_error(frames(2000, seed=9))
    assert (np.diff(errors) < 0).all()
    assert errors[0] < 0.7


def test_as_good_as_scipys_kmeans_stage_by_stage(fitted):
    residual = frames(4000).astype(np.float64)
    variance = np.square(residual - residual.mean(0)).sum(1).mean()
    for _ in range(4):
        codebook, labels = kmeans2(residual, 64, iter=25, minit="++", seed=5)
        residual = residual - codebook[labels]
    expected = np.square(residual).sum(1).mean() / variance
    assert fitted.reconstruction_error(frames(4000))[-1] < 1.02 * expected


def test_a_prefix_of_the_codes_decodes_to_the_sum_of_its_codewords(fitted):
    codes = fitted.encode(frames(50, seed=2))
    for n in range(1, 5):
        expected = sum(fitted.codebooks_[i][codes[:, i]] for i in range(n))
        np.testing.assert_allclose(fitted.decode(codes[:, :n]), expected, atol=1e-6)
    np.testing.assert_array_equal(fitted.encode(frames(50, seed=2), n_codebooks=2), codes[:, :2])


def test_leading_axes_are_kept(fitted):
    x = frames(24).reshape(2, 3, 4, 16)
    codes = fitted.encode(x)
    assert codes.shape == (2, 3, 4, 4)
    assert fitted.decode(codes).shape == x.shape


def test_beam_lowers_the_error_on_unseen_vectors(fitted):
    x = frames(2000, seed=9)
    beam = rvq.ResidualQuantizer.from_codebooks(fitted.codebooks_, beam_size=8)
    assert beam.reconstruction_error(x)[-1] < 0.97 * fitted.reconstruction_error(x)[-1]


def test_same_seed_same_codebooks(fitted):
    again = rvq.ResidualQuantizer(n_codebooks=4, codebook_size=64, seed=5).fit(frames(4000))
    np.testing.assert_array_equal(again.codebooks_, fitted.codebooks_)
    other = rvq.ResidualQuantizer(n_codebooks=4, codebook_size=64, seed=6).fit(frames(4000))
    assert not np.array_equal(other.codebooks_, fitted.codebooks_)


def test_save_and_load(fitted, tmp_path):
    fitted.save(tmp_path / "q.safetensors")
    loaded = rvq.ResidualQuantizer.load(tmp_path / "q.safetensors")
    np.testing.assert_array_equal(loaded.codebooks_, fitted.codebooks_)
    np.testing.assert_array_equal(loaded.counts_, fitted.counts_)
    assert loaded.get_params() == fitted.get_params()
    assert [p.name for p in tmp_path.iterdir()] == ["q.safetensors"]


def test_damaged_and_missing_files(fitted, tmp_path):
    path = tmp_path / "q.safetensors"
    with pytest.raises(ModelError):
        rvq.ResidualQuantizer.load(path)
    fitted.save(path)
    data = path.read_bytes()
    for damaged in (b"", data[:40], b"x" * 100, data[:-10]):
        path.write_bytes(damaged)
        with pytest.raises(ModelError):
            rvq.ResidualQuantizer.load(path)


def test_a_flipped_bit_is_noticed(fitted, tmp_path):
    path = tmp_path / "q.safetensors"
    fitted.save(path)
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")  # behind the header
    for at in (start, start + 4001, len(data) - 8):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with pytest.raises(ModelError, match="damaged"):
            rvq.ResidualQuantizer.load(path)
    path.write_bytes(data.replace(b'\\"beam_size\\": 1', b'\\"beam_size\\": 3'))
    with pytest.raises(ModelError, match="not those that were saved"):
        rvq.ResidualQuantizer.load(path)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ("[]", "named"),
        ("3", "named"),
        ('{"n_codebooks": 8, "codebook_size": 99}', "8 codebooks of 99 .* holds 4 of 64"),
        ('{"beam_size": "wide"}', "beam_size"),
    ],
)
def test_settings_that_do_not_fit_are_refused(fitted, tmp_path, settings, match):
    from safetensors.numpy import save

    metadata = {"format": "rvq.ResidualQuantizer/2", "settings": settings}
    (tmp_path / "q").write_bytes(save({"codebooks": fitted.codebooks_}, metadata=metadata))
    with pytest.raises(ModelError, match=match):
        rvq.ResidualQuantizer.load(tmp_path / "q")


@pytest.mark.parametrize("count", [np.nan, -1, np.inf])
def test_damaged_counts_are_refused(fitted, tmp_path, count):
    damaged = rvq.ResidualQuantizer.from_codebooks(fitted.codebooks_)
    damaged.counts_[1, 3] = count
    damaged.save(tmp_path / "q")
    with pytest.raises(ModelError, match="counts"):
        rvq.ResidualQuantizer.load(tmp_path / "q")


def test_numbers_of_numpy_can_be_saved(tmp_path):
    quantizer = rvq.ResidualQuantizer(
        n_codebooks=np.int64(2), codebook_size=np.int32(8), fast=np.bool_(True), seed=np.uint8(3)
    )
    quantizer.fit(frames(200)).save(tmp_path / "q")
    assert rvq.ResidualQuantizer.load(tmp_path / "q").get_params() == quantizer.get_params()


@pytest.mark.parametrize(
    "bad", [np.zeros((4, 16)), np.zeros((2, 4, 0)), np.full((1, 4, 2), 1e99), [[[np.nan]]]]
)
def test_bad_codebooks(bad):
    with pytest.raises(InputError, match="codebooks must be finite"):
        rvq.ResidualQuantizer.from_codebooks(np.array(bad))


def test_files_of_the_first_version_still_load(fitted, tmp_path):
    from safetensors.numpy import save

    metadata = {"format": "rvq.ResidualQuantizer/1", "settings": '{"beam_size": 3, "seed": 7}'}
    (tmp_path / "old").write_bytes(save({"codebooks": fitted.codebooks_}, metadata=metadata))
    loaded = rvq.ResidualQuantizer.load(tmp_path / "old")
    np.testing.assert_array_equal(loaded.codebooks_, fitted.codebooks_)
    assert (loaded.beam_size, loaded.seed) == (3, 7)


def test_no_codeword_is_dead_although_most_vectors_coincide():
    x = np.concatenate([np.zeros((5000, 4), np.float32), frames(300, dim=4)])
    assert (kmeans(x, 32, seed=1).counts > 0).all()


def test_constant_vectors_are_quantized_exactly():
    x = np.full((100, 3), 0.5, np.float32)
    quantizer = rvq.ResidualQuantizer(n_codebooks=2, codebook_size=4).fit(x)
    np.testing.assert_allclose(quantizer.decode(quantizer.encode(x)), x)


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((0, 16), np.float32),
        np.zeros(16, np.float32),
        np.zeros((4, 15), np.float32),
        np.zeros((4, 16), np.int64),
        np.full((4, 16), np.nan, np.float32),
        np.full((4, 16), np.inf, np.float32),
    ],
)
def test_bad_vectors(fitted, bad):
    with pytest.raises(InputError):
        fitted.encode(bad)


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        (np.zeros(16), "two axes"),
        (np.zeros((0, 16)), "empty"),
        (np.full((4, 16), 1e39), "do not fit float32"),
        (np.full((4, 16), -np.inf), "NaN or infinity"),
        ([[0.5] * 16, [0.5] * 15], "equal lengths"),
        (np.full((4, 16), 1e19), "too large"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_bad_vectors_are_named(fitted, bad, match):
    with pytest.raises(InputError, match=match):
        fitted.encode(bad)
    with pytest.raises(InputError, match=match):
        rvq.ResidualQuantizer(codebook_size=2).fit(bad)


@pytest.mark.parametrize("beam_size", [1, 4])
def test_the_longest_vectors_are_quantized_like_others(beam_size):
    x = frames(500)
    x /= np.linalg.norm(x, axis=1).max() * 1.001
    settings = {"n_codebooks": 3, "codebook_size": 16, "beam_size": beam_size}
    small, large = (rvq.ResidualQuantizer(**settings).fit(x * scale) for scale in (1, 1e18))
    assert large.score(x * 1e18) == pytest.approx(small.score(x), abs=0.02)
    with pytest.raises(InputError, match="codebooks are too large"):
        rvq.ResidualQuantizer.from_codebooks(1e3 * large.codebooks_)


@pytest.mark.parametrize(
    "bad", [np.full((3, 4), 64), np.full((3, 4), -1), np.zeros((3, 5), int), np.zeros((3, 4))]
)
def test_bad_codes(fitted, bad):
    with pytest.raises(InputError):
        fitted.decode(bad)


def test_ragged_codes(fitted):
    with pytest.raises(InputError, match="equal lengths"):
        fitted.decode([[0, 1], [0]])


def test_numbers_of_codebooks_are_integers(fitted):
    with pytest.raises(InputError, match=r"n_codebooks must be an integer, got 2\.0"):
        fitted.encode(frames(3), 2.0)
    assert fitted.encode(frames(3), np.int16(2)).shape == (3, 2)


@pytest.mark.parametrize("settings", [{"beam_size": 33}, {"n_codebooks": 257}])
def test_what_no_search_can_follow_is_refused_before_learning(settings, monkeypatch):
    monkeypatch.setattr("rvq.quantize.residual.kmeans", None)
    with pytest.raises(InputError, match=str(*settings.values())):
        rvq.ResidualQuantizer(**settings).fit(frames(2000))


@pytest.mark.parametrize("beam_size", [1, 4])
def test_codebooks_that_a_search_uses_are_not_edited(fitted, beam_size):
    quantizer = rvq.ResidualQuantizer.from_codebooks(fitted.codebooks_, beam_size=beam_size)
    x = frames(20)
    codes = quantizer.encode(x)
    with pytest.raises(ValueError, match="read-only"):
        quantizer.codebooks_ *= 2
    for other in (pickle.loads(pickle.dumps(quantizer)), deepcopy(quantizer)):
        np.testing.assert_array_equal(other.encode(x), codes)
    quantizer.codebooks_ = 2 * quantizer.codebooks_
    np.testing.assert_array_equal(quantizer.encode(2 * x), codes)


def test_bits_follow_counts(fitted):
    quantizer = rvq.ResidualQuantizer.from_codebooks(fitted.codebooks_)
    before = quantizer.encode(frames(200), lagrangian=1.0)
    quantizer.counts_[:, :8] = 1e9
    assert not np.array_equal(quantizer.encode(frames(200), lagrangian=1.0), before)


def test_bad_settings_and_order():
    with pytest.raises(InputError):
        rvq.ResidualQuantizer(n_codebooks=0)
    with pytest.raises(InputError):
        rvq.ResidualQuantizer(codebook_size=2.5)
    with pytest.raises(InputError):
        rvq.ResidualQuantizer().encode(frames(3))
    with pytest.raises(InputError, match="call fit first"):
        rvq.ResidualQuantizer().bits()
    with pytest.raises(InputError, match="too few"):
        rvq.ResidualQuantizer(codebook_size=64).fit(frames(10))
    for settings in ({"refine_for": "some"}, {"threads": -1}, {"beam_size": True}):
        with pytest.raises(InputError, match=next(iter(settings))):
            rvq.ResidualQuantizer(**settings)


# -- refinement, rates, batches ------------------------------------------------------------------


def fit(**settings):
    settings = {"n_codebooks": 4, "codebook_size": 32, "beam_size": 4, **settings}
    return rvq.ResidualQuantizer(**settings).fit(frames(6000))


def errors_before_and_after(beam_size, weights):
    """Errors of a beam of 4 on unseen vectors, before and after refinement."""
    x, unseen = frames(8000), frames(4000, seed=9)
    start = rvq.ResidualQuantizer(n_codebooks=6, codebook_size=16, beam_size=beam_size).fit(x)
    refined = refine(x, start.codebooks_, n_rounds=6, beam_size=4, prefix_weights=weights)
    return [
        rvq.ResidualQuantizer.from_codebooks(codebooks, beam_size=4).reconstruction_error(unseen)
        for codebooks in (start.codebooks_, refined.codebooks)
    ]


def test_refinement_lowers_the_error_on_unseen_vectors():
    before, after = errors_before_and_after(1, [0, 0, 0, 0, 0, 1])
    assert after[-1] < 0.985 * before[-1]


def test_refinement_for_prefixes_lowers_their_errors_without_ruining_any():
    start = rvq.ResidualQuantizer(n_codebooks=6, codebook_size=16).fit(frames(8000))
    before, after = errors_before_and_after(4, 1 / start.reconstruction_error(frames(8000)))
    assert np.log(after / before).mean() < -0.01
    assert (after < 1.005 * before).all()


def test_the_estimator_refines_for_what_it_is_told():
    plain = fit(n_codebooks=6, codebook_size=16)
    ratios = {}
    for goal in ("prefixes", "full"):
        refined = fit(n_codebooks=6, codebook_size=16, refinement_rounds=4, refine_for=goal)
        errors = refined.reconstruction_error(frames(6000))
        ratios[goal] = errors / plain.reconstruction_error(frames(6000))
    assert ratios["full"][-1] < 0.995
    assert np.log(ratios["prefixes"]).mean() < min(-0.005, np.log(ratios["full"]).mean())


@pytest.mark.parametrize("weights", [[0, 0, 1], [3, 2, 1]])
def test_refinement_never_raises_the_training_error(weights):
    x = frames(3000)
    start = rvq.ResidualQuantizer(n_codebooks=3, codebook_size=16).fit(x).codebooks_
    done = []
    refined = refine(
        x,
        start,
        n_rounds=5,
        beam_size=4,
        prefix_weights=weights,
        progress=lambda *step: done.append(step),
    )
    codes = Search(refined.codebooks, beam_size=4)(x).codes
    share = np.array(weights) / sum(weights)
    reached = prefix_objective(x, refined.codebooks, codes, share)
    assert reached == pytest.approx(refined.after)
    assert reached <= refined.before * (1 + 1e-9)
    if weights == [0, 0, 1]:
        assert reached < 0.97 * refined.before
    assert done == [(i + 1, 5) for i in range(5)]


def test_solving_for_codewords_agrees_with_least_squares():
    x = frames(500).astype(np.float64)
    random = np.random.default_rng(0)
    codes = random.integers(8, size=(500, 3))
    weights = np.array([0.2, 0.3, 0.5])
    start = np.zeros((3, 8, 16), np.float32)
    solved = solve(x.astype(np.float32), codes, start, weights, 1e-9)
    one_hot = np.zeros((500, 3, 8))
    for stage in range(3):
        one_hot[np.arange(500), stage, codes[:, stage]] = 1
    rows = []
    for n, weight in enumerate(weights):  # one block of equations for every prefix
        prefix = one_hot * (np.arange(3) <= n)[:, None] * weight**0.5
        rows.append(prefix.reshape(500, -1))
    right = np.concatenate([x * weight**0.5 for weight in weights])
    expected, *_ = np.linalg.lstsq(np.concatenate(rows), right, rcond=None)
    design = np.concatenate(rows)
    np.testing.assert_allclose(
        design @ solved.reshape(24, 16), design @ expected, atol=1e-4 * np.abs(x).max()
    )


@pytest.mark.parametrize("beam_size", [1, 4])
def test_a_lagrangian_trades_error_for_bits(beam_size):
    # Clustered vectors: some codewords are far more frequent than others.
    random = np.random.default_rng(0)
    x = frames(6000) * random.choice([0.05, 1], size=(6000, 1), p=[0.7, 0.3]).astype(np.float32)
    quantizer = rvq.ResidualQuantizer(n_codebooks=3, codebook_size=32, beam_size=beam_size).fit(x)
    bits = quantizer.bits()
    rates, errors = [], []
    for lagrangian in (0.0, 2.0, 20.0):
        codes = quantizer.encode(x, lagrangian=lagrangian)
        rates.append(bits[np.arange(3), codes].sum(1).mean())
        errors.append(np.square(x - quantizer.decode(codes)).sum(1).mean())
    assert rates == sorted(rates, reverse=True)
    assert rates[2] < 0.9 * rates[0]
    assert errors == sorted(errors)
    assert errors[1] + 2 * rates[1] < errors[0] + 2 * rates[0]
    assert errors[2] + 20 * rates[2] < errors[0] + 20 * rates[0]


def test_bad_lagrangian(fitted):
    for bad in (-1.0, np.nan, np.inf):
        with pytest.raises(InputError, match="lagrangian"):
            fitted.encode(frames(3), lagrangian=bad)


def test_batches_learn_nearly_what_all_vectors_at_once_teach():
    x, unseen = frames(20_000), frames(4000, seed=9)
    whole = rvq.ResidualQuantizer(n_codebooks=3, codebook_size=32).fit(x)
    parts = rvq.ResidualQuantizer(n_codebooks=3, codebook_size=32)
    parts.partial_fit(x[:500])
    first = parts.score(unseen)
    for start in range(500, 20_000, 500):
        parts.partial_fit(x[start : start + 500])
    assert first < parts.score(unseen)
    assert parts.score(unseen) > whole.score(unseen) - 0.02
    assert parts.counts_.sum(1).min() > 15_000


def test_batches_revive_codewords_that_nothing_uses():
    x = frames(4000)
    quantizer = rvq.ResidualQuantizer.from_codebooks(np.full((1, 32, 16), 1e3, np.float32))
    quantizer.codebooks_[0, 0] = 0
    for start in range(0, 4000, 400):
        quantizer.partial_fit(x[start : start + 400])
    assert len(np.unique(quantizer.encode(x))) > 24


def test_batches_leave_codebooks_that_others_hold_as_they_are(fitted):
    given = fitted.codebooks_.copy()
    quantizer = rvq.ResidualQuantizer.from_codebooks(given)
    quantizer.partial_fit(frames(500))
    learned = quantizer.codebooks_
    np.testing.assert_array_equal(given, fitted.codebooks_)
    assert not np.array_equal(learned, given)
    before = learned.copy()
    quantizer.partial_fit(frames(500))
    np.testing.assert_array_equal(learned, before)


@pytest.mark.parametrize("sizes", [(2, 32), (6, 128)])
def test_sizes_set_after_fit_wait_for_the_next(fitted, tmp_path, sizes):
    x = frames(1000)
    quantizer = rvq.ResidualQuantizer.from_codebooks(fitted.codebooks_)
    same = rvq.ResidualQuantizer.from_codebooks(fitted.codebooks_)
    quantizer.set_params(n_codebooks=sizes[0], codebook_size=sizes[1])
    np.testing.assert_array_equal(quantizer.encode(x), same.encode(x))
    quantizer.partial_fit(x)
    np.testing.assert_array_equal(quantizer.codebooks_, same.partial_fit(x).codebooks_)
    index = rvq.Index(quantizer)
    index.add(x)
    index.save(tmp_path)
    loaded = rvq.Index.load(tmp_path).quantizer
    assert (loaded.n_codebooks, loaded.codebook_size) == (4, 64)
    np.testing.assert_array_equal(loaded.encode(x), quantizer.encode(x))
    with pytest.raises(InputError, match=f"64 .* {sizes[1]}; fit without warm_start"):
        quantizer.fit(x, warm_start=True)
    assert quantizer.fit(x).codebooks_.shape == (*sizes, 16)


def test_warm_start_goes_on(fitted):
    x = frames(4000)
    again = rvq.ResidualQuantizer(n_codebooks=4, codebook_size=64, n_iterations=0)
    again.codebooks_ = fitted.codebooks_
    again.fit(x, warm_start=True)
    np.testing.assert_array_equal(again.codebooks_, fitted.codebooks_)
    with pytest.raises(InputError, match="16"):
        again.fit(frames(4000, dim=8), warm_start=True)


def test_progress_is_reported():
    done = []
    rvq.ResidualQuantizer(n_codebooks=3, codebook_size=8).fit(
        frames(200), progress=lambda *step: done.append(step)
    )
    assert done == [(1, 3), (2, 3), (3, 3)]


def test_threads_do_not_change_what_is_learned():
    one, two, every = (fit(n_codebooks=2, threads=threads) for threads in (1, 2, 0))
    np.testing.assert_array_equal(one.codebooks_, two.codebooks_)
    np.testing.assert_array_equal(one.codebooks_, every.codebooks_)


# -- what may be passed ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["float16", "float64", "list"])
def test_other_kinds_of_floats(fitted, kind):
    x = frames(50)
    given = x.tolist() if kind == "list" else x.astype(kind)
    expected = fitted.encode(np.asarray(given, np.float32))
    np.testing.assert_array_equal(fitted.encode(given), expected)


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "float16"])
def test_torch_tensors(fitted, kind):
    torch = pytest.importorskip("torch")
    x = torch.from_numpy(frames(50)).to(getattr(torch, kind)).requires_grad_()
    codes = fitted.encode(x)
    np.testing.assert_array_equal(codes, fitted.encode(x.detach().float().numpy()))
    np.testing.assert_array_equal(fitted.decode(torch.from_numpy(codes)), fitted.decode(codes))


def test_integers_of_torch_are_refused_like_those_of_numpy(fitted):
    torch = pytest.importorskip("torch")
    with pytest.raises(InputError, match="floating point, got int64"):
        fitted.encode(torch.zeros((2, 16), dtype=torch.int64))
    with pytest.raises(InputError, match="do not fit float32"):
        fitted.encode(torch.full((2, 16), 1e39, dtype=torch.float64))


def test_parameters_follow_scikit_learn(fitted):
    parameters = fitted.get_params()
    assert rvq.ResidualQuantizer(**parameters).get_params() == parameters
    other = rvq.ResidualQuantizer().set_params(beam_size=3, seed=2)
    assert (other.beam_size, other.seed) == (3, 2)
    for bad in ({"beam": 3}, {"beam_size": 0}):
        with pytest.raises(InputError):
            other.set_params(**bad)
    assert "beam_size=3" in repr(other)


def test_scikit_learn_accepts_it():
    pytest.importorskip("sklearn")
    from sklearn.base import clone
    from sklearn.decomposition import PCA
    from sklearn.pipeline import make_pipeline

    quantizer = rvq.ResidualQuantizer(n_codebooks=3, codebook_size=16)
    copy = clone(quantizer)
    assert copy.get_params() == quantizer.get_params()
    pipeline = make_pipeline(PCA(4), quantizer)
    codes = pipeline.fit_transform(frames(300))
    assert codes.shape == (300, 3)
    assert pipeline.inverse_transform(codes).shape == (300, 16)
