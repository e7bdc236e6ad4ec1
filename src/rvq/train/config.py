"""What a training run is told: a YAML file validated against these dataclasses."""

from collections.abc import Callable
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

from pydantic import Field, NonNegativeInt, PositiveInt, TypeAdapter, ValidationError

from rvq.errors import InputError, first_problem
from rvq.nn import stft
from rvq.nn.discriminators import (
    AnyDiscriminatorConfig,
    DiscriminatorConfig,
    discriminator_kind,
)
from rvq.nn.encodec_discriminator import EncodecDiscriminatorConfig
from rvq.nn.model import CONFIGS, CodecConfig, network_kind
from rvq.nn.quantizer import Share
from rvq.nn.seanet import SEANetConfig
from rvq.nn.soundstream_discriminators import SoundStreamDiscriminatorConfig
from rvq.nn.spectral import SpectralConfig
from rvq.train.yaml_file import read_yaml, shipped_yaml

Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Above0 = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Decay = Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True)
class DataConfig:
    """Crops.

    Attributes:
        batch_size: crops per step.
        crop_frames: length of a crop in frames.
        mix_probability: how often two crops are mixed.
        speed: how much faster or slower half of the crops are played at most, as a share.
    """

    batch_size: PositiveInt = 16
    crop_frames: PositiveInt = 108
    mix_probability: Share = 0.1
    speed: Annotated[float, Field(ge=0, le=0.5)] = 0.0


@dataclass(frozen=True)
class LossConfig:
    """Weights of the losses, and the resolutions of the spectral ones.

    Weights say how the losses' gradients at the decoder's output stand to each other, whatever the
    losses' own scales; they need not sum to one. All take the scale of the reference, which is the
    first reconstruction term with a weight, in the order below (see `rvq.train.balancer`).

    Spectra count for most: waveform terms of equal weight hold back what codes cannot tell.

    Attributes:
        mel, log_magnitude, complex, time: reconstruction terms, see `rvq.train.losses`.
        mel_magnitude, log_mel_magnitude: EnCodec's and SoundStream's multi-scale mel losses.
        adversarial, feature: discriminator terms, once `adversarial_start` is reached.
        waveform_codebooks: codebooks with which the waveform terms (`time` and `complex`) count in
            full; items with fewer count in proportion.
        commitment: weight of the relative commitment loss, which is not balanced, beside a
            reference that counts as its loss times its weight.
        n_ffts, n_mels: window lengths of the spectral losses, multiples of 4, and the mel bands of
            each.
    """

    mel: Weight = 7.5
    log_magnitude: Weight = 0.0
    complex: Weight = 0.4
    time: Weight = 0.4
    mel_magnitude: Weight = 0.0
    log_mel_magnitude: Weight = 0.0
    adversarial: Weight = 0.6
    feature: Weight = 1.25
    waveform_codebooks: PositiveInt = 8
    commitment: Weight = 0.1
    n_ffts: tuple[int, ...] = (2048, 512, 128)
    n_mels: tuple[int, ...] = (128, 64, 16)

    def __post_init__(self) -> None:
        stft.check_windows(self.n_ffts)
        if not any(self.reconstruction().values()):
            raise InputError("at least one reconstruction loss must have a weight above 0")
        if len(self.n_ffts) != len(self.n_mels):
            raise InputError(
                f"n_mels must have one value per n_ffts: {len(self.n_ffts)}, got {len(self.n_mels)}"
            )

    def reconstruction(self) -> dict[str, float]:
        """Weights of the losses that compare recordings with their reconstructions."""
        names = ("mel", "log_magnitude", "complex", "time", "mel_magnitude", "log_mel_magnitude")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class ScheduleConfig:
    """Learning rates over the run: warm-up, a constant stretch, linear decay to zero.

    The decay can be run from any checkpoint, so that every milestone gives a usable model.

    Attributes:
        total_steps: length of the run.
        warmup_steps: steps of linear warm-up.
        decay_share: share of the run, at its end, over which the rate falls to zero.
        learning_rate: of encoder and decoder, for both optimizers.
        discriminator_rate: of the discriminators.
        adversarial_start: share of the run after which the discriminators join.
        discriminator_crop: seconds of every crop that the discriminators see.
        discriminator_every: steps of the model to one of the discriminators.
        in_turn: whether a step compares spectra at one of the resolutions and asks one of the
            discriminators, in turn, instead of all: a step takes two thirds of the time.
        betas: of AdamW, which moves all but the networks' matrices.
        weight_decay: of Muon, which moves the matrices.
        clip_norm: largest norm of the model's gradient.
        ema_decay: of the averaged weights that are evaluated and exported.
    """

    total_steps: PositiveInt = 12_000
    warmup_steps: NonNegativeInt = 300
    decay_share: Share = 0.3
    learning_rate: Above0 = 1e-3
    discriminator_rate: Above0 = 3e-4
    adversarial_start: Share = 0.5
    discriminator_crop: Above0 = 0.5
    discriminator_every: PositiveInt = 1
    in_turn: bool = True
    betas: tuple[Decay, Decay] = (0.8, 0.98)
    weight_decay: Weight = 0.01
    clip_norm: Above0 = 1.0
    ema_decay: Share = 0.99

    def rate(self, step: int) -> float:
        """Factor on the learning rates at a step."""
        decay_steps = max(1, round(self.total_steps * self.decay_share))
        left = (self.total_steps - step) / decay_steps
        return max(0.0, min(1.0, (step + 1) / max(1, self.warmup_steps), left))


@dataclass(frozen=True)
class TrainConfig:
    """A whole run.

    Attributes:
        name: of the model that comes out.
        model: shape of the codec; a named configuration or its fields.
        discriminator: shape of the discriminators; `fast`, `encodec`, `soundstream`, or its fields.
        data, loss, schedule: see there.
        decoder_only: whether encoder and codebooks of the model that the run starts from stay as
            they are: codes keep their meaning, and a step takes less time.
        seed: of everything random.
        precision: `auto` is bf16 on GPUs and on CPUs with matrix units for it, else float32.
        checkpoint_minutes: time between checkpoints.
        report_steps: steps between points of the curves.
        listen_steps: steps between reconstructions of held-out clips for the curves page.
    """

    name: str = "speech_24khz"
    model: CodecConfig = field(default_factory=CodecConfig)
    discriminator: AnyDiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    data: DataConfig = field(default_factory=DataConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    decoder_only: bool = False
    seed: NonNegativeInt = 0
    precision: Literal["auto", "bf16", "float32"] = "auto"
    checkpoint_minutes: Above0 = 5.0
    report_steps: PositiveInt = 20
    listen_steps: PositiveInt = 1000

    def __post_init__(self) -> None:
        least = self.discriminator.least_samples
        if self.schedule.adversarial_start < 1 and self.judged_samples < least:
            raise InputError(
                f"the discriminators see {self.judged_samples} samples of a crop and need {least}; "
                "raise schedule.discriminator_crop or data.crop_frames"
            )

    @property
    def judged_samples(self) -> int:
        """Samples of every crop that the discriminators see."""
        network = self.model.network
        wanted = round(self.schedule.discriminator_crop * network.sample_rate)
        return min(wanted, self.data.crop_frames * network.hop_length)


def read_config(path: Path) -> TrainConfig:
    """Read a training configuration.

    Raises:
        InputError: the file is missing, no YAML, or has fields that are unknown or out of range.
    """
    return config_from_dict(read_yaml(path) or {}, str(path))


def config_from_dict(fields: object, origin: str) -> TrainConfig:
    """Validate the fields of a configuration that came from `origin`."""
    if isinstance(fields, dict) and isinstance(fields.get("model"), str):
        if fields["model"] not in CONFIGS:
            raise InputError(
                f"{origin}: no model {fields['model']!r}; choose one of {', '.join(CONFIGS)}"
            )
        fields = {**fields, "model": CONFIGS[fields["model"]]}
    if isinstance(fields, dict) and isinstance(kind := fields.get("discriminator"), str):
        fields = {**fields, "discriminator": {"kind": kind}}
    _refuse_unknown(fields, TrainConfig, origin)
    try:
        return TypeAdapter(TrainConfig).validate_python(fields)
    except ValidationError as error:
        kinds = {kind for _, variants in _VARIANTS.values() for kind in variants}
        raise InputError(f"{origin}: {first_problem(error, unnamed=kinds)}") from None


_VARIANTS: dict[str, tuple[Callable[[Any], str], dict[str, type]]] = {
    "network": (network_kind, {"spectral": SpectralConfig, "seanet": SEANetConfig}),
    "discriminator": (
        discriminator_kind,
        {
            "fast": DiscriminatorConfig,
            "encodec": EncodecDiscriminatorConfig,
            "soundstream": SoundStreamDiscriminatorConfig,
        },
    ),
}
"""Fields with several shapes: how to tell which one is meant, and what they are."""


def _refuse_unknown(fields: object, schema: type, where: str) -> None:
    """Name the first field that a dataclass does not have: pydantic passes over it in silence."""
    if not isinstance(fields, dict):
        return
    kinds = get_type_hints(schema)
    for name, value in fields.items():
        if name not in kinds:
            raise InputError(f"{where}: unknown field {name!r}; there are {', '.join(kinds)}")
        kind: type = kinds[name]
        if isinstance(value, dict) and name in _VARIANTS:
            which, variants = _VARIANTS[name]
            if (chosen := which(value)) not in variants:
                raise InputError(
                    f"{where}: {name}: no kind {chosen!r}; choose one of {', '.join(variants)}"
                )
            kind = variants[chosen]
        if is_dataclass(kind):
            _refuse_unknown(value, kind, f"{where}: {name}")


def shipped_config(name: str) -> Path:
    """Path of a configuration of the package.

    Raises:
        InputError: there is none of that name.
    """
    return shipped_yaml("configuration", "configs", name)
