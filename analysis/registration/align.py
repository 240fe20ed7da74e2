"""Scans of one session laid on their reference scan: rigid, by mutual information, written into their headers.

Contrasts and slices differ within a session while the head hardly moves, so the search starts where the headers say,
and no scan is resampled. Mattes' mutual information (Mattes 2001, SPIE 4322:1609) by SimpleITK.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .pairs import Image
    from .transforms import Matrix

BINS = 50
#: Standard deviations of the smoothing of the levels, coarse to fine.
SMOOTHING_MM = (4.0, 2.0, 0.0)
#: Voxels of the reference that are sampled at each level.
SAMPLES = 100_000
MOST_STEPS = 200
#: First and last length of a step.
STEP_MM, LEAST_STEP_MM = 1.0, 1e-4
SEED = 1
#: Largest translation that is taken for a head's motion between two series.
LARGEST_SHIFT_MM = 60.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("reference", type=Path, metavar="REFERENCE", help="scan that the others are laid on")
    parser.add_argument("scans", type=Path, nargs="+", metavar="SCAN", help="other scans of the session")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the scans with new headers")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default %(default)s)")


def run(arguments: argparse.Namespace) -> None:
    """Write every scan with its header updated, its matrix as ``…_affine.txt`` and where it comes from as JSON."""
    from synthsr import io

    from ..errors import ConfigurationError
    from .pairs import Image

    names = [io.stem(path) for path in arguments.scans]
    if len(set(names)) < len(names):
        raise ConfigurationError("two scans have the same name; their copies would overwrite each other")
    reference = Image.load(arguments.reference)
    for path, name in zip(arguments.scans, names, strict=True):
        facts = write(arguments.reference, reference, path, arguments.out, threads=arguments.threads)
        print(f"{name}: moved {facts['DisplacementMeanMM']:.2f} mm on average → {arguments.out}")


def write(
    source: Path, reference: Image, path: Path, out: Path, *, name: str | None = None, threads: int = 1
) -> dict[str, Any]:
    """Align one scan and write it.

    Parameters
    ----------
    source, reference
        File of the reference scan, and the scan.
    path
        The scan to align.
    out
        Folder.
    name
        Of the files, without ending; the scan's without.
    threads
        CPU threads.

    Returns
    -------
    The sidecar's content.
    """
    import nibabel as nib
    import numpy as np

    from synthsr import __version__, files, io

    from . import transforms
    from .pairs import Image

    scan = Image.load(path)
    matrix = rigid(reference, scan, threads=threads)
    loaded = nib.load(path)
    affine = np.linalg.inv(matrix) @ loaded.affine
    # The voxels stay as they are, in their type and scaling.
    moved = loaded.__class__(loaded.dataobj.get_unscaled(), affine, loaded.header)
    if isinstance(moved, nib.Nifti1Pair):
        moved.header.set_slope_inter(loaded.dataobj.slope, loaded.dataobj.inter)
        moved.set_sform(affine, code=2)
        moved.set_qform(affine, code=2)
    ending = path.name[len(io.stem(path)) :]
    name = name or io.stem(path)
    with files.whole(out / f"{name}{ending}") as temporary:
        nib.save(moved, temporary)
    transforms.write_matrix(matrix, out / f"{name}_affine.txt")
    every = tuple(slice(None, None, 4) for _ in range(3))
    points = reference.grid.points()[every]
    distance = np.linalg.norm(transforms.move(matrix, points) - points, axis=-1)
    facts = {
        "Sources": [path.name, source.name],
        "SourceSHA256": [files.sha256(path), files.sha256(source)],
        "GeneratedBy": {"Name": "synthsr-cohort", "Version": __version__},
        "SoftwareVersions": {"SimpleITK": _version()},
        "Transform": "rigid, mutual information; written into the header",
        "DisplacementMeanMM": round(float(distance.mean()), 4),
        "DisplacementLargestMM": round(float(distance.max()), 4),
    }
    files.write_json(out / f"{name}.json", facts)
    return facts


def rigid(reference: Image, scan: Image, *, threads: int = 1) -> Matrix:
    """Rigid transform from mm of the reference to mm of the scan (4, 4; RAS), starting at their headers.

    Raises
    ------
    DataError
        If a scan is empty, the headers lay the scans beside each other, or the search ends far from the start.
    """
    import numpy as np
    import SimpleITK as sitk

    from ..errors import DataError
    from . import pairs, transforms

    for image in (reference, scan):
        pairs.check(image)
    shared = pairs.overlap(reference.grid, scan.grid, transforms.linear(np.eye(4)))
    if shared < pairs.LEAST_OVERLAP:
        raise DataError(
            f"{scan.name}: by the headers it holds {100 * shared:.0f} % of the field of view of {reference.name}, "
            f"{100 * pairs.LEAST_OVERLAP:.0f} % is the least: they are not of one session; register them instead"
        )
    fixed, moving = (_for_itk(image) for image in (reference, scan))
    centre = fixed.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in fixed.GetSize()])
    search = sitk.ImageRegistrationMethod()
    search.SetNumberOfThreads(threads)
    search.SetMetricAsMattesMutualInformation(BINS)
    search.SetMetricSamplingStrategy(search.RANDOM)
    search.SetMetricSamplingPercentage(min(1.0, SAMPLES / reference.data.size), SEED)
    search.SetInterpolator(sitk.sitkLinear)
    search.SetShrinkFactorsPerLevel([1] * len(SMOOTHING_MM))
    search.SetSmoothingSigmasPerLevel(SMOOTHING_MM)
    search.SetSmoothingSigmasAreSpecifiedInPhysicalUnits(True)
    search.SetOptimizerAsRegularStepGradientDescent(
        learningRate=STEP_MM, minStep=LEAST_STEP_MM, numberOfIterations=MOST_STEPS, relaxationFactor=0.6
    )
    search.SetOptimizerScalesFromPhysicalShift()
    transform = sitk.Euler3DTransform()
    transform.SetCenter(centre)
    search.SetInitialTransform(transform, inPlace=True)
    try:
        search.Execute(fixed, moving)
    except RuntimeError as error:
        raise DataError(
            f"{scan.name}: no alignment with {reference.name} found ({str(error).splitlines()[-1].strip()})"
        ) from error
    lps = np.eye(4)
    lps[:3, :3] = np.reshape(transform.GetMatrix(), (3, 3))
    origin = np.array(transform.GetCenter())
    lps[:3, 3] = np.array(transform.GetTranslation()) + origin - lps[:3, :3] @ origin
    to_ras = np.diag([-1.0, -1.0, 1.0, 1.0])
    matrix = to_ras @ lps @ to_ras
    shift = float(np.linalg.norm(transform.GetTranslation()))
    if not np.isfinite(matrix).all() or shift > LARGEST_SHIFT_MM:
        raise DataError(
            f"{scan.name}: the best alignment with {reference.name} shifts it by {shift:.0f} mm, more than a head "
            f"moves between two series ({LARGEST_SHIFT_MM:.0f} mm); are both scans of one session?"
        )
    return matrix


def _for_itk(image: Image) -> Any:
    """An image in SimpleITK's memory and world (LPS)."""
    import numpy as np
    import SimpleITK as sitk

    spacing = image.grid.spacing_mm
    direction = np.diag([-1.0, -1.0, 1.0]) @ (image.grid.affine[:3, :3] / spacing)
    made = sitk.GetImageFromArray(np.ascontiguousarray(image.data.transpose(2, 1, 0), dtype=np.float32))
    made.SetSpacing([float(mm) for mm in spacing])
    made.SetDirection([float(cosine) for cosine in direction.ravel()])
    made.SetOrigin([float(mm) for mm in np.array([-1, -1, 1]) * image.grid.affine[:3, 3]])
    return made


def _version() -> str:
    from importlib import metadata

    return metadata.version("SimpleITK")
