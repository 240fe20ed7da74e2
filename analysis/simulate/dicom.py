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
from .patients import Patient, Visit
from .protocols import Series, Vendor
from .render import PHASE_RESOLUTION
from .tissues import Sequence

#: Largest pixel value of twelve bits.
WHITE = 4095
#: What is added to Hounsfield units so that pixels are not negative.
CT_OFFSET = 1024
_SCANNING = {
    "spin_echo": "SE",
    "inversion_recovery": ["SE", "IR"],
    "gradient_echo": "GR",
    "prepared_gradient_echo": ["GR", "IR"],
    "echo_planar": "EP",
}
_ECHO_TRAINS = {"T1w-TSE": 3, "T2w": 15, "PDw": 5, "FLAIR": 21, "DWI": 64, "BOLD": 64}
_IMAGE_TYPES = {
    "DWI": ["ORIGINAL", "PRIMARY", "DIFFUSION", "NONE"],
    "CT": ["ORIGINAL", "PRIMARY", "AXIAL"],
    "MIP": ["DERIVED", "PRIMARY", "PROJECTION IMAGE", "MIP"],
    "capture": ["DERIVED", "SECONDARY", "SCREEN SAVE"],
}
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
    visit: Visit,
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
        Magnitudes or Hounsfield units (slices, rows, columns), one per stack of a localizer or per volume of the
        sequence.
    series
        What was acquired.
    patient, visit, vendor
        Whom, when, and whose scanner.
    number
        Series number within the study, from 1.
    uids
        Maker of UIDs.
    """
    folder.mkdir(parents=True)
    instance = 0
    for volume, pixels in enumerate(to_pixels(images, series)):
        stack = series.stacks[volume % len(series.stacks)]
        sequence = series.sequences[volume % len(series.sequences)]
        for position, plane in enumerate(pixels):
            instance += 1
            dataset = Dataset()
            _study(dataset, patient, visit, vendor, uids)
            _series(dataset, series, vendor, visit, number, uids)
            _pixels(dataset, plane)
            if series.kind == "capture":
                _colours(dataset, plane)
            else:
                _place(dataset, stack, position)
                if series.is_x_ray:
                    _x_rays(dataset)
                else:
                    _magnetic(dataset, series, sequence, vendor)
                    # Rows and columns of frequencies, then of phases.
                    dataset.AcquisitionMatrix = [stack.matrix, 0, 0, round(PHASE_RESOLUTION * stack.matrix)]
            dataset.InstanceNumber = instance
            dataset.SOPInstanceUID = uids("instance", visit.number, number, instance)
            dataset.AcquisitionNumber = 1 if len(series.sequences) == 1 else volume + 1
            time = _start(visit, number) + datetime.timedelta(milliseconds=sequence.repetition_ms * volume)
            dataset.AcquisitionDate = f"{visit.date:%Y%m%d}"
            dataset.AcquisitionTime = dataset.ContentTime = f"{time:%H%M%S.%f}"
            if len(series.sequences) > 1:
                dataset.TemporalPositionIdentifier = volume + 1
                dataset.NumberOfTemporalPositions = len(series.sequences)
            _save(dataset, folder / f"{instance:05d}.dcm")


def to_pixels(images: list[npt.NDArray[np.float32]], series: Series) -> list[npt.NDArray[np.uint16]]:
    """Whole numbers of twelve bits: magnitudes scaled so that nearly all fit, Hounsfield units with an offset."""
    if series.is_x_ray:
        scale, offset = 1.0, CT_OFFSET
    else:
        scale, offset = 0.6 * WHITE / max(float(np.percentile(np.stack(images), 99.5)), 1e-6), 0
    return [np.clip(np.rint(image * scale) + offset, 0, WHITE).astype("<u2") for image in images]


def _start(visit: Visit, number: int) -> datetime.datetime:
    """When a series begins: every six minutes from nine o'clock."""
    return datetime.datetime.combine(visit.date, datetime.time(9)) + datetime.timedelta(minutes=6 * number)


def _study(dataset: Dataset, patient: Patient, visit: Visit, vendor: Vendor, uids: MakeUid) -> None:
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.PatientName = f"Simulated^{patient.index:04d}"
    dataset.PatientID = patient.identifier
    dataset.PatientBirthDate = f"{patient.birth:%Y%m%d}"
    dataset.PatientSex = patient.sex
    dataset.PatientAge = f"{int(patient.age_years(visit)):03d}Y"
    dataset.PatientPosition = "HFS"
    dataset.StudyInstanceUID = uids("study", visit.number)
    dataset.StudyID = str(visit.number)
    dataset.StudyDate = f"{visit.date:%Y%m%d}"
    dataset.StudyTime = "090000"
    dataset.AccessionNumber = f"A{patient.index:06d}{visit.number:02d}"
    dataset.StudyDescription = "Head (simulated)"
    dataset.ReferringPhysicianName = ""
    dataset.InstitutionName = "Virtual clinic"
    dataset.Manufacturer = vendor.manufacturer
    dataset.ManufacturerModelName = "Simulated"
    dataset.StationName = "SIM1"
    dataset.SoftwareVersions = "synthsr-cohort"
    dataset.FrameOfReferenceUID = uids("frame", visit.number)
    dataset.PositionReferenceIndicator = ""


def _series(dataset: Dataset, series: Series, vendor: Vendor, visit: Visit, number: int, uids: MakeUid) -> None:
    dataset.BodyPartExamined = "HEAD"
    dataset.SeriesInstanceUID = uids("series", visit.number, number)
    dataset.SeriesNumber = number
    dataset.SeriesDate = dataset.StudyDate
    dataset.SeriesTime = f"{_start(visit, number):%H%M%S}"
    dataset.ImageType = _IMAGE_TYPES.get(series.kind, ["ORIGINAL", "PRIMARY", "M", "ND"])
    has_gadolinium = series.sequences[0].has_gadolinium
    text = vendor.description(series.kind, series.orientation, has_gadolinium=has_gadolinium)
    dataset.SeriesDescription = dataset.ProtocolName = text
    if has_gadolinium:
        dataset.ContrastBolusAgent = "Gadolinium chelate"
    dataset.Modality = "CT" if series.is_x_ray else "MR"
    dataset.SOPClassUID = uid.CTImageStorage if series.is_x_ray else uid.MRImageStorage
    if series.kind == "capture":
        dataset.SOPClassUID = uid.SecondaryCaptureImageStorage


def _x_rays(dataset: Dataset) -> None:
    dataset.KVP = "120"
    dataset.XRayTubeCurrent = "250"
    dataset.ExposureTime = "1000"
    dataset.ConvolutionKernel = "H31s"
    dataset.RescaleIntercept = f"{-CT_OFFSET}"
    dataset.RescaleSlope = "1"
    dataset.RescaleType = "HU"


def _magnetic(dataset: Dataset, series: Series, sequence: Sequence, vendor: Vendor) -> None:
    dataset.MagneticFieldStrength = "1.5"
    dataset.ImagingFrequency = "63.87"
    dataset.ImagedNucleus = "1H"
    dataset.ScanningSequence = ["EP", "GR"] if series.kind == "BOLD" else _SCANNING[sequence.kind]
    turbo = series.kind in _ECHO_TRAINS
    dataset.SequenceVariant = ["SK", "SP", "MP"] if series.is_volumetric else "SK" if turbo else "SP"
    dataset.ScanOptions = ""
    if series.kind in vendor.sequence_names:
        dataset.SequenceName = vendor.sequence_names[series.kind]
    dataset.MRAcquisitionType = "3D" if series.is_volumetric else "2D"
    dataset.RepetitionTime = f"{sequence.repetition_ms:g}"
    dataset.EchoTime = f"{sequence.echo_ms:g}"
    if sequence.inversion_ms:
        dataset.InversionTime = f"{sequence.inversion_ms:g}"
    dataset.FlipAngle = f"{sequence.flip_deg:g}"
    dataset.EchoTrainLength = _ECHO_TRAINS.get(series.kind, 1)
    dataset.NumberOfAverages = "1"
    dataset.EchoNumbers = 1
    dataset.InPlanePhaseEncodingDirection = "ROW"
    if series.kind == "DWI":
        dataset.DiffusionBValue = sequence.b_value_s_per_mm2


def _place(dataset: Dataset, stack: Stack, number: int) -> None:
    corner = stack.position_mm(number)
    dataset.ImagePositionPatient = [f"{value:.8g}" for value in corner]
    dataset.ImageOrientationPatient = [_decimal(value) for value in (*stack.row, *stack.column)]
    dataset.SliceLocation = f"{float(corner @ stack.normal):.8g}"
    dataset.SliceThickness = f"{stack.thickness_mm:g}"
    dataset.SpacingBetweenSlices = f"{stack.spacing_mm:g}"
    dataset.PixelSpacing = [f"{stack.pixel_mm:g}"] * 2


def _pixels(dataset: Dataset, plane: npt.NDArray[np.uint16]) -> None:
    dataset.Rows, dataset.Columns = plane.shape
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation = 0
    centre, width = (40, 80) if dataset.Modality == "CT" else (0.35 * WHITE, 0.7 * WHITE)
    dataset.WindowCenter, dataset.WindowWidth = f"{centre:.0f}", f"{width:.0f}"
    dataset.PixelData = plane.tobytes()


def _colours(dataset: Dataset, plane: npt.NDArray[np.uint16]) -> None:
    """Make it a picture of a screen: eight bits, three colours, and no place in the patient."""
    dataset.ConversionType = "WSD"
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 3, "RGB"
    dataset.PlanarConfiguration = 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
    screen = np.clip(plane.astype(float) / (0.7 * WHITE) * 255, 0, 255).astype(np.uint8)
    dataset.PixelData = np.repeat(screen[..., None], 3, axis=2).tobytes()


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
