"""Labels told from codes: splits that leak nothing, the classifier, the search, the command."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from rvq.corpus.features import log_mel, pool, pooled_features
from rvq.corpus.probe import classify, nearest, probe, split
from rvq.corpus.probe_report import as_json, as_table, figure, from_json
from rvq.errors import InputError

CLIPS = sorted((Path(__file__).parents[1] / "data").glob("*.ogg"))


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """Pieces of a German and two English recordings, by recording."""
    folder = tmp_path_factory.mktemp("labelled")
    lines = ["path,label"]
    for clip in CLIPS:
        audio, rate = soundfile.read(clip, dtype="float32")
        for i, part in enumerate(np.array_split(audio, 8)):
            soundfile.write(folder / f"{clip.stem}_{i}.wav", part, rate)
            lines.append(f"{clip.stem}_{i}.wav,{clip.stem}")
    path = folder / "clips.csv"
    path.write_text("\n".join(lines))
    return path


@pytest.fixture(scope="module")
def probed(manifest):
    return probe(manifest, n_codebooks=(1, 4, 16), n_folds=4)


def test_recordings_are_told_apart_from_codes_alone(probed, codec):
    assert probed.labels == tuple(clip.stem for clip in CLIPS)
    assert (probed.n_clips, probed.n_folds, probed.model_hash) == (24, 4, codec.model_hash)
    assert probed.chance == pytest.approx(1 / 3)
    found = {a.features: a for a in probed.classified}
    layers = {f"layer {n}" for n in range(1, 1 + len(codec.runtime.codebooks))}
    assert found.keys() == {"log-mel", "latents", "codes 1", "codes 4", "codes 16"} | layers
    for name in ("log-mel", "latents", "codes 16"):
        assert found[name].value > 0.8
        assert found[name].low <= found[name].value <= found[name].high
    assert {a.features: a.value for a in probed.retrieved}["codes 16"] > 0.6


def test_reports(probed, tmp_path):
    assert from_json(as_json(probed)) == probed
    table = as_table({"voice": probed, "again": probed})
    assert "| chance | 33.3% | 33.3% |" in table
    assert "nearest by codes 16, rvq.Index" in table
    figure({"voice": probed}, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 1000


def test_groups_are_never_on_both_sides():
    random = np.random.default_rng(0)
    group = random.integers(0, 40, 500)
    y = group % 4
    folds = split(y, [str(g) for g in group], 5, seed=0)
    assert set(folds) == set(range(5))
    for g in range(40):
        assert len(set(folds[group == g])) == 1
    counts = np.array([np.bincount(y[folds == f], minlength=4) for f in range(5)])
    assert counts.min() > 0
    with pytest.raises(InputError, match="one group only"):
        split(np.array([0, 0, 1, 1]), ["a", "b", "c", "c"], 2, seed=0)


def test_the_classifier_is_linear_discriminant_analysis():
    random = np.random.default_rng(0)
    y = np.repeat(np.arange(4), 100)
    centres = random.normal(size=(4, 10))
    x = (centres[y] + random.normal(size=(400, 10)) @ random.normal(size=(10, 10))).astype("f4")
    folds = np.tile(np.arange(5), 80)
    got = classify(x, y, folds)
    expected = np.empty_like(y)
    for fold in range(5):
        train = folds != fold
        reference = LinearDiscriminantAnalysis(solver="lsqr", priors=[0.25] * 4)
        expected[~train] = reference.fit(x[train], y[train]).predict(x[~train])
    assert (got == expected).mean() > 0.97  # the shrinkage is all that differs
    assert 0.3 < (got == y).mean() < 1


def test_one_recording_of_every_class_to_learn_from():
    x = np.array([[0, 1], [5, 0], [9, 9], [0, 2], [6, 0], [8, 9]], "f4")
    y = np.tile(np.arange(3), 2)
    assert (classify(x, y, np.repeat([0, 1], 3)) == y).all()


def test_neighbours_are_of_other_parts_and_the_index_finds_the_same():
    random = np.random.default_rng(0)
    y = np.repeat(np.arange(20), 20)
    x = (3 * random.normal(size=(20, 8))[y] + random.normal(size=(400, 8))).astype("f4")
    folds = np.tile(np.arange(4), 100)
    found = nearest(x, folds)
    assert (folds[found] != folds).all()
    for i in (0, 57):
        others = np.flatnonzero(folds != folds[i])
        scale = x[others].std(0)
        distances = np.square((x[others] - x[i]) / scale).sum(1)
        assert found[i] == others[distances.argmin()]
    by_codes = nearest(x, folds, compressed=True)
    assert (folds[by_codes] != folds).all()
    assert (y[by_codes] == y).mean() > (y[found] == y).mean() - 0.05


def test_features_of_codes_are_sums_of_codewords(codec, speech):
    audio = speech[0, : 320 * 100]
    features = pooled_features(codec, audio, (2,), segments=3)
    codes = codec.encode(audio[None], 24_000, beam_size=1).indices[0, :100]
    books = codec.runtime.codebooks
    frames = books[0][codes[:, 0]] + books[1][codes[:, 1]]
    thirds = [part.mean(0) for part in np.array_split(frames, 3)]
    expected = np.concatenate([*thirds, frames.std(0)])
    np.testing.assert_allclose(features["codes 2"], expected, atol=1e-5)
    np.testing.assert_allclose(features["layer 2"], pool(books[1][codes[:, 1]], 3), atol=1e-5)


def test_log_mel_follows_pitch_and_level():
    t = np.arange(24_000) / 24_000
    low, high = (log_mel(np.sin(2 * np.pi * f * t), 24_000, 320) for f in (300, 3000))
    assert low.shape == (75 + 1, 80)
    assert low[30].argmax() < high[30].argmax()
    quiet = log_mel(0.1 * np.sin(2 * np.pi * 300 * t), 24_000, 320)
    assert low[30].max() - quiet[30].max() == pytest.approx(2, abs=0.01)


def test_what_cannot_be_probed(tmp_path, manifest):
    path = tmp_path / "list.jsonl"
    clip = str(CLIPS[0])
    for rows, message in (
        ([{"path": clip}], "lacks labels"),
        ([{"path": clip, "label": ""}], "lacks labels"),
        ([{"path": clip, "label": "a"}], "single label"),
        ([{"path": clip, "label": 0}], "single label, '0'"),
        ([{"path": clip, "label": n, "group": n, "key": n} for n in "ab"], "one group only"),
        (
            [
                {"path": clip, "label": "aabb"[n], "group": max(0, n - 1), "key": n}
                for n in range(4)
            ],
            "one group only",
        ),
    ):
        path.write_text("\n".join(map(json.dumps, rows)))
        with pytest.raises(InputError, match=message):
            probe(path)
    with pytest.raises(InputError, match="cannot read"):
        probe(tmp_path / "nowhere.csv")


def test_codebooks_that_the_model_lacks_are_refused(manifest):
    with pytest.raises(InputError, match=r"in 1\.\.18"):
        probe(manifest, n_codebooks=(1, 99))


def test_recordings_without_a_group_are_in_none(manifest, tmp_path):
    # The second entry is number 1, but not of group 1.
    rows = [
        {
            "path": f"{manifest.parent / CLIPS[n // 3].stem}_{n}.wav",
            "label": "ab"[n // 3],
            "group": group,
        }
        for n, group in enumerate(("1", "", "1", None, "x", ""))
    ]
    path = tmp_path / "list.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    probed = probe(path, n_codebooks=(1,), n_folds=2)
    assert (probed.labels, probed.n_folds) == (("a", "b"), 2)
