"""The page of `rvq eval` in headless Chromium: curves, players, blind tests."""

import json
from pathlib import Path

import pytest
import soundfile

from rvq.evaluate.baselines import Command
from rvq.evaluate.page import to_html
from rvq.evaluate.rate_distortion import evaluate


@pytest.fixture(scope="module")
def page(browser, speech, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    soundfile.write(folder / "clip.wav", speech[0, :48000], 24000)
    systems = [Command(f"copy {kbps}", "cp {input} {output}", kbps) for kbps in (8, 16)]
    path = folder / "report.html"
    path.write_text(to_html(evaluate([folder / "clip.wav"], systems, workers=1), systems))
    page = browser.new_page(viewport={"width": 390, "height": 800})
    page.set_default_timeout(30_000)
    page.problems = []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("console", lambda m: m.type == "error" and page.problems.append(m.text))
    page.goto(path.as_uri())
    yield page
    assert not page.problems
    page.close()


def test_curves_and_table(page):
    assert page.locator("#curves svg").count() == 5
    assert page.locator("#table tr").count() == 3
    assert page.locator("#table th").all_inner_texts()[:2] == ["system", "file kbps"]
    assert page.locator("#table tr >> nth=1").inner_text().split("\t")[:4] == [
        "copy 8",
        "8.00",
        "8.00",
        "4.64",
    ]
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_versions_play(page):
    page.click(".versions button >> nth=2")
    page.wait_for_selector("body[data-playing='0/2']", state="attached")
    page.click(".versions button >> nth=0")
    page.wait_for_selector("body[data-playing='0/0']", state="attached")


def test_a_mushra_trial_hides_names_and_keeps_ratings(page):
    page.click("#begin")
    assert "copy" not in page.inner_text("#trial")
    page.click("#trial button >> text=Done")
    assert "move every slider" in page.inner_text("#verdict")
    for slider in page.locator("#trial input").all():
        slider.fill("80")
    page.click("#trial button >> text=Done")
    verdict = page.inner_text("#verdict")
    for name in ("original", "copy 8", "copy 16"):
        assert f"{name}: 80 of 100" in verdict


def test_abx_counts_what_was_right_and_answers_are_saved(page):
    page.select_option("#kind", "abx")
    for _ in range(3):
        page.click("#begin")
        page.click("#trial button >> text=X is A")
    assert "of 3 right" in page.inner_text("#verdict")
    with page.expect_download() as download:
        page.click("#save")
    answers = json.loads(Path(download.value.path()).read_text())["answers"]
    assert [answer["kind"] for answer in answers] == ["mushra", *["abx"] * 3]
    page.reload()
    assert "of 3 right" in page.inner_text("#verdict")
    page.click("#forget")
    assert page.inner_text("#verdict") == ""
