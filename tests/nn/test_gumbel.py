import pytest
import torch

from rvq.errors import InputError
from rvq.nn.gumbel import GumbelProductQuantizer


@pytest.fixture
def layer():
    torch.manual_seed(0)
    return GumbelProductQuantizer(dim=8, n_groups=2, codebook_size=16, output_dim=12)


def test_output_is_the_codewords_of_the_codes(layer):
    x = torch.randn(3, 20, 8)
    for training in (True, False):
        quantized = layer.train(training)(x)
        assert quantized.codes.shape == (3, 20, 2)
        torch.testing.assert_close(quantized.latents, layer.decode(quantized.codes))


@pytest.mark.parametrize("codes", [[[0, -1]], [[16, 0]], [[0, 1, 2]]])
def test_codes_that_name_no_codewords_are_refused(layer, codes):
    with pytest.raises(InputError, match="codes must be"):
        layer.decode(torch.tensor([codes]))


def test_evaluation_takes_the_likeliest_training_samples(layer):
    x = torch.randn(1, 400, 8)
    likeliest = layer.logits(x).unflatten(-1, (2, 16)).argmax(-1)
    assert torch.equal(layer.eval()(x).codes, likeliest)
    agrees = (layer.train()(x).codes == likeliest).float().mean()
    assert 0.1 < agrees < 0.9


def test_choices_follow_the_softmax_of_the_logits(layer):
    x = torch.randn(1, 1, 8).expand(1, 20_000, 8)
    share = torch.bincount(layer.train()(x).codes[0, :, 0], minlength=16) / 20_000
    expected = layer.logits(x[0, 0]).unflatten(-1, (2, 16))[0].softmax(-1)
    torch.testing.assert_close(share, expected, atol=0.02, rtol=0)


def test_diversity_is_least_where_all_codewords_are_used(layer):
    x = torch.randn(2, 500, 8)
    with torch.no_grad():
        layer.logits.weight.zero_()
        assert float(layer(x).diversity) == pytest.approx(0, abs=1e-5)
        assert layer(x).perplexities.tolist() == pytest.approx([16, 16])
        layer.logits.bias[0] = layer.logits.bias[16] = 50
        assert float(layer(x).diversity) == pytest.approx(1 - 1 / 16)


def test_diversity_has_a_gradient_where_codewords_are_out_of_reach(layer):
    x = 1000 * torch.randn(1, 2, layer.logits.in_features)
    layer(x).diversity.backward()
    assert layer.logits.weight.grad.isfinite().all()


def test_it_learns_through_its_choice(layer):
    """Latents around sixteen centres: logits and codewords come to reproduce them."""
    centres = torch.randn(16, 8) * 2
    goals = torch.randn(16, 12)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.02)
    losses = []
    for step in range(300):
        layer.temperature = max(0.5, 2 * 0.99**step)
        label = torch.randint(16, (1, 128))
        quantized = layer.train()(centres[label] + 0.1 * torch.randn(1, 128, 8))
        loss = (quantized.latents - goals[label]).square().mean() + 0.1 * quantized.diversity
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert sum(losses[-20:]) < 0.3 * sum(losses[:20])


def test_mistakes():
    with pytest.raises(InputError, match="divide"):
        GumbelProductQuantizer(dim=4, n_groups=3, output_dim=8)
    with pytest.raises(InputError, match="temperature"):
        GumbelProductQuantizer(dim=4, temperature=0)
