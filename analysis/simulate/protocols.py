"""What is scanned and how: sequences and stacks drawn per series, in the wording of three manufacturers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .clinic import Clinic
from .geometry import FLIP, ORIENTATIONS, Stack, Vector
from .patients import rotation
from .render import Head
from .tissues import Sequence


@dataclass(frozen=True)
class Vendor:
    """How one manufacturer names things.

    Attributes
    ----------
    manufacturer
        DICOM's Manufacturer.
    descriptions
        SeriesDescription by kind of series; ``{plane}`` stands for the orientation.
    planes
        Word for each orientation.
    sequence_names
        SequenceName by kind of series; empty where the manufacturer writes none.
    """

    manufacturer: str
    descriptions: dict[str, str]
    planes: dict[str, str]
    sequence_names: dict[str, str]


VENDORS = (
    Vendor(
        "SIEMENS",
        {"T1w-SE": "t1_se_{plane}", "T1w-GR": "t1_fl2d_{plane}", "T2w": "t2_tse_{plane}",
         "FLAIR": "t2_tirm_{plane}_dark-fluid", "localizer": "localizer", "DWI": "ep2d_diff_{plane}",
         "BOLD": "ep2d_bold_{plane}"},
        {"axial": "tra", "coronal": "cor", "sagittal": "sag"},
        {"T1w-SE": "*se2d1", "T1w-GR": "*fl2d1", "T2w": "*tse2d1_15", "FLAIR": "*tir2d1_21", "localizer": "*fl2d1",
         "DWI": "*ep_b1000", "BOLD": "*epfid2d1_64"},
    ),
    Vendor(
        "Philips Medical Systems",
        {"T1w-SE": "T1W_SE {plane}", "T1w-GR": "T1W_FFE {plane}", "T2w": "T2W_TSE {plane}", "FLAIR": "FLAIR {plane}",
         "localizer": "Survey", "DWI": "DWI {plane}", "BOLD": "FE_EPI {plane}"},
        {"axial": "AX", "coronal": "COR", "sagittal": "SAG"},
        {},
    ),
    Vendor(
        "GE MEDICAL SYSTEMS",
        {"T1w-SE": "{plane} T1 SE", "T1w-GR": "{plane} T1 SPGR", "T2w": "{plane} T2 FRFSE", "FLAIR": "{plane} T2 FLAIR",
         "localizer": "3-pl LOC", "DWI": "{plane} DWI", "BOLD": "{plane} fMRI"},
        {"axial": "Ax", "coronal": "Cor", "sagittal": "Sag"},
        {"T1w-SE": "memp", "T1w-GR": "spgr", "T2w": "frfse", "FLAIR": "flair", "localizer": "gre", "DWI": "epi2",
         "BOLD": "epiRT"},
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Series:
    """A series to be acquired.

    Attributes
    ----------
    kind
        ``T1w-SE``, ``T1w-GR``, ``T2w``, ``FLAIR``, ``localizer``, ``DWI`` or ``BOLD``.
    orientation
        Of the first stack.
    stacks
        One; a localizer has one per plane.
    sequences
        One; a series of several volumes has one per volume.
    snr
        Signal of white matter over the standard deviation of the noise.
    """

    kind: str
    orientation: str
    stacks: tuple[Stack, ...]
    sequences: tuple[Sequence, ...]
    snr: float


def scan(clinic: Clinic, head: Head, contrast: str, orientation: str, rng: np.random.Generator) -> Series:
    """Draw a diagnostic series that covers the whole intracranial space."""
    kind, sequence = draw_sequence(contrast, rng)
    spacing = rng.uniform(clinic.spacing_min_mm, clinic.spacing_max_mm)
    # Written in DICOM with this many digits: what is rendered is what the header says.
    spacing = round(float(spacing), 2)
    thickness = round(spacing * (1 - float(rng.uniform(0, clinic.gap_max))), 2)
    pixel = round(float(rng.uniform(clinic.pixel_min_mm, clinic.pixel_max_mm)), 4)
    tilt = rotation(np.deg2rad(rng.normal(0, clinic.obliquity_deg, 3)))
    stack = cover(head, orientation, tilt, matrix=clinic.matrix, pixel_mm=pixel, spacing_mm=spacing,
                  thickness_mm=thickness)  # fmt: skip
    return Series(kind, orientation, (stack,), (sequence,), float(rng.uniform(clinic.snr_min, clinic.snr_max)))


def localizer(clinic: Clinic, head: Head) -> Series:
    """Three slices in each plane, 2 mm pixels, straight in the scanner."""
    centre = head.intracranial_points_mm().mean(axis=0) * FLIP
    stacks = tuple(
        Stack(row, column, centre, clinic.matrix // 2, 2 * clinic.pixel_max_mm, 3, 20.0, 8.0)
        for row, column in ORIENTATIONS.values()
    )
    return Series("localizer", "axial", stacks, (Sequence("gradient_echo", 20.0, 5.0, flip_deg=40.0),), 15.0)


def volumes(clinic: Clinic, head: Head, kind: str) -> Series:
    """A series of several volumes at the same positions: diffusion weighting or repeated BOLD."""
    if kind == "DWI":
        sequences = tuple(
            Sequence("echo_planar", 4500.0, 90.0, b_value_s_per_mm2=b) for b in (0.0, 1000.0, 1000.0, 1000.0)
        )
    else:
        sequences = (Sequence("gradient_echo", 2500.0, 50.0, flip_deg=90.0),) * 6
    stack = cover(head, "axial", np.eye(3), matrix=clinic.matrix // 4, pixel_mm=4 * clinic.pixel_max_mm, spacing_mm=6.0,
                  thickness_mm=5.0)  # fmt: skip
    return Series(kind, "axial", (stack,), sequences, 20.0)


def cover(
    head: Head,
    orientation: str,
    tilt: npt.NDArray[np.float64],
    *,
    matrix: int,
    pixel_mm: float,
    spacing_mm: float,
    thickness_mm: float,
) -> Stack:
    """Stack in an orientation, tilted, with the slices that the intracranial space needs and one more on each side."""
    row, column = (_rounded(tilt @ direction) for direction in ORIENTATIONS[orientation])
    points = head.intracranial_points_mm() * FLIP
    axes = np.stack([row, column, np.cross(row, column)])
    along = points @ axes.T
    low, high = along.min(axis=0), along.max(axis=0)
    slices = int(np.ceil((high[2] - low[2]) / spacing_mm)) + 2
    return Stack(
        row, column, np.linalg.solve(axes, (low + high) / 2), matrix, pixel_mm, slices, spacing_mm, thickness_mm
    )


def _rounded(direction: Vector) -> Vector:
    """Unit vector that survives DICOM's sixteen characters a number."""
    return np.asarray(np.round(direction / np.linalg.norm(direction), 12), dtype=np.float64)


def draw_sequence(contrast: str, rng: np.random.Generator) -> tuple[str, Sequence]:
    """Kind and sequence of a contrast, within the ranges of routine protocols at 1.5 T."""
    repetition, echo, either = rng.random(3)
    if contrast == "T2w":
        return "T2w", Sequence("spin_echo", round(4000 + 2000 * repetition), round(90 + 20 * echo))
    if contrast == "FLAIR":
        # With CSF's T1 of 4 s, these inversion times null it within a few per cent.
        time = round(8500 + 1000 * repetition)
        null = 4000 * (np.log(2) - np.log1p(np.exp(-time / 4000)))
        return "FLAIR", Sequence("inversion_recovery", time, round(110 + 20 * echo), inversion_ms=round(float(null)))
    if either < 0.5:
        return "T1w-SE", Sequence("spin_echo", round(450 + 150 * repetition), round(9 + 5 * echo))
    return "T1w-GR", Sequence("gradient_echo", round(200 + 100 * repetition), round(3 + 3 * echo, 1), flip_deg=70.0)
