"""Volumes that patients should have: what age, disease and a lesion make of the base anatomy's.

The course of volumes with age stands in ``trajectories.tsv``, relative to the age of 30. Its shapes follow what
lifespan studies agree on (Walhovd 2011, Neurobiology of Aging 32:916; Coupé 2017, Human Brain Mapping 38:5501;
Bethlehem 2022, Nature 604:525) and the order that SynthSR's clinical cohort showed (Iglesias 2023, fig. 2): white
matter peaks near 30, cortex and thalamus decline from the start, hippocampus and amygdala hardly before 50,
ventricles grow ever faster.

Effects of disease stand in ``effects.tsv``, as factors of the volume at the same age; what it leaves out stays 1.
``ad``: a patient of severity 1 against a control. Hippocampus and amygdala lose a sixth, so that with
``volume_spread: 0.09`` AUROC and difference of hippocampal medians come near those of Iglesias 2023, fig. 3 (0.81;
543 mm³); that both lose alike is from Poulin 2011 (Psychiatry Research 194:7), larger ventricles from Nestor 2008
(Brain 131:2443). ``ad_per_year``: on top of ageing, between sessions; hippocampus by the difference of rates between
patients and controls in the meta-analysis of Barnes 2009 (Neurobiology of Aging 30:1711; 3.33 % a year).
``stroke_per_100_ml``: on the lesion's side, per 100 ml of it, of the signs of Iglesias 2023, table 3: thalamus and
basal ganglia shrink, the hippocampus does not, the ventricle widens.

The figures themselves are this project's: a planted truth, not a finding. The fluid around the brain (CSF) takes what
the brain leaves, for the skull does not age.
"""

from __future__ import annotations

import csv
from functools import cache
from importlib import resources

import numpy as np
import numpy.typing as npt
from scipy.interpolate import PchipInterpolator

from synthsr import labels

from .anatomy import FLUID, Anatomy
from .lesions import Lesion
from .patients import Patient, Visit
from .tissues import structure

#: Least share of the base's outer fluid that must remain.
LEAST_FLUID = 0.1
#: How far a mass effect presses the lateral ventricles shut: the log of their volume falls by the volume that the
#: lesion displaces over this many ml, on its own side and on the other.
MASS_EFFECT_ML = {"same": 25.0, "other": 120.0}


def _rows(name: str) -> list[dict[str, str]]:
    text = resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines(), delimiter="\t"))


@cache
def trajectories() -> dict[str, PchipInterpolator]:
    """Volume relative to the age of 30 as a function of age in years, by structure without its side."""
    rows = _rows("trajectories.tsv")
    ages = [name for name in rows[0] if name != "structure"]
    return {
        row["structure"]: PchipInterpolator([float(age) for age in ages], [float(row[age]) for age in ages])
        for row in rows
    }


@cache
def effects() -> dict[str, dict[str, float]]:
    """Factors of volumes by structure without its side, then by column of ``effects.tsv``."""
    return {
        row["structure"]: {column: float(value) for column, value in row.items() if column != "structure"}
        for row in _rows("effects.tsv")
    }


def ageing(age_years: float, *, anatomy_age_years: float) -> dict[int, float]:
    """Log of the volume at an age over that at the base's age, by label number; ages beyond 20–90 count as these."""
    ages = np.clip([age_years, anatomy_age_years], 20, 90)
    course = {name: np.log(np.divide(*curve(ages))) for name, curve in trajectories().items()}
    return {n: float(course.get(structure(n), 0)) for n in labels.intracranial_numbers()}


def disease(patient: Patient, visit: Visit, lesion: Lesion | None) -> dict[int, float]:
    """Log of the factor that a patient's disease makes of each volume, by label number."""
    logs = dict.fromkeys(labels.intracranial_numbers(), 0.0)
    if patient.group.diagnosis == "AD":
        years = patient.years_since_first(visit)
        for number in logs:
            factors = effects().get(structure(number), {})
            own = np.log(factors.get("ad", 1.0)) + years * np.log(factors.get("ad_per_year", 1.0))
            logs[number] = float(patient.severity * own)
    if lesion is None:
        return logs
    displaced_ml = lesion.displaced_mm3(visit) / 1000
    for number in logs:
        side = labels.by_number()[number].side
        if patient.group.diagnosis == "Stroke" and side == lesion.side:
            factor = effects().get(structure(number), {}).get("stroke_per_100_ml", 1.0)
            logs[number] += float(patient.severity * lesion.volume_mm3 / 1e5 * np.log(factor))
        if structure(number) == "Lateral-Ventricle" and displaced_ml > 0:
            logs[number] -= displaced_ml / MASS_EFFECT_ML["same" if side == lesion.side else "other"]
    return logs


def prescribed_log_ratio(
    anatomy: Anatomy, logs: dict[int, float], *, taken: npt.NDArray[np.float64] | None = None, growth: float = 1.0
) -> npt.NDArray[np.float64]:
    """Logarithm of a patient's over the base's volumes, before head size.

    Parameters
    ----------
    anatomy
        The base.
    logs
        That of every structure but the outer fluid, by label number.
    taken, growth
        Volume that a lesion's bulk takes of every structure of the base, and by how much the bulk grows; the fluid
        gives way.

    Returns
    -------
    numpy.ndarray
        Per structure (what a bulk leaves of it), and last of the bulk if there is one.
    """
    base = anatomy.volumes_mm3
    left = base if taken is None else base - taken
    bulk = base.sum() - left.sum()
    ratio = np.exp([logs[number] for number in anatomy.structures])
    if FLUID in anatomy.structures:
        fluid = anatomy.structures.index(FLUID)
        room = base.sum() - (np.delete(ratio, fluid) * np.delete(left, fluid)).sum() - growth * bulk
        ratio[fluid] = max(room / left[fluid], LEAST_FLUID)
    return np.asarray(np.log(ratio if taken is None else np.append(ratio, growth)))
