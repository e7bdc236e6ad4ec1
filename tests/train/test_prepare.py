import json
import os
import resource
import shutil
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
import yaml

from rvq.errors import InputError
from rvq.train import recipe as recipe_module
from rvq.train.fetch import _unpack_archives
from rvq.train.prepare import prepare
from rvq.train.recipe import Recipe, read_recipe

CLIPS = Path(__file__).parents[1] / "data"
RECIPES = Path(recipe_module.__file__).parent / "recipes"
RATE = 24_000


def make_recipe(*sources: dict) -> Recipe:
    facts = {"description": "a test", "licence": "CC0-1.0"}
    return Recipe.model_validate(
        {"name": "test", "sample_rate": RATE, "sources": [{**facts, **s} for s in sources]}
    )


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """Two folders: `read` with two speakers of two real clips each, and `tones`."""
    root = tmp_path / "recordings"
    for speaker in ("anna", "berta"):
        (root / "read" / speaker).mkdir(parents=True)
        for name in ("english_24khz.ogg", "german_16khz.ogg"):
            shutil.copy(CLIPS / name, root / "read" / speaker / name)
    (root / "tones").mkdir()
    return root


def write_tone(path: Path, seconds: float, *, rate: int = RATE, silence: float = 0.0) -> None:
    tone = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(round(seconds * rate)) / rate)
    quiet = np.zeros(round(silence * rate))
    soundfile.write(path, np.concatenate([quiet, tone, quiet]), rate)


def packed(out: Path, name: str) -> tuple[np.ndarray, dict]:
    samples = np.load(out / "train" / f"{name}.npy", mmap_mode="r")
    return samples, json.loads((out / "train" / f"{name}.json").read_text())


def test_packed_audio_is_the_resampled_recording(recordings: Path, tmp_path: Path) -> None:
    recipe = make_recipe({"name": "read", "folder": "read", "weight": 2.5})
    (report,) = prepare(recipe, tmp_path / "out", sources_dir=recordings)
    samples, facts = packed(tmp_path / "out", "read")
    assert samples.dtype == np.int16
    assert (facts["licence"], facts["sample_rate"], facts["weight"]) == ("CC0-1.0", RATE, 2.5)
    offsets = facts["clips"]
    assert offsets[0] == 0
    assert offsets[-1] == len(samples)
    assert len(offsets) == 5
    assert report.train_clips == 4
    assert report.train_hours == pytest.approx(len(samples) / RATE / 3600)
    for clip, name in enumerate(("english_24khz.ogg", "german_16khz.ogg")):
        original, rate = soundfile.read(CLIPS / name)
        expected = soxr.resample(original, rate, RATE, quality="HQ")
        got = samples[offsets[clip] : offsets[clip + 1]] / 32767
        assert np.abs(got - expected[: len(got)]).max() < 1e-3


@pytest.mark.parametrize(
    ("name", "lowest", "highest"),
    [("english_24khz.ogg", 10_000, 12_000), ("german_16khz.ogg", 6_500, 8_200)],
)
def test_bandwidth_tells_full_band_from_8_khz(
    recordings: Path, tmp_path: Path, name: str, lowest: float, highest: float
) -> None:
    recipe = make_recipe({"name": "read", "folder": "read", "include": [f"*{name}"]})
    (report,) = prepare(recipe, tmp_path / "out", sources_dir=recordings)
    assert lowest < report.bandwidth_hz <= highest


def test_held_out_speakers_are_in_dev_only(recordings: Path, tmp_path: Path) -> None:
    entry = {"name": "read", "folder": "read", "folder_per_speaker": True, "dev": ["berta/*"]}
    (report,) = prepare(
        make_recipe({**entry, "dev_clips": 1}), tmp_path / "out", sources_dir=recordings
    )
    assert (report.train_clips, report.dev_clips) == (2, 1)
    (flac,) = (tmp_path / "out" / "dev" / "read").glob("*.flac")
    info = soundfile.info(flac)
    assert flac.stem == "berta_01"
    assert (info.samplerate, info.channels, info.subtype) == (RATE, 1, "PCM_16")


def test_source_held_out_entirely_leaves_nothing_to_train_on(
    recordings: Path, tmp_path: Path
) -> None:
    prepare(
        make_recipe({"name": "read", "folder": "read", "dev": ["*"]}),
        tmp_path / "out",
        sources_dir=recordings,
    )
    assert not list((tmp_path / "out" / "train").iterdir())
    assert len(list((tmp_path / "out" / "dev" / "read").glob("*.flac"))) == 4


def test_held_out_later_is_no_longer_trained_on(recordings: Path, tmp_path: Path) -> None:
    out, entry = tmp_path / "out", {"name": "read", "folder": "read"}
    prepare(make_recipe(entry), out, sources_dir=recordings)
    assert (out / "train" / "read.npy").exists()
    prepare(make_recipe({**entry, "dev": ["*"]}), out, sources_dir=recordings)
    assert not list((out / "train").iterdir())


def test_dev_clips_join_short_files_and_cut_long_ones(recordings: Path, tmp_path: Path) -> None:
    for index in range(9):
        write_tone(recordings / "tones" / f"short{index}.wav", 0.8)
    write_tone(recordings / "tones" / "long.wav", 14.0)
    prepare(
        make_recipe({"name": "tones", "folder": "tones", "dev": ["*"]}),
        tmp_path / "out",
        sources_dir=recordings,
    )
    flacs = list((tmp_path / "out" / "dev" / "tones").glob("*.flac"))
    assert len(flacs) >= 2
    for flac in flacs:
        assert 3.0 <= soundfile.info(flac).duration <= 10.0


def test_music_is_listened_to_from_its_middle(recordings: Path, tmp_path: Path) -> None:
    song = 0.3 * np.random.default_rng(0).uniform(-1, 1, 20 * RATE)
    soundfile.write(recordings / "tones" / "song.flac", song, RATE)
    for index in range(4):
        write_tone(recordings / "read" / f"beep{index}.wav", 2.5)
    held_out = {"dev": ["*"], "dev_seconds": 6}
    prepare(
        make_recipe(
            {"name": "song", "folder": "tones", **held_out},
            {"name": "beeps", "folder": "read", "include": ["beep*"], **held_out},
        ),
        tmp_path / "out",
        sources_dir=recordings,
    )
    (beeps,) = (tmp_path / "out" / "dev" / "beeps").glob("*.flac")
    assert soundfile.info(beeps).frames == 6 * RATE
    clip, _ = soundfile.read(tmp_path / "out" / "dev" / "song" / "song_01.flac")
    assert clip == pytest.approx(song[7 * RATE : 13 * RATE], abs=1e-3)


def test_unusable_files_are_skipped_and_listed(recordings: Path, tmp_path: Path) -> None:
    tones = recordings / "tones"
    write_tone(tones / "good.wav", 1.0)
    soundfile.write(tones / "silent.wav", np.zeros(RATE), RATE)
    soundfile.write(tones / "nothing.wav", np.zeros(0), RATE)
    (tones / "broken.ogg").write_bytes(b"OggS and then nothing of use")
    (report,) = prepare(
        make_recipe({"name": "tones", "folder": "tones"}), tmp_path / "out", sources_dir=recordings
    )
    assert set(report.skipped) == {"silent.wav", "nothing.wav", "broken.ogg"}
    assert report.train_clips == 1


def test_digital_silence_at_the_ends_is_trimmed(recordings: Path, tmp_path: Path) -> None:
    write_tone(recordings / "tones" / "late.wav", 1.0, silence=2.0)
    prepare(
        make_recipe({"name": "tones", "folder": "tones"}), tmp_path / "out", sources_dir=recordings
    )
    samples, _ = packed(tmp_path / "out", "tones")
    assert len(samples) == pytest.approx(1.6 * RATE, abs=10)
    assert not samples[: round(0.29 * RATE)].any()


def test_stereo_is_averaged_and_overshoot_turned_down_not_clipped(
    recordings: Path, tmp_path: Path
) -> None:
    tone = 1.5 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)
    stereo = np.stack([tone, tone / 3], axis=1)
    soundfile.write(recordings / "tones" / "loud.wav", stereo, RATE, subtype="FLOAT")
    soundfile.write(recordings / "tones" / "loud2.wav", 2 * stereo, RATE, subtype="FLOAT")
    prepare(
        make_recipe({"name": "tones", "folder": "tones"}), tmp_path / "out", sources_dir=recordings
    )
    samples, facts = packed(tmp_path / "out", "tones")
    first, second = np.split(samples / 32767, facts["clips"][1:-1])
    averaged = tone * 2 / 3
    assert np.abs(first[: len(tone) - 10] - averaged[: len(first)][: len(tone) - 10]).max() < 1e-3
    assert np.abs(second).max() == pytest.approx(1.0, abs=1e-3)
    assert np.mean(np.abs(second) > 0.999) < 0.05  # a clipped sine would rest at its peak


@pytest.mark.parametrize(("phase", "gain"), [(0.0, 0.9), (np.pi / 2, 0.6364), (np.pi, 0.9)])
def test_channels_that_cancel_are_not_mixed(
    recordings: Path, tmp_path: Path, phase: float, gain: float
) -> None:
    time = 2 * np.pi * 440 * np.arange(RATE) / RATE
    stereo = np.stack([0.9 * np.sin(time + phase), 0.9 * np.sin(time)], axis=1)
    soundfile.write(recordings / "tones" / "wide.wav", stereo, RATE, subtype="FLOAT")
    prepare(
        make_recipe({"name": "tones", "folder": "tones"}), tmp_path / "out", sources_dir=recordings
    )
    samples, _ = packed(tmp_path / "out", "tones")
    assert np.abs(samples).max() / 32767 == pytest.approx(gain, abs=1e-3)


def test_second_run_packs_only_what_changed(recordings: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_tone(recordings / "tones" / "tone.wav", 1.0)
    read, tones = {"name": "read", "folder": "read"}, {"name": "tones", "folder": "tones"}
    worked_on: list[str] = []

    def progress(name: str, done: int, total: int) -> None:
        assert 1 <= done <= total
        worked_on.append(name)

    def run(*sources: dict) -> list:
        worked_on.clear()
        return prepare(
            make_recipe(*sources), out, sources_dir=recordings, progress=progress, workers=1
        )

    first = run(read, tones)
    assert worked_on == ["read"] * 4 + ["tones"]
    assert run(read, tones) == first
    assert worked_on == []
    run(read, {**tones, "weight": 3.0})
    assert worked_on == ["tones"]
    assert packed(out, "tones")[1]["weight"] == 3.0
    (out / "train" / "read.npy").unlink()
    run(read, {**tones, "weight": 3.0})
    assert worked_on == ["read"] * 4
    write_tone(recordings / "tones" / "another.wav", 1.0)
    more = run(read, {**tones, "weight": 3.0})
    assert worked_on == ["tones"] * 2
    assert more[1].train_clips == 2
    assert run(read, {**tones, "weight": 3.0}) == more
    assert worked_on == []
    manifest = json.loads((out / "manifest.json").read_text())
    assert {s["name"] for s in manifest["sources"]} == {"read", "tones"}
    assert not list(out.rglob("*.part"))
    assert not list(out.rglob("*.pcm"))


def test_interrupted_source_is_packed_again(recordings: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    recipe = make_recipe({"name": "read", "folder": "read"})

    def interrupt(name: str, done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(recipe, out, sources_dir=recordings, progress=interrupt)
    assert not list((out / "train").glob("*.npy"))
    (report,) = prepare(recipe, out, sources_dir=recordings)
    assert report.train_clips == 4


def test_packing_does_not_depend_on_the_number_of_workers(recordings: Path, tmp_path: Path) -> None:
    recipe = make_recipe({"name": "read", "folder": "read", "dev": ["anna/*"]})
    for workers in (1, 4):
        prepare(recipe, tmp_path / str(workers), sources_dir=recordings, workers=workers)
    one, four = (packed(tmp_path / str(workers), "read")[0] for workers in (1, 4))
    assert np.array_equal(one, four)


def test_damaged_manifest_says_what_to_do(recordings: Path, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"layout": 1')
    with pytest.raises(InputError, match="delete it"):
        prepare(make_recipe({"name": "read", "folder": "read"}), tmp_path, sources_dir=recordings)


def test_what_cannot_be_written_is_named(recordings: Path, tmp_path: Path) -> None:
    (tmp_path / "train" / "read.json").mkdir(parents=True)
    with pytest.raises(InputError, match=r"cannot write .*read\.json"):
        prepare(make_recipe({"name": "read", "folder": "read"}), tmp_path, sources_dir=recordings)


@pytest.mark.parametrize("limit", [1_000, 3_000_000])  # in a clip that is held out, in the array
def test_a_full_disk_leaves_nothing_half_written(
    recordings: Path, tmp_path: Path, limit: int
) -> None:
    write_tone(recordings / "tones" / "long.wav", 70)
    recipe = make_recipe({"name": "all", "folder": ".", "dev": ["read/anna/*"]})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
    try:
        with pytest.raises(InputError, match="cannot write") as caught:
            prepare(recipe, tmp_path / "out", sources_dir=recordings)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(tmp_path / "out") in str(caught.value)
    assert not list((tmp_path / "out").rglob("*.pcm"))
    assert not list((tmp_path / "out").rglob("*.npy"))


def test_damaged_archives_of_games_are_named(tmp_path: Path) -> None:
    path = tmp_path / "data.pk3"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(CLIPS / "english_24khz.ogg", "song.ogg")
    whole = path.read_bytes()
    for damaged in (b"no archive", whole[:1_000] + bytes(1_000) + whole[2_000:]):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"unpack .*data\.pk3 \(.*leave this source out"):
            _unpack_archives(tmp_path)


def test_only_packs_the_named_sources(recordings: Path, tmp_path: Path) -> None:
    recipe = make_recipe({"name": "read", "folder": "read"}, {"name": "far", "package": "far"})
    (report,) = prepare(recipe, tmp_path / "out", sources_dir=recordings, only=["read"])
    assert report.name == "read"
    with pytest.raises(InputError, match="no source 'reed'"):
        prepare(recipe, tmp_path / "out", sources_dir=recordings, only=["reed"])


def test_package_that_is_unpacked_already_is_used(recordings: Path, tmp_path: Path) -> None:
    shutil.copytree(recordings / "read", tmp_path / "out" / ".cache" / "some-voices_1.2-3")
    recipe = make_recipe({"name": "voices", "package": "some-voices"})
    (report,) = prepare(recipe, tmp_path / "out")
    assert report.origin == "some-voices_1.2-3"
    assert report.train_clips == 4


def test_packages_are_shared_between_data_sets(recordings: Path, tmp_path: Path) -> None:
    shutil.copytree(recordings / "read", tmp_path / "packages" / "some-voices_1.2-3")
    recipe = make_recipe({"name": "voices", "package": "some-voices"})
    for out in ("one", "two"):
        (report,) = prepare(recipe, tmp_path / out, cache=tmp_path / "packages")
        assert report.train_clips == 4


def test_archives_of_games_are_unpacked(
    recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An archive inside a real package, made with the tools that take it apart.
    build, games = tmp_path / "build", tmp_path / "build" / "usr" / "games" / "data"
    games.mkdir(parents=True)
    (build / "DEBIAN").mkdir()
    (build / "DEBIAN" / "control").write_text(
        "Package: some-music\nVersion: 1\nArchitecture: all\nMaintainer: a <a@b.c>\n"
        "Description: music\n"
    )
    with zipfile.ZipFile(games / "music.pk3", "w") as archive:
        archive.write(CLIPS / "english_24khz.ogg", "sound/song.ogg")
        archive.writestr("maps/big.bsp", b"not to be unpacked")
    subprocess.run(
        ["dpkg-deb", "--build", "build", "some-music_1_all.deb"], cwd=tmp_path, check=True
    )
    apt = tmp_path / "bin" / "apt-get"
    apt.parent.mkdir()
    apt.write_text(f"#!/bin/sh\ncp {tmp_path}/some-music_1_all.deb .\n")
    apt.chmod(0o755)
    monkeypatch.setenv("PATH", f"{apt.parent}:{os.environ['PATH']}")
    recipe = make_recipe({"name": "music", "package": "some-music", "include": ["*/sound/*"]})
    (report,) = prepare(recipe, tmp_path / "out")
    assert (report.origin, report.train_clips) == ("some-music_1", 1)
    assert not list((tmp_path / "out" / ".cache").rglob("*.bsp"))
    assert not list((tmp_path / "out" / ".cache").rglob("*.pk3"))


def test_package_without_apt_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="needs apt-get"):
        prepare(make_recipe({"name": "voices", "package": "some-voices"}), tmp_path / "out")


def test_missing_folders_say_what_to_do(recordings: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="say where"):
        prepare(make_recipe({"name": "read", "folder": "read"}), tmp_path / "out")
    with pytest.raises(InputError, match="there is no folder"):
        prepare(
            make_recipe({"name": "read", "folder": "raed"}),
            tmp_path / "out",
            sources_dir=recordings,
        )
    with pytest.raises(InputError, match="no audio file"):
        prepare(
            make_recipe({"name": "tones", "folder": "tones"}),
            tmp_path / "out",
            sources_dir=recordings,
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"package": "some-voices"}, "either a package or a folder"),
        ({"folder": None}, "either a package or a folder"),
        ({"wieght": 2}, "sources.0.wieght: extra inputs"),
        ({"weight": 0}, "sources.0.weight: .*greater than 0"),
        ({"name": "../escape"}, "sources.0.name"),
        ({"licence": None}, "sources.0.licence"),
    ],
)
def test_bad_field_is_named(tmp_path: Path, change: dict, message: str) -> None:
    source = {"name": "read", "description": "d", "licence": "CC0-1.0", "folder": "read", **change}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({"name": "test", "sample_rate": RATE, "sources": [source]}))
    with pytest.raises(InputError, match=message):
        read_recipe(path)


def test_bad_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read"):
        read_recipe(tmp_path / "missing.yaml")
    for text, message in (("name: [", "not valid YAML"), ("", "Recipe"), ("- a", "Recipe")):
        path = tmp_path / "bad.yaml"
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            read_recipe(path)


def test_two_sources_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two sources are called read"):
        make_recipe({"name": "read", "folder": "a"}, {"name": "read", "folder": "b"})


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_recipes_are_valid(path: Path) -> None:
    recipe = read_recipe(path)
    assert recipe.name == path.stem
    for source in recipe.sources:
        assert "NC" not in source.licence
        assert source.licence.lower() not in ("", "unknown", "none")


def test_speech_of_the_two_recipes_is_the_same() -> None:
    # One model starts from the other's weights: what is held out of one is held out of both.
    speech = read_recipe(RECIPES / "speech_24khz.yaml").sources
    audio = {source.name: source for source in read_recipe(RECIPES / "audio_24khz.yaml").sources}
    for source in speech:
        other = audio[source.name]
        assert (
            other.model_copy(update={"weight": source.weight, "dev_clips": source.dev_clips})
            == source
        )
        assert other.dev_clips <= source.dev_clips
        assert other.weight < source.weight or source.dev == ("*",)


def test_music_and_sounds_for_development_are_of_other_packages() -> None:
    sources = read_recipe(RECIPES / "audio_24khz.yaml").sources
    held_out = [s for s in sources if s.name.startswith(("music", "sounds")) and s.dev]
    assert all(s.dev == ("*",) and s.dev_seconds == 6 for s in held_out)
    assert sum(s.dev_clips for s in held_out) == 40
    packages = {s.package for s in held_out}
    assert packages == {"singularity-music", "unknown-horizons", "flare-game", "sonic-pi-samples"}
    assert not packages & {s.package for s in sources if s not in held_out}


def test_module_does_not_need_torch() -> None:
    import sys

    check = "import sys, rvq.train.prepare; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
