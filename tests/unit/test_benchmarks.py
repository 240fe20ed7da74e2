"""The measuring scripts on miniature heads: known answers, going on where they stopped, and fair comparisons."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
import yaml

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import card_tables  # noqa: E402
import compare_ablation  # noqa: E402
import deformed_heads  # noqa: E402
import evaluate_real  # noqa: E402
import evaluate_weights  # noqa: E402
import feature_stability  # noqa: E402
import intervals  # noqa: E402
import measure_inpainting  # noqa: E402
import measure_speed  # noqa: E402
import plot_real_scans  # noqa: E402

from synthsr import labels, train  # noqa: E402
from synthsr.errors import ConfigurationError  # noqa: E402
from synthsr.generator import Generator, load_label_map  # noqa: E402
from synthsr.generator import read_config as read_generator_config  # noqa: E402
from synthsr.networks import UNet, UNetConfig  # noqa: E402
from synthsr.weights.storage import load_network, save_network  # noqa: E402

CPU = torch.device("cpu")
CHANNELS = len(labels.segmentation_numbers())


@pytest.fixture
def head(tmp_path: Path) -> Path:
    """Nested boxes: skin, fluid, cortex, white matter and a hippocampus."""
    number = np.zeros((28, 28, 28), np.int16)
    for margin, inner in ((1, 511), (3, 24), (4, 3), (7, 2), (10, 17)):
        number[(slice(margin, -margin),) * 3] = inner
    right = number[14:]
    for left in (2, 3, 17):
        right[right == left] = labels.mirror_number(left)
    path = tmp_path / "head.nii.gz"
    nib.save(nib.Nifti1Image(number, np.eye(4)), path)
    return path


@pytest.fixture
def weights(tmp_path: Path) -> dict[str, Path]:
    """Untrained networks of both kinds."""
    torch.manual_seed(1)
    paths = {name: tmp_path / f"{name}.safetensors" for name in ("segmentation", "synthsr")}
    for name, out in (("segmentation", CHANNELS), ("synthsr", 1)):
        save_network(UNet(UNetConfig(1, out, 2, 2)), paths[name], {"steps": 0})
    return paths


def call(monkeypatch: pytest.MonkeyPatch, module: object, *arguments: object) -> None:
    """Run a script's main function, at one thread as the tests are."""
    monkeypatch.setattr(sys, "argv", ["script", *map(str, arguments), "--threads", "1"])
    module.main()  # type: ignore[attr-defined]


def test_thick_slices_are_the_generators(head: Path) -> None:
    """Scanning a finished head equals the generator's own acquisition at that spacing."""
    source, make = load_label_map(head), deformed_heads.generator(CPU, field_mm=32)
    rng = np.random.default_rng(1)
    params = deformed_heads.looking_like(make.sample(rng), "T2", rng)
    fine = make.apply([source], [params])
    spacing = np.array([[1.0, 5.0, 1.0]])
    acquire = {"spacing_mm": spacing, "profile_sd_mm": 0.42 * spacing, "offset_mm": (spacing - 1) / 2}
    wanted = make.apply([source], [replace(params, steps=(*params.steps[:-1], acquire))])
    found = deformed_heads.scanned(fine.image, 5, "coronal")
    assert (found - wanted.image).abs().max() < 1e-5
    assert (found - fine.image).abs().max() > 0.05
    assert deformed_heads.scanned(fine.image, 1, "coronal") is fine.image


def test_contrasts_share_all_but_their_grey_levels(head: Path) -> None:
    source, make = load_label_map(head), deformed_heads.generator(CPU, field_mm=32)
    t1, t2 = (deformed_heads.head(make, source, 3, contrast) for contrast in ("T1", "T2"))
    assert torch.equal(t1.channel, t2.channel) and torch.equal(t1.target, t2.target)
    numbers = torch.tensor(labels.segmentation_numbers())[t1.channel[0]]
    white, cortex = (torch.isin(numbers, torch.tensor(both)) for both in (labels.WHITE_MATTER, labels.CORTEX))
    assert t1.image[0, 0][white].mean() > t1.image[0, 0][cortex].mean()
    assert t2.image[0, 0][white].mean() < t2.image[0, 0][cortex].mean()


def rows_of(volumes: dict[str, list[float]], true: list[int]) -> pd.DataFrame:
    """Hippocampi of two draws per map; everything else of a row is fixed."""
    fixed = {"contrast": "T1", "spacing_mm": 5, "orientation": "axial", "route": "direct", "label": 17, "dice": 0.5}
    return pd.DataFrame(
        {**fixed, "label_map": name, "draw": draw, "true_mm3": true[draw], "volume_mm3": volume}
        for name, measured in volumes.items()
        for draw, volume in enumerate(measured)
    )


def test_summary_of_known_errors() -> None:
    """Map a reads 10 % too much, map b 30 % too much and twice as large in one draw as in the other."""
    table = rows_of({"a": [1100, 2200], "b": [1300, 2600]}, [1000, 2000])
    images = table.assign(l1_grey=4.0, ssim=0.5)
    summary = evaluate_weights.summarise(pd.concat([table, table.assign(route="synthsr")]), images)
    for scan in ("5 mm", "axial", "5 mm axial"):
        entry = summary["direct"][scan]["volume"]["Hippocampus"]
        assert entry["bias_percent"] == [20.0, 10.0, 30.0] == entry["absolute_error_percent"]
        assert 0.95 < entry["pearson_r"][0] < 1
        assert summary["direct"][scan]["dice_by_structure"]["Hippocampus"] == [0.5, 0.5, 0.5]
        assert summary["direct"][scan]["volume"]["Amygdala"]["bias_percent"] == [None, None, None]
    summary |= {"label_maps": ["a", "b"], "draws_per_map": 2, "spacings_mm": [5]}
    text = card_tables.markdown({**summary, "segmentation_sha256": "1" * 64, "synthsr_sha256": "2" * 64})
    assert "| hippocampus | +20 (+10 to +30) | 20 (10–30) | +0.97 (+" in text
    assert "| amygdala | – | – | – |" in text
    assert "| 5 mm axial | 0.500 (0.500–0.500) | 0.500 (0.500–0.500) |" in text


def test_intervals_come_from_maps_not_rows() -> None:
    """A thousand rows of two heads leave the interval as wide as two heads make it."""
    rows = pd.DataFrame({"label_map": ["a"] * 1000 + ["b"] * 10, "value": [1.0] * 1000 + [3.0] * 10})
    assert intervals.of_mean(rows, "value") == [2.0, 1.0, 3.0]
    values = np.random.default_rng(1).standard_normal((400, 2))
    rows = pd.DataFrame({"label_map": np.repeat(["a", "b", "c", "d"], 100), "x": values[:, 0], "y": values.sum(axis=1)})
    plain = intervals.of_statistic(rows, ["x", "y"], lambda pairs: float(np.corrcoef(pairs.T)[0, 1]))
    assert intervals.of_correlation(rows, "x", "y") == plain


def test_evaluation_goes_on_where_it_stopped(
    head: Path, weights: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    arguments = [head, "--out", out, "--spacings-mm", 1, 5, "--field-mm", 32]
    arguments += [f"--{name}={path}" for name, path in weights.items()]
    call(monkeypatch, evaluate_weights, *arguments, "--draws", 1)
    first = out / "parts" / "head_draw-00.json"
    before = first.stat().st_mtime_ns
    call(monkeypatch, evaluate_weights, *arguments, "--draws", 2)
    assert first.stat().st_mtime_ns == before
    summary = json.loads((out / "summary.json").read_text())
    assert summary["segmentation_sha256"] == load_network(weights["segmentation"]).sha256
    assert list(summary["direct"]) == ["1 mm", "5 mm", "axial", "coronal", "sagittal"] + [
        f"5 mm {orientation}" for orientation in ("axial", "coronal", "sagittal")
    ]
    rows = pd.read_csv(out / "structures.tsv", sep="\t")
    assert len(rows) == 2 * 4 * 2 * len(train.MAIN_NUMBERS)
    # An untrained network's Dice of a structure that the head has is near nothing, of one it lacks nothing at all.
    assert summary["direct"]["1 mm"]["dice_by_structure"]["Hippocampus"][0] < 0.3
    assert (out / "card_tables.md").read_text().count("\n### ") == 10
    with pytest.raises(ConfigurationError, match="measured with another segmentation_sha256; give another --out"):
        swapped = tmp_path / "other.safetensors"
        save_network(UNet(UNetConfig(1, CHANNELS, 2, 2)), swapped, {"steps": 1})
        call(monkeypatch, evaluate_weights, *arguments, f"--segmentation={swapped}")


def test_agreement_of_features_has_known_answers() -> None:
    rng = np.random.default_rng(1)
    one = rng.standard_normal((5, 20_000)).astype(np.float32)
    unrelated = rng.standard_normal(20_000)
    other = np.stack([one[0], -one[1], unrelated, one[3] + 2, np.full(20_000, 7.0)]).astype(np.float32)
    correlation, difference = feature_stability.agreement(one, other)
    np.testing.assert_allclose(correlation[:4], [1, -1, 0, 1], atol=0.03)
    np.testing.assert_allclose(difference[:4], [0, 2, np.sqrt(2), 2], atol=0.03)
    assert np.isnan([correlation[4], difference[4]]).all()


def test_overlap_with_another_networks_labels() -> None:
    """Sides are put together; what the other calls unknown is not compared."""
    own, other = np.zeros((2, 4, 4, 4), np.int64)
    own[0], own[3] = 17, 53
    other[0], other[2] = 14, 14
    (row,) = evaluate_real.agreement(own, other, {0: (0,), 14: (17, 53)})
    assert row == {"structure": "Hippocampus", "dice": 0.5, "volume_mm3": 32, "other_volume_mm3": 32}


def test_pictures_keep_left_on_the_left(
    head: Path, weights: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = np.zeros((30, 40, 50))
    volume[5, 20, 25] = 1  # left of the middle, RAS
    middle = np.array([15, 20, 25])
    for axis in (1, 2):
        seen = plot_real_scans.plane(volume, axis, middle)
        assert seen.shape == (plot_real_scans.SHOWN_MM,) * 2
        assert np.argwhere(seen).tolist() == [[100, 90]]  # row: up; column: ten to the left of the middle
    out = tmp_path / "real.png"
    scan = tmp_path / "scan.nii.gz"
    nib.save(nib.Nifti1Image(np.random.default_rng(1).random((30, 32, 28)).astype(np.float32), np.eye(4)), scan)
    arguments = [f"--{name}={path}" for name, path in weights.items()]
    call(monkeypatch, plot_real_scans, scan, "--out", out, *arguments)
    assert out.read_bytes().startswith(b"\x89PNG")


def ablation(name: str, monkeypatch: pytest.MonkeyPatch) -> train.TrainingConfig:
    monkeypatch.setenv("SYNTHSR_TEST_DATA", "data")
    return train.read_config(ROOT / "config" / "ablation" / f"{name}.yaml")


def test_ablations_differ_in_one_thing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    random, t1, loss, none = (
        asdict(ablation(name, monkeypatch))
        for name in ("random_contrast", "t1_contrast", "with_segmentation_loss", "without_segmentation_loss")
    )
    assert {key for key in random if random[key] != t1[key]} == {"run", "generator"}
    assert {key for key in loss if loss[key] != none[key]} == {"run", "synthsr"}
    one, other = loss["synthsr"]["stages"][0], none["synthsr"]["stages"][0]
    assert {key: other[key] for key in one if one[key] != other[key]} == {"dice_weight": 0}
    for plan in (loss, none):
        assert Path(plan["segmentation"]["start_from"]) == random["run"] / "segmentation.safetensors"
        assert plan["segmentation"]["stages"] == ()


def test_known_contrast_is_the_measured_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training on T1-like scans draws the grey levels that T1-like test scans have, on the heads of the other run."""
    monkeypatch.chdir(ROOT)
    both = [
        Generator(read_generator_config(ablation(name, monkeypatch).generator))
        for name in ("t1_contrast", "random_contrast")
    ]
    drawn = [[make.sample(np.random.default_rng(seed)) for seed in range(40)] for make in both]
    for t1, random in zip(*drawn, strict=True):
        assert np.array_equal(t1.deformation.velocity_mm, random.deformation.velocity_mm)
        assert np.array_equal(t1.deformation.affine, random.deformation.affine)
    levels = [np.array([one.steps[0]["mean_grey"][0] for one in some]) for some in drawn]
    assert np.abs(levels[0].mean(axis=0) - deformed_heads.levels("T1")).max() < 3
    assert levels[0].std(axis=0).max() < 5
    assert levels[1].std(axis=0)[1:].min() > 20, "all but the background, which is often dark"


@pytest.fixture
def tiny(head: Path, tmp_path: Path) -> dict[str, object]:
    """Configuration of two steps on the miniature head."""
    stage = {"steps": 2, "field_mm": 32, "translation_mm": 2}
    return {
        "label_maps": str(head.parent),
        "training": [head.name],
        "validation": [],
        "segmentation": {"features": 2, "levels": 2, "stride": 2, "norm": "instance", "stages": [stage]},
    }


def trained(values: dict[str, object], run: Path) -> list[Path]:
    path = run.with_suffix(".yaml")
    path.write_text(yaml.safe_dump({**values, "run": str(run)}))
    return train.train(train.read_config(path), device=CPU)


def test_ablation_behind_one_frozen_segmenter(
    tiny: dict[str, object], head: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the shipped configurations do: a segmenter is taken over unchanged, and SynthSR starts at random."""
    (segmenter,) = trained(tiny, tmp_path / "random")
    plan = dict(tiny["segmentation"])  # type: ignore[call-overload]
    taken = {"start_from": str(segmenter)}
    networks = {}
    for arm, dice_weight in (("with", 0.25), ("without", 0.0)):
        stage = {"steps": 2, "field_mm": 32, "translation_mm": 2, "dice_weight": dice_weight, "learning_rate": 1e-2}
        values = {**tiny, "segmentation": taken, "synthsr": {**plan, "features": 3, "stages": [stage]}}
        (networks[arm],) = trained(values, tmp_path / arm)
        (log,) = (tmp_path / arm / "synthsr").glob("log.tsv")
        assert ("soft_dice" in log.read_text()) == (arm == "with")
    out = tmp_path / "compared"
    arguments = [head, "--out", out, "--draws", 2, "--field-mm", 32, "--voxel-size-mm", 1]
    arguments += [f"--{arm}={path}" for arm, path in networks.items()]
    call(monkeypatch, compare_ablation, *arguments, "--segmentation", segmenter)
    found = json.loads((out / "ablation.json").read_text())
    rows = pd.read_csv(out / "rows.tsv", sep="\t").groupby("arm")["l1_grey"].mean()
    assert found["l1_grey"]["difference"][0] == pytest.approx(rows["with"] - rows["without"], abs=1e-3)
    (another,) = trained({**tiny, "seed": 2}, tmp_path / "another")
    with pytest.raises(ConfigurationError, match="is not the segmenter that it was trained in front of"):
        call(monkeypatch, compare_ablation, *arguments, "--segmentation", another)


def test_steps_are_timed(tiny: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / "timed.yaml").write_text(yaml.safe_dump({**tiny, "run": str(tmp_path / "timed")}))
    config = train.read_config(tmp_path / "timed.yaml")
    figures = measure_speed.trained(config, repeats=3, device=CPU)
    assert 0 < figures["generator_share"] < 1
    assert 1e-4 < figures["step_s"] < 5
    assert not (tmp_path / "timed").exists(), "measuring leaves no run behind"


def test_inpainting_is_told_within_white_matter() -> None:
    """Lesions elsewhere, where tissue has another grey level, do not count."""
    image = np.full((4, 4, 4), 2.0, dtype=np.float32)
    lesions, white = np.zeros((4, 4, 4), dtype=bool), np.ones((4, 4, 4), dtype=bool)
    lesions[0], white[0, 0] = True, False
    image[0], image[0, 0] = 3.0, 100.0
    assert measure_inpainting.ratio(image, lesions, white) == pytest.approx(1.5)
