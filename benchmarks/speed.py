"""How fast the codec is, beside EnCodec on the same clip in the same run, on one pinned thread.

    pip install -e '.[bench]' && pip install --no-deps encodec==0.1.1 && pip install einops
    python benchmarks/speed.py

EnCodec runs with random weights of its published shape, which take as long as trained ones, and
without its entropy coder. Times are medians; real-time factors are seconds of audio per second.
`--clock cpu` counts the thread's own time, for machines that are busy with other work, where
caches and memory are still shared: there, look at ratios.
"""

import argparse
import importlib.metadata
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import numpy as np  # noqa: E402

from rvq import Codec  # noqa: E402
from rvq.codec.files import read_audio  # noqa: E402

CLIP = Path(__file__).parents[1] / "tests" / "data" / "english_24khz.ogg"
SECONDS = 10
KBPS = 6.0
STUB = "import sys, types; sys.modules['torchaudio'] = types.ModuleType('torchaudio'); "
clock: Callable[[], float] = time.perf_counter


def timed(work: Callable[[], object]) -> float:
    start = clock()
    work()
    return clock() - start


def medians(works: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each piece of work, all of them in turn in every round."""
    for work in works.values():
        work()
    times = [{name: timed(work) for name, work in works.items()} for _ in range(rounds)]
    return {name: statistics.median(t[name] for t in times) for name in works}


def multiplications(codec: Codec, n_codebooks: int) -> tuple[int, int, int]:
    """Of transforms and networks per frame: encoder, search, decoder."""
    import json

    from rvq.codec.models import DEFAULT_MODEL, find

    card = json.loads((find(DEFAULT_MODEL) / "model.json").read_text())
    n = card["model"]["network"]
    block = n["width"] * (2 * n["hidden"] + n["kernel_size"])
    encoder = 2 * n["hop_length"] ** 2 + n["hop_length"] * (n["dim"] + 3 * n["width"])
    encoder += n["encoder_blocks"] * block + n["width"] * n["dim"]
    decoder = (1 + n["lookahead"]) * n["dim"] * n["width"] + n["decoder_blocks"] * block
    decoder += n["hop_length"] * (2 * n["width"] + n["dim"]) + n["hop_length"] ** 2
    return encoder, n_codebooks * codec.codebook_size * n["dim"], decoder


def peak() -> float:
    """GFLOP/s of a large float32 matrix product in numpy."""
    a = np.random.default_rng(0).standard_normal((1024, 1024), np.float32)
    return 2 * 1024**3 / medians({"product": lambda: a @ a}, 15)["product"] / 1e9


def encodec_works(audio: np.ndarray) -> dict[str, Callable[[], object]]:
    sys.modules.setdefault("torchaudio", types.ModuleType("torchaudio"))
    import torch
    from encodec import EncodecModel

    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = EncodecModel.encodec_model_24khz(pretrained=False).eval().requires_grad_(False)
    model.set_target_bandwidth(KBPS)
    x = torch.from_numpy(audio)[None]
    frames = model.encode(x)
    return {
        "encodec encode": lambda: model.encode(x),
        "encodec decode": lambda: model.decode(frames),
    }


def stream(codec: Codec, audio: np.ndarray, seconds: float) -> np.ndarray:
    """Seconds that each frame takes, encoded and decoded as it comes."""
    hop = codec.runtime.hop_length
    encoder = codec.stream_encoder(channels=1, sample_rate=24_000, bitrate=KBPS)
    decoder = codec.stream_decoder(channels=1, sample_rate=24_000)
    hops = np.split(audio[:, : audio.shape[1] // hop * hop], audio.shape[1] // hop, axis=1)

    def frame(samples: np.ndarray) -> None:
        for packet in encoder.push(samples):
            decoder.push(packet)

    n_frames = int(seconds * codec.runtime.frame_rate)
    return np.array([timed(lambda i=i: frame(hops[i % len(hops)])) for i in range(n_frames)])


def python(code: str) -> float:
    """Seconds that a fresh interpreter takes for it."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    return time.perf_counter() - start


def whole_process(folder: Path, audio: np.ndarray, rounds: int) -> float:
    import soundfile

    soundfile.write(folder / "clip.wav", audio[0, : 5 * 24_000], 24_000)
    argv = ["rvq", "encode", str(folder / "clip.wav"), "--force"]
    code = f"import sys; sys.argv = {argv!r}; from rvq.cli import main; main()"
    return statistics.median(python(code) for _ in range(rounds + 1))


def memory_for_an_hour(folder: Path, audio: np.ndarray) -> float:
    """MB that encoding and decoding a file of an hour take at most."""
    import soundfile

    with soundfile.SoundFile(folder / "hour.wav", "w", 24_000, 1) as file:
        for _ in range(3600 // SECONDS):
            file.write(audio[0])
    code = (
        "from pathlib import Path; from rvq import Codec; "
        "from rvq.codec.files import decode_file, encode_file; "
        f"codec, folder = Codec.load(), Path({str(folder)!r}); "
        f"encode_file(codec, folder / 'hour.wav', folder / 'hour.rvq', bitrate={KBPS}); "
        "decode_file(codec, folder / 'hour.rvq', folder / 'back.wav'); "
        # Not ru_maxrss, which a child inherits from the process that started it.
        "print(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])"
    )
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return int(run.stdout.split()[-1]) / 1024


def install_size() -> float:
    """MB of the package and all that it needs."""
    todo, seen, size = ["rvq"], set(), 0
    while todo:
        name = re.sub(r"[-_.]+", "-", todo.pop()).lower()
        if name in seen:
            continue
        seen.add(name)
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:  # of other systems
            continue
        for need in distribution.requires or []:
            if "extra ==" not in need:
                todo.append(re.match(r"[\w.-]+", need).group())
        if name != "rvq":  # which may be installed from its source
            paths = (Path(distribution.locate_file(file)) for file in distribution.files or [])
            size += sum(path.stat().st_size for path in paths if path.is_file())
    package = Path(__import__("rvq").__file__).parent
    return (size + sum(p.stat().st_size for p in package.rglob("*") if p.is_file())) / 1e6


def main() -> None:
    global clock
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--clip", type=Path, default=CLIP, help="any recording; 10 s are made of it"
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--minutes", type=float, default=10, help="of streaming, frame by frame")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--no-hour", action="store_true", help="leave the file of an hour out")
    options = parser.parse_args()
    clock = time.thread_time if options.clock == "cpu" else time.perf_counter
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

    audio, rate = read_audio(options.clip)
    if rate != 24_000:
        import soxr

        audio = soxr.resample(audio.T, rate, 24_000).T
    audio = np.ascontiguousarray(np.resize(audio[0], (1, SECONDS * 24_000)))
    codec = Codec.load()
    codes = codec.encode(audio, 24_000, KBPS)
    works: dict[str, Callable[[], object]] = {
        "encode": lambda: codec.encode(audio, 24_000, KBPS),
        "encode, greedy search": lambda: codec.encode(audio, 24_000, KBPS, beam_size=1),
        "decode": lambda: codec.decode(codes),
    }
    try:
        works |= encodec_works(audio)
    except ImportError:
        print("encodec is not installed; its rows are left out\n")
    took = medians(works, options.rounds)
    fastest = peak()

    rows: list[tuple[str, str, str, str]] = []
    both = took["encode"] + took["decode"]
    if "encodec encode" in took:
        peer = took["encodec encode"] + took["encodec decode"]
        rows.append(
            ("encode + decode against encodec", f"{peer / both:.0f} times as fast", "10", "30")
        )
        for part in ("encode", "decode"):
            factor = SECONDS / took[f"encodec {part}"]
            rows.append((f"encodec, {part}", f"{factor:.1f} x real time", "", ""))
    encoder, search, decoder = multiplications(codec, codes.n_codebooks)
    for part, work in (("encode", encoder + search), ("decode", decoder)):
        factor = SECONDS / took[part]
        per_second = 2 * work * codec.runtime.frame_rate
        speed = per_second * factor / 1e9
        rows.append((part, f"{factor:.0f} x real time", "60", "200"))
        rows.append(
            (
                f"{part}: operations per second of audio",
                f"{per_second / 1e9:.2f} GFLOP; {speed:.0f} GFLOP/s, {speed / fastest:.0%} of a "
                f"large matrix product's {fastest:.0f}",
                "",
                "",
            )
        )
    factor = SECONDS / took["encode, greedy search"]
    rows.append(("encode, greedy search", f"{factor:.0f} x real time", "", ""))
    frames = stream(codec, audio, 60 * options.minutes)
    length = 1 / codec.runtime.frame_rate
    rows += [
        ("frame by frame, both ways", f"{length / np.median(frames):.0f} x real time", "15", "50"),
        (
            f"worst frame in {options.minutes:g} minutes, of a frame's length",
            f"{frames.max() / length:.0%} (99.9%: {np.quantile(frames, 0.999) / length:.0%})",
            "50%",
            "10%",
        ),
        ("algorithmic latency", f"{1000 * codec.runtime.latency:.1f} ms", "40", "26.5"),
    ]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        seconds = whole_process(folder, audio, options.rounds)
        rows.append(("rvq encode of 5 s, whole process", f"{seconds:.2f} s wall", "0.6 s", ""))
        if not options.no_hour:
            memory = memory_for_an_hour(folder, audio)
            rows.append(("peak memory, file of an hour", f"{memory:.0f} MB", "400", "200"))
    nothing = statistics.median(python("") for _ in range(options.rounds))
    own = statistics.median(python("import rvq") for _ in range(options.rounds)) - nothing
    line = f"{1000 * own:.0f} ms"
    if "encodec encode" in took:
        peer = statistics.median(python(STUB + "import encodec") for _ in range(3)) - nothing
        line += f", encodec {1000 * peer:.0f} ms: {peer / own:.0f} times as fast"
    rows.append(("import", line, "10 times", ""))
    rows.append(("installed, with all it needs", f"{install_size():.0f} MB", "300", ""))

    print(f"One thread, {options.clock} time, {KBPS:g} kbps.\n")
    print("| measure | result | bar | aim |\n|---|---|---|---|")
    for row in rows:
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
