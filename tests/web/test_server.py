import posixpath
import re
import subprocess
import sys
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
