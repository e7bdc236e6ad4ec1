"""The default family: lapped transforms and the networks between them, in C."""

from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np

from rvq.codec.engine import Engine, fits
from rvq.codec.runtime import Floats, Runtime, State
from rvq.codec.spectral_onnx import SpectralOnnxRuntime
from rvq.model_folder import ModelFolder
from rvq.onnx_weights import read_weights

_GRAIN = 8
"""A thread's share of a call is at least so many times what it computes twice for it."""


def load_spectral(folder: ModelFolder, *, threads: int = 1) -> Runtime:
    """The fastest runtime of the family that this installation has."""
    shape = folder.card["model"]["network"]
    weights = {part: read_weights(folder.files[f"{part}.onnx"]) for part in ("encoder", "decoder")}
    if fits(shape, **weights):
        engines = {part: Engine(part, shape, weights[part]) for part in weights}
        return SpectralRuntime(folder, engines, threads=threads)
    return SpectralOnnxRuntime(folder, threads=threads)


class SpectralRuntime(Runtime):
    """Models of `rvq.nn.spectral`; the same results for every cut into calls and threads.

    Args:
        folder: of the model.
        engines: its encoder and its decoder.
        threads: that share the channels of a call, and the frames of a long one.
    """

    exact = True

    def __init__(
        self, folder: ModelFolder, engines: dict[str, Engine], *, threads: int = 1
    ) -> None:
        super().__init__(folder, threads=threads)
        self._engines = engines
        self._pool = ThreadPoolExecutor(self.threads) if self.threads > 1 else None
        if self._pool:
            self.stretch = 2 * self.threads * _GRAIN * max(e.memory for e in engines.values())

    def start(self, part: str, channels: int) -> State:
        """See `Runtime`."""
        return State(
            np.zeros((channels, self.hop_length), np.float32),
            np.zeros((channels, self.state_sizes[part]), np.float32),
        )

    def encode(self, audio: Floats, state: State) -> Floats:
        """See `Runtime`; n_samples must be whole hops."""
        engine, hop = self._engines["encoder"], self.hop_length
        channels, n_frames = len(audio), audio.shape[1] // hop
        audio = np.ascontiguousarray(audio)
        latents = np.empty((channels, n_frames, self.codebooks.shape[2]), np.float32)
        if not n_frames:
            return latents
        jobs = self._shares(channels, n_frames, engine.memory)
        if len(jobs) == channels:  # state changes in place
            whole = [
                (n_frames, audio[c], state.samples[c], state.network[c], latents[c])
                for c in range(channels)
            ]
            self._run(engine.run, whole)
            return latents
        after = State(np.empty_like(state.samples), np.empty_like(state.network))

        def share(channel: int, begin: int, start: int, stop: int) -> None:
            if begin:
                last = audio[channel, (begin - 1) * hop : begin * hop].copy()
                network = np.zeros_like(state.network[channel])
            else:
                last, network = state.samples[channel].copy(), state.network[channel].copy()
            source = audio[channel, begin * hop : stop * hop]
            out = np.empty((stop - begin, latents.shape[2]), np.float32)
            engine.run(stop - begin, source, last, network, out)
            latents[channel, start:stop] = out[start - begin :]
            if stop == n_frames:
                after.samples[channel], after.network[channel] = last, network

        self._run(share, jobs)
        state.samples, state.network = after.samples, after.network
        return latents

    def decode(self, latents: Floats, state: State) -> Floats:
        """See `Runtime`."""
        engine, hop = self._engines["decoder"], self.hop_length
        channels, n_frames, dim = latents.shape
        kept = engine.lookahead * dim
        before = state.network[:, :kept].reshape(channels, engine.lookahead, dim)
        heard = np.concatenate([before, latents], axis=1, dtype=np.float32)
        audio = np.empty((channels, n_frames * hop), np.float32)
        if not n_frames:
            return audio
        state.network[:, :kept] = heard[:, n_frames:].reshape(channels, kept)
        blocks = state.network[:, kept:]
        jobs = self._shares(channels, n_frames, engine.memory)
        if len(jobs) == channels:
            whole = [
                (n_frames, heard[c], state.samples[c], blocks[c], audio[c]) for c in range(channels)
            ]
            self._run(engine.run, whole)
            return audio
        after = State(np.empty_like(state.samples), np.empty_like(blocks))

        def share(channel: int, begin: int, start: int, stop: int) -> None:
            overlap, network = state.samples[channel].copy(), blocks[channel].copy()
            if begin:
                network[:] = 0
            source = heard[channel, begin : stop + engine.lookahead]
            out = np.empty((stop - begin) * hop, np.float32)
            engine.run(stop - begin, source, overlap, network, out)
            audio[channel, start * hop : stop * hop] = out[(start - begin) * hop :]
            if stop == n_frames:
                after.samples[channel], after.network[channel] = overlap, network

        self._run(share, jobs)
        state.samples, blocks[:] = after.samples, after.network
        return audio

    def _shares(self, channels: int, n_frames: int, memory: int) -> list[tuple[int, int, int, int]]:
        """What each thread does: channel, and where it begins, starts and stops.

        Frames have a finite past: a share may begin anywhere with an empty memory, if the first
        frames, from where it begins to where it starts, are thrown away.
        """
        shares = max(1, min(self.threads // channels, n_frames // (_GRAIN * memory)))
        bounds = [n_frames * i // shares for i in range(shares + 1)]
        return [
            (channel, max(0, start - memory), start, stop)
            for channel in range(channels)
            for start, stop in pairwise(bounds)
        ]

    def _run(self, work: Callable[..., None], jobs: Collection[tuple[Any, ...]]) -> None:
        if self._pool is None or len(jobs) == 1:
            for job in jobs:
                work(*job)
        else:
            for done in [self._pool.submit(work, *job) for job in jobs]:
                done.result()
