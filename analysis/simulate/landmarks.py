"""Points of the anatomy that can be found again in another session, carried through the known deformations."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from synthsr import labels

from .anatomy import Anatomy
from .clinic import Clinic
from .lesions import Lesion, distance
from .patients import LANDMARKS, Patient, stream
from .render import Head

#: Points of a patient; half of them near the lesion if there is one, as in BraTS-Reg (Baheti 2021, arXiv 2112.06979).
NUMBER, NEAR_MM = 10, 30.0
TISSUES = ("white", "grey", "deep_grey")


def choose(clinic: Clinic, anatomy: Anatomy, patient: Patient, lesion: Lesion | None) -> npt.NDArray[np.float64]:
    """Voxels of the base (N, 3) where three structures meet, in tissue that no lesion touches; none without such.

    The first half is within ``NEAR_MM`` of the lesion's bulk.
    """
    numbers = anatomy.numbers
    tissue = [n for n in anatomy.structures if labels.by_number()[n].tissue in TISSUES]
    corner = np.isin(numbers, tissue)
    corner &= (ndimage.minimum_filter(numbers, 3) < numbers) & (numbers < ndimage.maximum_filter(numbers, 3))
    if lesion is not None:
        corner &= ~lesion.bulk & (lesion.surroundings == 0)
    rng = stream(clinic.seed, patient.index, LANDMARKS)
    voxels = np.argwhere(corner)
    rng.shuffle(voxels)
    if lesion is not None:
        away = distance(~lesion.bulk, reach=round(NEAR_MM))[tuple(voxels.T)]
        near = np.flatnonzero(away < NEAR_MM)[: NUMBER // 2]
        voxels = np.concatenate([voxels[near], np.delete(voxels, near, axis=0)])
    return voxels[:NUMBER].astype(np.float64)


def rows(head: Head, points: npt.NDArray[np.float64]) -> list[dict[str, Any]]:
    """Rows of the table of landmarks: where points of the base (N, 3; voxels) lie in the scanner."""
    names = [labels.by_number()[int(n)].name for n in head.anatomy.numbers[tuple(points.astype(int).T)]]
    return [
        {
            "landmark": number,
            "structure": name,
            **{f"{axis}_mm": round(float(value), 3) for axis, value in zip("xyz", place, strict=True)},
        }
        for number, (name, place) in enumerate(zip(names, head.carried_mm(points), strict=True), start=1)
    ]
