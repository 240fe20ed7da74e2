"""Files that other laboratories' tools leave, read and checked.

Exit codes prove nothing (``mri_synthseg`` and ``mri_synthsr`` end with 0 after an error): what counts is that the files
are there and readable, that the label map lies where the image does, and that volumes are finite and not zero.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.affines import apply_affine

from synthsr import labels

from ..errors import DataError
from ..volumes import ICV
from .commands import Request

#: Tissues whose structures no head lacks, beside cerebral white matter: a volume of zero is a failed segmentation.
NEVER_EMPTY = ("grey", "deep_grey")
#: Names of structures by the tool that has its own, as in ``labels.tsv``.
NAMES = {
    "Left-Thalamus-Proper": "Left-Thalamus",
    "Right-Thalamus-Proper": "Right-Thalamus",
    "lhCortexVol": "Left-Cerebral-Cortex",
    "rhCortexVol": "Right-Cerebral-Cortex",
    "lhCerebralWhiteMatterVol": "Left-Cerebral-White-Matter",
    "rhCerebralWhiteMatterVol": "Right-Cerebral-White-Matter",
    # FreeSurfer 5
    "lhCorticalWhiteMatterVol": "Left-Cerebral-White-Matter",
    "rhCorticalWhiteMatterVol": "Right-Cerebral-White-Matter",
    "ICV": ICV,
    "eTIV": ICV,
    "Intra-Cranial": ICV,
    "total intracranial": ICV,
    "left inferior lateral ventricle": "Left-Inf-Lat-Vent",
    "right inferior lateral ventricle": "Right-Inf-Lat-Vent",
    "left ventral DC": "Left-VentralDC",
    "right ventral DC": "Right-VentralDC",
}
#: What FIRST segments, by the structure's name without its side, and the one without sides.
FIRST_SIDED = ("Thalamus", "Caudate", "Putamen", "Pallidum", "Hippocampus", "Amygdala", "Accumbens-area")
FIRST_MIDLINE = "Brain-Stem"
#: FAST's classes of a T1, by the number in its files' names.
FAST_CLASSES = {0: "FAST-CSF", 1: "FAST-Grey-Matter", 2: "FAST-White-Matter"}
#: What to do about a file that is not as the tool leaves it, and about an answer that no head has.
AGAIN = "it was cut off, or another version made it: see the tool's log, and run the tool again"
LOOK = "the segmentation failed: look at the image it was made of, and at the tool's log"
#: Of whole numbers stored as float.
WHOLE = 1e-3


@dataclass(frozen=True)
class Found:
    """What a tool measured.

    Attributes
    ----------
    volumes_mm3
        Per structure, names as in ``labels.tsv`` where it has them; :data:`ICV` where the tool measures it.
    segmentation
        Label map.
    surfaces
        Rows of the cortex' parcels: ``structure``, ``side``, ``thickness_mm``, ``area_mm2``, ``volume_mm3``.
    quality
        The tool's own scores.
    """

    volumes_mm3: dict[str, float]
    segmentation: Path
    surfaces: list[dict[str, Any]] = field(default_factory=list)
    quality: dict[str, float] = field(default_factory=dict)


def read(backend: str, request: Request) -> Found:
    """Read and check what a back end left in the request's folder.

    Raises
    ------
    DataError
        If a file is missing or damaged, lies elsewhere than the image, or a volume is not what a head has.
    """
    readers = {
        "recon-all": lambda: subject(request.folder / request.name),
        "recon-all-clinical": lambda: subject(request.folder / request.name, clinical=True),
        "samseg": lambda: Found(samseg(request.folder / "samseg"), present(request.folder / "samseg" / "seg.mgz")),
        "synthseg": lambda: _synthseg(request.folder),
        "fast": lambda: Found(fast_volumes(request), present(request.folder / "fast_seg.nii.gz")),
        "first": lambda: _first(request.folder / "first_all_fast_firstseg.nii.gz"),
    }
    return checked(readers[backend](), request, is_whole_brain=backend not in ("fast", "first"))


def checked(found: Found, request: Request, *, is_whole_brain: bool = True) -> Found:
    """The same, if volumes and place of the label map are what those of a head in the request's image can be.

    Parameters
    ----------
    found
        What was read.
    request
        With the image.
    is_whole_brain
        Whether the tool measures all that no head lacks: a table without one of these was cut off.
    """
    lacking = sorted(never_empty() - set(found.volumes_mm3)) if is_whole_brain else []
    if lacking:
        raise DataError(f"the table of {found.segmentation.name} lacks {', '.join(lacking)}; {AGAIN}")
    check_volumes(found.volumes_mm3, found.segmentation.name)
    check_place(found.segmentation, request.image)
    return found


def subject(folder: Path, *, clinical: bool = False) -> Found:
    """Volumes, label map, thickness and areas of a FreeSurfer subject.

    Parameters
    ----------
    folder
        The subject.
    clinical
        Made by ``recon-all-clinical``, whose volumes are SynthSeg's.
    """
    surfaces = [row for side in ("lh", "rh") for row in aparc(folder / "stats" / f"{side}.aparc.stats", side)]
    if clinical:
        volumes = synthseg_table(folder / "stats" / "synthseg.vol.csv")
        scores = folder / "stats" / "synthseg.qc.csv"
        quality = synthseg_table(scores) if scores.is_file() else {}
        return Found(volumes, present(folder / "mri" / "synthseg.mgz"), surfaces, quality)
    return Found(aseg(folder / "stats" / "aseg.stats"), present(folder / "mri" / "aseg.mgz"), surfaces)


def aseg(path: Path) -> dict[str, float]:
    """Volumes in mm³ of an ``aseg.stats``: the structures' rows, both hemispheres' cortex and white matter, the ICV."""
    lines = _lines(path)
    columns = next((line.split()[2:] for line in lines if line.startswith("# ColHeaders")), [])
    if not {"Volume_mm3", "StructName"} <= set(columns):
        raise DataError(f"{path}: has no line '# ColHeaders … Volume_mm3 StructName …'; {AGAIN}")
    volumes = {}
    for line in lines:
        if not line.startswith("#"):
            row = _row(path, line, columns)
            volumes[NAMES.get(row["StructName"], row["StructName"])] = _number(path, row["Volume_mm3"])
    measures = dict(_measures(path, lines))
    for short, name in NAMES.items():
        if short in measures:
            volumes[name] = measures[short]
    if ICV not in volumes:
        raise DataError(f"{path}: has no '# Measure EstimatedTotalIntraCranialVol, eTIV'; {AGAIN}")
    return volumes


def aparc(path: Path, side: str) -> Iterator[dict[str, Any]]:
    """Thickness, area and volume per parcel of a ``?h.aparc.stats``, and of the whole hemisphere as ``cortex``.

    Parameters
    ----------
    path
        The table.
    side
        ``lh`` or ``rh``.
    """
    lines = _lines(path)
    columns = next((line.split()[2:] for line in lines if line.startswith("# ColHeaders")), [])
    if not {"StructName", "SurfArea", "GrayVol", "ThickAvg"} <= set(columns):
        raise DataError(f"{path}: has no line '# ColHeaders StructName … SurfArea GrayVol ThickAvg …'; {AGAIN}")
    name = {"lh": "left", "rh": "right"}[side]
    rows = [_row(path, line, columns) for line in lines if not line.startswith("#")]
    if not rows:
        raise DataError(f"{path}: has no parcel; {AGAIN}")
    for row in rows:
        thickness, area, volume = (_number(path, row[column]) for column in ("ThickAvg", "SurfArea", "GrayVol"))
        if not (math.isfinite(thickness) and math.isfinite(area) and math.isfinite(volume)):
            raise DataError(
                f"{path}: {row['StructName']} is {thickness:g} mm thick, {area:g} mm², {volume:g} mm³; {AGAIN}"
            )
        yield {
            "structure": row["StructName"],
            "side": name,
            "thickness_mm": thickness,
            "area_mm2": area,
            "volume_mm3": volume,
        }
    measures = dict(_measures(path, lines))
    if {"MeanThickness", "WhiteSurfArea"} <= set(measures):
        total = {"thickness_mm": measures["MeanThickness"], "area_mm2": measures["WhiteSurfArea"]}
        yield {"structure": "cortex", "side": name, **total, "volume_mm3": math.nan}


def samseg(folder: Path) -> dict[str, float]:
    """Volumes that ``run_samseg`` left: lines ``# Measure Left-Thalamus, 7012.3, mm^3``.

    The structures are in ``samseg.stats``, with all else in the field of view as ``Unknown``; the intracranial volume
    is in ``sbtiv.stats``, of newer versions in both.
    """
    volumes: dict[str, float] = {}
    for path in (folder / "samseg.stats", folder / "sbtiv.stats"):
        volumes |= {NAMES.get(name, name): value for name, value in _measures(path, _lines(path))}
    if ICV not in volumes:
        raise DataError(f"{folder / 'sbtiv.stats'}: has no '# Measure Intra-Cranial'; {AGAIN}")
    return {name: volume for name, volume in volumes.items() if name != "Unknown"}


def synthseg_table(path: Path) -> dict[str, float]:
    """The one row of a table of volumes or of scores by ``mri_synthseg``; the ICV is its ``total intracranial``."""
    with present(path).open(newline="", encoding="utf-8") as stream:
        rows = [row for row in csv.reader(stream) if any(cell.strip() for cell in row)]
    if len(rows) != 2 or len(rows[0]) != len(rows[1]) or len(rows[0]) < 2:
        raise DataError(f"{path}: {len(rows)} rows, expected a header and one row as long; {AGAIN}")
    return {_synthseg_name(name): _number(path, value) for name, value in zip(rows[0][1:], rows[1][1:], strict=True)}


def fast_volumes(request: Request) -> dict[str, float]:
    """Sums of FAST's partial volumes, ``fast_pve_0…2.nii.gz``, which must lie on the image's own grid."""
    volumes = {}
    grid = nib.load(request.image)
    for number, name in FAST_CLASSES.items():
        path = present(request.folder / f"fast_pve_{number}.nii.gz")
        image = _image(path)
        if image.shape != grid.shape or not np.allclose(image.affine, grid.affine, atol=1e-3):
            raise DataError(f"{path.name}: lies on another grid than the image it was made of; run the tool again")
        share = np.asarray(image.dataobj, dtype=np.float64)
        if not np.isfinite(share).all():
            raise DataError(f"{path.name}: has voxels that are not finite; {LOOK}")
        volumes[name] = float(share.sum()) * _voxel_mm3(image)
        if not volumes[name] > 0:
            raise DataError(f"{path.name}: {name} is empty; {LOOK}")
    return volumes


def label_volumes(path: Path) -> dict[str, float]:
    """Volumes in mm³ of a label map's voxels, by FreeSurfer's numbers; those of no structure are left out."""
    image = _image(present(path))
    numbers = _labels(path, image)
    counts = dict(zip(*np.unique(numbers, return_counts=True), strict=True))
    names = labels.by_number()
    return {
        names[int(number)].name: float(count) * _voxel_mm3(image)
        for number, count in counts.items()
        if number != 0 and int(number) in names
    }


def never_empty() -> set[str]:
    """Names of what no head lacks: cerebral white matter, cortex, deep grey matter, the intracranial volume."""
    return {ICV} | {
        label.name for label in labels.table() if label.tissue in NEVER_EMPTY or label.number in labels.WHITE_MATTER
    }


def check_volumes(volumes_mm3: Mapping[str, float], where: str) -> None:
    """Raise :class:`DataError` unless every volume is finite and not negative, and what no head lacks is not empty."""
    if not volumes_mm3:
        raise DataError(f"{where}: no volume at all; {LOOK}")
    for name, volume in volumes_mm3.items():
        if not math.isfinite(volume) or volume < 0:
            raise DataError(f"{where}: {name} is {volume:g} mm³; {LOOK}")
    empty = sorted(name for name in never_empty() & set(volumes_mm3) if not volumes_mm3[name] > 0)
    if empty:
        raise DataError(f"{where}: {', '.join(empty)} is 0 mm³; {LOOK}")


def check_place(segmentation: Path, image: Path) -> None:
    """Raise :class:`DataError` unless a label map holds whole numbers and its labels' middle lies in the image."""
    found, source = _image(segmentation), nib.load(image)
    voxels = np.argwhere(_labels(segmentation, found) > 0)
    if not len(voxels):
        raise DataError(f"{segmentation.name}: labels nothing; {LOOK}")
    centre = apply_affine(np.linalg.inv(source.affine) @ found.affine, voxels.mean(axis=0))
    if not ((centre > -0.5) & (centre < np.array(source.shape[:3]) - 0.5)).all():
        raise DataError(
            f"{segmentation.name}: what it labels lies outside the image it was made of; run the tool again on it"
        )


def present(path: Path) -> Path:
    """The path, if there is a file that is not empty; :class:`DataError` otherwise."""
    if not path.is_file() or path.stat().st_size == 0:
        raise DataError(f"{path.name} {'is empty' if path.is_file() else 'was not made'}; the job's log tells why")
    return path


def _synthseg(folder: Path) -> Found:
    quality = synthseg_table(folder / "qc.csv")
    return Found(synthseg_table(folder / "volumes.csv"), present(folder / "synthseg.nii.gz"), quality=quality)


def _first(path: Path) -> Found:
    counted = label_volumes(path)
    names = [side + name for name in FIRST_SIDED for side in ("Left-", "Right-")]
    return Found({name: counted.get(name, 0.0) for name in (*names, FIRST_MIDLINE)}, path)


def _synthseg_name(name: str) -> str:
    plain = name.strip()
    if plain in NAMES:
        return NAMES[plain]
    own = {label.name.lower(): label.name for label in labels.table()}
    return own.get(plain.lower().replace(" ", "-"), plain)


def _lines(path: Path) -> list[str]:
    try:
        text = present(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a text file ({error}); {AGAIN}") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def _measures(path: Path, lines: list[str]) -> Iterator[tuple[str, float]]:
    """Name and value of lines ``# Measure [Group,] Name, [Description,] value, unit``."""
    for line in lines:
        if line.startswith("# Measure "):
            parts = [part.strip() for part in line.removeprefix("# Measure ").split(",")]
            if len(parts) < 3:
                raise DataError(f"{path}: cannot read {line!r}; {AGAIN}")
            # The group says cortex of hemispheres, mean thickness and number of vertices alike.
            yield (parts[1] if len(parts) > 3 else parts[0]), _number(path, parts[-2])


def _row(path: Path, line: str, columns: list[str]) -> dict[str, str]:
    values = line.split()
    if len(values) != len(columns):
        raise DataError(f"{path}: {len(values)} values for {len(columns)} columns in {line!r}; {AGAIN}")
    return dict(zip(columns, values, strict=True))


def _number(path: Path, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise DataError(f"{path}: {text!r} is not a number; {AGAIN}") from error


def _image(path: Path) -> Any:
    try:
        return nib.load(present(path))
    except nib.filebasedimages.ImageFileError as error:
        raise DataError(f"{path.name}: cannot be read as an image ({error}); {AGAIN}") from error


def _labels(path: Path, image: Any) -> npt.NDArray[np.int32]:
    try:
        data = np.asanyarray(image.dataobj)
    except (OSError, EOFError, ValueError) as error:
        raise DataError(f"{path.name}: cannot be read ({error}); {AGAIN}") from error
    whole = np.rint(data)
    if not np.isfinite(data).all() or np.abs(data - whole).max(initial=0) > WHOLE:
        raise DataError(f"{path.name}: holds other than whole numbers: it is no label map; {AGAIN}")
    return np.asarray(whole, dtype=np.int32)


def _voxel_mm3(image: Any) -> float:
    return float(abs(np.linalg.det(image.affine[:3, :3])))
