"""Fuzzing of everything that reads bytes from outside, by coverage (pip install atheris).

    python fuzz/fuzz.py all -max_total_time=1800     # seconds for each; without, a round
    python fuzz/fuzz.py container -max_total_time=1800

A parser may refuse its input by an `RvqError` and in no other way, may not hang, and may not take
more memory than ten times what the input's size can honestly stand for. What libFuzzer finds worth
keeping goes to a folder given as a last argument; `fuzz/corpus` holds a few files to start from.
libFuzzer's time limit counts what other processes take on a busy machine too: it only ends hangs,
and what is slow is found by processor time.
"""

import io
import json
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import atheris
import numpy as np
from safetensors.numpy import load, save

with atheris.instrument_imports(include=["rvq"]):
    from rvq.bitstream.container import Reader, loads, trim
    from rvq.bitstream.entropy import EntropyModel
    from rvq.bitstream.header import HEADER_SIZE
    from rvq.bitstream.survey import survey
    from rvq.codec.codec import Codec
    from rvq.codec.decoding import FileDecoder
    from rvq.codec.packets import Packet
    from rvq.codec.runtime import Runtime, State
    from rvq.codec.streaming import StreamDecoder, StreamEncoder
    from rvq.errors import RvqError
    from rvq.interop import ecdc
    from rvq.onnx_weights import read_weights

HOME = Path(__file__).parent
SECONDS = 10
"""Of processor time, the most that an input may take."""
ROUND = 300
"""Seconds after which a process is renewed: code that atheris has instrumented loses some
hundred bytes with an input that numpy is busy with; other code does not."""
SMALL = (HOME / "corpus" / "entropy" / "small.safetensors").read_bytes()
MODEL = EntropyModel(SMALL)


def container(data: bytes) -> None:
    """The file: strictly, around damage, cut; with its header's checksum made right."""
    for candidate in (data, _sealed(data)):
        with suppress(RvqError):
            loads(candidate, entropy=MODEL)
        with suppress(RvqError):
            for block in Reader(io.BytesIO(candidate), entropy=MODEL).blocks():
                assert block.indices is None or block.indices.max(initial=0) < 2**16
        with suppress(RvqError):
            survey(Reader(io.BytesIO(candidate)))
        with suppress(RvqError):
            trim(io.BytesIO(candidate), io.BytesIO(), 1)


def entropy(data: bytes) -> None:
    """The entropy model, also as the tensors of one that is well formed; coding by one accepted."""
    head = SMALL[: 8 + int.from_bytes(SMALL[:8], "little")]
    rest = len(SMALL) - len(head)
    for candidate in (data, head + data[:rest] + SMALL[len(head) + len(data[:rest]) :]):
        with suppress(RvqError):
            model = EntropyModel(candidate)
            if model.codebook_size <= 64:
                decoder = model.decoder(1, 5, variable=True)
                for _ in range(min(model.n_codebooks, 3)):
                    if decoder.decode(data[:20]) is None:
                        break


def packet(data: bytes) -> None:
    """A packet of a stream."""
    for channels, bits in ((1, 10), (2, 3)):
        with suppress(RvqError):
            Packet.from_bytes(data, channels=channels, bits=bits)


class Even:
    """A language model to which all codes are alike."""

    def start(self) -> None:
        """Nothing to forget."""

    def probabilities(self, previous: object, n_codebooks: int) -> np.ndarray:
        """Of the codes of the next frame."""
        return np.full((n_codebooks, 1024), 1 / 1024, np.float32)


def encodec(data: bytes) -> None:
    """EnCodec's files, with their language model and without; with a header that is well formed."""
    meta = {
        "m": ("encodec_24khz", "encodec_48khz")[sum(data[:1]) % 2],
        "al": int.from_bytes(data[1:8], "little"),
        "nc": sum(data[8:9]) % 33,
        "lm": sum(data[:1]) > 127,
    }
    header = json.dumps(meta).encode()
    for candidate in (data, b"ECDC\0" + len(header).to_bytes(4, "big") + header + data[9:]):
        with suppress(RvqError):
            ecdc.loads(candidate)
        with suppress(RvqError):
            ecdc.loads(candidate, Even())


def network(data: bytes) -> None:
    """A network of a model folder, read without ONNX Runtime."""
    with suppress(RvqError):
        read_weights(data)


class Tiny(Runtime):
    """Frames of four samples, which are their own latents."""

    def __init__(self) -> None:
        self.hash, self.sample_rate, self.hop_length, self.delay = "00" * 32, 1000, 4, 1
        self.name, self.channels = "tiny", 1
        self.first_frames, self.stretch, self.threads = 1, 5, 1
        self.codebooks = np.random.default_rng(0).standard_normal((2, 8, 4)).astype(np.float32)
        self._searches = {}

    def start(self, part: str, channels: int) -> State:
        """One number is remembered."""
        return State(np.zeros((channels, 4), np.float32), np.zeros((channels, 1), np.float32))

    def encode(self, audio: np.ndarray, state: State) -> np.ndarray:
        """Cut into frames."""
        return audio.reshape(len(audio), -1, 4) + state.network[..., None]

    def decode(self, latents: np.ndarray, state: State) -> np.ndarray:
        """Join frames."""
        return latents.reshape(len(latents), -1) + state.network


TINY = Tiny()
CODEC = Codec(TINY)


def state(data: bytes) -> None:
    """What streams saved: all of it, what it says of its frames, or one array; they must go on."""
    options = {"channels": 1, "sample_rate": 1000}
    encoder, decoder = StreamEncoder(TINY, n_codebooks=2, **options), StreamDecoder(TINY, **options)
    packets = encoder.push(np.zeros((1, 22), np.float32))
    for sent in packets:
        decoder.push(sent)
    saved = encoder.save(), decoder.save()
    candidates = [data, _checked(data)]
    for whole in saved:
        arrays = load(whole[:-4])
        candidates.append(_checked(save(_overlaid(arrays, data))))
        inner = save(_overlaid(load(arrays["frames"].tobytes()[:-4]), data))
        for frames in (data, inner):
            arrays["frames"] = np.frombuffer(_checked(frames), np.uint8)
            candidates.append(_checked(save(arrays)))
    for candidate in candidates:
        with suppress(RvqError), np.errstate(over="ignore", invalid="ignore"):
            encoder.restore(candidate)
            for sent in encoder.push(np.zeros((1, 22), np.float32)):
                Packet.from_bytes(sent, channels=1, bits=3)
        with suppress(RvqError), np.errstate(over="ignore", invalid="ignore"):
            decoder.restore(candidate)
            for sent in packets:
                decoder.push(sent)


def sound(data: bytes) -> None:
    """The sound of a file, with a header that names the model and its codewords."""
    # At 65 kHz at most: resampling so many channels from 1 kHz takes memory by their ratio.
    fields = data[:8] + b"\3" + data[9:13] + bytes(2) + data[15:33] + bytes(8)
    named = _sealed(fields + data[41:])
    with suppress(RvqError):
        decoder = FileDecoder(CODEC, io.BytesIO(named))
        left = decoder.header.n_samples
        for piece in decoder.pieces():
            left -= piece.shape[1]
            assert left >= 0
            if left < decoder.header.n_samples - 10_000:  # more of the same
                break


def _overlaid(arrays: dict[str, np.ndarray], data: bytes) -> dict[str, np.ndarray]:
    """Arrays with the bytes of one of them overwritten; the first byte says of which."""
    name = sorted(arrays)[sum(data[:1]) % len(arrays)]
    old = arrays[name].tobytes()
    new = (data[1:] + old[len(data[1:]) :])[: len(old)]
    return arrays | {name: np.frombuffer(new, arrays[name].dtype).reshape(arrays[name].shape)}


def _checked(data: bytes) -> bytes:
    return data + zlib.crc32(data).to_bytes(4, "big")


def _sealed(data: bytes) -> bytes:
    size = 38 if data[4:5] == b"\1" else HEADER_SIZE
    head = data[: size - 4]
    return head + zlib.crc32(head).to_bytes(4, "little") + data[size:]


def in_time(target: Callable[[bytes], None], data: bytes) -> None:
    """One input, not too slowly."""
    start = time.process_time()
    target(data)
    seconds = time.process_time() - start
    assert seconds < SECONDS, f"took {seconds:.1f} s"


TARGETS: dict[str, Callable[[bytes], None]] = {
    "container": container,
    "entropy": entropy,
    "packet": packet,
    "ecdc": encodec,
    "network": network,
    "state": state,
    "sound": sound,
}


def fuzz(name: str, options: list[str]) -> None:
    """Fuzz a parser in this process, which libFuzzer ends."""
    folders = [f"{HOME}/corpus/{name}"]
    if not any(not option.startswith("-") for option in options):
        # libFuzzer writes to its first folder: keep that out of the repository.
        scratch = HOME / "found" / name
        scratch.mkdir(parents=True, exist_ok=True)
        folders.insert(0, str(scratch))
    limits = ["-rss_limit_mb=1024", "-timeout=300", "-max_len=8192"]
    atheris.Setup([sys.argv[0], *limits, *options, *folders], partial(in_time, TARGETS[name]))
    atheris.Fuzz()


def main() -> None:
    """Fuzz the parser named first, or all, one after the other, in rounds of a process each."""
    name, *options = sys.argv[1:] or [""]
    if name == "round":
        fuzz(options[0], options[1:])
    if name not in [*TARGETS, "all"]:
        sys.exit(f"usage: python fuzz/fuzz.py all|{'|'.join(TARGETS)} [libFuzzer's options]")
    limit = "-max_total_time="
    left = sum(int(option.removeprefix(limit)) for option in options if option.startswith(limit))
    lasting = [min(ROUND, left - start) for start in range(0, left, ROUND)] or [ROUND]
    failed = []
    for target in TARGETS if name == "all" else [name]:
        command = [sys.executable, __file__, "round", target, *options]
        if any(subprocess.run([*command, f"{limit}{n}"]).returncode for n in lasting):
            failed.append(target)
    sys.exit(f"found something: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
