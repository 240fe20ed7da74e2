"""The path from a loaded scan to the network."""

from __future__ import annotations

import itertools

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as functional

from synthsr import preprocess
from synthsr.errors import DataError

ORIENTATIONS = [
    "".join(letters)
    for axes in itertools.permutations(("LR", "PA", "IS"))
    for letters in itertools.product(*axes)
]  # fmt: skip


def phantom() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]:
    """Smooth, without any symmetry, anisotropic, in RAS."""
    shape, spacing_mm = (12, 9, 5), (1.0, 1.5, 3.2)
    x, y, z = np.meshgrid(*(np.linspace(0, 1, size) for size in shape), indexing="ij")
    data = 10 * x + 4 * y**2 + 7 * z**3 + 3 * x * y - 2 * y * z + np.sin(5 * x * z)
    affine = np.diag([*spacing_mm, 1.0])
    affine[:3, 3] = [-20, 5, 31]
    return data.astype(np.float32), affine


def test_there_are_48_orientations() -> None:
    assert len(set(ORIENTATIONS)) == 48


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_orientation_does_not_matter(codes: str) -> None:
    data, affine = phantom()
    expected, expected_grid = preprocess.prepare(data, affine)
    turn = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(codes))
    turned_affine = affine @ nib.orientations.inv_ornt_aff(turn, data.shape)
    turned = nib.orientations.apply_orientation(data, turn)
    assert "".join(nib.aff2axcodes(turned_affine)) == codes
    image, grid = preprocess.prepare(turned, turned_affine)
    assert grid.shape == expected_grid.shape
    np.testing.assert_allclose(grid.affine, expected_grid.affine, atol=1e-9)
    torch.testing.assert_close(image, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 5.0), (0.5, 0.9, 1.3), (3.0, 0.7, 1.0)])
def test_resampling_keeps_world_coordinates(spacing_mm: tuple[float, float, float]) -> None:
    """An image of one world coordinate still shows that coordinate on the new grid, in an oblique scan."""
    angle = np.deg2rad(20)
    rotation = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag(spacing_mm)
    affine[:3, 3] = [-12, 40, 7]
    shape = (21, 24, 19)

    def world(shape: tuple[int, ...], affine: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.einsum("ij,j...->i...", affine[:3, :3], np.indices(shape)) + affine[:3, 3].reshape(3, 1, 1, 1)

    inside = (slice(6, -6),) * 3
    for axis in range(3):
        data = world(shape, affine)[axis].astype(np.float32)
        resampled, new_affine = preprocess.resample_to_1mm(data, affine)
        np.testing.assert_allclose(np.linalg.norm(new_affine[:3, :3], axis=0), 1)
        np.testing.assert_allclose(resampled[inside], world(resampled.shape, new_affine)[axis][inside], atol=1e-3)
        assert resampled.shape == tuple(np.floor(np.multiply(shape, spacing_mm) + 0.5).astype(int))


def test_one_millimetre_scan_is_left_alone() -> None:
    data = np.random.default_rng(1).random((5, 6, 7), dtype=np.float32)
    resampled, affine = preprocess.resample_to_1mm(data, np.eye(4))
    np.testing.assert_array_equal(resampled, data)
    np.testing.assert_array_equal(affine, np.eye(4))


@pytest.mark.parametrize("shape", [(1, 31, 32), (33, 64, 50)])
def test_padding_is_centred_and_undone_by_its_negative(shape: tuple[int, int, int]) -> None:
    image = torch.rand(1, 2, *shape) + 1
    padding = preprocess.padding_to_multiple(shape)
    padded = functional.pad(image, padding)
    assert all(size % 32 == 0 and size - old < 32 for size, old in zip(padded.shape[-3:], shape, strict=True))
    assert torch.equal(functional.pad(padded, [-zeros for zeros in padding]), image)
    assert padding[-2::-2] == [-size % 32 // 2 for size in shape]


def test_every_volume_is_scaled_by_itself() -> None:
    image = torch.stack([torch.linspace(-5, 20, 8), torch.linspace(1, 2, 8), torch.full((8,), 3.0)])
    scaled = preprocess.scale_to_unit(image.reshape(3, 1, 2, 2, 2)).reshape(3, 8)
    torch.testing.assert_close(scaled[:2], torch.linspace(0, 1, 8).expand(2, 8))
    assert torch.equal(scaled[2], torch.zeros(8))


def test_ct_is_clipped_before_scaling() -> None:
    data = np.array([-1000, -1, 0, 40, 80, 81, 3000, 20], dtype=np.float32).reshape(2, 2, 2)
    image, _ = preprocess.prepare(data, np.eye(4), ct=True)
    np.testing.assert_allclose(image.numpy().reshape(-1), [0, 0, 0, 0.5, 1, 1, 1, 0.25])


def test_constant_image_is_refused() -> None:
    with pytest.raises(DataError, match="every voxel is 7"):
        preprocess.prepare(np.full((4, 4, 4), 7, np.float32), np.eye(4))


def test_ct_of_air_is_refused() -> None:
    data = np.linspace(-1000, -900, 64, dtype=np.float32).reshape(4, 4, 4)
    with pytest.raises(DataError, match="every voxel is 0"):
        preprocess.prepare(data, np.eye(4), ct=True)
