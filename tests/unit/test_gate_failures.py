"""The planted failures do what they say, and the figures made of them are right on known answers."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import gate_failures
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from miniature_head import numbers as miniature

from analysis import gate, tsv
from analysis.gate import read_limits
from synthsr import labels
from synthsr.networks import UNet, UNetConfig
from synthsr.weights.storage import save_network


@pytest.fixture
def scan() -> gate_failures.Scan:
    """Slices of 2 mm; every voxel has its own value."""
    data = np.arange(8 * 10 * 6, dtype=np.float32).reshape(8, 10, 6) + 1
    return data, np.diag([1.0, 1.0, 2.0, 1.0])


def test_a_scan_is_acquired_where_its_slices_lie() -> None:
    image = torch.zeros(1, 1, 42, 42, 42)
    image[..., 10:32, 10:32, 10:32] = 1
    for seed in range(6):
        data, affine = gate_failures.acquire(image, np.random.default_rng(seed))
        voxels = np.argwhere(data > 500)
        middle = affine @ [*voxels.mean(axis=0), 1]
        # The box's middle is that of the field of view, half a voxel off; slices may cut it a little unevenly.
        assert np.abs(middle[:3] + 0.5).max() < 1.5
        assert np.prod(np.diag(affine)[:3]) * len(voxels) == pytest.approx(22**3, rel=0.35)


def test_failures_change_what_they_say(scan: gate_failures.Scan) -> None:
    rng = np.random.default_rng(1)
    data, affine = scan
    for axis, kind in ((0, gate_failures.MIRRORED), (1, "back to front"), (2, "upside down")):
        changed, place = gate_failures.FAILURES[kind](scan, rng)
        assert np.array_equal(np.flip(changed, axis), data) and np.array_equal(place, affine)
    changed, place = gate_failures.wrong_size(scan, rng)
    assert np.array_equal(changed, data)
    assert abs(np.linalg.det(place)) in (1.0, 4.0)
    for seed in range(5):
        changed, place = gate_failures.half(scan, np.random.default_rng(seed))
        assert changed.size == data.size / 2
        # What is left lies where it lay.
        voxel = np.argwhere(data == changed[1, 1, 1])[0]
        assert np.allclose(affine @ [*voxel, 1], place @ [1, 1, 1, 1])
        changed, place = gate_failures.wrong_axes(scan, np.random.default_rng(seed))
        assert sorted(changed.shape) == sorted(data.shape) and changed.shape != data.shape
        assert np.linalg.det(place) == pytest.approx(2)


def test_motion_keeps_the_brightness_and_nothing_in_its_place(scan: gate_failures.Scan) -> None:
    data = np.zeros((32, 32, 8), np.float32)
    data[10:20, 12:22] = 100
    moved, _ = gate_failures.shaken((data, np.diag([1.0, 1, 4, 1])), np.random.default_rng(2))
    assert np.sum(moved**2, dtype=float) == pytest.approx(np.sum(data**2, dtype=float), rel=0.01)
    assert np.corrcoef(moved.ravel(), data.ravel())[0, 1] < 0.9


def test_the_whole_of_it_with_untrained_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small head of which nothing is right: both limits tell it, and a second call measures nothing again."""
    torch.manual_seed(1)
    for name, out in (("segmentation", len(labels.segmentation_numbers())), ("synthsr", 1)):
        save_network(UNet(UNetConfig(1, out, 2, 2, 2)), tmp_path / f"{name}.safetensors", {"steps": 0})
    for name in ("a", "b"):
        nib.save(nib.Nifti1Image(miniature().astype(np.int16), np.eye(4)), tmp_path / f"{name}.nii.gz")
    n_kinds = len(gate_failures.KINDS) - 1
    arguments = ["--tune", "a.nii.gz", "--test", "b.nii.gz", "--out", "out", "--draws", n_kinds, "--tune-draws", "1",
                 "--field-mm", "48", "--segmentation", "segmentation.safetensors", "--synthsr", "synthsr.safetensors",
                 "--device", "cpu", "--threads", "1"]  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["script", *map(str, arguments)])
    gate_failures.main()
    for name in ("shipped", "tuned"):
        table = tsv.read(tmp_path / "out" / name / "sensitivity.tsv", numbers=["n", "share"]).set_index("kind")
        assert table.loc[gate_failures.SOUND, "n"] == n_kinds and table.loc["all but mirrored", "n"] == n_kinds - 1
        assert table.loc[gate_failures.SOUND, "share"] == 0, "a head of a tenth of a litre is none"
        assert table.loc["all but mirrored", "share"] == 1
    monkeypatch.setattr(gate_failures, "of_head", None)
    gate_failures.main()


def test_every_draw_is_judged_sound_and_the_failures_take_turns() -> None:
    kinds = [gate_failures.kinds_of(draw) for draw in range(2 * (len(gate_failures.KINDS) - 1))]
    assert {first for first, _ in kinds} == {gate_failures.SOUND}
    assert sorted(failure for _, failure in kinds) == sorted(2 * gate_failures.KINDS[1:])


def test_a_mirrored_scan_has_a_session() -> None:
    sizes = {"Left-Amygdala": 110.0, "Right-Amygdala": 100.0, "Left-Putamen": 90.0, "Right-Putamen": 100.0}
    mirrored = {"Left-Amygdala": 100.0, "Right-Amygdala": 110.0, "Left-Putamen": 100.0, "Right-Putamen": 90.0}
    assert gate_failures.sides_of({"volumes_mm3": sizes, "companions": [sizes, sizes]}) == pytest.approx(1)
    assert gate_failures.sides_of({"volumes_mm3": mirrored, "companions": [sizes, sizes]}) == pytest.approx(-1)
    assert math.isnan(gate_failures.sides_of({"volumes_mm3": sizes, "companions": None}))
    assert math.isnan(gate_failures.sides_of({"reason": "refused", "companions": [sizes, sizes]}))


def test_limits_come_from_sound_scans_and_let_them_pass() -> None:
    rng = np.random.default_rng(0)
    sound = pd.DataFrame({"kind": gate_failures.SOUND, "reason": "", "icv_mm3": 1.5e6, "icv_litres": 1.5,
                          "edge_share": 0.0, "noise_share": rng.normal(0.03, 0.01, 200), "motion": 0.05,
                          "agreement_dice": rng.normal(0.8, 0.03, 200), "grey_white_contrast": 0.33,
                          "asymmetry": 0.01, "entropy": 0.3, "cohort_distance": math.nan})  # fmt: skip
    limits = gate_failures.tuned(sound)
    shipped = read_limits().set_index("measure")
    named = limits.set_index("measure")
    assert named.loc["agreement_dice", "limit"] < 0.75 < named.loc["agreement_dice", "typical"] < 0.85
    assert named.loc["noise_share", "limit"] > 0.05
    assert named.loc["cohort_distance"].equals(shipped.loc["cohort_distance"])
    assert named.loc["icv_litres"].equals(shipped.loc["icv_litres"])
    judged = gate_failures.judged(sound, limits)
    assert judged["excluded"].mean() <= 0.03
    failed = gate_failures.judged(sound.assign(agreement_dice=0.3, kind="motion"), limits)
    assert failed["excluded"].all()
    summary = gate_failures.summarise(pd.concat([judged, failed])).set_index("kind")
    assert summary.loc["motion", "share"] == 1 and summary.loc["all but mirrored", "n"] == 200
    assert summary.loc["all failures", "n"] == 200
    assert summary.loc[gate_failures.SOUND, "figure"] == "specificity" and summary.loc["sound", "share"] >= 0.97


def test_scores_are_told_with_their_share_of_failures() -> None:
    kinds = [gate_failures.SOUND, gate_failures.SOUND, "motion", "motion", gate_failures.MIRRORED, "half brain"]
    table = pd.DataFrame({"kind": kinds, "score": [0.0, 0.6, 0.7, 3.0, 0.1, math.nan]})
    found = gate_failures.calibrated(table).set_index("up_to")
    assert found["scans"].to_dict() == {0.25: 2, 0.5: 0, 0.75: 2, 1.0: 0, 1.5: 0, 2.0: 0, math.inf: 1}
    assert found.loc[[0.25, 0.75, math.inf], "share"].tolist() == [0.5, 0.5, 1]


def test_intervals_of_shares() -> None:
    assert gate_failures.wilson(95, 100) == pytest.approx((0.8882, 0.9785), abs=1e-4)
    assert gate_failures.wilson(0, 10)[0] == pytest.approx(0, abs=1e-9)
    assert math.isnan(gate_failures.wilson(0, 0)[0])


def test_a_scan_that_a_stage_refused_counts_as_found_out() -> None:
    table = gate_failures.as_table([{"kind": gate_failures.CONSTANT, "reason": "every voxel is 64"}])
    assert gate_failures.judged(table, gate.read_limits())["excluded"].all()
