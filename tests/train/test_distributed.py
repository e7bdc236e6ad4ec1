"""Two processes on halves of a batch do what one does on the whole."""

import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.multiprocessing
import yaml
from test_trainer import config, flat, run

from rvq.errors import InputError
from rvq.nn import distributed
from rvq.train.checkpoint import read_checkpoint
from rvq.train.config import TrainConfig
from rvq.train.trainer import Trainer


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


LEARNS_NOTHING = config(init_vectors=60, learning_rate=0.0, discriminator_rate=0.0)
"""Only codebooks move: k-means of latents gathered over two steps, then averages with quantizer
dropout, and restarts at every second step."""
LEARNS = config(init_vectors=30, adversarial_start=0.0, clip_norm=1e9)


@dataclass
class Scenario:
    """A run of two processes: how, in which folder, so many steps, perhaps from a checkpoint."""

    settings: TrainConfig
    out: Path
    n_steps: int
    resume: bool = False

    def states(self):
        """What both processes had in the end."""
        return [flat(torch.load(self.out / f"rank{i}.pt", weights_only=True)) for i in range(2)]


def work(rank, world_size, port, data, scenarios):
    """What a process of a group does; leaves its states in files of its own."""
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }
    with distributed.process_group():
        for scenario in scenarios:
            trainer = Trainer(scenario.settings, [data], scenario.out, "cpu")
            assert bool(trainer.step) == scenario.resume
            for _ in range(scenario.n_steps):
                batch = trainer.crops.batch(trainer.step)[trainer.rows]
                assert len(batch) == scenario.settings.data.batch_size // world_size
                trainer.train_step(torch.from_numpy(batch))
            scenario.out.mkdir(exist_ok=True)
            trainer.save()
            torch.save(trainer.state_dict(), scenario.out / f"rank{rank}.pt")


@pytest.fixture(scope="module")
def pairs(packed, tmp_path_factory):
    """Two processes went through all scenarios."""
    folder = tmp_path_factory.mktemp("pairs")
    before = Trainer(LEARNS_NOTHING, [packed], folder / "one_then_two", "cpu")
    run(before, 3)
    before.out.mkdir()
    before.save()
    scenarios = {
        "codebooks": Scenario(LEARNS_NOTHING, folder / "codebooks", 8),
        "gradients": Scenario(LEARNS, folder / "gradients", 2),
        "two_then_one": Scenario(LEARNS_NOTHING, folder / "two_then_one", 1),
        "one_then_two": Scenario(LEARNS_NOTHING, folder / "one_then_two", 3, resume=True),
    }
    arguments = (2, free_port(), packed, list(scenarios.values()))
    torch.multiprocessing.spawn(work, arguments, nprocs=2)
    return scenarios


def alone(settings, data, out, n_steps):
    trainer = Trainer(settings, [data], out, "cpu")
    run(trainer, n_steps)
    return flat(trainer.state_dict())


def differences(expected, got, part):
    """Largest difference of every tensor of a part of the state, relative to its largest value."""
    assert expected.keys() == got.keys()
    return {
        name: float((value - got[name]).abs().max() / value.abs().max().clamp(min=1e-3))
        for name, value in expected.items()
        if part in name and isinstance(value, torch.Tensor) and value.is_floating_point()
    }


@pytest.mark.parametrize("name", ["codebooks", "gradients", "one_then_two"])
def test_processes_agree_to_the_bit(pairs, name):
    first, second = pairs[name].states()
    assert first.keys() == second.keys()
    for key, value in first.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, second[key]), key
        elif "seconds" not in key:
            assert value == second[key], key


def test_codebooks_equal_those_of_one_process(pairs, packed, tmp_path):
    got, _ = pairs["codebooks"].states()
    expected = alone(LEARNS_NOTHING, packed, tmp_path, 8)
    quantizer = differences(expected, got, "/model/quantizer")
    assert sum(name.endswith("codebook") for name in quantizer) == 3
    assert max(quantizer.values()) < 1e-4
    norms = [name for name in expected if "balancer" in name]
    assert len(norms) == 5
    for name in norms:
        assert got[name] == pytest.approx(expected[name], rel=1e-4)


def test_gradients_equal_those_of_one_process(pairs, packed, tmp_path):
    got, _ = pairs["gradients"].states()
    expected = alone(LEARNS, packed, tmp_path, 2)
    # The optimizers' first moments are running means of the gradients.
    moments = differences(expected, got, "/exp_avg") | differences(expected, got, "/momentum")
    for optimizer in ("muon", "adamw", "discriminator"):
        assert sum(f"/{optimizer}/" in name for name in moments) > 4
    assert max(moments.values()) < 1e-3
    # Muon makes steps of equal size of gradients large and small, in bf16.
    weights = differences(expected, got, "/model/") | differences(expected, got, "/discriminator/")
    assert max(weights.values()) < 0.03


def test_runs_resume_on_another_number_of_processes(pairs, packed, tmp_path):
    straight = alone(LEARNS_NOTHING, packed, tmp_path, 6)
    trainer = Trainer(LEARNS_NOTHING, [packed], pairs["two_then_one"].out, "cpu")
    assert trainer.step == 1
    assert trainer.model.quantizer.pool  # latents of both processes, still being gathered
    run(trainer, 5)
    for resumed in (flat(trainer.state_dict()), pairs["one_then_two"].states()[0]):
        assert resumed["/step"] == 6
        assert max(differences(straight, resumed, "/model/quantizer").values()) < 1e-4


@pytest.mark.slow
def test_torchrun_writes_one_run(packed, tmp_path):
    settings = {
        "model": {
            "network": {"width": 16, "hidden": 32, "encoder_blocks": 1, "decoder_blocks": 1},
            "quantizer": {"n_codebooks": 2, "codebook_size": 8, "init_vectors": 20},
        },
        "discriminator": {"n_ffts": [256], "channels": 4},
        "data": {"batch_size": 2, "crop_frames": 20},
        "schedule": {"total_steps": 4},
        "loss": {"n_ffts": [512], "n_mels": [32]},
        "precision": "float32",
        "report_steps": 2,
        "listen_steps": 4,
    }
    settings["model"]["network"]["dim"] = settings["model"]["quantizer"]["dim"] = 8
    settings["model"]["quantizer"]["warmup_vectors"] = 0
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(settings))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--master-port", free_port(), "-m", "rvq", "train", str(tmp_path / "tiny.yaml")]
    command += ["--data", str(packed), "--out", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("done") == 1
    assert len((tmp_path / "run" / "log.jsonl").read_text().splitlines()) == 2
    assert len(list((tmp_path / "run").glob("events.*"))) == 1
    assert read_checkpoint(tmp_path / "run" / "checkpoint.pt")["step"] == 4
    # A run that goes on has no need of what it started from.
    done = subprocess.run([*command, "--from", "nowhere"], capture_output=True, timeout=100)
    assert done.returncode == 0, done.stderr
    # torchrun must pass on every option, and not take it for one of its own.
    command += ["--out", str(tmp_path / "other"), "--from", "nowhere"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode != 0
    assert "no model 'nowhere'" in done.stderr


def test_a_batch_is_shared_without_overlap(monkeypatch):
    shares = []
    monkeypatch.setattr(distributed, "world_size", lambda: 3)
    for rank in range(3):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        shares += range(6)[distributed.share(6)]
    assert shares == list(range(6))
    with pytest.raises(InputError, match="multiple of 3 processes: 8"):
        distributed.share(8)
