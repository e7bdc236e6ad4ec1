"""What each layer of the codes carries: labels told from codes, log-mel spectra and latents.

Makes four labelled sets of real recordings and probes each; docs/probe.md shows what comes out.

    python benchmarks/probe.py --speech SPEECH --packages PACKAGES --out probe
    python benchmarks/probe.py ... --figure docs/probe.png    # also draw the figure

SPEECH holds kathleen, kerstin and speechocean (see train/recipes/speech_24khz.yaml); PACKAGES has a
folder for each of these Debian packages, unpacked (`dpkg -x`): asterisk-core-sounds-{en,es,fr,ru}-
g722, gcin-voice, nexuiz-music, singularity-music, tuxpaint-stamps-default. G.722 needs `rvq[av]`.
"""

import argparse
import csv
import zipfile
from pathlib import Path

import numpy as np
import soundfile

from rvq.corpus.probe import Probed, probe
from rvq.corpus.probe_report import as_json, as_table, figure, from_json

Entries = list[tuple[Path, str, str]]
"""Path, label, group of every recording."""


def some(paths: list[Path], n: int) -> list[Path]:
    """At most n of them, evenly from the whole range of names."""
    paths = sorted(paths)
    return [paths[i] for i in np.unique(np.linspace(0, len(paths) - 1, n).astype(int))]


def speakers(speech: Path, _: Path, __: Path) -> Entries:
    """125 people reading English, 10 sentences of each; every sentence is one file."""
    folders = sorted(p for p in (speech / "speechocean").iterdir() if p.is_dir())
    return [
        (path, folder.name, "")
        for folder in folders
        for path in some(list(folder.glob("*.ogg")), 10)
    ]


def languages(speech: Path, packages: Path, _: Path) -> Entries:
    """English, Spanish, French and Russian by two voices each, a voice and its studio per part."""
    stamps = packages / "tuxpaint-stamps-default"
    entries: Entries = [
        (path, "en", "first") for path in some(list((speech / "kathleen").glob("*.ogg")), 100)
    ]
    for language in ("es", "fr", "ru"):
        paths = [p for p in stamps.rglob(f"*_desc_{language}.ogg") if p.stat().st_size > 15_000]
        entries += [(path, language, "first") for path in some(paths, 100)]
    for language in ("en", "es", "fr", "ru"):
        folder = packages / f"asterisk-core-sounds-{language}-g722"
        long = [p for p in folder.rglob("*.g722") if p.stat().st_size > 12_000]  # 1.5 s
        paths = [p for p in long if p.parent.name != "silence"]
        entries += [(path, language, "second") for path in some(paths, 100)]
    return entries


def speech_or_music(speech: Path, packages: Path, work: Path) -> Entries:
    """Five seconds of speech or music; voices and pieces are never on both sides of a split."""
    entries: Entries = []
    for name in ("kathleen", "kerstin"):
        paths = some(list((speech / name).glob("*.ogg")), 60)
        entries += [(path, "speech", name) for path in paths]
    for folder in some([p for p in (speech / "speechocean").iterdir() if p.is_dir()], 40):
        entries += [(path, "speech", folder.name) for path in some(list(folder.glob("*.ogg")), 4)]
    archive = packages / "nexuiz-music/usr/share/games/nexuiz/data/music.pk3"
    with zipfile.ZipFile(archive) as data:
        for name in data.namelist():
            if name.endswith(".ogg"):
                data.extract(name, work / "nexuiz")
    pieces = sorted((packages / "singularity-music").rglob("*.ogg"))
    pieces += sorted((work / "nexuiz").rglob("*.ogg"))
    for piece in pieces:
        with soundfile.SoundFile(piece) as audio:
            length = 5 * audio.samplerate
            for i, start in enumerate(np.linspace(0, audio.frames - length, 9)[1:].astype(int)):
                audio.seek(start)
                clip = work / "music" / f"{piece.stem}_{i}.flac"
                clip.parent.mkdir(parents=True, exist_ok=True)
                soundfile.write(clip, audio.read(length), audio.samplerate)
                entries.append((clip, "music", piece.stem))
    return entries


def rimes(_: Path, packages: Path, __: Path) -> Entries:
    """Mandarin syllables by two people; those of one beginning are never on both sides."""
    entries: Entries = []
    for path in sorted((packages / "gcin-voice").rglob("*.ogg")):
        zhuyin = path.parent.name.rstrip("1234")  # the tone taken off
        beginning, symbol = zhuyin[:-1], zhuyin[-1]
        if symbol in "ㄓㄔㄕㄖㄗㄘㄙ":
            beginning, symbol = symbol, "none"
        elif symbol not in "ㄚㄛㄜㄝㄞㄟㄠㄡㄢㄣㄤㄥㄧㄨㄩ":  # names of consonants, and the rare er
            continue
        entries.append((path, symbol, beginning or "vowel"))
    return entries


TASKS = {
    "speaker": (speakers, 1),
    "speech or music": (speech_or_music, 1),
    "Mandarin rime": (rimes, 3),
    "language": (languages, 1),
}
"""Recordings, and the parts that they are pooled in one by one."""


def run(name: str, arguments: argparse.Namespace) -> Probed:
    make, segments = TASKS[name]
    stem = name.replace(" ", "_")
    result = arguments.out / f"{stem}.json"
    if result.exists():
        return from_json(result.read_text())
    entries = make(arguments.speech, arguments.packages, arguments.out)
    manifest = arguments.out / f"{stem}.csv"
    with manifest.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "group"])
        writer.writerows((path.resolve(), label, group) for path, label, group in entries)
    done = probe(manifest, segments=segments, workers=arguments.workers)
    result.write_text(as_json(done))
    return done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--speech", type=Path, required=True)
    parser.add_argument("--packages", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    tasks = {}
    for name in TASKS:
        tasks[name] = run(name, arguments)
        print(as_table({name: tasks[name]}), flush=True)
    print(as_table(tasks))
    if arguments.figure:
        figure(tasks, arguments.figure)


if __name__ == "__main__":
    main()
