"""From the configuration to the clinic's folder, a patient at a time."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import re
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from synthsr import files, labels

from .. import tsv
from . import anatomy as base
from . import deform, dicom, patients, protocols, render
from .clinic import Clinic

#: Raised when the same configuration gives another clinic.
VERSION = 1


def build(
    clinic: Clinic, *, anatomy: Path, out: Path, jobs: int = 1, report: Callable[[str], None] = lambda line: None
) -> None:
    """Make every patient of a clinic that is not there yet, then its tables.

    Parameters
    ----------
    clinic
        The configuration.
    anatomy
        Label map of the base.
    out
        Folder of the clinic.
    jobs
        Processes; the result does not depend on it.
    report
        Called with a line per patient.
    """
    loaded = _load(anatomy, clinic.grid_mm)
    origin = {"version": VERSION, "anatomy": anatomy.name, "anatomy_sha256": files.sha256(anatomy), **asdict(clinic)}
    key = hashlib.sha256(json.dumps({**origin, "anatomy": None}).encode()).hexdigest()
    everyone = patients.draw(clinic, loaded)
    _forget(out, everyone)
    missing = [patient for patient in everyone if not _finished(out, patient, key)]
    if jobs == 1 or len(missing) < 2:
        with _one_thread():
            for patient in missing:
                _make(clinic, anatomy, out, patient, key)
                report(f"{patient.identifier} made")
    else:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(jobs, mp_context=context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            running = {pool.submit(_make, clinic, anatomy, out, patient, key): patient for patient in missing}
            for done in as_completed(running):
                done.result()
                report(f"{running[done].identifier} made")
    records = [json.loads(_record(out, patient).read_text(encoding="utf-8")) for patient in everyone]
    tsv.write(pd.DataFrame([record["patient"] for record in records]), out / "patients.tsv")
    tsv.write(pd.DataFrame([row for record in records for row in record["truth"]]), out / "truth.tsv")
    files.write_json(out / "clinic.json", origin)
    report(f"{out}: {len(everyone)} patients, {len(missing)} of them made now")


@cache
def _load(anatomy: Path, grid_mm: int) -> base.Anatomy:
    return base.load(anatomy, grid_mm=grid_mm)


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _record(out: Path, patient: patients.Patient) -> Path:
    return out / "patients" / f"{patient.identifier}.json"


def _study(out: Path, patient: patients.Patient) -> Path:
    return out / "dicom" / patient.identifier


def _finished(out: Path, patient: patients.Patient, key: str) -> bool:
    """Whether the patient was made from the same things, and all files are there with their sizes."""
    record = _record(out, patient)
    if not record.is_file():
        return False
    content = _content(record)
    return content.get("key") == key and content.get("files") == _sizes(_study(out, patient))


def _forget(out: Path, everyone: list[patients.Patient]) -> None:
    """Remove patients of an earlier, larger clinic: a study without its truth would pass for a patient.

    Only what this module has made: ``out`` may be a folder of somebody else's.
    """
    staying = {_record(out, patient) for patient in everyone}
    for record in sorted(set((out / "patients").glob("SIM*.json")) - staying):
        if re.fullmatch(r"SIM\d{4,}", record.stem) and "key" in _content(record):
            shutil.rmtree(out / "dicom" / record.stem, ignore_errors=True)
            record.unlink()


def _content(record: Path) -> dict[str, Any]:
    """What a record holds; empty if it is none."""
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _sizes(folder: Path) -> dict[str, int]:
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in sorted(folder.rglob("*.dcm"))}


def _make(clinic: Clinic, anatomy: Path, out: Path, patient: patients.Patient, key: str) -> None:
    """Make one patient: studies under a temporary name, renamed when whole, and last the record."""
    head = deformed_head(clinic, _load(anatomy, clinic.grid_mm), patient)
    uids = dicom.uid_maker("synthsr-cohort", key, patient.identifier)
    study, record = _study(out, patient), _record(out, patient)
    record.unlink(missing_ok=True)
    partial = study.with_name(f".part-{patient.identifier}")
    for stale in (partial, study):
        if stale.exists():
            shutil.rmtree(stale)
    rng = patients.stream(clinic.seed, patient.index, patients.SCAN)
    vendor = protocols.VENDORS[int(rng.integers(len(protocols.VENDORS)))]
    series = [protocols.localizer(clinic, head)] if patient.localizer else []
    series += [protocols.scan(clinic, head, *scan, rng) for scan in patient.scans]
    series += [protocols.volumes(clinic, head, patient.volumes)] if patient.volumes else []
    for number, one in enumerate(series, start=1):
        images = acquire(clinic, head, one, patients.stream(clinic.seed, patient.index, patients.SCAN, number))
        folder = partial / f"{number:02d}_{one.kind}"
        dicom.write_series(folder, images, one, patient=patient, vendor=vendor, number=number, uids=uids)
    partial.replace(study)
    described = {
        "patient_id": patient.identifier,
        "study_uid": uids("study"),
        "age_years": round(patient.age_years, 4),
        "sex": patient.sex,
        "icv_prescribed_mm3": round(patient.icv_mm3, 1),
        "manufacturer": vendor.manufacturer,
        "scans": ",".join(f"{contrast}-{orientation}" for contrast, orientation in patient.scans),
        "localizer": int(patient.localizer),
        "four_dimensional": patient.volumes or tsv.MISSING,
    }
    truth = [{"study_uid": uids("study"), **row} for row in true_rows(clinic, head, patient)]
    files.write_json(record, {"key": key, "patient": described, "truth": truth, "files": _sizes(study)})


def deformed_head(clinic: Clinic, anatomy: base.Anatomy, patient: patients.Patient) -> render.Head:
    """Deform the base into a patient and put the head into the scanner."""
    grid = anatomy.grid_mm
    shape = patients.stream(clinic.seed, patient.index, patients.SHAPE)
    variation = deform.random_velocity(
        shape, anatomy.grid_shape, sd=clinic.shape_mm / grid, length=clinic.shape_length_mm / grid
    )
    warp = deform.fit(anatomy.fractions, patient.log_ratio, variation, steps=clinic.fit_steps)
    texture = patients.stream(clinic.seed, patient.index, patients.TEXTURE)
    return render.place(anatomy, warp, patient, texture)


def acquire(
    clinic: Clinic, head: render.Head, series: protocols.Series, rng: np.random.Generator
) -> list[np.ndarray[Any, np.dtype[np.float32]]]:
    """Images of a series: one per stack of a localizer, or one per volume."""
    signal: dict[tuple[int, Any], np.ndarray[Any, np.dtype[np.float32]]] = {}
    images = []
    for index in range(max(len(series.stacks), len(series.sequences))):
        position = index % len(series.stacks)
        stack, sequence = series.stacks[position], series.sequences[index % len(series.sequences)]
        if (position, sequence) not in signal:
            signal[position, sequence] = render.render(head, sequence, stack)
        noise = render.white_matter_signal(sequence) / series.snr
        images.append(render.acquire(signal[position, sequence], stack, rng, noise=noise, bias=clinic.bias))
    return images


def true_rows(clinic: Clinic, head: render.Head, patient: patients.Patient) -> list[dict[str, str | float]]:
    """Measured and prescribed volume per structure and of the intracranial space."""
    measured = render.true_volumes_mm3(head, step_mm=clinic.truth_mm)
    prescribed = np.exp(patient.log_ratio) * head.anatomy.volumes_mm3 * head.scale_cubed
    names = [labels.by_number()[number].name for number in head.anatomy.structures]
    return [
        {"structure": name, "volume_mm3": round(float(true), 2), "prescribed_mm3": round(float(wanted), 2)}
        for name, true, wanted in zip(
            [*names, "ICV"], [*measured, measured.sum()], [*prescribed, patient.icv_mm3], strict=True
        )
    ]
