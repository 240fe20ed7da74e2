"""Who comes to the clinic: patients drawn first, everything else made from them after.

What must be spread evenly over the clinic (sex, age, who has which series) follows a Weyl sequence, the fractional
parts of *n* times the root of a prime: any number of first patients is covered evenly, so that a clinic can grow.
Everything else comes from streams of random numbers of each patient.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from synthsr import labels

from .clinic import CONTRASTS, COPIES, Clinic, Group, Planned
from .tissues import structure

#: Streams of random numbers, so that changing one thing's draws leaves the others' alone.
BODY, SHAPE, TEXTURE, SCAN, VISIT, LESION, LANDMARKS, EVEN = range(8)
DAYS_PER_YEAR = 365.25
#: Correlation between the two sides of how much a structure deviates from what its age makes it.
SIDES_CORRELATION = 0.8
#: Standard deviation of how far a disease has gone, about 1.
SEVERITY_SPREAD = 0.35


@dataclass(frozen=True)
class Order:
    """A series to be acquired.

    Attributes
    ----------
    kind, orientation
        What and in which plane.
    spacing_mm
        Distance between slice centres; 0: the protocol draws it.
    coverage
        Part of the intracranial space covered.
    """

    kind: str
    orientation: str
    spacing_mm: float
    coverage: float


@dataclass(frozen=True)
class Visit:
    """One session of a patient.

    Attributes
    ----------
    number
        From 1.
    date
        Of the session.
    rotation
        Head's rotation in the scanner (3, 3).
    translation_mm
        Position of the middle of the head, right, anterior, superior of the isocentre.
    orders
        Series, in order.
    """

    number: int
    date: datetime.date
    rotation: npt.NDArray[np.float64]
    translation_mm: npt.NDArray[np.float64]
    orders: tuple[Order, ...]

    @property
    def session_id(self) -> str:
        """BIDS label."""
        return f"ses-{self.number:02d}"


@dataclass(frozen=True)
class Patient:
    """One patient and what is done with them.

    Attributes
    ----------
    index
        Position in the clinic, from 1.
    group
        Diagnosis and course.
    sex
        ``F`` or ``M``.
    birth
        Date.
    icv_mm3
        Prescribed intracranial volume.
    deviation
        The patient's own logarithm of volume over what age and disease make it, by label number.
    severity
        How far a disease has gone, about 1.
    visits
        Sessions in the order of their dates.
    """

    index: int
    group: Group
    sex: str
    birth: datetime.date
    icv_mm3: float
    deviation: dict[int, float]
    severity: float
    visits: tuple[Visit, ...]

    @property
    def identifier(self) -> str:
        """Patient number in the hospital, e.g. ``SIM0001``."""
        return f"SIM{self.index:04d}"

    @property
    def participant_id(self) -> str:
        """BIDS label, e.g. ``sub-SIM0001``."""
        return f"sub-{self.identifier}"

    def age_years(self, visit: Visit) -> float:
        """Age at a visit."""
        return (visit.date - self.birth).days / DAYS_PER_YEAR

    def years_since_first(self, visit: Visit) -> float:
        """Time since the first visit."""
        return (visit.date - self.visits[0].date).days / DAYS_PER_YEAR


def draw(clinic: Clinic) -> list[Patient]:
    """Draw every patient of a clinic; the first ones do not depend on how many there are."""
    members = [0] * len(clinic.groups)
    patients = []
    for index in range(1, clinic.patients + 1):
        # The group that lacks most of its share.
        total = sum(group.share for group in clinic.groups)
        lacking = [index * group.share / total - n for group, n in zip(clinic.groups, members, strict=True)]
        chosen = int(np.argmax(lacking))
        patients.append(_draw_patient(clinic, index, chosen, members[chosen]))
        members[chosen] += 1
    return patients


def _draw_patient(clinic: Clinic, index: int, group_number: int, member: int) -> Patient:
    """Draw a patient, the ``member``-th (from 0) of a group."""
    group = clinic.groups[group_number]
    sex = "FM"[int(2 * even(clinic.seed, 0, member, group_number))]
    span = group.oldest_years - group.youngest_years
    age = group.youngest_years + span * even(clinic.seed, 1, member, group_number)
    body = stream(clinic.seed, index, BODY)
    first = datetime.date(2020, 1, 1) + datetime.timedelta(days=int(body.integers(1000)))
    icv = (clinic.icv_male_mm3 if sex == "M" else clinic.icv_female_mm3) * np.exp(body.normal(0, clinic.icv_spread))
    deviation = _deviation(clinic, body)
    severity = float(np.clip(body.normal(1, SEVERITY_SPREAD), 0, 2))
    visits = []
    for number in range(1, group.sessions + 1):
        rng = stream(clinic.seed, index, VISIT, number)
        visits.append(
            Visit(
                number=number,
                date=first + datetime.timedelta(days=round((number - 1) * group.interval_years * DAYS_PER_YEAR)),
                rotation=rotation(np.deg2rad(rng.normal(0, clinic.rotation_deg, 3))),
                translation_mm=rng.normal(0, clinic.translation_mm, 3),
                orders=_orders(clinic, index, number),
            )
        )
    birth = first - datetime.timedelta(days=round(age * DAYS_PER_YEAR))
    return Patient(index, group, sex, birth, float(icv), deviation, severity, tuple(visits))


def _deviation(clinic: Clinic, rng: np.random.Generator) -> dict[int, float]:
    """A patient's deviation per structure: mostly the same on both sides."""
    numbers = labels.intracranial_numbers()
    names = sorted({structure(number) for number in numbers})
    shared = dict(zip(names, rng.standard_normal(len(names)), strict=True))
    own = rng.standard_normal(len(numbers))
    deviation = {}
    for number, alone in zip(numbers, own, strict=True):
        sd = clinic.ventricle_spread if labels.by_number()[number].tissue == "csf" else clinic.volume_spread
        both = np.sqrt(SIDES_CORRELATION) * shared[structure(number)] + np.sqrt(1 - SIDES_CORRELATION) * alone
        deviation[number] = float(sd * both)
    return deviation


def _orders(clinic: Clinic, index: int, visit: int) -> tuple[Order, ...]:
    """Series of one visit: who has which follows the clinic's shares, what takes turns takes turns."""
    # Later visits go on elsewhere in the sequence.
    n = index + 1009 * (visit - 1)
    orders: list[Order] = []
    for position, planned in enumerate(clinic.series):
        if even(clinic.seed, 2 + 2 * position, n) >= planned.share:
            continue
        earlier = [order for order in orders if order.kind in CONTRASTS]
        options = _options(planned)
        other = [o for o in options if all(o.kind != e.kind and o.orientation != e.orientation for e in earlier)]
        if len({o.kind for o in options}) > 1 and other:
            options = other
        order = options[int(len(options) * even(clinic.seed, 3 + 2 * position, n))]
        if earlier or order.kind not in COPIES:
            orders.append(order)
    return tuple(orders)


def _options(planned: Planned) -> list[Order]:
    """Everything a planned series may be."""
    return [
        Order(kind, orientation, spacing_mm, planned.coverage)
        for kind in planned.kind
        for orientation in {"CT": ("axial",), "MPRAGE": ("sagittal",)}.get(kind, planned.orientation)
        for spacing_mm in planned.spacing_mm or (0.0,)
    ]


def even(seed: int, trait: int, n: int, group: int = 0) -> float:
    """Term *n* of a sequence that covers [0, 1) evenly; another one for every trait and group."""
    start = stream(seed, 0, EVEN, trait, group).random()
    return float((start + n * np.sqrt(_prime(trait))) % 1)


@cache
def _prime(position: int) -> int:
    """Prime number at a position, from 2 at 0."""
    number = 1
    for _ in range(position + 1):
        number += 1
        while any(number % divisor == 0 for divisor in range(2, number)):
            number += 1
    return number


def stream(seed: int, patient: int, purpose: int, *parts: int) -> np.random.Generator:
    """Random numbers of one patient for one purpose, and parts of it such as visit and series."""
    return np.random.default_rng([seed, patient, purpose, *parts])


def rotation(angles: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Rotation matrix (3, 3) about x, then y, then z, by angles in radians."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles), np.sin(angles)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return np.asarray(about_z @ about_y @ about_x)
