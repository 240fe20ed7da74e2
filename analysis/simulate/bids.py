"""Anatomical scans as a BIDS dataset, the alternative to DICOM: what somebody would have made of the export."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pandas as pd

from synthsr import files

from .. import tsv
from .geometry import Stack
from .patients import Patient, Visit
from .protocols import Series, Vendor

#: File suffix by kind of series. BIDS has none for CT, so that validators are told to overlook it.
SUFFIXES = {"MPRAGE": "T1w", "T1w": "T1w", "T1CE": "T1w", "T2w": "T2w", "PDw": "PDw", "FLAIR": "FLAIR", "CT": "ct"}
IGNORE = "*_ct.*\n"


def scan_name(patient: Patient, visit: Visit, kind: str, orientation: str, taken: Iterable[str]) -> str:
    """BIDS name of a scan without extension, the first of its runs that is not ``taken``."""
    stem = f"{patient.participant_id}_{visit.session_id}_acq-{'mprage' if kind == 'MPRAGE' else orientation}"
    stem += "_ce-gadolinium" if kind == "T1CE" else ""
    known = set(taken)
    runs = (f"{stem}_run-{run}_{SUFFIXES[kind]}" for run in range(1, len(known) + 2))
    return next(name for name in runs if name not in known)


def write_scan(folder: Path, name: str, image: npt.NDArray[np.float32], series: Series, vendor: Vendor) -> None:
    """Write an image with its sidecar.

    Parameters
    ----------
    folder
        The session's ``anat`` folder; made.
    name
        File name without extension.
    image
        Magnitudes or Hounsfield units (slices, rows, columns).
    series, vendor
        What was acquired, and on whose scanner.
    """
    folder.mkdir(parents=True, exist_ok=True)
    scale = 1.0 if series.is_x_ray else 2400 / max(float(np.percentile(image, 99.5)), 1e-6)
    write_image(folder / f"{name}.nii.gz", np.rint(image * scale).astype(np.int16), series.stacks[0])
    files.write_json(folder / f"{name}.json", _sidecar(series, vendor))


def write_image(path: Path, image: npt.NDArray[Any], stack: Stack) -> None:
    """Write whole numbers (slices, rows, columns) where their stack lies."""
    made = nib.Nifti1Image(np.ascontiguousarray(image.T), stack.affine_ras())
    made.header.set_xyzt_units("mm", "sec")
    made.set_qform(stack.affine_ras(), code=1)
    made.set_sform(stack.affine_ras(), code=1)
    with files.whole(path) as temporary:
        nib.save(made, temporary)


def _sidecar(series: Series, vendor: Vendor) -> dict[str, Any]:
    """Physics in BIDS's units: seconds, millimetres, degrees."""
    stack, sequence = series.stacks[0], series.sequences[0]
    content: dict[str, Any] = {
        "Modality": "CT" if series.is_x_ray else "MR",
        "Manufacturer": vendor.manufacturer,
        "ManufacturersModelName": "Simulated",
        "InstitutionName": "Virtual clinic",
        "SeriesDescription": vendor.description(
            series.kind, series.orientation, has_gadolinium=sequence.has_gadolinium
        ),
        "SliceThickness": stack.thickness_mm,
        "SpacingBetweenSlices": stack.spacing_mm,
    }
    if series.is_x_ray:
        return content
    content |= {
        "MagneticFieldStrength": 1.5,
        "MRAcquisitionType": "3D" if series.is_volumetric else "2D",
        "RepetitionTime": sequence.repetition_ms / 1000,
        "EchoTime": sequence.echo_ms / 1000,
        "FlipAngle": sequence.flip_deg,
    }
    if sequence.inversion_ms:
        content["InversionTime"] = sequence.inversion_ms / 1000
    if sequence.has_gadolinium:
        content["ContrastBolusIngredient"] = "GADOLINIUM"
    return content


def write_dataset(root: Path, sessions: pd.DataFrame) -> None:
    """Write the head of the dataset: description, participants, and every participant's sessions.

    Parameters
    ----------
    root
        Folder of the dataset.
    sessions
        ``participant_id``, ``session_id``, ``age_years``, ``sex``, ``diagnosis``; a participant's first row is that of
        the first session.
    """
    known = sessions.rename(columns={"age_years": "age"})[["participant_id", "session_id", "age", "sex", "diagnosis"]]
    first = known.drop_duplicates("participant_id").drop(columns="session_id")
    tsv.write(first, root / "participants.tsv")
    files.write_json(
        root / "participants.json",
        {
            "age": {"Description": "Age at the first session", "Units": "year"},
            "sex": {"Description": "Sex", "Levels": {"F": "female", "M": "male"}},
            "diagnosis": {"Description": "Simulated disease"},
        },
    )
    for participant, rows in known.groupby("participant_id", sort=False):
        tsv.write(rows[["session_id", "age"]], root / str(participant) / f"{participant}_sessions.tsv")
    files.write_json(root / "sessions.json", {"age": {"Description": "Age at the session", "Units": "year"}})
    files.write_text(root / ".bidsignore", IGNORE)
    files.write_text(root / "README", "Scans of simulated patients; nobody was scanned. The truth lies beside it.\n")
    files.write_json(
        root / "dataset_description.json",
        {
            "Name": "Virtual clinic",
            "BIDSVersion": "1.10.0",
            "DatasetType": "raw",
            "GeneratedBy": [{"Name": "synthsr-cohort", "Description": "python -m analysis simulate"}],
        },
    )
