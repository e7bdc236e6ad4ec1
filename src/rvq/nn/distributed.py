"""What processes that train together tell each other; with a single one, nothing.

Every process holds an equal share of a batch, and all of them the same weights and codebooks: what
is computed here is what one process would find on the whole batch.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

from rvq.errors import InputError


@contextmanager
def process_group() -> Iterator[None]:
    """Join the processes that `torchrun` started; alone, do nothing."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0; the first one writes."""
    return dist.get_rank() if world_size() > 1 else 0


def share(batch_size: int) -> slice:
    """The items of a batch that are this process's.

    Raises:
        InputError: they cannot be shared equally.
    """
    n, rest = divmod(batch_size, world_size())
    if rest:
        raise InputError(f"batch_size must be a multiple of {world_size()} processes: {batch_size}")
    return slice(rank() * n, (rank() + 1) * n)


def sums(*tensors: Tensor) -> list[Tensor]:
    """Each tensor summed over processes, in one exchange; the same bits on all of them."""
    if world_size() == 1:
        return list(tensors)
    together = torch.cat([tensor.reshape(-1) for tensor in tensors])
    dist.all_reduce(together)
    parts = together.split([tensor.numel() for tensor in tensors])
    return [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]


def mean(value: Tensor) -> Tensor:
    """The mean over processes."""
    return sums(value)[0] / world_size() if world_size() > 1 else value


def norm(gradient: Tensor) -> Tensor:
    """Norm of the gradient of a mean over the whole batch, of which each process has its items."""
    if world_size() == 1:
        return gradient.norm()
    return sums(gradient.square().sum())[0].sqrt() / world_size()


def total_variance(x: Tensor) -> Tensor:
    """Variance of all vectors `[batch, n_frames, dim]`, summed over dimensions."""
    if world_size() == 1:
        return x.var(dim=(0, 1)).sum()
    vectors = x.flatten(0, 1).double()
    n = len(vectors) * world_size()
    total, squares = sums(vectors.sum(0), vectors.square().sum(0))
    return ((squares - total.square() / n).sum() / (n - 1)).to(x.dtype)


def whole_batch(x: Tensor) -> Tensor:
    """Items of all processes in order, `[batch, ...]` -> `[batch * world_size, ...]`."""
    if world_size() == 1:
        return x
    parts = [torch.empty(x.shape, dtype=x.dtype, device=x.device) for _ in range(world_size())]
    dist.all_gather(parts, x.contiguous())
    return torch.cat(parts)


def copy_first(tensors: Iterable[Tensor]) -> None:
    """Everywhere put the first process's values in place."""
    if world_size() > 1:
        for tensor in tensors:
            dist.broadcast(tensor.detach(), 0)  # parameters are leaves, and stay so


def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Make every gradient the mean over processes, in one exchange."""
    if world_size() == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    for gradient, total in zip(gradients, sums(*gradients), strict=True):
        gradient.copy_(total).div_(world_size())


def any_of(flag: bool, device: torch.device) -> bool:
    """Whether the flag is up in any process."""
    if world_size() == 1:
        return flag
    return bool(sums(torch.tensor(float(flag), device=device))[0] > 0)
