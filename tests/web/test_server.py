import posixpath
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath

import numpy as np
import pytest
import safetensors.numpy
from starlette.testclient import TestClient

from rvq.web import listening
from rvq.web.server import PAGE, create_app


@pytest.fixture(scope="module")
def client():
    with TestClient(create_app("speech_24khz"), base_url="http://localhost") as client:
        yield client


def test_page_and_facts(client, codec):
    page = client.get("/")
    assert page.status_code == 200
    assert "<title>rvq" in page.text
    about = client.get("/about.json").json()
    assert about["mode"] == "server"
    assert about["model"]["hash"] == codec.model_hash
    for sample in about["samples"]:
        body = client.get(f"/samples/{sample['id']}.safetensors").content
        assert body == listening.sample(codec, sample["id"]).to_bytes()
    assert client.get("/samples/nonesuch.safetensors").status_code == 404
    books = safetensors.numpy.load(client.get("/model/codebooks.safetensors").content)
    np.testing.assert_array_equal(books["codebooks"].astype(np.float32), codec.runtime.codebooks)


def test_what_the_page_begins_with_is_named_in_its_head():
    def modules(name):
        text = (PAGE / name).read_text()
        here = PurePosixPath(name).parent
        for path in re.findall(r'^import .* from "(.+)";$', text, re.MULTILINE):
            found = posixpath.normpath(here / path)
            yield from {found, *modules(found)}

    named = re.findall('rel="modulepreload" href="(.+)"', (PAGE / "index.html").read_text())
    assert named == sorted(set(modules("main.js")))


def test_encode_and_decode(client, codec, sample_bytes):
    answer = client.post("/api/encode", content=sample_bytes)
    assert answer.status_code == 200
    encoded = safetensors.numpy.load(answer.content)
    expected = listening.encode(codec, sample_bytes)
    np.testing.assert_array_equal(encoded["codes"], expected.codes)
    body = safetensors.numpy.save({"latents": encoded["latents"]})
    answer = client.post("/api/decode?n_samples=5000", content=body)
    samples = safetensors.numpy.load(answer.content)["samples"]
    direct = listening.decode(codec.runtime, expected.latents, 5000)
    np.testing.assert_array_equal(samples, direct)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/encode", b"not audio"),
        ("/api/encode", b""),
        ("/api/decode?n_samples=10", b"not tensors"),
        ("/api/decode?n_samples=-1", safetensors.numpy.save({"latents": np.zeros((9, 128), "f4")})),
        ("/api/decode?n_samples=1", safetensors.numpy.save({"latents": np.zeros((9, 9), "f4")})),
        ("/api/decode?n_samples=1", safetensors.numpy.save({"latents": np.zeros((9, 128))})),
        (
            "/api/decode?n_samples=1",
            safetensors.numpy.save({"latents": np.full((9, 128), np.nan, "f4")}),
        ),
        (
            "/api/decode?n_samples=1",
            safetensors.numpy.save({"latents": np.full((9, 128), 1e20, "f4")}),
        ),
        (
            "/api/decode?n_samples=0000000000001",
            safetensors.numpy.save({"latents": np.zeros((9, 128), "f4")}),
        ),
        ("/api/peer/nonesuch", safetensors.numpy.save({"samples": np.zeros(9, "f4")})),
        ("/api/peer/{peer}", safetensors.numpy.save({"samples": np.zeros((3, 3), "f4")})),
        ("/api/peer/{peer}", safetensors.numpy.save({"samples": np.full(24000, 1e30, "f4")})),
    ],
)
def test_bad_requests_get_one_sentence(client, path, body):
    peer = next(iter(listening.installed_peers()), "nonesuch")
    answer = client.post(path.format(peer=peer), content=body)
    assert answer.status_code == 400
    assert len(answer.json()["error"].splitlines()) == 1


def test_large_uploads_are_refused(client, monkeypatch):
    monkeypatch.setattr(listening, "MAX_BYTES", 1000)
    assert client.post("/api/encode", content=bytes(1001)).status_code == 413


def test_other_sites_are_refused(client, sample_bytes):
    cross = {"Sec-Fetch-Site": "cross-site"}
    assert client.post("/api/encode", content=sample_bytes, headers=cross).status_code == 403
    assert client.get("/about.json", headers={"Host": "evil.example"}).status_code == 400


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        (None, 200),
        ("http://localhost", 200),
        ("http://localhost:8765", 403),
        ("http://evil.example", 403),
        ("null", 403),
    ],
)
def test_other_sites_are_refused_by_origin_where_the_browser_says_no_more(client, origin, status):
    headers = {"Origin": origin} if origin else {}
    body = safetensors.numpy.save({"latents": np.zeros((9, 128), "f4")})
    answer = client.post("/api/decode?n_samples=1", content=body, headers=headers)
    assert answer.status_code == status


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("[::1]:8765", 200),
        ("[::1]", 200),
        ("LOCALHOST:8765", 200),
        ("127.0.0.1:8765", 200),
        ("[::2]:8765", 400),
        ("[::1].evil.example", 400),
        ("[::1]evil.example:8765", 400),
        ("localhost.evil.example", 400),
        ("[evil.example]", 400),
        ("::1", 400),
        ("", 400),
    ],
)
def test_only_names_of_this_machine_are_answered(client, host, status):
    assert client.get("/about.json", headers={"Host": host}).status_code == status


def test_a_server_for_others_is_reached_by_addresses_and_its_own_names_only():
    command = [sys.executable, "-u", "-m", "rvq", "serve", "--port", "0", "--no-browser"]
    with subprocess.Popen(
        [*command, "--host", "0.0.0.0"], stdout=subprocess.PIPE, text=True
    ) as run:
        try:
            port = run.stdout.readline().split()[0].rstrip("/").rpartition(":")[2]
            names = ("192.168.1.2", "[fe80::1]", "localhost", socket.gethostname())
            for name in (*names, "evil.example", "192.168.1.2.evil.example"):
                request = urllib.request.Request(f"http://127.0.0.1:{port}/")
                request.add_header("Host", f"{name}:{port}")
                try:
                    status = urllib.request.urlopen(request).status
                except urllib.error.HTTPError as error:
                    status = error.code
                assert status == (200 if name in names else 400), name
        finally:
            run.terminate()


def test_few_requests_compute_at_once(client, monkeypatch):
    running, most, lock = 0, 0, threading.Lock()

    def decode(runtime, latents, n_samples):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.1)
        with lock:
            running -= 1
        return np.zeros(n_samples, np.float32)

    monkeypatch.setattr(listening, "decode", decode)
    body = safetensors.numpy.save({"latents": np.zeros((9, 128), "f4")})
    with ThreadPoolExecutor(8) as pool:
        asked = [
            pool.submit(client.post, "/api/decode?n_samples=1", content=body) for _ in range(8)
        ]
        assert all(answer.result().status_code == 200 for answer in asked)
    assert most == 2


def test_interrupted_it_waits_for_nobody_long():
    command = [sys.executable, "-u", "-m", "rvq", "serve", "--port", "0", "--no-browser"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        try:
            port = int(run.stdout.readline().split()[0].rstrip("/").rpartition(":")[2])
            with socket.create_connection(("127.0.0.1", port)) as half:
                # A request whose body never comes.
                head = f"POST /api/encode HTTP/1.1\r\nHost: localhost:{port}\r\n"
                half.sendall(f"{head}Content-Length: 9\r\n\r\n".encode())
                time.sleep(1)
                run.send_signal(signal.SIGINT)
                assert run.wait(60) == 130
        finally:
            run.kill()
        told = run.stderr.read()
        assert told.splitlines()[-1] == "rvq: interrupted"
        assert "Traceback" not in told


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--runtime", "dist"], "--static"),
        (["--static", "new", "--port", "8765"], "--port"),
        (["--static", "new", "--host", "localhost"], "--host"),
        (["--static", "new", "--no-browser"], "--browser"),
    ],
)
def test_options_that_mean_nothing_together_are_refused(options, named, tmp_path):
    command = [sys.executable, "-m", "rvq", "serve", "--model", "nonesuch", *options]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 1
    assert named in run.stderr
    assert len(run.stderr.splitlines()) == 1


@pytest.mark.skipif(not socket.has_ipv6, reason="there is no IPv6")
@pytest.mark.parametrize("host", ["::1", "0:0:0:0:0:0:0:1"])
def test_ipv6_addresses_are_served_and_no_others_let_in(host):
    command = [sys.executable, "-u", "-m", "rvq", "serve", "--port", "0", "--no-browser"]
    with subprocess.Popen([*command, "--host", host], stdout=subprocess.PIPE, text=True) as run:
        try:
            address = run.stdout.readline().split()[0]
            assert address.startswith(f"http://[{host}]:")
            for url in (address, address.replace(host, "::1")):
                with urllib.request.urlopen(url) as answer:
                    assert answer.status == 200
            request = urllib.request.Request(address, headers={"Host": "evil.example"})
            with pytest.raises(urllib.error.HTTPError, match="400"):
                urllib.request.urlopen(request)
        finally:
            run.terminate()


def test_no_file_outside_of_the_page_is_given_out(client):
    for path in ("/../server.py", "/%2e%2e/server.py", "/samples/../listening.py"):
        assert client.get(path).status_code == 404


def test_a_port_in_use_is_one_sentence(served):
    port = served.rstrip("/").rpartition(":")[2]
    command = [sys.executable, "-m", "rvq", "serve", "--port", port, "--no-browser"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 1
    assert run.stderr.startswith("rvq: cannot listen")
    assert "--port" in run.stderr
