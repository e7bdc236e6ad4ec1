import http.server
import shutil
import socket
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import pytest

from rvq.web.listening import SAMPLES
from rvq.web.static_copy import write_static_copy

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)


@pytest.fixture(scope="session")
def sample_bytes() -> bytes:
    return (SAMPLES / "learner.flac").read_bytes()


@pytest.fixture(scope="session")
def served():
    """Address of a running `rvq serve`."""
    command = [sys.executable, "-u", "-m", "rvq", "serve", "--port", "0", "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process.stdout.readline().split()[0]
        finally:
            process.terminate()


@pytest.fixture(scope="session")
def static_folder(tmp_path_factory) -> Path:
    """A static copy of the page."""
    if not shutil.which("npm"):
        pytest.skip("npm is not installed: it fetches ONNX Runtime Web for the static page")
    folder = tmp_path_factory.mktemp("static") / "page"
    write_static_copy("speech_24khz", folder)
    return folder


@pytest.fixture(scope="session")
def hosted(static_folder):
    """Address of the static copy on a host that only gives out files."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    handler = partial(Quiet, directory=static_folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="session")
def browser(speech_path, tmp_path_factory):
    """Headless Chromium whose microphone hears a recording of speech."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed: apt install chromium")
    import soundfile

    heard = tmp_path_factory.mktemp("microphone") / "speech.wav"
    audio, rate = soundfile.read(speech_path)
    soundfile.write(heard, audio, rate, subtype="PCM_16")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=[
                "--no-sandbox",
                "--autoplay-policy=no-user-gesture-required",
                "--use-fake-ui-for-media-stream",
                "--use-fake-device-for-media-stream",
                f"--use-file-for-fake-audio-capture={heard}",
            ],
        )
        yield browser
        browser.close()


@pytest.fixture
def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
