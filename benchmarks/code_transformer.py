"""EnCodec's Transformer over codes beside our integer networks: bits, size and speed.

    python benchmarks/code_transformer.py --audio data/dev --train data

Both predict the same codes: those of the default model at 6 kbps, from the beam search that writes
files. The Transformer (arXiv 2210.13438, section 3.3) learns here, from the recordings that `rvq
learn-entropy` learns from and for about as many processor seconds; the integer networks are those
that the model's folder has. What is printed of the Transformer is the information content under its
probabilities, of ours the bytes of files, which a coder, blocks of five seconds and whole bytes
make larger.
"""

import argparse
import io
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file

import rvq
from rvq.bitstream.codes import Codes
from rvq.bitstream.container import Reader, dumps, loads
from rvq.bitstream.entropy import FILE
from rvq.bitstream.survey import survey
from rvq.codec.files import read_audio
from rvq.interop import ecdc
from rvq.nn.code_transformer import CodeProbabilities, CodeTransformer
from rvq.train.code_transformer import LearningConfig, learn
from rvq.train.codes import Integers, gather

KBPS = (1.5, 3, 6)


def processor_seconds(work: Callable[[], object]) -> float:
    """Of all threads of this process."""
    start = time.process_time()
    work()
    return time.process_time() - start


def learn_for(seconds: float, codes: Integers, codec: rvq.Codec) -> CodeTransformer:
    """A Transformer that learned for about so many processor seconds."""

    def work(steps: int) -> CodeTransformer:
        return learn(
            codes,
            LearningConfig(steps=steps, warmup_steps=min(50, steps)),
            codebook_size=codec.codebook_size,
            frame_rate=float(codec.frame_rate),
        )

    trial = 12
    per_step = processor_seconds(partial(work, trial)) / trial
    steps = max(1, int(seconds / per_step))
    start = time.process_time()
    model = work(steps)
    took = time.process_time() - start
    heard = steps * LearningConfig().batch_size * codes.shape[1] / codes[..., 0].size
    print(f"{steps} steps in {took:.0f} processor seconds, {heard:.1f} times through the codes")
    return model


def bits_of_transformer(model: CodeTransformer, clips: list[Codes], n: int) -> np.ndarray:
    """Bits of every layer, summed over clips, of the first n codebooks."""
    total = np.zeros(n)
    for codes in clips:
        sequence = torch.from_numpy(codes.indices[:1, :, :n])
        total += model.bits(sequence)[0].sum(0).double().numpy()
    return total


def bits_of_files(codec: rvq.Codec, clips: list[Codes], n: int) -> np.ndarray:
    """The same of the bytes in files."""
    total = np.zeros(n)
    for codes in clips:
        data = dumps(codes.prefix(n), entropy=codec.entropy)
        total += 8 * np.array(survey(Reader(io.BytesIO(data))).layers)
    return total


def print_bits(codec: rvq.Codec, model: CodeTransformer, clips: list[Codes]) -> None:
    depths = [codec.n_codebooks(kbps) for kbps in KBPS]
    frames = sum(codes.indices.shape[1] for codes in clips)
    full = np.log2(codec.codebook_size)
    print(f"\n| bits saved at | {' | '.join(f'{kbps:g} kbps' for kbps in KBPS)} |")
    print("|---" * (1 + len(KBPS)) + "|")
    by_layer = {}
    ways: dict[str, Callable[[int], np.ndarray]] = {
        "Transformer": partial(bits_of_transformer, model, clips),
        "integer networks": partial(bits_of_files, codec, clips),
    }
    for name, bits in ways.items():
        found = [bits(n) / frames for n in depths]
        saved = [1 - each.mean() / full for each in found]
        print(f"| {name} | {' | '.join(f'{share:.1%}' for share in saved)} |")
        by_layer[name] = found[-1]
    print(f"\nbits per code at {KBPS[-1]:g} kbps, of {full:g}, by layer")
    for name, found in by_layer.items():
        print(f"{name}: {' '.join(f'{value:.2f}' for value in found)}; mean {found.mean():.2f}")


def print_sizes(codec: rvq.Codec, model: CodeTransformer, n: int) -> None:
    """Parameters, and multiply-adds per frame of n codebooks."""
    c = model.config
    attention = 4 * c.dim**2 + 2 * c.dim * (c.past_frames + 1)
    theirs = c.n_layers * (attention + 2 * c.dim * c.hidden) + n * c.dim * c.codebook_size
    assert codec.folder is not None
    arrays = load_file(codec.folder / FILE)
    n_parameters = sum(
        arrays[name][:n].size for name in ("features", "lower", "own", "offset", "weights", "bias")
    )
    _, reach, width, hidden = arrays["lower"].shape
    # The layer's own past comes from tables; the first layer has no layers below.
    ours = (n - 1) * reach * width * hidden + n * hidden * codec.codebook_size
    of_transformer = sum(p.numel() for p in model.parameters())
    print("\n| | parameters | multiply-adds per frame |\n|---|---:|---:|")
    rows = {
        "Transformer, keys and values kept": (of_transformer, theirs),
        "integer networks": (n_parameters, ours),
    }
    for name, (size, work) in rows.items():
        print(f"| {name} | {size / 1e6:.2f} M | {work / 1e6:.2f} M |")


def print_speed(codec: rvq.Codec, model: CodeTransformer, clip: Codes) -> None:
    """Whole files on one thread, both ways, by processor time."""
    torch.set_num_threads(1)
    language_model = CodeProbabilities(model)
    n_samples = clip.indices.shape[1] * 320
    file = ecdc.EcdcFile("encodec_24khz", n_samples, (ecdc.Segment(clip.indices[0]),))
    seconds = float(clip.indices.shape[1] / codec.frame_rate)
    theirs = ecdc.dumps(file, language_model)
    ours = dumps(clip, entropy=codec.entropy)  # tables are made
    print(f"\n| {seconds:.1f} s of codes, times real time | encode | decode | bytes of the file |")
    print("|---|---:|---:|---:|")
    works: dict[str, tuple[Callable[[], object], Callable[[], object], bytes]] = {
        ".ecdc, Transformer": (
            partial(ecdc.dumps, file, language_model),
            partial(ecdc.loads, theirs, language_model),
            theirs,
        ),
        ".rvq, integer networks": (
            partial(dumps, clip, entropy=codec.entropy),
            partial(loads, ours, entropy=codec.entropy),
            ours,
        ),
    }
    for name, (encode, decode, data) in works.items():
        there, back = (min(processor_seconds(work) for _ in range(2)) for work in (encode, decode))
        print(f"| {name} | {seconds / there:.2f} | {seconds / back:.2f} | {len(data)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--audio", type=Path, required=True, help="folder of unseen recordings")
    parser.add_argument("--train", type=Path, required=True, help="written by `rvq data prepare`")
    parser.add_argument("--minutes", type=float, default=150, help="of recordings to learn from")
    parser.add_argument(
        "--seconds",
        type=float,
        default=540,
        help="processor seconds to learn for; `rvq learn-entropy` takes 4.5 minutes of two cores",
    )
    arguments = parser.parse_args()
    codec = rvq.Codec.load()
    if codec.entropy is None:
        raise SystemExit("the model's folder has no entropy model; make one by `rvq learn-entropy`")
    paths = sorted(p for p in arguments.audio.rglob("*") if p.suffix in (".flac", ".wav", ".ogg"))
    clips = []
    for path in paths:
        audio, rate = read_audio(path)
        clips.append(codec.encode(audio[:1], rate, KBPS[-1]))
    n = codec.n_codebooks(KBPS[-1])
    frames = sum(codes.indices.shape[1] for codes in clips)
    print(f"{len(clips)} recordings, {frames} frames; model {codec.model_hash[:16]}")
    n_frames = round(LearningConfig().crop_seconds * codec.frame_rate)
    learned = gather(codec, [arguments.train], arguments.minutes, n_frames=n_frames)[..., :n]
    print(
        f"learning from {learned[..., 0].size / float(codec.frame_rate) / 60:.0f} minutes of codes"
    )
    model = learn_for(arguments.seconds, learned, codec)
    print_bits(codec, model, clips)
    print_sizes(codec, model, n)
    longest = max(clips, key=lambda codes: codes.indices.shape[1])
    print_speed(codec, model, longest)


if __name__ == "__main__":
    main()
