"""What a training leaves beside its weights: tables, TensorBoard's events, the best checkpoint, provenance, a card."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tensorboardX.proto import event_pb2
from training_maker import make_training, save

from synthsr import train
from synthsr.errors import ConfigurationError
from synthsr.train import pictures
from synthsr.train.card import write_card
from synthsr.train.record import LossWatch, append_row
from synthsr.weights.storage import load_network

CPU = torch.device("cpu")


@pytest.fixture
def config(tmp_path: Path) -> train.TrainingConfig:
    """Two steps on coarse voxels, then four steps of a tiny segmenter; no SynthSR."""
    stage = {"steps": 4, "field_mm": [16], "translation_mm": 2, "learning_rate": 1.0e-2}
    plan = {"features": 2, "levels": 2, "stride": 2, "norm": "instance", "stages": [{**stage, "steps": 2}, stage]}
    return train.read_config(make_training(tmp_path, segmentation=plan, synthsr={}, validate_every=1))


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


def events(folder: Path) -> Iterator[Any]:
    """Records of TensorBoard's event files: length, checksum, protocol buffer, checksum."""
    for path in sorted(folder.iterdir()):
        content, place = path.read_bytes(), 0
        while place < len(content):
            (length,) = struct.unpack_from("<Q", content, place)
            yield event_pb2.Event.FromString(content[place + 12 : place + 12 + length])
            place += length + 16


def points(folder: Path) -> dict[str, list[int]]:
    """Steps by tag, as TensorBoard shows them: what a later start of a session purges is gone."""
    shown: dict[str, list[int]] = {}
    for event in events(folder):
        if event.session_log.status == event_pb2.SessionLog.START:
            shown = {tag: [step for step in steps if step < event.step] for tag, steps in shown.items()}
        for value in event.summary.value:
            shown.setdefault(value.tag, []).append(event.step)
    return shown


def fixed_scores(monkeypatch: pytest.MonkeyPatch, scores: list[float], measure: str = "dice") -> None:
    """Validations that give these scores at steps 1, 2, …"""

    def validate(trainer: train.Trainer, *_: object) -> train.trainer.Validation:
        return train.trainer.Validation({measure: scores[trainer.step - 1]})

    monkeypatch.setattr(train.Trainer, "validate", validate)


@pytest.mark.parametrize(
    ("dice_weight", "scores", "best"),
    [
        (1.0, [0.9, 0.9, 0.3, 0.5, 0.5, 0.4], 5),  # the first stage's do not count; of equals the later
        (1.0, [0.9, 0.9, 0.6, 0.5, float("nan"), 0.4], 3),
        (0.0, [0.1, 0.1, 0.6, 0.5, 0.7, 0.8], 4),  # of cross-entropy the least
    ],
)
def test_weights_are_those_of_the_best_validation_of_the_last_stage(
    config: train.TrainingConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    dice_weight: float,
    scores: list[float],
    best: int,
) -> None:
    fixed_scores(monkeypatch, scores, "dice" if dice_weight else "cross_entropy")
    first, last = config.segmentation.stages
    plan = replace(config.segmentation, stages=(first, replace(last, dice_weight=dice_weight)))
    config = replace(config, segmentation=plan, checkpoint_every=1)
    kept = {}
    whole = train.Trainer.save_checkpoint

    def save_checkpoint(trainer: train.Trainer) -> None:
        whole(trainer)
        kept[trainer.step] = {k: v.half() for k, v in trainer.network.state_dict().items()}

    monkeypatch.setattr(train.Trainer, "save_checkpoint", save_checkpoint)
    (path,) = train.train(config, device=CPU)
    told = load_network(path).information
    assert (told["steps"], told["best_step"]) == (6, best)
    for file in (path, config.run / "segmentation" / "best.safetensors"):
        weights = load_file(file)
        assert all(torch.equal(weights[key], kept[best][key]) for key in weights)
        assert not all(torch.equal(weights[key], kept[6][key]) for key in weights)
    state = json.loads((config.run / "segmentation" / "state.json").read_text())
    assert state["best"] == {"step": best, "measure": told_measure(dice_weight), "score": scores[best - 1]}


def told_measure(dice_weight: float) -> str:
    return "dice" if dice_weight else "cross_entropy"


@pytest.mark.parametrize("broken_off_at", [4, 5])
def test_best_checkpoint_survives_a_resume(
    config: train.TrainingConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken_off_at: int
) -> None:
    """The best of step 4 is known when step 4's checkpoint is there; the better one of step 5 is found again."""
    fixed_scores(monkeypatch, [0.9, 0.9, 0.3, 0.4, 0.5, 0.2])
    (straight,) = train.train(config, device=CPU)
    broken = replace(config, run=tmp_path / "broken")
    whole = train.Trainer._one_step

    def one_step(trainer: train.Trainer, *arguments: Any) -> dict[str, Any]:
        if trainer.step == broken_off_at:
            raise KeyboardInterrupt
        return whole(trainer, *arguments)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(train.Trainer, "_one_step", one_step)
        train.train(broken, device=CPU)
    assert load_network(broken.run / "segmentation" / "best.safetensors").information["best_step"] == 4
    (resumed,) = train.train(broken, device=CPU)
    assert load_network(resumed).information["best_step"] == 5
    a, b = load_file(straight), load_file(resumed)
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_added_stage_has_its_own_best(config: train.TrainingConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    fixed_scores(monkeypatch, [0.9] * 6 + [0.1] * 4)
    train.train(config, device=CPU)
    stages = (*config.segmentation.stages, config.segmentation.stages[-1])
    (path,) = train.train(replace(config, segmentation=replace(config.segmentation, stages=stages)), device=CPU)
    assert load_network(path).information["best_step"] == 10


def test_without_validation_the_last_step_counts(config: train.TrainingConfig) -> None:
    (path,) = train.train(replace(config, validation=(), validation_scans=()), device=CPU)
    told = load_network(path).information
    assert (told["steps"], told["best_step"]) == (6, None)
    checkpoint = load_file(config.run / "segmentation" / "checkpoint-0000006.safetensors")
    weights = load_file(path)
    assert all(torch.equal(weights[key], checkpoint[f"model.{key}"].half()) for key in weights)


def test_the_last_step_is_validated_whatever_the_interval(config: train.TrainingConfig) -> None:
    (path,) = train.train(replace(config, validate_every=100), device=CPU)
    assert [row["step"] for row in rows_of(config.run / "segmentation" / "validation.tsv")] == ["6"]
    assert load_network(path).information["best_step"] == 6


def test_checkpoint_of_an_earlier_version_is_resumed(config: train.TrainingConfig) -> None:
    """Neither a best checkpoint nor all columns."""
    (path,) = train.train(config, device=CPU)
    folder = config.run / "segmentation"
    state = json.loads((folder / "state.json").read_text())
    del state["best"]
    (folder / "state.json").write_text(json.dumps(state))
    old = [{"step": row["step"], "seconds": "1", "dice": row["dice"]} for row in rows_of(folder / "validation.tsv")]
    (folder / "validation.tsv").unlink()
    for row in old:
        append_row(folder / "validation.tsv", row)
    plan = replace(
        config.segmentation, stages=(*config.segmentation.stages[:1], replace(config.segmentation.stages[1], steps=5))
    )
    train.train(replace(config, segmentation=plan), device=CPU)
    rows = rows_of(folder / "validation.tsv")
    assert [row["step"] for row in rows] == ["1", "2", "3", "4", "5", "6", "7"]
    assert [row["cross_entropy"] == "n/a" for row in rows] == [True] * 6 + [False]
    assert load_network(path).information["best_step"] == 7


def test_network_of_another_size_is_not_resumed(config: train.TrainingConfig) -> None:
    train.train(config, device=CPU)
    plan = replace(config.segmentation, features=3, stages=(*config.segmentation.stages, config.segmentation.stages[0]))
    with pytest.raises(ConfigurationError, match=r"checkpoint-0000006.safetensors: is not of the network that"):
        train.train(replace(config, segmentation=plan), device=CPU)


def test_tensorboard_shows_every_step_once(config: train.TrainingConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken off after step 5, of which the checkpoint of step 4 knows nothing."""
    whole = train.Trainer._one_step

    def one_step(trainer: train.Trainer, *arguments: Any) -> dict[str, Any]:
        if trainer.step == 5:
            raise KeyboardInterrupt
        return whole(trainer, *arguments)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(train.Trainer, "_one_step", one_step)
        train.train(config, device=CPU)
    folder = config.run / "segmentation"
    assert points(folder / "tensorboard")["training/loss"] == [1, 2, 3, 4, 5]
    train.train(config, device=CPU)
    shown = points(folder / "tensorboard")
    tags = {"training/loss", "training/learning_rate", "validation/dice", "validation/cross_entropy"}
    assert set(shown) == {*tags, "validation/label_map"}
    assert all(steps == [1, 2, 3, 4, 5, 6] for steps in shown.values())
    values = {
        event.step: value.simple_value
        for event in events(folder / "tensorboard")
        for value in event.summary.value
        if value.tag == "training/loss"
    }
    logged = {int(row["step"]): float(row["loss"]) for row in rows_of(folder / "log.tsv")}
    assert values == pytest.approx(logged, rel=1e-5)
    pictured = [v.image for e in events(folder / "tensorboard") for v in e.summary.value if v.tag.endswith("label_map")]
    # Three slices of three columns, eight blocks of two voxels a side.
    assert {(image.height, image.width) for image in pictured} == {(24, 24)}
    assert all(image.encoded_image_string.startswith(b"\x89PNG") for image in pictured)


def test_montage_shows_slices_upright_and_labels_in_their_colours() -> None:
    grey = np.zeros((4, 6, 8), np.float32)
    grey[2, 3, 7] = 1  # top of the middle sagittal and coronal slice
    channel = np.zeros((4, 6, 8), np.int64)
    channel[2, 3, 4] = 1  # white matter, on all middle slices
    shown = pictures.montage([grey, channel])
    assert shown.shape == (24, 16, 3)
    assert (shown[:, :8] == 255).all(axis=-1).sum() == 2
    assert shown[0, 1 + 3].tolist() == shown[8, 2 + 2].tolist() == [255, 255, 255]
    assert (shown[:, 8:] == (245, 245, 245)).all(axis=-1).sum() == 3


def test_steep_rise_of_the_loss_is_noticed_once() -> None:
    watch = LossWatch()
    falling = [watch.median_left_behind(2.0 - 0.01 * step) for step in range(60)]
    assert falling == [None] * 60
    assert watch.median_left_behind(3.9) is None
    median = watch.median_left_behind(9.0)
    assert median == pytest.approx(1.71, abs=0.02)
    assert watch.median_left_behind(90.0) is None
    early = LossWatch()
    assert [early.median_left_behind(loss) for loss in (1.0, 9.0, 90.0)] == [None] * 3


def test_rising_loss_is_told_on_stderr(
    config: train.TrainingConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(train.record, "FEWEST_STEPS", 2)
    whole = train.Trainer._one_step

    def one_step(trainer: train.Trainer, *arguments: Any) -> dict[str, Any]:
        row = whole(trainer, *arguments)
        return {**row, "loss": row["loss"] * (100 if trainer.step >= 5 else 1)}

    monkeypatch.setattr(train.Trainer, "_one_step", one_step)
    train.train(config, device=CPU)
    assert capsys.readouterr().err.count("at step 5, its running median was") == 1


def test_provenance_keeps_what_was_done_before(config: train.TrainingConfig, tmp_path: Path) -> None:
    grey = np.random.default_rng(1).uniform(0, 900, (24, 24, 24)).astype(np.float32)
    masks = tmp_path / "masks"
    for number in range(2):
        save((grey > 100 * number).astype(np.uint8), masks / f"{number}_lesion.nii.gz")
    # Batch norm sees the scan as it is, instance norm a large cube about it.
    config = replace(config, segmentation=replace(config.segmentation, norm="batch"))
    first = replace(
        config,
        t1_targets={"head.nii.gz": str(save(grey, tmp_path / "t1.nii.gz"))},
        scans={"head.nii.gz": str(save(grey, tmp_path / "flair.nii.gz"))},
        validation_scans=(train.ValidationScan(save(grey, tmp_path / "person.nii.gz")),),
        generator={"lesions": {"masks": str(masks)}},
    )
    train.train(first, device=CPU)
    told = json.loads((config.run / "provenance.json").read_text())

    def sha256(path: Path) -> str:
        return hashlib.sha256(path.read_bytes()).hexdigest()

    listing = "".join(f"{path.name}  {sha256(path)}\n" for path in sorted(masks.iterdir()))
    assert told["sha256"] == {
        "label_maps": {"head.nii.gz": sha256(tmp_path / "maps" / "head.nii.gz")},
        "t1_targets": {"head.nii.gz": sha256(tmp_path / "t1.nii.gz")},
        "scans": {"head.nii.gz": sha256(tmp_path / "flair.nii.gz")},
        "validation_scans": [{"scan": sha256(tmp_path / "person.nii.gz"), "labels": None, "names": None}],
        "lesion_masks": {"number": 2, "sha256": hashlib.sha256(listing.encode()).hexdigest()},
    }
    assert (told["from_step"]["segmentation"], told["earlier"]) == (0, [])
    stages = (*config.segmentation.stages, config.segmentation.stages[0])
    longer = replace(config, segmentation=replace(config.segmentation, stages=stages))
    train.train(longer, device=CPU)
    again = json.loads((config.run / "provenance.json").read_text())
    del told["earlier"]
    assert again["earlier"] == [told]
    assert (again["from_step"]["segmentation"], len(again["configuration"]["segmentation"]["stages"])) == (6, 3)
    before = (config.run / "provenance.json").read_bytes()
    (config.run / "segmentation.safetensors").unlink()
    train.train(longer, device=CPU)
    assert (config.run / "provenance.json").read_bytes() == before


def test_card_tells_what_the_run_was(config: train.TrainingConfig) -> None:
    (path,) = train.train(
        replace(config, generator={"preset": "synthseg", "lesions": {"probability": 0.5}}), device=CPU
    )
    card = (config.run / "MODEL_CARD.md").read_text()
    best = load_network(path).information["best_step"]
    row = rows_of(config.run / "segmentation" / "validation.tsv")[best - 1]
    for said in (
        hashlib.sha256(path.read_bytes()).hexdigest(),
        hashlib.sha256((config.label_maps[0] / "head.nii.gz").read_bytes()).hexdigest(),
        "| segmentation | 4 | 16 mm at 1 mm | 0.01 → 0.0001 | cross-entropy + 1 (1 − soft Dice) | 1 |",
        f"cross-entropy {float(row['cross_entropy']):.4f}",
        "preset `synthseg`, changed by",
        "probability: 0.5",
        "Not for diagnosis",
        "heads that were trained on.",
    ):
        assert said in card
    figure = (config.run / "training.png").read_bytes()
    (config.run / "training.png").unlink()
    assert write_card(config.run).read_text() == card
    assert (config.run / "training.png").read_bytes() == figure


def test_label_maps_are_looked_for_in_order(config: train.TrainingConfig, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(tmp_path / "maps" / "head.nii.gz", other / "second.nii.gz")
    shutil.copy(tmp_path / "maps" / "head.nii.gz", other / "head.nii.gz")
    both = replace(config, label_maps=(tmp_path / "maps", other), training=("head.nii.gz", "second.nii.gz"))
    trainer = train.Trainer(both, "segmentation", CPU)
    assert [label_map.path for label_map in trainer.maps] == [tmp_path / "maps/head.nii.gz", other / "second.nii.gz"]
    with pytest.raises(train.data.DataError, match=r"label map third.nii.gz not found in .*/maps, .*/other"):
        train.Trainer(replace(both, training=("third.nii.gz",)), "segmentation", CPU)


def test_real_scan_reaches_its_label_map(config: train.TrainingConfig, tmp_path: Path) -> None:
    grey = np.random.default_rng(1).uniform(0, 900, (24, 24, 24)).astype(np.float32)
    given = {"head.nii.gz": str(save(grey, tmp_path / "flair.nii.gz"))}
    assert train.Trainer(replace(config, scans=given), "segmentation", CPU).maps[0].scan is not None


def test_synthsr_needs_a_segmenter(config: train.TrainingConfig, tmp_path: Path) -> None:
    """One of the run's own, or one that the plan starts from; without either it says so."""
    (segmenter,) = train.train(config, device=CPU)
    alone = replace(config, run=tmp_path / "alone", synthsr=config.segmentation)
    alone = replace(alone, segmentation=replace(config.segmentation, stages=()))
    with pytest.raises(ConfigurationError, match=r"plan segmentation.stages, or name weights by segmentation.start"):
        train.train(alone, device=CPU)
    named = replace(alone, segmentation=replace(alone.segmentation, start_from=str(segmenter)))
    (made,) = train.train(named, device=CPU)
    assert load_network(made).information["segmenter_sha256"] == load_network(segmenter).sha256
