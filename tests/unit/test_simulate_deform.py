from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from simulated_head import SMALL, numbers

from analysis.simulate import anatomy, build, deform, patients, render
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


@pytest.mark.parametrize("age_years", [22.0, 88.0])
def test_prescribed_volumes_are_reached_without_folding(base: anatomy.Anatomy, age_years: float) -> None:
    """Within 3 % on average and 8 % for each of these structures, of which the smallest has 0.15 ml."""
    ratio = patients.prescribed_log_ratio(
        base, age_years, anatomy_age_years=30, deviation=np.zeros(len(base.structures))
    )
    variation = deform.random_velocity(np.random.default_rng(2), base.grid_shape, sd=0.5, length=8)
    warp = deform.fit(base.fractions, ratio, variation, steps=6)
    assert deform.jacobian(warp.pull).min() > 0
    patient = patients.draw(SMALL, base)[0]
    head = render.place(base, warp, patient, np.random.default_rng(3))
    measured = render.true_volumes_mm3(head, step_mm=0.5)
    error = np.abs(measured / (np.exp(ratio) * base.volumes_mm3 * head.scale_cubed) - 1)
    assert error.mean() < 0.03
    assert error.max() < 0.08
    assert measured.sum() == pytest.approx(patient.icv_mm3, rel=0.02)


def test_truth_is_the_count_on_the_deformed_label_map(base: anatomy.Anatomy) -> None:
    """Against scipy, over the whole map."""
    patient = patients.draw(SMALL, base)[1]
    head = build.deformed_head(SMALL, base, patient)
    grid = base.grid_mm
    voxels = np.indices(base.numbers.shape).astype(float)
    nodes = (voxels - (grid - 1) / 2) / grid
    pull = [ndimage.map_coordinates(axis, nodes, order=1, mode="nearest") for axis in head.fields[:3].numpy()]
    deformed = ndimage.map_coordinates(base.numbers, voxels + np.stack(pull), order=0, mode="nearest")
    counts = np.array([(deformed == number).sum() for number in base.structures]) * head.scale_cubed
    assert render.true_volumes_mm3(head, step_mm=1) == pytest.approx(counts, rel=0.01)


def test_ages_shape_the_brain(base: anatomy.Anatomy) -> None:
    none = np.zeros(len(base.structures))
    young, middle, old = (
        dict(
            zip(
                base.structures,
                patients.prescribed_log_ratio(base, age, anatomy_age_years=30, deviation=none),
                strict=True,
            )
        )
        for age in (20, 45, 85)
    )
    assert young[2] < 0 < young[3], "white matter still grows at 20, cortex no longer"
    assert middle[10] < middle[17], "thalamus declines before hippocampus"
    assert old[4] > 0.8, "ventricles more than double"
    assert old[24] > 0, "the fluid takes what the brain leaves"


def test_same_seed_same_patients(base: anatomy.Anatomy) -> None:
    first, second = (patients.draw(SMALL, base) for _ in range(2))
    assert [p.visit for p in first] == [p.visit for p in second]
    assert all((a.log_ratio == b.log_ratio).all() for a, b in zip(first, second, strict=True))
    assert all(orientation in ORIENTATIONS for p in first for _, orientation in p.scans)


def test_spinal_fluid_is_not_intracranial() -> None:
    tall = np.zeros((5, 5, 40), dtype=np.uint16)
    tall[2, 2, :30], tall[2, 2, 30:] = 24, 16
    assert (anatomy.without_spine(tall)[2, 2] == [512] * 20 + [24] * 10 + [16] * 10).all()
