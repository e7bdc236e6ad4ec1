"""Writes the page with everything it needs to run in a browser alone, for any web host."""

import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile

from rvq.codec.codec import Codec
from rvq.codec.models import find
from rvq.errors import InputError
from rvq.model_folder import CARD, FILES, read_card
from rvq.web import listening
from rvq.web.server import PAGE

ONNXRUNTIME_WEB = "1.30.0"
"""Version of the npm package that runs the networks in the browser (MIT licence)."""
_RUNTIME_FILES = {
    "ort.wasm.bundle.min.mjs": "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    "ort-wasm-simd-threaded.wasm": (
        "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2"
    ),
}
"""The two files needed of it, 14 MB, with their SHA-256: they do not come with this package."""


def write_static_copy(
    model: str | Path,
    folder: Path,
    *,
    runtime: Path | None = None,
    progress: Callable[[str], None] = lambda what: None,
) -> None:
    """Write the page, the model, the samples and ONNX Runtime Web into a new folder.

    Args:
        model: name or folder of the model.
        folder: new or empty.
        runtime: folder with the files of onnxruntime-web's `dist`; default: a cache that is filled
            by the `npm` program when first needed.
        progress: called with what comes next.

    Raises:
        InputError: the folder is not empty or not to be written, the runtime is not to be had, or
            the model is of a family that the browser does not run.
        ModelError: no such model, or a damaged one.
    """
    folder = folder.resolve()
    existed = folder.exists()
    if existed and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} exists and is not an empty folder; give a new one")
    card = read_card(find(model))
    if card["family"] != "spectral":
        raise InputError(
            f"the browser runs models of the spectral family, {model} is of another; "
            "use rvq serve without --static"
        )
    codec = Codec.load(model)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        # An empty folder is filled, not replaced: it may be where the user stands, or a mount.
        place = folder if existed else folder.parent
        with tempfile.TemporaryDirectory(dir=place, prefix=".rvq-") as temporary:
            copy = Path(temporary, "page")
            shutil.copytree(PAGE, copy)
            progress("fetching ONNX Runtime Web")
            (copy / "ort").mkdir()
            for path in runtime_files(runtime):
                shutil.copy(path, copy / "ort")
            (copy / "model").mkdir()
            for name in (*FILES, CARD):
                shutil.copy(find(model) / name, copy / "model")
            facts = listening.about(codec, "browser")
            for sample in facts["samples"]:
                progress(f"preparing the sample {sample['id']}")
                sample |= _write_sample(codec, sample["id"], copy / "samples")
            (copy / "about.json").write_text(json.dumps(facts))
            (copy / ".nojekyll").touch()  # some hosts hide files otherwise
            if existed:
                for path in copy.iterdir():
                    path.rename(folder / path.name)
            else:
                copy.chmod(0o755)
                copy.rename(folder)
    except OSError as error:
        raise InputError(f"cannot write {folder}: {error.strerror or error}") from None


def _write_sample(codec: Codec, name: str, folder: Path) -> dict:
    """A sample as the page wants it first, and as other codecs leave it."""
    folder.mkdir(exist_ok=True)
    encoded = listening.sample(codec, name)
    rate = codec.runtime.sample_rate
    (folder / f"{name}.safetensors").write_bytes(encoded.to_bytes())
    peers = {}
    for peer in listening.installed_peers():
        result = listening.through_peer(peer, encoded.samples, rate)
        _write_wav(folder / f"{name}.{peer}.wav", result.samples, rate)
        peers[peer] = {"file_bytes": result.file_bytes, "payload_bytes": result.payload_bytes}
    return {"peers": peers}


def _write_wav(path: Path, samples: listening.Floats, rate: int) -> None:
    # As integers: libsndfile would scale floats by 32767, but reads integers by 32768.
    integers = np.clip(np.rint(samples * 32768), -32768, 32767).astype(np.int16)
    soundfile.write(path, integers, rate, subtype="PCM_16")


def runtime_files(folder: Path | None = None) -> list[Path]:
    """The files of ONNX Runtime Web, checked.

    Args:
        folder: where they are; default: the cache, filled by `npm pack` if need be.

    Raises:
        InputError: they are not there, or are not of the right version.
    """
    if folder is None:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = home / "rvq" / f"onnxruntime-web-{ONNXRUNTIME_WEB}"
        if not all((folder / name).is_file() for name in _RUNTIME_FILES):
            _fetch(folder)
    for name, digest in _RUNTIME_FILES.items():
        if not (folder / name).is_file():
            raise InputError(f"{folder} has no {name}: give the dist folder of onnxruntime-web")
        if hashlib.sha256((folder / name).read_bytes()).hexdigest() != digest:
            raise InputError(
                f"{folder / name} is not that of onnxruntime-web {ONNXRUNTIME_WEB}; "
                "delete it and try again"
            )
    return [folder / name for name in _RUNTIME_FILES]


def _fetch(folder: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise InputError(
            f"the static page needs onnxruntime-web {ONNXRUNTIME_WEB}, which npm fetches: "
            "install npm, or give its dist folder with --runtime"
        )
    with tempfile.TemporaryDirectory(prefix="rvq-") as temporary:
        command = [npm, "pack", "--silent", f"onnxruntime-web@{ONNXRUNTIME_WEB}"]
        result = subprocess.run(command, cwd=temporary, capture_output=True, text=True)
        archives = list(Path(temporary).glob("*.tgz"))
        if result.returncode or not archives:
            said = result.stderr.strip().splitlines()
            raise InputError(
                f"npm could not fetch onnxruntime-web {ONNXRUNTIME_WEB}"
                + (f": {said[-1]}" if said else "")
            )
        folder.mkdir(parents=True, exist_ok=True)
        with tarfile.open(archives[0]) as archive:
            for name in _RUNTIME_FILES:
                try:
                    member = archive.extractfile(f"package/dist/{name}")
                except KeyError:
                    member = None
                if member is None:
                    raise InputError(f"onnxruntime-web {ONNXRUNTIME_WEB} has no {name}")
                partial = folder / f"{name}.{os.getpid()}"
                partial.write_bytes(member.read())
                partial.replace(folder / name)
