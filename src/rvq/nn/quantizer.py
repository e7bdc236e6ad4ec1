"""Residual vector quantization as a torch layer: EMA codebooks, restarts, quantizer dropout.

Codebooks move by exponential moving averages of the vectors assigned to them (van den Oord et al.
2017, appendix A.1), the encoder feels a commitment loss, and a random number of codebooks per item
makes one model serve every bitrate (Zeghidour et al. 2021, SoundStream, section III-C).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field, NonNegativeInt, PositiveInt, TypeAdapter, ValidationError
from torch import Tensor, nn

from rvq.errors import InputError, first_problem
from rvq.nn import distributed
from rvq.quantize.residual import ResidualQuantizer
from rvq.quantize.search import Search

Share = Annotated[float, Field(ge=0, le=1)]

_FORGOTTEN = 1e-3
"""Uses of a codeword, by exponential average, below which it stays where it is."""


@dataclass(frozen=True)
class QuantizerConfig:
    """Settings of a `ResidualVectorQuantizer`.

    Attributes:
        n_codebooks: stages of the residual quantizer.
        codebook_size: codewords K per codebook.
        dim: dimension D of the latent vectors.
        decay: EMA decay of codeword counts and sums, per step.
        restart_share: a codeword used less than this fraction of the uniform share 1/K is dead.
        restart_every: steps between looks for dead codewords.
        warmup_vectors: training vectors passed through unquantized before k-means sees any; the
            latents of an untrained encoder are nearly all alike and make useless codebooks.
        init_vectors: vectors gathered after the warm-up for the k-means initialisation, at least
            codebook_size.
        balance: how strongly training evens out the use of codewords: of two equally near ones it
            prefers the one used half as often by this share of the codebook's mean distortion.
        dropout: probability that an item is quantized with a random number of codebooks.
    """

    n_codebooks: PositiveInt = 16
    codebook_size: PositiveInt = 1024
    dim: PositiveInt = 128
    decay: Share = 0.99
    restart_share: Share = 0.15
    restart_every: PositiveInt = 20
    warmup_vectors: NonNegativeInt = 300_000
    init_vectors: PositiveInt = 30_000
    balance: Share = 0.0
    dropout: Share = 0.8

    def __post_init__(self) -> None:
        if self.init_vectors < self.codebook_size:
            raise InputError(
                f"init_vectors must be at least codebook_size {self.codebook_size}, got "
                f"{self.init_vectors}: k-means needs a vector for every codeword"
            )


@dataclass(frozen=True)
class Quantized:
    """What the quantizer makes of a batch of latents.

    Attributes:
        latents: quantized latents with straight-through gradient, `[batch, n_frames, dim]`.
        codes: `[batch, n_frames, n_codebooks]`, -1 where dropout left a codebook out or the layer
            is still warming up.
        commitment: scalar, squared distance of residuals to their codewords summed over codebooks,
            relative to the variance of the latents, or to half their mean square if that is more.
    """

    latents: Tensor
    codes: Tensor
    commitment: Tensor


def check_range(codes: Tensor, least: int, codebook_size: int) -> None:
    """Refuse codes that name no codewords.

    Raises:
        InputError: no tensor of integers, or one is below `least`, or not below `codebook_size`.
    """
    if not isinstance(codes, Tensor) or codes.is_floating_point() or codes.dtype == torch.bool:
        got = codes.dtype if isinstance(codes, Tensor) else type(codes).__name__
        raise InputError(f"codes must be a tensor of integers, got {got}")
    if codes.numel() and not least <= int(codes.min()) <= int(codes.max()) < codebook_size:
        raise InputError(
            f"codes must be in {least}..{codebook_size - 1}, "
            f"got {int(codes.min())}..{int(codes.max())}"
        )


class VectorQuantizer(nn.Module):
    """One codebook: nearest codeword, EMA update, restart of dead codewords."""

    codebook: Tensor
    counts: Tensor
    sums: Tensor
    distortion: Tensor

    def __init__(self, config: QuantizerConfig) -> None:
        super().__init__()
        self.config = config
        size, dim = config.codebook_size, config.dim
        self.register_buffer("codebook", torch.zeros(size, dim))
        self.register_buffer("counts", torch.ones(size))
        self.register_buffer("sums", torch.zeros(size, dim))
        self.register_buffer("distortion", torch.zeros(()))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        # Averages over many steps need float32, whatever type the network around them is cast to.
        def moved(tensor: Tensor) -> Tensor:
            tried = fn(tensor.new_empty(0))
            return fn(tensor) if tried.dtype == tensor.dtype else tensor.to(tried.device)

        return super()._apply(moved, recurse)

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """Index of the nearest codeword of every vector: `[n, dim]` -> `[n]`.

        On a CPU these are, to the bit, the codes of `rvq.quantize.search`; under autocast, of its
        fast mode.
        """
        penalties = self._penalties()
        if x.device.type == "cpu":
            search = Search(
                self.codebook.numpy()[None],
                penalties=penalties.double().numpy()[None],
                fast=torch.is_autocast_enabled("cpu"),
                threads=torch.get_num_threads(),
            )
            return torch.from_numpy(search(x.float().numpy()).codes[:, 0])
        # |x - c|^2 is smallest where x.c - |c|^2 / 2 is largest.
        cost = (self.codebook.square().sum(1) + penalties) / 2
        return (x @ self.codebook.T - cost).argmax(1)

    def _penalties(self) -> Tensor:
        """What training adds to squared distances to even out the use of codewords, `[K]`."""
        if not (self.training and self.config.balance):
            return torch.zeros_like(self.counts)
        # Entropy-constrained search with the sign reversed: popular codewords cost more, their
        # cells shrink and the others move in, until each is nearest about equally often.
        share = self.counts * (len(self.counts) / self.counts.sum())
        return share.clamp(min=1 / 8).log2() * (self.config.balance * self.distortion)

    @torch.no_grad()
    def initialise(self, codebook: Tensor, n_vectors: int) -> None:
        """Start from a learned codebook, as if `n_vectors` per step had used it evenly."""
        self.codebook.copy_(codebook)
        self.counts.fill_(n_vectors / len(codebook))
        self.sums.copy_(codebook * self.counts[:, None])

    @torch.no_grad()
    def assigned(self, x: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Number `[K]` and sum `[K, dim]` of the vectors `x [n, dim]` of every codeword."""
        counts = torch.bincount(codes, minlength=len(self.counts)).to(self.counts)
        return counts, torch.zeros_like(self.sums).index_add_(0, codes, x)

    @torch.no_grad()
    def update(self, counts: Tensor, sums: Tensor, errors: Tensor) -> None:
        """Move counts, sums and codewords towards the vectors that were assigned to them.

        Args:
            counts: number of vectors of every codeword, `[K]`.
            sums: their sums, `[K, dim]`.
            errors: sum of all squared distances to the codewords.
        """
        kept = self.config.decay
        self.sums.mul_(kept).add_(sums, alpha=1 - kept)
        self.counts.mul_(kept).add_(counts, alpha=1 - kept)
        self.distortion.lerp_(errors / counts.sum(), 1 - kept)
        # Those that nothing has used for long keep their place: sums fade as counts do.
        used = self.counts > _FORGOTTEN
        torch.where(
            used[:, None], self.sums / self.counts[:, None], self.codebook, out=self.codebook
        )

    @torch.no_grad()
    def restart_dead(self, x: Tensor) -> int:
        """Put dead codewords on random vectors of `x [n, dim]`; returns how many there were."""
        share = self.counts.sum() / len(self.counts)
        dead = torch.nonzero(self.counts < self.config.restart_share * share)[:, 0]
        dead = dead[: len(x)]
        if len(dead):
            self.codebook[dead] = x[torch.randperm(len(x), device=x.device)[: len(dead)]]
            # Half the uniform share: time enough to find vectors before the next look.
            self.counts[dead] = share / 2
            self.sums[dead] = self.codebook[dead] * share / 2
        return len(dead)

    def perplexity(self) -> Tensor:
        """Exponential of the entropy of codeword use, from 1 (collapsed) to K (uniform)."""
        p = self.counts / self.counts.sum()
        return torch.exp(-(p * torch.log(p.clamp(min=1e-10))).sum())


class ResidualVectorQuantizer(nn.Module):
    """A stack of codebooks, each quantizing what the ones before it left over.

    In training mode it passes its first latents through, initialises every codebook by k-means on
    the latents that follow, and from then on quantizes and learns; in evaluation mode it quantizes.
    """

    n_seen: Tensor
    n_steps: Tensor

    def __init__(self, config: QuantizerConfig) -> None:
        super().__init__()
        try:
            TypeAdapter(QuantizerConfig).validate_python(vars(config))
        except ValidationError as error:
            raise InputError(first_problem(error)) from None
        self.config = config
        self.stages = nn.ModuleList(VectorQuantizer(config) for _ in range(config.n_codebooks))
        self.register_buffer("n_seen", torch.zeros((), dtype=torch.long))
        self.register_buffer("n_steps", torch.zeros((), dtype=torch.long))
        # Latents gathered so far for the initialisation; a checkpoint in between needs them.
        self.pool: list[Tensor] = []

    @property
    def initialised(self) -> bool:
        """Whether the warm-up is over and the codebooks stand."""
        return bool(self.n_steps > 0)

    def _stage(self, i: int) -> VectorQuantizer:
        stage = self.stages[i]
        assert isinstance(stage, VectorQuantizer)
        return stage

    def forward(self, x: Tensor, n_codebooks: int | Tensor | None = None) -> Quantized:
        """Quantize latents `[batch, n_frames, dim]`.

        Args:
            x: latents.
            n_codebooks: codebooks to use for every item, or for each, `[batch]`; default all in
                evaluation, a random number per item (quantizer dropout) in training.

        Raises:
            InputError: latents of another shape, NaN or infinity, which would stay in the
                codebooks, or n_codebooks out of range.
        """
        if x.ndim != 3 or x.shape[2] != self.config.dim:
            raise InputError(
                f"latents must be [batch, n_frames, {self.config.dim}], got {tuple(x.shape)}"
            )
        if not x.isfinite().all():
            raise InputError("latents contain NaN or infinity; leave that batch out")
        depths = self._depths(x, n_codebooks)
        waiting = self.training and not self.initialised
        if waiting or not x.numel():
            if waiting:
                self._gather(x.detach())
            codes = torch.full((*x.shape[:2], self.config.n_codebooks), -1, device=x.device)
            return Quantized(x, codes, x.new_zeros(()))
        self.n_steps += self.training
        codes, left, commitment = self._quantize(x.detach().float(), depths)
        # The quantized latents are x less what is left; their gradient is passed straight to x.
        return Quantized(x - left.to(x), codes, commitment(x))

    @torch.no_grad()
    def _quantize(
        self, x: Tensor, depths: Tensor
    ) -> tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]:
        """Run the stages: codes, what is left of `x`, and the commitment loss as a function of x.

        The loss is a sum of squares of x less constants, so its gradient is the sum of what every
        stage leaves over: gathered here, it spares the backward pass the whole chain of stages.

        Args:
            x: latents of this process.
            depths: codebooks of every item, of all processes that train together.
        """
        together = len(depths) > len(x)
        depth = depths[distributed.share(len(depths))] if together else depths
        # Items in order of depth, so that those still active at a stage are a prefix.
        order = depth.argsort(descending=True, stable=True)
        residual = x[order]
        codes = torch.full((*x.shape[:2], self.config.n_codebooks), -1, device=x.device)
        if together:
            variance = distributed.total_variance(x)
        else:
            variance = x.var((0, 1), correction=min(1, x.shape[0] * x.shape[1] - 1)).sum()
        # Latents of an untrained encoder may hardly vary about a mean that every step moves further
        # than they spread; relative to their spread alone, the loss would exceed all others.
        mean_square = x.square().sum(2).mean()
        if together:
            mean_square = distributed.mean(mean_square)
        scale = torch.maximum(variance, mean_square / 2).clamp(min=1e-6)
        left_over, distances = torch.zeros_like(x), x.new_zeros(())
        back = order.argsort()
        restarts = self.training and int(self.n_steps) % self.config.restart_every == 0
        seen: list[tuple[Tensor, Tensor, Tensor]] = []
        candidates: list[Tensor] = []
        for i in range(int(depths.max())):
            active, active_everywhere = int((depth > i).sum()), int((depths > i).sum())
            vectors = residual[:active]
            flat = vectors.reshape(-1, self.config.dim).clone()
            stage = self._stage(i)
            index = stage.encode(flat)
            codes[order[:active], :, i] = index.view(active, x.shape[1])
            if restarts and together:
                everywhere = distributed.whole_batch(residual[back])
                first = depths.argsort(descending=True, stable=True)[:active_everywhere]
                candidates.append(everywhere[first].reshape(-1, self.config.dim))
            elif restarts:
                candidates.append(flat)
            vectors -= stage.codebook[index].view_as(vectors)
            # Gradients are averaged over processes, so that the mean over all takes their number.
            weight = len(depths) // len(x) / (active_everywhere * x.shape[1])
            errors = vectors.square().sum()
            distances += errors * weight
            left_over[:active].add_(vectors, alpha=weight)
            if self.training:
                seen.append((*stage.assigned(flat, index), errors))
        if together:  # in one exchange: processes wait for each other once
            sums = distributed.sums(*(tensor for stage_saw in seen for tensor in stage_saw))
            seen = list(zip(sums[::3], sums[1::3], sums[2::3], strict=True))
        for i, stage_saw in enumerate(seen):
            self._stage(i).update(*stage_saw)
        for i, vectors in enumerate(candidates):
            self._stage(i).restart_dead(vectors)
        if restarts:  # whatever their processors: no process's codebooks stray from the others'
            distributed.copy_first(self.buffers())
        gradient = left_over[back] * (2 / scale)

        def commitment(latents: Tensor) -> Tensor:
            return distances / scale + ((latents - latents.detach()).float() * gradient).sum()

        return codes, residual[back], commitment

    def decode(self, codes: Tensor) -> Tensor:
        """Latents of codes `[..., n]`, n at most n_codebooks: the sum of their codewords.

        A code of -1 adds nothing, as where dropout left a codebook out.

        Raises:
            InputError: too many codebooks, no integers, or codes out of range.
        """
        check_range(codes, -1, self.config.codebook_size)
        if codes.shape[-1] > self.config.n_codebooks:
            raise InputError(
                f"codes use {codes.shape[-1]} codebooks, the quantizer has "
                f"{self.config.n_codebooks}; pass a prefix of the codes"
            )
        codes = codes.long()  # others are taken for masks
        latents = self._stage(0).codebook.new_zeros(*codes.shape[:-1], self.config.dim)
        for i, code in enumerate(codes.unbind(-1)):
            codewords = self._stage(i).codebook[code.clamp(min=0)]
            latents += codewords.masked_fill((code < 0)[..., None], 0)
        return latents

    def codebooks(self) -> Tensor:
        """All codebooks, `[n_codebooks, codebook_size, dim]`."""
        return torch.stack([self._stage(i).codebook for i in range(self.config.n_codebooks)])

    def perplexities(self) -> Tensor:
        """Perplexity of every codebook over the recent past, `[n_codebooks]`."""
        return torch.stack([self._stage(i).perplexity() for i in range(self.config.n_codebooks)])

    def _depths(self, x: Tensor, n_codebooks: int | Tensor | None) -> Tensor:
        """How many codebooks each item uses; in training, items of all processes."""
        full, n_items = self.config.n_codebooks, len(x)
        if self.training:
            n_items *= distributed.world_size()
        if n_codebooks is None and self.training:
            return self.random_depths(n_items, x.device)
        if isinstance(n_codebooks, Tensor):
            depths = n_codebooks
        else:
            used = full if n_codebooks is None else n_codebooks
            depths = torch.full((n_items,), used, device=x.device)
        if len(depths) != n_items or (n_items and not 1 <= depths.min() <= depths.max() <= full):
            raise InputError(f"n_codebooks must be in 1..{full}, got {n_codebooks}")
        return depths

    def random_depths(self, batch: int, device: torch.device) -> Tensor:
        """Quantizer dropout: a number of codebooks for each of `batch` items, `[batch]`."""
        full = self.config.n_codebooks
        # Log-uniform: every doubling of the bitrate is trained equally often.
        exponent = torch.rand(batch, device=device) * torch.log2(torch.tensor(full + 1.0))
        depth = torch.exp2(exponent).long().clamp(1, full)
        dropped = torch.rand(batch, device=device) < self.config.dropout
        return torch.where(dropped, depth, full)

    @torch.no_grad()
    def _gather(self, x: Tensor) -> None:
        """Count the warm-up, then gather latents; with enough of them, learn all codebooks."""
        vectors = distributed.whole_batch(x.float()).reshape(-1, self.config.dim)
        self.n_seen += len(vectors)
        if int(self.n_seen) <= self.config.warmup_vectors:
            return
        self.pool.append(vectors.cpu())
        if sum(map(len, self.pool)) < self.config.init_vectors:
            return
        start = ResidualQuantizer(
            n_codebooks=self.config.n_codebooks,
            codebook_size=self.config.codebook_size,
            n_iterations=10,
        ).fit(torch.cat(self.pool).numpy())
        self.set_codebooks(torch.tensor(start.codebooks_), len(vectors))
        distributed.copy_first(self.buffers())
        self.pool.clear()

    @torch.no_grad()
    def set_codebooks(self, codebooks: Tensor, n_vectors: int = 2048) -> None:
        """Start from learned codebooks, `[n_codebooks, codebook_size, dim]`, without a warm-up.

        Args:
            codebooks: in the order of the stages.
            n_vectors: a step is taken to have, which decides how fast the codebooks move at first.
        """
        for i, codebook in enumerate(codebooks):
            self._stage(i).initialise(codebook.to(self.n_steps.device), n_vectors)
        self.n_steps += 1
