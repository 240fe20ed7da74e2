"""Properties of the generator that hold for every draw, and the distribution of the draws."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from synthsr import labels
from synthsr.errors import DataError
from synthsr.generator import Generator, GeneratorConfig, LabelMap, Params, load_label_map
from synthsr.generator.model import integrate

SIZE = 32
#: Control points 10 mm apart, about as far as in the default field of view.
SMALL = GeneratorConfig(field_mm=SIZE, translation_mm=3, warp_points=4, bias_points=3)
#: Nothing random but the noise's seed.
STILL = GeneratorConfig(
    field_mm=SIZE, rotation_deg=0, scaling=0, shear=0, translation_mm=0, warp_sd_max_mm=0, flip_probability=0,
    sd_grey=(0, 0), tissue_tied_probability=0, dark_background_probability=0, bias_sd_max=0, gamma_log_sd=0,
    high_resolution_probability=1, cut_probability=0,
)  # fmt: skip

seeds = st.integers(0, 2**32 - 1)
few = settings(max_examples=8, deadline=None, derandomize=True, database=None)


def head_numbers(size: int = 28) -> npt.NDArray[np.int32]:
    """Label numbers of a made-up head, RAS: nested spheres, and structures that no symmetry maps onto each other."""
    place = np.indices((size,) * 3) - (size - 1) / 2
    radius = np.linalg.norm(place, axis=0) / (size / 2)
    left = place[0] < 0
    head = np.zeros((size,) * 3, dtype=np.int32)
    for limit, on_the_left, on_the_right in ((0.95, 511, 511), (0.85, 24, 24), (0.8, 3, 42), (0.6, 2, 41)):
        head[radius < limit] = np.where(left, on_the_left, on_the_right)[radius < limit]
    blob = np.linalg.norm(place - np.array([-4, 3, 2]).reshape(3, 1, 1, 1), axis=0) < 3
    head[blob] = 17
    head[9:11, 5:11, 6:9] = 10
    head[18:21, 8:10, 17:20] = 51
    return head


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> LabelMap:
    path = tmp_path_factory.mktemp("head") / "labels.nii.gz"
    nib.save(nib.Nifti1Image(head_numbers(), np.eye(4)), path)
    return centred(load_label_map(path))


def centred(head: LabelMap) -> LabelMap:
    """With the centre in the middle of the array, so that an undeformed grid falls on its voxels."""
    return replace(head, centre=(np.array(head.index.shape) - 1) / 2)


def mirrored(head: LabelMap) -> LabelMap:
    """The head of somebody whose left and right are exchanged."""
    index = labels.mirror_of_index()[head.index][::-1].copy()
    return LabelMap(index, head.centre * [-1, 1, 1] + [index.shape[0] - 1, 0, 0], head.path)


def placed(head: LabelMap) -> Tensor:
    """The head in the middle of the field of view, as it is."""
    before = [(SIZE - length) // 2 for length in head.index.shape]
    width = [(low, SIZE - length - low) for low, length in zip(before, head.index.shape, strict=True)]
    return torch.from_numpy(np.pad(head.index, width).astype(np.int64))


def draw(config: GeneratorConfig, seed: int) -> Params:
    return Generator(config).sample(np.random.default_rng(seed))


class TestImages:
    @few
    @given(seed=seeds)
    def test_same_seed_same_parameters(self, seed: int) -> None:
        first, second = draw(SMALL, seed), draw(SMALL, seed)
        for entry in fields(Params):
            np.testing.assert_array_equal(getattr(first, entry.name), getattr(second, entry.name), entry.name)

    @few
    @given(seed=seeds)
    def test_same_parameters_same_image(self, head: LabelMap, seed: int) -> None:
        params = draw(SMALL, seed)
        first, second = Generator(SMALL).apply(head, params), Generator(SMALL).apply(head, params)
        for name in ("image", "target", "channel"):
            assert torch.equal(getattr(first, name), getattr(second, name)), name

    @settings(few, max_examples=20)
    @given(seed=seeds, voxel_size_mm=st.sampled_from([1, 2]))
    def test_images_are_images(self, head: LabelMap, seed: int, voxel_size_mm: int) -> None:
        config = replace(SMALL, voxel_size_mm=voxel_size_mm)
        result = Generator(config).apply(head, draw(config, seed))
        size = SIZE // voxel_size_mm
        assert result.image.shape == result.target.shape == (1, 1, size, size, size)
        assert result.image.dtype == result.target.dtype == torch.float32
        assert torch.isfinite(result.image).all() and result.image.std() > 0.01
        assert (result.image.min(), result.image.max()) == (0, 1)
        assert result.target.min() >= 0 and result.target.max() <= 110 / 255 + 1e-6
        assert result.channel.shape == (1, size, size, size) and result.channel.dtype == torch.int64
        assert result.channel.min() >= 0 and result.channel.max() < len(labels.segmentation_numbers())

    def test_target_has_the_grey_levels_of_a_t1(self, head: LabelMap) -> None:
        result = Generator(STILL).apply(head, draw(STILL, 1))
        white = placed(head) == labels.index_lookup()[2]
        inside = F.avg_pool3d(white[None, None].float(), 5, 1, 2) == 1
        torch.testing.assert_close(result.target[inside] * 255, torch.full((int(inside.sum()),), 110.0))


class TestGeometry:
    def test_zero_strength_is_identity(self, head: LabelMap) -> None:
        assert torch.equal(Generator(STILL).deform(head, draw(STILL, 1)), placed(head))

    def test_zero_strength_keeps_one_grey_level_a_label(self, head: LabelMap) -> None:
        """Up to the 0.5 mm blur every image gets, which the middle of a large structure does not see."""
        params = draw(STILL, 1)
        result = Generator(STILL).apply(head, params)
        index = placed(head)
        white = index == labels.index_lookup()[41]
        inside = F.avg_pool3d(white[None, None].float(), 5, 1, 2) == 1
        assert inside.sum() > 20
        assert result.image[inside].max() - result.image[inside].min() < 1e-5

    def test_flip_swaps_sides(self, head: LabelMap) -> None:
        params = replace(draw(STILL, 1), flip=True)
        mirror = torch.from_numpy(labels.mirror_of_index().astype(np.int64))
        assert torch.equal(Generator(STILL).deform(head, params), mirror[placed(head)].flip(0))

    @few
    @given(seed=seeds)
    def test_flip_is_deforming_the_mirrored_head(self, head: LabelMap, seed: int) -> None:
        generator, params = Generator(SMALL), draw(SMALL, seed)
        flipped = generator.deform(head, replace(params, flip=True))
        expected = generator.deform(mirrored(head), replace(params, flip=False))
        assert (flipped != expected).float().mean() < 1e-3  # ties between two voxels may round to either

    @few
    @given(seed=seeds)
    def test_label_map_stays_a_label_map(self, head: LabelMap, seed: int) -> None:
        params = draw(SMALL, seed)
        present = set(np.unique(head.index).tolist())
        if params.flip:
            present = {int(labels.mirror_of_index()[index]) for index in present}
        assert set(Generator(SMALL).deform(head, params).unique().tolist()) <= present

    @few
    @given(seed=seeds)
    def test_affine_moves_points_as_it_should(self, head: LabelMap, seed: int) -> None:
        config = replace(SMALL, warp_sd_max_mm=0, flip_probability=0)
        params = draw(config, seed)
        place = Generator(config).coordinates(head, params).double()
        point = np.array([3, 30, 17])
        expected = params.affine[:, :3] @ (point - (SIZE - 1) / 2) + params.affine[:, 3] + head.centre
        np.testing.assert_allclose(place[:, 3, 30, 17], expected, atol=1e-4)

    @few
    @given(seed=seeds)
    def test_jacobian_determinant_is_positive(self, head: LabelMap, seed: int) -> None:
        config = replace(SMALL, field_mm=48, warp_points=5, flip_probability=0)
        assert jacobian_determinant(Generator(config).coordinates(head, draw(config, seed))).min() > 0

    def test_jacobian_determinant_of_the_default_field_is_positive(self, head: LabelMap) -> None:
        config = GeneratorConfig(voxel_size_mm=4, flip_probability=0)
        params = draw(config, 1)
        params = replace(params, velocity_mm=3 * params.velocity_mm / params.velocity_mm.std())
        assert jacobian_determinant(Generator(config).coordinates(head, params)).min() > 0

    @few
    @given(seed=seeds)
    def test_negative_velocity_undoes_the_warp(self, seed: int) -> None:
        """There and back along a smooth field of up to 3 mm, away from the border: within 0.1 of the 1 mm voxel."""
        size, half = 33, 24.0
        rng = np.random.default_rng(seed)
        axis = torch.linspace(-1, 1, size)
        identity = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1)
        direction = torch.from_numpy(rng.uniform(-1.5, 1.5, (3, 3))).float()
        phase = torch.from_numpy(rng.uniform(0, 2 * np.pi, 3)).float()
        velocity = 3 * torch.cos(identity @ direction + phase).movedim(-1, 0)[None]
        there, back = integrate(velocity, half), integrate(-velocity, half)
        arrived = (identity + there.movedim(1, -1) / half).flip(-1)
        error = there + F.grid_sample(back, arrived, padding_mode="border", align_corners=True)
        inside = (..., *(slice(8, -8),) * 3)
        assert there[inside].norm(dim=1).max() > 0.5
        assert error[inside].norm(dim=1).max() < 0.1

    def test_constant_velocity_is_a_translation(self) -> None:
        velocity = torch.tensor([2.0, -1.0, 0.5]).reshape(1, 3, 1, 1, 1).expand(1, 3, 9, 9, 9)
        torch.testing.assert_close(integrate(velocity, 20.0), velocity, atol=1e-5, rtol=0)


def jacobian_determinant(place: Tensor) -> Tensor:
    """Of a map given by its voxel coordinates, shape (3, x, y, z), by forward differences."""
    columns = [place[:, 1:, :-1, :-1], place[:, :-1, 1:, :-1], place[:, :-1, :-1, 1:]]
    return torch.linalg.det(torch.stack([c - place[:, :-1, :-1, :-1] for c in columns], dim=-1).permute(1, 2, 3, 0, 4))


@cache
def draws(**changes: Any) -> list[Params]:
    """Two thousand draws of the default configuration with some changes; few control points, for speed."""
    rng = np.random.default_rng(1)
    generator = Generator(replace(GeneratorConfig(warp_points=4), **changes))
    return [generator.sample(rng) for _ in range(2000)]


#: How each parameter is read off the draws, and its distribution. An affine matrix holds the product of its parts, so
#: rotations are seen without scaling and shear, and these without rotation.
UNROTATED = {"rotation_deg": 0.0, "tissue_tied_probability": 0.0}
TURNED = {"scaling": 0.0, "shear": 0.0, "tissue_tied_probability": 1.0, "tissue_jitter_grey": 0.0}
DENSE = {"bias_points": 9, "warp_points": 9}
DISTRIBUTIONS: dict[str, tuple[dict[str, Any], Callable[[Params], float], Any]] = {
    "translation": ({}, lambda p: p.affine[1, 3], stats.uniform(-12, 24)),
    "rotation": (TURNED, lambda p: float(np.degrees(np.arcsin(p.affine[2, 0]))), stats.uniform(-15, 30)),
    "scaling": (UNROTATED, lambda p: p.affine[2, 2], stats.uniform(0.85, 0.3)),
    "shear": (UNROTATED, lambda p: p.affine[0, 2] / p.affine[2, 2], stats.uniform(-0.012, 0.024)),
    "gamma": ({}, lambda p: p.gamma, stats.lognorm(0.4)),
    "mean": (UNROTATED, lambda p: p.mean_grey[5], stats.uniform(25, 200)),
    "sd": (UNROTATED, lambda p: p.sd_grey[5], stats.uniform(0, 25)),
    "tissue": (TURNED, lambda p: p.mean_grey[1], stats.uniform(25, 200)),
    "bias": (DENSE, lambda p: float(p.log_bias.std()), stats.uniform(0, 0.3)),
    "warp": (DENSE, lambda p: float(p.velocity_mm.std()), stats.uniform(0, 3)),
}


class TestDraws:
    @pytest.mark.parametrize("name", DISTRIBUTIONS)
    def test_distribution(self, name: str) -> None:
        changes, measure, distribution = DISTRIBUTIONS[name]
        assert stats.kstest([measure(params) for params in draws(**changes)], distribution.cdf).pvalue > 0.001

    def test_probabilities(self) -> None:
        shares = {
            "flip": ([params.flip for params in draws()], 0.5),
            "dark background": ([params.mean_grey[0] < 25 for params in draws()], 0.7),
            "full resolution": ([params.spacing_mm == (1, 1, 1) for params in draws()], 0.2),
            "cut": ([params.window != ((0, 1),) * 3 for params in draws()], 0.3),
        }
        for name, (outcomes, probability) in shares.items():
            assert stats.binomtest(sum(map(bool, outcomes)), len(outcomes), probability).pvalue > 0.001, name

    def test_spacing(self) -> None:
        """One thick axis, each as often, up to 9 mm; or all three up to 4 mm."""
        spacing = np.array([params.spacing_mm for params in draws()])
        coarse = spacing > 1
        single = coarse.sum(axis=1) == 1
        assert set(coarse.sum(axis=1)) == {0, 1, 3}
        assert stats.kstest(spacing[single].max(axis=1), stats.uniform(1, 8).cdf).pvalue > 0.001
        isotropic = spacing[coarse.all(axis=1)]
        assert np.all(isotropic == isotropic[:, :1])
        assert stats.kstest(isotropic[:, 0], stats.uniform(1, 3).cdf).pvalue > 0.001
        assert stats.chisquare([*coarse[single].sum(axis=0), len(isotropic)]).pvalue > 0.001
        offset = np.array([params.offset_mm for params in draws()])
        assert np.all(offset[~coarse] == 0)
        assert stats.kstest(offset[coarse] / spacing[coarse], stats.uniform(0, 1).cdf).pvalue > 0.001

    def test_slice_blur_lies_between_sharp_and_slice_thickness(self) -> None:
        spacing, blur = (np.array([getattr(p, name) for p in draws()]) for name in ("spacing_mm", "blur_sd_mm"))
        assert np.all(blur[spacing == 1] == 0.5)
        assert np.all(blur >= 0.5) and np.all(blur <= np.hypot(0.5, 0.42 * 1.15 * spacing) + 1e-9)

    def test_window_keeps_most_of_the_field(self) -> None:
        window = np.array([params.window for params in draws()])
        assert window.min() >= 0 and window.max() <= 1
        assert np.diff(window).min() >= 0.8 - 1e-9

    def test_sides_share_their_intensities(self) -> None:
        mirror = labels.mirror_of_index()
        for params in draws()[:100]:
            np.testing.assert_array_equal(params.mean_grey, params.mean_grey[mirror])
            np.testing.assert_array_equal(params.sd_grey, params.sd_grey[mirror])

    def test_tied_tissues_lie_close(self) -> None:
        tissue = np.array([label.tissue for label in labels.table()])
        config = replace(SMALL, tissue_tied_probability=1)
        for seed in range(100):
            assert np.ptp(draw(config, seed).mean_grey[tissue == "grey"]) < 8 * 8


class TestLabelMaps:
    def write(self, path: Path, number: npt.NDArray[np.int32], spacing_mm: float = 1.0) -> Path:
        nib.save(nib.Nifti1Image(number, np.diag([spacing_mm] * 3 + [1])), path)
        return path

    def test_cropped_and_centred(self, tmp_path: Path) -> None:
        number = np.pad(head_numbers(), ((3, 9), (0, 4), (7, 1)))
        source = load_label_map(self.write(tmp_path / "labels.nii.gz", number))
        inside = np.argwhere(number)
        assert source.index.shape == tuple(np.ptp(inside, axis=0) + 3)
        cerebrum = np.isin(source.index, labels.index_lookup()[[2, 3, 41, 42]])
        np.testing.assert_allclose(source.centre, np.argwhere(cerebrum).mean(axis=0))

    def test_orientation_does_not_matter(self, tmp_path: Path) -> None:
        affine = np.diag([-1.0, 1, 1, 1])
        nib.save(nib.Nifti1Image(head_numbers()[::-1].copy(), affine), tmp_path / "las.nii.gz")
        turned = load_label_map(tmp_path / "las.nii.gz")
        straight = load_label_map(self.write(tmp_path / "ras.nii.gz", head_numbers()))
        np.testing.assert_array_equal(turned.index, straight.index)

    def test_unfit_maps_are_refused(self, tmp_path: Path) -> None:
        unknown = head_numbers()
        unknown[5, 5, 5] = 9999
        outside = np.where(head_numbers() == 511, 511, 0).astype(np.int32)
        for number, spacing_mm, message in (
            (unknown, 1.0, r"labels \[9999\] are not in"),
            (outside, 1.0, "no cerebral white matter"),
            (head_numbers(), 1.2, "must have 1 mm voxels"),
        ):
            path = self.write(tmp_path / "labels.nii.gz", number, spacing_mm)
            with pytest.raises(DataError, match=message):
                load_label_map(path)
