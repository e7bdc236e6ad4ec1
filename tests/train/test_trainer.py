"""The training program: resumable to the bit, stopped cleanly, learning."""

import os
import signal
import threading

import numpy as np
import pytest
import torch

from rvq.errors import InputError, ModelError
from rvq.nn.discriminators import DiscriminatorConfig
from rvq.nn.model import CodecConfig
from rvq.nn.quantizer import QuantizerConfig
from rvq.nn.spectral import SpectralConfig
from rvq.train.config import DataConfig, LossConfig, ScheduleConfig, TrainConfig
from rvq.train.trainer import Trainer, load_average, pick_precision, read_checkpoint


def config(**schedule):
    return TrainConfig(
        name="tiny",
        model=CodecConfig(
            SpectralConfig(width=16, hidden=32, encoder_blocks=1, decoder_blocks=2, dim=8),
            QuantizerConfig(
                n_codebooks=3,
                codebook_size=16,
                dim=8,
                warmup_vectors=0,
                init_vectors=30,
                restart_every=2,
            ),
        ),
        discriminator=DiscriminatorConfig(n_ffts=(256,), channels=4),
        data=DataConfig(batch_size=2, crop_frames=20),
        loss=LossConfig(n_ffts=(512, 128), n_mels=(32, 16)),
        schedule=ScheduleConfig(
            **{"total_steps": 8, "warmup_steps": 2, "adversarial_start": 0.25} | schedule
        ),
        report_steps=1,
        listen_steps=4,
        precision="float32",
    )


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run(trainer, n_steps):
    for _ in range(n_steps):
        trainer.train_step(torch.from_numpy(trainer.crops.batch(trainer.step)))


def flat(state, prefix=""):
    """Every tensor and number of a nested state, by path."""
    if isinstance(state, dict):
        items = state.items()
    elif isinstance(state, list | tuple):
        items = enumerate(state)
    else:
        return {prefix: state}
    return {k: v for name, part in items for k, v in flat(part, f"{prefix}/{name}").items()}


def test_resuming_changes_nothing(packed, tmp_path):
    straight = Trainer(config(), [packed], tmp_path / "straight", "cpu")
    run(straight, 6)
    first = Trainer(config(), [packed], tmp_path / "stopped", "cpu")
    run(first, 3)
    first.out.mkdir()
    first.save()
    second = Trainer(config(), [packed], tmp_path / "stopped", "cpu")
    assert second.load()
    assert second.step == 3
    run(second, 3)
    expected, got = flat(straight.state_dict()), flat(second.state_dict())
    assert expected.keys() == got.keys()
    assert any("discriminator" in name for name in got)
    for name, value in expected.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, got[name]), name
        else:
            assert value == got[name], name


def test_a_whole_run_leaves_checkpoint_curves_and_a_model(packed, tmp_path):
    trainer = Trainer(config(), [packed], tmp_path, "cpu")
    assert trainer.run()
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 8
    assert list(tmp_path.glob("events.*"))
    model, loaded, facts = load_average(tmp_path / "checkpoint.pt")
    assert loaded == config()
    assert facts["step"] == 8
    assert not model.training
    for kept, trained in zip(model.parameters(), trainer.average.parameters(), strict=True):
        assert torch.equal(kept, trained)
    again = Trainer(config(), [packed], tmp_path, "cpu")
    assert again.load()
    assert again.run()  # nothing left to do
    assert again.step == 8


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_between_steps_with_a_checkpoint(packed, tmp_path, number):
    trainer = Trainer(config(total_steps=100_000), [packed], tmp_path, "cpu")
    before = signal.getsignal(number)
    timer = threading.Timer(1.0, lambda: os.kill(os.getpid(), number))
    timer.start()
    assert not trainer.run()
    timer.join()
    assert signal.getsignal(number) == before
    assert 0 < trainer.step < 100_000
    assert read_checkpoint(tmp_path / "checkpoint.pt")["step"] == trainer.step
    assert not list(tmp_path.glob("*.tmp"))


def test_no_checkpoint_damaged_and_foreign_ones(packed, tmp_path):
    trainer = Trainer(config(), [packed], tmp_path, "cpu")
    assert not trainer.load()
    with pytest.raises(ModelError, match="rvq train"):
        read_checkpoint(tmp_path / "checkpoint.pt")
    trainer.save()
    with pytest.raises(InputError, match="train longer"):
        load_average(tmp_path / "checkpoint.pt")
    wider = config()
    object.__setattr__(wider.model.network, "width", 24)
    with pytest.raises(ModelError, match="another shape"):
        Trainer(wider, [packed], tmp_path, "cpu").load()
    data = (tmp_path / "checkpoint.pt").read_bytes()
    for damaged in (b"", b"no checkpoint", data[: len(data) // 2]):
        (tmp_path / "checkpoint.pt").write_bytes(damaged)
        with pytest.raises(ModelError) as caught:
            trainer.load()
        assert "\n" not in str(caught.value)


def test_a_loss_that_is_not_finite_stops_the_run(packed, tmp_path):
    trainer = Trainer(config(), [packed], tmp_path, "cpu")
    with torch.no_grad():
        trainer.model.decoder.head.bias.fill_(float("nan"))
    with pytest.raises(ModelError, match="no longer finite at step 1"):
        trainer.run()
    assert not (tmp_path / "checkpoint.pt").exists()


def test_the_average_follows_the_weights(packed, tmp_path):
    trainer = Trainer(config(ema_decay=0.5, warmup_steps=1), [packed], tmp_path, "cpu")
    start = [p.detach().clone() for p in trainer.average.parameters()]
    run(trainer, 1)
    decay = min(0.5, 1 / 10)
    for old, kept, new in zip(
        start, trainer.average.parameters(), trainer.model.parameters(), strict=True
    ):
        torch.testing.assert_close(kept, decay * old + (1 - decay) * new)


def test_precision():
    assert pick_precision("float32", torch.device("cpu")) == torch.float32
    assert pick_precision("bf16", torch.device("cpu")) == torch.bfloat16
    assert pick_precision("auto", torch.device("cuda")) == torch.bfloat16


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_training_learns(packed, tmp_path, precision):
    settings = config(total_steps=400, adversarial_start=0.5, warmup_steps=20)
    object.__setattr__(settings, "precision", precision)
    trainer = Trainer(settings, [packed], tmp_path, "cpu")
    losses = []
    for _ in range(400):
        logs = trainer.train_step(torch.from_numpy(trainer.crops.batch(trainer.step)))
        losses.append(float(logs["mel"]))
    assert np.mean(losses[-40:]) < 0.6 * np.mean(losses[:40])
    assert trainer.model.quantizer.perplexities().min() > 6
