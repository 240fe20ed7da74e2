"""Properties of the generator that hold for every draw and every preset, and the distributions of the draws."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from functools import cache, lru_cache
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
from synthsr.errors import ConfigurationError, DataError
from synthsr.generator import PRESETS, Generator, GeneratorConfig, LabelMap, Params, load_label_map, read_config
from synthsr.generator.artefacts import (
    ClearSlices,
    FractalField,
    GibbsRinging,
    MotionGhosting,
    RicianNoise,
    SkullStrip,
)
from synthsr.generator.deformation import Deformation, DeformationDraw, integrate, rotation_matrix
from synthsr.generator.lesions import Lesions, LesionSource, find_masks, read_masks
from synthsr.generator.source import sensitivity
from synthsr.generator.steps import (
    Acquire,
    Attenuation,
    Bias,
    Blur,
    CutFieldOfView,
    Draw,
    Gamma,
    Misalign,
    Mixture,
    Noise,
    Realign,
)

SIZE = 32
#: No deformation at all.
UNDEFORMED = {
    "rotation_deg": 0, "scaling": 0, "shear": 0, "translation_mm": 0, "velocity_sd_mm": [0, 0], "flip_probability": 0,
}  # fmt: skip
#: Nothing random but label means.
STILL = read_config({"field_mm": SIZE, "deformation": UNDEFORMED, "steps": [{"mixture": {"sd_grey": [0, 0]}}]})

seeds = st.integers(0, 2**32 - 1)
few = settings(max_examples=8, deadline=None, derandomize=True, database=None)


def small(preset: str = "clinical", **changes: Any) -> GeneratorConfig:
    """A preset in a small field, with control points about as far apart as in the default one."""
    deformation = {"translation_mm": 3, "velocity_points": [4, 4], **changes.pop("deformation", {})}
    return read_config({"preset": preset, "field_mm": SIZE, "deformation": deformation, **changes})


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


@pytest.fixture(scope="module")
def real(head: LabelMap) -> LabelMap:
    """With a noisy T1 of its own."""
    rng = np.random.default_rng(2)
    grey = np.array([label.t1_grey for label in labels.table()], np.float32)[head.index]
    return replace(head, t1=(7 * grey + rng.normal(0, 20, grey.shape)).astype(np.float32))


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


def with_deformation(params: Params, **changes: Any) -> Params:
    return replace(params, deformation=replace(params.deformation, **changes))


def inside(mask: Tensor) -> Tensor:
    """Voxels two away from everything else."""
    return F.avg_pool3d(mask[None, None].float(), 5, 1, 2)[0, 0] == 1


class TestImages:
    @pytest.mark.parametrize("preset", PRESETS)
    @settings(few, max_examples=3)
    @given(seed=seeds)
    def test_same_seed_same_image_in_any_batch(self, head: LabelMap, preset: str, seed: int) -> None:
        config = small(preset, channels=2, lesions={"probability": 1, "volume_mm3": [20, 200]})
        generator = Generator(config)
        first, second = draw(config, seed), draw(config, seed)
        alone = generator.apply([head], [first])
        batch = generator.apply([mirrored(head), head], [draw(config, seed + 1), second])
        for entry in fields(alone):
            torch.testing.assert_close(
                getattr(alone, entry.name)[0], getattr(batch, entry.name)[1], atol=0, rtol=0, msg=entry.name
            )

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
    @pytest.mark.parametrize("preset", PRESETS)
    def test_gpu_gives_the_same_but_for_noise(self, head: LabelMap, preset: str) -> None:
        """Voxel noise comes from the device's own generator; all else agrees."""
        config = small(preset, channels=2, change={"mixture": {"sd_grey": [0, 0]}})
        config = replace(config, steps=tuple(s for s in config.steps if type(s).__name__ != "Noise"))
        params = draw(config, 1)
        one, other = (Generator(config, device).apply([head], [params]) for device in ("cpu", "cuda"))
        assert (one.channel != other.channel.cpu()).float().mean() < 1e-3
        assert (one.image - other.image.cpu()).abs().mean() < 1e-3

    @pytest.mark.parametrize("preset", PRESETS)
    @settings(few, max_examples=6)
    @given(seed=seeds, voxel_size_mm=st.sampled_from([1, 2]), channels=st.sampled_from([1, 3]))
    def test_images_are_images(self, head: LabelMap, preset: str, seed: int, voxel_size_mm: int, channels: int) -> None:
        config = small(preset, voxel_size_mm=voxel_size_mm, channels=channels)
        result = Generator(config).apply([head, head], [draw(config, seed), draw(config, seed + 1)])
        shape = (SIZE // voxel_size_mm,) * 3
        assert result.image.shape == result.reliability.shape == (2, channels, *shape)
        assert result.target.shape == (2, 1, *shape)
        assert result.image.dtype == result.target.dtype == torch.float32
        assert torch.isfinite(result.image).all() and torch.isfinite(result.target).all()
        assert result.image.std(dim=(2, 3, 4)).min() > 0.01
        assert (result.image.amin(dim=(2, 3, 4)) == 0).all() and (result.image.amax(dim=(2, 3, 4)) == 1).all()
        assert result.target.min() >= 0 and result.target.max() <= 110 / 255 + 1e-6
        assert result.reliability.min() >= 0 and result.reliability.max() <= 1
        assert result.channel.shape == (2, *shape) and result.channel.dtype == torch.int64
        assert result.channel.min() >= 0 and result.channel.max() < len(labels.segmentation_numbers())
        assert not result.lesion.any()

    def test_target_has_the_grey_levels_of_a_t1(self, head: LabelMap) -> None:
        result = Generator(STILL).apply([head], [draw(STILL, 1)])
        white = inside(placed(head) == labels.index_lookup()[2])
        torch.testing.assert_close(result.target[0, 0][white] * 255, torch.full((int(white.sum()),), 110.0))

    def test_ten_thousand_draws(self, head: LabelMap) -> None:
        """No image is constant, not finite, or empty of brain."""
        brain = torch.tensor([1 <= number <= 499 for number in labels.segmentation_numbers()])
        for preset in PRESETS:
            config = small(preset, voxel_size_mm=2)
            generator, rng = Generator(config), np.random.default_rng(1)
            for _ in range(100):
                made = generator.apply([head] * 20, [generator.sample(rng) for _ in range(20)])
                assert torch.isfinite(made.image).all()
                assert made.image.std(dim=(2, 3, 4)).min() > 1e-3
                assert brain[made.channel].sum(dim=(1, 2, 3)).min() > 0


class TestGeometry:
    def test_zero_strength_is_identity(self, head: LabelMap) -> None:
        assert torch.equal(Generator(STILL).deform(head, draw(STILL, 1)), placed(head))

    def test_zero_strength_steps_change_nothing(self, head: LabelMap) -> None:
        """Every step at strength zero, after the mixture."""
        nothing = [
            {"bias": {"log_sd": [0, 0]}}, {"attenuation": {"drop": [0, 0]}}, {"gamma": {"exponent": [1, 1]}},
            {"blur": {"sd_mm": [0, 0]}}, {"noise": {"sd": [0, 0]}},
            {"misalign": {"rotation_deg": 0, "translation_mm": 0}},
            {"acquire": {"high_resolution_probability": 1}},
            {"realign": {"rotation_error_deg": 0, "translation_error_mm": 0}},
            {"cut_field_of_view": {"probability": 0}}, {"drop_channels": {"probability": 0}},
            {"clear_slices": {"probability": 0}}, {"skull_strip": {"probability": 0}},
            {"rician_noise": {"probability": 0}}, {"gibbs_ringing": {"probability": 0}},
            {"motion_ghosting": {"probability": 0}}, {"fractal_field": {"probability": 0}},
        ]  # fmt: skip
        given = {"field_mm": SIZE, "channels": 2, "deformation": UNDEFORMED}
        plain = read_config({**given, "steps": [{"mixture": {}}]})
        idle = read_config({**given, "steps": [{"mixture": {}}, *nothing]})
        expected, found = (Generator(config).apply([head], [draw(config, 4)]) for config in (plain, idle))
        torch.testing.assert_close(found.image, expected.image, atol=2e-5, rtol=0)
        assert (found.reliability == 1).all()

    def test_flip_swaps_sides(self, head: LabelMap) -> None:
        params = with_deformation(draw(STILL, 1), flip=True)
        mirror = torch.from_numpy(labels.mirror_of_index().astype(np.int64))
        assert torch.equal(Generator(STILL).deform(head, params), mirror[placed(head)].flip(0))

    @few
    @given(seed=seeds)
    def test_flip_is_deforming_the_mirrored_head(self, head: LabelMap, seed: int) -> None:
        generator, params = Generator(small()), draw(small(), seed)
        flipped = generator.deform(head, with_deformation(params, flip=True))
        expected = generator.deform(mirrored(head), with_deformation(params, flip=False))
        assert (flipped != expected).float().mean() < 1e-3  # ties between two voxels may round to either

    @few
    @given(seed=seeds)
    def test_label_map_stays_a_label_map(self, head: LabelMap, seed: int) -> None:
        params = draw(small(), seed)
        present = set(np.unique(head.index).tolist())
        if params.deformation.flip:
            present = {int(labels.mirror_of_index()[index]) for index in present}
        assert set(Generator(small()).deform(head, params).unique().tolist()) <= present

    @few
    @given(seed=seeds)
    def test_affine_moves_points_as_it_should(self, head: LabelMap, seed: int) -> None:
        config = small(deformation={"velocity_sd_mm": [0, 0], "flip_probability": 0})
        params = draw(config, seed)
        place = Generator(config).coordinates(head, params).double()
        point = np.array([3, 30, 17])
        affine = params.deformation.affine
        expected = affine[:, :3] @ (point - (SIZE - 1) / 2) + affine[:, 3] + head.centre
        np.testing.assert_allclose(place[:, 3, 30, 17], expected, atol=1e-4)

    @few
    @given(seed=seeds)
    def test_jacobian_determinant_is_positive(self, head: LabelMap, seed: int) -> None:
        config = small(deformation={"velocity_points": [5, 5], "flip_probability": 0})
        config = replace(config, field_mm=48)
        assert jacobian_determinant(Generator(config).coordinates(head, draw(config, seed))).min() > 0

    @pytest.mark.parametrize("preset", PRESETS)
    def test_jacobian_determinant_of_the_strongest_warp_is_positive(self, head: LabelMap, preset: str) -> None:
        deformation = read_config({"preset": preset}).deformation
        strongest = {"velocity_sd_mm": [deformation.velocity_sd_mm[1]] * 2, "flip_probability": 0}
        for points in deformation.velocity_points:
            config = read_config(
                {"preset": preset, "voxel_size_mm": 4, "deformation": {**strongest, "velocity_points": [points] * 2}}
            )
            for seed in range(3):
                assert jacobian_determinant(Generator(config).coordinates(head, draw(config, seed))).min() > 0

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
        middle = (..., *(slice(8, -8),) * 3)
        assert there[middle].norm(dim=1).max() > 0.5
        assert error[middle].norm(dim=1).max() < 0.1

    def test_constant_velocity_is_a_translation(self) -> None:
        velocity = torch.tensor([2.0, -1.0, 0.5]).reshape(1, 3, 1, 1, 1).expand(1, 3, 9, 9, 9)
        torch.testing.assert_close(integrate(velocity, 20.0), velocity, atol=1e-5, rtol=0)


def jacobian_determinant(place: Tensor) -> Tensor:
    """Of a map given by its voxel coordinates, shape (3, x, y, z), by forward differences."""
    columns = [place[:, 1:, :-1, :-1], place[:, :-1, 1:, :-1], place[:, :-1, :-1, 1:]]
    return torch.linalg.det(torch.stack([c - place[:, :-1, :-1, :-1] for c in columns], dim=-1).permute(1, 2, 3, 0, 4))


class TestAcquisition:
    def phantom(self, spacing_mm: tuple[float, float, float], **changes: Any) -> tuple[Generator, Params]:
        acquire = {"fixed_spacing_mm": [list(spacing_mm)], "gaps": False, "profile_jitter": [1, 1], **changes}
        config = read_config(
            {
                "field_mm": SIZE,
                "deformation": UNDEFORMED,
                "steps": [{"mixture": {"sd_grey": [0, 0]}}, {"acquire": acquire}],
            }
        )
        return Generator(config), draw(config, 3)

    @pytest.mark.parametrize("axis", [0, 1, 2])
    def test_reliability_is_one_on_slices_and_zero_between(self, head: LabelMap, axis: int) -> None:
        spacing = [1.0, 1.0, 1.0]
        spacing[axis] = 4.0
        generator, params = self.phantom((spacing[0], spacing[1], spacing[2]))
        params.steps[1]["offset_mm"][:] = 2.0
        found = generator.apply([head], [params]).reliability[0, 0].movedim(axis, 0)
        expected = torch.zeros(SIZE)
        expected[2::4] = 1
        assert torch.equal(found, expected[:, None, None].expand(SIZE, SIZE, SIZE))

    def test_slices_between_voxels_are_shared(self, head: LabelMap) -> None:
        generator, params = self.phantom((1.0, 1.0, 5.0))
        params.steps[1]["offset_mm"][:] = 1.25
        found = generator.apply([head], [params]).reliability[0, 0, 0, 0]
        torch.testing.assert_close(found[:8], torch.tensor([0, 0.75, 0.25, 0, 0, 0, 0.75, 0.25]))

    @pytest.mark.parametrize(("profile", "spacing"), [(0.42, 6.0), (2 * np.log(10) / (2 * np.pi), 4.0)])
    def test_slice_profile_has_its_analytic_width(self, profile: float, spacing: float) -> None:
        """Variance of what a thin plate leaves in a dense stack: that of the profile."""
        from synthsr import resample

        sd = profile * spacing
        plate = torch.zeros(1, 1, 65, 3, 3)
        plate[:, :, 32] = 1
        blurred = resample.apply(plate, resample.acquisition(65, 1.0, sd), 2)[0, 0, :, 1, 1].double()
        place = torch.arange(65) - 32.0
        np.testing.assert_allclose(float((blurred * place**2).sum() / blurred.sum()) ** 0.5, sd, rtol=0.01)

    def test_channels_return_to_their_place(self, head: LabelMap) -> None:
        """Without registration error, misaligned channels come back to within the blur of two interpolations."""
        steps = [
            {"mixture": {"sd_grey": [0, 0]}},
            {"blur": {"sd_mm": [1.5, 1.5]}},
            {"misalign": {"rotation_deg": 5, "translation_mm": 2}},
            {"realign": {"rotation_error_deg": 0, "translation_error_mm": 0}},
        ]
        given = {"field_mm": SIZE, "channels": 3, "deformation": UNDEFORMED}
        away = read_config({**given, "steps": steps})
        home = read_config({**given, "steps": steps[:2]})
        params = draw(away, 5)
        moved = Generator(away).apply([head], [params]).image
        stayed = Generator(home).apply([head], [replace(params, steps=params.steps[:2])]).image
        torch.testing.assert_close(moved[0, 0], stayed[0, 0])
        for channel in (1, 2):
            both = torch.stack([image[0, channel, 8:-8, 8:-8, 8:-8].flatten() for image in (moved, stayed)])
            assert torch.corrcoef(both)[0, 1] > 0.99

    def test_channels_have_their_own_spacing(self, head: LabelMap) -> None:
        acquire = {"fixed_spacing_mm": [[1, 1, 5], [5, 1, 1]], "gaps": False}
        config = read_config(
            {
                "field_mm": SIZE,
                "channels": 2,
                "deformation": UNDEFORMED,
                "steps": [{"mixture": {}}, {"acquire": acquire}],
            }
        )
        result = Generator(config).apply([head], [draw(config, 1)])
        rough = [result.image[0, c].diff(n=2, dim=axis).abs().mean() for c, axis in ((0, 2), (0, 0), (1, 0), (1, 2))]
        assert rough[0] < 0.5 * rough[1] and rough[2] < 0.5 * rough[3]


class TestTargets:
    @pytest.mark.parametrize("statistic", ["median", "mean"])
    def test_real_t1_is_deformed_with_its_labels(self, real: LabelMap, statistic: str) -> None:
        config = small(target={"white_matter": statistic}, deformation={"velocity_sd_mm": [2, 2]})
        params = draw(config, 7)
        result = Generator(config).apply([real], [params])
        for number in (2, 41, 3, 42):
            where = result.channel[0] == labels.segmentation_numbers().index(number)
            expected = labels.by_number()[number].t1_grey / 255
            assert abs(float(result.target[0, 0][inside(where) | where].median()) - expected) < 0.02

    def test_white_matter_is_scaled(self, real: LabelMap) -> None:
        assert real.t1 is not None
        config = read_config({"field_mm": SIZE, "deformation": UNDEFORMED, "steps": ["mixture"]})
        result = Generator(config).apply([real], [draw(config, 1)])
        white = torch.isin(placed(real), torch.from_numpy(labels.index_lookup()[[2, 41]].astype(np.int64)))
        assert float(result.target[0, 0][white].mean()) * 255 == pytest.approx(110, abs=0.01)

    def test_super_resolution_target_is_the_sharp_channel(self, head: LabelMap) -> None:
        steps = [
            {"mixture": {}},
            {"bias": {}},
            {"acquire": {"fixed_spacing_mm": [[1, 1, 5], [1, 5, 1]], "gaps": False}},
        ]
        given = {
            "field_mm": SIZE,
            "channels": 2,
            "deformation": UNDEFORMED,
            "target": {"kind": "channel", "channel": 1},
        }
        config = read_config({**given, "steps": steps})
        params = draw(config, 2)
        result = Generator(config).apply([head], [params])
        sharp = read_config({**given, "steps": steps[:2]})
        before = Generator(sharp).apply([head], [replace(params, steps=params.steps[:2])]).image[:, 1:]
        assert torch.corrcoef(torch.stack([result.target.flatten(), before.flatten()]))[0, 1] > 1 - 1e-5
        residual = result.target - result.image[:, 1:]
        assert abs(float(residual.mean())) < 0.1 * float(residual.std())

    @few
    @given(seed=seeds)
    def test_real_scan_moves_with_target_and_labels(self, real: LabelMap, seed: int) -> None:
        """One grey level per label in scan and target: both are found where the deformed, flipped map has the label."""
        grey = np.random.default_rng(1).permutation(len(labels.table())).astype(np.float32)
        grey[0], grey[labels.index_lookup()[2]] = 0, 100
        source = replace(real, t1=grey[real.index], scan=grey[real.index] ** 2)
        config = small(steps=["real_scan"])
        params = draw(config, seed)
        result, index = Generator(config).apply([source], [params]), Generator(config).deform(source, params)
        # Labels of a flipped head have changed sides, grey levels have only moved.
        origin = (
            torch.from_numpy(labels.mirror_of_index().astype(np.int64))[index] if params.deformation.flip else index
        )
        expected = torch.from_numpy(grey)[origin]
        around = [F.max_pool3d(sign * expected[None], 3, 1, 1)[0] for sign in (1, -1)]
        middle = (around[0] == -around[1]) & (expected > 0)
        assert len(expected[middle].unique()) > 1
        target = (expected * (110 / 255) / source.white_matter_grey("mean")).clamp_max(128 / 255)
        for found, truth in (
            (result.target, target),
            (result.image, (expected / 100) ** 2),
        ):
            # A stretched voxel may see beyond its neighbours.
            assert ((found[0, 0] - truth)[middle].abs() < 1e-3).float().mean() > 0.9

    def test_real_scan_is_acquired_as_any_image(self, real: LabelMap) -> None:
        steps = ["real_scan", "normalise", {"acquire": {"fixed_spacing_mm": [[1, 1, 4]], "gaps": False}}]
        config = read_config({"field_mm": SIZE, "deformation": UNDEFORMED, "steps": steps})
        result = Generator(config).apply([replace(real, scan=real.t1)], [draw(config, 1)])
        before, after = result.target[0, 0], result.image[0, 0]
        rough = [float(image.diff(n=2, dim=2).abs().mean() / image.std()) for image in (before, after)]
        assert rough[1] < 0.5 * rough[0]
        assert 0.1 < result.reliability.mean() < 0.4

    def test_real_scan_without_one_is_refused(self, head: LabelMap) -> None:
        config = read_config({"field_mm": SIZE, "steps": ["real_scan"]})
        with pytest.raises(DataError, match=r"labels\.nii\.gz: has no real scan, which the step real_scan needs"):
            Generator(config).apply([head], [draw(config, 1)])

    @pytest.mark.parametrize("order", [["drop_channels", "acquire"], ["acquire", "drop_channels"]])
    def test_missing_channels_are_zero_and_unreliable(self, head: LabelMap, order: list[str]) -> None:
        steps = {
            "acquire": {"acquire": {"fixed_spacing_mm": [[1, 1, 4]] * 3, "gaps": False}},
            "drop_channels": {"drop_channels": {"probability": 1}},
        }
        given = {"field_mm": SIZE, "channels": 3, "deformation": UNDEFORMED}
        config = read_config({**given, "steps": ["mixture", *(steps[name] for name in order)]})
        whole = read_config({**given, "steps": ["mixture", steps["acquire"]]})
        params = draw(config, 1)
        found = Generator(config).apply([head], [params])
        left = [params.steps[0], params.steps[1 + order.index("acquire")]]
        expected = Generator(whole).apply([head], [replace(params, steps=tuple(left))])
        kept = params.steps[1 + order.index("drop_channels")]["kept"]
        assert kept.sum() == 1
        for channel in range(3):
            torch.testing.assert_close(found.image[0, channel], expected.image[0, channel] * kept[channel])
            torch.testing.assert_close(found.reliability[0, channel], expected.reliability[0, channel] * kept[channel])

    def test_lesions_are_in_the_image_and_not_in_the_target(self, head: LabelMap) -> None:
        lesions = {"probability": 1, "number": [1, 1], "volume_mm3": [300, 600]}
        steps = [{"mixture": {"sd_grey": [0, 0]}}]
        given = {"field_mm": SIZE, "deformation": UNDEFORMED, "steps": steps}
        with_lesions, without = read_config({**given, "lesions": lesions}), read_config(given)
        params = draw(with_lesions, 3)
        ill = Generator(with_lesions).apply([head], [params])
        healthy = Generator(without).apply([head], [replace(params, lesions=[])])
        assert 50 < ill.lesion.sum() < 2000
        assert torch.equal(ill.target, healthy.target) and torch.equal(ill.channel, healthy.channel)
        index = placed(head)
        brain = torch.tensor([1 <= label.number <= 499 for label in labels.table()])
        assert brain[index][ill.lesion[0]].all(), "no lesion outside the brain"
        grey = torch.from_numpy(params.steps[0]["mean_grey"][0]).float()
        left, right = labels.index_lookup()[[25, 57]].tolist()
        assert grey[left] == grey[right]
        raw = grey[index].clone()
        raw[ill.lesion[0]] = grey[left]
        torch.testing.assert_close(ill.image[0, 0], (raw - raw.min()) / (raw.max() - raw.min()))

    def test_masks_are_used_as_lesions(self, head: LabelMap, tmp_path: Path) -> None:
        mask = np.zeros((40, 40, 40), np.uint8)
        mask[10:14, 10:15, 10:16] = 1
        nib.save(nib.Nifti1Image(mask, np.eye(4)), tmp_path / "mask.nii.gz")
        shape = {"masks": str(tmp_path), "mask_probability": 1, "rotation_deg": 0, "scaling": 0}
        lesions = {"probability": 1, "number": [1, 1], **shape}
        config = read_config({"field_mm": SIZE, "deformation": UNDEFORMED, "steps": ["mixture"], "lesions": lesions})
        for seed in range(20):
            params = draw(config, seed)
            made = Generator(config).apply([head], [params])
            where = torch.nonzero(made.lesion[0])
            extent = (where.amax(0) - where.amin(0) + 1).tolist()
            assert extent[0] <= 4 and extent[1] <= 5 and extent[2] <= 6
        assert made.lesion.sum() > 20

    def test_lesions_start_anywhere_in_the_tissue(self, head: LabelMap) -> None:
        """Specks of one voxel: none in fluid or outside the brain, in each label as often as it has voxels."""
        source = LesionSource(Lesions(1, number=(1, 1), volume_mm3=(0.5, 0.6)))
        index, rng = placed(head), np.random.default_rng(1)
        struck = []
        for _ in range(1000):
            laid = torch.nonzero(source.apply(index, source.sample(rng), 1.0) != index)
            assert len(laid) == 1
            struck.append(int(index[tuple(laid[0])]))
        found, counts = np.unique(struck, return_counts=True)
        large = [int(position) for position in labels.index_lookup()[[2, 3, 41, 42]]]
        volume = np.array([int((index == position).sum()) for position in large])
        tissue = torch.tensor([label.tissue in ("white", "grey", "deep_grey") for label in labels.table()])
        assert tissue[torch.from_numpy(found)].all()
        expected = 1000 * volume / int(tissue[index].sum())
        hits = [int(counts[found == position].sum()) for position in large]
        assert stats.chisquare([*hits, 1000 - sum(hits)], [*expected, 1000 - sum(expected)]).pvalue > 0.001

    def test_masks_come_apart_and_upright(self, tmp_path: Path) -> None:
        mask = np.zeros((40, 30, 20), np.uint8)
        mask[5:9, 5:10, 5:8] = 1
        mask[5, 5, 5] = 0
        mask[20:30, 20:23, 10:12] = 1
        mask[35, 20, 10] = 1  # a speck
        nib.save(nib.Nifti1Image(mask[::-1].copy(), np.diag([-1.0, 1, 1, 1])), tmp_path / "las_lesion.nii.gz")
        nib.save(nib.Nifti1Image(np.zeros((9, 9, 9), np.uint8), np.eye(4)), tmp_path / "none_lesion.nii.gz")
        shapes = read_masks((tmp_path,))
        assert [shape.dtype for shape in shapes] == [np.bool_, np.bool_]
        np.testing.assert_array_equal(shapes[0], np.pad(mask[5:9, 5:10, 5:8], 1))
        np.testing.assert_array_equal(shapes[1], np.ones((12, 5, 4), bool) & np.pad(np.ones((10, 3, 2), bool), 1))

    def test_masks_are_named_by_folders_and_patterns(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MASKS", str(tmp_path))
        names = ["a/one_lesion.nii.gz", "a/atlas.nii.gz", "b/c/two_lesion.nii", "a/notes.txt"]
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        for masks, expected in (
            ("$MASKS/*/*_lesion.nii*", names[:1]),
            ("$MASKS/**/*_lesion.nii*", [names[0], names[2]]),
            ([f"{tmp_path}/a", "$MASKS/b/c"], [names[1], names[0], names[2]]),
            (["$MASKS/a", "$MASKS/a/one*"], [names[1], names[0]]),
            (f"{tmp_path}/b/c/two_lesion.nii", names[2:3]),
        ):
            config = read_config({"lesions": {"masks": masks}})
            assert find_masks(config.lesions.masks) == [tmp_path / name for name in expected], masks
        for masks in ("$MASKS/*/*.mgz", "$NOWHERE/a", str(tmp_path / "b"), ["$MASKS/a", "$MASKS/z"]):
            with pytest.raises(ConfigurationError, match=r"lesions\.masks: .*: no image"):
                Generator(read_config({"lesions": {"masks": masks}}))

    def test_masks_of_nothing_are_refused(self, tmp_path: Path) -> None:
        nib.save(nib.Nifti1Image(np.zeros((9, 9, 9), np.uint8), np.eye(4)), tmp_path / "empty.nii.gz")
        with pytest.raises(DataError, match="no lesion of at least 10 mm³"):
            read_masks((tmp_path,))
        nib.save(nib.Nifti1Image(np.ones((9, 9, 9), np.uint8), np.diag([2.0, 2, 2, 1])), tmp_path / "empty.nii.gz")
        with pytest.raises(DataError, match="must have 1 mm voxels"):
            read_masks((tmp_path / "empty.nii.gz",))


@cache
def draws(preset: str, number: int = 2_000) -> list[Params]:
    """Draws of a preset; few control points, for speed."""
    config = read_config({"preset": preset, "deformation": {"velocity_points": [2, 2]}})
    generator, rng = Generator(config), np.random.default_rng(1)
    return [generator.sample(rng) for _ in range(number)]


def step(preset: str, name: str) -> int:
    """Position of a step in a preset."""
    kinds = [type(entry).__name__ for entry in read_config({"preset": preset}).steps]
    return kinds.index(name)


#: Preset, what is read off a draw, and its distribution [SCIENCE, generator table].
DISTRIBUTIONS: dict[str, tuple[str, Callable[[Params], float], Any]] = {
    "2021 rotation": ("synthsr-2021", lambda p: rotation_deg(p.deformation), stats.uniform(-10, 20)),
    "2023 rotation": ("synthsr-2023", lambda p: rotation_deg(p.deformation), stats.uniform(-15, 30)),
    "tutorial translation": ("tutorial", lambda p: p.deformation.affine[1, 3], stats.uniform(-30, 60)),
    "clinical translation": ("clinical", lambda p: p.deformation.affine[1, 3], stats.uniform(-12, 24)),
    "2021 volume scaling": ("synthsr-2021", lambda p: log_volume(p.deformation), None),
    "2021 gamma": (
        "synthsr-2021",
        lambda p: p.steps[step("synthsr-2021", "Gamma")]["gamma"][0],
        stats.uniform(0.7, 0.6),
    ),
    "2023 gamma": ("synthsr-2023", lambda p: p.steps[step("synthsr-2023", "Gamma")]["gamma"][0], stats.lognorm(0.5)),
    "tutorial gamma": ("tutorial", lambda p: p.steps[step("tutorial", "Gamma")]["gamma"][0], stats.uniform(0.5, 1)),
    "synthseg mean": ("synthseg", lambda p: p.steps[0]["mean_grey"][0, 5], stats.uniform(25, 200)),
    "synthseg sd": ("synthseg", lambda p: p.steps[0]["sd_grey"][0, 5], stats.uniform(5, 20)),
    "tutorial noise": ("tutorial", lambda p: p.steps[step("tutorial", "Noise")]["sd"][0], stats.uniform(0, 0.1)),
    "tutorial blur": ("tutorial", lambda p: p.steps[step("tutorial", "Blur")]["sd_mm"][0], stats.uniform(0, 2)),
    "2021 bias": (
        "synthsr-2021",
        lambda p: p.steps[step("synthsr-2021", "Bias")]["log_bias"][0, 0, 0, 0],
        stats.norm(0, 0.5),
    ),
    "2021 spacing": (
        "synthsr-2021",
        lambda p: p.steps[step("synthsr-2021", "Acquire")]["spacing_mm"].max(),
        stats.uniform(1, 8),
    ),
}


def rotation_deg(deformation: DeformationDraw) -> float:
    """About the x axis, read off the orthogonal part of the matrix; shear and unequal scaling disturb it little."""
    u, _, v = np.linalg.svd(deformation.affine[:, :3])
    matrix = u @ v
    return float(np.degrees(np.arctan2(matrix[2, 1], matrix[2, 2])))


def log_volume(deformation: DeformationDraw) -> float:
    return float(np.log(np.linalg.det(deformation.affine[:, :3])))


def wide_normal(low: float, high: float) -> Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]:
    """Cumulative distribution of a normal variable about 0 whose deviation is U(low, high)."""
    sd = low + (np.arange(4000) + 0.5) / 4000 * (high - low)
    place = np.linspace(-6 * high, 6 * high, 2001)
    share = np.array([stats.norm.cdf(at / sd).mean() for at in place])
    return lambda values: np.interp(values, place, share)


def product_of_uniforms(high: float) -> Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]:
    """Cumulative distribution of U(0, high) × U(0, 1)."""
    return lambda values: values / high * (1 - np.log(values / high))


def angles_deg(turn: npt.NDArray[np.float64]) -> list[float]:
    """About x, y and z, of a matrix that turns in this order."""
    return np.degrees(
        [np.arctan2(turn[2, 1], turn[2, 2]), np.arcsin(turn[2, 0]), np.arctan2(turn[1, 0], turn[0, 0])]
    ).tolist()


def only(**ranges: Any) -> Callable[[np.random.Generator], DeformationDraw]:
    """Draws of a deformation that is nothing but this."""
    none = {"rotation_deg": 0, "scaling": 0, "shear": 0, "translation_mm": 0, "velocity_sd_mm": (0, 0)}
    deformation = Deformation(**{**none, "velocity_points": (2, 2), **ranges})
    return lambda rng: deformation.sample(rng, 192)


def of_step(step: Any, channels: int = 2) -> Callable[[np.random.Generator], Draw]:
    return lambda rng: step.sample(rng, channels)


def of_lesion(**ranges: Any) -> Callable[[np.random.Generator], Draw]:
    source = LesionSource(Lesions(probability=1, number=(1, 1), **ranges))
    return lambda rng: source.sample(rng)[0]


def deep_grey_share(mean: npt.NDArray[np.float64]) -> float:
    """How far the thalamus lies from cortex to white matter."""
    white, cortex, thalamus = mean[labels.index_lookup()[[2, 3, 10]]]
    return float((thalamus - cortex) / (white - cortex))


UNIFORM = stats.uniform(0, 1).cdf
MIXTURE = of_step(Mixture(dark_background_probability=1), 1)
CORTICES = labels.index_lookup()[[3, 8]]
#: Every parameter that is drawn: its draws, what is read off one, and the distribution that its docstring promises.
PARAMETERS: dict[str, tuple[Callable[[np.random.Generator], Any], Callable[[Any], float], Callable[[Any], Any]]] = {
    **{
        f"rotation about {axis}": (
            only(rotation_deg=15),
            lambda d, n=n: angles_deg(d.affine)[n],
            stats.uniform(-15, 30).cdf,
        )
        for n, axis in enumerate("xyz")
    },
    **{
        f"scaling of {axis}": (
            only(scaling=0.2),
            lambda d, n=n: d.affine[n, n],
            stats.uniform(0.8, 0.4).cdf,
        )
        for n, axis in enumerate("xyz")
    },
    "scaling in the log domain": (
        only(scaling=0.1, scaling_in_log=True),
        lambda d: np.log(d.affine[1, 1]),
        stats.uniform(np.log(0.9), np.log(1.1 / 0.9)).cdf,
    ),
    "shear xy": (only(shear=0.01), lambda d: d.affine[0, 1], stats.uniform(-0.01, 0.02).cdf),
    "shear zy": (only(shear=0.01), lambda d: d.affine[2, 1], stats.uniform(-0.01, 0.02).cdf),
    "translation z": (only(translation_mm=20), lambda d: d.affine[2, 3], stats.uniform(-20, 40).cdf),
    "velocity": (only(velocity_sd_mm=(1, 4)), lambda d: d.velocity_mm[1, 0, 1, 0], wide_normal(1, 4)),
    "lesion volume": (
        of_lesion(volume_mm3=(10, 1000)),
        lambda d: np.log10(4 / 3 * np.pi * d["radius_mm"] ** 3),
        stats.uniform(1, 2).cdf,
    ),
    "lesion roughness": (of_lesion(roughness=(0.2, 0.7)), lambda d: d["roughness"], stats.uniform(0.2, 0.5).cdf),
    "lesion surface": (of_lesion(), lambda d: d["field"][1, 2, 3], stats.norm(0, 1).cdf),
    "lesion place": (of_lesion(), lambda d: d["places"][0, 2], UNIFORM),
    "lesion turn": (
        of_lesion(rotation_deg=60, scaling=0),
        lambda d: angles_deg(d["turn"])[2],
        stats.uniform(-60, 120).cdf,
    ),
    "lesion scaling": (
        of_lesion(rotation_deg=0, scaling=0.3),
        lambda d: 1 / d["turn"][0, 0],
        stats.uniform(0.7, 0.6).cdf,
    ),
    "mean": (MIXTURE, lambda d: d["mean_grey"][0, 7], stats.uniform(25, 200).cdf),
    "sd": (MIXTURE, lambda d: d["sd_grey"][0, 7], stats.uniform(5, 20).cdf),
    "dark background": (MIXTURE, lambda d: d["mean_grey"][0, 0], stats.uniform(0, 10).cdf),
    "sd of a dark background": (MIXTURE, lambda d: d["sd_grey"][0, 0], stats.uniform(0, 5).cdf),
    "mean within a tissue": (
        of_step(Mixture(mean_grey=(120, 120), tied_probability=1, tied_jitter_grey=8), 1),
        lambda d: d["mean_grey"][0, 2],
        stats.norm(120, 8).cdf,
    ),
    "deep grey between cortex and white matter": (
        of_step(Mixture(tied_probability=1, tied_jitter_grey=0), 1),
        lambda d: deep_grey_share(d["mean_grey"][0]),
        stats.uniform(0, 0.8).cdf,
    ),
    "bias": (of_step(Bias((0.1, 0.7))), lambda d: d["log_bias"][1, 2, 0, 4], wide_normal(0.1, 0.7)),
    "attenuation": (
        of_step(Attenuation((0, 0.5), (2, 4))),
        lambda d: d["loss"][1][1, 0, 1],
        product_of_uniforms(0.5),
    ),
    "gamma exponent": (of_step(Gamma(exponent=(0.5, 1.5))), lambda d: d["gamma"][1], stats.uniform(0.5, 1).cdf),
    "gamma log": (of_step(Gamma(log_sd=0.4)), lambda d: np.log(d["gamma"][1]), stats.norm(0, 0.4).cdf),
    "blur": (of_step(Blur((0.5, 2))), lambda d: d["sd_mm"][1], stats.uniform(0.5, 1.5).cdf),
    "noise": (of_step(Noise((0, 0.1))), lambda d: d["sd"][1], stats.uniform(0, 0.1).cdf),
    "misaligned rotation": (
        of_step(Misalign(10, 20)),
        lambda d: angles_deg(d["rigid"][1])[1],
        stats.uniform(-10, 20).cdf,
    ),
    "misaligned translation": (of_step(Misalign(10, 20)), lambda d: d["rigid"][1, 0, 3], stats.uniform(-20, 40).cdf),
    "rotation error": (
        of_step(Realign(0.5, 0.4)),
        lambda d: angles_deg(d["error"][1])[2],
        stats.uniform(-0.5, 1).cdf,
    ),
    "translation error": (of_step(Realign(0.5, 0.4)), lambda d: d["error"][1, 2, 3], stats.uniform(-0.4, 0.8).cdf),
    "normal rotation error": (
        of_step(Realign(0.5, 0.4, True)),
        lambda d: angles_deg(d["error"][1])[0],
        stats.norm(0, 0.5).cdf,
    ),
    "normal translation error": (
        of_step(Realign(0.5, 0.4, True)),
        lambda d: d["error"][1, 1, 3],
        stats.norm(0, 0.4).cdf,
    ),
    "spacing": (
        of_step(Acquire((2, 9), high_resolution_probability=0, isotropic_probability=0)),
        lambda d: d["spacing_mm"][1].max(),
        stats.uniform(2, 7).cdf,
    ),
    "isotropic spacing": (
        of_step(Acquire(isotropic_spacing_mm=(1, 4), high_resolution_probability=0, isotropic_probability=1)),
        lambda d: d["spacing_mm"][1, 0],
        stats.uniform(1, 3).cdf,
    ),
    "slice thickness": (
        of_step(Acquire(fixed_spacing_mm=((1, 1, 6),) * 2, profile=1, profile_jitter=(1, 1))),
        lambda d: d["profile_sd_mm"][1, 2],
        stats.uniform(1, 5).cdf,
    ),
    "slice profile": (
        of_step(Acquire(fixed_spacing_mm=((1, 1, 6),) * 2, gaps=False, profile=0.5, profile_jitter=(0.8, 1.2))),
        lambda d: d["profile_sd_mm"][1, 2] / 3,
        stats.uniform(0.8, 0.4).cdf,
    ),
    "first slice": (
        of_step(Acquire(fixed_spacing_mm=((1, 1, 6),) * 2)),
        lambda d: d["offset_mm"][1, 2] / 6,
        UNIFORM,
    ),
    "field of view cut": (
        of_step(CutFieldOfView(1, (0.1, 0.3))),
        lambda d: 1 - np.ptp(d["window"][1, 2]),
        stats.uniform(0.1, 0.2).cdf,
    ),
    "side of the cut": (
        of_step(CutFieldOfView(1, (0.1, 0.3))),
        lambda d: d["window"][1, 2, 0] / (1 - np.ptp(d["window"][1, 2])),
        UNIFORM,
    ),
    "cleared slices": (of_step(ClearSlices(1, (0.1, 0.3))), lambda d: d["share"][1], stats.uniform(0.1, 0.2).cdf),
    "stripping margin": (
        of_step(SkullStrip(1, (-1, 4))),
        lambda d: d["margin_mm"],
        stats.uniform(-1, 5).cdf,
    ),
    "Rician noise": (of_step(RicianNoise(1, (0.01, 0.08))), lambda d: d["sd"][1], stats.uniform(0.01, 0.07).cdf),
    "ringing": (of_step(GibbsRinging(1, (0.5, 0.9))), lambda d: d["kept"][1], stats.uniform(0.5, 0.4).cdf),
    "ghosts": (of_step(MotionGhosting(1, (2, 8), (0.1, 0.6))), lambda d: d["strength"][1], stats.uniform(0.1, 0.5).cdf),
    "fractal strength": (
        of_step(FractalField(1, (0.05, 0.2), octaves=1)),
        lambda d: d["strength"][1],
        stats.uniform(0.05, 0.15).cdf,
    ),
    "fractal texture": (
        of_step(FractalField(1, (0.2, 0.2), octaves=2)),
        lambda d: d["fields"][1][1][5, 0, 3],
        stats.uniform(-0.1, 0.2).cdf,
    ),
}
#: Whole numbers that are drawn, and the numbers among which each is as likely as another.
CHOICES: dict[str, tuple[Callable[[np.random.Generator], Any], Callable[[Any], int], range]] = {
    "control points of the velocity": (
        only(velocity_points=(2, 6)),
        lambda d: d.velocity_mm.shape[-1],
        range(2, 7),
    ),
    "lesions": (LesionSource(Lesions(1, (2, 4))).sample, len, range(2, 5)),
    "control points of the attenuation": (
        of_step(Attenuation(points=(2, 4))),
        lambda d: len(d["loss"][0]),
        range(2, 5),
    ),
    "thick axis": (
        of_step(Acquire(high_resolution_probability=0, isotropic_probability=0)),
        lambda d: int(d["spacing_mm"][1].argmax()),
        range(3),
    ),
    "axis of cleared slices": (of_step(ClearSlices()), lambda d: d["axis"][1], range(3)),
    "axis of ringing": (of_step(GibbsRinging()), lambda d: d["axis"][1], range(3)),
    "axis of ghosts": (of_step(MotionGhosting()), lambda d: d["axis"][1], range(3)),
    "number of ghosts": (of_step(MotionGhosting(ghosts=(2, 8))), lambda d: d["ghosts"][1], range(2, 9)),
}
#: Chances of 0.3.
CHANCES: dict[str, tuple[Callable[[np.random.Generator], Any], Callable[[Any], bool]]] = {
    "flip": (only(flip_probability=0.3), lambda d: d.flip),
    "lesions": (LesionSource(Lesions(0.3)).sample, bool),
    "tied tissues": (
        of_step(Mixture(tied_probability=0.3, tied_jitter_grey=0), 1),
        lambda d: np.ptp(d["mean_grey"][0, CORTICES]) == 0,
    ),
    "high resolution": (
        of_step(Acquire(high_resolution_probability=0.3)),
        lambda d: not d["spacing_mm"][1].any(),
    ),
    "all axes coarse": (
        of_step(Acquire(high_resolution_probability=0, isotropic_probability=0.3)),
        lambda d: bool(d["spacing_mm"][1].all()),
    ),
    "cut": (of_step(CutFieldOfView(0.3, (0.1, 0.2))), lambda d: np.ptp(d["window"][1, 0]) < 0.95),
    "cleared slices": (of_step(ClearSlices(0.3, (0.1, 0.2))), lambda d: d["share"][1] > 0),
    "skull stripped": (of_step(SkullStrip(0.3)), lambda d: d["stripped"]),
    "Rician noise": (of_step(RicianNoise(0.3, (0.1, 0.2))), lambda d: d["sd"][1] > 0),
    "ringing": (of_step(GibbsRinging(0.3)), lambda d: d["kept"][1] < 1),
    "ghosts": (of_step(MotionGhosting(0.3)), lambda d: d["strength"][1] > 0),
    "fractal": (of_step(FractalField(0.3, (0.1, 0.2), octaves=1)), lambda d: d["strength"][1] > 0),
}


@lru_cache(1)
def many(sample: Callable[[np.random.Generator], Any]) -> list[Any]:
    rng = np.random.default_rng(1)
    return [sample(rng) for _ in range(10_000)]


class TestParameters:
    """10,000 draws of every parameter, each with ranges of its own."""

    @pytest.mark.parametrize("name", PARAMETERS)
    def test_distribution(self, name: str) -> None:
        sample, measure, distribution = PARAMETERS[name]
        values = np.array([measure(drawn) for drawn in many(sample)])
        assert stats.kstest(values, distribution).pvalue > 0.001

    @pytest.mark.parametrize("name", CHOICES)
    def test_choices_are_as_likely(self, name: str) -> None:
        sample, measure, among = CHOICES[name]
        found, counts = np.unique([measure(drawn) for drawn in many(sample)], return_counts=True)
        assert found.tolist() == list(among)
        assert stats.chisquare(counts).pvalue > 0.001

    @pytest.mark.parametrize("name", CHANCES)
    def test_chances(self, name: str) -> None:
        sample, happened = CHANCES[name]
        count = sum(bool(happened(drawn)) for drawn in many(sample))
        assert stats.binomtest(count, 10_000, 0.3).pvalue > 0.001

    def test_masks_are_chosen_as_often_as_asked(self, tmp_path: Path) -> None:
        for number in range(3):
            nib.save(nib.Nifti1Image(np.ones((9, 9, 9), np.uint8), np.eye(4)), tmp_path / f"{number}.nii")
        source = LesionSource(Lesions(1, (1, 1), masks=(tmp_path,), mask_probability=0.4))
        rng = np.random.default_rng(1)
        drawn = [source.sample(rng)[0]["mask"] for _ in range(10_000)]
        counts = [drawn.count(mask) for mask in (None, 0, 1, 2)]
        assert stats.chisquare(counts, [6000, *[4000 / 3] * 3]).pvalue > 0.001


class TestDraws:
    """Presets have the ranges of their sources."""

    @pytest.mark.parametrize("name", [name for name, row in DISTRIBUTIONS.items() if row[2] is not None])
    def test_distribution(self, name: str) -> None:
        preset, measure, distribution = DISTRIBUTIONS[name]
        values = [measure(params) for params in draws(preset)]
        assert stats.kstest(values, distribution.cdf).pvalue > 0.001

    def test_scaling_in_the_log_domain_is_even(self) -> None:
        """Shrinking by a tenth is about as likely as growing by it: the logarithm of the volume is centred."""
        values = np.array([log_volume(params.deformation) for params in draws("synthsr-2021")])
        assert abs(values.mean() - 1.5 * (np.log(0.9) + np.log(1.1))) < 4 * values.std() / len(values) ** 0.5

    def test_probabilities(self) -> None:
        acquire, cut = step("clinical", "Acquire"), step("clinical", "CutFieldOfView")
        shares = {
            "flip": ([p.deformation.flip for p in draws("clinical")], 0.5),
            "dark background": ([p.steps[0]["mean_grey"][0, 0] < 25 for p in draws("clinical")], 0.7),
            "full resolution": ([not p.steps[acquire]["spacing_mm"].any() for p in draws("clinical")], 0.2),
            "cut": (
                [
                    p.steps[cut]["window"].min(initial=1, where=p.steps[cut]["window"] > 0.5) < 1
                    for p in draws("clinical")
                ],
                0.3,
            ),
        }
        for name, (outcomes, probability) in shares.items():
            assert stats.binomtest(sum(map(bool, outcomes)), len(outcomes), probability).pvalue > 0.001, name

    def test_spacing(self) -> None:
        """One thick axis, each as often, up to 9 mm; or all three up to 4 mm."""
        position = step("clinical", "Acquire")
        spacing = np.array([params.steps[position]["spacing_mm"][0] for params in draws("clinical")])
        coarse = spacing > 0
        single = coarse.sum(axis=1) == 1
        assert set(coarse.sum(axis=1)) == {0, 1, 3}
        assert stats.kstest(spacing[single].max(axis=1), stats.uniform(1, 8).cdf).pvalue > 0.001
        isotropic = spacing[coarse.all(axis=1)]
        assert np.all(isotropic == isotropic[:, :1])
        assert stats.kstest(isotropic[:, 0], stats.uniform(1, 3).cdf).pvalue > 0.001
        assert stats.chisquare([*coarse[single].sum(axis=0), len(isotropic)]).pvalue > 0.001
        offset = np.array([params.steps[position]["offset_mm"][0] for params in draws("clinical")])
        assert stats.kstest(offset[coarse] / spacing[coarse], stats.uniform(0, 1).cdf).pvalue > 0.001

    def test_touching_slices_have_the_width_of_the_paper(self) -> None:
        """σ = 2·α·ln(10)/(2π)·r with α from 0.8 to 1.2 (Iglesias et al. 2021)."""
        position = step("synthsr-2021", "Acquire")
        drawn = [params.steps[position] for params in draws("synthsr-2021")]
        alpha = np.array([d["profile_sd_mm"].max() / d["spacing_mm"].max() for d in drawn]) / (np.log(10) / np.pi)
        assert stats.kstest(alpha, stats.uniform(0.8, 0.4).cdf).pvalue > 0.001

    def test_sides_share_their_intensities(self) -> None:
        mirror = labels.mirror_of_index()
        for preset in PRESETS:
            for params in draws(preset)[:100]:
                mean, sd = params.steps[0]["mean_grey"], params.steps[0]["sd_grey"]
                np.testing.assert_array_equal(mean, mean[:, mirror])
                np.testing.assert_array_equal(sd, sd[:, mirror])

    def test_tied_tissues_lie_close(self) -> None:
        tissue = np.array([label.tissue for label in labels.table()])
        config = read_config({"change": {"mixture": {"tied_probability": 1}}})
        for seed in range(100):
            assert np.ptp(draw(config, seed).steps[0]["mean_grey"][0, tissue == "grey"]) < 8 * 8


class TestConfiguration:
    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"preset": "mine"}, "no preset 'mine'; there are clinical"),
            ({"steps": [{"blurr": {}}]}, "no step 'blurr'"),
            ({"change": {"bias": {"sd": 3}}}, r"generator.steps.bias: unknown key sd; known keys: log_sd, points"),
            ({"change": {"realign": {}}}, "realign not among the steps mixture, bias"),
            ({"deformation": {"rotation_deg": "ten"}}, "deformation.rotation_deg: expected float, found 'ten'"),
            ({"change": {"bias": {"log_sd": 0.3}}}, "bias.log_sd: expected a list of 2, found 0.3"),
            ({"target": {"white_matter": "mode"}}, "'mode' is none of median, mean"),
            ({"steps": ["mixture", "realign"]}, "misalign and realign belong together"),
            ({"steps": [{"gamma": {}}]}, "give either exponent or log_sd"),
            ({"steps": ["drop_channels"], "target": {"kind": "channel"}}, "drop_channels may take away the channel"),
            ({"steps": [{"real_scan": {"channel": 1}}]}, "real_scan: unknown key channel"),
        ],
    )
    def test_wrong_settings_are_named(self, given: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigurationError, match=message):
            read_config(given)

    def test_a_change_leaves_the_rest(self) -> None:
        config = read_config({"preset": "synthsr-2023", "change": {"bias": {"log_sd": [0, 0.5]}}})
        plain = read_config({"preset": "synthsr-2023"})
        changed = [a != b for a, b in zip(config.steps, plain.steps, strict=True)]
        assert changed == [type(entry).__name__ == "Bias" for entry in plain.steps]


class TestLabelMaps:
    def write(self, path: Path, number: npt.NDArray[np.int32], spacing_mm: float = 1.0) -> Path:
        nib.save(nib.Nifti1Image(number, np.diag([spacing_mm] * 3 + [1])), path)
        return path

    def test_cropped_and_centred(self, tmp_path: Path) -> None:
        number = np.pad(head_numbers(), ((3, 9), (0, 4), (7, 1)))
        source = load_label_map(self.write(tmp_path / "labels.nii.gz", number))
        head = np.argwhere(number)
        assert source.index.shape == tuple(np.ptp(head, axis=0) + 3)
        cerebrum = np.isin(source.index, labels.index_lookup()[[2, 3, 41, 42]])
        np.testing.assert_allclose(source.centre, np.argwhere(cerebrum).mean(axis=0))

    def test_orientation_does_not_matter(self, tmp_path: Path) -> None:
        affine = np.diag([-1.0, 1, 1, 1])
        nib.save(nib.Nifti1Image(head_numbers()[::-1].copy(), affine), tmp_path / "las.nii.gz")
        turned = load_label_map(tmp_path / "las.nii.gz")
        straight = load_label_map(self.write(tmp_path / "ras.nii.gz", head_numbers()))
        np.testing.assert_array_equal(turned.index, straight.index)

    def test_real_t1_is_cropped_alike_and_its_lesions_are_filled(self, tmp_path: Path) -> None:
        number = np.pad(head_numbers(), ((3, 9), (0, 4), (7, 1)))
        grey = (10 * (number % 39)).astype(np.float32)  # the same on both sides of the cerebrum
        lesion = np.zeros(number.shape, bool)
        lesion[10:12, 12:15, 20:23] = True
        lesion &= number == 2
        assert lesion.any()
        grey[lesion] = 0
        number[lesion] = 25
        self.write(tmp_path / "labels.nii.gz", number)
        source = load_label_map(tmp_path / "labels.nii.gz", t1=self.write(tmp_path / "t1.nii.gz", grey))
        assert source.t1 is not None and source.t1.shape == source.index.shape
        numbers = np.array([label.number for label in labels.table()])[source.index]
        np.testing.assert_allclose(source.t1[np.isin(numbers, (2, 25, 41))], 20, rtol=1e-5)
        np.testing.assert_allclose(source.t1[numbers == 51], 120, rtol=1e-5)

    def test_real_images_lie_on_any_grid_of_the_same_space(self, tmp_path: Path) -> None:
        """A ramp in world space, sampled obliquely at 2 mm, is the same ramp on the label map's grid."""
        number = np.pad(head_numbers(), 2)
        path = self.write(tmp_path / "labels.nii.gz", number)
        affine = np.eye(4)
        affine[:3, :3] = rotation_matrix([4, -7, 10]) @ np.diag([-2, 2, 2])
        affine[:3, 3] = 15.5 - affine[:3, :3] @ [14.5, 14.5, 14.5]
        slope = np.array([3, -2, 1])
        world = (
            np.einsum("ij,jxyz->ixyz", affine[:3, :3], np.indices((30, 30, 30))) + affine[:3, 3][:, None, None, None]
        )
        nib.save(
            nib.Nifti1Image((100 + np.einsum("i,ixyz->xyz", slope, world)).astype(np.float32), affine),
            tmp_path / "s.nii",
        )
        source = load_label_map(path, scan=tmp_path / "s.nii")
        assert source.scan is not None and source.scan.dtype == np.float32 and source.t1 is None
        place = np.argwhere(source.index > 0)
        offset = np.argwhere(number > 0).min(axis=0) - 1
        np.testing.assert_allclose(source.scan[tuple(place.T)], 100 + (place + offset) @ slope, atol=0.01)

    @pytest.mark.parametrize("kind", ["t1", "scan"])
    def test_real_images_must_cover_the_brain(self, tmp_path: Path, kind: str) -> None:
        path = self.write(tmp_path / "labels.nii.gz", head_numbers())
        images = {
            cut: self.write(tmp_path / f"{cut}.nii", np.full((28 - cut, 28, 28), 90, np.int32)) for cut in (5, 11)
        }
        source = load_label_map(path, **{kind: images[5]})
        grey = getattr(source, kind)
        white = np.isin(source.index, labels.index_lookup()[[2, 41]])
        seen = np.argwhere(source.index >= 0)[:, 0].reshape(grey.shape) + np.argwhere(head_numbers()).min() - 1 < 23
        np.testing.assert_allclose(grey[white & seen], 90, rtol=1e-5)
        assert (grey[~seen] == 0).all()
        with pytest.raises(DataError, match=r"11\.nii: covers [67]\d% of the brain"):
            load_label_map(path, **{kind: images[11]})

    def test_a_t1_without_signal_is_refused(self, tmp_path: Path) -> None:
        path = self.write(tmp_path / "labels.nii.gz", head_numbers())
        with pytest.raises(DataError, match=r"t1\.nii: no grey level above zero in cerebral white matter"):
            load_label_map(path, t1=self.write(tmp_path / "t1.nii", np.zeros((28, 28, 28), np.int32)))

    @pytest.mark.parametrize("strength", [0.0, 0.2])
    def test_bias_field_of_the_target_is_removed(self, strength: float) -> None:
        """A field of ±20 % over a brain of natural size, to within a few percent; beyond the brain it goes on."""
        size, brain, white = 120, 55, 46
        place = (np.indices((size,) * 3, dtype=np.float32) - (size - 1) / 2) / brain
        radius = np.linalg.norm(place, axis=0) * brain
        grey = np.select([radius < white, radius < brain, radius < brain + 5], [100, 60, 130]).astype(np.float32)
        field = 1 + strength * (0.8 * place[0] + 0.3 * np.cos(2 * place[1]) - 0.3)
        found = sensitivity(grey * field, radius < white)
        ratio = found / field / np.mean((found / field)[radius < white])
        assert found.dtype == np.float32 and found.shape == grey.shape
        assert np.abs(ratio[radius < brain] - 1).max() < (0.04 if strength else 1e-5)
        assert ratio[radius < brain].std() < 0.015
        assert np.abs(ratio[radius < brain + 5] - 1).max() < 0.06
        assert 0.9 * field[radius < brain].min() < found.min() and found.max() < 1.1 * field[radius < brain].max()

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
