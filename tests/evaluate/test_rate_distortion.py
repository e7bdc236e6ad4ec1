import json
import math
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import soundfile
from rich.console import Console

from rvq.errors import FormatError, InputError, RvqError
from rvq.evaluate import report
from rvq.evaluate.baselines import Command, Roundtrip, RvqCodec
from rvq.evaluate.metrics import Scores
from rvq.evaluate.rate_distortion import evaluate
from rvq.evaluate.results import (
    Evaluation,
    Failure,
    Interval,
    Record,
    SystemInfo,
    speakers,
)


@dataclass(frozen=True)
class Noisy:
    """A fake codec that adds noise, and writes down that it was called."""

    noise: float
    log: Path
    version: str = "1"
    family = "noisy"
    nominal_kbps = 8.0

    @property
    def name(self) -> str:
        return f"noisy {self.noise}"

    def roundtrip(self, audio, sample_rate):
        with self.log.open("a") as file:
            file.write(f"{self.name}\n")
        if self.noise > 2:
            raise ZeroDivisionError("beyond noise")
        if self.noise > 1:
            raise RvqError("too much noise")
        noise = np.random.default_rng(0).normal(size=audio.shape)
        delayed = np.roll(audio + self.noise * noise, 37, axis=-1)
        return Roundtrip(delayed.astype(np.float32), 1000, 800 if self.noise < 0.1 else None)


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "calls"
    path.touch()
    return path


def test_records_hold_rates_and_scores_of_the_aligned_output(wav, log):
    systems = [Noisy(0.001, log), Noisy(0.1, log)]
    steps = []
    result = evaluate([wav], systems, workers=1, progress=lambda *step: steps.append(step))
    assert steps == [(0, 2), (1, 2), (2, 2)]
    good, bad = result.records
    assert (good.clip, good.system, good.seconds) == (str(wav), "noisy 0.001", 2.0)
    assert (good.file_kbps, good.payload_kbps) == (4.0, 3.2)
    assert math.isnan(bad.payload_kbps)
    assert good.scores.si_sdr > 20  # with its delay it would be below 0
    assert good.scores.pesq_wb > bad.scores.pesq_wb


def test_a_cache_does_no_work_twice(wav, log, tmp_path):
    cache = tmp_path / "cache.jsonl"
    first = evaluate([wav], [Noisy(0.01, log)], workers=1, cache=cache)
    moved = wav.rename(wav.with_name("moved.wav"))
    again = evaluate([moved], [Noisy(0.01, log), Noisy(0.02, log)], workers=1, cache=cache)
    assert log.read_text().splitlines() == ["noisy 0.01", "noisy 0.02"]
    assert again.records[0] == replace(first.records[0], clip=str(moved))
    # Another version of the system, or another content of the clip, is another result.
    evaluate([moved], [Noisy(0.01, log, version="2")], workers=1, cache=cache)
    soundfile.write(moved, np.sin(np.arange(16000) / 10), 16000)
    evaluate([moved], [Noisy(0.01, log)], workers=1, cache=cache)
    assert len(log.read_text().splitlines()) == 4


def test_a_cache_cut_off_in_the_middle_of_a_line_goes_on(wav, log, tmp_path):
    cache = tmp_path / "cache.jsonl"
    systems = [Noisy(0.01, log), Noisy(0.02, log)]
    whole = evaluate([wav], systems, workers=1, cache=cache)
    cache.write_text(cache.read_text()[:-50])
    log.write_text("")
    assert evaluate([wav], systems, workers=1, cache=cache) == whole
    assert log.read_text().splitlines() == ["noisy 0.02"]
    assert evaluate([wav], systems, workers=1, cache=cache) == whole
    assert log.read_text().splitlines() == ["noisy 0.02"]


def test_damaged_counts_in_a_cache_are_made_again(wav, tmp_path):
    cache = tmp_path / "cache.jsonl"
    system = RvqCodec("speech_24khz", 1.5)
    (whole,) = evaluate([wav], [system], workers=1, cache=cache, measures=["si_sdr"]).records
    line = json.loads(cache.read_text())
    shape, packed = line["code_counts"]
    for damaged in ([shape, packed[:8] + packed[12:]], [shape, packed[:9]], [[3, 1024], packed]):
        cache.write_text(json.dumps(line | {"code_counts": damaged}) + "\n")
        result = evaluate([wav], [system], workers=1, cache=cache, measures=["si_sdr"])
        assert result.records[0].code_counts == whole.code_counts
        assert len(cache.read_text().splitlines()) == 2


@pytest.mark.parametrize("content", ['{"bitrate": 6}\n', "my notes\n", "notes without an end"])
def test_another_file_is_not_mistaken_for_a_cache(wav, log, tmp_path, content):
    other = tmp_path / "other"
    other.write_text(content)
    with pytest.raises(FormatError, match="not a cache"):
        evaluate([wav], [Noisy(0.1, log)], workers=1, cache=other)
    assert other.read_text() == content


def test_a_nan_survives_the_cache(tmp_path, log):
    short = tmp_path / "short.wav"
    soundfile.write(short, np.sin(np.arange(1600) / 5), 16000)
    cache = tmp_path / "cache.jsonl"
    for _ in range(2):
        result = evaluate([short], [Noisy(0.01, log)], workers=1, cache=cache)
        assert math.isnan(result.records[0].scores.pesq_wb)
    assert "NaN" not in cache.read_text()
    assert len(log.read_text().splitlines()) == 1


def test_bad_clips_and_refusals_are_listed_and_the_rest_goes_on(wav, log, tmp_path):
    broken, empty, absent = (tmp_path / name for name in ("broken.wav", "empty.wav", "absent.wav"))
    broken.write_bytes(b"RIFF but not really")
    soundfile.write(empty, np.zeros(0), 16000)
    systems = [Noisy(0.01, log), Noisy(2.0, log), Noisy(3.0, log)]
    result = evaluate([broken, empty, wav, absent, wav], systems, workers=1)
    assert [record.system for record in result.records] == ["noisy 0.01"]
    reasons = {(Path(f.clip).name, f.system): f.reason for f in result.failures}
    assert len(reasons) == len(result.failures) == 5
    assert "not recognised" in reasons["broken.wav", None]
    assert "no samples" in reasons["empty.wav", None]
    assert "No such file" in reasons["absent.wav", None]
    assert reasons["speech.wav", "noisy 2.0"] == "too much noise"
    assert reasons["speech.wav", "noisy 3.0"] == "ZeroDivisionError: beyond noise"


def test_processes_find_the_same_in_the_same_order(wav, tmp_path):
    other = tmp_path / "other.wav"
    soundfile.write(other, np.random.default_rng(0).normal(size=16000) * 0.1, 16000)
    systems = [Command(f"copy {kbps}", "cp {input} {output}", kbps) for kbps in (8, 16)]
    alone = evaluate([wav, other], systems, workers=1)
    together = evaluate([wav, other], systems, workers=2, cache=tmp_path / "cache.jsonl")
    assert together == alone  # to the last bit
    assert len(alone.records) == 4


def test_what_cannot_work_is_refused_at_once(wav, log):
    with pytest.raises(InputError, match="nothing to do"):
        evaluate([], [Noisy(0.1, log)])
    with pytest.raises(InputError, match="distinct names"):
        evaluate([wav], [Noisy(0.1, log), Noisy(0.1, log, version="2")])
    with pytest.raises(RvqError, match="not found"):
        evaluate([wav], [Command("absent", "no-such-codec {input} {output}", 8)])
    with pytest.raises(InputError, match=r"no measure 'dnsmoss'; there are pesq_wb, .*dnsmos"):
        evaluate([wav], [Noisy(0.1, log)], measures=["dnsmoss", "si_sdr"])


@pytest.mark.parametrize("n", [2, 3, 4, 5, 10, 33, 1000])
def test_the_interval_is_student_s(n):
    values = np.random.default_rng(n).normal(size=n)
    interval = Interval.of([*values, math.nan])
    low, high = scipy.stats.t.interval(
        0.95, n - 1, loc=values.mean(), scale=scipy.stats.sem(values)
    )
    assert interval.n == n
    assert interval.mean == pytest.approx(values.mean())
    assert interval.half_width == pytest.approx((high - low) / 2, rel=0.01)


def test_clips_of_a_speaker_count_together():
    values = np.random.default_rng(0).normal(size=12)
    assert Interval.of(values, range(12)) == Interval.of(values)
    # Twelve speakers with three clips that are all the same tell what twelve clips tell.
    repeated = Interval.of(np.repeat(values, 3), np.repeat(range(12), 3).tolist())
    assert repeated.half_width == pytest.approx(Interval.of(values).half_width)
    assert repeated.half_width > 1.5 * Interval.of(np.repeat(values, 3)).half_width
    assert (repeated.n, repeated.mean) == (36, pytest.approx(values.mean()))
    assert math.isnan(Interval.of(values, ["one"] * 12).half_width)


@pytest.mark.parametrize("clustered", [False, True])
def test_intervals_for_new_speakers_hold(clustered):
    """Of a hundred drawn evaluations of twenty speakers each, 95 contain the true mean."""
    random = np.random.default_rng(1)
    inside = 0
    for _ in range(400):
        voices = random.normal(size=20)
        values = (voices[:, None] + 0.5 * random.normal(size=(20, 4))).ravel()
        groups = np.repeat(range(20), 4).tolist() if clustered else None
        interval = Interval.of(values, groups)
        inside += abs(interval.mean) <= interval.half_width
    assert (inside >= 0.92 * 400) == clustered  # clips that count as independent promise too much


def test_intervals_of_one_and_of_no_value():
    one, none = Interval.of([3.0]), Interval.of([math.nan])
    assert (one.mean, one.n, math.isnan(one.half_width)) == (3.0, 1, True)
    assert (none.n, math.isnan(none.mean)) == (0, True)


def made_up() -> Evaluation:
    def record(clip, system, pesq):
        return Record(clip, system, 2.0, 2000, 1500, Scores(pesq, 0.9, 4.0, 1.0, 10.0))

    return Evaluation(
        systems=(
            SystemInfo("b 12", "b", 12, "v2"),
            SystemInfo("b 6", "b", 6, "v2"),
            SystemInfo("a 99", "a", 99, "v1"),
        ),
        records=(
            record("x", "b 12", 3.0),
            record("y", "b 12", 4.5),
            record("z", "b 12", math.nan),
            record("x", "b 6", 2.0),
            record("y", "b 6", 3.7),
            record("z", "b 6", 3.0),
        ),
        failures=(Failure("x", "a 99", "broke"),),
        metric_versions={"pesq": "0.0.4"},
    )


def test_differences_are_paired_and_leave_out_what_lacks_a_partner():
    difference = made_up().difference("b 12", "b 6", "pesq_wb")
    assert difference.n == 2
    assert difference.mean == pytest.approx(0.9)
    # The two means alone, 3.75 of two clips and 2.9 of three, say less.
    assert difference.half_width < made_up().summary("b 6", "pesq_wb").half_width
    with pytest.raises(InputError, match="no system is named 'c'"):
        made_up().difference("c", "b 6", "pesq_wb")


def test_speakers_widen_means_and_differences():
    evaluation = made_up()
    alone = replace(evaluation, speakers={"x": "one", "y": "one", "z": "one"})
    assert math.isnan(alone.summary("b 6", "pesq_wb").half_width)
    assert math.isnan(alone.difference("b 12", "b 6", "pesq_wb").half_width)
    assert alone.summary("b 6", "pesq_wb").mean == evaluation.summary("b 6", "pesq_wb").mean
    assert "3 clips of 1 speaker, 6 s; mean ± half of the 95% interval for new" in report.title(
        alone
    )
    assert "speaker" not in report.title(evaluation)


def test_speakers_are_named_by_paths():
    clips = ["a/9614_01.wav", "a/9614_02.wav", Path("a/p225_1.wav")]
    found = {"a/9614_01.wav": "9614", "a/9614_02.wav": "9614", "a/p225_1.wav": "p225"}
    assert speakers(clips, r"([^/]+)_\d+") == found
    assert speakers(clips, "[^/]+(?=_)") == found
    with pytest.raises(InputError, match=r"no speaker in a/9614_01\.wav"):
        speakers(clips, "p225")
    with pytest.raises(InputError, match="not a regular expression"):
        speakers(clips, "(")


def test_rates_are_pooled():
    assert made_up().file_kbps("b 6") == 8.0
    assert made_up().payload_kbps("b 6") == 6.0
    assert math.isnan(made_up().file_kbps("a 99"))


def test_tables_are_sorted_and_complete():
    rows = [line for line in report.to_markdown(made_up()).splitlines() if line.startswith("|")]
    assert [row.split("|")[1].strip() for row in rows[2:]] == ["a 99", "b 6", "b 12"]
    assert len({row.count("|") for row in rows}) == 1
    assert "3.75 ± 9.53 (n=2)" in rows[4]
    assert "–" in rows[2]
    shown = Console(file=StringIO(), width=200, record=True)
    shown.print(report.table(made_up()))
    text = shown.export_text()
    assert "3 clips, 6 s" in text
    assert "1 failed" in text
    assert "b: v2" in text


def test_json_has_no_nan_and_all_records():
    content = json.loads(report.to_json(made_up()), parse_constant=pytest.fail)
    assert [system["name"] for system in content["systems"]] == ["a 99", "b 6", "b 12"]
    assert content["systems"][2]["scores"]["pesq_wb"]["n"] == 2
    assert len(content["records"]) == 6
    assert content["failures"] == [{"clip": "x", "system": "a 99", "reason": "broke"}]
