"""Bins of one sign are made noise again, and nothing else is touched."""

import pytest
import torch

from rvq.codec.models import find
from rvq.nn.dead_bins import _around, _measure, restart_dead_bins
from rvq.nn.export import read_exported
from rvq.nn.model import CONFIGS, CodecModel

DEAD = slice(230, 300, 2)


@pytest.fixture
def audio(speech):
    return torch.from_numpy(speech[0, :78_000]).view(6, -1)


@pytest.fixture
def model(audio):
    """The shipped model without dead bins of its own, but for 35 that are faint tones."""
    model = read_exported(find("speech_24khz"))
    restart_dead_bins(model, audio)
    hop = model.decoder.config.hop_length
    with torch.no_grad():
        model.decoder.linear.weight[DEAD] = 0
        change = model.decoder.head.weight[hop:], model.decoder.head.bias[hop:]
        change[0][DEAD] = 0
        change[1][DEAD] = 0.001
    return model


def test_tones_become_noise_as_loud_as_their_neighbours(model, audio):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        assert _measure(model.eval(), model.decoder, audio).dead[DEAD].all()
        model.train()
        n_dead = restart_dead_bins(model, audio)
        assert model.training
        after = _measure(model.eval(), model.decoder, audio)
    assert after.live[DEAD].float().mean() > 0.6  # of none
    away = (after.level - _around(after.level, after.live))[DEAD].abs()
    assert away.median() < 1.5
    changed = {name for name, value in model.state_dict().items() if not before[name].equal(value)}
    assert changed == {"decoder.linear.weight", "decoder.head.weight", "decoder.head.bias"}
    rows = (model.decoder.linear.weight != before["decoder.linear.weight"]).any(1)
    assert rows[DEAD].all()
    assert rows.sum() == n_dead < 100  # those that live stay as they are


def test_the_same_again(model, audio):
    other = read_exported(find("speech_24khz"))
    other.load_state_dict(model.state_dict())
    for one in (model, other):
        restart_dead_bins(one, audio)
    assert all(x.equal(y) for x, y in zip(model.parameters(), other.parameters(), strict=True))


def test_networks_without_bins_are_left_alone(audio):
    model = CodecModel(CONFIGS["encodec_24khz"])
    assert restart_dead_bins(model, audio) == 0
