from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from simulated_head import SMALL, numbers

from analysis.simulate import anatomy, courses, deform, patients, protocols, render, tissues, vessels
from analysis.simulate.geometry import FLIP, ORIENTATIONS, Stack
from analysis.simulate.tissues import Sequence
from synthsr import labels

WHITE, GREY, FLUID = "Cerebral-White-Matter", "Cerebral-Cortex", "CSF"


@pytest.fixture(scope="module")
def head() -> render.Head:
    base = anatomy.make(numbers(), grid_mm=2)
    still = np.zeros((3, *base.grid_shape), dtype=np.float32)
    patient = patients.draw(SMALL)[0]
    turned = replace(patient.visits[0], rotation=patients.rotation(np.array([0.15, -0.1, 0.2])))
    return render.place(base, still, patient, turned, rng=np.random.default_rng(1))


@pytest.mark.parametrize("draw", range(5))
@pytest.mark.parametrize(
    ("contrast", "rising"),
    [
        ("T1w", (FLUID, GREY, WHITE)),
        ("MPRAGE", (FLUID, GREY, WHITE)),
        ("T2w", ("Sinus", WHITE, GREY, "Oedema", FLUID)),
        ("PDw", (WHITE, GREY)),
        ("FLAIR", (FLUID, WHITE, GREY, "Infarct")),
        ("FLAIR", ("Cavity", WHITE, "Gliosis")),
        ("T1CE", ("Tumour-Core", WHITE, "Enhancing-Rim")),
        ("CT", (FLUID, "Infarct", WHITE, GREY, "Cancellous-Bone", "Cortical-Bone")),
    ],
)
def test_contrasts(contrast: str, rising: tuple[str, ...], draw: int) -> None:
    _, sequence = protocols.draw_sequence(contrast, np.random.default_rng(draw))
    levels = [tissues.signal(tissues.table()[name], sequence) for name in rising]
    assert levels == sorted(levels)
    assert levels[-1] > 1.05 * levels[0]


def test_flair_nulls_fluid() -> None:
    _, sequence = protocols.draw_sequence("FLAIR", np.random.default_rng(0))
    fluid, white = (tissues.signal(tissues.table()[name], sequence) for name in (FLUID, WHITE))
    assert fluid < 0.1 * white


def test_magnetisation_repeats_itself() -> None:
    """MPRAGE's steady state against playing the pulses out, forty times over."""
    _, sequence = protocols.draw_sequence("MPRAGE", np.random.default_rng(0))
    t1_ms, magnetisation, middle = 900.0, 1.0, 0.0

    def recover(value: float, time_ms: float) -> float:
        return 1 + (value - 1) * np.exp(-time_ms / t1_ms)

    for _ in range(40):
        magnetisation = recover(-magnetisation, sequence.inversion_ms - sequence.echoes / 2 * sequence.echo_spacing_ms)
        for echo in range(sequence.echoes):
            if echo == sequence.echoes // 2:
                middle = magnetisation * np.sin(np.deg2rad(sequence.flip_deg))
            magnetisation = recover(magnetisation * np.cos(np.deg2rad(sequence.flip_deg)), sequence.echo_spacing_ms)
        rest_ms = sequence.repetition_ms - sequence.inversion_ms - sequence.echoes / 2 * sequence.echo_spacing_ms
        magnetisation = recover(magnetisation, rest_ms)
    assert tissues.prepared(t1_ms, sequence) == pytest.approx(middle, rel=1e-9)


def test_contrast_agent_changes_only_what_takes_it_up() -> None:
    plain = Sequence("spin_echo", 500, 10)
    given = Sequence("spin_echo", 500, 10, has_gadolinium=True)
    ratio = {
        name: tissues.signal(tissue, given) / tissues.signal(tissue, plain) for name, tissue in tissues.table().items()
    }
    assert ratio[WHITE] == ratio[FLUID] == 1
    assert min(ratio["Enhancing-Rim"], ratio["Sinus"], ratio["Mucosa"]) > 1.5


def test_every_label_that_can_occur_has_a_tissue() -> None:
    occurring = {label.number if label.number >= 500 else label.segment_as for label in labels.table()} - {0}
    structures = {tissues.structure(number) for number in occurring}
    assert structures | {*tissues.LESIONS.values(), "Sinus"} == set(tissues.table()) == set(tissues.names().values())


def test_every_structure_has_a_course() -> None:
    occurring = {tissues.structure(number) for number in labels.intracranial_numbers()}
    assert occurring == {*courses.trajectories(), "CSF"}
    assert set(courses.effects()) <= occurring


def test_profile_is_as_wide_as_the_slice() -> None:
    offsets, weights = render.profile(5.0, step_mm=0.5)
    assert np.diff(offsets).max() <= 0.5
    assert weights.sum() == pytest.approx(1)
    assert weights.max() * 5.0 / (offsets[1] - offsets[0]) == pytest.approx(1, rel=0.05)
    assert weights @ offsets == pytest.approx(0, abs=1e-5)
    assert np.ptp(offsets[weights > weights.max() / 2]) == pytest.approx(5.0, abs=0.5)


def test_voxels_average_fractions_of_half_a_millimetre(head: render.Head) -> None:
    """A thick oblique slice against means over points half a millimetre apart, each looked up for itself."""
    sequence = Sequence("spin_echo", 4500, 100)
    tilt = patients.rotation(np.array([0.1, -0.2, 0.1]))
    stack = protocols.cover(head, "axial", tilt, matrix=40, pixel_mm=1.5, spacing_mm=6.0, thickness_mm=5.0)
    image = render.render(head, sequence, stack, sampling_mm=0.5)
    volume = head.volume(sequence)[None]
    offsets, weights = render.profile(5.0, step_mm=0.5)
    number = stack.slices // 2
    fine = (np.arange(120) + 0.5) / 3 - 0.5
    lps = (
        stack.position_mm(number)
        + offsets[:, None, None, None] * stack.normal
        + fine[:, None, None] * stack.pixel_mm * stack.column
        + fine[:, None] * stack.pixel_mm * stack.row
    )
    points = (lps * FLIP) @ head.to_base[:, :3].T + head.to_base[:, 3]
    values = deform.sample(volume, torch.from_numpy(points.astype(np.float32)))[0].numpy()
    expected = np.einsum("k,kij->ij", weights, values).reshape(40, 3, 40, 3).mean(axis=(1, 3))
    assert image[number] == pytest.approx(expected, abs=1e-3 * float(expected.max()))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_slices_lie_where_their_geometry_says(head: render.Head, orientation: str) -> None:
    """A T2 shows every tissue where the head has it, and is mirrored along no axis."""
    sequence = Sequence("spin_echo", 4500, 100)
    stack = protocols.cover(head, orientation, patients.rotation(np.array([0.1, -0.05, 0.08])), matrix=64, pixel_mm=1.0,
                            spacing_mm=2.0, thickness_mm=2.0)  # fmt: skip
    image = render.render(head, sequence, stack, sampling_mm=1)
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


def test_partial_coverage_is_from_below(head: render.Head) -> None:
    whole, half = (
        protocols.cover(head, "axial", np.eye(3), matrix=64, pixel_mm=1.0, spacing_mm=3.0, thickness_mm=3.0, coverage=c)
        for c in (1.0, 0.5)
    )
    assert half.slices == pytest.approx(whole.slices / 2, abs=0.5)
    assert half.position_mm(0) == pytest.approx(whole.position_mm(0))


def test_reference_holds_the_scalp(head: render.Head) -> None:
    order = patients.Order("MPRAGE", "sagittal", 0.0, 1.0)
    (stack,) = protocols.scan(SMALL, head, order, np.random.default_rng(1)).stacks
    height = (head.points_mm * FLIP - stack.position_mm(0)) @ stack.normal
    assert height.min() >= 0 and height.max() <= stack.slices - 1


def test_points_are_carried_where_the_head_is_pressed_together(head: render.Head) -> None:
    """To a third of the base's size, or to three times that."""
    middle = head.anatomy.centre
    nodes = deform.lattice(head.anatomy.grid_shape).numpy() * 2 + 0.5
    for factor in (3.0, 1 / 3):
        pull = torch.from_numpy(((factor - 1) * (nodes - middle)).astype(np.float32)).movedim(-1, 0)
        pressed = replace(head, pull_mm=pull)
        points = middle + np.array([[4.0, 0, 0], [-3, 5, 2], [0, -4, -6]])
        assert pressed.carried_mm(points) == pytest.approx(
            head.carried_mm(middle + (points - middle) / factor), abs=0.02
        )


def test_noise_is_rician() -> None:
    stack = Stack(*ORIENTATIONS["axial"], np.zeros(3), 64, 1.0, 20, 3.0, 3.0)
    empty = np.zeros((20, 64, 64), dtype=np.float32)
    image = render.acquire(empty, stack, np.random.default_rng(1), noise=2.0, bias=0)
    assert image.mean() == pytest.approx(2 * np.sqrt(np.pi / 2), rel=0.02), "Rayleigh where there is no signal"
    image = render.acquire(empty + 100, stack, np.random.default_rng(1), noise=2.0, bias=0)
    assert image.std() == pytest.approx(2, rel=0.02), "Gaussian where there is much"
    assert np.corrcoef(image[:, :, 1:].ravel(), image[:, :, :-1].ravel())[0, 1] > 0.15, "lines left out hold no noise"
    assert abs(np.corrcoef(image[:, 1:].ravel(), image[:, :-1].ravel())[0, 1]) < 0.02


def test_bias_is_as_large_as_asked() -> None:
    stack = Stack(*ORIENTATIONS["axial"], np.zeros(3), 3, 70.0, 1, 3.0, 3.0)
    even = np.ones((1, 3, 3), dtype=np.float32)
    logs = [
        np.log(render.acquire(even, stack, np.random.default_rng(n), noise=0, bias=0.2)[0, 2, 1]) for n in range(900)
    ]
    assert np.std(logs) == pytest.approx(0.2, rel=0.08)


def test_trembling_blurs_along_the_phase_direction_and_none_does_nothing() -> None:
    stack = Stack(*ORIENTATIONS["axial"], np.zeros(3), 64, 1.0, 1, 3.0, 3.0)
    image = np.zeros((1, 64, 64), dtype=np.float32)
    image[0, 20:40, 30] = 1

    def acquired(ghost: render.Ghost | None) -> np.ndarray:
        return render.acquire(image, stack, np.random.default_rng(1), noise=0, bias=0, ghost=ghost)[0]

    still = acquired(None)
    assert acquired(render.Ghost(0, 5, 1)) == pytest.approx(still, abs=1e-5)
    moved = acquired(render.Ghost(0.8, 8, 1))
    assert moved[:15].max() < 0.01 * still.max(), "nothing along the other direction"
    assert np.abs(moved - still)[25, :25].max() > 5 * np.abs(still)[25, 40:].max(), "ghosts beside the line"


def test_moves_show_the_head_elsewhere(head: render.Head) -> None:
    """A shift by one slice shows what the next slice shows without it; jumps follow the order of acquisition."""
    sequence = Sequence("spin_echo", 4500, 100)
    stack = protocols.cover(head, "axial", np.eye(3), matrix=32, pixel_mm=2.0, spacing_mm=3.0, thickness_mm=3.0)
    shift = [render.Move(np.eye(3), np.array([0, 0, 3.0]))] * stack.slices
    still = render.render(head, sequence, stack, sampling_mm=1)
    moved = render.render(head, sequence, stack, sampling_mm=1, moves=shift)
    assert moved[:-1] == pytest.approx(still[1:], abs=0.02 * float(still.max()))
    moves = protocols.draw_moves(20, np.random.default_rng(1))
    in_order = [moves[n] for n in (*range(0, 20, 2), *range(1, 20, 2))]
    changes = sum(a is not b for a, b in pairwise(in_order))
    assert 1 <= changes <= protocols.JUMPS and not in_order[0].shift_mm.any()


def test_noise_of_ct_is_smooth() -> None:
    image = render.reconstruct(np.full((5, 64, 64), 40, dtype=np.float32), np.random.default_rng(1), noise_hu=3.0)
    assert image.mean() == pytest.approx(40, abs=0.3)
    assert image.std() == pytest.approx(3.0, rel=0.05)
    neighbours = np.corrcoef(image[:, :, 1:].ravel(), image[:, :, :-1].ravel())[0, 1]
    assert 0.4 < neighbours < 0.8


def test_air_of_ct_is_air(head: render.Head) -> None:
    stack = protocols.cover(head, "axial", np.eye(3), matrix=48, pixel_mm=2.0, spacing_mm=5.0, thickness_mm=5.0)
    image = render.render(head, Sequence("x_ray", 0, 0), stack, sampling_mm=1)
    assert image[:, 0, 0] == pytest.approx(-1000)
    assert image.max() > 300


def test_sinus_lies_between_the_hemispheres_under_the_vault() -> None:
    base = anatomy.make(numbers(), grid_mm=2)
    sinus = vessels.superior_sinus(base)
    assert sinus is not None and sinus.any()
    assert (base.numbers[sinus] == 24).all()
    where = np.argwhere(sinus)
    assert np.abs(where[:, 0] - base.centre[0]).max() < 6 and abs(where[:, 0].mean() - base.centre[0]) < 1
    assert where[:, 2].min() > base.centre[2] - 10
    with_vein = base.numbers.copy()
    with_vein[tuple(where[0])] = 514
    assert vessels.superior_sinus(anatomy.make(with_vein, grid_mm=2)) is None
