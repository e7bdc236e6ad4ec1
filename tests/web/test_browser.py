"""The page in headless Chromium, as a person uses it; skipped where there is no Chromium."""

import re
import time
from urllib.parse import urlparse

import numpy as np
import pytest

from rvq.web import listening

SPY = """
window.started = [];
const start = AudioBufferSourceNode.prototype.start;
AudioBufferSourceNode.prototype.start = function (when, offset) {
  if (this.context instanceof AudioContext) {
    const data = this.buffer.getChannelData(0);
    const energy = data.reduce((sum, sample) => sum + sample * sample, 0);
    window.started.push({ offset, energy, length: data.length, at: performance.now() });
  }
  return start.call(this, when, offset);
};
"""


def open_page(browser, address, section="listen", **options):
    context = browser.new_context(permissions=["microphone"], **options)
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.add_init_script(SPY)
    page.problems, page.hosts = [], set()
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("console", lambda m: m.type == "error" and page.problems.append(m.text))
    page.on("request", lambda request: page.hosts.add(urlparse(request.url).netloc))
    page.goto(f"{address}#{section}")
    page.wait_for_selector("body[data-clip]:not([data-clip=''])", state="attached")
    return page


def wait_playing(page, what):
    page.wait_for_selector(f"body[data-playing^='{what}']", state="attached")


@pytest.fixture
def page(browser, served):
    page = open_page(browser, served)
    yield page
    page.context.close()
    assert not page.problems
    assert {host for host in page.hosts if host} == {urlparse(served).netloc}


@pytest.fixture(scope="module")
def static_page(browser, hosted):
    page = open_page(browser, hosted)
    yield page
    page.context.close()


def test_slider_and_versions_change_the_sound_at_its_place(page):
    assert page.get_attribute("body", "data-playing") == "rvq-4"
    page.click("#play")
    page.wait_for_timeout(700)
    page.fill("#bitrate", "16")
    wait_playing(page, "rvq-16")
    page.keyboard.press("1")
    wait_playing(page, "original")
    first, second, third = page.evaluate("window.started")
    assert first["length"] == second["length"] == third["length"]
    assert first["energy"] != second["energy"] != third["energy"]
    # The second began where the first was by then.
    passed = (second["at"] - first["at"]) / 1000
    assert first["offset"] == 0
    assert second["offset"] == pytest.approx(passed, abs=0.15)
    assert page.get_attribute("#play", "aria-label") == "Pause"


def test_sizes_are_those_of_files(page, codec):
    audio, _ = listening.read_recording((listening.SAMPLES / "learner.flac").read_bytes(), 24000)
    page.fill("#bitrate", "8")
    wait_playing(page, "rvq-8")
    size = len(codec.compress(audio[None], 24000, bitrate=6, beam_size=1))
    text = page.inner_text("#versions [data-choice=ours]")
    assert f"{size:,} bytes" in text
    assert f"{size / 125 / 4.2:.2f} kbps" in text
    assert page.inner_text("#headline-rate") == f"{size / 125 / 4.2:.2f}"
    assert page.inner_text("#bitrate-text") == "8 of 18 codebooks, 6.00 kbps before entropy coding"
    for peer in listening.installed_peers():
        button = page.locator(f"[data-choice={peer}]")
        button.click()
        wait_playing(page, peer)
        assert re.search(r"\d\.\d\d kbps", button.inner_text())


def test_difference_can_be_heard(page):
    page.click("#play")
    page.click("#hear-difference")
    wait_playing(page, "difference:rvq-4")
    decoded, difference = page.evaluate("window.started.slice(-2)")
    assert 0 < difference["energy"] != decoded["energy"]


def test_upload_of_a_file(page, speech_path):
    page.set_input_files("#file", speech_path)
    page.wait_for_selector(f"body[data-clip='{speech_path.name}']", state="attached")
    assert "3.3 s" in page.inner_text("#clip-name")
    assert page.get_attribute("#upload", "aria-pressed") == "true"


def test_what_is_not_audio_gets_a_sentence(browser, served):
    page = open_page(browser, served)
    page.set_input_files(
        "#file", {"name": "x.wav", "mimeType": "audio/wav", "buffer": b"This is not audio."}
    )
    page.wait_for_selector("#message.wrong")
    assert "not audio" in page.inner_text("#message")
    page.context.close()


def test_recording_from_the_microphone(page):
    start = time.monotonic()
    page.click("#record")
    page.wait_for_selector("#record.recording")
    page.wait_for_timeout(1800)
    page.click("#record")
    page.wait_for_selector("body[data-clip='Your recording']", state="attached")
    elapsed = time.monotonic() - start
    seconds = float(re.search(r"([\d.]+) s", page.inner_text("#clip-name"))[1])
    assert 1 < seconds < elapsed
    page.click("#play")
    page.wait_for_timeout(100)
    assert page.evaluate("window.started.at(-1).energy") > 1


def test_choosing_something_else_ends_a_recording(page):
    page.evaluate(
        """() => {
          const devices = navigator.mediaDevices;
          const get = devices.getUserMedia.bind(devices);
          devices.getUserMedia = async (wishes) => (window.heard = await get(wishes));
        }"""
    )
    page.click("#record")
    page.wait_for_selector("#record.recording")
    other = page.locator("#samples button").nth(1)
    other.click()
    title = other.locator("strong").inner_text()
    page.wait_for_selector(f"body[data-clip='{title}']", state="attached")
    assert page.evaluate("window.heard.getTracks().map((track) => track.readyState)") == ["ended"]
    assert page.inner_text("#record strong") == "Record"
    assert page.locator("#record.recording").count() == 0
    page.wait_for_timeout(500)  # two ticks of its clock
    assert page.get_attribute("body", "data-clip") == title
    assert page.inner_text("#record strong") == "Record"


def test_axis_is_that_of_the_model(browser, served):
    context = browser.new_context()
    page = context.new_page()

    def other_rate(route):
        answer = route.fetch()
        about = answer.json()
        about["model"]["sample_rate"] = 44100
        route.fulfill(response=answer, json=about)

    page.route("**/about.json", other_rate)
    page.goto(served)
    page.wait_for_selector("#samples button")
    assert page.locator(".axis i").all_inner_texts() == ["22.1 kHz", "11", "0"]
    assert page.get_attribute("#spectrogram", "aria-label") == "Spectrogram, 0 to 22.1 kHz"
    context.close()


def test_heat_map_frames_and_layers(page, codec, sample_bytes):
    page.click("nav a[href='#inside']")
    page.locator("#codes").focus()
    page.keyboard.press("ArrowRight")
    name = page.inner_text("#frame-name")
    frame = int(re.match(r"Frame (\d+) of", name)[1]) - 1
    shown = [int(item.inner_text()) for item in page.locator("#frame-codes b").all()]
    encoded = listening.encode(codec, sample_bytes)
    np.testing.assert_array_equal(shown, encoded.codes[frame])
    left = [int(item.inner_text()[:-1]) for item in page.locator("#frame-codes em").all()]
    assert left[0] > left[7] > left[15]
    box = page.locator("#codes").bounding_box()
    page.mouse.click(box["x"] + 0.75 * box["width"], box["y"] + 5)
    frame = int(re.match(r"Frame (\d+) of", page.inner_text("#frame-name"))[1])
    assert frame == pytest.approx(0.75 * len(encoded.codes), abs=3)
    # Entropies are those of the codes.
    counts = np.bincount(encoded.codes[:, 0])
    share = counts[counts > 0] / len(encoded.codes)
    bits = -np.sum(share * np.log2(share))
    assert page.inner_text("#layers li:first-child .use") == f"{bits:.1f} bits, {len(share)} used"


def test_layers_can_be_muted_scrambled_and_swapped(page):
    page.click("nav a[href='#inside']")
    energies = []
    for mode in ("keep", "mute", "scramble", "swap"):
        if mode == "keep":
            page.click("[data-preset=keep]")
        else:
            page.select_option("#layer-1", mode)
        wait_playing(page, f"edited:{mode}")
        energies.append(page.evaluate("window.started.at(-1).energy"))
    assert len(set(energies)) == 4
    page.click("nav a[href='#listen']")
    wait_playing(page, "rvq-4")


def test_an_edit_that_comes_too_late_is_not_played(page):
    page.click("nav a[href='#inside']")
    page.wait_for_selector("#page-inside:not([hidden])")
    held = []
    hold = True
    page.route("**/api/decode*", lambda route: held.append(route) if hold else route.continue_())
    page.select_option("#layer-1", "mute")
    while not held:
        page.wait_for_timeout(50)
    page.click("nav a[href='#listen']")
    page.wait_for_selector("#page-listen:not([hidden])")
    hold = False
    with page.expect_response("**/api/decode*", timeout=20_000):
        for route in held:
            route.continue_()
    page.wait_for_timeout(500)
    assert page.get_attribute("body", "data-playing") == "rvq-4"
    assert page.evaluate("window.started") == []
    assert page.inner_text("#message") == ""


def test_learning_steps(page):
    page.click("nav a[href='#learn']")
    grid = page.locator("#lesson-grid output")
    page.fill("#lesson-grid input", "5")
    assert "10 bits a point: 1024 boxes" in grid.inner_text()
    cells = page.locator("#lesson-cells output")
    before = lost(cells.inner_text())
    page.click("#lesson-cells [data-do=run]")
    assert lost(cells.inner_text()) < before
    # A cloud that is dragged moves the figures of all lessons.
    tree = page.locator("#lesson-tree output")
    told = tree.inner_text()
    plane = page.locator("#lesson-tree canvas").first
    plane.scroll_into_view_if_needed()
    box = plane.bounding_box()
    scale = min(box["width"], box["height"]) / 2
    x, y = box["x"] + box["width"] / 2 + 0.62 * scale, box["y"] + box["height"] / 2 - 0.12 * scale
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x - 0.9 * scale, y, steps=4)
    page.mouse.up()
    assert tree.inner_text() != told
    # Codewords die in a bad start and live again after restarts.
    dead = page.locator("#lesson-dead output")
    dead.scroll_into_view_if_needed()
    assert " 0 of 16 codewords are dead" not in dead.inner_text()
    page.check("#lesson-dead input")
    page.click("#lesson-dead [data-do=play]")
    page.wait_for_timeout(3000)
    page.click("#lesson-dead [data-do=play]")
    assert re.search(r": [0-3] of 16 codewords are dead", dead.inner_text())


def lost(text):
    return float(re.search(r"([\d.]+)% of the variance lost", text)[1])


@pytest.mark.parametrize("width", [320, 390])
def test_phone_width_needs_no_sideways_scrolling(browser, served, width):
    page = open_page(browser, served, viewport={"width": width, "height": 800})
    for section in ("listen", "inside", "learn"):
        page.click(f"nav a[href='#{section}']")
        page.locator("#lesson-bits canvas").first.wait_for(state="attached")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        small = page.evaluate(
            """[...document.querySelectorAll("main section:not([hidden]) button")]
            .filter((b) => b.getBoundingClientRect().height < 24).length"""
        )
        assert small == 0
    page.context.close()


def test_every_control_has_a_name(page):
    page.locator("#lesson-bits canvas").first.wait_for(state="attached")
    for section in ("listen", "inside", "learn"):
        page.click(f"nav a[href='#{section}']")
        nameless = page.evaluate(
            """[..."button|input:not([hidden])|select|canvas[tabindex]".split("|")]
            .flatMap((kind) => [...document.querySelectorAll(kind)])
            .filter((e) => !(e.ariaLabel || e.labels?.length || e.textContent.trim()))
            .map((e) => e.outerHTML)"""
        )
        assert nameless == []


@pytest.fixture(scope="module")
def in_browser(browser, hosted):
    """Codes of a sample, and what all of them decode to, as the browser has them."""
    page = browser.new_page()
    page.goto(f"{hosted}about.json")  # where nothing else computes
    found = page.evaluate(
        """async () => {
          const { connect } = await import(new URL("codec/backend.js", location.href));
          const backend = await connect();
          const { samples } = await backend.encodeSample("learner");
          const { codes } = await backend.encodeSamples(samples);
          const latents = (await backend.codebooks()).sum(codes, new Array(18).fill(true));
          const decoded = await backend.decode(latents, samples.length);
          return { codes: Array.from(codes), decoded: Array.from(decoded) };
        }"""
    )
    page.close()
    return found


def test_static_page_has_the_codes_of_python_but_for_near_ties(in_browser, codec, sample_bytes):
    expected = listening.encode(codec, sample_bytes)
    codes = np.array(in_browser["codes"]).reshape(expected.codes.shape)
    differ = codes != expected.codes
    assert differ.any(axis=1).mean() < 0.05
    for frame in np.flatnonzero(differ.any(axis=1)):
        # Up to the first difference all is equal; there, both codewords are about equally near.
        stage = differ[frame].argmax()
        books = codec.runtime.codebooks
        residual = expected.latents[frame] - sum(
            books[k, expected.codes[frame, k]] for k in range(stage)
        )
        one, other = (
            np.linalg.norm(residual - books[stage, c[frame, stage]])
            for c in (codes, expected.codes)
        )
        assert one == pytest.approx(other, rel=1e-3)


def test_static_page_decodes_as_python_does(in_browser, codec, sample_bytes):
    samples, _ = listening.read_recording(sample_bytes, 24000)
    error = (
        np.array(in_browser["decoded"])
        - codec.decode(codec.encode(samples[None], 24000, beam_size=1))[0]
    )
    assert np.sqrt(np.mean(error**2)) < 0.02 * np.sqrt(np.mean(samples**2))


def test_static_page_needs_no_server(static_page, hosted):
    assert not static_page.problems
    assert {host for host in static_page.hosts if host} == {urlparse(hosted).netloc}


def test_static_page_plays_peers_and_uploads(static_page, speech_path):
    peers = listening.installed_peers()
    if peers:
        static_page.click(f"[data-choice={peers[0]}]")
        wait_playing(static_page, peers[0])
    static_page.set_input_files("#file", speech_path)
    static_page.wait_for_selector(f"body[data-clip='{speech_path.name}']", state="attached")
    wait_playing(static_page, "rvq-")
    assert "bytes of codes" in static_page.inner_text("#versions [data-choice=ours]")
