"""Series as DICOM files, with headers like a scanner's."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset

from .geometry import Stack
from .patients import Patient
from .protocols import Series, Vendor
from .tissues import Sequence

#: Largest pixel value of twelve bits.
WHITE = 4095
_SCANNING = {"spin_echo": "SE", "inversion_recovery": ["SE", "IR"], "gradient_echo": "GR", "echo_planar": "EP"}
#: Makes a UID of the words that say what it is for.
MakeUid = Callable[..., str]


def uid_maker(*entropy: str) -> MakeUid:
    """UIDs that follow from ``entropy`` and the words given, and from nothing else."""

    def make(*words: object) -> str:
        return str(uid.generate_uid(entropy_srcs=[*entropy, *map(str, words)]))

    return make


def write_series(
    folder: Path,
    images: list[npt.NDArray[np.float32]],
    series: Series,
    *,
    patient: Patient,
    vendor: Vendor,
    number: int,
    uids: MakeUid,
) -> None:
    """Write one series, an instance per slice.

    Parameters
    ----------
    folder
        Where the files go; made.
    images
        Magnitudes (slices, rows, columns), one per stack of a localizer or per volume of the sequence.
    series
        What was acquired.
    patient, vendor
        Whom, and whose scanner.
    number
        Series number within the study, from 1.
    uids
        Maker of UIDs.
    """
    folder.mkdir(parents=True)
    scale = 0.6 * WHITE / max(float(np.percentile(np.stack(images), 99.5)), 1e-6)
    instance = 0
    for volume, image in enumerate(images):
        stack = series.stacks[volume % len(series.stacks)]
        sequence = series.sequences[volume % len(series.sequences)]
        pixels = np.clip(np.rint(image * scale), 0, WHITE).astype("<u2")
        for position, plane in enumerate(pixels):
            instance += 1
            dataset = Dataset()
            _study(dataset, patient, vendor, uids)
            _series(dataset, series, sequence, vendor, number, uids)
            _plane(dataset, stack, position, plane)
            dataset.InstanceNumber = instance
            dataset.SOPInstanceUID = uids("instance", number, instance)
            dataset.AcquisitionNumber = 1 if len(series.sequences) == 1 else volume + 1
            time = datetime.datetime.combine(patient.visit, datetime.time(9)) + datetime.timedelta(minutes=6 * number)
            time += datetime.timedelta(milliseconds=sequence.repetition_ms * volume)
            dataset.AcquisitionDate = f"{patient.visit:%Y%m%d}"
            dataset.AcquisitionTime = dataset.ContentTime = f"{time:%H%M%S.%f}"
            if len(series.sequences) > 1:
                dataset.TemporalPositionIdentifier = volume + 1
                dataset.NumberOfTemporalPositions = len(series.sequences)
            _save(dataset, folder / f"{instance:05d}.dcm")


def _study(dataset: Dataset, patient: Patient, vendor: Vendor, uids: MakeUid) -> None:
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.PatientName = f"Simulated^{patient.index:04d}"
    dataset.PatientID = patient.identifier
    dataset.PatientBirthDate = f"{patient.birth:%Y%m%d}"
    dataset.PatientSex = patient.sex
    dataset.PatientAge = f"{int(patient.age_years):03d}Y"
    dataset.PatientPosition = "HFS"
    dataset.StudyInstanceUID = uids("study")
    dataset.StudyID = "1"
    dataset.StudyDate = f"{patient.visit:%Y%m%d}"
    dataset.StudyTime = "090000"
    dataset.AccessionNumber = f"A{patient.index:06d}"
    dataset.StudyDescription = "MRI head (simulated)"
    dataset.ReferringPhysicianName = ""
    dataset.InstitutionName = "Virtual clinic"
    dataset.Manufacturer = vendor.manufacturer
    dataset.ManufacturerModelName = "Simulated"
    dataset.StationName = "SIM1"
    dataset.SoftwareVersions = "synthsr-cohort"
    dataset.MagneticFieldStrength = "1.5"
    dataset.ImagingFrequency = "63.87"
    dataset.ImagedNucleus = "1H"
    dataset.FrameOfReferenceUID = uids("frame")
    dataset.PositionReferenceIndicator = ""


def _series(dataset: Dataset, series: Series, sequence: Sequence, vendor: Vendor, number: int, uids: MakeUid) -> None:
    dataset.SOPClassUID = uid.MRImageStorage
    dataset.Modality = "MR"
    dataset.BodyPartExamined = "HEAD"
    dataset.SeriesInstanceUID = uids("series", number)
    dataset.SeriesNumber = number
    dataset.SeriesDate = dataset.StudyDate
    dataset.SeriesTime = f"09{6 * number:02d}00"
    description = vendor.descriptions[series.kind].format(plane=vendor.planes[series.orientation])
    dataset.SeriesDescription = dataset.ProtocolName = description
    planar = series.kind in ("DWI", "BOLD")
    dataset.ScanningSequence = ["EP", "GR"] if series.kind == "BOLD" else _SCANNING[sequence.kind]
    dataset.SequenceVariant = "SK" if planar or series.kind in ("T2w", "FLAIR") else "SP"
    dataset.ScanOptions = ""
    if series.kind in vendor.sequence_names:
        dataset.SequenceName = vendor.sequence_names[series.kind]
    dataset.MRAcquisitionType = "2D"
    dataset.RepetitionTime = f"{sequence.repetition_ms:g}"
    dataset.EchoTime = f"{sequence.echo_ms:g}"
    if sequence.inversion_ms:
        dataset.InversionTime = f"{sequence.inversion_ms:g}"
    dataset.FlipAngle = f"{sequence.flip_deg:g}"
    dataset.EchoTrainLength = {"T2w": 15, "FLAIR": 21}.get(series.kind, 64 if planar else 1)
    dataset.NumberOfAverages = "1"
    dataset.EchoNumbers = 1
    dataset.InPlanePhaseEncodingDirection = "ROW"
    if series.kind == "DWI":
        dataset.DiffusionBValue = sequence.b_value_s_per_mm2
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "DIFFUSION", "NONE"]
    else:
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND"]


def _plane(dataset: Dataset, stack: Stack, number: int, plane: npt.NDArray[np.uint16]) -> None:
    corner = stack.position_mm(number)
    dataset.ImagePositionPatient = [f"{value:.8g}" for value in corner]
    dataset.ImageOrientationPatient = [_decimal(value) for value in (*stack.row, *stack.column)]
    dataset.SliceLocation = f"{float(corner @ stack.normal):.8g}"
    dataset.SliceThickness = f"{stack.thickness_mm:g}"
    dataset.SpacingBetweenSlices = f"{stack.spacing_mm:g}"
    dataset.PixelSpacing = [f"{stack.pixel_mm:g}"] * 2
    dataset.AcquisitionMatrix = [0, stack.matrix, stack.matrix, 0]
    dataset.Rows, dataset.Columns = plane.shape
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation = 0
    dataset.WindowCenter, dataset.WindowWidth = f"{0.35 * WHITE:.0f}", f"{0.7 * WHITE:.0f}"
    dataset.PixelData = plane.tobytes()


def _decimal(value: float) -> str:
    """A direction cosine in DICOM's sixteen characters."""
    return f"{value:.12f}"


def _save(dataset: Dataset, path: Path) -> None:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    meta.ImplementationVersionName = "SYNTHSR_COHORT"
    dataset.file_meta = meta
    dataset.save_as(path, enforce_file_format=True)
