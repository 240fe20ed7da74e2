"""Training on a miniature head: resuming, provenance, calibration, and what a wrong configuration says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from training_maker import make_training, save

from synthsr import losses, train
from synthsr.errors import ConfigurationError, DataError
from synthsr.weights.storage import load_network

CPU = torch.device("cpu")
BASICS = "run: a\nlabel_maps: b\ntraining: []\nvalidation: []"


@pytest.fixture
def config(tmp_path: Path) -> train.TrainingConfig:
    """Four steps of a tiny segmenter, then four of SynthSR, on a head of nested boxes."""
    return train.read_config(make_training(tmp_path))


def stop_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Break off as a killed process would, in the middle of step ``steps`` + 1."""
    whole = train.Trainer._one_step

    def one_step(trainer: train.Trainer, *arguments: Any) -> dict[str, Any]:
        if trainer.step == steps:
            raise KeyboardInterrupt
        return whole(trainer, *arguments)

    monkeypatch.setattr(train.Trainer, "_one_step", one_step)


@pytest.mark.parametrize("broken_off_at", [1, 3])
def test_resumed_training_equals_uninterrupted(
    config: train.TrainingConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken_off_at: int
) -> None:
    """Broken off before the first checkpoint, and between two."""
    straight = train.train(config, device=CPU)
    broken = replace(config, run=tmp_path / "broken")
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        stop_after(patched, broken_off_at)
        train.train(broken, device=CPU)
    resumed = train.train(broken, device=CPU)
    for one, other in zip(straight, resumed, strict=True):
        a, b = load_file(one), load_file(other)
        assert all(torch.equal(a[key], b[key]) for key in a)
        for log in ("log.tsv", "validation.tsv"):
            rows = [(path.parent / path.stem / log).read_text().splitlines() for path in (one, other)]
            # All but the seconds are the same.
            first, second = ([row.split("\t") for row in table] for table in rows)
            assert [row[:1] + row[2:] for row in first] == [row[:1] + row[2:] for row in second]


def test_finished_training_is_left_alone(config: train.TrainingConfig) -> None:
    paths = train.train(config, device=CPU)
    before = [(path.stat().st_mtime_ns, path.read_bytes()) for path in paths]
    assert train.train(config, device=CPU) == paths
    assert [(path.stat().st_mtime_ns, path.read_bytes()) for path in paths] == before


def test_weights_tell_where_they_come_from(config: train.TrainingConfig, tmp_path: Path) -> None:
    first = train.train(config, device=CPU)[0]
    plan = replace(config.segmentation, start_from=str(first))
    second = train.train(replace(config, run=tmp_path / "second", segmentation=plan), device=CPU)[0]
    told = load_network(second).information
    assert (told["steps"], told["seed"], told["label_maps"]) == (4, 1, ["head.nii.gz"])
    assert told["best_step"] in (2, 4)
    assert told["started_from"]["steps"] == 4
    assert told["started_from"]["sha256"] == load_network(first).sha256


def test_one_pair_can_be_learnt_by_heart(config: train.TrainingConfig) -> None:
    """The loss on a single image falls by nine tenths (Hoffmann 2025)."""
    plan = replace(config.segmentation, features=8)
    trainer = train.Trainer(replace(config, segmentation=plan), "segmentation", CPU)
    generator = trainer._generators(plan.stages[0])[1]
    rng = np.random.default_rng(1)
    sample = generator.apply([trainer.maps[0]], [generator.sample(rng)])
    optimiser = torch.optim.Adam(trainer.network.parameters(), lr=1e-2)
    values = []
    for _ in range(500):
        loss = trainer._loss(sample, plan.stages[0], int(rng.integers(8))).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        values.append(loss.item())
    assert np.mean(values[-10:]) < 0.1 * values[0]


def test_stage_through_a_synthesiser_trains_the_segmenter_alone(config: train.TrainingConfig, tmp_path: Path) -> None:
    segmentation, synthsr = train.train(config, device=CPU)
    before = synthsr.read_bytes()
    stage = replace(config.segmentation.stages[0], dice_weight=0.0, synthesiser=str(synthsr))
    plan = replace(config.segmentation, start_from=str(segmentation), stages=(stage,))
    run = replace(config, run=tmp_path / "calibrated", segmentation=plan, synthsr=train.NetworkPlan())
    (calibrated,) = train.train(run, device=CPU)
    assert synthsr.read_bytes() == before
    assert calibrated.read_bytes() != segmentation.read_bytes()


def test_loss_that_is_no_number_stops_and_keeps_the_checkpoint(
    config: train.TrainingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    train.train(replace(config, synthsr=train.NetworkPlan()), device=CPU)
    checkpoint = next((config.run / "segmentation").glob("checkpoint-*"))
    sound = checkpoint.read_bytes()
    stages = (replace(config.segmentation.stages[0], steps=8),)
    nan = torch.tensor(float("nan"), requires_grad=True)
    monkeypatch.setattr(losses, "segmentation_loss", lambda *_: nan * 1)
    with pytest.raises(DataError, match="loss is nan at step 4 of segmentation; the last checkpoint"):
        train.train(replace(config, segmentation=replace(config.segmentation, stages=stages)), device=CPU)
    assert checkpoint.read_bytes() == sound


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("run: a\nlabel_maps: b\ntraining: []\nvalidation: []\nlearning: 3", "unknown key learning"),
        ("run: a\nlabel_maps: b\ntraining: []\nvalidation: []\ngenerator: {rotate: 3}", "unknown key rotate"),
        ("run: a\nlabel_maps: b\ntraining: []\nvalidation: []\nsynthsr: {stages: [{step: 3}]}", "unknown key step"),
        (f"{BASICS}\nsegmentation: {{stages: [{{steps: 4, learning_rate: 1e-4}}]}}", "expected float, found '1e-4'"),
        (f"{BASICS}\nsynthsr: {{stages: [{{steps: 4, field_mm: 180}}]}}", "180 voxels a side, no multiple of 16"),
        (f"{BASICS}\ngenerator: {{field_mm: 96}}", "generator.field_mm: stages decide it"),
        (BASICS.replace("label_maps: b", "label_maps: [b, $NOT_SET_HERE/b]"), "NOT_SET_HERE/b: this environment"),
        (f"{BASICS}\nscans: {{a.nii.gz: $NOT_SET_HERE/a}}", "scans.a.nii.gz: .NOT_SET_HERE/a: this environment"),
        (f"{BASICS}\nt1_targets: {{a.nii.gz: b.nii.gz}}", "t1_targets: a.nii.gz is neither in training nor"),
        (f"{BASICS}\nvalidation_scans: [{{labels: a.nii.gz}}]", "validation_scans"),
        ("- run", "expected a mapping"),
    ],
)
def test_wrong_configuration_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "train.yaml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=message) as raised:
        train.read_config(path)
    assert "train.yaml" in str(raised.value)


def test_real_targets_and_batches(config: train.TrainingConfig, tmp_path: Path) -> None:
    """A label map with a real T1 trains towards it."""
    grey = np.random.default_rng(1).uniform(0, 900, (24, 24, 24)).astype(np.float32)
    stages = (replace(config.synthsr.stages[0], images_per_step=2, regression="l2"),)
    run = replace(
        config,
        run=tmp_path / "real",
        t1_targets={"head.nii.gz": str(save(grey, tmp_path / "t1.nii.gz"))},
        synthsr=replace(config.synthsr, stages=stages),
    )
    train.train(run, device=CPU)
    trainer = train.Trainer(run, "synthsr", CPU)
    assert trainer.maps[0].t1 is not None
