"""Makes one scan's NIfTI file and sidecar, free of what could identify the patient."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
import uuid
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import pydicom
from nibabel.spatialimages import SpatialImage

from analysis.errors import ConfigurationError, DataError, ToolError
from analysis.layout import sidecar_of
from synthsr import files

from . import acceptance, headers, images, profile

if TYPE_CHECKING:
    from .deface import Defacer

#: dcm2niix measures the spacing at the first two slices, whose positions may be rounded to 0.1 mm.
SPACING_TOLERANCE = 0.02
CONVERSION_LIMIT_S = 900
#: Corners of a slice may lie this fraction of its diagonal from where its header says.
PLACE_TOLERANCE = 0.01
#: With less free space than this, dcm2niix is likely to have failed for want of it.
LEAST_FREE_BYTES = 1 << 26
#: Where to read on; the scan's name stays out, so that equal reasons read alike.
TOLD = "its messages: conversions in the private folder"
#: Sidecar keys of this project: what was mended, and what dcm2niix warned of.
REPAIRS, WARNINGS = "IntakeRepairs", "ConversionWarnings"


def from_dicom(
    paths: Sequence[Path],
    target: Path,
    *,
    n_slices: int,
    spacing_mm: float,
    is_ct: bool,
    record: Path,
    defacer: Defacer | None = None,
) -> None:
    """Convert a DICOM series with dcm2niix.

    Parameters
    ----------
    paths
        Its files.
    target
        The ``.nii.gz`` to write; the sidecar comes beside it.
    n_slices, spacing_mm
        What the positions in the headers say; the converted image must agree.
    is_ct
        Whether its values must be Hounsfield units.
    record
        Private file for what dcm2niix said: its whole sidecar and its messages.
    defacer
        Removes the face, if that is wanted.

    Raises
    ------
    DataError
        If the result is not one three-dimensional image of this geometry, or no scan of a head
        (:mod:`.acceptance`).
    ConfigurationError
        If a file is gone.
    ToolError
        If dcm2niix is not there.
    """
    _check_presence(paths)
    with tempfile.TemporaryDirectory(prefix="convert-") as folder:
        source, output = Path(folder, "dicom"), Path(folder, "nifti")
        source.mkdir()
        output.mkdir()
        for index, path in enumerate(paths):
            (source / f"{index:06d}.dcm").symlink_to(path)
        code, messages = _dcm2niix(source, output)
        sidecars = [_read_sidecar(path) for path in sorted(output.glob("*.json"))]
        files.write_json(record, {"messages": messages, "sidecars": sidecars})
        found = sorted(output.glob("*.nii"))
        if (code != 0 or not found) and shutil.disk_usage(output).free < LEAST_FREE_BYTES:
            raise ToolError("the disk of temporary files is full; make room or set TMPDIR, and run again")
        if code != 0:
            what = "compressed pixel data that cannot be read" if "decode" in " ".join(messages) else f"code {code}"
            raise DataError(f"dcm2niix failed: {what}; export the series again")
        # Of a CT with tilted gantry dcm2niix makes a second image, sheared upright; the first has a wrong affine.
        upright = [path for path in found if "_Tilt" in path.stem]
        found = upright or found
        if len(found) != 1:
            mixed = "; it mixes several scans: export each as a series" if found else "; export the series again"
            raise DataError(f"dcm2niix made {len(found)} images of the series, expected one{mixed} ({TOLD})")
        image = nib.load(found[0])
        if len(image.shape) != 3:
            raise DataError(
                f"dcm2niix made an image of {len(image.shape)} dimensions, expected three: the series holds several "
                f"volumes; export one of them as a series ({TOLD})"
            )
        made_mm = float(image.header.get_zooms()[2])
        if image.shape[2] != n_slices or abs(made_mm - spacing_mm) > SPACING_TOLERANCE * spacing_mm:
            raise DataError(
                f"dcm2niix made {image.shape[2]} slices {made_mm:.3f} mm apart, "
                f"the positions say {n_slices} slices {spacing_mm:.3f} mm apart: slices are missing, doubled or "
                f"unevenly spaced; export the series again ({TOLD})"
            )
        repairs = acceptance.check(image, "the converted image", is_ct=is_ct)
        if not upright:
            _check_place(image, paths[0])
            _check_place(image, paths[-1])
        if len(sidecars) != 1:
            raise DataError(
                f"dcm2niix made {len(sidecars)} sidecars of the series, expected one; export the series again ({TOLD})"
            )
        identifiers = _identifiers(paths[0])
        content = profile.sidecar(sidecars[0], identifiers) | _notes(repairs, _warnings(messages, identifiers))
        if defacer is not None:
            image, content = defacer(image, "the converted image", is_ct=is_ct), content | defacer.facts
        _write(image, target, content)


def from_bids(path: Path, target: Path, *, defacer: Defacer | None = None) -> None:
    """Check an image of a BIDS dataset and link it; one that is not ``.nii.gz`` or is changed is rewritten.

    Raises
    ------
    DataError
        If it cannot be read or is no scan of a head (:mod:`.images`, :mod:`.acceptance`).
    ConfigurationError
        If it is gone.
    """
    _check_presence([path])
    source = path.with_name(path.name.removesuffix(images.extension(path)) + ".json")
    content = profile.sidecar(_read_sidecar(source) if source.is_file() else {})
    with images.opened(path, whole=True) as opened:
        is_ct = target.name.endswith("_ct.nii.gz")
        repairs = opened.repairs + acceptance.check(opened.image, path.name, is_ct=is_ct)
        if defacer is not None:
            image = defacer(opened.image, path.name, is_ct=is_ct)
            _write(image, target, content | _notes(repairs) | defacer.facts)
        elif images.extension(path) == ".nii.gz" and len(opened.image.shape) == 3 and not repairs:
            _link(path, target)
            files.write_json(sidecar_of(target), content)
        else:
            _write(opened.image, target, content | _notes(repairs))


def _check_place(image: SpatialImage, path: Path) -> None:
    """See that the corners of a file's first slice are where its header says: left is left, and first is first.

    dcm2niix keeps columns in their order and turns rows about. DICOM's x and y axes point the other way than NIfTI's.
    """
    try:
        header = headers.read(path) or headers.Header({})
        frame = (
            header.frames[0] if header.frames else [headers.numbers(header.texts.get(name)) for name in headers.PLACE]
        )
        directions, position, pixel_mm = (
            np.reshape(part, (-1, size)) for part, size in zip(frame, (3, 3, 1), strict=True)
        )
        corners = np.array([(column, row) for column in (0, image.shape[0] - 1) for row in (0, image.shape[1] - 1)])
        places_mm = (position + corners @ (directions * pixel_mm[::-1])) * (-1, -1, 1)
    except (DataError, ValueError) as error:  # changed since the inventory; the text would name the file
        raise DataError("a header cannot be read a second time; export the series again") from error
    slices = np.rint(nib.affines.apply_affine(np.linalg.inv(image.affine), places_mm)[:, 2]).clip(0, image.shape[2] - 1)
    voxels = np.column_stack([corners[:, 0], image.shape[1] - 1 - corners[:, 1], slices])
    apart_mm = np.linalg.norm(nib.affines.apply_affine(image.affine, voxels) - places_mm, axis=1).max()
    if apart_mm > PLACE_TOLERANCE * np.linalg.norm(places_mm[-1] - places_mm[0]):
        raise DataError(
            f"dcm2niix places slices {apart_mm:.0f} mm from where their headers say; export the series again"
        )


def _notes(repairs: Sequence[str], told: Sequence[str] = ()) -> dict[str, list[str]]:
    """What a sidecar says about the conversion, where there is something to say."""
    return {key: list(texts) for key, texts in ((REPAIRS, repairs), (WARNINGS, told)) if texts}


def _warnings(messages: Sequence[str], identifiers: profile.Identifiers) -> list[str]:
    """What of dcm2niix's warnings may be told: what they quote may be free text of a header, such as a protocol."""
    found = [re.sub("'.*'", "'…'", text) for text in messages if text.startswith("Warning")]
    return [text for text in found if not identifiers.are_in(text)]


def _identifiers(path: Path) -> profile.Identifiers:
    """Names and numbers of the patient in a DICOM header."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # would print values
            return profile.Identifiers.of(pydicom.dcmread(path, stop_before_pixels=True, force=True))
    except Exception as error:  # pydicom raises nearly anything on a damaged file
        raise DataError("a header cannot be read a second time; export the series again") from error


def _read_sidecar(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8", errors="replace"), parse_constant=lambda _: None)
    except (OSError, ValueError) as error:
        raise DataError(f"{path.name}: cannot be read as JSON; mend or remove it") from error
    if not isinstance(content, dict):
        raise DataError(f"{path.name}: is not a JSON object; mend or remove it")
    return content


def _check_presence(paths: Sequence[Path]) -> None:
    """Stop, rather than reject the scan: an archive that is not mounted says nothing about its scans."""
    gone = sum(not path.is_file() for path in paths)
    if gone:
        raise ConfigurationError(
            f"{gone} of the {len(paths)} files of a series are gone since the inventory; "
            "see that the archive is where it was, or run the inventory again"
        )


def _dcm2niix(source: Path, output: Path) -> tuple[int, list[str]]:
    """Convert a folder; exit code of the program and what it said, without paths and times."""
    try:
        from dcm2niix import bin as program
    except ImportError as error:
        raise ToolError("dcm2niix is not installed; pip install dcm2niix") from error
    # -x i: neither crop nor rotate, so that the third axis stays the slice axis.
    options = ("-b", "y", "-ba", "y", "-z", "n", "-x", "i", "-f", "scan", "-o", str(output))
    try:
        done = subprocess.run(
            [program, *options, str(source)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            timeout=CONVERSION_LIMIT_S,
        )
    except OSError as error:
        raise ToolError(
            f"dcm2niix cannot be started ({error.strerror}); pip install --force-reinstall dcm2niix"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise DataError(f"dcm2niix did not end within {CONVERSION_LIMIT_S} s; export the series again") from error
    lines = done.stdout.decode(errors="replace").replace(f"{source.parent}/", "").splitlines()
    return done.returncode, [line for line in lines if not line.startswith("Conversion required")]


def _write(image: SpatialImage, target: Path, sidecar: Mapping[str, Any]) -> None:
    """Write stored values as they are, under a fresh header that keeps geometry, type and scaling only."""
    proxy = image.dataobj
    is_nifti = isinstance(image, nib.Nifti1Image) and nib.is_proxy(proxy)
    values = np.asanyarray(proxy.get_unscaled() if is_nifti else proxy)
    clean = nib.Nifti1Image(values.reshape(image.shape[:3]), image.affine, dtype=values.dtype)
    clean.header.set_xyzt_units("mm", "sec")
    clean.set_sform(image.affine, code=1)
    clean.set_qform(image.affine, code=1)
    if is_nifti:
        clean.header.set_slope_inter(proxy.slope, proxy.inter)
    with files.whole(target) as temporary:
        nib.save(clean, temporary)  # nibabel's gzip has neither time nor file name in it
    files.write_json(sidecar_of(target), sidecar)


def _link(path: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".part-{uuid.uuid4().hex}")
    temporary.symlink_to(path.resolve())
    temporary.replace(target)
