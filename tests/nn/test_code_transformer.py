"""The Transformer over codes: EnCodec's as reference, streaming, learning."""

import pytest
import torch

from rvq.errors import InputError
from rvq.nn.code_transformer import CodeTransformer, CodeTransformerConfig

SMALL = CodeTransformerConfig(
    n_codebooks=4, codebook_size=64, dim=32, hidden=128, n_layers=2, past_frames=6
)


def test_equals_encodec_far_beyond_its_reach(encodec):
    from encodec.model import LMModel

    torch.manual_seed(0)
    theirs = LMModel(4, 64, 32, num_layers=2, past_context=6).eval().requires_grad_(False)
    ours = CodeTransformer(SMALL).eval().requires_grad_(False)
    state = {n.removeprefix("transformer."): t for n, t in theirs.state_dict().items()}
    ours.load_state_dict(state)
    codes = torch.randint(64, (3, 40, 4))
    states, offset, past = None, 0, ours.start(3)
    for t in range(-1, 39):
        before = codes[:, t : t + 1] if t >= 0 else torch.full((3, 1, 4), -1)
        expected, states, offset = theirs(1 + before.transpose(1, 2), states, offset)
        logits, past = ours(before, past)
        assert (logits.softmax(1) == expected).all()
    assert past.n_frames == 40
    assert past.inputs.shape == (3, 2, 6, 32)


def test_whole_sequences_equal_single_frames():
    torch.manual_seed(0)
    model = CodeTransformer(SMALL).eval().requires_grad_(False)
    codes = torch.randint(64, (2, 30, 3))
    whole, _ = model(codes, model.start(2))
    past, parts = model.start(2), []
    for part in codes.split([5, 1, 1, 23], dim=1):
        logits, past = model(part, past)
        parts.append(logits)
    torch.testing.assert_close(torch.cat(parts, dim=3), whole, atol=1e-4, rtol=1e-4)


def test_learns_a_pattern():
    torch.manual_seed(0)
    model = CodeTransformer(SMALL)
    codes = (torch.arange(24)[:, None] * torch.tensor([1, 3, 5, 7]) % 64).expand(2, -1, -1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    first = model.bits(codes).mean().item()
    assert 5 < first < 8  # of 6 bits, when nothing is known
    for _ in range(60):
        optimizer.zero_grad()
        model.bits(codes).mean().backward()
        optimizer.step()
    assert model.bits(codes).mean().item() < 2


def test_impossible_shapes_are_refused():
    with pytest.raises(InputError, match="multiple of n_heads 8, got 20"):
        CodeTransformerConfig(dim=20)
