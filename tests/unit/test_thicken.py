"""Thick slices made from a scan of 1 mm: where they lie, what they hold, and what is refused."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from numpy.testing import assert_allclose

from synthsr import cli
from synthsr.errors import ConfigurationError
from synthsr.thicken import thicken

#: Left-inferior-anterior: coronal slices are the last axis, from behind to the front.
LIA = np.array([[-1, 0, 0, 15], [0, 0, 1, -20], [0, -1, 0, 12], [0, 0, 0, 1.0]])


def blob(shape=(24, 24, 40)) -> np.ndarray:
    x, y, z = np.indices(shape)
    return (100 * np.exp(-((x - 11) ** 2 + (y - 13) ** 2 + (z - 18) ** 2) / 40)).astype(np.float32)


def centre_mm(data: np.ndarray, affine: np.ndarray) -> np.ndarray:
    weights = data / data.sum()
    return affine[:3, :3] @ [(weights * index).sum() for index in np.indices(data.shape)] + affine[:3, 3]


@pytest.mark.parametrize(("orientation", "axis"), [("sagittal", 0), ("axial", 1), ("coronal", 2)])
def test_slices_stay_where_they_were(orientation, axis):
    thick, grid = thicken(blob(), LIA, spacing_mm=4, orientation=orientation)
    assert thick.shape[axis] == blob().shape[axis] // 4
    assert_allclose(np.linalg.norm(grid.affine[:3, :3], axis=0), [4 if n == axis else 1 for n in range(3)])
    assert_allclose(centre_mm(thick, grid.affine), centre_mm(blob(), LIA), atol=0.05)
    assert 4 * thick.sum() == pytest.approx(blob().sum(), rel=0.01)


def test_constant_stays_and_edges_blur():
    flat, _ = thicken(np.full((8, 8, 30), 7, np.float32), LIA, spacing_mm=5, orientation="coronal")
    assert_allclose(flat, 7, rtol=1e-5)
    step = np.zeros((8, 8, 30), np.float32)
    step[..., 15:] = 1
    thick, _ = thicken(step, LIA, spacing_mm=5, orientation="coronal")
    # Centres at 2, 7, 12, 17 …: two of them lie within a slice's width of the edge at 14.5, as far to either side.
    assert_allclose(thick[0, 0, 2] + thick[0, 0, 3], 1, atol=1e-3)
    assert 0.05 < thick[0, 0, 2] < 0.4


@pytest.mark.parametrize(("spacing_mm", "orientation"), [(1, "coronal"), (30, "coronal"), (4, "oblique")])
def test_what_cannot_be(spacing_mm, orientation):
    with pytest.raises(ConfigurationError):
        thicken(blob(), LIA, spacing_mm=spacing_mm, orientation=orientation)


def test_command(tmp_path):
    nib.save(nib.Nifti1Image(blob(), LIA), tmp_path / "T1w.nii.gz")
    words = ["thicken", str(tmp_path / "T1w.nii.gz"), str(tmp_path / "acq-5mm_T1w.nii.gz"), "--spacing-mm", "5"]
    assert cli.main([*words, "--orientation", "coronal"]) == 0
    assert nib.load(tmp_path / "acq-5mm_T1w.nii.gz").shape == (24, 24, 8)
