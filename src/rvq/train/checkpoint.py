"""What a training run saves: written, read whole, or the model that comes out of it."""

import math
from pathlib import Path
from typing import Any

import torch

from rvq.errors import InputError, ModelError
from rvq.nn.model import CodecModel
from rvq.replacing import replacing
from rvq.train.config import TrainConfig, config_from_dict

CHECKPOINT = "checkpoint.pt"
"""In the folder of a run."""
_NEEDED = {"config", "step", "seconds", "model", "average", "discriminator", "balancer"}
_NEEDED |= {"optimizers", "pool"}


def write_checkpoint(state: dict[str, Any], path: Path) -> None:
    """Save the state of a run; where that fails, what was saved before is kept.

    Raises:
        InputError: the file cannot be written.
        ModelError: a number of the state is not finite.
    """
    if not _finite(state):
        raise diverged(state["step"], path)
    with replacing(path) as temporary, temporary.open("wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:  # torch's, where a full disk has already raised its own
            raise error.__context__ or error from None


def _finite(state: object) -> bool:
    if isinstance(state, dict):
        return all(map(_finite, state.values()))
    if isinstance(state, list | tuple):
        return all(map(_finite, state))
    if isinstance(state, torch.Tensor):
        return bool(state.isfinite().all())
    return not isinstance(state, float) or math.isfinite(state)


def diverged(step: int, path: Path) -> ModelError:
    """What to tell of a run that cannot go on from `step`, with or without a checkpoint."""
    again = f"resume from {path.parent}" if path.exists() else "start anew"
    return ModelError(
        f"losses or weights are no longer finite at step {step}; {again} with a lower learning rate"
    )


def read_checkpoint(path: Path) -> dict:
    """The state a run saved.

    Raises:
        ModelError: the file is missing, unreadable or damaged.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        complete = isinstance(state, dict) and state.keys() >= _NEEDED
    except FileNotFoundError:
        raise ModelError(f"no checkpoint at {path}; run `rvq train` first") from None
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from None
    except Exception:  # whatever torch raises on damaged files, at length
        complete = False
    if not complete:
        raise ModelError(
            f"{path} is no checkpoint of `rvq train`, or a damaged one; without it, runs start anew"
        )
    return state


def load_average(path: Path) -> tuple[CodecModel, TrainConfig, dict]:
    """The averaged model of a checkpoint, its configuration and the facts of the run."""
    state = read_checkpoint(path)
    config = config_from_dict(state["config"], str(path))
    model = CodecModel(config.model)
    model.load_state_dict(state["average"])
    if not model.quantizer.initialised:
        raise InputError(f"{path} is from before the codebooks were initialised; train longer")
    facts = {"step": state["step"], "seconds": state["seconds"]}
    return model.eval(), config, facts
