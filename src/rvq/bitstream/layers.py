"""Codes of a block <-> the bytes of its layers, packed or entropy coded."""

import numpy as np
import numpy.typing as npt

from rvq.bitstream.blocks import StoredBlock
from rvq.bitstream.entropy import EntropyModel
from rvq.bitstream.header import Header
from rvq.bitstream.packing import pack, unpack


def encode_layers(
    indices: npt.NDArray[np.integer], header: Header, entropy: EntropyModel | None
) -> tuple[bytes, ...]:
    """Codes `[channels, n_frames, n_codebooks]`, -1 for none, as the bytes of every layer.

    Where entropy coding would not make a layer smaller, its codes are packed: a layer as long as
    its packed codes is packed. In variable files no layer is.
    """
    if header.variable and entropy is not None:
        return tuple(entropy.encode(indices, variable=True))
    rows = indices.transpose(2, 0, 1).reshape(indices.shape[2], -1)
    packed = [row.tobytes() for row in pack(rows, header.bits)]
    if entropy is None:
        return tuple(packed)
    coded = entropy.encode(indices, variable=False)
    return tuple(min(pair, key=len) for pair in zip(packed, coded, strict=True))


def decode_layers(
    stored: StoredBlock, header: Header, entropy: EntropyModel | None
) -> npt.NDArray[np.int64]:
    """Codes `[channels, n_frames, layers]` of the layers up to the first that is damaged."""
    channels, frames = header.channels, stored.n_frames
    decoder = None
    if header.entropy is not None and entropy is not None:
        decoder = entropy.decoder(channels, frames, variable=header.variable)
    layers: list[npt.NDArray[np.int64]] = []
    for data in stored.layers:
        codes: npt.NDArray[np.int64] | None
        if data is None:
            break
        if not header.variable and len(data) == header.packed_layer(frames):
            row = np.frombuffer(data, np.uint8)[None]
            codes = unpack(row, channels * frames, header.bits).reshape(channels, frames)
            if decoder is not None:
                decoder.skip(codes)
        elif decoder is not None:
            codes = decoder.decode(data)
        else:
            codes = None
        if codes is None:
            break
        layers.append(codes)
    if not layers:
        return np.empty((channels, frames, 0), np.int64)
    return np.stack(layers, axis=-1)
