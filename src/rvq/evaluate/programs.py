"""Running the programs of other codecs, which read and write wav files."""

import re
import shutil
import subprocess
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rvq.errors import RvqError

Audio = npt.NDArray[np.float32]

_PACKAGES = {
    "lame": "lame",
    "opusenc": "opus-tools",
    "opusdec": "opus-tools",
    "oggenc": "vorbis-tools",
    "oggdec": "vorbis-tools",
    "c2enc": "codec2",
    "c2dec": "codec2",
}


def find_program(program: str) -> str:
    """Path of a program.

    Raises:
        RvqError: it is not installed.
    """
    path = shutil.which(program)
    if path is None:
        package = _PACKAGES.get(program)
        hint = f"apt install {package}" if package else "install it or correct its name"
        raise RvqError(f"the program {program!r} was not found; {hint}")
    return path


def run_program(command: list[str]) -> str:
    """Run a command without a shell and return what it wrote to its standard output.

    Raises:
        RvqError: the program is not installed, or did not end well.
    """
    result = subprocess.run(
        [find_program(command[0]), *command[1:]],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
    )
    if result.returncode:
        said = (result.stderr or result.stdout).strip().splitlines()
        raise RvqError(
            f"{Path(command[0]).name} failed with status {result.returncode}"
            + (f": {said[-1]}" if said else "")
        )
    return result.stdout


@lru_cache
def program_version(program: str, option: str) -> str:
    """The first line that a program says about its version, without its web address.

    Raises:
        RvqError: it is not installed.
    """
    first_line = run_program([program, option]).splitlines()[0]
    return re.sub(r" \(http\S*\)", "", first_line)


def write_wav(path: Path, audio: Audio, sample_rate: int) -> None:
    """Write audio `[channels, samples]` in [-1, 1] as 16-bit samples."""
    import soundfile

    soundfile.write(path, audio.T, sample_rate, subtype="PCM_16")


def read_wav(path: Path, sample_rate: int) -> Audio:
    """Audio of a decoder's output at `sample_rate`, `[channels, samples]`."""
    import soundfile
    import soxr

    try:
        audio, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError:
        raise RvqError("the decoder wrote no readable wav file") from None
    if rate != sample_rate:
        audio = soxr.resample(audio, rate, sample_rate)
    return np.ascontiguousarray(audio.T)
