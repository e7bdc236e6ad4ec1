"""What the file format costs and saves, on recordings of unseen speakers.

    python benchmarks/bits.py --audio data/dev

Printed, each beside what it is compared with: bits saved by entropy coding at the same codes; speed
of entropy coding on one thread; bytes that are container; what a variable bitrate spends on silence
and saves at equal quality; what single damaged bits cost; lost packets beside Opus with the same
share lost. `--only` picks some of them.
"""

import argparse
import io
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import rvq
from rvq.bitstream.codes import Codes
from rvq.bitstream.container import Reader, dumps, loads, payload_size
from rvq.bitstream.survey import survey
from rvq.bitstream.tables import ABSENT
from rvq.codec.files import read_audio
from rvq.errors import RvqError
from rvq.evaluate import metrics
from rvq.evaluate.programs import read_wav, run_program, write_wav

Clips = list[tuple[np.ndarray, int]]


def one_thread(work: Callable[[], object]) -> float:
    """Processor seconds of a call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def joined(codec: rvq.Codec, clips: Clips, seconds: float, kbps: float) -> Codes:
    """Codes of clips one after the other."""
    rate = clips[0][1]
    same = [audio for audio, its in clips if its == rate]
    audio = np.concatenate(same, axis=1)[:, : int(seconds * rate)]
    return codec.encode(audio, rate, kbps)


def saved(codec: rvq.Codec, clips: Clips) -> None:
    print("\nBits saved by entropy coding at the same codes, and by whole files")
    print("| kbps | packed | coded | saved | files saved | by layer, bits of 10 |")
    print("|---:|---:|---:|---:|---:|---|")
    full = [codec.encode(audio, rate) for audio, rate in clips]
    for kbps in (0.75, 1.5, 3, 6, 12):
        n = codec.n_codebooks(kbps)
        packed = coded = whole = files = frames = 0
        layers = np.zeros(n)
        for codes in full:
            plain, small = dumps(codes.prefix(n)), dumps(codes.prefix(n), entropy=codec.entropy)
            packed += payload_size(plain)
            coded += payload_size(small)
            whole, files = whole + len(plain), files + len(small)
            layers += survey(Reader(io.BytesIO(small))).layers
            frames += codes.indices.shape[1]
        each = " ".join(f"{8 * size / frames:.2f}" for size in layers)
        print(
            f"| {kbps:g} | {packed} B | {coded} B | {1 - coded / packed:.1%} "
            f"| {1 - files / whole:.1%} | {each} |"
        )


def speed(codec: rvq.Codec, clips: Clips) -> None:
    print("\nSpeed of entropy coding on one thread, times real time (files, checks included)")
    for kbps in (1.5, 6, 12):
        codes = joined(codec, clips, 60, kbps)
        data = dumps(codes, entropy=codec.entropy)  # tables are made
        seconds = codes.n_samples / codes.sample_rate
        there = min(one_thread(partial(dumps, codes, entropy=codec.entropy)) for _ in range(3))
        back = min(one_thread(partial(loads, data, entropy=codec.entropy)) for _ in range(3))
        print(f"{kbps:g} kbps: encode {seconds / there:.0f}, decode {seconds / back:.0f}")
    print("\nSpeed of `Codec.encode` on one thread, times real time (networks and search)")
    rate = clips[0][1]
    audio = np.concatenate([a for a, its in clips if its == rate], axis=1)[:, : 30 * rate]
    ways: list[tuple[str, dict[str, float]]] = [("constant, 6 kbps", {"bitrate": 6})]
    ways += [(f"variable, quality {q:g}", {"quality": q}) for q in (1.0, 3.5)]
    for name, how in ways:
        for beam_size in (1, 4, 8):
            work = partial(codec.encode, audio, rate, **how, beam_size=beam_size)
            work()  # tables are made
            print(f"{name}, beam {beam_size}: {audio.shape[1] / rate / one_thread(work):.0f}")


def overhead(codec: rvq.Codec, clips: Clips) -> None:
    print("\nContainer: bytes of a one-minute file that are not codes")
    for kbps in (1.5, 6):
        codes = joined(codec, clips, 60, kbps)
        data = dumps(codes, entropy=codec.entropy)
        nominal = kbps * 125 * codes.n_samples / codes.sample_rate
        extra = len(data) - payload_size(data)
        print(
            f"{kbps:g} kbps: {extra} of {len(data)} bytes, {extra / len(data):.2%} of the file, "
            f"{extra / nominal:.2%} of {kbps:g} kbps"
        )


def frame_bits(codec: rvq.Codec, codes: Codes) -> np.ndarray:
    """What every frame of the first channel costs, `[n_frames]`, if all were one block."""
    assert codec.entropy is not None
    entropy, indices = codec.entropy, codes.indices[0]
    n, variable = len(indices), codes.variable
    bits, below = np.zeros(n), np.ones(n, bool)
    known = np.zeros((1, n, entropy.width), np.int32)
    for layer, row in enumerate(indices.T):
        base = entropy.base(layer, known)
        stored = np.where(row < 0, ABSENT, row).astype(np.uint16)
        seen = [[6, 1], [1, 6], [6, 1], [1, 6]]  # docs/format.md, "Presence"
        for t in np.flatnonzero(below):
            if variable and layer:
                counts = seen[2 * below[t - 1] + (row[t - 1] >= 0) if t else 0]
                there = int(row[t] >= 0)
                bits[t] += np.log2(sum(counts) / counts[there])
                counts[there] += 2
            if row[t] >= 0:
                bits[t] += entropy.bits(layer, base[t], stored[:t])[row[t]]
        known = known + entropy.features(layer, row[None])
        below = row >= 0
    return bits


def pauses_in(levels: np.ndarray) -> np.ndarray:
    """Frames that are 30 dB and more below the active level, as are all within 100 ms of them.

    So a pause has at least 200 ms; its ends belong to the sound around it, which every window there
    holds part of. The active level is the mean power of frames up to 30 dB below the loudest.
    """
    active = levels[levels > levels.max() / 1000].mean()
    around = np.lib.stride_tricks.sliding_window_view(np.pad(levels, 7, mode="edge"), 15)
    return around.max(axis=1) < active / 1000


def silence(codec: rvq.Codec, clips: Clips) -> None:
    print("\nVariable bitrate: what silence and pauses cost, as a share of the average rate")
    rate = codec.runtime.sample_rate
    clips = [(audio, its) for audio, its in clips if its == rate]
    random = np.random.default_rng(0)
    floor = 10 ** (-65 / 20) * random.standard_normal((1, 20 * rate)).astype(np.float32)
    speech = np.concatenate([audio for audio, _ in clips][:4], axis=1)[:, : 10 * rate]
    hop = codec.runtime.hop_length
    for quality in (2.0, 4.0):
        everything: list[np.ndarray] = []
        paused: list[np.ndarray] = []
        level: list[tuple[float, float]] = []
        mel: list[tuple[float, float]] = []
        for audio, _ in clips:
            codes = codec.encode(audio, rate, quality=quality)
            bits = frame_bits(codec, codes)
            everything.append(bits)
            n = audio.shape[1] // hop
            levels = np.square(audio[0, : n * hop].reshape(n, hop)).mean(axis=1) + 1e-12
            where = pauses_in(levels)
            if where.sum() < 15:
                continue
            paused.append(bits[:n][where])
            samples = np.repeat(where, hop)
            decoded = [codec.decode(codes), codec.decode(codec.encode(audio, rate, 6))]
            aligned = [metrics.align(audio, each, rate) for each in decoded]
            quiet, ours, constant = (x[0, : n * hop][samples] for x in (audio, *aligned))
            level.append(tuple(_decibels(x) - _decibels(quiet) for x in (ours, constant)))
            mel.append(tuple(metrics.mel_distance(quiet, x, rate) for x in (ours, constant)))
        average = float(np.concatenate(everything).mean())
        frames = np.concatenate(paused)
        digital = codec.compress(np.zeros((1, 20 * rate), np.float32), rate, quality=quality)
        # A talk with a pause in it, at the noise floor of a good room: the pause by difference.
        talk = [
            payload_size(codec.compress(np.concatenate(parts, axis=1), rate, quality=quality))
            for parts in ((speech, floor), (speech,))
        ]
        second = average * float(codec.frame_rate) / 8
        print(
            f"quality {quality:g}: {second / 125:.2f} kbps; digital silence "
            f"{payload_size(digital) / 20 / second:.1%}; 20 s of noise at -65 dB "
            f"{(talk[0] - talk[1]) / 20 / second:.1%}; pauses in recordings "
            f"{frames.mean() / average:.1%} ({len(frames) / sum(map(len, everything)):.0%} of all "
            f"frames, in {len(paused)} clips)"
        )
        print("  there, at this quality and at constant 6 kbps: ", end="")
        print("level {:+.1f} and {:+.1f} dB, ".format(*np.mean(level, axis=0)), end="")
        print("mel distance {:.2f} and {:.2f}".format(*np.mean(mel, axis=0)))


def _decibels(samples: np.ndarray) -> float:
    return 10 * float(np.log10(np.square(samples, dtype=np.float64).mean() + 1e-12))


def rate_distortion(codec: rvq.Codec, clips: Clips) -> None:
    print("\nQuality at equal bitrates of files: constant number of codebooks, variable bitrate")
    print("| setting | file kbps | PESQ-WB | ViSQOL |")
    print("|---|---:|---:|---:|")
    curves: dict[str, list[tuple[float, float, float]]] = {}
    settings: list[tuple[str, str, dict[str, Any]]] = []
    for family, beam in (("constant, greedy", {"beam_size": 1}), ("constant", {})):
        settings += [(family, f"{kbps:g} kbps", {"bitrate": kbps, **beam}) for kbps in (1.5, 3, 6)]
    settings += [("variable", f"quality {q:g}", {"quality": q}) for q in (0.5, 1.5, 3.0)]
    for family, name, how in settings:
        size, seconds, pesq, visqol = 0, 0.0, [], []
        for audio, rate in clips:
            data = codec.compress(audio, rate, **how)
            decoded = metrics.align(audio, codec.decompress(data), rate)
            scores = metrics.score(audio, decoded, rate)
            pesq.append(scores.pesq_wb)
            visqol.append(scores.visqol)
            size += len(data)
            seconds += audio.shape[1] / rate
        row = (size / 125 / seconds, float(np.nanmean(pesq)), float(np.nanmean(visqol)))
        curves.setdefault(family, []).append(row)
        print(f"| {family}, {name} | {row[0]:.2f} | {row[1]:.3f} | {row[2]:.3f} |", flush=True)
    variable = curves.pop("variable")
    for name, other in curves.items():
        for column, metric in ((1, "PESQ-WB"), (2, "ViSQOL")):
            pair = [np.array(sorted((row[column], row[0]) for row in c)) for c in (other, variable)]
            low, high = max(c[0, 0] for c in pair), min(c[-1, 0] for c in pair)
            if low < high:
                at = np.linspace(low, high, 9)
                rates = [np.exp(np.interp(at, c[:, 0], np.log(c[:, 1]))) for c in pair]
                less = 1 - np.mean(rates[1] / rates[0])
                print(f"{less:.1%} fewer bits than {name} at {metric} {low:.2f} to {high:.2f}")


def bit_flips(codec: rvq.Codec, clips: Clips, trials: int = 10_000) -> None:
    print(f"\nOne damaged bit anywhere in a file, {trials} trials")
    codes = joined(codec, clips, 6, 3)
    data = dumps(codes, entropy=codec.entropy, metadata={"title": "a title"})
    random = np.random.default_rng(0)
    unhandled = unreported = lost = weakened = untouched = wrong = 0
    most = 0.0
    for _ in range(trials):
        damaged = bytearray(data)
        position = int(random.integers(8 * len(data)))
        damaged[position // 8] ^= 1 << position % 8
        try:
            reader = Reader(io.BytesIO(damaged), entropy=codec.entropy)
            blocks = list(reader.blocks())
        except RvqError:
            lost += 1
            most = codes.n_samples / codes.sample_rate
            continue
        except Exception as error:  # what this trial is about
            print("unhandled:", repr(error))
            unhandled += 1
            continue
        hit = [block for block in blocks if not block.intact]
        weakened += bool(hit) and all(block.indices is not None for block in hit)
        lost += any(block.indices is None for block in hit)
        untouched += not hit
        unreported += not hit and not reader.header.repaired and reader.whole is not False
        frames = sum(block.n_frames for block in hit)
        most = max(most, frames / float(codes.frame_rate))
        for block in blocks:
            if block.indices is not None:
                start = block.index * reader.header.frames_per_block
                right = codes.indices[:, start:, : block.indices.shape[2]]
                wrong += not np.array_equal(block.indices, right[:, : block.n_frames])
    print(
        f"unhandled {unhandled}, not reported {unreported}, wrong codes {wrong}; a block lost in "
        f"{lost}, layers of one in {weakened}, nothing in {untouched}; at most {most:.2f} s hit"
    )


def packets(codec: rvq.Codec, clips: Clips, share: float = 0.1) -> None:
    print(f"\n{share:.0%} of packets lost: PESQ-WB without and with loss")
    random = np.random.default_rng(0)
    ours: list[tuple[float, float]] = []
    opus: list[tuple[float, float]] = []
    for audio, rate in clips:
        results = []
        for lose in (0.0, share):
            encoder = codec.stream_encoder(
                channels=1, sample_rate=rate, bitrate=6, frames_per_packet=2
            )
            decoder = codec.stream_decoder(channels=1, sample_rate=rate)
            parts = []
            for packet in [*encoder.push(audio[:1]), *encoder.flush()]:
                lost = random.random() < lose
                parts.append(decoder.conceal(2) if lost else decoder.push(packet))
            parts.append(decoder.flush())
            decoded = metrics.align(audio[:1], np.concatenate(parts, axis=1), rate)
            results.append(metrics.score(audio[:1], decoded, rate).pesq_wb)
        ours.append((results[0], results[1]))
        results = []
        with tempfile.TemporaryDirectory() as folder:
            wav, coded, out = (Path(folder, name) for name in ("a.wav", "a.opus", "b.wav"))
            write_wav(wav, audio[:1], rate)
            run_program(
                [
                    "opusenc",
                    "--quiet",
                    "--bitrate",
                    "8",
                    "--expect-loss",
                    "10",
                    str(wav),
                    str(coded),
                ]
            )
            for lose in ("0", f"{share * 100:g}"):
                run_program(["opusdec", "--quiet", "--packet-loss", lose, str(coded), str(out)])
                decoded = metrics.align(audio[:1], read_wav(out, rate), rate)
                results.append(metrics.score(audio[:1], decoded, rate).pesq_wb)
        opus.append((results[0], results[1]))
    for name, found in (("rvq 6, packets of 27 ms", ours), ("Opus 8, packets of 20 ms", opus)):
        whole, lossy = np.nanmean(np.array(found), axis=0)
        print(f"{name}: {whole:.2f} -> {lossy:.2f}")


PARTS = {
    "saved": saved,
    "speed": speed,
    "overhead": overhead,
    "silence": silence,
    "rate-distortion": rate_distortion,
    "bit-flips": bit_flips,
    "packets": packets,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--audio", type=Path, required=True, help="folder of recordings")
    parser.add_argument("--limit", type=int, default=0, help="at most so many, evenly chosen")
    parser.add_argument("--only", choices=PARTS, action="append")
    arguments = parser.parse_args()
    paths = sorted(p for p in arguments.audio.rglob("*") if p.suffix in (".flac", ".wav", ".ogg"))
    if arguments.limit and arguments.limit < len(paths):
        n = arguments.limit
        paths = [paths[i * len(paths) // n] for i in range(n)]
    clips = [read_audio(path) for path in paths]
    clips = [(audio[:1], rate) for audio, rate in clips]
    codec = rvq.Codec.load()
    seconds = sum(audio.shape[1] / rate for audio, rate in clips)
    print(f"{len(clips)} recordings, {seconds:.0f} s; model {codec.model_hash[:16]}")
    for name, part in PARTS.items():
        if not arguments.only or name in arguments.only:
            part(codec, clips)


if __name__ == "__main__":
    main()
