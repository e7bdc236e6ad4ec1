"""Reference models with random weights of trained strength, and codebooks of real latents."""

import json

import numpy as np
import pytest
import soxr
import torch
from typer.testing import CliRunner

from rvq.cli.app import app


@pytest.fixture(scope="session")
def clips(speech):
    """Real speech and something musical by sample rate, `[1, channels, n_samples]` each."""

    def at(rate, channels):
        voice = soxr.resample(speech[0], 24_000, rate).astype(np.float32)
        t = np.arange(2 * rate) / rate
        notes = [220.0, 277.2, 329.6, 440.0]
        chord = sum(np.sin(2 * np.pi * f * t * (1 + 0.002 * np.sin(9 * t))) for f in notes)
        plucked = (0.2 * chord * np.exp(-3 * (t % 0.5))).astype(np.float32)
        spread = np.array([1.0, 0.6], np.float32)[:channels, None]
        return [torch.from_numpy(x * spread)[None] for x in (voice, plucked)]

    return at


@pytest.fixture(scope="session")
def strengthen():
    """Scale a random network's weights and biases so that signals live as in a trained one."""

    def scale(network):
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                if name.endswith(("weight_g", "original0")):
                    parameter *= 1.8
                elif name.endswith("conv.bias") or name.endswith("convtr.bias"):
                    parameter *= 0.02

    return scale


@pytest.fixture(scope="session")
def codebooks_from():
    """Codebooks, `[n_codebooks, size, dim]`, of latents `[batch, n_frames, dim]`.

    Every stage has real latents, less their mean after the first, and smaller than those before.
    """

    def make(latents, n_codebooks, size):
        vectors = torch.cat([x.flatten(0, 1) for x in latents])
        generator = torch.Generator().manual_seed(0)
        spread = vectors.std(0)
        books = []
        for i in range(n_codebooks):
            chosen = vectors[torch.randint(len(vectors), (size,), generator=generator)]
            noise = torch.randn(chosen.shape, generator=generator)
            book = chosen - (vectors.mean(0) if i else 0) + 0.1 * spread * noise
            books.append(book * 0.9**i)
        return torch.stack(books)

    return make


@pytest.fixture(scope="session")
def run_rvq():
    """Run a command of `rvq`, which must not fail; returns what came out of it."""

    def run(*arguments):
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert result.exit_code == 0, result.output
        return result

    return run


@pytest.fixture(scope="session")
def damage():
    """Read a Hugging Face folder again and again, one field of its `config.json` changed each time.

    Returns what was raised by field and value; None where the folder was read all the same.
    """

    def change_each(folder, copy, read, more):
        (copy / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
        whole = json.loads((folder / "config.json").read_text())
        values = (0, -1, "x", None, [0], 1.5, {}, True, 10**30, float("nan"), float("inf"))
        changes = [(field, value) for field in whole for value in values]
        raised = {}
        for field, value in changes + more:
            (copy / "config.json").write_text(json.dumps(whole | {field: value}))
            try:
                read(copy)
            except Exception as error:
                raised[field, repr(value)] = error
            else:
                raised[field, repr(value)] = None
        return raised

    return change_each


@pytest.fixture(autouse=True, scope="module")
def reproducible(one_thread):
    """Untrained networks amplify last bits, which depend on how threads share a sum."""
