"""EnCodec at 24 kHz here beside the `encodec` package: the same weights, one thread.

    python benchmarks/peers.py --audio tests/data/english_24khz.ogg

Random weights are given to the package's model, saved, and read by `rvq import`; each system then
runs in a process of its own, in turns, several times over. Printed: medians of real-time factors
(seconds of audio per second of work, at 6 kbps), of the seconds until the model is ready, and of
the peak memory; and the ratios to the package. `encodec` is imported with an empty module in
place of torchaudio, which favours it.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import types
from pathlib import Path

KBPS = 6.0
N_CODEBOOKS = 8
SYSTEMS = ("encodec", "rvq torch", "rvq")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--audio", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        system, folder = options.one
        print(json.dumps(measure(system, Path(folder), options.audio, options.seconds)))
        return
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--audio", ".", "--one", "make", folder]
        subprocess.run(command, check=True, capture_output=True)
        rounds: dict[str, list[dict[str, float]]] = {system: [] for system in SYSTEMS}
        for _ in range(options.rounds):
            for system in SYSTEMS:
                command = [sys.executable, __file__, "--one", system, folder]
                command += ["--audio", str(options.audio), "--seconds", str(options.seconds)]
                output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                rounds[system].append(json.loads(output.splitlines()[-1]))
    medians = {
        system: {name: statistics.median(r[name] for r in results) for name in results[0]}
        for system, results in rounds.items()
    }
    peer = medians["encodec"]
    for system, figures in medians.items():
        ratio = {name: figures[name] / peer[name] for name in figures}
        print(f"{system}:")
        for name in ("encode", "decode"):
            print(f"  {name}: {figures[name]:.2f} times real time, {ratio[name]:.2f} of the peer's")
        print(f"  ready after {figures['ready']:.2f} s, {1 / ratio['ready']:.1f} times sooner")
        print(f"  peak memory {figures['peak']:.0f} MB, {ratio['peak']:.2f} of the peer's")


def measure(system: str, folder: Path, audio_path: Path, seconds: float) -> dict[str, float]:
    """Figures of one system in this process; `make` writes the models instead."""
    if system == "make":
        make(folder)
        return {}
    start = time.perf_counter()
    if system == "rvq":
        encode, decode = runtime(folder)
    elif system == "rvq torch":
        encode, decode = ours(folder)
    else:
        encode, decode = package(folder)
    ready = time.perf_counter() - start
    import numpy as np
    import soundfile

    audio, _ = soundfile.read(audio_path, dtype="float32", always_2d=True)
    audio = np.resize(audio[:, 0], round(seconds * 24_000))[None]
    codes = encode(audio[:, :24_000])  # warms up
    decode(codes)
    figures = {"ready": ready}
    start = time.perf_counter()
    codes = encode(audio)
    figures["encode"] = seconds / (time.perf_counter() - start)
    start = time.perf_counter()
    decode(codes)
    figures["decode"] = seconds / (time.perf_counter() - start)
    figures["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return figures


def make(folder: Path) -> None:
    """The package's model with random weights, and the folder that `rvq import` makes of it."""
    import torch

    model = their_model()
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("weight_g"):
                parameter *= 1.8
        for i, layer in enumerate(model.quantizer.vq.layers):
            layer._codebook.embed.normal_(std=0.5 * 0.9**i)
    torch.save(model.state_dict(), folder / "model.th")
    command = [sys.executable, "-m", "rvq", "import", "encodec"]
    command += [str(folder / "model.th"), str(folder / "model")]
    subprocess.run(command, check=True, capture_output=True)


def their_model():
    sys.modules.setdefault("torchaudio", types.ModuleType("torchaudio"))
    from encodec import EncodecModel

    return EncodecModel.encodec_model_24khz(pretrained=False)


def package(folder: Path):
    import torch

    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    model = their_model()
    model.load_state_dict(torch.load(folder / "model.th"))
    model.set_target_bandwidth(KBPS)
    return lambda audio: model.encode(torch.from_numpy(audio)[None]), model.decode


def ours(folder: Path):
    import torch

    from rvq.interop.encodec import read_encodec

    torch.set_num_threads(1)
    model = read_encodec(folder / "model.th")

    def encode(audio):
        return model.compress(torch.from_numpy(audio), N_CODEBOOKS), audio.shape[1]

    return encode, lambda coded: model.decompress(*coded)


def runtime(folder: Path):
    from rvq import Codec

    codec = Codec.load(folder / "model", threads=1)
    # Greedy search, as the package's: the same codes.
    return lambda audio: codec.encode(audio, 24_000, KBPS, beam_size=1), codec.decode


if __name__ == "__main__":
    main()
