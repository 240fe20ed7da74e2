"""Tiny DICOM studies for tests: a few dozen files of 32 x 32 pixels that look like a scanner's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, EnhancedMRImageStorage, ExplicitVRLittleEndian, MRImageStorage

SIZE = 32
#: Row and column direction by plane; the normal is their cross product.
ORIENTATIONS: dict[str, tuple[float, ...]] = {
    "ax": (1, 0, 0, 0, 1, 0),
    "cor": (1, 0, 0, 0, 0, -1),
    "sag": (0, 1, 0, 0, 0, -1),
}
T1 = {"ScanningSequence": "SE", "RepetitionTime": "500", "EchoTime": "12"}
T2 = {"ScanningSequence": "SE", "RepetitionTime": "5000", "EchoTime": "100"}
PD = {"ScanningSequence": "SE", "RepetitionTime": "3000", "EchoTime": "20"}
FLAIR = {"ScanningSequence": ["SE", "IR"], "RepetitionTime": "9000", "EchoTime": "120", "InversionTime": "2500"}
MPRAGE = {"ScanningSequence": ["GR", "IR"], "RepetitionTime": "2300", "EchoTime": "3", "InversionTime": "900"}


def positions(n_slices: int, spacing_mm: float, plane: str = "ax") -> list[np.ndarray]:
    """First voxels of a stack along the plane's normal."""
    orientation = np.array(ORIENTATIONS[plane])
    normal = np.cross(orientation[:3], orientation[3:])
    return [-100 * (orientation[:3] + orientation[3:]) + index * spacing_mm * normal for index in range(n_slices)]


def write_series(
    folder: Path,
    tags: Mapping[str, Any] = T1,
    *,
    patient: str = "MRN-4711",
    study: str = "1.2.3.4",
    series: str = "1",
    plane: str = "ax",
    places: Sequence[np.ndarray] | None = None,
    planes: Sequence[str] | None = None,
    pixel_mm: float = 7.0,
) -> list[Path]:
    """Write a series, one file per place (20 slices 6 mm apart unless given), and return its files.

    ``tags`` are set on every image; a list of mappings as the value of ``"each"`` sets others per image.
    """
    folder.mkdir(parents=True, exist_ok=True)
    places = positions(20, 6.0, plane) if places is None else places
    series_uid = f"{study}.{series}"
    each = tags.get("each", [{}] * len(places))
    paths = []
    for index, place in enumerate(places):
        image = _image(tags.get("Modality", "MR"), f"{series_uid}.{index + 1}")
        image.PatientID = patient
        image.PatientName = f"Muster^{patient}"
        image.PatientBirthDate = "19500102"
        image.PatientSex = "F"
        image.StudyDate = image.SeriesDate = image.AcquisitionDate = "20210304"
        image.StudyTime = image.SeriesTime = image.AcquisitionTime = "101112"
        image.InstitutionName = "Hospital of Nowhere"
        image.StudyInstanceUID, image.SeriesInstanceUID = study, series_uid
        image.SeriesNumber, image.InstanceNumber = int(series), index + 1
        image.SeriesDescription = "brain"
        image.ImageOrientationPatient = list(ORIENTATIONS[planes[index] if planes else plane])
        image.ImagePositionPatient = [round(float(value), 4) for value in place]
        image.PixelSpacing = [pixel_mm, pixel_mm]
        image.SliceThickness = "5"
        image.SpacingBetweenSlices = "2"  # a trap: some scanners write the gap
        for keyword, value in {**tags, **each[index]}.items():
            if keyword != "each":
                setattr(image, keyword, value)
        path = folder / f"{series_uid}.{index + 1}.dcm"
        image.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def as_multi_frame(paths: Sequence[Path]) -> Path:
    """Replace the files of a series by one enhanced MR file with a frame each."""
    frames = [dcmread(path) for path in paths]
    image = frames[0]
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID = EnhancedMRImageStorage
    image.NumberOfFrames = len(frames)
    image.PixelData = b"".join(frame.PixelData for frame in frames)
    image.EchoPulseSequence = "SPIN"
    timing = _group(RepetitionTime=float(image.RepetitionTime), FlipAngle=90.0)
    image.SharedFunctionalGroupsSequence = [
        _group(
            PlaneOrientationSequence=[_group(ImageOrientationPatient=image.ImageOrientationPatient)],
            PixelMeasuresSequence=[_group(PixelSpacing=image.PixelSpacing, SliceThickness=image.SliceThickness)],
            MRTimingAndRelatedParametersSequence=[timing],
            MREchoSequence=[_group(EffectiveEchoTime=float(image.EchoTime))],
        )
    ]
    image.PerFrameFunctionalGroupsSequence = [
        _group(
            FrameContentSequence=[_group(StackID="1", InStackPositionNumber=index, DimensionIndexValues=[1, index])],
            PlanePositionSequence=[_group(ImagePositionPatient=frame.ImagePositionPatient)],
        )
        for index, frame in enumerate(frames, start=1)
    ]
    for keyword in ("ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing", "SliceThickness"):
        delattr(image, keyword)
    for keyword in ("RepetitionTime", "EchoTime", "SpacingBetweenSlices", "ScanningSequence"):
        delattr(image, keyword)
    for path in paths:
        path.unlink()
    image.save_as(paths[0])
    return paths[0]


def _group(**elements: Any) -> Dataset:
    dataset = Dataset()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


def _image(modality: str, uid: str) -> Dataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage if modality == "CT" else MRImageStorage
    meta.MediaStorageSOPInstanceUID = uid
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    image.SOPClassUID, image.SOPInstanceUID = meta.MediaStorageSOPClassUID, uid
    image.Modality, image.Manufacturer, image.MagneticFieldStrength = modality, "SIEMENS", "1.5"
    image.ImageType = ["ORIGINAL", "PRIMARY", "M"]
    image.MRAcquisitionType = "2D"
    image.Rows = image.Columns = SIZE
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 12, 11, 0
    rng = np.random.default_rng(int(uid.rpartition(".")[2]))
    image.PixelData = rng.integers(0, 1000, (SIZE, SIZE), dtype=np.uint16).tobytes()
    return image
