"""The configuration of a simulated clinic, and what lies where in its folder.

Below the folder of a clinic (``--out``), by module :mod:`.build`:

``dicom/SIM0001/study-1/02_T2w/00001.dcm``
    Studies as a hospital would export them (``--format dicom``), or
``bids/sub-SIM0001/ses-01/anat/sub-SIM0001_ses-01_acq-axial_run-1_T2w.nii.gz``
    the anatomical scans as a BIDS dataset with ``participants.tsv`` and sessions (``--format bids``).
``truth.tsv``
    Volumes, a row per session and structure, as counted on the deformed label map: ``volume_mm3`` of the tissue that is
    there (oedema counts), ``lesion_mm3`` of what a lesion's bulk has taken of it; beside the latter's sum with the
    former what was prescribed, ``prescribed_mm3``. ``ICV`` holds both.
``sessions.tsv``
    A row per session: age, sex, diagnosis, head size, base anatomy, manufacturer.
``scans.tsv``
    A row per series: kind, orientation, slices, spacing, motion, path, and the mask of the lesion on its grid.
``lesions.tsv``
    A row per session of patients with lesions: kind, phase, place, volumes, and the mass effect: ``growth``, volume of
    the lesion's bulk over that of the tissue it grew from or killed, and ``displaced_mm3``, the difference of the two.
``landmarks.tsv``
    Patients with several sessions: the same points of the anatomy in every session, in scanner coordinates (right,
    anterior, superior, mm), which hold for every scan of the session.
``lesions/sub-SIM0001/…_lesion.nii.gz``
    The lesion on the grid of every scan (the 1 mm reference among them): numbers as in :data:`.tissues.LESIONS`.
``patients/SIM0001.json``
    What was made of a patient, from which the tables are put together.
``clinic.json``
    The configuration, and the base anatomies with their SHA-256.

Tables know a session as the statistics want it: beside a BIDS dataset by ``participant_id`` and ``session_id``, beside
DICOM by ``patient_id``, ``visit`` (1, 2, …) and ``study_uid``, which the intake's private table of sessions links with
its pseudonyms.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from ..errors import ConfigurationError
from .geometry import ORIENTATIONS

DIAGNOSES = ("Control", "AD", "Stroke", "Tumour")
#: Kinds of series that show anatomy.
CONTRASTS = ("MPRAGE", "T1w", "T1CE", "T2w", "PDw", "FLAIR", "CT")
#: Kinds of series that an archive holds besides; the last three are made from the anatomical series before them.
OTHERS = ("localizer", "DWI", "BOLD", "MIP", "capture", "duplicate")
COPIES = OTHERS[-3:]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _check_numbers(settings: Any, *, positive: tuple[str, ...]) -> None:
    for one in fields(settings):
        value = getattr(settings, one.name)
        if not isinstance(one.default, (int, float)):
            continue
        whole = isinstance(one.default, int)
        if not _is_number(value) or (whole and not isinstance(value, int)) or value < 0:
            raise ConfigurationError(
                f"{one.name}: {value!r}; give {'a whole number' if whole else 'a number'} of at least 0"
            )
        if one.name in positive and not value > 0:
            raise ConfigurationError(f"{one.name}: {value!r}; it must be above 0")


def _check_order(settings: Any, pairs: tuple[tuple[str, str], ...]) -> None:
    for low, high in pairs:
        if getattr(settings, low) > getattr(settings, high):
            raise ConfigurationError(f"{low}: {getattr(settings, low)}; it exceeds {high}, {getattr(settings, high)}")


@dataclass(frozen=True)
class Group:
    """Patients of one diagnosis.

    Attributes
    ----------
    diagnosis
        ``Control``, ``AD``, ``Stroke`` or ``Tumour``.
    share
        How many, relative to the other groups.
    youngest_years, oldest_years
        Ages at the first session are spread evenly between them.
    sessions
        Of each patient. Of tumours the first is before the operation, the others after it; a stroke is subacute or
        chronic at the first, and chronic from then on.
    interval_years
        Between sessions.
    lesion_min_ml, lesion_max_ml
        Volume of a stroke or of a tumour without its oedema, log-uniform.
    """

    diagnosis: str = "Control"
    share: float = 1.0
    youngest_years: float = 20.0
    oldest_years: float = 90.0
    sessions: int = 1
    interval_years: float = 1.0
    lesion_min_ml: float = 3.0
    lesion_max_ml: float = 60.0

    def __post_init__(self) -> None:
        """Check every value."""
        if self.diagnosis not in DIAGNOSES:
            raise ConfigurationError(f"groups: diagnosis: {self.diagnosis!r}; give one of {', '.join(DIAGNOSES)}")
        _check_numbers(self, positive=("share", "sessions", "interval_years", "lesion_min_ml"))
        _check_order(self, (("youngest_years", "oldest_years"), ("lesion_min_ml", "lesion_max_ml")))


@dataclass(frozen=True)
class Planned:
    """A series that sessions have, in the order of the list.

    Attributes
    ----------
    kind
        One of :data:`CONTRASTS` or :data:`OTHERS`, or several that take turns. An anatomical series whose kind and
        orientation are both open differs in both from those before it in the session, as long as there is a choice.
    share
        Part of the sessions that have it, spread evenly over the patients.
    orientation
        One of ``axial``, ``coronal``, ``sagittal``, or several that take turns. CT is always axial, MPRAGE sagittal.
    spacing_mm
        Distance between slice centres, or several that take turns; empty: drawn from the clinic's range.
    coverage
        Part of the intracranial space that the slices cover, from below.
    """

    kind: tuple[str, ...] = ()
    share: float = 1.0
    orientation: tuple[str, ...] = tuple(ORIENTATIONS)
    spacing_mm: tuple[float, ...] = ()
    coverage: float = 1.0

    def __post_init__(self) -> None:
        """Check every value."""
        for key, known in (("kind", CONTRASTS + OTHERS), ("orientation", tuple(ORIENTATIONS))):
            chosen = getattr(self, key)
            if not chosen or not set(chosen) <= set(known):
                raise ConfigurationError(
                    f"series: {key}: {', '.join(map(str, chosen))!r}; known are {', '.join(known)}"
                )
        _check_numbers(self, positive=("share", "coverage"))
        if self.share > 1 or self.coverage > 1:
            raise ConfigurationError(f"series: share {self.share}, coverage {self.coverage}; both are at most 1")
        if not all(_is_number(value) and value > 0 for value in self.spacing_mm):
            raise ConfigurationError(f"series: spacing_mm: {list(self.spacing_mm)}; give millimetres above 0")


@dataclass(frozen=True)
class Clinic:
    """Every setting, with its default; ``config/clinic.yaml`` overrides.

    Attributes
    ----------
    seed
        Everything random follows from it, UIDs included.
    patients
        How many. More of them leave the earlier ones as they are.
    groups, series
        Who comes, and what is done with them: lists of :class:`Group` and :class:`Planned`.
    anatomy
        Base anatomy: a whole-head label map of 1 mm, or a folder of such, which take turns; empty: the project's own.
        Relative paths start at the working directory, environment variables are filled in.
    anatomy_age_years
        Age at which a patient looks like the base anatomy.
    icv_female_mm3, icv_male_mm3
        Mean intracranial volume by sex.
    icv_spread
        Standard deviation of the log of the intracranial volume about it.
    volume_spread, ventricle_spread
        Standard deviation of the log of a structure's volume about its age's, for tissue and for ventricles.
    shape_mm, shape_length_mm
        Standard deviation and length scale of the random velocity that makes shapes differ.
    rotation_deg, translation_mm
        Standard deviation of the head's rotation about and shift along each scanner axis, at every session.
    grid_mm
        Spacing of the deformation's grid, whole millimetres.
    fit_steps
        How often the deformation is corrected towards the prescribed volumes.
    truth_mm
        Largest spacing, in the scanner, of the points at which labels are counted for the true volumes.
    sampling_mm
        Largest distance, in every direction, of the points whose tissue a voxel averages.
    spacing_min_mm, spacing_max_mm
        Distance between slice centres, drawn per scan.
    gap_max
        Largest gap between slices, as a fraction of their distance.
    obliquity_deg
        Standard deviation of the slices' tilt about each axis.
    matrix
        Rows and columns of a scan.
    pixel_min_mm, pixel_max_mm
        In-plane pixel size, drawn per scan.
    snr_min, snr_max
        Signal of white matter over the standard deviation of the noise, drawn per scan.
    bias
        Standard deviation of the log sensitivity of the coil, 70 mm from the isocentre.
    motion
        Part of the scans in which the patient moves.
    """

    seed: int = 1
    patients: int = 40
    groups: tuple[Group, ...] = (Group(),)
    series: tuple[Planned, ...] = (Planned(kind=("T1w", "T2w", "FLAIR")),)
    anatomy: str = ""
    anatomy_age_years: float = 30.0
    icv_female_mm3: float = 1_420_000.0
    icv_male_mm3: float = 1_580_000.0
    icv_spread: float = 0.06
    volume_spread: float = 0.04
    ventricle_spread: float = 0.15
    shape_mm: float = 2.5
    shape_length_mm: float = 30.0
    rotation_deg: float = 4.0
    translation_mm: float = 4.0
    grid_mm: int = 2
    fit_steps: int = 4
    truth_mm: float = 0.5
    sampling_mm: float = 0.5
    spacing_min_mm: float = 3.0
    spacing_max_mm: float = 6.0
    gap_max: float = 0.2
    obliquity_deg: float = 4.0
    matrix: int = 256
    pixel_min_mm: float = 0.9
    pixel_max_mm: float = 1.0
    snr_min: float = 20.0
    snr_max: float = 45.0
    bias: float = 0.08
    motion: float = 0.0

    def __post_init__(self) -> None:
        """Check every value.

        Raises
        ------
        ConfigurationError
            Naming the key, what it holds and what it may hold.
        """
        _check_numbers(
            self,
            positive=(
                *("patients", "grid_mm", "truth_mm", "sampling_mm", "matrix", "icv_female_mm3", "icv_male_mm3"),
                *("shape_length_mm", "spacing_min_mm", "pixel_min_mm", "snr_min"),
            ),
        )
        _check_order(
            self,
            (("spacing_min_mm", "spacing_max_mm"), ("pixel_min_mm", "pixel_max_mm"), ("snr_min", "snr_max")),
        )
        if not isinstance(self.anatomy, str):
            raise ConfigurationError(f"anatomy: {self.anatomy!r}; give a path")
        if not self.groups or not self.series:
            raise ConfigurationError("groups and series: give at least one of each")
        if self.gap_max >= 1 or self.motion > 1:
            raise ConfigurationError(f"gap_max: {self.gap_max}, motion: {self.motion}; fractions, the first below 1")
        if not set(self.series[0].kind).isdisjoint(COPIES):
            raise ConfigurationError(
                f"series: the first is {self.series[0].kind}; there is nothing yet to make it from"
            )


def read(path: Path) -> Clinic:
    """Read a YAML file of settings.

    Raises
    ------
    ConfigurationError
        If the file is missing or no mapping, a key is unknown (it is named), or a value out of range.
    """
    import yaml

    if not path.is_file():
        raise ConfigurationError(f"{path}: no such configuration; config/clinic.yaml is an example")
    try:
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: not YAML ({error}); config/clinic.yaml is an example") from error
    content = {} if content is None else content
    try:
        return _make(Clinic, content, "")
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from error


Settings = TypeVar("Settings", Clinic, Group, Planned)


def _make(settings: type[Settings], content: Any, where: str) -> Settings:
    """Settings from a mapping; lists become tuples, and a single value where several may stand a tuple of one."""
    if not isinstance(content, dict):
        raise ConfigurationError(f"{where}expected `key: value` lines, found {type(content).__name__}")
    known = {one.name: one for one in fields(settings)}
    values: dict[str, Any] = {}
    for key, value in content.items():
        if key not in known:
            raise ConfigurationError(f"{where}unknown key {key!r}; known are {', '.join(known)}")
        if not isinstance(known[key].default, tuple):
            values[key] = value
            continue
        several = tuple(value) if isinstance(value, list) else (value,)
        element = {"groups": Group, "series": Planned}.get(key)
        values[key] = tuple(_make(element, one, f"{key}: ") for one in several) if element else several
    return settings(**values)
