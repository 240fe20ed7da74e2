"""Speed and memory of the inventory on files of real size.

    python benchmarks/measure_inventory.py --files 100000 --folder DIR [--processes N] [--out inventory.json]

Writes DICOM files of 256 x 256 pixels, 150 kB each (131 kB of pixels and a header of 20 kB with private elements, as
scanners write them) into DIR/patient/study/series folders, if they are not there yet, and takes stock of a tenth of the
patients and then of all, each in a fresh process and into fresh folders, and of all once more. Prints files per second,
processor time and the largest sum of the memory of all processes; the memory must not grow with the number of files.
What has just been written comes from the disk cache as far as the memory reaches.
"""

from __future__ import annotations

import argparse
import io
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

from synthsr import files

SIZE = 256
FLAIR = {"ScanningSequence": ["SE", "IR"], "RepetitionTime": 9000, "EchoTime": 120, "InversionTime": 2500}
#: Name, slices, their distance in mm and sequence of the series of a study: a protocol of a head with a thin T1.
PROTOCOL: tuple[tuple[str, int, float, dict[str, Any]], ...] = (
    ("localizer", 9, 10.0, {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}),
    ("t1_tse_sag", 24, 5.5, {"ScanningSequence": "SE", "RepetitionTime": 500, "EchoTime": 12}),
    ("t2_tse_tra", 28, 5.5, {"ScanningSequence": "SE", "RepetitionTime": 4500, "EchoTime": 100}),
    ("flair_tra", 28, 5.5, FLAIR),
    ("ep2d_diff", 56, 2.5, {"ScanningSequence": "EP", "RepetitionTime": 4000, "EchoTime": 90, "DiffusionBValue": 1e3}),
    ("t1_mprage", 160, 1.0, {"ScanningSequence": "GR", "RepetitionTime": 2300, "EchoTime": 3, "InversionTime": 900}),
)
#: What stands in a series' header for a slice's end of UID, z position and number.
OWN = (b".888", b"+9999.999", b"9999")
FILES_PER_PATIENT = sum(n_slices for _, n_slices, _, _ in PROTOCOL)


def write_files(folder: Path, n_files: int) -> int:
    """Write whole patients until there are so many files; how many there are."""
    pixels = np.random.default_rng(0).integers(0, 4096, (SIZE, SIZE), dtype=np.uint16).tobytes()
    n_patients = -(-n_files // FILES_PER_PATIENT)
    for patient in range(n_patients):
        target = folder / f"{patient % 10}" / f"PAT{patient:06d}"
        if (target / "done").exists():
            continue
        study_uid = f"1.2.826.0.1.{patient + 1}"
        for number, (description, n_slices, spacing_mm, tags) in enumerate(PROTOCOL, start=1):
            series = target / f"study_{patient:06d}" / f"{number:03d}_{description}"
            series.mkdir(parents=True, exist_ok=True)
            content = io.BytesIO()
            dcmwrite(content, _header(patient, study_uid, number, description, tags, pixels), enforce_file_format=True)
            header = content.getvalue().removesuffix(pixels)
            for index in range(n_slices):
                path = series / f"IM-{number:04d}-{index + 1:04d}.dcm"
                path.write_bytes(_of_slice(header, index, index * spacing_mm - 60) + pixels)
        (target / "done").touch()
    return n_patients * FILES_PER_PATIENT


def _of_slice(header: bytes, index: int, place_mm: float) -> bytes:
    """Put a slice's own values, of the same lengths, in place of :data:`OWN`: writing each by pydicom takes minutes."""
    for placeholder, value in zip(OWN, (f".{index + 100}", f"{place_mm:+09.3f}", f"{index + 1:04d}"), strict=True):
        header = header.replace(placeholder, value.encode("ascii"))
    return header


def _header(
    patient: int, study_uid: str, number: int, description: str, tags: dict[str, Any], pixels: bytes
) -> Dataset:
    uid, place, instance = (placeholder.decode("ascii") for placeholder in OWN)
    image = Dataset()
    image.PixelData = pixels
    image.file_meta = FileMetaDataset()
    image.file_meta.MediaStorageSOPClassUID = MRImageStorage
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.SOPClassUID, image.Modality, image.Manufacturer = MRImageStorage, "MR", "SIEMENS"
    image.ImageType, image.MRAcquisitionType = ["ORIGINAL", "PRIMARY", "M", "ND"], "2D"
    image.PatientID, image.PatientName, image.PatientSex = f"PAT{patient:06d}", f"Test^{patient:06d}", "F"
    image.PatientBirthDate, image.StudyDate, image.StudyTime = "19500102", "20200304", "101112"
    image.StudyInstanceUID, image.SeriesInstanceUID = study_uid, f"{study_uid}.{number}"
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = f"{image.SeriesInstanceUID}{uid}"
    image.ImagePositionPatient, image.InstanceNumber = ["-110", "-110", place], instance
    image.StudyID, image.SeriesNumber, image.AcquisitionNumber = "1", number, 1
    image.SeriesDescription = image.ProtocolName = description
    image.BodyPartExamined, image.SliceThickness, image.FlipAngle, image.MagneticFieldStrength = "HEAD", 5, 90, 1.5
    image.ImageOrientationPatient, image.PixelSpacing = [1, 0, 0, 0, 1, 0], [0.86, 0.86]
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.Rows = image.Columns = SIZE
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 12, 11, 0
    for keyword, value in tags.items():
        setattr(image, keyword, value)
    step = Dataset()
    step.ScheduledProcedureStepDescription = "head"
    image.RequestAttributesSequence = [step]
    image.ReferencedImageSequence = [Dataset() for _ in range(3)]
    image["ReferencedImageSequence"].is_undefined_length = True
    for group in (0x0019, 0x0029, 0x0051):
        block = image.private_block(group, "SIEMENS TEST", create=True)
        for element in range(0x10, 0x50):
            block.add_new(element, "LO", f"value {element}")
    image.private_block(0x0029, "SIEMENS TEST").add_new(0x60, "OB", bytes(10_000))
    image.private_block(0x0029, "SIEMENS TEST").add_new(0x61, "OB", bytes(8_000))
    return image


def measure(source: Path, study: Path, processes: int) -> dict[str, float]:
    """Take stock of a source in a fresh process; seconds, processor seconds and MB."""
    command = [sys.executable, "-m", "analysis", "inventory", str(source), "--out", str(study / "results")]
    begin, before = time.perf_counter(), os.times()
    process = subprocess.Popen([*command, "--processes", str(processes)], stdout=subprocess.DEVNULL)
    peak_mb = 0.0
    while process.poll() is None:
        peak_mb = max(peak_mb, sum(map(_memory_mb, _family(process.pid))))
        time.sleep(0.5)
    if process.returncode:
        raise SystemExit(f"the inventory ended with code {process.returncode}")
    after = os.times()
    cpu_s = after.children_user + after.children_system - before.children_user - before.children_system
    return {"seconds": time.perf_counter() - begin, "cpu_seconds": cpu_s, "peak_mb": peak_mb}


def _family(process: int) -> list[int]:
    try:
        children = Path(f"/proc/{process}/task/{process}/children").read_text(encoding="ascii").split()
    except OSError:
        return []
    return [process, *(member for child in children for member in _family(int(child)))]


def _memory_mb(process: int) -> float:
    """Memory of a process, what it shares with others divided among them."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1e3 for line in lines if line.startswith("Pss:")), 0.0)


def main() -> None:
    """Write the files and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=100_000, metavar="N", help="how many files (%(default)s)")
    parser.add_argument(
        "--folder", type=Path, required=True, metavar="DIR", help="where they are written (150 kB each)"
    )
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)), metavar="N")
    parser.add_argument("--out", type=Path, default=Path("inventory.json"), metavar="JSON")
    arguments = parser.parse_args()
    n_files = write_files(arguments.folder, arguments.files)
    n_tenth = sum(1 for _ in (arguments.folder / "0").rglob("*.dcm"))
    rows = []
    with tempfile.TemporaryDirectory() as name:
        runs = (("a tenth", arguments.folder / "0", "tenth", n_tenth), ("all", arguments.folder, "all", n_files))
        for what, source, study, count in (*runs, ("all again", arguments.folder, "all", n_files)):
            row = {"what": what, "files": count, **measure(source, Path(name, study), arguments.processes)}
            row["files_per_second"] = count / row["seconds"]
            row["files_per_cpu_second"] = count / row["cpu_seconds"]
            rows.append(row)
            texts = (f"{value:.1f}" if isinstance(value, float) else str(value) for value in row.values())
            print("  ".join(f"{key} {text}" for key, text in zip(row, texts, strict=True)), flush=True)
    machine = {"machine": platform.machine(), "processors": os.cpu_count(), "processes": arguments.processes}
    files.write_json(arguments.out, {**machine, "runs": rows})


if __name__ == "__main__":
    main()
