"""The one table of anatomical labels: numbers, names, sides, tissues, colours and T1 grey levels.

Numbers are FreeSurfer's (``FreeSurferColorLUT``) for the brain; 500 and above are the extra-cerebral labels of the
public SynthSeg training maps. Everything in the project that needs a label number takes it from here.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .errors import DataError

#: Cerebral white matter, cerebral cortex, and white-matter lesions; left, right.
WHITE_MATTER = (2, 41)
CORTEX = (3, 42)
LESION = (25, 57)
#: Cerebrospinal fluid outside the ventricles.
FLUID = 24
#: Names that other look-up tables give to structures, and FreeSurfer's.
SYNONYMS = {"Unknown": "Background", "Inferior-Lateral-Ventricle": "Inf-Lat-Vent"}


@dataclass(frozen=True)
class Label:
    """One row of ``labels.tsv``.

    Attributes
    ----------
    number
        Label number in training maps.
    name
        Structure name, FreeSurfer spelling, e.g. ``Left-Hippocampus``.
    tissue
        ``background``, ``white``, ``grey``, ``deep_grey``, ``csf``, ``bone`` or ``soft``.
    segment_as
        Number under which the segmenter reports the voxel (0: not part of the segmentation).
    t1_grey
        Typical grey level on a T1 whose white matter is 110 (FreeSurfer's convention).
    colour
        RGB, 0–255.
    """

    number: int
    name: str
    tissue: str
    segment_as: int
    t1_grey: float
    colour: tuple[int, int, int]

    @property
    def side(self) -> str:
        """``left``, ``right`` or ``midline``."""
        for side in ("left", "right"):
            if self.name.lower().startswith(side + "-"):
                return side
        return "midline"


@cache
def table() -> tuple[Label, ...]:
    """All labels, in rising order of number; the position in this tuple is the *index* used on the device."""
    text = resources.files("synthsr").joinpath("labels.tsv").read_text(encoding="utf-8")
    rows = []
    for row in csv.DictReader(text.splitlines(), delimiter="\t"):
        red, green, blue = (int(row[key]) for key in ("red", "green", "blue"))
        rows.append(
            Label(
                number=int(row["number"]),
                name=row["name"],
                tissue=row["tissue"],
                segment_as=int(row["segment_as"]),
                t1_grey=float(row["t1_grey"]),
                colour=(red, green, blue),
            )
        )
    return tuple(sorted(rows, key=lambda label: label.number))


@cache
def by_number() -> dict[int, Label]:
    """Labels keyed by number."""
    return {label.number: label for label in table()}


@cache
def segmentation_numbers() -> tuple[int, ...]:
    """Numbers of the segmenter's output channels, background first."""
    return tuple(label.number for label in table() if label.number == label.segment_as)


def intracranial_numbers() -> tuple[int, ...]:
    """Segmentation numbers that add up to the intracranial volume: all from 1 to 499."""
    return tuple(number for number in segmentation_numbers() if 1 <= number <= 499)


def read_segmentation_names(names: Path | None) -> dict[int, tuple[int, ...]]:
    """What the indices of somebody else's segmentation stand for.

    Parameters
    ----------
    names
        Look-up table as in BIDS, tab-separated, columns ``index`` and ``name``; ``None`` for a segmentation that has
        this project's numbers.

    Returns
    -------
    Per index, numbers of :func:`segmentation_numbers`: one where the name has a side or the structure has none, left
    and right where the name leaves the side open, 0 for ``Unknown``.

    Raises
    ------
    DataError
        If the file is not such a table, or a name is not in ``labels.tsv``, sides aside.
    """
    if names is None:
        return {number: (number,) for number in segmentation_numbers()}
    try:
        with Path(names).open(newline="", encoding="utf-8") as stream:
            rows = [(int(row["index"]), row["name"].strip()) for row in csv.DictReader(stream, delimiter="\t")]
    except (OSError, KeyError, AttributeError, TypeError, ValueError) as error:
        raise DataError(f"{names}: not a table with the columns index and name ({error!r})") from error
    if not rows or len(dict(rows)) < len(rows):
        raise DataError(f"{names}: {'an index is named twice' if rows else 'no row'}; give every index one name")
    segment_as = {label.name.lower(): label.segment_as for label in table()}
    found = {}
    for index, name in rows:
        plain = SYNONYMS.get(name, name).lower()
        numbers = [segment_as[side + plain] for side in ("", "left-", "right-") if side + plain in segment_as]
        if not numbers:
            raise DataError(f"{names}: {name!r} is no structure of synthsr/labels.tsv; give it FreeSurfer's name")
        found[index] = tuple(numbers)
    return found


def brain_numbers() -> tuple[int, ...]:
    """Segmentation numbers that skull-stripping keeps: the intracranial ones but the fluid around the brain.

    Tissue and ventricles; of the fluid in sulci and cisterns as much as the border of the mask takes in (1 mm in
    SynthStrip, Hoopes et al., NeuroImage 2022).
    """
    return tuple(number for number in intracranial_numbers() if number != FLUID)


def mirror_number(number: int) -> int:
    """Number of the same structure on the other side; midline structures map to themselves."""
    label = by_number()[number]
    if label.side == "midline":
        return number
    other = {"left": "Right", "right": "Left"}[label.side] + label.name[len(label.side) :]
    return next(row.number for row in table() if row.name == other)


def index_lookup() -> npt.NDArray[np.int16]:
    """Array that turns a label number into its position in :func:`table`; −1 for an unknown number."""
    lookup = np.full(table()[-1].number + 1, -1, dtype=np.int16)
    for index, label in enumerate(table()):
        lookup[label.number] = index
    return lookup


def channel_of_index() -> npt.NDArray[np.uint8]:
    """Segmentation channel of every position in :func:`table`."""
    channel = {number: position for position, number in enumerate(segmentation_numbers())}
    return np.array([channel[label.segment_as] for label in table()], dtype=np.uint8)


@cache
def mirror_of_index() -> npt.NDArray[np.uint8]:
    """Position in :func:`table` of every label's partner on the other side; read-only."""
    lookup = index_lookup()
    mirror = np.array([lookup[mirror_number(label.number)] for label in table()], dtype=np.uint8)
    mirror.flags.writeable = False
    return mirror


def mirror_of_channel() -> npt.NDArray[np.int64]:
    """Segmentation channel of every channel's partner on the other side."""
    numbers = segmentation_numbers()
    return np.array([numbers.index(mirror_number(number)) for number in numbers], dtype=np.int64)
