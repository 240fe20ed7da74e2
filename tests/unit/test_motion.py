"""Heads that moved are told from heads that lay still; and what the network learns from is what it says."""

from __future__ import annotations

import sys
from pathlib import Path

import gate_failures
import measure_motion
import nibabel as nib
import numpy as np
import pytest
import torch
from deformed_heads import levels
from miniature_head import numbers as miniature

from analysis import gate, motion, tsv
from analysis.motion import network, simulate, train
from analysis.simulate import anatomy
from synthsr import labels, preprocess

STILL = np.zeros((64, 64), np.float32)
STILL[20:44, 12:40] = 1
STILL[26:30, 18:34] = 3


def test_a_head_in_one_position_is_a_still_head() -> None:
    pose = np.tile([0.3, 5.0, -4.0], (3, 1))
    spectrum = simulate.restless_spectrum(STILL, np.arange(64), pose, np.array([20, 40]))
    assert np.abs(simulate.magnitude(spectrum) - STILL).max() < 1e-5


def test_a_shift_at_the_edges_of_k_space_leaves_the_picture_where_it_is() -> None:
    poses = np.array([[0, 6.0, 3.0], [0, 0, 0], [0, -6.0, 0]])
    spectrum = simulate.restless_spectrum(STILL, np.arange(64), poses, np.array([20, 44]))
    picture = simulate.magnitude(spectrum)
    assert 0.05 < np.linalg.norm(picture - STILL) / np.linalg.norm(STILL) < 0.5
    assert np.corrcoef(picture.ravel(), STILL.ravel())[0, 1] > 0.9
    # Lines of the middle are the still head's own.
    assert np.array_equal(spectrum[20:44], simulate.centred_spectrum(STILL)[20:44])


def test_positions_move_a_slice_as_they_say() -> None:
    there = simulate.moved(STILL, 0.0, 5.0, -3.0)
    assert np.abs(there - np.roll(STILL, (5, -3), (0, 1))).max() < 1e-6
    assert np.abs(simulate.moved(STILL, np.pi / 2, 0.0, 0.0) - np.rot90(STILL, -1)).max() < 1e-5


def test_acquisitions_take_lines_in_turn_and_move_no_more_than_told() -> None:
    scan = simulate.Acquisition()
    for seed in range(20):
        rng = np.random.default_rng(seed)
        assert sorted(scan.order(50, rng)) == list(range(50))
        poses = scan.poses(rng)
        farthest = np.hypot(poses[:, 1], poses[:, 2]).max()
        assert 2 <= len(poses) <= 8 and 3 - 1e-9 <= farthest <= 14 + 1e-9


def test_only_a_restless_head_changes() -> None:
    scan = simulate.Acquisition(
        cut_probability=0, noise=(0, 0), blanked_probability=0, smoothed_probability=0, gamma=(1, 1)
    )
    top = np.percentile(STILL, 99)
    still = scan(STILL, np.random.default_rng(1), moves=False)
    assert np.abs(still * top - STILL).max() < 1e-5
    restless = scan(STILL, np.random.default_rng(1), moves=True)
    assert np.linalg.norm(restless - still) > 0.1 * np.linalg.norm(still)
    assert np.array_equal(restless, scan(STILL, np.random.default_rng(1), moves=True))


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_slices_lie_across_the_coarse_axis(order: tuple[int, int, int]) -> None:
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    for column, row in enumerate(order):
        affine[row, column] = -5.0 if column == 2 else 1.0
    assert network.directions(affine) == [order[2]]
    assert network.directions(np.diag([1, 1.2, 1, 1])) == [0, 1, 2]


def test_slices_are_cut_about_the_middle_and_scaled() -> None:
    plane = np.zeros((300, 100), np.float32)
    plane[200, 50] = 7
    shown = network.prepared(plane, (200, 50))
    assert shown.shape == (192, 192) and shown[96, 96] == 1 and shown.sum() == 1
    assert not network.prepared(np.zeros((5, 5), np.float32), (2, 2)).any()


@pytest.mark.parametrize("contrast", ["T1", "T2", "FLAIR"])
@pytest.mark.parametrize("spacing_mm", [1, 6])
def test_the_shipped_network_tells_motion(contrast: str, spacing_mm: int) -> None:
    """Of a head that it was not trained on, by another simulation of motion, on either side of the gate's limit."""
    numbers = np.asarray(nib.load(anatomy.DEFAULT).dataobj)
    grey = np.zeros(int(numbers.max()) + 1, np.float32)
    for label, level in zip(labels.table(), levels(contrast), strict=True):
        if label.number < len(grey):
            grey[label.number] = level
    rng = np.random.default_rng(3)
    data = grey[numbers][:, :, ::spacing_mm]
    noisy = np.hypot(data + 4 * rng.standard_normal(data.shape), 4 * rng.standard_normal(data.shape))
    scan = noisy.astype(np.float32), np.diag([1.0, 1, spacing_mm, 1])
    limit = gate.read_limits().set_index("measure")["limit"]["motion"]
    found = []
    for each in (scan, gate_failures.shaken(scan, np.random.default_rng(4))):
        seen, _ = preprocess.prepare(*each)
        found.append(motion.probability(motion.shipped(), seen[0, 0].numpy(), each[1]))
    assert found[0] < limit < found[1]


def test_real_scans_are_measured_as_they_are_and_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = np.zeros((40, 44, 8), np.float32)
    data[8:32, 8:36, 1:7] = np.random.default_rng(0).uniform(50, 100, (24, 28, 6))
    nib.save(nib.Nifti1Image(data, np.diag([4.0, 4, 20, 1])), tmp_path / "scan.nii.gz")
    out = tmp_path / "motion.tsv"
    monkeypatch.setattr(sys, "argv", ["script", str(tmp_path / "scan.nii.gz"), "--draws", "2", "--out", str(out)])
    measure_motion.main()
    table = tsv.read(out, numbers=["as_it_is", "moved_1", "moved_2"])
    values = table[["as_it_is", "moved_1", "moved_2"]].to_numpy()
    assert ((values >= 0) & (values <= 1)).all() and len(np.unique(values)) == 3
    assert "of 2 with motion" in capsys.readouterr().out


def test_training_makes_the_same_weights_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nib.save(nib.Nifti1Image(miniature().astype(np.int16), np.eye(4)), tmp_path / "map.nii.gz")
    scan = np.random.default_rng(0).random((40, 40, 10)).astype(np.float32)
    nib.save(nib.Nifti1Image(scan, np.diag([2.0, 2, 6, 1])), tmp_path / "scan.nii.gz")
    monkeypatch.setitem(train.HEADS, "field_mm", 48)
    monkeypatch.setattr(train, "LEAST_BRIGHT", 0.001)
    monkeypatch.setattr(train, "BATCH", 4)
    monkeypatch.chdir(tmp_path)
    written = []
    for name in ("a.safetensors", "b.safetensors"):
        arguments = ["train", "--label-maps", "map.nii.gz", "--scans", "scan.nii.gz", "--out", name]
        monkeypatch.setattr(sys, "argv", [*arguments, "--steps", "3", "--heads", "1"])
        train.main()
        written.append((tmp_path / name).read_bytes())
    assert written[0] == written[1]
    trained = network.loaded(tmp_path / "a.safetensors")
    assert not any(torch.isnan(value).any() for value in trained.state_dict().values())
