"""The quantizer layer against plain references."""

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from rvq.errors import InputError
from rvq.nn.quantizer import QuantizerConfig, ResidualVectorQuantizer, VectorQuantizer
from rvq.quantize.residual import ResidualQuantizer
from rvq.quantize.search import decode

SMALL = QuantizerConfig(
    n_codebooks=4,
    codebook_size=16,
    dim=6,
    restart_every=1_000_000,
    warmup_vectors=600,
    init_vectors=400,
)


def latents(seed=0, batch=8, n_frames=50):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, n_frames, SMALL.dim, generator=generator)


def trained(config=SMALL):
    """A layer past its warm-up."""
    torch.manual_seed(0)
    layer = ResidualVectorQuantizer(config).train()
    for seed in range(3):
        layer(latents(seed))
    assert layer.initialised
    return layer


def test_warm_up_passes_through_then_initialises_every_codebook():
    layer = ResidualVectorQuantizer(SMALL).train()
    x = latents()
    quantized = layer(x)
    assert quantized.latents is x
    assert (quantized.codes == -1).all()
    assert quantized.commitment == 0
    assert not layer.initialised
    layer(x)
    assert layer.initialised
    layer.eval()
    errors = [float((x - layer(x, n).latents).square().sum()) for n in range(1, 5)]
    assert errors[0] < 0.8 * float(x.square().sum())
    for finer, coarser in zip(errors[1:], errors[:-1], strict=True):
        assert finer < 0.9 * coarser


def test_evaluation_sums_codewords_and_changes_nothing():
    layer = trained().eval()
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    x = latents(9)
    whole = layer(x)
    torch.testing.assert_close(whole.latents, layer.decode(whole.codes))
    for n in range(1, 5):
        part = layer(x, n)
        assert (part.codes[..., :n] == whole.codes[..., :n]).all()
        assert (part.codes[..., n:] == -1).all()
        torch.testing.assert_close(part.latents, layer.decode(whole.codes[..., :n]))
    for name, value in layer.state_dict().items():
        assert torch.equal(value, before[name])


def test_balance_evens_out_the_use_of_codewords():
    # A cluster of nearly equal vectors takes few codewords: a third of them is nearly silence.
    # Where k-means happens to end decides much on so few vectors; the mean of three sets less.
    def perplexity(seed, balance):
        torch.manual_seed(0)
        x = latents(seed)
        x = torch.where(torch.rand(*x.shape[:2], 1) < 0.35, 0.2 * x, x)
        layer = ResidualVectorQuantizer(
            replace(SMALL, n_codebooks=1, balance=balance, dropout=0.0, restart_share=0.0)
        ).train()
        for _ in range(150):
            layer(x)
        counts = torch.bincount(layer.eval()(x).codes.flatten(), minlength=SMALL.codebook_size)
        share = counts / counts.sum()
        return float(torch.exp(-torch.special.xlogy(share, share).sum()))

    without, balanced = (
        sum(perplexity(seed, balance) for seed in (40, 41, 42)) / 3 for balance in (0.0, 0.4)
    )
    assert balanced > without + 0.3


def test_codes_are_nearest_codewords_of_the_residual():
    layer = trained().eval()
    x = latents(9)
    codes, residual = layer(x).codes, x
    for i, codebook in enumerate(layer.codebooks()):
        distances = torch.cdist(residual, codebook[None])
        assert (distances.argmin(2) == codes[..., i]).all()
        residual = residual - codebook[codes[..., i]]


def test_codes_are_those_of_the_estimator():
    layer = trained().eval()
    x = latents(9)
    estimator = ResidualQuantizer.from_codebooks(layer.codebooks().numpy())
    assert (layer(x).codes.numpy() == estimator.encode(x.numpy())).all()


def test_error_falls_with_every_codebook():
    layer = trained().eval()
    x = latents(9)
    errors = [float((layer(x, n).latents - x).square().mean()) for n in range(1, 5)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.5 * errors[0]


def test_gradient_passes_straight_through():
    layer = trained()
    x = latents(9).requires_grad_()
    weight = torch.randn_like(x)
    (layer(x).latents * weight).sum().backward()
    torch.testing.assert_close(x.grad, weight)


@pytest.mark.parametrize("n_codebooks", [1, 3, None])
def test_commitment_agrees_with_plain_autograd(n_codebooks):
    layer = trained().eval()
    x = latents(9).requires_grad_()
    value = layer(x, n_codebooks).commitment
    value.backward()

    y = x.detach().clone().requires_grad_()
    variance = y.detach().var(dim=(0, 1)).sum()
    residual, expected = y, 0
    for codebook in layer.codebooks()[:n_codebooks]:
        codewords = codebook[torch.cdist(residual.detach(), codebook[None]).argmin(2)]
        # The residual a stage sees is the input less what earlier stages chose.
        residual = residual - codewords
        expected = expected + residual.square().sum(2).mean() / variance
    expected.backward()
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-4, atol=1e-8)


def test_commitment_stays_small_where_latents_hardly_vary():
    layer = trained()
    x = 1e-3 * latents() + 1.0
    layer.set_codebooks(layer.codebooks() * 1e-3)
    layer.stages[0].codebook += 1.0
    for moved in (0.0, 0.05, 0.5):  # as a step may move the mean of an untrained encoder's latents
        assert layer.eval()(x + moved).commitment < 2 * layer.config.n_codebooks


def test_commitment_of_dropped_codebooks_is_not_felt():
    torch.manual_seed(1)
    layer = trained(replace(SMALL, dropout=1.0))
    before = layer.codebooks().clone()
    x = latents(9).requires_grad_()
    quantized = layer(x)
    quantized.commitment.backward()
    depth = (quantized.codes >= 0).sum(2)[:, 0]
    assert 1 <= depth.min() < depth.max()
    for item in range(len(x)):
        assert ((quantized.codes[item] >= 0).sum(1) == depth[item]).all()
        residual, gradient = x[item].detach(), torch.zeros(x.shape[1:])
        for i in range(depth[item]):
            residual = residual - before[i][quantized.codes[item, :, i]]
            gradient += 2 * residual / ((depth > i).sum() * x.shape[1])
        scale = x.detach().var(dim=(0, 1)).sum()
        torch.testing.assert_close(x.grad[item], gradient / scale, rtol=1e-4, atol=1e-8)
        torch.testing.assert_close(quantized.latents[item], x[item] - residual)


def test_dropout_is_log_uniform():
    layer = ResidualVectorQuantizer(QuantizerConfig(n_codebooks=16, dropout=1.0)).train()
    torch.manual_seed(0)
    depth = layer.random_depths(20_000, torch.device("cpu"))
    octaves = [((depth >= low) & (depth < 2 * low)).float().mean() for low in (1, 2, 4, 8)]
    for share in octaves:
        assert float(share) == pytest.approx(1 / torch.log2(torch.tensor(17.0)).item(), abs=0.02)
    assert depth.min() == 1
    assert depth.max() == 16


def test_every_item_may_have_its_number_of_codebooks():
    layer, x = trained().eval(), latents(1)[:3]
    depths = torch.tensor([4, 1, 2])
    mixed = layer(x, depths)
    for i, n in enumerate(depths.tolist()):
        alone = layer(x[i : i + 1], n)
        torch.testing.assert_close(mixed.latents[i], alone.latents[0])
        assert (mixed.codes[i] == alone.codes[0]).all()
    assert (layer(x).codes >= 0).all()
    for wrong in (torch.tensor([4, 1]), torch.tensor([4, 0, 1]), torch.tensor([5, 1, 1]), 0, 5):
        with pytest.raises(InputError, match=r"n_codebooks must be in 1\.\.4"):
            layer(x, wrong)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_dropout_takes_its_share_of_the_items(dropout):
    layer = ResidualVectorQuantizer(QuantizerConfig(n_codebooks=16, dropout=dropout)).train()
    torch.manual_seed(0)
    whole = (layer.random_depths(20_000, torch.device("cpu")) == 16).float().mean()
    # A random depth is 16 in log(17 / 16) / log(17) of the cases.
    assert float(whole) == pytest.approx(1 - dropout * (1 - 0.0214), abs=0.01)


def test_a_training_step_moves_every_codebook_by_its_own_residuals():
    layer = trained(replace(SMALL, dropout=0.0))
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    x = latents(9)
    residual = x.reshape(-1, 6)
    layer(x)
    for i in range(4):
        codebook, counts, sums = (
            before[f"stages.{i}.{name}"] for name in ("codebook", "counts", "sums")
        )
        codes = torch.cdist(residual, codebook).argmin(1)
        chosen = F.one_hot(codes, 16).float()
        counts = 0.99 * counts + 0.01 * chosen.sum(0)
        sums = 0.99 * sums + 0.01 * chosen.T @ residual
        torch.testing.assert_close(layer.stages[i].counts, counts)
        torch.testing.assert_close(layer.codebooks()[i], sums / counts[:, None])
        residual = residual - codebook[codes]
    assert layer.n_steps == before["n_steps"] + 1


def test_the_layer_looks_for_dead_codewords_every_few_steps():
    layer = trained(replace(SMALL, dropout=0.0, restart_every=5))
    stage = layer.stages[1]
    alive = []
    for step in range(10):
        if step == 0:
            stage.codebook[3], stage.sums[3], stage.counts[3] = 1_000, 1.0, 1e-3
        layer(latents(step))
        alive.append(bool(stage.codebook[3].norm() < 10))
    restarted = alive.index(True)
    assert (int(layer.n_steps) - 9 + restarted) % 5 == 0
    assert all(alive[restarted:])


def test_codewords_move_by_exponential_averages():
    config = replace(SMALL, decay=0.9)
    stage = VectorQuantizer(config)
    start = torch.randn(16, 6)
    stage.initialise(start, n_vectors=160)
    x = latents(1).reshape(-1, 6)
    codes = stage.encode(x)
    stage.update(*stage.assigned(x, codes), (x - start[codes]).square().sum())
    chosen = F.one_hot(codes, 16).float()
    counts = 0.9 * 10 + 0.1 * chosen.sum(0)
    sums = 0.9 * 10 * start + 0.1 * chosen.T @ x
    torch.testing.assert_close(stage.counts, counts)
    torch.testing.assert_close(stage.codebook, sums / counts[:, None])


def learn(stage, x):
    codes = stage.encode(x)
    stage.update(*stage.assigned(x, codes), (x - stage.codebook[codes]).square().sum())


def test_codewords_that_nothing_uses_stay_where_they_are():
    stage = VectorQuantizer(replace(SMALL, decay=0.9, restart_share=0.0))
    start = torch.randn(16, 6)
    start[3] += 1_000
    stage.initialise(start, n_vectors=160)
    x = latents(1).reshape(-1, 6)
    for _ in range(300):
        learn(stage, x)
    assert stage.counts[3] < 1e-6
    torch.testing.assert_close(stage.codebook[3], start[3])


@pytest.mark.parametrize("shape", [(1, 1, 6), (0, 5, 6), (1, 0, 6)])
def test_batches_of_next_to_nothing(shape):
    layer = trained()
    for quantized in (layer(torch.randn(shape)), layer.eval()(torch.randn(shape))):
        assert quantized.codes.shape == (*shape[:2], 4)
        assert quantized.commitment.isfinite()
    assert all(buffer.isfinite().all() for buffer in layer.buffers())


def test_dead_codewords_restart_on_current_vectors():
    stage = VectorQuantizer(SMALL)
    start = torch.randn(16, 6)
    start[3:5] += 1_000
    stage.initialise(start, n_vectors=160)
    x = latents(1).reshape(-1, 6)
    for _ in range(300):
        learn(stage, x)
    alive = [i for i in range(16) if i not in (3, 4)]
    assert (stage.counts[3:5] < 1).all()
    before = stage.codebook.clone()
    restarted = stage.restart_dead(x)
    assert restarted >= 2
    moved = (stage.codebook != before).any(1)
    assert moved[3:5].all()
    assert moved[alive].sum() == restarted - 2
    for codeword in stage.codebook[3:5]:
        assert (x == codeword).all(1).any()
    # Consistent averages, so that the next update starts from the new place.
    torch.testing.assert_close(stage.sums / stage.counts[:, None], stage.codebook)
    assert (stage.counts[3:5] > SMALL.restart_share * stage.counts.mean()).all()
    # Brought back for good: they now win vectors.
    used = torch.bincount(stage.encode(x), minlength=16)
    assert (used[3:5] > 0).all()


def test_perplexity_is_the_number_of_codewords_in_use():
    stage = VectorQuantizer(SMALL)
    assert float(stage.perplexity()) == pytest.approx(16)
    stage.counts.zero_()
    stage.counts[5] = 7
    assert float(stage.perplexity()) == pytest.approx(1, abs=1e-4)
    stage.counts[9] = 7
    assert float(stage.perplexity()) == pytest.approx(2, abs=1e-4)


def test_codes_of_dropped_codebooks_add_nothing():
    layer = trained(replace(SMALL, dropout=1.0))
    codes = layer(latents(9)).codes
    assert (codes == -1).any()
    expected = decode(codes.numpy(), layer.codebooks().numpy())
    torch.testing.assert_close(layer.decode(codes), torch.from_numpy(expected))
    layer.eval()
    few = layer(latents(9), 2)
    torch.testing.assert_close(layer.decode(few.codes), few.latents)


@pytest.mark.parametrize("bad", [-2, 16])
def test_codes_out_of_range_are_refused(bad):
    codes = torch.zeros(1, 3, 4, dtype=torch.long)
    codes[0, 1, 2] = bad
    with pytest.raises(InputError, match=f"-1..15, got .*{bad}"):
        trained().decode(codes)


def test_codes_of_any_integers_decode_and_others_are_refused():
    layer = trained()
    codes = layer.eval()(torch.randn(2, 5, layer.config.dim)).codes
    for dtype in (torch.uint8, torch.int16, torch.int32):
        assert torch.equal(layer.decode(codes.to(dtype)), layer.decode(codes))
    for wrong in (codes.float(), codes.bool(), codes.numpy()):
        with pytest.raises(InputError, match="must be a tensor of integers"):
            layer.decode(wrong)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_one_bad_batch_does_not_spoil_the_codebooks(training, value):
    layer = trained().train(training)
    before = layer.codebooks().clone()
    x = torch.randn(2, 5, layer.config.dim)
    x[1, 3, 0] = value
    with pytest.raises(InputError, match="NaN or infinity; leave that batch out"):
        layer(x)
    assert torch.equal(layer.codebooks(), before)


def test_codebooks_stay_float32_whatever_the_network_is_cast_to():
    layer, x = trained().train(), torch.randn(2, 50, 6)
    same = copy.deepcopy(layer).bfloat16()
    assert {buffer.dtype for buffer in same.buffers()} == {torch.float32, torch.int64}
    assert torch.equal(same.codebooks(), layer.codebooks())
    assert same(x.bfloat16()).latents.dtype == torch.bfloat16
    assert copy.deepcopy(layer).to("meta").codebooks().is_meta


def test_too_many_codes_are_refused():
    with pytest.raises(InputError, match="5 codebooks"):
        trained().decode(torch.zeros(1, 1, 5, dtype=torch.long))


@pytest.mark.parametrize("n_codebooks", [0, -1, 5])
def test_impossible_numbers_of_codebooks_are_refused(n_codebooks):
    for layer in (trained(), trained().eval(), ResidualVectorQuantizer(SMALL)):
        with pytest.raises(InputError, match=f"1..4, got {n_codebooks}"):
            layer(latents(), n_codebooks)


def test_wrong_settings_and_latents_get_a_sentence():
    with pytest.raises(InputError, match=r"n_codebooks: .* greater than 0, got 0"):
        ResidualVectorQuantizer(replace(SMALL, n_codebooks=0))
    with pytest.raises(InputError, match=r"at least codebook_size .* got 3"):
        replace(SMALL, init_vectors=3)
    layer = trained()
    for shape in ((8, 50, 5), (50, SMALL.dim)):
        with pytest.raises(InputError, match=r"\[batch, n_frames, 6\]"):
            layer(torch.zeros(shape))
