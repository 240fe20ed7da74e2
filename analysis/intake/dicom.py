"""Reads the headers of a folder of DICOM files, whatever its nesting, and groups them into series.

No pixel is decoded: a truncated file shows in the length of its pixel data.
"""

from __future__ import annotations

import logging
import math
import os
import re
import stat
import struct
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any, BinaryIO

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    MediaStorageDirectoryStorage,
    MRImageStorage,
)

from analysis import tsv
from analysis.errors import DataError

from . import classify, folders, geometry
from .series import OLDEST_YEARS, Series, to_text

#: File name endings that promise a DICOM file; a file with one of them that is none is reported.
SUFFIXES = {".dcm", ".dicom", ".ima"}
#: Echo times that differ by less are the same echo.
SAME_ECHO_MS = 0.5

#: A file of these classes without an image is cut off.
IMAGE_CLASSES = (MRImageStorage, EnhancedMRImageStorage, CTImageStorage, EnhancedCTImageStorage)

UNREADABLE = "not a readable DICOM file"
TRUNCATED = "a file is truncated"
#: What to do about a bad file or folder. Its name may identify: it is in the private table only.
_NAMED = "(faulty_path in the private table of series names it)"
ADVICE = f"export it again or remove it {_NAMED}"
CLOSED = f"a folder that cannot be read; give the right to read it {_NAMED}"
_PIXEL_DATA = 0x7FE00010
_ITEM, _SEQUENCE_END, _UNDEFINED = 0xFFFEE000, 0xFFFEE0DD, 0xFFFFFFFF
_YEARS = {"Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}

#: The only elements read, apart from the functional groups of multi-frame files.
TAGS = (
    *("SpecificCharacterSet", "ImageType", "SOPClassUID", "SOPInstanceUID", "StudyDate", "Modality"),
    *("SeriesDescription", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex", "PatientAge"),
    *("BodyPartExamined", "ScanningSequence", "SequenceVariant", "SequenceName", "AngioFlag", "SliceThickness"),
    *("RepetitionTime", "EchoTime", "InversionTime", "ProtocolName", "FlipAngle", "DiffusionBValue"),
    *("StudyInstanceUID", "SeriesInstanceUID", "ImagePositionPatient", "ImageOrientationPatient"),
    *("SamplesPerPixel", "NumberOfFrames", "Rows", "Columns", "PixelSpacing", "BitsAllocated"),
    *("EchoPulseSequence", "InversionRecovery", "EchoPlanarPulseSequence"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
)

# Both would print values of headers, names among them.
logging.getLogger("pydicom").setLevel(logging.CRITICAL)
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE


@dataclass(frozen=True)
class Image:
    """One file's header.

    Attributes
    ----------
    path
        The file.
    instance_uid, series_uid, study_uid, patient_id, study_date
        Identity.
    protocol
        What decides the contrast.
    age_years, sex
        Of the patient.
    rows, columns, in_plane_mm, thickness_mm
        Of a slice; ``in_plane_mm`` is row and column spacing.
    orientations, positions
        One per frame: ``ImageOrientationPatient`` and ``ImagePositionPatient``; empty where not given.
    fault
        What is wrong with the file, or empty.
    """

    path: Path
    instance_uid: str
    series_uid: str
    study_uid: str
    patient_id: str
    study_date: str
    protocol: classify.Protocol
    age_years: float
    sex: str
    rows: int
    columns: int
    in_plane_mm: tuple[float, ...]
    thickness_mm: float
    orientations: tuple[tuple[float, ...], ...]
    positions: tuple[tuple[float, ...], ...]
    fault: str


def find_series(folder: Path) -> list[Series]:
    """Every series below ``folder`` with its decision, every file that should be DICOM and is not, every closed folder.

    Raises
    ------
    DataError
        If there is no DICOM file at all.
    """
    groups: dict[tuple[str, str], list[Image]] = defaultdict(list)
    unreadable: list[Path] = []
    closed: list[Path] = []
    for path in walk(folder, onerror=lambda error: closed.append(Path(os.fsdecode(error.filename)).absolute())):
        try:
            image = read_image(path)
        except DataError:
            unreadable.append(path)
            continue
        if image is not None:
            groups[image.study_uid, image.series_uid].append(image)
    if not (groups or unreadable or closed):
        raise DataError(f"{folder}: holds no DICOM file; give the folder of the exported studies (or --format bids)")
    parts = (part for images in groups.values() for part in _patients(_without_copies(images)))
    found = [_judge(part) for images in parts for part in _echoes(images)]
    found += [_unusable(path, f"{UNREADABLE}; {ADVICE}") for path in unreadable]
    return found + [_unusable(path, CLOSED) for path in closed]


def walk(folder: Path, onerror: Callable[[OSError], None]) -> Iterator[Path]:
    """Files below a folder as :func:`folders.walk` finds them, without what would be read for ever."""
    for parent, names in folders.walk(folder, onerror=onerror):
        paths = ((parent / name).absolute() for name in names)
        yield from (path for path in paths if not _is_endless(path))


def _is_endless(path: Path) -> bool:
    """Whether it is a pipe, socket or device. What cannot be asked is tried, and then a row of its own."""
    try:
        return not stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False


def read_image(path: Path) -> Image | None:
    """Header of a file; None if it is no DICOM image and does not claim to be one.

    Raises
    ------
    DataError
        If its name or its first bytes promise DICOM, but it cannot be read.
    """
    try:
        with path.open("rb") as stream:
            if not _looks_like_dicom(stream):
                if path.suffix.lower() in SUFFIXES:
                    raise DataError(f"{path}: {UNREADABLE}")
                return None
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                header = pydicom.dcmread(stream, stop_before_pixels=True, force=True, specific_tags=list(TAGS))
                if header.file_meta.get("MediaStorageSOPClassUID") == MediaStorageDirectoryStorage:
                    return None
                return _image(path, header, _pixel_fault(stream, header))
    except DataError:
        raise
    except Exception as error:  # pydicom raises nearly anything on a damaged file
        raise DataError(f"{path}: {UNREADABLE} ({type(error).__name__})") from error


def _looks_like_dicom(stream: BinaryIO) -> bool:
    """Look for the mark after the preamble, or, for files without preamble, a first element of group 2 or 8."""
    start = stream.read(132)
    stream.seek(0)
    if start[128:] == b"DICM":
        return True
    return len(start) == 132 and start[:2] in (b"\x02\0", b"\x08\0") and start[3] == 0


def _pixel_fault(stream: BinaryIO, header: Dataset) -> str:
    """What is wrong with the pixel data; ``stream`` stands where reading stopped, at their element."""
    if "Rows" not in header and header.file_meta.get("MediaStorageSOPClassUID") not in IMAGE_CLASSES:
        return ""  # a report or the like: the rules see to it
    syntax = header.file_meta.get("TransferSyntaxUID")
    if syntax == DeflatedExplicitVRLittleEndian:
        return ""  # the header could not be inflated if the file were cut
    is_implicit, is_little_endian = header.original_encoding
    order = ">" if is_little_endian is False else "<"
    if stream.read(4) != struct.pack(f"{order}HH", _PIXEL_DATA >> 16, _PIXEL_DATA & 0xFFFF):
        return f"{TRUNCATED}: it has no pixel data"
    if is_implicit:
        (length,) = struct.unpack(f"{order}I", stream.read(4))
    else:
        (length,) = struct.unpack(f"{order}4xI", stream.read(8))
    there = os.fstat(stream.fileno()).st_size - stream.tell()
    if length == _UNDEFINED:
        return "" if _is_encapsulation_whole(stream) else f"{TRUNCATED}: its compressed pixel data have no end"
    bits = header.Rows * header.Columns * header.get("SamplesPerPixel", 1) * header.get("BitsAllocated", 16)
    expected = bits * int(header.get("NumberOfFrames") or 1) // 8
    if min(length, there) < expected:
        return f"{TRUNCATED}: {min(length, there)} bytes of pixel data where {expected} are expected"
    return ""


def _is_encapsulation_whole(stream: BinaryIO) -> bool:
    """Follow the fragments of compressed pixel data to their delimiter."""
    size = os.fstat(stream.fileno()).st_size
    while len(start := stream.read(8)) == 8:
        group, element, length = struct.unpack("<HHI", start)
        tag = group << 16 | element
        if tag == _SEQUENCE_END:
            return True
        if tag != _ITEM or stream.seek(length, os.SEEK_CUR) > size:
            return False
    return False


def _image(path: Path, header: Dataset, fault: str) -> Image:
    study_uid, series_uid = _text(header, "StudyInstanceUID"), _text(header, "SeriesInstanceUID")
    if not series_uid:
        raise DataError(f"{path}: {UNREADABLE} (no SeriesInstanceUID)")
    patient = _text(header, "PatientID")
    issuer = _text(header, "IssuerOfPatientID")
    study_date = _text(header, "StudyDate")
    shared = _first(header, "SharedFunctionalGroupsSequence")
    frames: list[Dataset] = list(header.get("PerFrameFunctionalGroupsSequence") or [Dataset()])
    places = [(header, shared, frame) for frame in frames]
    first = places[0]
    orientations = [_numbers(_find(place, "ImageOrientationPatient")) for place in places]
    positions = [_numbers(_find(place, "ImagePositionPatient")) for place in places]
    is_placed = all(map(geometry.is_orientation, orientations)) and all(len(position) == 3 for position in positions)
    return Image(
        path=path,
        instance_uid=_text(header, "SOPInstanceUID"),
        series_uid=series_uid,
        study_uid=study_uid,
        patient_id="^^^".join(filter(None, (patient, issuer))) if patient else f"study {study_uid or series_uid}",
        study_date=study_date,
        protocol=classify.Protocol(
            modality=modality if re.fullmatch("[A-Z]{2,16}", modality := _text(header, "Modality").upper()) else "",
            sop_class=_text(header, "SOPClassUID"),
            image_type=_words(header, "ImageType"),
            scanning_sequence=_words(header, "ScanningSequence") or _multi_frame_sequence(first),
            sequence_variant=_words(header, "SequenceVariant"),
            sequence_name=_text(header, "SequenceName").lower(),
            body_part=_text(header, "BodyPartExamined").upper(),
            is_angiography=_text(header, "AngioFlag").upper() == "Y",
            samples_per_pixel=int(header.get("SamplesPerPixel") or 1),
            text=f"{_text(header, 'SeriesDescription')} {_text(header, 'ProtocolName')}".lower(),
            tr_ms=_number(_find(first, "RepetitionTime")),
            te_ms=_number(_find(first, "EchoTime", "EffectiveEchoTime")),
            ti_ms=_number(_find(first, "InversionTime", "InversionTimes")),
            flip_degrees=_number(_find(first, "FlipAngle")),
            b_value_s_per_mm2=_number(_find(first, "DiffusionBValue")),
        ),
        age_years=_age_years(_text(header, "PatientAge"), _text(header, "PatientBirthDate"), study_date),
        sex=sex if (sex := _text(header, "PatientSex").upper()) in ("M", "F") else tsv.MISSING,
        rows=int(header.get("Rows") or 0),
        columns=int(header.get("Columns") or 0),
        in_plane_mm=_numbers(_find(first, "PixelSpacing")),
        thickness_mm=_number(_find(first, "SliceThickness")),
        orientations=tuple(orientations) if is_placed else (),
        positions=tuple(positions) if is_placed else (),
        fault=fault,
    )


def _multi_frame_sequence(places: Sequence[Dataset]) -> tuple[str, ...]:
    """What multi-frame files say in place of ``ScanningSequence``."""
    echo = {"SPIN": ("SE",), "GRADIENT": ("GR",), "BOTH": ("SE", "GR")}.get(_find(places, "EchoPulseSequence"), ())
    inversion = ("IR",) if _find(places, "InversionRecovery") == "YES" else ()
    planar = ("EP",) if _find(places, "EchoPlanarPulseSequence") == "YES" else ()
    return echo + inversion + planar


def _first(header: Dataset, keyword: str) -> Dataset:
    sequence = header.get(keyword)
    return sequence[0] if sequence else Dataset()


def _find(places: Iterable[Dataset], *keywords: str) -> Any:
    """Value of an element in the header, or one sequence deep in a functional group of a multi-frame file."""
    for place in places:
        for keyword in keywords:
            if place.get(keyword) not in (None, ""):
                return place.get(keyword)
        for element in place:
            if element.VR != "SQ" or not element.value or element.tag.is_private:
                continue
            if element.keyword.endswith("FunctionalGroupsSequence"):
                continue
            for keyword in keywords:
                if element.value[0].get(keyword) not in (None, ""):
                    return element.value[0].get(keyword)
    return None


def _text(header: Dataset, keyword: str) -> str:
    value = header.get(keyword)
    return "" if value is None else " ".join(str(value).replace("\0", " ").split())


def _words(header: Dataset, keyword: str) -> tuple[str, ...]:
    value = header.get(keyword)
    if not value:
        return ()
    return tuple(str(word).strip().upper() for word in ([value] if isinstance(value, str) else value))


def _number(value: Any) -> float:
    numbers = _numbers(value)
    return numbers[0] if numbers else math.nan


def _numbers(value: Any) -> tuple[float, ...]:
    """Finite numbers of an element; empty if there are none or one of them is not a number."""
    if value is None or value == "":
        return ()
    values = [value] if isinstance(value, str | int | float) or not hasattr(value, "__iter__") else value
    try:
        numbers = tuple(float(item) for item in values)
    except (TypeError, ValueError):
        return ()
    return numbers if all(map(math.isfinite, numbers)) else ()


def _age_years(age: str, birth: str, study: str) -> float:
    """Age from ``PatientAge`` (``034Y``; ``000Y`` is a placeholder), else from dates; NaN where neither says."""
    if len(age) >= 2 and age[:-1].isdecimal() and age[-1].upper() in _YEARS:
        years = int(age[:-1]) * _YEARS[age[-1].upper()]
        if 0 < years <= OLDEST_YEARS:
            return years
    try:
        born, scanned = (date(int(day[:4]), int(day[4:6]), int(day[6:8])) for day in (birth, study))
    except ValueError:
        return math.nan
    years = (scanned - born).days / 365.25
    return years if 0 <= years <= OLDEST_YEARS else math.nan


def _without_copies(images: list[Image]) -> list[Image]:
    """Drop files that repeat an image (same SOP instance), such as those of an archive exported twice."""
    return list({(image.patient_id, image.instance_uid or image.path): image for image in reversed(images)}.values())[
        ::-1
    ]


def _patients(images: list[Image]) -> list[list[Image]]:
    """Tell a series copied under several patient identifiers from one whose identifier was changed halfway.

    If all its slices together lie at different places it is one series, of the patient most of them name.
    """
    names = Counter(image.patient_id for image in sorted(images, key=lambda image: image.patient_id))
    if len(names) == 1:
        return [images]
    positions = [position for image in images for position in image.positions]
    if len(positions) == len(set(positions)) == len(images):
        patient_id = names.most_common(1)[0][0]
        return [[replace(image, patient_id=patient_id) for image in images]]
    return [[image for image in images if image.patient_id == name] for name in names]


def _echoes(images: list[Image]) -> list[list[Image]]:
    """Split a dual-echo spin-echo series (proton density and T2 under one UID) into its two scans."""
    times = sorted({image.protocol.te_ms for image in images if not math.isnan(image.protocol.te_ms)})
    if len(images[0].positions) != 1 or not times or "SE" not in images[0].protocol.scanning_sequence:
        return [images]
    early = [image for image in images if image.protocol.te_ms - times[0] < SAME_ECHO_MS]
    late = [image for image in images if abs(image.protocol.te_ms - times[-1]) < SAME_ECHO_MS]
    if len(early) != len(late) or len(early) + len(late) != len(images):
        return [images]
    return [
        [replace(image, series_uid=f"{image.series_uid} echo {index}") for image in part]
        for index, part in enumerate((early, late), start=1)
    ]


def _judge(images: list[Image]) -> Series:
    first = images[0]
    orientations = [orientation for image in images for orientation in image.orientations]
    positions = [position for image in images for position in image.positions]
    is_placed = all(image.positions for image in images) and len(first.in_plane_mm) == 2
    stack = geometry.measure(orientations, positions) if is_placed else None
    protocol = replace(
        first.protocol,
        b_value_s_per_mm2=max((i.protocol.b_value_s_per_mm2 for i in images), key=lambda b: -1 if math.isnan(b) else b),
    )
    faulty = next((image for image in images if image.fault), None)
    is_one_size = len({(image.rows, image.columns) for image in images}) == 1
    verdict = classify.judge(protocol, stack, rows=first.rows, columns=first.columns, in_plane_mm=first.in_plane_mm)
    return Series(
        source="dicom",
        patient_id=first.patient_id,
        study_uid=first.study_uid,
        series_uid=first.series_uid,
        study_date=first.study_date,
        paths=tuple(image.path for image in images),
        contrast=verdict.contrast,
        reason=f"{faulty.fault}; {ADVICE}" if faulty else verdict.reason if is_one_size else "images of different size",
        faulty_path=to_text(faulty.path) if faulty else "",
        modality=protocol.modality or tsv.MISSING,
        plane=stack.plane if stack else tsv.MISSING,
        rows=first.rows or None,
        columns=first.columns or None,
        n_slices=stack.n_slices if stack else None,
        n_volumes=stack.n_volumes if stack else None,
        in_plane_mm=max(first.in_plane_mm, default=math.nan),
        spacing_mm=stack.spacing_mm if stack else math.nan,
        thickness_mm=first.thickness_mm,
        missing_slices=stack.missing_slices if stack else None,
        age_years=next((image.age_years for image in images if not math.isnan(image.age_years)), math.nan),
        sex=first.sex,
    )


def _unusable(path: Path, reason: str) -> Series:
    """Row of a file or folder that belongs to nobody."""
    text = to_text(path)
    return Series(
        source="dicom",
        patient_id="",
        study_uid="",
        series_uid=f"file {text}",
        study_date="",
        paths=(path,),
        contrast=tsv.MISSING,
        reason=reason,
        faulty_path=text,
    )
