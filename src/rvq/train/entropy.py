"""Learning the entropy model of a codec from its own codes; see `rvq.bitstream.entropy`.

Every layer's network is learned alone, in floating point, on blocks of a second, which begin afresh
as those of files do, and rounded to integers at the end. Its output weights start from the geometry
of the codebook: codewords near to each other become likely together, long before each has been seen
often.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from safetensors.numpy import load, save
from torch import Tensor, nn

from rvq.bitstream.entropy import FILE, EntropyModel
from rvq.bitstream.tables import TOP
from rvq.codec.codec import Codec
from rvq.errors import InputError, ModelError
from rvq.model_folder import CODEBOOKS, ENCODER, ModelFolder
from rvq.progress import Progress
from rvq.replacing import replacing
from rvq.train.codes import Integers, gather

WIDTH = 64
"""Principal components of the codewords that networks look at, if there are so many."""
HIDDEN = 64
AROUND = (-2, -1, 0, 1, 2)
"""Frames, relative to the one to be coded, whose lower layers are looked at."""
MEMORY = 3
"""Frames before whose own layer is looked at."""
BLOCK = 75
_CEILING = 8.0
"""Greatest activation while learning; `TOP` once rounded."""


def learn_for(
    codec: Codec,
    data: list[Path],
    *,
    minutes: float = 300.0,
    steps: int = 1500,
    batch_size: int = 32,
    seed: int = 0,
    progress: Progress = lambda share: None,
) -> Path:
    """Learn the probabilities of a codec's codes, for the folder that it was loaded from.

    Args:
        codec: whose codes.
        data: folders written by `rvq data prepare`.
        minutes: of audio to encode, shared by the sources as training does.
        steps: per layer.
        batch_size: blocks per step.
        seed: of everything random.
        progress: called as work is done.

    Returns:
        The file written there.

    Raises:
        InputError: nothing packed there, or less than a block; or the codec is of no folder.
    """
    if codec.folder is None:
        raise InputError("this codec was not loaded from a folder: use Codec.load")
    blocks = gather(
        codec, data, minutes, n_frames=BLOCK, progress=lambda share: progress(share / 2)
    )
    n_layers = blocks.shape[2]
    codebooks = codec.runtime.codebooks
    features = _features(codebooks, blocks)
    torch.manual_seed(seed)
    scale = float(features[0].std())
    # Of the layers already learned, the sums of their features.
    below = np.zeros((*blocks.shape[:2], features.shape[2]), np.int16)
    layers = []
    for layer in range(n_layers):
        codes = blocks[..., layer]
        network = LayerNetwork(features[layer], scale, first=layer == 0)
        _fit(network, codes, below, steps=steps, batch_size=batch_size, seed=seed + layer)
        layers.append(network.integers())
        below += features[layer][codes]
        progress(0.5 + (layer + 1) / n_layers / 2)
    arrays = {name: np.stack([layer[name] for layer in layers]) for name in layers[0]}
    arrays |= {
        "features": features,
        "around": np.array(AROUND, np.int32),
        "model": np.frombuffer(bytes.fromhex(codec.model_hash), np.uint8),
    }
    # safetensors writes memory as it lies, whatever the strides.
    learned = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    return _write(learned, codec.folder)


def take_over(source: Path, folder: Path) -> Path:
    """Give a model the entropy model of one with the same encoder and codebooks: same codes.

    Args:
        source: folder of the model that has one.
        folder: of the model that gets it.

    Returns:
        The file written there.

    Raises:
        ModelError: no model at one of them, or `source` has no entropy model, a damaged one, or
            one that another model's codes taught.
        InputError: the two models make other codes.
    """
    old, new = ModelFolder.read(source), ModelFolder.read(folder)
    if any(old.files[file] != new.files[file] for file in (ENCODER, CODEBOOKS)):
        raise InputError(f"{source} and {folder} make other codes of the same sound: give --data")
    learned = EntropyModel.load(source / FILE)
    shape = (old.card["n_codebooks"], old.card["codebook_size"])
    if (
        learned.model_hash != old.card["hash"]
        or (learned.n_codebooks, learned.codebook_size) != shape
    ):
        raise ModelError(f"the entropy model in {source} is not of the model there: give --data")
    arrays = load((source / FILE).read_bytes())
    arrays["model"] = np.frombuffer(bytes.fromhex(new.card["hash"]), np.uint8)
    return _write(save(arrays), folder)


def _write(learned: bytes, folder: Path) -> Path:
    EntropyModel(learned)  # refuses what could not be read
    with replacing(folder / FILE) as temporary:
        temporary.write_bytes(learned)
    return folder / FILE


def _features(codebooks: npt.NDArray[np.float32], blocks: Integers) -> npt.NDArray[np.int8]:
    """Principal components of the codewords, as integers: `[layers, codebook_size, width]`."""
    codes = blocks.reshape(-1, blocks.shape[2])
    codes = codes[:: max(1, len(codes) // 20_000)]
    chosen = np.stack([book[column] for book, column in zip(codebooks, codes.T, strict=True)])
    sums = np.cumsum(chosen.astype(np.float64), axis=0)
    latents = sums[np.unique(np.minimum([0, 1, 3, 7], len(sums) - 1))].reshape(-1, sums.shape[2])
    _, axes = np.linalg.eigh(np.cov(latents.T))
    components = codebooks.astype(np.float64) @ axes[:, ::-1][:, :WIDTH]
    return np.rint(components * (127 / np.abs(components).max())).astype(np.int8)


class LayerNetwork(nn.Module):
    """The network of one layer, before rounding.

    Args:
        features: of the layer's codewords, `[codebook_size, width]`.
        scale: that makes features of all layers about 1, the same for all.
        first: whether there are no layers below.
    """

    def __init__(self, features: npt.NDArray[np.int8], scale: float, *, first: bool) -> None:
        super().__init__()
        self.scale = scale
        self.codewords = codewords = torch.from_numpy(features / scale).float()
        self.around = () if first else AROUND
        width = codewords.shape[1]
        self.inputs = nn.Linear(width * (len(self.around) + MEMORY), HIDDEN)
        square = codewords**2
        shape = torch.cat([codewords, square, square.sum(1, keepdim=True)], dim=1)
        self.shape = shape / shape.std(dim=0).clamp(min=1e-6)
        self.common = nn.Parameter(torch.zeros(self.shape.shape[1], HIDDEN + 1))
        self.weights = nn.Parameter(torch.zeros(len(codewords), HIDDEN))
        self.bias = nn.Parameter(torch.zeros(len(codewords)))

    def output(self) -> tuple[Tensor, Tensor]:
        """Weights `[codebook_size, hidden]` and bias of the logits."""
        common = self.shape @ self.common
        return self.weights + common[:, :-1], self.bias + common[:, -1]

    def forward(self, codes: Tensor, below: Tensor) -> Tensor:
        """Logits of the codes of blocks, `[n, BLOCK, codebook_size]`.

        Args:
            codes: of the layer, `[n, BLOCK]`; a frame is given only those before it.
            below: sums of the features of the layers below, `[n, BLOCK, width]`.
        """
        own, below = self.codewords[codes], below.float() / self.scale
        seen = [_shifted(below, offset) for offset in self.around]
        seen += [_shifted(own, -back) for back in range(1, MEMORY + 1)]
        activations = self.inputs(torch.cat(seen, dim=-1)).clamp(0, _CEILING)
        return F.linear(activations, *self.output())

    @torch.no_grad()
    def integers(self) -> dict[str, np.ndarray]:
        """What `rvq.bitstream.entropy.EntropyModel` reads of a layer."""
        step = TOP / _CEILING  # activations are counted in 1 / step
        weights, bias = (x.double().numpy() / np.log(2) for x in self.output())
        weights /= step
        inputs = self.inputs.weight.double().numpy() * step / self.scale
        offset = self.inputs.bias.double().numpy() * step
        # As fine as 8 and 16 bits allow, up to what the format does.
        precision = int(min(np.floor(np.log2(127 / np.abs(weights).max(initial=1e-9))), 24))
        shift = int(min(np.floor(np.log2(32767 / np.abs(inputs).max(initial=1e-9))), 31))
        hidden = len(offset)
        width = self.codewords.shape[1]
        rows = np.rint(inputs.T * 2**shift).astype(np.int16).reshape(-1, width, hidden)
        lower = np.zeros((len(AROUND), width, hidden), np.int16)
        if self.around:
            lower[:] = rows[: len(AROUND)]
        return {
            "lower": lower,
            "own": rows[-MEMORY:],
            "offset": np.rint(offset * 2**shift).astype(np.int32),
            "weights": np.rint(weights * 2**precision).astype(np.int8),
            "bias": np.rint(bias * 2**precision).astype(np.int32),
            "precision": np.array(precision, np.int32),
            "shift": np.array(shift, np.int32),
        }


def _shifted(x: Tensor, offset: int) -> Tensor:
    """What stands `offset` frames later, zeros beyond the block: `[n, BLOCK, width]`."""
    if offset == 0:
        return x
    moved = torch.zeros_like(x)
    if offset > 0:
        moved[:, :-offset] = x[:, offset:]
    else:
        moved[:, -offset:] = x[:, :offset]
    return moved


def _fit(
    network: LayerNetwork,
    codes: Integers,
    below: npt.NDArray[np.int16],
    *,
    steps: int,
    batch_size: int,
    seed: int,
) -> None:
    random = np.random.default_rng(seed)
    counts = np.bincount(codes.ravel(), minlength=len(network.bias)) + 1.0
    network.bias.data = torch.from_numpy(np.log(counts / counts.sum())).float()
    rate = 4e-3
    optimizer = torch.optim.Adam(network.parameters(), lr=rate, betas=(0.9, 0.98))
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, step / 50) * (1 - step / steps)
        chosen = random.integers(len(codes), size=batch_size)
        target = torch.from_numpy(codes[chosen])
        logits = network(target, torch.from_numpy(below[chosen]))
        loss = F.cross_entropy(logits.flatten(0, 1), target.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
