"""Published codecs here beside the packages they come from: the same weights, one thread.

    python benchmarks/peers.py --audio tests/data/english_24khz.ogg

EnCodec at 24 and 48 kHz is measured beside the `encodec` package, DAC at 44.1 kHz beside
`transformers`. Random weights are given to the package's model, saved, and read by `rvq import`;
each system then runs in a process of its own, in turns, several times over. Printed: medians of
real-time factors (seconds of audio per second of work), of the seconds until the model is ready,
and of the peak memory; and the ratios to the package. `encodec` is imported with an empty module in
place of torchaudio, which favours it. It takes a few minutes; `--model` measures one alone.
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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Case:
    """A model that is measured.

    Attributes:
        sample_rate, channels: of the audio.
        seconds: of the clip.
        kbps: of the codes; None for all codebooks.
        peer: the package it comes from.
        source: what `rvq import` calls it, and the checkpoint that `make` writes.
        systems: by name; each makes an encoder and a decoder.
    """

    sample_rate: int
    channels: int
    seconds: float
    kbps: float | None
    peer: str
    source: tuple[str, str]
    systems: dict[str, Callable]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--audio", type=Path, required=True)
    parser.add_argument("--model", choices=CASES, help="default: each of them")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        system, folder = options.one
        print(json.dumps(measure(options.model, system, Path(folder), options.audio)))
        return
    for name in [options.model] if options.model else CASES:
        compare(name, options.audio, options.rounds)


def compare(name: str, audio: Path, n_rounds: int) -> None:
    """Measure the systems of a model in turns and print what came out."""
    case = CASES[name]
    rounds: dict[str, list[dict[str, float]]] = {system: [] for system in case.systems}
    with tempfile.TemporaryDirectory() as folder:

        def run(system: str) -> str:
            command = [sys.executable, __file__, "--one", system, folder]
            command += ["--model", name, "--audio", str(audio)]
            return subprocess.run(command, check=True, capture_output=True, text=True).stdout

        run("make")
        for _ in range(n_rounds):
            for system in case.systems:
                rounds[system].append(json.loads(run(system).splitlines()[-1]))
    medians = {
        system: {figure: statistics.median(r[figure] for r in results) for figure in results[0]}
        for system, results in rounds.items()
    }
    peer = medians[case.peer]
    rate = f"{case.kbps:g} kbps" if case.kbps else "all codebooks"
    print(f"{name}, {rate}, {case.seconds:g} s")
    for system, figures in medians.items():
        ratio = {figure: figures[figure] / peer[figure] for figure in figures}
        print(f"  {system}:")
        for figure in ("encode", "decode"):
            times = f"{figures[figure]:.2f} times real time"
            print(f"    {figure}: {times}, {ratio[figure]:.2f} of the peer's")
        print(f"    ready after {figures['ready']:.2f} s, {1 / ratio['ready']:.1f} times sooner")
        print(f"    peak memory {figures['peak']:.0f} MB, {ratio['peak']:.2f} of the peer's")


def measure(name: str, system: str, folder: Path, audio_path: Path) -> dict[str, float]:
    """Figures of one system in this process; `make` writes the models instead."""
    case = CASES[name]
    if system == "make":
        make(name, folder)
        return {}
    start = time.perf_counter()
    encode, decode = case.systems[system](case, folder)
    figures = {"ready": time.perf_counter() - start}
    import numpy as np
    import soundfile
    import soxr

    audio, rate = soundfile.read(audio_path, dtype="float32", always_2d=True)
    voice = soxr.resample(audio[:, 0], rate, case.sample_rate)
    n_samples = round(case.seconds * case.sample_rate) // 2_560 * 2_560  # whole hops of every model
    audio = np.tile(np.resize(voice, n_samples), (case.channels, 1))
    decode(encode(audio[:, : n_samples // 5_120 * 512]))  # warms up
    start = time.perf_counter()
    codes = encode(audio)
    seconds = n_samples / case.sample_rate
    figures["encode"] = seconds / (time.perf_counter() - start)
    start = time.perf_counter()
    decode(codes)
    figures["decode"] = seconds / (time.perf_counter() - start)
    figures["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return figures


def make(name: str, folder: Path) -> None:
    """The package's model with random weights, and the folder that `rvq import` makes of it."""
    import torch

    torch.manual_seed(0)
    kind, checkpoint = CASES[name].source
    with torch.no_grad():
        if kind == "dac":
            model = dac_model()
            for key, weight in model.named_parameters():
                if weight.ndim == 3 and key.endswith("weight"):
                    transposed = "conv_t" in key
                    fan = weight[:, 0].numel() / 4 if transposed else weight[0].numel()
                    weight.normal_(std=0.75 * fan**-0.5)  # signals neither fade nor grow
            model.save_pretrained(folder / checkpoint)
        else:
            model = encodec_model(name)
            for key, weight in model.named_parameters():
                if key.endswith("weight_g"):
                    weight *= 1.8
            for i, layer in enumerate(model.quantizer.vq.layers):
                layer._codebook.embed.normal_(std=0.5 * 0.9**i)
            torch.save(model.state_dict(), folder / checkpoint)
    command = [sys.executable, "-m", "rvq", "import", kind]
    command += [str(folder / checkpoint), str(folder / "model")]
    subprocess.run(command, check=True, capture_output=True)


def encodec_model(name: str):
    sys.modules.setdefault("torchaudio", types.ModuleType("torchaudio"))
    from encodec import EncodecModel

    return getattr(EncodecModel, name.replace("encodec_", "encodec_model_"))(pretrained=False)


def dac_model():
    from transformers import DacConfig, DacModel

    return DacModel(DacConfig()).eval()


def one_thread() -> None:
    import torch

    torch.set_num_threads(1)
    torch.set_grad_enabled(False)


def encodec_package(case: Case, folder: Path):
    import torch

    one_thread()
    model = encodec_model(f"encodec_{case.sample_rate // 1000}khz")
    model.load_state_dict(torch.load(folder / case.source[1]))
    model.eval().set_target_bandwidth(case.kbps)
    return lambda audio: model.encode(torch.from_numpy(audio)[None]), model.decode


def transformers_package(case: Case, folder: Path):
    import torch
    from transformers import DacModel

    one_thread()
    model = DacModel.from_pretrained(folder / case.source[1]).eval()
    return (
        lambda audio: model.encode(torch.from_numpy(audio)[None]).audio_codes,
        lambda codes: model.decode(audio_codes=codes),
    )


def rvq_torch(case: Case, folder: Path):
    import torch

    from rvq.interop.encodec import read_encodec

    one_thread()
    model = read_encodec(folder / case.source[1])
    n_codebooks = round(case.kbps * 1000 / 750)

    def encode(audio):
        return model.compress(torch.from_numpy(audio), n_codebooks), audio.shape[1]

    return encode, lambda coded: model.decompress(*coded)


def rvq_folder(case: Case, folder: Path):
    from rvq import Codec

    codec = Codec.load(folder / "model", threads=1)
    # Greedy search, as the packages': the same codes.
    return lambda audio: codec.encode(audio, case.sample_rate, case.kbps, beam_size=1), codec.decode


ENCODEC = {"encodec": encodec_package}
CASES = {
    "encodec_24khz": Case(
        sample_rate=24_000,
        channels=1,
        seconds=10.0,
        kbps=6.0,
        peer="encodec",
        source=("encodec", "model.th"),
        systems=ENCODEC | {"rvq torch": rvq_torch, "rvq": rvq_folder},
    ),
    "encodec_48khz": Case(
        sample_rate=48_000,
        channels=2,
        seconds=5.0,
        kbps=6.0,
        peer="encodec",
        source=("encodec", "model.th"),
        systems=ENCODEC | {"rvq": rvq_folder},
    ),
    "dac_44khz": Case(
        sample_rate=44_100,
        channels=1,
        seconds=3.0,
        kbps=None,
        peer="transformers",
        source=("dac", "checkpoint"),
        systems={"transformers": transformers_package, "rvq": rvq_folder},
    ),
}


if __name__ == "__main__":
    main()
