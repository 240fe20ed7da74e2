from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from simulated_head import SMALL, STROKE, TUMOUR, numbers

from analysis.errors import DataError
from analysis.simulate import anatomy, deform, heads, landmarks, lesions, patients, render
from analysis.simulate.patients import Patient
from synthsr import labels

CLINIC = dataclasses.replace(SMALL, patients=6, groups=(STROKE, TUMOUR))
STROKES = [patient for patient in patients.draw(CLINIC) if patient.group.diagnosis == "Stroke"]
TUMOURS = [patient for patient in patients.draw(CLINIC) if patient.group.diagnosis == "Tumour"]


@pytest.fixture(scope="module")
def base() -> anatomy.Anatomy:
    return anatomy.make(numbers(), grid_mm=2)


def drawn(base: anatomy.Anatomy, patient: Patient) -> lesions.Lesion:
    lesion = lesions.draw(CLINIC, base, patient)
    assert lesion is not None
    return lesion


def head(base: anatomy.Anatomy, patient: Patient, visit: int) -> render.Head:
    lesion = drawn(base, patient)
    ratio = heads.prescribed(CLINIC, base, patient, patient.visits[visit], lesion)
    return heads.deformed(CLINIC, base, patient, patient.visits[visit], log_ratio=ratio, lesion=lesion)


@pytest.mark.parametrize("patient", [*STROKES, *TUMOURS], ids=lambda p: f"{p.group.diagnosis}-{p.index}")
def test_a_lesion_lies_on_its_side_in_tissue_and_in_one_piece(base: anatomy.Anatomy, patient: Patient) -> None:
    lesion = drawn(base, patient)
    names = {labels.by_number()[n].name for n in np.unique(base.numbers[lesion.bulk]).tolist()}
    other = "Right" if lesion.side == "left" else "Left"
    assert not {name for name in names if name.startswith(other)}
    assert "CSF" not in names or patient.group.diagnosis == "Tumour"
    x = np.argwhere(lesion.bulk)[:, 0].mean()
    assert (x < base.centre[0]) == (lesion.side == "left")
    touched = lesion.bulk | (lesion.surroundings > 0)
    for region in (lesion.bulk, touched):
        grown = lesions.grow(
            np.where(region, 0.0, np.inf), region & (np.cumsum(region).reshape(region.shape) == 1), 10**6
        )
        assert (grown == region).all()
    assert not (lesion.surroundings > 0)[lesion.bulk].any()


@pytest.mark.parametrize("patient", [STROKES[0], TUMOURS[0]], ids=["stroke", "tumour"])
def test_volumes_are_as_prescribed_and_the_truth_says_what_is_left(base: anatomy.Anatomy, patient: Patient) -> None:
    lesion = drawn(base, patient)
    for visit in patient.visits:
        made = head(base, patient, visit.number - 1)
        assert deform.jacobian(made.pull_mm.numpy() / base.grid_mm).min() > 0
        measured = render.true_volumes_mm3(made, step_mm=0.5)
        bulk = measured[lesions.bulk_classes()].sum()
        wanted = lesion.voxels * lesion.growth(visit) * patient.icv_mm3 / base.volumes_mm3.sum()
        assert bulk == pytest.approx(wanted, rel=0.08)
        if visit.number == 1:
            assert wanted == pytest.approx(1200, rel=0.05)
        ratio = heads.prescribed(CLINIC, base, patient, visit, lesion)
        rows = {row["structure"]: row for row in heads.true_rows(made, patient, measured, ratio, lesion)}
        icv = rows.pop("ICV")
        assert sum(row["volume_mm3"] + row["lesion_mm3"] for row in rows.values()) == pytest.approx(icv["volume_mm3"])
        assert icv["lesion_mm3"] == pytest.approx(bulk, rel=1e-3)
        assert icv["volume_mm3"] == pytest.approx(patient.icv_mm3, rel=0.02)
        assert sum(row["prescribed_mm3"] for row in rows.values()) == pytest.approx(patient.icv_mm3, rel=1e-3)
        described = lesions.describe(lesion, visit, measured, base)
        whole = described["left_mm3"] + described["right_mm3"]
        assert whole == pytest.approx(measured[1:].sum(), abs=0.2)
        head_size = patient.icv_mm3 / base.volumes_mm3.sum()
        assert described["displaced_mm3"] == pytest.approx(lesion.displaced_mm3(visit) * head_size, rel=0.08)
        assert described[f"{lesion.side}_mm3"] == pytest.approx(whole)


def test_a_tumour_pushes_and_its_removal_lets_go(base: anatomy.Anatomy) -> None:
    """Around the bulk everything moves outwards, the skull does not; the ventricle on its side gives way."""
    patient = TUMOURS[0]
    lesion = drawn(base, patient)
    before, after = (head(base, patient, visit) for visit in (0, 1))
    assert lesion.growth(patient.visits[0]) > lesion.growth(patient.visits[1])
    around = lesions.distance(~lesion.bulk, reach=8)
    inside = np.isin(base.numbers, base.structures)
    near = np.argwhere((around > 1) & (around < 4) & inside)[::5]
    centre = np.argwhere(lesion.bulk).mean(axis=0)
    skull = np.argwhere(base.numbers == 515)[::50]

    def moved(points: np.ndarray) -> np.ndarray:
        places = [h.carried_mm(points.astype(float)) @ h.to_base[:, :3].T for h in (after, before)]
        return np.asarray(places[1] - places[0])

    direction = (near - centre) / np.linalg.norm(near - centre, axis=1, keepdims=True)
    outwards = ((moved(near) - moved(skull).mean(axis=0)) * direction).sum(axis=1)
    assert np.mean(outwards > 0) > 0.9 and outwards.mean() > 0.5
    assert np.linalg.norm(moved(skull) - moved(skull).mean(axis=0), axis=1).mean() < 0.3 * outwards.mean()
    ventricle = {"left": 4, "right": 43}[lesion.side]
    column = base.structures.index(ventricle)
    volumes = [render.true_volumes_mm3(h, step_mm=0.5).sum(axis=0)[column] for h in (before, after)]
    assert volumes[0] < volumes[1]


def test_classes_follow_the_course(base: anatomy.Anatomy) -> None:
    patient = TUMOURS[0]
    lesion = drawn(base, patient)
    before, after = (lesion.classes(visit) for visit in patient.visits)
    assert set(np.unique(before)) == {0, lesions.CORE, lesions.OEDEMA, lesions.RIM}
    assert set(np.unique(after)) == {0, lesions.OEDEMA, lesions.CAVITY}
    assert ((after == lesions.CAVITY) == lesion.bulk).all()
    assert 0 < (after == lesions.OEDEMA).sum() < (before == lesions.OEDEMA).sum()
    strokes = [drawn(base, stroke) for stroke in STROKES]
    assert {stroke.phases for stroke in strokes} <= {("subacute", "chronic"), ("chronic", "chronic")}


def test_mask_is_the_lesion_where_the_scan_lies(base: anatomy.Anatomy) -> None:
    """Its volume is the truth's, and its middle where the lesion's middle was carried."""
    from analysis.simulate import protocols

    patient = TUMOURS[0]
    made = head(base, patient, 0)
    tilt = patients.rotation(np.array([0.1, 0.05, -0.1]))
    stack = protocols.cover(made, "coronal", tilt, matrix=64, pixel_mm=1.0, spacing_mm=1.0, thickness_mm=1.0)
    mask = render.lesion_mask(made, stack)
    truth = render.true_volumes_mm3(made, step_mm=0.5)
    for number in (lesions.CORE, lesions.OEDEMA, lesions.RIM):
        assert (mask == number).sum() == pytest.approx(truth[number].sum(), rel=0.1)
    bulk = np.isin(mask, lesions.bulk_classes())
    k, j, i = np.nonzero(bulk)
    middle = (stack.affine_ras() @ np.stack([i, j, k, np.ones(len(i))])).mean(axis=1)[:3]
    carried = made.carried_mm(np.argwhere(drawn(base, patient).bulk).astype(float)).mean(axis=0)
    assert middle == pytest.approx(carried, abs=0.7)


def test_landmarks_are_the_same_points_of_the_anatomy(base: anatomy.Anatomy) -> None:
    """Pulled back to the base, they are where they were chosen, in every session."""
    patient = TUMOURS[0]
    lesion = drawn(base, patient)
    points = landmarks.choose(CLINIC, base, patient, lesion)
    assert len(points) == landmarks.NUMBER
    assert not (lesion.bulk | (lesion.surroundings > 0))[tuple(points.astype(int).T)].any()
    for visit in (0, 1):
        made = head(base, patient, visit)
        rows = landmarks.rows(made, points)
        found = np.array([[row[f"{axis}_mm"] for axis in "xyz"] for row in rows])
        voxels = torch.from_numpy((found @ made.to_base[:, :3].T + made.to_base[:, 3]).astype(np.float32))
        nodes = (voxels - (base.grid_mm - 1) / 2) / base.grid_mm
        pulled = voxels + deform.sample(made.pull_mm, nodes).movedim(0, -1)
        assert pulled.numpy() == pytest.approx(points, abs=0.02)
        assert [row["structure"] for row in rows] == [
            labels.by_number()[int(n)].name for n in base.numbers[tuple(points.astype(int).T)]
        ]


def test_no_lesion_without_a_cerebrum() -> None:
    without = anatomy.make(np.where(np.isin(numbers(), labels.CORTEX), 24, numbers()).astype(np.uint16), grid_mm=2)
    with pytest.raises(DataError, match="no cerebral cortex"):
        lesions.draw(CLINIC, without, TUMOURS[0])


def test_the_well_have_no_lesion(base: anatomy.Anatomy) -> None:
    assert lesions.draw(SMALL, base, patients.draw(SMALL)[0]) is None
