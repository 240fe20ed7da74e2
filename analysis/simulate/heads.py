"""A patient's head at a visit: deformed as prescribed, placed in the scanner, and what is true of it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from synthsr import labels

from . import courses, deform, lesions, patients, render
from .anatomy import Anatomy
from .clinic import Clinic
from .patients import Patient, Visit

#: How easily what is outside the skull moves under a mass effect against what is inside; the width of the change.
STIFF, STIFF_MM = 0.02, 3.0


def prescribed(
    clinic: Clinic, anatomy: Anatomy, patient: Patient, visit: Visit, lesion: lesions.Lesion | None
) -> npt.NDArray[np.float64]:
    """Log of prescribed over base volume of every structure, and last of the lesion's bulk if there is one."""
    age = courses.ageing(patient.age_years(visit), anatomy_age_years=clinic.anatomy_age_years)
    disease = courses.disease(patient, visit, lesion)
    logs = {number: age[number] + disease[number] + patient.deviation[number] for number in age}
    if lesion is None:
        return courses.prescribed_log_ratio(anatomy, logs)
    return courses.prescribed_log_ratio(anatomy, logs, taken=lesion.taken(anatomy), growth=lesion.growth(visit))


def deformed(
    clinic: Clinic,
    anatomy: Anatomy,
    patient: Patient,
    visit: Visit,
    *,
    log_ratio: npt.NDArray[np.float64],
    lesion: lesions.Lesion | None = None,
    sinus: npt.NDArray[np.bool_] | None = None,
) -> render.Head:
    """Deform the base into a patient and put the head into the scanner."""
    grid = anatomy.grid_mm
    variation = shape_velocity(clinic, anatomy, patient)
    swelling = 1.0
    if lesion is None:
        pull = deform.fit(anatomy.fractions, log_ratio, variation, steps=clinic.fit_steps)
    else:
        fractions = lesions.with_bulk(anatomy, lesion)
        # What the random shape does to the skull's volume stays, as the skull withstands the rest.
        inside = np.asarray(fractions.sum(axis=0)).ravel()
        swelling = float(inside @ deform.jacobian(deform.flow(variation)).ravel() / inside.sum())
        share = inside.reshape(anatomy.grid_shape).astype(np.float32) / grid**3
        ease = np.asarray(STIFF + (1 - STIFF) * ndimage.gaussian_filter(share, STIFF_MM / grid), dtype=np.float32)
        pull = deform.fit(fractions, log_ratio + np.log(swelling), variation, steps=clinic.fit_steps, ease=ease)
    return render.place(
        anatomy,
        pull,
        patient,
        visit,
        swelling=swelling,
        rng=patients.stream(clinic.seed, patient.index, patients.TEXTURE),
        lesion=None if lesion is None else lesion.classes(visit),
        sinus=sinus,
    )


def true_rows(
    head: render.Head,
    patient: Patient,
    measured: npt.NDArray[np.float64],
    log_ratio: npt.NDArray[np.float64],
    lesion: lesions.Lesion | None,
) -> list[dict[str, str | float]]:
    """Measured and prescribed volume per structure and of the intracranial space.

    Parameters
    ----------
    head, patient
        Whose.
    measured
        By class of lesion and structure, as :func:`.render.true_volumes_mm3` gives it.
    log_ratio
        As :func:`prescribed` gives it.
    lesion
        The lesion, if there is one.
    """
    anatomy = head.anatomy
    bulk = measured[lesions.bulk_classes()].sum(axis=0)
    taken = np.zeros(len(anatomy.structures)) if lesion is None else lesion.taken(anatomy)
    wanted = np.exp(log_ratio[: len(taken)]) * (anatomy.volumes_mm3 - taken)
    wanted = (wanted + np.exp(log_ratio[-1]) * taken) * patient.icv_mm3 / anatomy.volumes_mm3.sum()
    names = [labels.by_number()[number].name for number in anatomy.structures]
    tissue = measured.sum(axis=0) - bulk
    everything = [*zip(names, tissue, bulk, wanted, strict=True), ("ICV", measured.sum(), bulk.sum(), patient.icv_mm3)]
    return [
        {
            "structure": name,
            "volume_mm3": round(float(volume), 2),
            "lesion_mm3": round(float(lost), 2),
            "prescribed_mm3": round(float(asked), 2),
        }
        for name, volume, lost, asked in everything
    ]


def shape_velocity(clinic: Clinic, anatomy: Anatomy, patient: Patient) -> deform.Array:
    """Random velocity (3, X, Y, Z), in nodes, that makes a patient's shape."""
    grid = anatomy.grid_mm
    rng = patients.stream(clinic.seed, patient.index, patients.SHAPE)
    return deform.random_velocity(
        rng, anatomy.grid_shape, sd=clinic.shape_mm / grid, length=clinic.shape_length_mm / grid
    )
