"""More codebooks for a trained model, so that it reaches higher bitrates.

The networks stay as they are. New codebooks are learned, stage by stage, on what the present ones
leave of the latents of recordings; the decoder gets latents closer to the encoder's than any it was
trained on, which is all that more bits can do for it.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from rvq.codec.codec import Codec
from rvq.codec.defaults import BEAM_SIZE
from rvq.errors import InputError, ModelError
from rvq.progress import Progress
from rvq.quantize.residual import ResidualQuantizer
from rvq.quantize.search import decode
from rvq.train.config import DataConfig
from rvq.train.data import Crops, load_sources

Floats = npt.NDArray[np.float32]

VECTORS_PER_CODEWORD = 250


def learn_codebooks(
    codec: Codec,
    data: list[Path],
    n_codebooks: int,
    *,
    seed: int = 0,
    progress: Progress = lambda share: None,
) -> Floats:
    """Codebooks `[n_codebooks, codebook_size, dim]` to follow those that the codec has.

    Args:
        codec: of a causal model that quantizes latents as they are.
        data: folders written by `rvq data prepare`.
        n_codebooks: how many to learn.
        seed: of everything random.
        progress: called as work is done.

    Raises:
        InputError: nothing packed there, or no codebooks wanted.
        ModelError: another kind of model.
    """
    runtime = codec.runtime
    if n_codebooks < 1:
        raise InputError(f"the model has {len(runtime.codebooks)} codebooks already")
    if not runtime.causal or runtime.channels != 1:
        raise ModelError(f"model {runtime.name} cannot be extended, only causal mono ones can")
    settings = DataConfig()
    crops = Crops(
        load_sources(data, runtime.sample_rate),
        batch_size=settings.batch_size,
        n_samples=settings.crop_frames * runtime.hop_length,
        mix_probability=settings.mix_probability,
        speed=0.0,
        seed=seed,
    )
    search = runtime.search(BEAM_SIZE)
    wanted = VECTORS_PER_CODEWORD * codec.codebook_size
    parts: list[Floats] = []
    while (got := sum(map(len, parts))) < wanted:
        latents = runtime.encode_whole(crops.batch(len(parts)))
        latents = latents.reshape(-1, latents.shape[2])
        codes = search(latents, len(runtime.codebooks))
        parts.append(latents - decode(codes, runtime.codebooks))
        progress(0.9 * got / wanted)
    quantizer = ResidualQuantizer(
        n_codebooks=n_codebooks, codebook_size=codec.codebook_size, seed=seed
    )
    return quantizer.fit(np.concatenate(parts)[:wanted]).codebooks_
