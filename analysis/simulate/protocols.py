"""What is scanned and how: sequences and stacks drawn per series, in the wording of three manufacturers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .clinic import Clinic
from .geometry import FLIP, ORIENTATIONS, Stack, Vector
from .patients import Order, rotation
from .render import Ghost, Head, Move
from .tissues import Sequence

#: Distance between volume elements of the reference, in every direction, and how far beyond the intracranial space it
#: reaches, the scalp included.
REFERENCE_MM, SCALP_MM = 1.0, 14.0
#: Movement of the head, standard deviation, and how often it moves within a scan at most.
SHIFT_MM, TURN_DEG, JUMPS = 1.2, 1.2, 3
#: Amplitude of trembling, in pixels, and cycles of it within a scan.
TREMBLE_PX, TREMBLE_CYCLES = (0.3, 0.9), (3.0, 12.0)


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
    enhanced
        Description of a scan with contrast agent; ``{}`` stands for that without.
    """

    manufacturer: str
    descriptions: dict[str, str]
    planes: dict[str, str]
    sequence_names: dict[str, str]
    enhanced: str

    def description(self, kind: str, orientation: str, *, has_gadolinium: bool = False) -> str:
        """SeriesDescription."""
        text = self.descriptions[kind].format(plane=self.planes[orientation])
        return self.enhanced.format(text) if has_gadolinium else text


VENDORS = (
    Vendor(
        "SIEMENS",
        {"T1w-SE": "t1_se_{plane}", "T1w-TSE": "t1_tse_{plane}", "T1w-GR": "t1_fl2d_{plane}", "T2w": "t2_tse_{plane}",
         "PDw": "pd_tse_{plane}", "FLAIR": "t2_tirm_{plane}_dark-fluid", "MPRAGE": "t1_mprage_{plane}_p2_iso",
         "CT": "Schaedel nativ 5.0 H31s", "localizer": "localizer", "DWI": "ep2d_diff_{plane}",
         "BOLD": "ep2d_bold_{plane}", "MIP": "MIP_{plane}", "capture": "Screenshot"},
        {"axial": "tra", "coronal": "cor", "sagittal": "sag"},
        {"T1w-SE": "*se2d1", "T1w-TSE": "*tse2d1_3", "T1w-GR": "*fl2d1", "T2w": "*tse2d1_15", "PDw": "*tse2d1_5",
         "FLAIR": "*tir2d1_21", "MPRAGE": "*tfl3d1_ns", "localizer": "*fl2d1", "DWI": "*ep_b1000",
         "BOLD": "*epfid2d1_64"},
        "{}_KM",
    ),
    Vendor(
        "Philips Medical Systems",
        {"T1w-SE": "T1W_SE {plane}", "T1w-TSE": "T1W_TSE {plane}", "T1w-GR": "T1W_FFE {plane}",
         "T2w": "T2W_TSE {plane}", "PDw": "PDW_TSE {plane}", "FLAIR": "FLAIR {plane}", "MPRAGE": "sT1W_3D_TFE {plane}",
         "CT": "Kopf nativ, Brain", "localizer": "Survey", "DWI": "DWI {plane}", "BOLD": "FE_EPI {plane}",
         "MIP": "MIP {plane}", "capture": "Screen capture"},
        {"axial": "AX", "coronal": "COR", "sagittal": "SAG"},
        {},
        "{} +C",
    ),
    Vendor(
        "GE MEDICAL SYSTEMS",
        {"T1w-SE": "{plane} T1 SE", "T1w-TSE": "{plane} T1 FSE", "T1w-GR": "{plane} T1 SPGR", "T2w": "{plane} T2 FRFSE",
         "PDw": "{plane} PD FSE", "FLAIR": "{plane} T2 FLAIR", "MPRAGE": "{plane} T1 BRAVO", "CT": "HEAD W/O 5mm",
         "localizer": "3-pl LOC", "DWI": "{plane} DWI", "BOLD": "{plane} fMRI", "MIP": "{plane} MIP",
         "capture": "Screen Save"},
        {"axial": "Ax", "coronal": "Cor", "sagittal": "Sag"},
        {"T1w-SE": "memp", "T1w-TSE": "fse", "T1w-GR": "spgr", "T2w": "frfse", "PDw": "fse", "FLAIR": "flair",
         "MPRAGE": "efgre3d", "localizer": "gre", "DWI": "epi2", "BOLD": "epiRT"},
        "+C {}",
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Series:
    """A series to be acquired.

    Attributes
    ----------
    kind
        Key of :attr:`Vendor.descriptions`.
    orientation
        Of the first stack.
    stacks
        One; a localizer has one per plane.
    sequences
        One; a series of several volumes has one per volume.
    snr
        Signal of white matter over the standard deviation of the noise; of a CT that standard deviation, in HU.
    coverage
        Part of the intracranial space covered.
    moves, ghost
        Movement of the head, between slices or within them.
    """

    kind: str
    orientation: str
    stacks: tuple[Stack, ...]
    sequences: tuple[Sequence, ...]
    snr: float
    coverage: float = 1.0
    moves: tuple[Move, ...] = ()
    ghost: Ghost | None = None

    @property
    def is_volumetric(self) -> bool:
        """Whether it is excited as one slab."""
        return self.kind == "MPRAGE"

    @property
    def is_x_ray(self) -> bool:
        """Whether it is CT, or made from it."""
        return self.sequences[0].kind == "x_ray"

    @property
    def motion(self) -> str:
        """``none``, ``between slices`` or ``within slices``."""
        return "between slices" if self.moves else "within slices" if self.ghost else "none"


def scan(clinic: Clinic, head: Head, order: Order, rng: np.random.Generator) -> Series:
    """Draw an anatomical series; with a coverage of 1 it holds the whole intracranial space."""
    kind, sequence = draw_sequence(order.kind, rng)
    spacing = order.spacing_mm or rng.uniform(clinic.spacing_min_mm, clinic.spacing_max_mm)
    # Written in DICOM with this many digits: what is rendered is what the header says.
    spacing = round(float(spacing), 2)
    thickness = round(spacing * (1 - float(rng.uniform(0, clinic.gap_max))), 2)
    pixel = round(float(rng.uniform(clinic.pixel_min_mm, clinic.pixel_max_mm)), 4)
    tilt = rotation(np.deg2rad(rng.normal(0, clinic.obliquity_deg, 3)))
    snr = float(rng.uniform(clinic.snr_min, clinic.snr_max))
    if kind == "MPRAGE":
        spacing = thickness = pixel = REFERENCE_MM
    if kind == "CT":
        thickness = spacing
        # Its tables do not tilt sideways.
        tilt = rotation(np.array([np.arcsin(tilt[2, 1]), 0, 0]))
        snr = float(rng.uniform(2.5, 4.5))
    stack = cover(head, order.orientation, tilt, matrix=clinic.matrix, pixel_mm=pixel, spacing_mm=spacing,
                  thickness_mm=thickness, coverage=order.coverage,
                  beyond_mm=SCALP_MM if kind == "MPRAGE" else 0.0)  # fmt: skip
    moves: tuple[Move, ...] = ()
    ghost = None
    moving, within = rng.random(2)
    if moving < clinic.motion and kind != "CT":
        if within < 0.5 or kind == "MPRAGE":
            ghost = Ghost(float(rng.uniform(*TREMBLE_PX)), float(rng.uniform(*TREMBLE_CYCLES)),
                          float(rng.uniform(0, 2 * np.pi)))  # fmt: skip
        else:
            moves = draw_moves(stack.slices, rng)
    return Series(
        kind, order.orientation, (stack,), (sequence,), snr, coverage=order.coverage, moves=moves, ghost=ghost
    )  # fmt: skip


def draw_moves(slices: int, rng: np.random.Generator) -> tuple[Move, ...]:
    """Position of the head at every slice: it jumps now and then while every other slice is taken, then the rest."""
    acquired = np.concatenate([np.arange(0, slices, 2), np.arange(1, slices, 2)])
    jumps = np.sort(rng.integers(1, slices, int(rng.integers(1, JUMPS + 1))))
    turns = rng.normal(0, np.deg2rad(TURN_DEG), (len(jumps), 3))
    shifts = rng.normal(0, SHIFT_MM, (len(jumps), 3))
    places = [Move(np.eye(3), np.zeros(3))]
    places += [Move(rotation(turn), shift) for turn, shift in zip(turns, shifts, strict=True)]
    when = np.empty(slices, dtype=int)
    when[acquired] = np.searchsorted(jumps, np.arange(slices), side="right")
    return tuple(places[index] for index in when)


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
    coverage: float = 1.0,
    beyond_mm: float = 0.0,
) -> Stack:
    """Stack in an orientation, tilted, with the slices that the intracranial space needs and one more on each side.

    It reaches ``beyond_mm`` farther on either side. With less ``coverage`` there are fewer slices, from the first on
    (from below, of axial ones).
    """
    row, column = (_rounded(tilt @ direction) for direction in ORIENTATIONS[orientation])
    points = head.intracranial_points_mm() * FLIP
    axes = np.stack([row, column, np.cross(row, column)])
    along = points @ axes.T
    low, high = along.min(axis=0), along.max(axis=0)
    slices = int(np.ceil((high[2] - low[2] + 2 * beyond_mm) / spacing_mm)) + 2
    middle = (low + high) / 2
    kept = max(round(coverage * slices), 1)
    middle[2] -= (slices - kept) / 2 * spacing_mm
    return Stack(row, column, np.linalg.solve(axes, middle), matrix, pixel_mm, kept, spacing_mm, thickness_mm)


def _rounded(direction: Vector) -> Vector:
    """Unit vector that survives DICOM's sixteen characters a number."""
    return np.asarray(np.round(direction / np.linalg.norm(direction), 12), dtype=np.float64)


def draw_sequence(contrast: str, rng: np.random.Generator) -> tuple[str, Sequence]:
    """Kind and sequence of a contrast, within the ranges of routine protocols at 1.5 T."""
    repetition, echo, which = rng.random(3)
    if contrast == "T2w":
        return "T2w", Sequence("spin_echo", round(4000 + 2000 * repetition), round(90 + 20 * echo))
    if contrast == "PDw":
        return "PDw", Sequence("spin_echo", round(2500 + 1500 * repetition), round(11 + 9 * echo))
    if contrast == "FLAIR":
        # With CSF's T1 of 4 s, these inversion times null it within a few per cent.
        time = round(8500 + 1000 * repetition)
        null = 4000 * (np.log(2) - np.log1p(np.exp(-time / 4000)))
        return "FLAIR", Sequence("inversion_recovery", time, round(110 + 20 * echo), inversion_ms=round(float(null)))
    if contrast == "MPRAGE":
        return "MPRAGE", Sequence("prepared_gradient_echo", round(1900 + 400 * repetition), round(2.5 + 1.5 * echo, 2),
                                  inversion_ms=900, flip_deg=8.0, echo_spacing_ms=7.5, echoes=176)  # fmt: skip
    if contrast == "CT":
        return "CT", Sequence("x_ray", 0.0, 0.0)
    enhanced = contrast == "T1CE"
    if which < 1 / 3:
        return "T1w-SE", Sequence("spin_echo", round(450 + 150 * repetition), round(9 + 5 * echo),
                                  has_gadolinium=enhanced)  # fmt: skip
    if which < 2 / 3:
        return "T1w-TSE", Sequence("spin_echo", round(500 + 200 * repetition), round(8 + 6 * echo),
                                   has_gadolinium=enhanced)  # fmt: skip
    return "T1w-GR", Sequence("gradient_echo", round(200 + 100 * repetition), round(3 + 3 * echo, 1), flip_deg=70.0,
                              has_gadolinium=enhanced)  # fmt: skip
