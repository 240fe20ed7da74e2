from __future__ import annotations

import numpy as np
import pytest
import torch
from simulated_head import SMALL, numbers

from analysis.simulate import anatomy, deform, patients, protocols, render, tissues
from analysis.simulate.geometry import FLIP, ORIENTATIONS, Stack
from analysis.simulate.tissues import Sequence
from synthsr import labels

WHITE, GREY, FLUID = "Cerebral-White-Matter", "Cerebral-Cortex", "CSF"


@pytest.fixture(scope="module")
def head() -> render.Head:
    base = anatomy.make(numbers(), grid_mm=2)
    still = deform.Warp(np.zeros((3, *base.grid_shape), dtype=np.float32))
    return render.place(base, still, patients.draw(SMALL, base)[0], np.random.default_rng(1))


@pytest.mark.parametrize("draw", range(5))
@pytest.mark.parametrize(
    ("contrast", "rising"),
    [("T1w", (FLUID, GREY, WHITE)), ("T2w", (WHITE, GREY, FLUID)), ("FLAIR", (FLUID, WHITE, GREY))],
)
def test_contrasts(contrast: str, rising: tuple[str, ...], draw: int) -> None:
    _, sequence = protocols.draw_sequence(contrast, np.random.default_rng(draw))
    levels = [tissues.signal(tissues.table()[name], sequence) for name in rising]
    assert levels == sorted(levels)
    assert levels[-1] > 1.1 * levels[0]


def test_flair_nulls_fluid() -> None:
    _, sequence = protocols.draw_sequence("FLAIR", np.random.default_rng(0))
    fluid, white = (tissues.signal(tissues.table()[name], sequence) for name in (FLUID, WHITE))
    assert fluid < 0.1 * white


def test_every_label_that_can_occur_has_a_tissue() -> None:
    occurring = {label.number if label.number >= 500 else label.segment_as for label in labels.table()} - {0}
    assert {tissues.structure(number) for number in occurring} == set(tissues.table())


def test_every_structure_has_a_course() -> None:
    occurring = {tissues.structure(number) for number in labels.intracranial_numbers()}
    assert occurring == {*patients.trajectories(), "CSF"}


def test_profile_is_as_wide_as_the_slice() -> None:
    offsets, weights = render.profile(5.0)
    assert weights.sum() == pytest.approx(1)
    assert weights.max() * 5.0 / (offsets[1] - offsets[0]) == pytest.approx(1, rel=0.05)
    assert weights @ offsets == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_slices_lie_where_their_geometry_says(head: render.Head, orientation: str) -> None:
    """A T2 shows every tissue where the head has it, and is mirrored along no axis."""
    sequence = Sequence("spin_echo", 4500, 100)
    stack = protocols.cover(head, orientation, patients.rotation(np.array([0.1, -0.05, 0.08])), matrix=64, pixel_mm=1.0,
                            spacing_mm=2.0, thickness_mm=2.0)  # fmt: skip
    image = render.render(head, sequence, stack)
    k, j, i = np.indices(image.shape)
    world = np.stack([i, j, k, np.ones_like(i)], axis=-1) @ stack.affine_ras().T
    voxels = np.rint(world[..., :3] @ head.to_base[:, :3].T + head.to_base[:, 3]).astype(int)
    inside = ((voxels >= 0) & (voxels < head.anatomy.numbers.shape)).all(axis=-1)
    label = np.zeros(image.shape, dtype=int)
    label[inside] = head.anatomy.numbers[tuple(voxels[inside].T)]
    expected = tissues.signals(sequence)[0][label]

    def likeness(picture: np.ndarray) -> float:
        return float(np.corrcoef(expected.ravel(), picture.ravel())[0, 1])

    # Less than 1 for the partial volume of shells 2 mm thin.
    assert likeness(image) > 0.85
    assert likeness(image) > max(likeness(np.flip(image, axis)) for axis in range(3)) + 0.02
    assert world[label == 17][:, 0].mean() < world[label == 53][:, 0].mean(), "left is at lower x"


def test_stack_covers_the_intracranial_space(head: render.Head) -> None:
    stack = protocols.cover(head, "sagittal", np.eye(3), matrix=64, pixel_mm=1.0, spacing_mm=5.0, thickness_mm=4.0)
    height = (head.intracranial_points_mm() * FLIP - stack.position_mm(0)) @ stack.normal
    assert height.min() >= 0
    assert height.max() <= (stack.slices - 1) * 5.0


def test_noise_is_rician() -> None:
    stack = Stack(*ORIENTATIONS["axial"], np.zeros(3), 64, 1.0, 20, 3.0, 3.0)
    empty = np.zeros((20, 64, 64), dtype=np.float32)
    image = render.acquire(empty, stack, np.random.default_rng(1), noise=2.0, bias=0)
    assert image.mean() == pytest.approx(2 * np.sqrt(np.pi / 2), rel=0.02), "Rayleigh where there is no signal"


def test_rendering_is_linear_in_fractions(head: render.Head) -> None:
    """A scan of the sum of two signals is the sum of their scans: partial volume needs nothing more."""
    fields = torch.zeros(2, 4, 4, 4)
    fields[0, 2:], fields[1, :2] = 1, 1
    halfway = torch.tensor([[1.25, 2.0, 2.0]])
    assert deform.sample(fields, halfway).ravel().tolist() == pytest.approx([0.25, 0.75])
