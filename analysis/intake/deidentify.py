"""De-identified copies of DICOM files, for sites that share DICOM (PS3.15, basic profile with options).

Every image lies under its participant's pseudonym, with new UIDs and moved dates; the same patient has the same
pseudonym as in the inventory that uses the same private folder. Series that may show a name in their pixels are held
back. What was done to each series is in ``series.tsv`` of the output; who it is, in the private folder only.
"""

from __future__ import annotations

import argparse
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.errors import ConfigurationError, DataError
from analysis.layout import Private

if TYPE_CHECKING:
    from .key import Key

PUBLIC = ("participant_id", "study", "series", "modality", "n_files", "decision", "reason")
LINKS = ("patient_id", "study_uid", "series_uid", "shift_days", "path", *PUBLIC)
WRITTEN, HELD_BACK = "written", "held back"
UNREADABLE = "not a readable DICOM file; export it again or remove it (path in the private table names it)"
_PIXEL_DATA = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


@dataclass
class _Found:
    """A series of the source: its files by patient, where its slices lie, its days and sexes."""

    modality: str
    reason: str = ""
    paths: dict[str, list[Path]] = field(default_factory=lambda: defaultdict(list))
    places: set[str] = field(default_factory=set)
    scanned: set[tuple[str, str]] = field(default_factory=set)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument(
        "source", type=Path, metavar="SOURCE", help="folder of DICOM files and archives, an archive, or a DICOMDIR"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the de-identified files")
    parser.add_argument(
        "--private", type=Path, metavar="DIR", help="folder of key and linking table (default: private beside --out)"
    )
    parser.add_argument(
        "--retain",
        nargs="*",
        choices=("dates", "descriptors", "characteristics", "private"),
        metavar="OPTION",
        help="options of the profile, by default all: dates (moved by the same days for all of a patient's), "
        "descriptors (their technical words), characteristics (sex, size, weight, age up to 90), private (elements "
        "that the standard calls safe); --retain alone for none",
    )


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    from . import profile
    from .lock import locked

    out, private = arguments.out, Private(arguments.private or arguments.out.absolute().parent / "private")
    if not arguments.source.exists():
        raise DataError(f"{arguments.source}: no such folder, archive or DICOMDIR")
    for inner, outer, name in ((private.root, out, "--private"), (out, arguments.source, "--out")):
        if inner.resolve().is_relative_to(outer.resolve()):
            raise ConfigurationError(f"{name} {inner} lies below {outer}; give a folder beside it")
    options = frozenset(profile.OPTIONS if arguments.retain is None else arguments.retain)
    with locked(private.root):
        _copy(arguments.source, out, private, options)


def _copy(source: Path, out: Path, private: Private, options: frozenset[str]) -> None:
    """Write what may go on, and the tables."""
    import pandas as pd

    from analysis import tsv
    from synthsr.progress import tracked

    from .key import Key
    from .pseudonyms import inert, plain
    from .series import to_text

    key = Key.of(private.key)
    table = private.root / "deidentified.tsv"
    rows: dict[tuple[str, str, str], dict[str, str]] = {}
    if table.is_file():
        earlier = plain(tsv.read(table, columns=LINKS)).to_dict("records")
        rows = {(row["patient_id"], row["study_uid"], row["series_uid"]): _texts(row) for row in earlier}
    found, unreadable = _sort(source, private)
    for (patient, study, series), it in tracked(found.items(), what="series copied", total=len(found)):
        names = {
            "participant_id": key.participant(patient),
            "study": f"study-{key.label('study', study or series)}",
            "series": f"series-{key.label('series', f'{study} {series}')}",
        }
        folder = out / names["participant_id"] / names["study"] / names["series"]
        paths = it.paths[patient]
        n_files, reason = _hold_back(folder, it.reason) if it.reason else _write(paths, folder, key, patient, options)
        rows[patient, study, series] = {
            **{"patient_id": patient, "study_uid": study, "series_uid": series, **names},
            **{"shift_days": str(key.shift_days(patient)), "path": to_text(paths[0].parent)},
            **{"modality": it.modality, "n_files": str(n_files), "reason": reason},
            "decision": WRITTEN if n_files else HELD_BACK,
        }
    for path, reason in unreadable.items():
        text = to_text(path)
        rows["", "", f"file {text}"] = {
            **dict.fromkeys(LINKS, tsv.MISSING),
            **{"patient_id": "", "study_uid": "", "series_uid": f"file {text}", "path": text},
            **{"n_files": "0", "decision": HELD_BACK, "reason": reason},
        }
    if not rows:
        raise DataError(f"{source}: holds no DICOM file; give the folder of the exported studies")
    ordered = sorted(rows.values(), key=lambda row: (row["participant_id"], row["study"], row["series"]))
    tsv.write(inert(pd.DataFrame(ordered, columns=list(LINKS))), table)
    tsv.write(pd.DataFrame(ordered, columns=list(PUBLIC)), out / "series.tsv")
    n_written = sum(row["decision"] == WRITTEN for row in ordered)
    print(f"{n_written} of {len(ordered)} series written; reasons of the others are in {out / 'series.tsv'}")


def _texts(row: Mapping[Any, Any]) -> dict[str, str]:
    return {str(name): str(value) for name, value in row.items()}


def _sort(path: Path, private: Private) -> tuple[dict[tuple[str, str, str], _Found], dict[Path, str]]:
    """Files by patient, study and series, and those that cannot be used, with the reason."""
    from analysis import tsv
    from synthsr.progress import tracked

    from . import profile
    from .sources import Fault, open_source

    found: dict[tuple[str, str], _Found] = {}
    unusable: dict[Path, str] = {}
    files = list(open_source(path, unpacked=private.unpacked).files())
    for file in tracked(files, what="headers read", total=len(files)):
        if isinstance(file, Fault):
            unusable[file.path] = file.reason
            continue
        try:
            header = _read(file, pixels=False)
            if header is None:
                continue
            study, series = (str(header.get(name) or "") for name in ("StudyInstanceUID", "SeriesInstanceUID"))
            modality = profile.modality_of(str(header.get("Modality") or "")) or tsv.MISSING
            known = found.setdefault((study, series), _Found(modality))
            known.reason = known.reason or profile.held_back(header)
            known.paths[profile.patient_of(header)].append(file)
            known.places.add(str(header.get("ImagePositionPatient")))
            known.scanned.add((str(header.get("StudyDate") or ""), str(header.get("PatientSex") or "")))
        except Exception:  # pydicom raises nearly anything on a damaged file
            unusable[file] = UNREADABLE
    return {owned: it for key, it in found.items() for owned, it in _owned(key, it)}, unusable


def _owned(key: tuple[str, str], found: _Found) -> Iterator[tuple[tuple[str, str, str], _Found]]:
    """Tell a series whose identifier was changed halfway, of the patient most of its files name, from copies.

    All slices of the former lie at different places, of one day and sex; the inventory has the same rule.
    """
    patients = sorted(found.paths, key=lambda patient: (-len(found.paths[patient]), patient))
    files = [path for paths in found.paths.values() for path in paths]
    if len(found.places) == len(files) and len(found.scanned) == 1:
        yield (patients[0], *key), replace(found, paths={patients[0]: files})
    else:
        for patient in patients:
            yield (patient, *key), replace(found, paths={patient: found.paths[patient]})


def _hold_back(folder: Path, reason: str) -> tuple[int, str]:
    """Take away what an earlier run wrote of the series, when nothing spoke against it yet."""
    for path in folder.glob("image-*.dcm"):
        path.unlink()
    return 0, reason


def _write(paths: Iterable[Path], folder: Path, key: Key, patient: str, options: frozenset[str]) -> tuple[int, str]:
    """Write a series; number of files written, and what was wrong with the others."""
    from synthsr import files

    from . import profile

    n_files, faults = 0, 0
    for path in paths:
        try:
            image = _read(path, pixels=True)
            if image is None or not any(name in image for name in _PIXEL_DATA):
                raise DataError(UNREADABLE)
            _trim(image)
            name = key.label("image", str(image.get("SOPInstanceUID") or path))
            with files.whole(folder / f"image-{name}.dcm") as temporary, warnings.catch_warnings():
                warnings.simplefilter("ignore")  # would print values
                profile.deidentify(image, key, patient=patient, options=options)
                image.save_as(temporary, enforce_file_format=True)
            n_files += 1
        except OSError:
            raise
        except Exception:  # as above
            faults += 1
    return n_files, f"{faults} files cannot be read or are truncated; export them again" if faults else ""


def _read(path: Path, *, pixels: bool) -> Any:
    """A DICOM object, with the patient's directory of a medium (DICOMDIR) and other files as None.

    Raises
    ------
    Exception
        Nearly anything, of a file that promises DICOM and is damaged.
    """
    import pydicom
    from pydicom.uid import MediaStorageDirectoryStorage

    with path.open("rb") as stream:
        start = stream.read(132)
    is_dicom = start[128:] == b"DICM"
    if not is_dicom and not (start[:2] in (b"\x02\0", b"\x08\0") and start[3:4] == b"\0"):
        if path.suffix.lower() in (".dcm", ".dicom", ".ima"):
            raise DataError(UNREADABLE)
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = pydicom.dcmread(path, force=not is_dicom, stop_before_pixels=not pixels)
    if image.file_meta.get("MediaStorageSOPClassUID") == MediaStorageDirectoryStorage:
        return None
    if "SOPClassUID" not in image or not image.get("SeriesInstanceUID"):
        raise DataError(UNREADABLE)
    return image


def _trim(image: Any) -> None:
    """Cut off what follows the last pixel, or stands beside pixels in compressed images: it may be any text.

    Raises
    ------
    DataError
        If uncompressed pixels are fewer than the header says.
    """
    from . import codestream

    name = next(name for name in _PIXEL_DATA if name in image)
    data = image[name].value
    if image.file_meta.get("TransferSyntaxUID") and image.file_meta.TransferSyntaxUID.is_encapsulated:
        image[name].value = codestream.without_comments(data, int(image.get("NumberOfFrames") or 1))
        return
    bits = image.Rows * image.Columns * image.get("SamplesPerPixel", 1) * image.get("BitsAllocated", 16)
    n_bytes = bits * int(image.get("NumberOfFrames") or 1) // 8
    if len(data) < n_bytes:
        raise DataError(UNREADABLE)
    image[name].value = data[:n_bytes] + b"\0" * (n_bytes % 2)
