"""From the configuration to the clinic's folder, a patient at a time."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from synthsr import files
from synthsr.progress import tracked

from .. import tsv
from ..errors import DataError, ToolError
from . import anatomy as base
from . import bids, dicom, heads, landmarks, lesions, patients, protocols, render, vessels
from .clinic import Clinic
from .patients import Patient
from .series import Format, Writer

#: Raised when the same configuration gives another clinic.
VERSION = 3
#: What the planted truth and the looks of tissues stand in.
ASSUMED = ("effects.tsv", "tissues.tsv", "trajectories.tsv")
#: Tables of the clinic.
TABLES = ("sessions", "scans", "truth", "lesions", "landmarks")


def find_anatomies(path: Path) -> list[Path]:
    """The label maps that a path names: a file, or the images in a folder.

    Raises
    ------
    DataError
        If there is none.
    """
    if path.is_dir():
        found = sorted(p for p in path.iterdir() if p.name.endswith((".nii", ".nii.gz", ".mgz")))
        if not found:
            raise DataError(
                f"{path}: holds no label map (.nii.gz, .nii, .mgz); give one, or a folder of them, by --anatomy"
            )
        return found
    if not path.is_file():
        raise DataError(f"{path}: no such label map; give one, or a folder of them, by --anatomy")
    return [path]


@dataclass(frozen=True)
class Job:
    """What every patient is made from.

    Attributes
    ----------
    clinic
        The configuration.
    anatomies
        Label maps of the bases, which take turns, with their SHA-256.
    out
        Folder of the clinic.
    scans_as
        How scans are written.
    """

    clinic: Clinic
    anatomies: tuple[tuple[Path, str], ...]
    out: Path
    scans_as: Format

    def anatomy_of(self, patient: Patient) -> tuple[Path, str]:
        """A patient's base."""
        return self.anatomies[(patient.index - 1) % len(self.anatomies)]

    def key(self, patient: Patient) -> str:
        """Hash of everything that a patient's files follow from: not of how many patients there are."""
        settings = {k: v for k, v in asdict(self.clinic).items() if k not in ("patients", "anatomy")}
        content = {
            "version": VERSION,
            "assumed": [files.sha256(Path(__file__).with_name(name)) for name in ASSUMED],
            "anatomy": self.anatomy_of(patient)[1],
            "format": self.scans_as,
            **settings,
        }
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def record(self, patient: Patient) -> Path:
        """What was made of a patient."""
        return self.out / "patients" / f"{patient.identifier}.json"

    def scans(self, patient: Patient, scans_as: Format) -> Path:
        """Folder of a patient's scans."""
        return self.out / scans_as / (patient.identifier if scans_as == "dicom" else patient.participant_id)

    def masks(self, patient: Patient) -> Path:
        """Folder of a patient's lesion masks."""
        return self.out / "lesions" / patient.participant_id

    def sizes(self, patient: Patient) -> dict[str, int]:
        """A patient's files and their sizes."""
        folders = (self.scans(patient, self.scans_as), self.masks(patient))
        paths = [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]
        # The table of sessions belongs to the head of the BIDS dataset, which is made anew every time.
        return {p.relative_to(self.out).as_posix(): p.stat().st_size for p in paths if p.suffix != ".tsv"}

    def is_finished(self, patient: Patient) -> bool:
        """Whether the patient was made from the same things, and all files are there with their sizes."""
        record = self.record(patient)
        content = _content(record) if record.is_file() else {}
        return content.get("key") == self.key(patient) and content.get("files") == self.sizes(patient)


def build(
    clinic: Clinic,
    *,
    anatomies: Sequence[Path],
    out: Path,
    scans_as: Format = "dicom",
    jobs: int = 1,
    report: Callable[[str], None] = lambda line: None,
) -> None:
    """Make every patient of a clinic that is not there yet, then its tables.

    Parameters
    ----------
    clinic
        The configuration.
    anatomies
        Label maps of the bases.
    out
        Folder of the clinic; :mod:`.clinic` says what lies where.
    scans_as
        ``dicom`` or ``bids``.
    jobs
        Processes; the result does not depend on it.
    report
        Called with a line per patient.

    Raises
    ------
    DataError
        If a base anatomy is none, or not fit for a group's lesions.
    ToolError
        If one of the processes is ended from outside.
    """
    job = Job(clinic, tuple((path, files.sha256(path)) for path in anatomies), out, scans_as)
    for path in anatomies[:4]:
        _load(path, clinic.grid_mm)
    everyone = patients.draw(clinic)
    _forget(job, everyone)
    missing = [patient for patient in everyone if not job.is_finished(patient)]
    if jobs == 1 or len(missing) < 2:
        with _one_thread():
            for patient in tracked(missing, what="patients", total=len(missing)):
                _make(job, patient)
                report(f"{patient.identifier} made")
    else:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(jobs, mp_context=context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            running = {pool.submit(_make, job, patient): patient for patient in missing}
            try:
                for done in tracked(as_completed(running), what="patients", total=len(running)):
                    done.result()
                    report(f"{running[done].identifier} made")
            except BrokenProcessPool as error:
                raise ToolError(
                    "a process was ended from outside while it made a patient, most likely for want of memory; call "
                    "again with fewer --jobs, of which each takes about 1 GB: what is finished stays"
                ) from error
            except BaseException:
                # Otherwise everybody else would be made before the error is told.
                pool.shutdown(cancel_futures=True)
                raise
    records = [json.loads(job.record(patient).read_text(encoding="utf-8")) for patient in everyone]
    tables = {name: pd.DataFrame([row for record in records for row in record[name]]) for name in TABLES}
    for name, table in tables.items():
        path = out / f"{name}.tsv"
        if len(table):
            tsv.write(table, path)
        else:
            path.unlink(missing_ok=True)
    if scans_as == "bids":
        bids.write_dataset(out / "bids", tables["sessions"])
    bases = [{"file": path.name, "sha256": digest} for path, digest in job.anatomies]
    files.write_json(
        out / "clinic.json", {"version": VERSION, "format": scans_as, "anatomies": bases, **asdict(clinic)}
    )
    report(f"{out}: {len(everyone)} patients, {len(missing)} of them made now")


@lru_cache(maxsize=4)
def _load(path: Path, grid_mm: int) -> tuple[base.Anatomy, npt.NDArray[np.bool_] | None]:
    """A base anatomy, and its sinus."""
    anatomy = base.load(path, grid_mm=grid_mm)
    return anatomy, vessels.superior_sinus(anatomy)


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _forget(job: Job, everyone: list[Patient]) -> None:
    """Remove patients of an earlier, larger clinic: a study without its truth would pass for a patient.

    Only what this module has made: the folder may be somebody else's.
    """
    staying = {job.record(patient) for patient in everyone}
    for record in sorted(set((job.out / "patients").glob("SIM*.json")) - staying):
        if re.fullmatch(r"SIM\d{4,}", record.stem) and "key" in _content(record):
            for folder in ("dicom", "bids/sub-", "lesions/sub-"):
                name = f"{folder}{record.stem}" if folder.endswith("-") else f"{folder}/{record.stem}"
                shutil.rmtree(job.out / name, ignore_errors=True)
            record.unlink()


def _content(record: Path) -> dict[str, Any]:
    """What a record holds; empty if it is none."""
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _make(job: Job, patient: Patient) -> None:
    """Make one patient: scans under a temporary name, renamed when whole, and last the record."""
    clinic = job.clinic
    path, _ = job.anatomy_of(patient)
    anatomy, sinus = _load(path, clinic.grid_mm)
    record, scans, masks = job.record(patient), job.scans(patient, job.scans_as), job.masks(patient)
    record.unlink(missing_ok=True)
    partial = scans.with_name(f".part-{scans.name}")
    for stale in (partial, masks, job.scans(patient, "dicom"), job.scans(patient, "bids")):
        if stale.exists():
            shutil.rmtree(stale)
    vendors = patients.stream(clinic.seed, patient.index, patients.SCAN)
    vendor = protocols.VENDORS[int(vendors.integers(len(protocols.VENDORS)))]
    lesion = lesions.draw(clinic, anatomy, patient)
    points = landmarks.choose(clinic, anatomy, patient, lesion) if len(patient.visits) > 1 else None
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in TABLES}
    uids = dicom.uid_maker("synthsr-cohort", job.key(patient), patient.identifier)
    writer = Writer(clinic, patient, vendor, job.scans_as, uids, partial, masks)
    for visit in patient.visits:
        log_ratio = heads.prescribed(clinic, anatomy, patient, visit, lesion)
        head = heads.deformed(clinic, anatomy, patient, visit, log_ratio=log_ratio, lesion=lesion, sinus=sinus)
        key = writer.key(visit)
        session = {
            "age_years": round(patient.age_years(visit), 4),
            "sex": patient.sex,
            "diagnosis": patient.group.diagnosis,
            "severity": round(patient.severity, 4) if patient.group.diagnosis == "AD" else tsv.MISSING,
            "icv_prescribed_mm3": round(patient.icv_mm3, 1),
            "anatomy": path.name,
            "manufacturer": vendor.manufacturer,
        }
        rows["sessions"].append(key | session)
        measured = render.true_volumes_mm3(head, step_mm=clinic.truth_mm)
        rows["truth"] += [key | row for row in heads.true_rows(head, patient, measured, log_ratio, lesion)]
        if lesion is not None:
            rows["lesions"].append(key | lesions.describe(lesion, visit, measured, anatomy))
        if points is not None:
            rows["landmarks"] += [key | row for row in landmarks.rows(head, points)]
        for row in writer.write(visit, head):
            row["path"] = f"{scans.relative_to(job.out).as_posix()}/{row['path']}"
            if row["lesion_mask"] != tsv.MISSING:
                row["lesion_mask"] = f"{masks.relative_to(job.out).as_posix()}/{row['lesion_mask']}"
            rows["scans"].append(key | row)
    partial.mkdir(parents=True, exist_ok=True)
    partial.replace(scans)
    files.write_json(record, {"key": job.key(patient), **rows, "files": job.sizes(patient)})
