"""Groups the headers of a source's DICOM files into series and judges them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

from analysis import tsv
from analysis.errors import DataError

from . import classify, geometry, headers, profile
from .index import Entry, Index, available_processors
from .series import OLDEST_YEARS, Series, key_of_files, to_text
from .sources import Fault, Source

#: Echo times that differ by less are the same echo.
SAME_ECHO_MS = 0.5
#: Elements that number the phases of a series; more phases than these are a time series.
PHASES, MOST_PHASES = ("TemporalPositionIdentifier", "AcquisitionNumber"), 4
#: Pixel sizes may differ by this fraction.
SAME_SPACING = 0.01

#: What to do about a bad file or folder. Its name may identify: it is in the private table only.
NAMED = "(faulty_path in the private table of series names it)"
ADVICE = f"export it again or remove it {NAMED}"
_YEARS = {"Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}


@dataclass(frozen=True)
class Image:
    """One file's header, read as what it means.

    Attributes
    ----------
    entry
        The file.
    instance_uid, series_uid, study_uid, patient_id, study_date
        Identity.
    protocol
        What decides the contrast.
    age_years, sex
        Of the patient.
    rows, columns, thickness_mm
        Of a slice.
    spacings_mm
        Distinct row and column spacings of its frames; each empty where not given.
    orientations, positions
        One per frame: ``ImageOrientationPatient`` and ``ImagePositionPatient``; empty where not given.
    """

    entry: Entry
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
    thickness_mm: float
    spacings_mm: tuple[tuple[float, ...], ...]
    orientations: tuple[tuple[float, ...], ...]
    positions: tuple[tuple[float, ...], ...]


def find_series(
    source: Source, index: Index, *, rules: classify.Rules | None = None, processes: int | None = None
) -> list[Series]:
    """Every series of a source with its decision, every file that should be DICOM and is not, every fault.

    Parameters
    ----------
    source
        Where the files are.
    index
        Keeps their headers; what it has of earlier runs is not read again. It must stay open as long as the files of
        the series are asked for.
    rules
        The shipped ones unless given.
    processes
        How many read headers at once; as many as there are processors unless given.

    Raises
    ------
    DataError
        If there is no DICOM file at all.
    """
    rules = rules or classify.Rules()
    faults: dict[Path, list[str]] = defaultdict(list)
    files = _without_faults(source.files(), lambda fault: faults[fault.path].append(fault.reason))
    index.update(files, processes=processes or available_processors())
    found: list[Series] = []
    for entries in index.groups():
        for images in _owners(_without_copies([_image(entry) for entry in entries])):
            for part in (phase for echo in _echoes(images) for phase in _phases(echo)):
                series = _judge(part, rules)
                paths = index.mark((image.entry.number for image in part), len(found))
                found.append(replace(series, paths=paths))
    found += [_unusable(path, f"{reason}; {ADVICE}") for path, reason in index.unreadable()]
    found += [_unusable(path, f"{'; '.join(reasons)} {NAMED}") for path, reasons in faults.items()]
    if not found:
        raise DataError(
            f"{source.path}: holds no DICOM file; give the folder of the exported studies (or --format bids)"
        )
    return found


def _without_faults(found: Iterable[Path | Fault], tell: Callable[[Fault], object]) -> Iterator[Path]:
    for item in found:
        if isinstance(item, Fault):
            tell(item)
        else:
            yield item


def _image(entry: Entry) -> Image:
    header = entry.header
    texts = header.texts
    frames = header.frames or [[headers.numbers(texts[keyword]) for keyword in headers.PLACE]]
    orientations, positions, spacings = (tuple(tuple(frame[part]) for frame in frames) for part in range(3))
    is_placed = all(map(geometry.is_orientation, set(orientations))) and all(map(geometry.is_position, positions))
    study_date = texts["StudyDate"].replace(".", "")
    study_date = study_date if headers.is_date(study_date) else ""
    patient = texts["PatientID"]
    study_uid = texts["StudyInstanceUID"]
    if not study_uid and patient:
        # Without it, studies of a patient are told apart by what else names them.
        study_uid = f"without UID {study_date} {texts['StudyID']}".strip()
    return Image(
        entry=entry,
        instance_uid=texts["SOPInstanceUID"],
        series_uid=texts["SeriesInstanceUID"],
        study_uid=study_uid,
        patient_id="^^^".join(filter(None, (patient, texts["IssuerOfPatientID"])))
        if patient
        else f"study {study_uid or texts['SeriesInstanceUID']}",
        study_date=study_date,
        protocol=classify.Protocol(
            modality=profile.modality_of(texts["Modality"]),
            sop_class=texts["SOPClassUID"],
            image_type=headers.words(texts["ImageType"]),
            body_part=texts["BodyPartExamined"].upper(),
            conversion_type=texts["ConversionType"].upper(),
            burned_in=texts["BurnedInAnnotation"].upper(),
            scanning_sequence=headers.words(texts["ScanningSequence"]),
            sequence_variant=headers.words(texts["SequenceVariant"]),
            sequence_name=texts["SequenceName"].lower(),
            is_angiography=texts["AngioFlag"].upper() == "Y",
            samples_per_pixel=int(_number(texts["SamplesPerPixel"], 1)),
            text=f"{texts['SeriesDescription']} {texts['ProtocolName']}".lower(),
            agent=texts["ContrastBolusAgent"].lower(),
            tr_ms=_number(texts["RepetitionTime"]),
            te_ms=_number(texts["EchoTime"]),
            ti_ms=_number(texts["InversionTime"]),
            flip_degrees=_number(texts["FlipAngle"]),
            b_value=_number(texts["DiffusionBValue"]),
            field_tesla=_number(texts["MagneticFieldStrength"]),
        ),
        age_years=_age_years(texts["PatientAge"], texts["PatientBirthDate"], study_date),
        sex=sex if (sex := texts["PatientSex"].upper()) in ("M", "F") else tsv.MISSING,
        rows=int(_number(texts["Rows"], 0)),
        columns=int(_number(texts["Columns"], 0)),
        thickness_mm=_number(texts["SliceThickness"]),
        spacings_mm=tuple(dict.fromkeys(spacings)),
        orientations=orientations if is_placed else (),
        positions=positions if is_placed else (),
    )


def _number(text: str, otherwise: float = math.nan) -> float:
    found = headers.numbers(text)
    return found[0] if found else otherwise


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
    """Drop files that repeat an image (same SOP instance and place), such as those of an archive exported twice.

    Of a damaged copy and a whole one the whole one stays. Images at different places that share a UID are no copies.
    """
    unique: dict[tuple[object, ...], Image] = {}
    for image in sorted(images, key=lambda image: bool(image.entry.header.fault)):
        key = (*_owner(image), image.instance_uid or image.entry.number, image.positions)
        unique.setdefault(key, image)
    return list(unique.values())


def _owner(image: Image) -> tuple[str, str]:
    return image.patient_id, image.study_uid


def _owners(images: list[Image]) -> list[list[Image]]:
    """Tell a series copied under several identifiers from one whose patient or study was changed halfway.

    If all its slices together lie at different places it is one series, of the patient and study that most of them
    name; but no series goes on another day or in another sex.
    """
    parts: dict[tuple[str, str], list[Image]] = defaultdict(list)
    for image in images:
        parts[_owner(image)].append(image)
    if len(parts) == 1:
        return [images]
    positions = [position for image in images for position in image.positions]
    is_apart = len(positions) == len(set(positions)) == len(images)
    if not is_apart or len({(image.study_date, image.sex) for image in images}) > 1:
        return [parts[owner] for owner in sorted(parts)]
    patient_id, study_uid = min(parts, key=lambda owner: (-len(parts[owner]), owner))
    return [[replace(image, patient_id=patient_id, study_uid=study_uid) for image in images]]


def _echoes(images: list[Image]) -> list[list[Image]]:
    """Split a dual-echo spin-echo series (proton density and T2 under one UID) into its two scans."""
    times = sorted({image.protocol.te_ms for image in images if not math.isnan(image.protocol.te_ms)})
    if (
        any(len(image.positions) != 1 for image in images)
        or not times
        or "SE" not in images[0].protocol.scanning_sequence
    ):
        return [images]
    early = [image for image in images if image.protocol.te_ms - times[0] < SAME_ECHO_MS]
    late = [image for image in images if abs(image.protocol.te_ms - times[-1]) < SAME_ECHO_MS]
    if len(early) + len(late) != len(images) or not _fill_same_places([early, late]):
        return [images]
    return [
        [replace(image, series_uid=f"{image.series_uid} echo {index}") for image in part]
        for index, part in enumerate((early, late), start=1)
    ]


def _phases(images: list[Image]) -> list[list[Image]]:
    """Split a series of a few phases, such as before and after a contrast agent, into a scan each.

    They are told apart by an element of :data:`PHASES`; each must fill the same places once, by the same protocol.
    """
    for keyword in PHASES if all(len(image.positions) == 1 for image in images) else ():
        parts: dict[str, list[Image]] = defaultdict(list)
        for image in images:
            parts[image.entry.header.texts[keyword]].append(image)
        is_few = 1 < len(parts) <= MOST_PHASES
        if is_few and _fill_same_places(parts.values()) and _have_one_protocol(images):
            return [
                [replace(image, series_uid=f"{image.series_uid} phase {index}") for image in parts[value]]
                for index, value in enumerate(sorted(parts, key=lambda value: _number(value, 0)), start=1)
            ]
    return [images]


def _fill_same_places(parts: Iterable[list[Image]]) -> bool:
    """Whether parts of a series, of one frame per file, have one image each at every place of the others."""
    stacks = [sorted(image.positions[0] for image in part) for part in parts]
    return all(stack == stacks[0] and len(set(stack)) == len(stack) for stack in stacks)


def _have_one_protocol(images: list[Image]) -> bool:
    """Whether images were made alike, with contrast agent or without; NaN is like NaN."""
    return len({repr(replace(image.protocol, agent="")) for image in images}) == 1


def _judge(images: list[Image], rules: classify.Rules) -> Series:
    first = images[0]
    orientations = [orientation for image in images for orientation in image.orientations]
    positions = [position for image in images for position in image.positions]
    in_plane_mm = first.spacings_mm[0]
    is_placed = all(image.positions and all(len(pair) == 2 for pair in image.spacings_mm) for image in images)
    stack = geometry.measure(orientations, positions) if is_placed else None
    protocol = replace(
        first.protocol,
        b_value=max((image.protocol.b_value for image in images), key=lambda b: -1 if math.isnan(b) else b),
        agent=next((image.protocol.agent for image in images if image.protocol.agent), ""),
        burned_in=max(image.protocol.burned_in for image in images),  # YES, NO, nothing
    )
    verdict = rules.judge(
        protocol,
        stack,
        rows=first.rows,
        columns=first.columns,
        in_plane_mm=in_plane_mm,
        n_images=sum(max(len(image.positions), 1) for image in images),
    )
    faulty = next((image for image in images if image.entry.header.fault), None)
    return Series(
        source="dicom",
        patient_id=first.patient_id,
        study_uid=first.study_uid,
        series_uid=first.series_uid,
        study_date=first.study_date,
        paths=(),
        content_key=key_of_files((image.entry.path, image.entry.size) for image in images),
        contrast=verdict.contrast,
        reason=f"{faulty.entry.header.fault}; {ADVICE}" if faulty else verdict.reason or _mixture(images),
        evidence=verdict.evidence,
        contrast_agent=verdict.contrast_agent,
        faulty_path=to_text(faulty.entry.path) if faulty else "",
        modality=protocol.modality or tsv.MISSING,
        plane=stack.plane if stack else tsv.MISSING,
        rows=first.rows or None,
        columns=first.columns or None,
        n_slices=stack.n_slices if stack else None,
        n_volumes=stack.n_volumes if stack else None,
        in_plane_mm=max(in_plane_mm, default=math.nan),
        spacing_mm=stack.spacing_mm if stack else math.nan,
        thickness_mm=first.thickness_mm,
        oblique_degrees=round(stack.oblique_degrees, 1) if stack else math.nan,
        tilt_degrees=round(stack.tilt_degrees, 1) if stack else math.nan,
        missing_slices=stack.missing_slices if stack else None,
        duplicate_slices=stack.duplicate_slices if stack else None,
        field_tesla=protocol.field_tesla,
        age_years=next((image.age_years for image in images if not math.isnan(image.age_years)), math.nan),
        sex=first.sex,
    )


def _mixture(images: list[Image]) -> str:
    """Why images do not belong together, or empty."""
    if len({(image.rows, image.columns) for image in images}) > 1:
        return "images of different size"
    for spacings_mm in zip(*(spacing for image in images for spacing in image.spacings_mm), strict=False):
        if max(spacings_mm) > (1 + SAME_SPACING) * min(spacings_mm):
            return "images of different pixel size"
    times_ms = [image.protocol.te_ms for image in images if not math.isnan(image.protocol.te_ms)]
    if times_ms and max(times_ms) - min(times_ms) >= SAME_ECHO_MS:
        return "images of different echo time"
    return ""


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
