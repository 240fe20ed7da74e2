"""Anatomical scans of an existing BIDS dataset: labels and names are kept."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from analysis import tsv
from analysis.errors import DataError
from analysis.layout import CONTRASTS, entities
from synthsr.progress import tracked

from . import images
from .geometry import PLANES
from .series import OLDEST_YEARS, Series

#: In tables only: the names of a dataset without sessions stay without.
ONLY_SESSION = "ses-01"

#: What tables say of the oldest, so that nobody is known by an age: ``89+``, ``> 89``.
CAPPED_AGE = r"\d+(\.\d+)?\s*\+|[<>≤≥]=?\s*\d+(\.\d+)?"

_NAME = re.compile(r"sub-[A-Za-z0-9]+(_ses-[A-Za-z0-9]+)?(_[a-z]+-[A-Za-z0-9]+)*_[A-Za-z0-9]+")
_SEXES = {"m": "M", "male": "M", "f": "F", "female": "F"}


def find_series(dataset: Path) -> list[Series]:
    """Every image in the dataset's ``anat`` folders, with its decision.

    Raises
    ------
    DataError
        If there is none, or an age is not a number.
    """
    people = _people(dataset / "participants.tsv", "participant_id")
    found: list[Series] = []
    names: set[str] = set()
    subjects = sorted(path for path in dataset.glob("sub-*") if path.is_dir())
    for subject in tracked(subjects, what="subjects read", total=len(subjects)):
        sessions = _people(subject / f"{subject.name}_sessions.tsv", "session_id")
        for path in _images(subject):
            is_session = path.parent.parent != subject
            session_id = path.parent.parent.name if is_session else ONLY_SESSION
            age_years, sex = people.get(subject.name, (math.nan, tsv.MISSING))
            age_then, sex_then = sessions.get(session_id, (math.nan, tsv.MISSING))
            series = _judge(
                dataset,
                path,
                session_id=session_id,
                age_years=age_years if math.isnan(age_then) else age_then,
                sex=sex if sex_then == tsv.MISSING else sex_then,
            )
            if series.is_included and series.scan_id in names:
                series = replace(series, reason="another file has the same name but for its extension")
            if series.is_included:
                names.add(series.scan_id)
            found.append(series)
    if not found:
        raise DataError(f"{dataset}: holds no sub-*/[ses-*/]anat/*.nii.gz; give a BIDS dataset (or --format dicom)")
    return found


def _images(subject: Path) -> Iterator[Path]:
    for anat in sorted([subject / "anat", *subject.glob("ses-*/anat")]):
        if anat.is_dir():
            yield from (path.absolute() for path in sorted(anat.iterdir()) if images.extension(path))


def _people(path: Path, index: str) -> dict[str, tuple[float, str]]:
    """Age in years and sex by the first column of a participants or sessions table; empty if there is none."""
    if not path.is_file():
        return {}
    table = tsv.read(path, columns=(index,), numbers=("age", "age_years"), unknown=f"{tsv.UNKNOWN}|{CAPPED_AGE}")
    ages = table.get("age_years", table.get("age", pd.Series(math.nan, table.index)))
    sexes = table.get("sex", pd.Series("", table.index))
    return {
        name: (float(age) if 0 <= age <= OLDEST_YEARS else math.nan, _SEXES.get(sex.strip().lower(), tsv.MISSING))
        for name, age, sex in zip(table[index], ages, sexes, strict=True)
    }


def _lies_where_it_says(name: str, relative: Path) -> bool:
    """Whether participant and session of a file's name are those of its folders."""
    named, folders = entities(name), relative.parts[:-2]
    return folders == tuple(f"{key}-{named[key]}" for key in ("sub", "ses") if key in named)


def _judge(dataset: Path, path: Path, *, session_id: str, age_years: float, sex: str) -> Series:
    name = path.name.removesuffix(images.extension(path))
    suffix = name.rpartition("_")[2]
    relative = path.relative_to(dataset.absolute())
    subject = relative.parts[0]
    series = Series(
        source="bids",
        patient_id=f"bids {subject}",
        study_uid=f"{subject}/{session_id}",
        series_uid=relative.as_posix(),
        study_date="",
        paths=(path,),
        contrast=suffix if suffix in CONTRASTS else "other",
        reason="",
        modality="CT" if suffix == "ct" else "MR",
        age_years=age_years,
        sex=sex,
        participant_id=subject,
        session_id=session_id,
        scan_id=name,
    )
    if not _NAME.fullmatch(name) or not _lies_where_it_says(name, relative):
        return replace(series, reason="file name is not a BIDS name of its folder's participant and session")
    if suffix not in CONTRASTS:
        return replace(series, reason=f"{path.name}: suffix is none of {', '.join(CONTRASTS)}")
    if not path.exists():
        return replace(
            series, reason=f"{path.name}: a link to content that is not there; fetch it (datalad get) or remove it"
        )
    try:
        with images.opened(path, whole=False) as opened:
            shape, affine = opened.image.shape, opened.image.affine
    except DataError as error:
        return replace(series, reason=str(error))
    n_volumes = math.prod(shape[3:])
    if len(shape) < 3 or n_volumes > 1:
        return replace(
            series,
            n_volumes=n_volumes,
            reason=f"{path.name}: {' x '.join(map(str, shape))} voxels, not three dimensions",
        )
    spacings_mm = np.linalg.norm(affine[:3, :3], axis=0)
    across = int(spacings_mm.argmax())  # the slices lie along the coarsest axis
    rows, columns = (axis for axis in range(3) if axis != across)
    return replace(
        series,
        plane=PLANES[int(np.abs(affine[:3, across]).argmax())],
        rows=shape[rows],
        columns=shape[columns],
        n_slices=shape[across],
        n_volumes=1,
        in_plane_mm=float(max(spacings_mm[rows], spacings_mm[columns])),
        spacing_mm=float(spacings_mm[across]),
        missing_slices=0,
    )
