"""Who comes to the clinic: patients drawn first, everything else made from them after.

The course of volumes with age stands in ``trajectories.tsv``, relative to the age of 30. Its shapes follow what
lifespan studies agree on (Walhovd 2011, Neurobiology of Aging 32:916; Coupé 2017, Human Brain Mapping 38:5501;
Bethlehem 2022, Nature 604:525) and the order that SynthSR's clinical cohort showed (Iglesias 2023, fig. 2): white
matter peaks near 30, cortex and thalamus decline from the start, hippocampus and amygdala only after 50, ventricles
grow ever faster. The figures themselves are this project's: a planted truth, not a finding. The fluid around the brain
(CSF) takes what the brain leaves, for the skull does not age.
"""

from __future__ import annotations

import csv
import datetime
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np
import numpy.typing as npt
from scipy.interpolate import PchipInterpolator

from synthsr import labels

from .anatomy import FLUID, Anatomy
from .clinic import Clinic
from .geometry import ORIENTATIONS
from .tissues import structure

CONTRASTS = ("T1w", "T2w", "FLAIR")
#: Streams of random numbers, so that changing one thing's draws leaves the others' alone.
BODY, SHAPE, TEXTURE, SCAN = range(4)
#: Least share of the base's outer fluid that must remain.
LEAST_FLUID = 0.1
DAYS_PER_YEAR = 365.25


@dataclass(frozen=True)
class Patient:
    """One patient and what is done with them.

    Attributes
    ----------
    index
        Position in the clinic, from 1.
    sex
        ``F`` or ``M``.
    birth, visit
        Dates; the age is what lies between.
    icv_mm3
        Prescribed intracranial volume.
    log_ratio
        Prescribed logarithm of volume over the base's, head size aside, per structure of the anatomy.
    rotation
        Head's rotation in the scanner (3, 3).
    translation_mm
        Position of the middle of the head, right, anterior, superior of the isocentre.
    scans
        Contrast and orientation of each scan.
    localizer
        Whether the study begins with a localizer.
    volumes
        ``DWI``, ``BOLD`` or empty: the study's series of several volumes.
    """

    index: int
    sex: str
    birth: datetime.date
    visit: datetime.date
    icv_mm3: float
    log_ratio: npt.NDArray[np.float64]
    rotation: npt.NDArray[np.float64]
    translation_mm: npt.NDArray[np.float64]
    scans: tuple[tuple[str, str], ...]
    localizer: bool
    volumes: str

    @property
    def identifier(self) -> str:
        """Patient number in the hospital, e.g. ``SIM0001``."""
        return f"SIM{self.index:04d}"

    @property
    def age_years(self) -> float:
        """Age at the visit."""
        return (self.visit - self.birth).days / DAYS_PER_YEAR


@cache
def trajectories() -> dict[str, PchipInterpolator]:
    """Volume relative to the age of 30 as a function of age in years, by structure without its side."""
    text = resources.files(__package__).joinpath("trajectories.tsv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(text.splitlines(), delimiter="\t"))
    ages = [name for name in rows[0] if name != "structure"]
    return {
        row["structure"]: PchipInterpolator([float(age) for age in ages], [float(row[age]) for age in ages])
        for row in rows
    }


def prescribed_log_ratio(
    anatomy: Anatomy, age_years: float, *, anatomy_age_years: float, deviation: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Logarithm of a patient's over the base's volumes, before head size.

    Parameters
    ----------
    anatomy
        The base.
    age_years, anatomy_age_years
        The patient's and the base's age; ages beyond the table's 20–90 count as its ends.
    deviation
        The patient's own deviation per structure, added in the logarithm.
    """
    ages = np.clip([age_years, anatomy_age_years], 20, 90)
    ratio = np.ones(len(anatomy.structures))
    for position, number in enumerate(anatomy.structures):
        if number != FLUID:
            course = trajectories()[structure(number)](ages)
            ratio[position] = course[0] / course[1] * np.exp(deviation[position])
    if FLUID in anatomy.structures:
        fluid = anatomy.structures.index(FLUID)
        base = anatomy.volumes_mm3
        left = base.sum() - (np.delete(ratio, fluid) * np.delete(base, fluid)).sum()
        ratio[fluid] = max(left / base[fluid], LEAST_FLUID)
    return np.asarray(np.log(ratio))


def draw(clinic: Clinic, anatomy: Anatomy) -> list[Patient]:
    """Draw every patient of a clinic."""
    rng = np.random.default_rng(clinic.seed)
    strata = rng.permutation(clinic.patients)
    sexes = rng.permutation(np.arange(clinic.patients) % 2)
    protocols = [(contrast, orientation) for contrast in CONTRASTS for orientation in ORIENTATIONS]
    first = [protocols[i % len(protocols)] for i in rng.permutation(clinic.patients)]
    # Spread over the clinic, so that young and old alike have second scans, localizers and further series.
    chosen = {
        key: set(rng.permutation(clinic.patients)[: getattr(clinic, key)].tolist())
        for key in ("second_scans", "localizers", "four_dimensional")
    }
    kinds = dict(zip(sorted(chosen["four_dimensional"]), ("DWI", "BOLD") * clinic.patients, strict=False))
    years = clinic.oldest_years - clinic.youngest_years
    patients = []
    for i in range(clinic.patients):
        body = stream(clinic.seed, i + 1, BODY)
        age = clinic.youngest_years + years * (strata[i] + body.random()) / clinic.patients
        visit = datetime.date(2020, 1, 1) + datetime.timedelta(days=int(body.integers(1000)))
        birth = visit - datetime.timedelta(days=round(age * DAYS_PER_YEAR))
        sex = "FM"[sexes[i]]
        icv = (clinic.icv_male_mm3 if sex == "M" else clinic.icv_female_mm3) * np.exp(body.normal(0, clinic.icv_spread))
        angles = np.deg2rad(body.normal(0, clinic.rotation_deg, 3))
        shift = body.normal(0, clinic.translation_mm, 3)
        scans = [first[i]]
        others = [p for p in protocols if p[0] != first[i][0] and p[1] != first[i][1]]
        second = others[body.integers(len(others))]
        if i in chosen["second_scans"]:
            scans.append(second)
        patients.append(
            Patient(
                index=i + 1,
                sex=sex,
                birth=birth,
                visit=visit,
                icv_mm3=float(icv),
                log_ratio=prescribed_log_ratio(
                    anatomy,
                    (visit - birth).days / DAYS_PER_YEAR,
                    anatomy_age_years=clinic.anatomy_age_years,
                    deviation=_deviation(clinic, anatomy, body),
                ),
                rotation=rotation(angles),
                translation_mm=shift,
                scans=tuple(scans),
                localizer=i in chosen["localizers"],
                volumes=kinds.get(i, ""),
            )
        )
    return patients


def _deviation(clinic: Clinic, anatomy: Anatomy, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """A patient's deviation per structure: mostly the same on both sides (correlation 0.8)."""
    names = sorted({structure(number) for number in anatomy.structures})
    shared = dict(zip(names, rng.standard_normal(len(names)), strict=True))
    own = rng.standard_normal(len(anatomy.structures))
    fluid = [labels.by_number()[number].tissue == "csf" for number in anatomy.structures]
    sd = np.where(fluid, clinic.ventricle_spread, clinic.volume_spread)
    both = np.array([shared[structure(number)] for number in anatomy.structures])
    return np.asarray(sd * (np.sqrt(0.8) * both + np.sqrt(0.2) * own))


def stream(seed: int, patient: int, purpose: int, scan: int = 0) -> np.random.Generator:
    """Random numbers of one patient for one purpose."""
    return np.random.default_rng([seed, patient, purpose, scan])


def rotation(angles: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Rotation matrix (3, 3) about x, then y, then z, by angles in radians."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles), np.sin(angles)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return np.asarray(about_z @ about_y @ about_x)
