"""Training of what goes beyond one scan to one T1: distances to the brain's boundary, several scans, residuals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training_maker import head, make_training, save

from synthsr import labels, train
from synthsr.errors import ConfigurationError
from synthsr.predict import Predictor
from synthsr.segment import Segmenter
from synthsr.weights.storage import load_network

CPU = torch.device("cpu")
STAGE = {"steps": 2, "field_mm": 16, "translation_mm": 2, "learning_rate": 1.0e-2}
TINY = {"features": 2, "levels": 2, "stride": 2, "norm": "instance"}


def test_segmenter_learns_distances_beside_labels(tmp_path: Path) -> None:
    """From weights without them; on a single image their error falls by nine tenths."""
    plain = train.train(train.read_config(make_training(tmp_path)), device=CPU)[0]
    plan = {**TINY, "distance": True, "start_from": str(plain), "stages": [STAGE]}
    path = make_training(tmp_path, run=str(tmp_path / "wide"), segmentation=plan, synthsr={**TINY, "stages": []})
    config = train.read_config(path)
    (weights,) = train.train(config, device=CPU)
    assert load_network(weights).network.config.distance
    assert "distance_mm2" in (tmp_path / "wide" / "segmentation" / "log.tsv").read_text().splitlines()[0]
    scan = torch.rand(1, 1, 16, 16, 16)
    assert Segmenter.load(weights).strip(scan).shape == (16, 16, 16)

    wide = replace(config.segmentation, features=8, start_from=None)
    trainer = train.Trainer(replace(config, run=tmp_path / "heart", segmentation=wide), "segmentation", CPU)
    stage = replace(wide.stages[0], distance_weight=1.0)
    generator = trainer._generators(stage)[0]
    sample = generator.apply([trainer.maps[0]], [generator.sample(np.random.default_rng(1))])
    optimiser = torch.optim.Adam(trainer.network.parameters(), lr=1e-2)
    errors = []
    for _ in range(200):
        outcome = trainer._loss(sample, stage, 0)
        optimiser.zero_grad()
        outcome.loss.backward()
        optimiser.step()
        errors.append(outcome.parts["distance_mm2"])
    assert np.mean(errors[-10:]) < 0.1 * errors[0]


def test_synthsr_of_tissues_starts_as_its_segmenter(tmp_path: Path) -> None:
    """Its first image is the posteriors' mean of the labels' T1 grey levels; both losses fall on a single image."""
    plan = {**TINY, "last_features": 4, "tissues": True, "stages": [{**STAGE, "dice_weight": 0, "tissue_weight": 0.2}]}
    config = train.read_config(make_training(tmp_path, synthsr=plan))
    train.train(replace(config, synthsr=replace(config.synthsr, stages=())), device=CPU)
    trainer = train.Trainer(config, "synthsr", CPU)
    assert trainer.segmenter is not None
    grey = torch.tensor([labels.by_number()[number].t1_grey / 255 for number in labels.segmentation_numbers()])
    scan = torch.rand(1, 1, 16, 16, 16)
    with torch.inference_mode():
        expected = (trainer.segmenter(scan).softmax(1) * grey[:, None, None, None]).sum(1, keepdim=True)
        torch.testing.assert_close(trainer.network.eval()(scan), expected)

    stage = config.synthsr.stages[0]
    generator = trainer._generators(stage)[0]
    sample = generator.apply([trainer.maps[0]], [generator.sample(np.random.default_rng(1))])
    trainer.optimiser.param_groups[0]["lr"] = stage.learning_rate
    rows = []
    for _ in range(60):
        outcome = trainer._loss(sample, stage, 0)
        trainer.optimiser.zero_grad()
        outcome.loss.backward()
        trainer.optimiser.step()
        rows.append(outcome.parts)
    assert rows[-1]["l1"] < 0.9 * rows[0]["l1"] and rows[-1]["tissue_loss"] < 0.98 * rows[0]["tissue_loss"]
    weights = train.train(config, device=CPU)[-1]
    assert load_network(weights).network.config.tissues == len(labels.segmentation_numbers())


@pytest.mark.parametrize("kind", ["t1", "channel"])
def test_two_scans_with_reliability_maps_and_residual(tmp_path: Path, kind: str) -> None:
    """What is trained on two scans of a session takes two scans of a session."""
    generator: dict[str, Any] = {
        "preset": "synthsr-2021",
        "channels": 2,
        "target": {"kind": kind, "channel": 1} if kind == "channel" else {"kind": kind},
    }
    stage = {**STAGE, "dice_weight": 0.0 if kind == "channel" else 0.25}
    config = train.read_config(
        make_training(
            tmp_path,
            generator=generator,
            synthsr={**TINY, "residual": 1, "reliability": True, "stages": [stage]},
        )
    )
    weights = train.train(config, device=CPU)[1]
    loaded = load_network(weights)
    assert (loaded.network.config.in_channels, loaded.network.config.residual) == (4, 1)
    first = save(head().astype(np.float32), tmp_path / "t1.nii.gz")
    second = save(200 - head().astype(np.float32) % 100, tmp_path / "t2.nii.gz")
    predictor = Predictor.load(weights)
    predictor(first, tmp_path / "out.nii.gz", also=[second])
    assert (tmp_path / "out.nii.gz").is_file()
    with pytest.raises(ConfigurationError, match="take 2 scans"):
        predictor(first, tmp_path / "other.nii.gz")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"segmentation": {**TINY, "residual": 0}}, "residual, reliability and tissues are of synthsr"),
        ({"synthsr": {**TINY, "distance": True}}, "distance is of segmentation"),
        ({"synthsr": {**TINY, "stages": [{**STAGE, "tissue_weight": 1}]}}, "tissue_weight goes with tissues: true"),
        ({"synthsr": {**TINY, "residual": 1}}, "residual is input channel 1; they are 0 to 0"),
        ({"generator": {"target": {"kind": "channel"}}}, "dice_weight: 0"),
        (
            {"generator": {"preset": "synthsr-2021", "channels": 2}, "validation_scans": [{"scan": "a.nii.gz"}]},
            "takes 2 of a session",
        ),
    ],
)
def test_contradictions_are_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        train.read_config(make_training(tmp_path, **changes))


def test_synthsr_may_start_at_random(tmp_path: Path) -> None:
    """And not from the trunk of its segmenter, which has seen labels."""
    config = train.read_config(make_training(tmp_path))
    train.train(replace(config, synthsr=replace(config.synthsr, stages=())), device=CPU)
    from_trunk = train.Trainer(config, "synthsr", CPU)
    assert from_trunk.segmenter is not None
    trunk = from_trunk.segmenter.state_dict()["down.0.conv0.weight"]
    assert torch.equal(from_trunk.network.state_dict()["down.0.conv0.weight"], trunk)
    at_random = train.Trainer(replace(config, synthsr=replace(config.synthsr, start_from="random")), "synthsr", CPU)
    assert not torch.equal(at_random.network.state_dict()["down.0.conv0.weight"], trunk)


SHIPPED = [
    path
    for path in sorted((Path(__file__).parents[2] / "config").rglob("*.yaml"))
    if path.stem.startswith("train") or path.parent.name == "ablation"
]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_configurations_are_sound(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And hold nobody's base anatomy: heads 11 to 13 are for validation alone."""
    monkeypatch.setenv("SYNTHSR_TEST_DATA", "/data")
    monkeypatch.chdir(path.parents[1] if path.parent.name == "config" else path.parents[2])
    config = train.read_config(path)
    assert config.segmentation.stages or config.synthsr.stages
    assert config.label_maps[0] == Path("/data/labels")
    assert not {f"training_seg_{number}.nii.gz" for number in (11, 12, 13)} & set(config.training)
    assert not any("datalad" in str(image) for image in (*config.training, *config.t1_targets.values()))
