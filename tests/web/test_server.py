import posixpath
import re
import socket
import subprocess
import sys
import urllib.error
import urllib.request
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
        ("/api/peer/nonesuch", safetensors.numpy.save({"samples": np.zeros(9, "f4")})),
        ("/api/peer/mp3-16", safetensors.numpy.save({"samples": np.zeros((3, 3), "f4")})),
    ],
)
def test_bad_requests_get_one_sentence(client, path, body):
    answer = client.post(path, content=body)
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
