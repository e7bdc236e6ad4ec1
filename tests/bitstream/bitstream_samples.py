"""Codes, entropy models and files to test with."""

import io

import numpy as np

from rvq.bitstream.codes import Codes
from rvq.bitstream.container import Reader, Writer

HASH = "0123456789abcdef"


def tensors(n_codebooks=3, size=8, *, features=4, hidden=6, memory=2, around=(-1, 0, 1), seed=0):
    """The tensors of an entropy model with random weights."""
    random = np.random.default_rng(seed)

    def integers(most, dtype, *shape):
        return random.integers(-most, most + 1, shape).astype(dtype)

    return {
        "model": np.frombuffer(bytes.fromhex(HASH * 4), np.uint8),
        "features": integers(127, np.int8, n_codebooks, size, features),
        "around": np.array(around, np.int32),
        "lower": integers(900, np.int16, n_codebooks, len(around), features, hidden),
        "own": integers(900, np.int16, n_codebooks, memory, features, hidden),
        "offset": integers(90_000, np.int32, n_codebooks, hidden),
        "shift": np.full(n_codebooks, 8, np.int32),
        "weights": integers(127, np.int8, n_codebooks, size, hidden),
        "bias": integers(3000, np.int32, n_codebooks, size),
        "precision": np.full(n_codebooks, 15, np.int32),
    }


def random_codes(
    channels=1, n_frames=40, n_codebooks=2, bits=3, seed=0, *, variable=False, hop=100
):
    random = np.random.default_rng(seed)
    indices = random.integers(0, 1 << bits, (channels, n_frames, n_codebooks))
    if variable:
        layers = random.integers(1, n_codebooks + 1, (channels, n_frames, 1))
        indices[np.arange(n_codebooks) >= layers] = -1
    return Codes(indices, 1 << bits, 8000, n_frames * hop, HASH)


def write(codes, pieces=(), frames_per_block=75, **settings):
    file = io.BytesIO()
    writer = Writer(
        file,
        channels=codes.indices.shape[0],
        n_codebooks=codes.n_codebooks,
        codebook_size=codes.codebook_size,
        sample_rate=codes.sample_rate,
        model_hash=codes.model_hash,
        frames_per_block=frames_per_block,
        **settings,
    )
    for piece in np.split(codes.indices, sorted(pieces), axis=1):
        writer.write(piece)
    writer.close(codes.n_samples)
    return file.getvalue()


def read(data, start_frame=0, entropy=None):
    return list(Reader(io.BytesIO(data), entropy=entropy).blocks(start_frame))
