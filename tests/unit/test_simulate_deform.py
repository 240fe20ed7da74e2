from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage
from simulated_head import SMALL, numbers

from analysis.simulate import anatomy, courses, deform, heads, patients, render
from analysis.simulate.clinic import Clinic, Group
from analysis.simulate.geometry import ORIENTATIONS


@pytest.fixture(scope="module")
def base() -> anatomy.Anatomy:
    return anatomy.make(numbers(), grid_mm=2)


def test_no_velocity_is_identity() -> None:
    assert not deform.flow(np.zeros((3, 6, 7, 8), dtype=np.float32)).any()


def test_flow_keeps_orientation_and_is_undone_by_its_reverse() -> None:
    velocity = deform.random_velocity(np.random.default_rng(1), (24, 26, 28), sd=1.5, length=12)
    there, back = deform.flow(velocity), deform.flow(-velocity)
    assert deform.jacobian(there).min() > 0.1
    nodes = deform.lattice(there.shape[1:])
    moved = nodes + torch.from_numpy(there).movedim(0, -1)
    returned = moved + deform.sample(torch.from_numpy(back), moved).movedim(0, -1)
    inner = (slice(5, -5),) * 3
    assert float((returned - nodes)[inner].abs().max()) < 0.1


def test_gradient_flow_has_the_divergence_asked_for() -> None:
    wanted = ndimage.gaussian_filter(np.random.default_rng(1).standard_normal((32, 32, 32)), 4).astype(np.float32)
    velocity = deform.gradient_flow(wanted)
    found = sum(np.gradient(velocity[axis], axis=axis) for axis in range(3))
    inner = (slice(4, -4),) * 3
    assert np.corrcoef(found[inner].ravel(), wanted[inner].ravel())[0, 1] > 0.99


def test_confined_flow_has_its_divergence_and_leaves_the_outside_alone() -> None:
    """A ball in the middle swells, a shell around it gives way, within a skull."""
    radius = np.linalg.norm(np.indices((32, 32, 32)) - 15.5, axis=0)
    wanted = np.where(radius < 4, 1.0, 0).astype(np.float32)
    shell = (radius > 8) & (radius < 12)
    wanted[shell] = -wanted.sum() / shell.sum()
    ease = np.where(radius < 12, 1, 0.01).astype(np.float32)
    potential = deform.confined_potential(wanted, ease, np.zeros_like(wanted), rounds=30)
    velocity = ease * np.asarray(np.gradient(potential))
    speed = np.linalg.norm(velocity, axis=0)
    assert speed[radius > 13].max() < 0.05 * speed.max()
    # As the law of Gauss has it: what leaves the ball of 4 nodes crosses every sphere around it.
    outwards = (velocity * (np.indices(radius.shape) - 15.5)).sum(axis=0) / np.maximum(radius, 1)
    assert outwards[(radius > 6) & (radius < 7)].mean() == pytest.approx(
        (radius < 4).sum() / (4 * np.pi * 6.5**2), rel=0.1
    )


@pytest.mark.parametrize(("age_years", "ventricles"), [(22.0, 0.0), (88.0, 0.3)])
def test_prescribed_volumes_are_reached_without_folding(
    base: anatomy.Anatomy, age_years: float, ventricles: float
) -> None:
    """Within 2.5 % on average and 6 % for each of these structures; ventricles become five times as large."""
    logs = courses.ageing(age_years, anatomy_age_years=30)
    ratio = courses.prescribed_log_ratio(base, logs | {n: logs[n] + ventricles for n in (4, 43)})
    variation = deform.random_velocity(np.random.default_rng(2), base.grid_shape, sd=0.5, length=8)
    pull = deform.fit(base.fractions, ratio, variation, steps=4)
    assert deform.jacobian(pull).min() > 0
    patient = patients.draw(SMALL)[0]
    head = render.place(base, pull, patient, patient.visits[0], rng=np.random.default_rng(3))
    measured = render.true_volumes_mm3(head, step_mm=0.5).sum(axis=0)
    error = np.abs(measured / (np.exp(ratio) * base.volumes_mm3 * head.scale_cubed) - 1)
    assert error.mean() < 0.025
    assert error.max() < 0.06
    assert measured.sum() == pytest.approx(patient.icv_mm3, rel=0.02)


def test_a_structure_that_a_lesion_has_taken_whole_changes_nothing(base: anatomy.Anatomy) -> None:
    """The others' flow is the one there would be without it."""
    ratio = courses.prescribed_log_ratio(base, courses.ageing(70, anatomy_age_years=30))
    still = np.zeros((3, *base.grid_shape), dtype=np.float32)
    row = base.structures.index(17)  # Left hippocampus.
    kept = np.arange(len(ratio)) != row
    without = base.fractions.multiply(kept[:, None]).tocsr()
    pull = deform.fit(without, ratio, still, steps=3)
    assert np.isfinite(pull).all()
    np.testing.assert_allclose(pull, deform.fit(base.fractions[kept], ratio[kept], still, steps=3), atol=1e-3)


def test_truth_is_the_count_on_the_deformed_label_map(base: anatomy.Anatomy) -> None:
    """Against scipy, over the whole map."""
    patient = patients.draw(SMALL)[1]
    ratio = heads.prescribed(SMALL, base, patient, patient.visits[0], None)
    head = heads.deformed(SMALL, base, patient, patient.visits[0], log_ratio=ratio)
    grid = base.grid_mm
    voxels = np.indices(base.numbers.shape).astype(float)
    nodes = (voxels - (grid - 1) / 2) / grid
    pull = [ndimage.map_coordinates(axis, nodes, order=1, mode="nearest") for axis in head.pull_mm.numpy()]
    deformed = ndimage.map_coordinates(base.numbers, voxels + np.stack(pull), order=0, mode="nearest")
    counts = np.array([(deformed == number).sum() for number in base.structures]) * head.scale_cubed
    measured = render.true_volumes_mm3(head, step_mm=1)
    assert measured[0] == pytest.approx(counts, rel=0.01)
    assert not measured[1:].any(), "no lesion"
    # The spacing is the scanner's: a head twice as large is counted at as many points.
    large = replace(head, to_base=head.to_base * [0.5, 0.5, 0.5, 1])
    fine = render.true_volumes_mm3(head, step_mm=0.5)
    assert render.true_volumes_mm3(large, step_mm=1) == pytest.approx(8 * fine)


def test_ages_shape_the_brain(base: anatomy.Anatomy) -> None:
    young, middle, old = (courses.ageing(age, anatomy_age_years=30) for age in (20, 45, 85))
    assert young[2] < 0 < young[3], "white matter still grows at 20, cortex no longer"
    assert middle[10] < middle[17], "thalamus declines before hippocampus"
    assert old[4] > 0.8, "ventricles more than double"
    fluid = base.structures.index(24)
    assert courses.prescribed_log_ratio(base, old)[fluid] > 0, "the fluid takes what the brain leaves"


def test_disease_acts_on_what_it_should() -> None:
    """Hippocampi shrink, more at every session, by the stated rates on top of ageing; controls' do not."""
    ill, well = Group(diagnosis="AD", sessions=2, interval_years=2), Group(sessions=2, interval_years=2)
    first, second = patients.draw(Clinic(patients=2, groups=(ill, well)))
    assert [p.group.diagnosis for p in (first, second)] == ["AD", "Control"]
    before, after = (courses.disease(first, visit, None) for visit in first.visits)
    years = first.years_since_first(first.visits[1])
    assert years == pytest.approx(2, abs=0.01)
    assert before[17] == before[53] == pytest.approx(first.severity * np.log(0.84))
    assert after[17] - before[17] == pytest.approx(first.severity * years * np.log(0.967))
    assert before[18] < 0 < before[4]
    assert not any(courses.disease(second, second.visits[1], None).values())


def test_planted_difference_is_near_the_published_one() -> None:
    """The AD comparison of Iglesias 2023, figure 3: medians 543 mm³ apart, AUROC 0.81."""
    groups = (Group(youngest_years=58, oldest_years=88), Group(diagnosis="AD", youngest_years=58, oldest_years=88))
    cohort = patients.draw(Clinic(patients=600, groups=groups, volume_spread=0.09))
    volumes: dict[str, list[float]] = {"Control": [], "AD": []}
    for patient in cohort:
        (visit,) = patient.visits
        age, ill = courses.ageing(patient.age_years(visit), anatomy_age_years=30), courses.disease(patient, visit, None)
        # Middle of both sides, in a head of 1.5 l whose hippocampus has 3,500 mm³ at the age of 30.
        both = [3500 * np.exp(age[n] + ill[n] + patient.deviation[n]) for n in (17, 53)]
        volumes[patient.group.diagnosis].append(float(np.mean(both)) * patient.icv_mm3 / 1.5e6)
    controls, cases = (np.array(values) for values in volumes.values())
    assert np.median(controls) - np.median(cases) == pytest.approx(543, abs=80)
    assert (controls[:, None] > cases).mean() == pytest.approx(0.81, abs=0.05)


def test_same_seed_same_patients() -> None:
    first, second = (patients.draw(SMALL) for _ in range(2))
    assert [p.visits[0].date for p in first] == [p.visits[0].date for p in second]
    assert all(a.deviation == b.deviation for a, b in zip(first, second, strict=True))
    assert all(order.orientation in ORIENTATIONS for p in first for order in p.visits[0].orders)


def test_spinal_fluid_is_not_intracranial() -> None:
    tall = np.zeros((5, 5, 40), dtype=np.uint16)
    tall[2, 2, :30], tall[2, 2, 30:] = 24, 16
    assert (anatomy.without_spine(tall)[2, 2] == [512] * 20 + [24] * 10 + [16] * 10).all()
    tall[1, 2, 25:], tall[3, 2, 35:] = 41, 3
    assert (anatomy.without_spine(tall)[1, 2] == [0] * 25 + [512] * 5 + [41] * 10).all(), "no cerebrum below the stem"
    assert (tall[3, 2] == [0] * 35 + [3] * 5).all()
