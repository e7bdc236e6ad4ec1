"""Configurations: shipped ones load, wrong ones are named."""

from dataclasses import asdict
from pathlib import Path

import pytest

from rvq.errors import InputError
from rvq.train.config import (
    ScheduleConfig,
    TrainConfig,
    config_from_dict,
    read_config,
    shipped_config,
)

SHIPPED = sorted(path.stem for path in shipped_config("speech_24khz").parent.glob("*.yaml"))


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_configurations_load(name):
    assert read_config(shipped_config(name)).name == name


def test_a_configuration_survives_its_way_through_a_checkpoint():
    config = TrainConfig(name="x", schedule=ScheduleConfig(total_steps=5))
    assert config_from_dict(asdict(config), "checkpoint") == config


@pytest.mark.parametrize("kind", ["fast", "encodec", "soundstream"])
def test_discriminators_by_name(kind):
    config = config_from_dict({"discriminator": kind}, "here")
    assert config.discriminator.kind == kind
    assert config_from_dict(asdict(config), "checkpoint") == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bogus: 1", "unknown field 'bogus'"),
        ("schedule: {bogus: 1}", "schedule: unknown field 'bogus'"),
        ("model: {network: {width: 8, bogus: 1}}", "network: unknown field 'bogus'"),
        ("model: nonesuch", "spectral_24khz"),
        ("model: {quantizer: {dim: wide}}", "quantizer.dim"),
        ("model: {quantizer: {dim: 64}}", "agree"),
        ("model: {quantizer: {codebook_size: 64, init_vectors: 20}}", "codebook_size 64, got 20"),
        ("model: {quantizer: {codebook_size: 65536}}", "codebook_size 65536, got 30000"),
        ("model: {network: {lookahead: -1}}", "network.lookahead"),
        ("model: {network: {companding: 1.5}}", "network.companding"),
        ("model: {network: {hop_length: 0}}", "hop_length"),
        ("model: {network: {hop_length: 100}}", "at most hop_length"),
        ("loss: {n_ffts: [512]}", "n_mels"),
        ("loss: {n_ffts: [130, 512, 128]}", "multiples of 4"),
        ("discriminator: {n_ffts: [130]}", "multiples of 4"),
        ("discriminator: {bogus: 1}", "discriminator: unknown field 'bogus'"),
        ("discriminator: {kind: encodec, bogus: 1}", "discriminator: unknown field 'bogus'"),
        ("discriminator: {n_ffts: []}", "discriminator.n_ffts"),
        ("discriminator: {kind: encodec, n_ffts: []}", "discriminator.n_ffts"),
        ("discriminator: nonesuch", "no kind 'nonesuch'; choose one of fast, encodec, soundstream"),
        ("discriminator: {kind: encodec, n_ffts: [130]}", "multiples of 4"),
        (
            "loss: {mel: 0, complex: 0, time: 0}",
            "at least one reconstruction loss",
        ),
        ("schedule: {warmup_steps: 2.5}", "schedule.warmup_steps"),
        ("schedule: {betas: [0.8]}", "schedule.betas"),
        ("schedule: {betas: [0.8, 1.0]}", "schedule.betas.1"),
        ("schedule: {discriminator_crop: 1.0e-6}", "see 0 samples of a crop and need 1"),
        (
            "{discriminator: encodec, schedule: {discriminator_crop: 0.03}}",
            "see 720 samples of a crop and need 2048; raise schedule.discriminator_crop",
        ),
        ("{discriminator: soundstream, data: {crop_frames: 8}}", "see 2560 .* need 2816"),
        ("schedule: 7", "schedule"),
        ("precision: int8", "precision"),
        ("data: {batch_size: 0}", "data.batch_size"),
        ("data: {mix_probability: 3}", "data.mix_probability"),
        ("schedule: {total_steps: -1}", "schedule.total_steps"),
        ("schedule: {learning_rate: .nan}", "schedule.learning_rate"),
        ("model: {network: {width: -3}}", "network.width"),
        ("model: {quantizer: {n_codebooks: 0}}", "quantizer.n_codebooks"),
        ("- a\n- b", "the file"),
        ("a: [", "YAML"),
    ],
)
def test_mistakes_are_named_in_one_sentence(tmp_path, text, message):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        read_config(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_crops_may_be_short_where_no_discriminator_sees_them():
    fields = {"discriminator": "encodec", "data": {"crop_frames": 4}}
    schedule = {"adversarial_start": 1.0}
    assert config_from_dict({**fields, "schedule": schedule}, "here").judged_samples == 1280
    with pytest.raises(InputError, match="see 1280 samples"):
        config_from_dict(fields, "here")


def test_missing_files():
    with pytest.raises(InputError, match="cannot read"):
        read_config(Path("nonesuch.yaml"))
    with pytest.raises(InputError, match="speech_24khz"):
        shipped_config("nonesuch")


def test_rate_warms_up_stays_and_decays():
    schedule = ScheduleConfig(total_steps=1_000, warmup_steps=100, decay_share=0.2)
    assert schedule.rate(0) == 0.01
    assert schedule.rate(49) == 0.5
    assert schedule.rate(100) == schedule.rate(800) == 1
    assert schedule.rate(900) == 0.5
    assert schedule.rate(1_000) == schedule.rate(2_000) == 0
