"""Strokes and tumours: where they lie in the base anatomy, what they are made of, and how they displace the rest.

A lesion is drawn on the base anatomy and deformed with it. Its bulk (an infarct, or a tumour without oedema) counts as
a structure of its own in :func:`.deform.fit`: prescribed to swell or to shrink, it pushes its neighbours outwards as a
potential flow does, while they keep their volumes and fluid gives way.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage, sparse

from synthsr import labels

from ..errors import DataError
from .anatomy import FLUID, Anatomy
from .clinic import Clinic
from .patients import LESION, Patient, Visit, stream
from .tissues import LESIONS

CORE, OEDEMA, RIM, CAVITY, INFARCT, GLIOSIS = LESIONS
#: Middle of a place as parts of the cerebrum's box: from the mid-plane outwards, forwards, upwards.
PLACES = {
    "frontal": (0.50, 0.80, 0.60),
    "parietal": (0.55, 0.30, 0.72),
    "temporal": (0.70, 0.55, 0.30),
    "occipital": (0.35, 0.12, 0.45),
    "deep": (0.35, 0.55, 0.48),
}
#: Standard deviation of the middle about that, as part of the box.
PLACE_SPREAD = 0.05
#: Volume over that of the tissue it grew from or killed, by phase: range.
GROWTH = {
    "preoperative": (2.0, 4.0),
    "postoperative": (0.8, 1.5),
    "subacute": (1.05, 1.2),
    "chronic": (0.75, 0.95),
}
#: Oedema's volume over the tumour's, and how far it reaches at most.
OEDEMA_RATIO, OEDEMA_REACH_MM = (0.4, 1.2), 30.0
#: Part of the oedema, the nearest, that is left after the operation.
OEDEMA_LEFT = 0.4
#: Thickness of a tumour's enhancing rim, and of the glial scar around an old infarct's cavity.
RIM_MM, SCAR_MM = 4.0, 2.5
#: How ragged outlines are, and the size of their lobes.
RAGGEDNESS, LOBE_MM = 0.25, 14.0
#: Halvings of the range in which the limit of a lesion's growth is looked for.
GROWING_STEPS = 16
#: How much farther away fluid counts than tissue when a tumour grows: it fills furrows, and spares cisterns.
FLUID_COST = 1.4


@dataclass(frozen=True)
class Lesion:
    """A lesion on the base anatomy.

    Attributes
    ----------
    kind, side, place
        ``stroke`` or ``tumour``; ``left`` or ``right``; a key of :data:`PLACES`.
    volume_mm3
        Prescribed volume of the bulk at the first visit.
    phases
        Phase at each visit, a key of :data:`GROWTH`.
    growths
        Volume of the bulk at each visit over that of its voxels on the base.
    bulk
        Whether a voxel of the base belongs to it (X, Y, Z).
    surroundings
        Oedema: 1 for the part that stays after an operation, 2 for the rest, 0 elsewhere (X, Y, Z).
    depth_mm
        Distance from a voxel of the bulk to its surface, ragged, at the size the bulk has at the first visit.
    """

    kind: str
    side: str
    place: str
    volume_mm3: float
    phases: tuple[str, ...]
    growths: tuple[float, ...]
    bulk: npt.NDArray[np.bool_]
    surroundings: npt.NDArray[np.uint8]
    depth_mm: npt.NDArray[np.float32]

    @cached_property
    def voxels(self) -> int:
        """Voxels of the bulk."""
        return int(self.bulk.sum())

    def growth(self, visit: Visit) -> float:
        """Volume of the bulk at a visit over that of its voxels."""
        return self.growths[visit.number - 1]

    def displaced_mm3(self, visit: Visit) -> float:
        """Volume the bulk takes at a visit beyond that of its voxels, in the base's size of head."""
        return self.voxels * (self.growth(visit) - 1)

    def taken(self, anatomy: Anatomy) -> npt.NDArray[np.float64]:
        """Voxels of the bulk by structure of the anatomy."""
        found = anatomy.numbers[self.bulk]
        return np.array([(found == number).sum() for number in anatomy.structures], dtype=float)

    def classes(self, visit: Visit) -> npt.NDArray[np.uint8]:
        """Class of every voxel of the base (X, Y, Z) at a visit; 0: healthy."""
        phase = self.phases[visit.number - 1]
        classes = np.zeros(self.bulk.shape, dtype=np.uint8)
        if phase == "preoperative":
            classes[self.surroundings > 0] = OEDEMA
            classes[self.bulk] = np.where(self.depth_mm > RIM_MM, CORE, RIM)[self.bulk]
        elif phase == "postoperative":
            classes[self.surroundings == 1] = OEDEMA
            classes[self.bulk] = CAVITY
        elif phase == "subacute":
            classes[self.bulk] = INFARCT
        else:
            classes[self.bulk] = np.where(self.depth_mm > SCAR_MM, CAVITY, GLIOSIS)[self.bulk]
        return classes


def draw(clinic: Clinic, anatomy: Anatomy, patient: Patient) -> Lesion | None:
    """Draw a patient's lesion; None for who has none.

    Raises
    ------
    DataError
        If the base has no cerebrum for it to lie in.
    """
    kind = {"Stroke": "stroke", "Tumour": "tumour"}.get(patient.group.diagnosis)
    if kind is None:
        return None
    if not set(labels.CORTEX) <= set(anatomy.structures):
        raise DataError(
            f"the base anatomy of {patient.identifier} has no cerebral cortex (labels 3, 42) to hold a {kind}; "
            "give another anatomy, or groups without lesions"
        )
    rng = stream(clinic.seed, patient.index, LESION)
    side = ("left", "right")[int(rng.integers(2))]
    place = list(PLACES)[int(rng.integers(len(PLACES)))]
    low, high = np.log([patient.group.lesion_min_ml, patient.group.lesion_max_ml])
    volume = 1000 * float(np.exp(rng.uniform(low, high)))
    first, later = ("preoperative", "postoperative") if kind == "tumour" else ("subacute", "chronic")
    if kind == "stroke" and rng.random() < 0.5:
        first = later
    phases = (first, *[later] * (len(patient.visits) - 1))
    growth = {phase: float(rng.uniform(*GROWTH[phase])) for phase in GROWTH}

    head = patient.icv_mm3 / float(anatomy.volumes_mm3.sum())
    tissue = _tissue(anatomy, side)
    fluid = (anatomy.numbers == FLUID) & _half(anatomy, side) if kind == "tumour" else np.zeros_like(tissue)
    centre = _centre(anatomy, np.argwhere(tissue), side, place, rng)
    number = volume / head / growth[first]
    around = _box(tissue.shape, centre, radius=2.5 * (3 * number / (4 * np.pi)) ** (1 / 3) + LOBE_MM)
    axes = rng.uniform(0.8, 1.25, 3)
    offsets = [(grid - c) / a for grid, c, a in zip(np.ogrid[around], centre, axes, strict=True)]
    cost = np.sqrt(sum(offset**2 for offset in offsets)) * _lobes(around, rng)
    cost[fluid[around]] *= FLUID_COST
    cost[~(tissue | fluid)[around]] = np.inf
    seed = np.zeros(cost.shape, dtype=np.bool_)
    seed[tuple(c - part.start for c, part in zip(centre, around, strict=True))] = True
    bulk = np.zeros(tissue.shape, dtype=np.bool_)
    bulk[around] = grow(cost, seed, round(number))

    depth = np.zeros(tissue.shape, dtype=np.float32)
    depth[around] = distance(bulk)[around] * growth[first] ** (1 / 3) * _lobes(around, rng)
    surroundings = np.zeros(tissue.shape, dtype=np.uint8)
    if kind == "tumour":
        wider = _box(tissue.shape, centre, radius=2.5 * (3 * number / (4 * np.pi)) ** (1 / 3) + OEDEMA_REACH_MM)
        spread = distance(~bulk, reach=round(OEDEMA_REACH_MM))[wider] * _lobes(wider, rng)
        spread[anatomy.numbers[wider] != labels.WHITE_MATTER[side == "right"]] = np.inf
        wanted = float(rng.uniform(*OEDEMA_RATIO)) * volume / head
        for value, share in ((2, 1.0), (1, OEDEMA_LEFT)):
            swollen = grow(spread, bulk[wider], round(share * wanted + bulk.sum())) & ~bulk[wider]
            surroundings[wider][swollen] = value
    return Lesion(kind, side, place, volume, phases, tuple(growth[p] for p in phases), bulk, surroundings, depth)


def grow(cost: npt.NDArray[np.float64], seed: npt.NDArray[np.bool_], number: int) -> npt.NDArray[np.bool_]:
    """Connected region about ``seed`` of voxels that cost the least; about ``number`` of them, or all there are."""
    low, high = 0.0, float(cost[np.isfinite(cost)].max(initial=0.0))
    region = seed
    for _ in range(GROWING_STEPS):
        limit = (low + high) / 2
        parts, _ = ndimage.label((cost <= limit) | seed)
        found = np.isin(parts, np.unique(parts[seed]))
        if found.sum() <= number:
            region, low = found, limit
        else:
            high = limit
    return np.asarray(region)


def _box(shape: tuple[int, ...], centre: npt.NDArray[np.intp], *, radius: float) -> tuple[slice, ...]:
    """Cube about a voxel, within an image."""
    reach = int(np.ceil(radius))
    return tuple(slice(max(int(c) - reach, 0), min(int(c) + reach + 1, n)) for c, n in zip(centre, shape, strict=True))


def with_bulk(anatomy: Anatomy, lesion: Lesion) -> sparse.csr_array:
    """Fractions of the anatomy's structures without the bulk of a lesion, and the bulk as a last row."""
    voxels = np.nonzero(lesion.bulk)
    blocks = np.ravel_multi_index(tuple(axis // anatomy.grid_mm for axis in voxels), anatomy.grid_shape)
    rows = np.searchsorted(anatomy.structures, anatomy.numbers[voxels])
    last = len(anatomy.structures)
    moved = sparse.coo_array(
        (
            np.repeat(np.array([-1, 1], dtype=np.float32), len(rows)),
            (np.concatenate([rows, np.full(len(rows), last)]), np.concatenate([blocks, blocks])),
        ),
        shape=(last + 1, anatomy.fractions.shape[1]),
    )
    before = sparse.csr_array(anatomy.fractions)
    before.resize(moved.shape)
    return sparse.csr_array(before + moved)


def _tissue(anatomy: Anatomy, side: str) -> npt.NDArray[np.bool_]:
    """Cerebral tissue of one side."""
    chosen = [
        number
        for number in anatomy.structures
        if (label := labels.by_number()[number]).side == side
        and label.tissue in ("white", "grey", "deep_grey")
        and "Cerebellum" not in label.name
    ]
    return np.isin(anatomy.numbers, chosen)


def _half(anatomy: Anatomy, side: str) -> npt.NDArray[np.bool_]:
    """Voxels on one side of the plane halfway between the middles of both cortices, (X, 1, 1)."""
    x = np.arange(anatomy.numbers.shape[0])[:, None, None]
    return np.asarray(x < _mid_plane(anatomy) if side == "left" else x > _mid_plane(anatomy))


def _mid_plane(anatomy: Anatomy) -> float:
    means = [np.nonzero((anatomy.numbers == n).any(axis=(1, 2)))[0].mean() for n in labels.CORTEX]
    return float(np.mean(means))


def _centre(
    anatomy: Anatomy, tissue: npt.NDArray[np.intp], side: str, place: str, rng: np.random.Generator
) -> npt.NDArray[np.intp]:
    """Voxel of tissue nearest to a place, which is drawn about its middle."""
    cortex = np.isin(anatomy.numbers, labels.CORTEX)
    low, high = (
        np.array([f(np.nonzero(cortex.any(axis=tuple({0, 1, 2} - {axis})))[0]) for axis in range(3)], dtype=float)
        for f in (np.min, np.max)
    )
    outwards, forwards, upwards = np.clip(np.array(PLACES[place]) + rng.normal(0, PLACE_SPREAD, 3), 0, 1)
    middle = _mid_plane(anatomy)
    outermost = low[0] if side == "left" else high[0]
    wanted = [
        middle + outwards * (outermost - middle),
        low[1] + forwards * (high[1] - low[1]),
        low[2] + upwards * (high[2] - low[2]),
    ]
    return np.asarray(tissue[np.linalg.norm(tissue - np.array(wanted), axis=1).argmin()])


def _lobes(box: tuple[slice, ...], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Smooth random factors of mean one in a box, which make outlines ragged."""
    shape = tuple(part.stop - part.start for part in box)
    noise = ndimage.gaussian_filter(rng.standard_normal(shape, dtype=np.float32), LOBE_MM / 4)
    return np.asarray(1 + RAGGEDNESS * np.clip(noise / noise.std(), -2, 2), dtype=np.float64)


def distance(region: npt.NDArray[np.bool_], reach: int = 1) -> npt.NDArray[np.float32]:
    """Distance in voxels from within a region to what lies outside; right up to ``reach`` beyond the other side."""
    part = region if region.mean() < 0.5 else ~region
    box = tuple(slice(max(int(axis.min()) - reach, 0), int(axis.max()) + reach + 1) for axis in np.nonzero(part))
    distance = np.full(region.shape, np.inf if part is not region else 0, dtype=np.float32)
    distance[box] = ndimage.distance_transform_edt(region[box])
    return distance


def bulk_classes() -> list[int]:
    """Classes that make up the bulk: all but oedema, which is tissue still."""
    return [number for number in LESIONS if number != OEDEMA]


def describe(lesion: Lesion, visit: Visit, volumes: npt.NDArray[np.float64], anatomy: Anatomy) -> dict[str, Any]:
    """Row of the table of lesions.

    Parameters
    ----------
    lesion, visit
        What and when.
    volumes
        Measured volume by class (rows; the first is healthy tissue) and structure of the anatomy (columns), mm³.
    anatomy
        The base.
    """
    by_structure = volumes[1:].sum(axis=0)
    growth = lesion.growth(visit)
    # Fluid has no side of its own; a lesion keeps to its half of it.
    sides = np.array([labels.by_number()[number].side for number in anatomy.structures])
    sides = np.where(sides == "midline", lesion.side, sides)
    return {
        "lesion": lesion.kind,
        "phase": lesion.phases[visit.number - 1],
        "side": lesion.side,
        "place": lesion.place,
        "most_in": labels.by_number()[anatomy.structures[int(by_structure.argmax())]].name,
        **{f"{side}_mm3": round(float(by_structure[sides == side].sum()), 1) for side in ("left", "right")},
        **{
            f"{name.lower().replace('-', '_')}_mm3": round(float(volumes[number].sum()), 1)
            for number, name in LESIONS.items()
        },
        "growth": round(growth, 4),
        "displaced_mm3": round(float(volumes[bulk_classes()].sum() * (1 - 1 / growth)), 1),
    }
