"""What the intake knows of a series, whatever it came from."""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote_to_bytes

from analysis import tsv

#: An age above this is a placeholder birth date.
OLDEST_YEARS = 120.0
#: What tables say of a series besides its names.
DESCRIPTION = (
    *("modality", "contrast", "contrast_agent", "rows", "columns", "n_slices", "n_volumes", "in_plane_mm"),
    *("spacing_mm", "thickness_mm", "plane", "oblique_degrees", "tilt_degrees", "missing_slices", "duplicate_slices"),
    *("field_tesla", "evidence", "decision", "reason"),
)
#: Columns of the published table of series.
SERIES_COLUMNS = ("series_id", "participant_id", "session_id", "scan_id", *DESCRIPTION, "batch")


@dataclass(frozen=True)
class Series:
    """One series of images found in a source, judged.

    Attributes
    ----------
    source
        ``dicom`` or ``bids``.
    faulty_path
        The file or folder that spoils the series, as text; empty if none does. Private.
    patient_id, study_uid, series_uid
        Identity in the source; empty where there is none (a file that cannot be read). Private.
    study_date
        ``YYYYMMDD`` or empty. Private.
    paths
        Its files, absolute; may be gone through more than once. Private.
    content_key
        :func:`key_of_files` of its files, if it is known already.
    contrast, reason
        What it shows; why it is left out (empty: it is kept).
    evidence
        What decided the contrast: a rule and what it found. Holds no free text of the header.
    contrast_agent
        ``yes``, ``no``, or ``n/a`` where there is no saying.
    modality, plane, rows, columns, n_slices, n_volumes, in_plane_mm, spacing_mm, thickness_mm
        Image geometry; None or NaN where unknown.
    oblique_degrees, tilt_degrees, missing_slices, duplicate_slices
        Angle to the plane, lean of the stack, gaps and repetitions (:class:`.geometry.Stack`).
    field_tesla
        Magnetic field.
    age_years, sex
        Of the patient at the study; NaN and ``n/a`` where unknown.
    participant_id, session_id, scan_id
        Names that the source already gives; empty where the intake makes them.
    """

    source: str
    patient_id: str
    study_uid: str
    series_uid: str
    study_date: str
    paths: Iterable[Path] = field(repr=False)
    contrast: str
    reason: str
    modality: str = tsv.MISSING
    plane: str = tsv.MISSING
    rows: int | None = None
    columns: int | None = None
    n_slices: int | None = None
    n_volumes: int | None = None
    in_plane_mm: float = math.nan
    spacing_mm: float = math.nan
    thickness_mm: float = math.nan
    oblique_degrees: float = math.nan
    tilt_degrees: float = math.nan
    missing_slices: int | None = None
    duplicate_slices: int | None = None
    field_tesla: float = math.nan
    evidence: str = tsv.MISSING
    contrast_agent: str = tsv.MISSING
    content_key: str = ""
    age_years: float = math.nan
    sex: str = tsv.MISSING
    participant_id: str = ""
    session_id: str = ""
    scan_id: str = ""
    faulty_path: str = ""

    @property
    def is_included(self) -> bool:
        """Whether the series goes on to the next stage."""
        return not self.reason

    @property
    def source_key(self) -> str:
        """Hash of the names and sizes of the files: changes when files come, go or change, not when they move."""
        return self.content_key or key_of_files((path, _size_bytes(path)) for path in self.paths)

    @property
    def field_mm3(self) -> float:
        """Volume of the field of view, which is the number of its voxels at 1 mm; 0 where unknown."""
        sides = (self.rows, self.columns, self.n_slices, self.in_plane_mm, self.in_plane_mm, self.spacing_mm)
        field_mm3 = math.prod(side or 0.0 for side in sides)
        return 0.0 if math.isnan(field_mm3) else field_mm3

    def description(self) -> dict[str, str]:
        """The columns :data:`DESCRIPTION` as text, but for the decision."""
        values = {column: getattr(self, column) for column in DESCRIPTION if column != "decision"}
        return {column: value if isinstance(value, str) else number(value) for column, value in values.items()}


def key_of_files(files: Iterable[tuple[Path, int]]) -> str:
    """Hash of names and sizes in bytes of files, in any order."""
    lines = sorted(f"{to_text(Path(path.name))}\t{size}" for path, size in files)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def number(value: float | None, *, digits: int = 3) -> str:
    """Text of a number in a table, ``n/a`` where unknown."""
    return tsv.MISSING if value is None or math.isnan(value) else f"{round(value, digits):.10g}"


def to_text(path: Path) -> str:
    """A path as text of a table: what is no printable text in UTF-8 is escaped as ``%`` and two hexadecimal digits."""
    return re.sub(r"[%\x00-\x1f\x7f\udc80-\udcff]", lambda match: f"%{os.fsencode(match[0])[0]:02X}", str(path))


def to_path(text: str) -> Path:
    """Inverse of :func:`to_text`."""
    return Path(os.fsdecode(unquote_to_bytes(text)))


def _size_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # a link into nowhere, or no right to look: a file that cannot be read
        return 0
