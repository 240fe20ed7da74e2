"""Makes one scan's NIfTI file and sidecar, free of what could identify the patient."""

from __future__ import annotations

import json
import subprocess
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.spatialimages import SpatialImage

from analysis.errors import ConfigurationError, DataError, ToolError
from analysis.layout import sidecar_of
from synthsr import files

from .bids import extension, unreadable

#: dcm2niix measures the spacing at the first two slices, whose positions may be rounded to 0.1 mm.
SPACING_TOLERANCE = 0.02
CONVERSION_LIMIT_S = 900
#: A smaller voxel is that of an affine whose columns do not span space.
LEAST_VOXEL_MM3 = 1e-6

#: Keys of a sidecar that go on: physics, geometry, the kind of scanner. No free text, no serial number, no time.
SIDECAR_KEYS = (
    *("Modality", "MagneticFieldStrength", "ImagingFrequency", "Manufacturer", "ManufacturersModelName"),
    *("BodyPart", "PatientPosition", "SoftwareVersions", "MRAcquisitionType", "ScanningSequence", "SequenceVariant"),
    *("PulseSequenceType", "SequenceName", "ImageType", "NonlinearGradientCorrection", "SliceThickness"),
    *("SpacingBetweenSlices", "SAR", "EchoNumber", "EchoTime", "RepetitionTime", "InversionTime", "FlipAngle"),
    *("MTState", "SpoilingState", "SpoilingType", "PartialFourier", "BaseResolution", "PercentPhaseFOV"),
    *("PercentSampling", "EchoTrainLength", "PhaseEncodingSteps", "FrequencyEncodingSteps", "AcquisitionMatrixPE"),
    *("ReconMatrixPE", "ParallelReductionFactorInPlane", "ParallelReductionFactorOutOfPlane", "PixelBandwidth"),
    *("DwellTime", "PhaseEncodingAxis", "PhaseEncodingDirection", "ReceiveCoilName", "CoilString"),
    *("ImageOrientationPatientDICOM", "InPlanePhaseEncodingDirectionDICOM", "KVP", "ConvolutionKernel"),
    *("ConversionSoftware", "ConversionSoftwareVersion"),
)


def from_dicom(paths: Sequence[Path], target: Path, *, n_slices: int, spacing_mm: float) -> None:
    """Convert a DICOM series with dcm2niix.

    Parameters
    ----------
    paths
        Its files.
    target
        The ``.nii.gz`` to write; the sidecar comes beside it.
    n_slices, spacing_mm
        What the positions in the headers say; the converted image must agree.

    Raises
    ------
    DataError
        If the result is not one three-dimensional image of this geometry.
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
        _dcm2niix(source, output)
        found = sorted(output.glob("*.nii"))
        # Of a CT with tilted gantry dcm2niix makes a second image, sheared upright; the first has a wrong affine.
        found = [path for path in found if "_Tilt" in path.stem] or found
        if len(found) != 1:
            raise DataError(f"dcm2niix made {len(found)} images of the series, expected one")
        image = nib.load(found[0])
        if len(image.shape) != 3:
            raise DataError(f"dcm2niix made an image of {len(image.shape)} dimensions, expected three")
        made_mm = float(image.header.get_zooms()[2])
        if image.shape[2] != n_slices or abs(made_mm - spacing_mm) > SPACING_TOLERANCE * spacing_mm:
            raise DataError(
                f"dcm2niix made {image.shape[2]} slices {made_mm:.3f} mm apart, "
                f"the positions say {n_slices} slices {spacing_mm:.3f} mm apart"
            )
        _check(image, "the converted image")
        sidecars = sorted(output.glob("*.json"))
        if len(sidecars) != 1:
            raise DataError(f"dcm2niix made {len(sidecars)} sidecars of the series, expected one")
        _write(image, target, _read_sidecar(sidecars[0]))


def from_bids(path: Path, target: Path) -> None:
    """Check an image of a BIDS dataset and link it; one that is not ``.nii.gz`` is rewritten as such.

    Raises
    ------
    DataError
        If it cannot be read, has more than three dimensions, an affine that places no volume, values that are no grey
        levels or not finite, or only one value.
    ConfigurationError
        If it is gone.
    """
    _check_presence([path])
    try:
        image = nib.load(path)
        _check(image, path.name)
    except DataError:
        raise
    except Exception as error:  # nibabel and zlib raise nearly anything on a damaged file
        raise DataError(unreadable(path, error)) from error
    source = path.with_name(path.name.removesuffix(extension(path)) + ".json")
    sidecar = _read_sidecar(source) if source.is_file() else {}
    if extension(path) == ".nii.gz" and len(image.shape) == 3:
        _link(path, target)
        files.write_json(sidecar_of(target), deidentify(sidecar))
    else:
        _write(image, target, sidecar)


def deidentify(sidecar: Mapping[str, Any]) -> dict[str, Any]:
    """Keep only the allowed keys of a sidecar, in their order."""
    return {key: sidecar[key] for key in SIDECAR_KEYS if key in sidecar}


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


def _dcm2niix(source: Path, output: Path) -> None:
    try:
        from dcm2niix import bin as program
    except ImportError as error:
        raise ToolError("dcm2niix is not installed; pip install dcm2niix") from error
    # -x i: neither crop nor rotate, so that the third axis stays the slice axis.
    options = ("-b", "y", "-ba", "y", "-z", "n", "-x", "i", "-f", "scan", "-o", str(output))
    try:
        done = subprocess.run(
            [program, *options, str(source)], capture_output=True, check=False, timeout=CONVERSION_LIMIT_S
        )
    except OSError as error:
        raise ToolError(
            f"dcm2niix cannot be started ({error.strerror}); pip install --force-reinstall dcm2niix"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise DataError(f"dcm2niix did not end within {CONVERSION_LIMIT_S} s") from error
    if done.returncode != 0:
        raise DataError(f"dcm2niix ended with code {done.returncode}")


def _check(image: SpatialImage, name: str) -> None:
    if len(image.shape) < 3 or set(image.shape[3:]) - {1}:
        raise DataError(f"{name}: {' x '.join(map(str, image.shape))} voxels, expected three dimensions")
    if not np.isfinite(image.affine).all() or abs(np.linalg.det(image.affine[:3, :3])) < LEAST_VOXEL_MM3:
        raise DataError(f"{name}: its affine does not describe a volume; mend the header or leave out this scan")
    values = np.asanyarray(image.dataobj)
    if values.dtype.names is not None or np.iscomplexobj(values):
        raise DataError(f"{name}: holds colours or complex numbers, not grey levels; leave out this scan")
    if not np.isfinite(values).all():
        raise DataError(f"{name}: holds values that are not finite (NaN or infinity); mend or leave out this scan")
    if values.min() == values.max():
        raise DataError(f"{name}: is constant, every voxel is {values.min():g}; leave out this scan")


def _write(image: SpatialImage, target: Path, sidecar: Mapping[str, Any]) -> None:
    """Write stored values as they are, under a fresh header that keeps geometry, type and scaling only."""
    proxy = image.dataobj
    is_nifti = isinstance(image, nib.Nifti1Image)
    values = np.asanyarray(proxy.get_unscaled() if is_nifti else proxy)
    clean = nib.Nifti1Image(values.reshape(image.shape[:3]), image.affine, dtype=values.dtype)
    clean.header.set_xyzt_units("mm", "sec")
    clean.set_sform(image.affine, code=1)
    clean.set_qform(image.affine, code=1)
    if is_nifti:
        clean.header.set_slope_inter(proxy.slope, proxy.inter)
    with files.whole(target) as temporary:
        nib.save(clean, temporary)  # nibabel's gzip has neither time nor file name in it
    files.write_json(sidecar_of(target), deidentify(sidecar))


def _link(path: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".part-{uuid.uuid4().hex}")
    temporary.symlink_to(path.resolve())
    temporary.replace(target)
