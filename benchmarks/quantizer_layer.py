"""How to train the codebooks of a codec: variants of the quantizer layer on real speech latents.

    python benchmarks/quantizer_layer.py --speech data/dev --train data/train

Latents of the default codec; 8 codebooks of 1024; every variant sees the same batches of 2048
vectors for the same number of steps. Printed: distortion over variance on recordings of other
speakers after 2 and 8 codebooks, least and greatest perplexity there, seconds. Estimators of the
encoder's gradient (straight-through, rotation trick) are compared with a small encoder and decoder
learned around the layer.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import rvq
from rvq.evaluate.perplexity import perplexity
from rvq.nn.quantizer import QuantizerConfig, ResidualVectorQuantizer

N_CODEBOOKS, SIZE, DIM, BATCH = 8, 1024, 128, 2048


class Ema(nn.Module):
    """The layer as it is, with its settings varied."""

    def __init__(self, *, kmeans: bool = True, **settings: float) -> None:
        super().__init__()
        config = QuantizerConfig(
            n_codebooks=N_CODEBOOKS, codebook_size=SIZE, dropout=0.0, warmup_vectors=0
        )
        self.layer = ResidualVectorQuantizer(replace(config, **settings))
        if not kmeans:
            scale = 0.5 ** torch.arange(N_CODEBOOKS)
            self.layer.set_codebooks(torch.randn(N_CODEBOOKS, SIZE, DIM) * scale[:, None, None])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        quantized = self.layer(x[None])
        return quantized.codes[0], x - quantized.latents[0]

    def loss(self, x: Tensor) -> None:
        with torch.no_grad():
            self(x)


class Gradient(nn.Module):
    """Codebooks as parameters, moved by the gradient of the codebook loss (VQ-VAE, eq. 3)."""

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.stages = nn.Parameter(start.clone())

    def codebooks(self) -> Tensor:
        return self.stages

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        left, codes = x, []
        for codebook in self.codebooks():
            codes.append((left @ codebook.T - codebook.square().sum(1) / 2).argmax(1))
            left = left - codebook[codes[-1]]
        return torch.stack(codes, dim=1), left

    def loss(self, x: Tensor) -> Tensor:
        total, left = x.new_zeros(()), x
        for codebook in self.codebooks():
            with torch.no_grad():
                code = (left @ codebook.T - codebook.square().sum(1) / 2).argmax(1)
            error = left - codebook[code]
            total = total + error.square().mean()
            left = error.detach()
        return total


class SimVQ(Gradient):
    """Frozen random codewords times a learned matrix (Zhu et al. 2024): all move together."""

    def __init__(self, scales: Tensor) -> None:
        nn.Module.__init__(self)
        frozen = torch.randn(N_CODEBOOKS, SIZE, DIM) * scales[:, None, None]
        self.register_buffer("frozen", frozen)
        self.matrices = nn.Parameter(torch.eye(DIM).repeat(N_CODEBOOKS, 1, 1))

    def codebooks(self) -> Tensor:
        return self.frozen @ self.matrices


class Factorised(nn.Module):
    """Search by cosine in eight learned dimensions (Yu et al. 2022; Kumar et al. 2023, DAC)."""

    def __init__(self, low: int = 8) -> None:
        super().__init__()
        self.down = nn.ModuleList(nn.Linear(DIM, low) for _ in range(N_CODEBOOKS))
        self.up = nn.ModuleList(nn.Linear(low, DIM) for _ in range(N_CODEBOOKS))
        self.stages = nn.Parameter(torch.randn(N_CODEBOOKS, SIZE, low))

    def _stage(self, i: int, left: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        low = self.down[i](left)
        with torch.no_grad():
            code = (F.normalize(low, dim=1) @ F.normalize(self.stages[i], dim=1).T).argmax(1)
        word = self.stages[i][code]
        passed = low + (word - low).detach()
        return (
            code,
            self.up[i](passed),
            (low - word.detach()).square().mean() * 0.25 + (low.detach() - word).square().mean(),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        left, codes = x, []
        for i in range(N_CODEBOOKS):
            code, out, _ = self._stage(i, left)
            codes.append(code)
            left = left - out
        return torch.stack(codes, dim=1), left

    def loss(self, x: Tensor) -> Tensor:
        total, left = x.new_zeros(()), x
        for i in range(N_CODEBOOKS):
            _, out, commitment = self._stage(i, left)
            error = left - out
            total = total + error.square().mean() + commitment
            left = error.detach()
        return total


class Around(nn.Module):
    """A small encoder and decoder around the EMA layer, learned through it."""

    def __init__(self, *, rotation: bool) -> None:
        super().__init__()
        self.rotation = rotation
        self.quantizer = Ema(balance=0.1)
        self.encoder, self.decoder = (
            nn.Sequential(nn.Linear(DIM, 512), nn.GELU(), nn.Linear(512, DIM)) for _ in range(2)
        )
        for network in (self.encoder, self.decoder):
            nn.init.zeros_(network[2].weight)
            nn.init.zeros_(network[2].bias)

    def reconstruct(self, x: Tensor, n: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Codes, reconstruction and commitment loss of x."""
        latents = x + self.encoder(x)
        quantized = self.quantizer.layer(latents[None], n)
        passed = quantized.latents[0]
        if self.rotation and self.training:
            passed = rotated(latents, passed.detach())
        return quantized.codes[0], passed + self.decoder(passed), quantized.commitment

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        codes, reconstruction, _ = self.reconstruct(x)
        return codes, x - reconstruction

    def loss(self, x: Tensor) -> Tensor:
        _, reconstruction, commitment = self.reconstruct(x)
        return (x - reconstruction).square().mean() / x.var() + 0.1 * commitment


def rotated(x: Tensor, quantized: Tensor) -> Tensor:
    """Quantized vectors with the gradient of the rotation and scaling that lead there from x.

    The rotation trick (Fifty et al. 2024, "Restructuring vector quantization with the rotation
    trick"): angles between gradient and codeword are carried over to the encoder's output.
    """
    with torch.no_grad():
        e = F.normalize(x, dim=1)
        q = F.normalize(quantized, dim=1)
        r = F.normalize(e + q, dim=1)
        scale = quantized.norm(dim=1, keepdim=True) / x.norm(dim=1, keepdim=True).clamp(min=1e-6)

    def along(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum(1, keepdim=True)

    return scale * (x - 2 * along(x, r) * r + 2 * along(x, e) * q)


def latents(runtime: object, audio: np.ndarray) -> np.ndarray:
    """Latents of one recording at the model's rate, `[n, dim]`."""
    whole = audio[: len(audio) // runtime.hop_length * runtime.hop_length]
    return runtime.encode_whole(whole[None])[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--speech", type=Path, required=True, help="recordings to test on")
    parser.add_argument("--train", type=Path, required=True, help="packed recordings to train on")
    parser.add_argument("--minutes", type=float, default=40, help="of recordings to train on")
    parser.add_argument("--steps", type=int, default=600)
    options = parser.parse_args()
    runtime = rvq.Codec.load().runtime
    files = sorted(options.train.glob("*.npy"))
    each = int(options.minutes * 60 * runtime.sample_rate / len(files))
    packed = [np.load(f, mmap_mode="r")[:each].astype(np.float32) / 32768 for f in files]
    train = torch.from_numpy(np.concatenate([latents(runtime, audio) for audio in packed]))
    from quantizer import recordings

    test = [latents(runtime, a) for a in recordings(options.speech) if len(a) > 24_000]
    test = torch.from_numpy(np.concatenate(test))
    print(f"{len(train)} latents to train on, {len(test)} to test on\n")
    start = rvq.ResidualQuantizer(n_codebooks=N_CODEBOOKS, codebook_size=SIZE, n_iterations=2)
    learned = torch.from_numpy(start.fit(train[:30_000].numpy()).codebooks_)
    scales = learned.std(dim=(1, 2))
    torch.manual_seed(0)
    variants = {
        "EMA, k-means start, restarts, balance 0.1": Ema(balance=0.1),
        "EMA, k-means start, restarts": Ema(),
        "EMA, k-means start": Ema(restart_share=0.0),
        "EMA, random start, restarts": Ema(kmeans=False),
        "EMA, random start": Ema(kmeans=False, restart_share=0.0),
        "gradient, k-means start": Gradient(learned),
        "SimVQ": SimVQ(scales),
        "factorised to 8 dimensions": Factorised(),
        "learned encoder, straight-through": Around(rotation=False),
        "learned encoder, rotation trick": Around(rotation=True),
    }
    variance = float((test - test.mean(0)).square().sum(1).mean())
    print("| variant | error, 2 codebooks | 8 codebooks | least perplexity | greatest | seconds |")
    print("|---|---:|---:|---:|---:|---:|")
    for name, variant in variants.items():
        order = torch.Generator().manual_seed(0)
        parameters = list(variant.parameters())
        optimizer = torch.optim.Adam(parameters, lr=1e-3) if parameters else None
        begin = time.perf_counter()
        variant.train()
        for _ in range(options.steps):
            batch = train[torch.randint(len(train), (BATCH,), generator=order)]
            loss = variant.loss(batch)
            if optimizer is not None:
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        seconds = time.perf_counter() - begin
        variant.eval()
        with torch.no_grad():
            codes, left = variant(test)
        use = perplexity(codes.numpy(), SIZE) / SIZE
        two = prefix_error(variant, test, 2) / variance
        error = float(left.square().sum(1).mean()) / variance
        print(
            f"| {name} | {two:.3f} | {error:.3f} | {use.min():.0%} | {use.max():.0%} "
            f"| {seconds:.0f} |",
            flush=True,
        )


@torch.no_grad()
def prefix_error(variant: nn.Module, x: Tensor, n: int) -> float:
    """Mean squared error of the first n codebooks."""
    if isinstance(variant, Ema):
        left = x - variant.layer(x[None], n).latents[0]
    elif isinstance(variant, Around):
        left = x - variant.reconstruct(x, n)[1]
    elif isinstance(variant, Factorised):
        left = x
        for i in range(n):
            left = left - variant._stage(i, left)[1]
    else:
        codes, _ = variant(x)
        books = variant.codebooks()
        left = x - sum(books[i][codes[:, i]] for i in range(n))
    return float(left.square().sum(1).mean())


if __name__ == "__main__":
    main()
