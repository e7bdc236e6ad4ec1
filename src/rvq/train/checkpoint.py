"""What a training run saved: read whole, or the model that comes out of it."""

from pathlib import Path

import torch

from rvq.errors import InputError, ModelError
from rvq.nn.model import CodecModel
from rvq.train.config import TrainConfig, config_from_dict

_NEEDED = {"config", "step", "seconds", "model", "average", "discriminator", "balancer"}
_NEEDED |= {"optimizers", "pool"}


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
            f"{path} is no checkpoint of `rvq train`, or a damaged one; delete it to start anew"
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
