"""Pack the recordings of a recipe so that training loads them in an instant.

Every source becomes one long int16 array to draw crops from, and a few held-out clips to listen to.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rvq.errors import InputError
from rvq.replacing import replacing
from rvq.train.fetch import fetch
from rvq.train.recipe import Recipe, Source

LAYOUT = 1  # of the packed files; part of every source's hash, so that a change packs anew
DEV_SECONDS = (3.0, 10.0)  # shortest and longest development clip
CANCELLED_DB = -6.0  # a mix this far below its channels has lost what is out of phase
KEPT_SILENCE = 0.3  # seconds of digital silence left at either end of a clip
SPECTRUM_SIZE = 1024
BANDWIDTH_FLOOR_DB = -75.0


@dataclass(frozen=True)
class PackedSource:
    """What became of one source.

    Attributes:
        name, description, licence: from the recipe.
        origin: the folder, or the package with its version.
        train_hours, dev_hours: lengths of the packed audio.
        train_clips, dev_clips: how many recordings are packed, how many clips are held out.
        bandwidth_hz: highest frequency at which the average spectrum is within 75 dB of its peak.
        skipped: files left out because they cannot be read or are silent.
        hash: of the recipe's entry; the same hash needs no packing again,
        listing: unless it is a folder whose files have other names or sizes now: their hash.
    """

    name: str
    description: str
    licence: str
    origin: str
    train_hours: float
    dev_hours: float
    train_clips: int
    dev_clips: int
    bandwidth_hz: float
    skipped: tuple[str, ...]
    hash: str
    listing: str = ""


def prepare(
    recipe: Recipe,
    out: Path,
    *,
    sources_dir: Path | None = None,
    cache: Path | None = None,
    only: Iterable[str] | None = None,
    workers: int = 2,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[PackedSource]:
    """Pack the sources of a recipe below `out`.

    Written are `train/<source>.npy` (int16, all clips in a row, to be memory-mapped) with
    `train/<source>.json` beside it, `dev/<source>/*.flac`, and `manifest.json`. A source that is
    already packed by the same entry, and if it is a folder of recordings of the same names and
    sizes, is left as it is, so an interrupted run picks up its work; sources that other recipes
    packed there stay, and are trained on too.

    Args:
        recipe: what to pack.
        out: folder to write to.
        sources_dir: where the recipe's folders lie.
        cache: folder where downloaded packages are kept, `.cache` in `out` by default.
        only: names of the sources to pack; all by default.
        workers: threads that decode and resample (both happen outside Python's lock).
        progress: called with the source's name, files done and files in all.

    Returns:
        A report per source packed, in the recipe's order.

    Raises:
        InputError: a source is unknown, missing, cannot be downloaded, or holds no usable audio;
            or what it became cannot be written.
    """
    if workers < 1:
        raise InputError(f"workers must be at least 1, got {workers}")
    names = [source.name for source in recipe.sources]
    wanted = names if only is None else list(only)
    for name in wanted:
        if name not in names:
            raise InputError(f"recipe {recipe.name} has no source {name!r}, but {', '.join(names)}")
    reports = []
    for source in recipe.sources:
        if source.name in wanted:
            report = _packed_before(source, recipe, out, sources_dir)
            if report is None:
                root, origin = fetch(source, cache or out / ".cache", sources_dir)
                try:
                    report = _pack(source, recipe, root, origin, out, workers, progress)
                except OSError as error:
                    raise InputError(
                        f"cannot write {error.filename or out}: {error.strerror or error}"
                    ) from None
                _record(report, recipe, out)
            reports.append(report)
    return reports


def _hash(source: Source, sample_rate: int) -> str:
    entry = json.dumps([LAYOUT, sample_rate, source.model_dump()], sort_keys=True)
    return hashlib.sha256(entry.encode()).hexdigest()[:16]


def _listing(source: Source, root: Path) -> str:
    """Hash of the names and sizes of a folder's recordings."""
    files = sorted(
        (path.relative_to(root).as_posix(), path.stat().st_size)
        for part in source.split(root)
        for path in part
    )
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()[:16]


# --- one file -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Clip:
    """A decoded file: int16 samples, and the sum of its power spectra before rounding."""

    samples: npt.NDArray[np.int16]
    power: npt.NDArray[np.float64]


def _read_clip(path: Path, sample_rate: int) -> _Clip | None:
    """Decode a file to mono at `sample_rate`; None if it is unreadable or silent."""
    import soundfile
    import soxr

    try:
        audio, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError:
        return None
    if not len(audio) or not np.isfinite(audio).all():
        return None
    mono = _mixed_down(audio)
    if rate != sample_rate:
        mono = soxr.resample(mono, rate, sample_rate, quality="HQ")
    if not len(mono):
        return None
    # Lossy decoders and resampling overshoot; a clip is turned down rather than clipped.
    mono = mono / max(1.0, float(np.abs(mono).max()))
    samples = np.round(mono * 32767).astype(np.int16)
    heard = np.flatnonzero(np.abs(samples) > 1)
    if not len(heard):
        return None
    margin = round(KEPT_SILENCE * sample_rate)
    stretch = slice(max(0, heard[0] - margin), heard[-1] + 1 + margin)
    return _Clip(samples[stretch], _power(mono[stretch]))


def _mixed_down(audio: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The mean of the channels `[n, channels]`, or the loudest one where they cancel out."""
    mono = audio.mean(axis=1)
    energies = [np.vdot(channel, channel) for channel in audio.T]
    if np.vdot(mono, mono) < np.mean(energies) * 10 ** (CANCELLED_DB / 10):
        return audio[:, np.argmax(energies)]
    return mono


def _power(mono: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Sum over frames of the windowed power spectrum, `[SPECTRUM_SIZE / 2 + 1]`."""
    padded = np.pad(mono, (0, -len(mono) % SPECTRUM_SIZE))
    frames = padded.reshape(-1, SPECTRUM_SIZE) * np.blackman(SPECTRUM_SIZE).astype(np.float32)
    return np.square(np.abs(np.fft.rfft(frames, axis=1))).sum(axis=0, dtype=np.float64)


def _bandwidth(power: npt.NDArray[np.float64], sample_rate: int) -> float:
    """Highest frequency in Hz at which a spectrum is within `BANDWIDTH_FLOOR_DB` of its peak."""
    if not power.any():
        return 0.0
    heard = np.flatnonzero(power > power.max() * 10 ** (BANDWIDTH_FLOOR_DB / 10))
    return float(heard[-1]) * sample_rate / SPECTRUM_SIZE


# --- one source -----------------------------------------------------------------------------------


def _pack(
    source: Source,
    recipe: Recipe,
    root: Path,
    origin: str,
    out: Path,
    workers: int,
    progress: Callable[[str, int, int], None] | None,
) -> PackedSource:
    """Write the training array and development clips of a source."""
    rate = recipe.sample_rate
    train, dev = source.split(root)
    if not train and not dev:
        raise InputError(f"source {source.name}: no audio file in {root} matches its patterns")
    skipped: list[str] = []
    power = np.zeros(SPECTRUM_SIZE // 2 + 1)
    n_done = 0

    def decoded(paths: list[Path]) -> Iterator[tuple[Path, npt.NDArray[np.int16]]]:
        nonlocal n_done, power
        pool = ThreadPoolExecutor(workers)
        clips = pool.map(partial(_read_clip, sample_rate=rate), paths)
        try:
            for path, clip in zip(paths, clips, strict=True):
                n_done += 1
                if progress is not None:
                    progress(source.name, n_done, len(train) + len(dev))
                if clip is None:
                    skipped.append(path.relative_to(root).as_posix())
                else:
                    power += clip.power
                    yield path, clip.samples
        finally:
            pool.shutdown(cancel_futures=True)

    # In an order that mixes neighbouring takes, yet is the same on every machine.
    dev.sort(key=lambda path: hashlib.sha256(path.relative_to(root).as_posix().encode()).digest())
    dev_clips = _development_clips(source, decoded(dev), rate)
    _write_dev(out / "dev" / source.name, dev_clips, rate)
    offsets = [0]
    target = out / "train" / f"{source.name}.npy"
    target.parent.mkdir(parents=True, exist_ok=True)
    raw = target.with_suffix(".pcm")
    try:
        with raw.open("wb") as file:
            for _, samples in decoded(train):
                file.write(samples.data)
                offsets.append(offsets[-1] + len(samples))
        if not offsets[-1] and not dev_clips:
            raise InputError(f"source {source.name}: none of its files can be read")
        bandwidth = _bandwidth(power, rate)
        if offsets[-1]:
            facts = {
                "licence": source.licence,
                "sample_rate": rate,
                "weight": source.weight,
                "bandwidth_hz": bandwidth,
                "clips": offsets,
            }
            _write_json(target.with_suffix(".json"), facts)
            _save_array(target, np.memmap(raw, dtype=np.int16, mode="r"))
        else:  # what is held out now may have been trained on under an older recipe
            target.unlink(missing_ok=True)
            target.with_suffix(".json").unlink(missing_ok=True)
    finally:
        raw.unlink(missing_ok=True)
    return PackedSource(
        name=source.name,
        description=source.description,
        licence=source.licence,
        origin=origin,
        train_hours=offsets[-1] / rate / 3600,
        dev_hours=sum(map(len, dev_clips.values())) / rate / 3600,
        train_clips=len(offsets) - 1,
        dev_clips=len(dev_clips),
        bandwidth_hz=bandwidth,
        skipped=tuple(skipped),
        hash=_hash(source, rate),
        listing=_listing(source, root) if source.package is None else "",
    )


def _development_clips(
    source: Source, files: Iterable[tuple[Path, npt.NDArray[np.int16]]], rate: int
) -> dict[str, npt.NDArray[np.int16]]:
    """Named clips of the wanted length: short files are joined, long ones cut."""
    seconds = DEV_SECONDS if source.dev_seconds is None else (source.dev_seconds,) * 2
    shortest, longest = (round(length * rate) for length in seconds)
    clips: dict[str, npt.NDArray[np.int16]] = {}
    joined: dict[str, list[npt.NDArray[np.int16]]] = {}
    counts: dict[str, int] = {}
    for path, samples in files:
        speaker = path.parent.name if source.folder_per_speaker else source.name
        if counts.get(speaker, 0) == source.dev_clips:
            continue
        parts = joined.setdefault(speaker, [])
        parts.append(samples)
        if sum(map(len, parts)) >= shortest:
            counts[speaker] = counts.get(speaker, 0) + 1
            clip = np.concatenate(parts)
            start = 0 if source.dev_seconds is None else (len(clip) - longest) // 2
            clips[f"{speaker}_{counts[speaker]:02d}"] = clip[start : start + longest]
            joined[speaker] = []
    return clips


# --- what is written ------------------------------------------------------------------------------


def _write_dev(folder: Path, clips: dict[str, npt.NDArray[np.int16]], rate: int) -> None:
    """Replace the development clips of a source."""
    import soundfile

    shutil.rmtree(folder, ignore_errors=True)
    if clips:
        folder.mkdir(parents=True)
    for name, samples in clips.items():
        path = folder / f"{name}.flac"
        try:
            soundfile.write(path, samples, rate, subtype="PCM_16")
        except soundfile.LibsndfileError as error:
            raise InputError(f"cannot write {path}: {error.error_string}") from None


def _save_array(path: Path, samples: npt.NDArray[np.int16]) -> None:
    # Not by `replacing`: what an end by force left there would be taken for a packed source.
    part = path.with_suffix(".part")
    try:
        with part.open("wb") as file:
            np.save(file, samples)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _write_json(path: Path, facts: object) -> None:
    text = json.dumps(facts, indent=1, ensure_ascii=False) + "\n"
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _read_manifest(out: Path) -> dict[str, PackedSource]:
    path = out / "manifest.json"
    if not path.exists():
        return {}
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if manifest["layout"] != LAYOUT:
            return {}
        entries = [{**entry, "skipped": tuple(entry["skipped"])} for entry in manifest["sources"]]
        return {entry["name"]: PackedSource(**entry) for entry in entries}
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path} is damaged; delete it to pack everything again") from None


def _packed_before(
    source: Source, recipe: Recipe, out: Path, sources_dir: Path | None
) -> PackedSource | None:
    """The report on a source that needs no packing: same entry and recordings, and it is there."""
    report = _read_manifest(out).get(source.name)
    if report is None or report.hash != _hash(source, recipe.sample_rate):
        return None
    if source.package is None and sources_dir is not None:
        root, _ = fetch(source, out, sources_dir)
        if report.listing and report.listing != _listing(source, root):
            return None
    packed = (out / "train" / f"{source.name}.npy").exists() or not report.train_clips
    held_out = len(list((out / "dev" / source.name).glob("*.flac"))) == report.dev_clips
    return report if packed and held_out else None


def _record(report: PackedSource, recipe: Recipe, out: Path) -> None:
    """Enter a source into the manifest, last of all: what stands there is complete."""
    reports = {**_read_manifest(out), report.name: report}
    _write_json(
        out / "manifest.json",
        {
            "layout": LAYOUT,
            "recipe": recipe.name,
            "recipe_hash": hashlib.sha256(recipe.model_dump_json().encode()).hexdigest()[:16],
            "sample_rate": recipe.sample_rate,
            "train_hours": sum(r.train_hours for r in reports.values()),
            "sources": [asdict(r) for r in reports.values()],
        },
    )
