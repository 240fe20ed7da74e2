"""Register two scans: rigid, affine, or affine and then a stationary velocity field (NiftyReg).

Leaves in DIR ``warped.nii.gz`` (the moving scan on the fixed scan's grid), ``affine.txt``, ``displacement.nii.gz`` (mm,
RAS, from each fixed voxel to its place in the moving scan), ``inverse_displacement.nii.gz``, with svf the velocity
fields, and ``registration.json``: where all comes from, and how good it is. Everything else in the moving scan's space
(``--also``, ``--labels``) is brought onto the fixed grid by the same transform, interpolated once.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .pairs import Image, Settings
    from .transforms import Grid, Transform

#: Raise when the output of unchanged input with unchanged programs changes.
ALGORITHM_VERSION = 2
SIDECAR, WARPED, POINTS = "registration.json", "warped.nii.gz", "points"
ITK_DISPLACEMENT = "displacement_itk.nii.gz"
#: Both scans of a longitudinal pair in the mid-space.
MIDWAY = ("fixed_midspace.nii.gz", "moving_midspace.nii.gz")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("fixed", type=Path, metavar="FIXED", help="scan that the other is brought to")
    parser.add_argument("moving", type=Path, metavar="MOVING", help="scan that is brought to it")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for everything")
    parser.add_argument("--transform", choices=("rigid", "affine", "svf"), default="svf",
                        help="svf: affine, then a stationary velocity field (default)")  # fmt: skip
    parser.add_argument("--spacing-mm", type=float, default=5.0, metavar="MM",
                        help="distance of the velocity field's control points (default %(default)s)")  # fmt: skip
    parser.add_argument("--midspace", action="store_true", help="two scans of one person: symmetric, through a space "
                        "half between them, which both are also left in")  # fmt: skip
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default %(default)s)")
    parser.add_argument("--iterations", type=int, metavar="N", help="most iterations of the velocity field's last "
                        "level (default: NiftyReg's 150)")  # fmt: skip
    masks = parser.add_argument_group("where to look")
    masks.add_argument("--fixed-mask", type=Path, metavar="IMAGE", help="voxels that count, on the fixed scan's grid")
    masks.add_argument("--moving-mask", type=Path, metavar="IMAGE", help="voxels that count, on the moving scan's grid")
    masks.add_argument("--initial", type=Path, metavar="FILE", help="linear transform to start from (default: the "
                       "images' centres on each other)")  # fmt: skip
    masks.add_argument("--initial-format", choices=("niftyreg", "itk", "fsl", "fs"), default="niftyreg",
                       help="whose it is; fs: FreeSurfer's LTA (default %(default)s)")  # fmt: skip
    more = parser.add_argument_group("what goes along")
    more.add_argument("--also", type=Path, nargs="+", default=[], metavar="IMAGE", help="images in the moving scan's "
                      "space, on any grid")  # fmt: skip
    more.add_argument("--labels", type=Path, nargs="+", default=[], metavar="IMAGE", help="label maps and masks there "
                      "(nearest neighbour)")  # fmt: skip
    more.add_argument("--fixed-labels", type=Path, metavar="IMAGE", help="label map of the fixed scan: its overlap "
                      "with the first of --labels is told")  # fmt: skip
    more.add_argument("--points", type=Path, metavar="TABLE", help="landmarks of the fixed scan: landmark, x_mm, y_mm, "
                      "z_mm (RAS), or BraTS-Reg's CSV; carried to the moving scan")  # fmt: skip
    more.add_argument("--moving-points", type=Path, metavar="TABLE", help="the same landmarks in the moving scan: the "
                      "errors are told")  # fmt: skip
    more.add_argument("--export", nargs="+", choices=("itk", "fsl", "fs"), default=[], help="write the linear part for "
                      "ITK and ANTs (and there the displacement), FSL, FreeSurfer")  # fmt: skip


def run(arguments: argparse.Namespace) -> None:
    """Register and write everything; the sidecar last."""
    from synthsr import files, io, progress

    from ..errors import ConfigurationError
    from . import pairs, points, quality, store, transforms

    settings = pairs.Settings(arguments.transform, arguments.spacing_mm, arguments.threads, arguments.iterations)
    if arguments.midspace and (arguments.initial or arguments.fixed_mask or arguments.moving_mask):
        raise ConfigurationError("--midspace goes without masks and --initial; leave them out, or it")
    if arguments.moving_points and not arguments.points:
        raise ConfigurationError("--moving-points needs --points")
    if arguments.fixed_labels and not arguments.labels:
        raise ConfigurationError("--fixed-labels needs --labels, the moving scan's")
    names = [io.stem(path) for path in (*arguments.also, *arguments.labels)]
    if len(set(names)) < len(names):
        raise ConfigurationError("two of --also and --labels have the same name; they would overwrite each other")

    # Everything is read before anything is computed.
    fixed, moving = pairs.Image.load(arguments.fixed), pairs.Image.load(arguments.moving)
    masks = [path and pairs.Image.load(path) for path in (arguments.fixed_mask, arguments.moving_mask)]
    initial = _initial(arguments)
    landmarks = [path and points.read(path) for path in (arguments.points, arguments.moving_points)]
    also = [pairs.Image.load(path) for path in arguments.also]
    labels = [pairs.Image.load(path) for path in arguments.labels]
    fixed_labels = arguments.fixed_labels and pairs.Image.load(arguments.fixed_labels)
    if fixed_labels:
        pairs.check_grid(fixed_labels, fixed)

    out: Path = arguments.out
    (out / SIDECAR).unlink(missing_ok=True)
    if arguments.midspace:
        found, to_fixed, to_moving, middle = pairs.register_midway(fixed, moving, settings=settings)
        _write_midway((fixed, moving), (to_fixed, to_moving), middle, out, threads=settings.threads)
    else:
        found = pairs.register(
            fixed, moving, settings=settings, fixed_mask=masks[0], moving_mask=masks[1], initial=initial
        )
    displacement = store.save(found, fixed.grid, moving.grid, out)
    warped = pairs.resample(moving, found.forward, fixed.grid, threads=settings.threads)
    io.save(warped, fixed.grid, out / WARPED)
    for image, path in zip(also, arguments.also, strict=True):
        carried = pairs.resample(image, found.forward, fixed.grid, threads=settings.threads)
        io.save(carried, fixed.grid, out / f"{io.stem(path)}_warped.nii.gz")
    overlaps: dict[int, float] = {}
    for number, (image, path) in enumerate(zip(labels, arguments.labels, strict=True)):
        carried = pairs.resample(image, found.forward, fixed.grid, is_labels=True, threads=settings.threads)
        io.save(carried.round().astype("int32"), fixed.grid, out / f"{io.stem(path)}_warped.nii.gz")
        if fixed_labels and number == 0:
            overlaps = quality.dice(fixed_labels.data, carried)
    errors: dict[str, float] = {}
    if landmarks[0]:
        there = points.carried(landmarks[0], found.forward)
        points.write(there, out / f"{POINTS}{arguments.points.suffix}")
        if landmarks[1]:
            errors = points.errors_mm(there, landmarks[1])
    for kind in arguments.export:
        target = out / f"affine_{kind}{transforms.LINEAR_FORMATS[kind]}"
        transforms.export_linear(
            found.forward.linear, target, kind=kind, fixed=arguments.fixed, moving=arguments.moving
        )
    if "itk" in arguments.export:
        transforms.export_field(displacement, out / ITK_DISPLACEMENT)
    measured = quality.measure(fixed, moving, warped, found, displacement)
    facts = describe(arguments.fixed, arguments.moving, settings)
    facts["Midspace"] = arguments.midspace
    facts["Quality"] = measured.as_json()
    if overlaps:
        facts["Dice"] = {str(number): round(value, 4) for number, value in overlaps.items()}
        facts["Quality"]["dice_mean"] = round(sum(overlaps.values()) / len(overlaps), 4)
    if errors:
        facts["LandmarkErrorsMM"] = {name: round(value, 4) for name, value in errors.items()}
    files.write_json(out / SIDECAR, facts)
    shown = f"nmi {measured.nmi:.3f}, folding {100 * measured.folding_fraction:.2g} %"
    progress.say(f"register: {settings.kind}, {shown}, inverse {measured.inverse_mean_mm:.2f} mm → {out}")


def describe(fixed: Path, moving: Path, settings: Settings) -> dict[str, Any]:
    """The part of a sidecar that tells what was registered, how, and with what."""
    from dataclasses import asdict

    from synthsr import __version__, files

    from . import niftyreg

    return {
        "Sources": [fixed.name, moving.name],
        "SourceSHA256": [files.sha256(fixed), files.sha256(moving)],
        "GeneratedBy": {"Name": "synthsr-cohort", "Version": __version__, "Algorithm": ALGORITHM_VERSION},
        "SoftwareVersions": {"NiftyReg": niftyreg.locate().version},
        "Settings": {name: value for name, value in asdict(settings).items() if name != "threads"},
        "Convention": "displacement: mm, RAS, from each fixed voxel to its place in the moving scan",
    }


def _initial(arguments: argparse.Namespace) -> Any:
    from . import transforms

    if arguments.initial is None:
        return None
    if arguments.initial_format == "niftyreg":
        return transforms.read_matrix(arguments.initial)
    return transforms.import_linear(
        arguments.initial, kind=arguments.initial_format, fixed=arguments.fixed, moving=arguments.moving
    )


def _write_midway(scans: Sequence[Image], midway: Sequence[Transform], grid: Grid, out: Path, *, threads: int) -> None:
    """Both scans in the mid-space, by the linear part alone."""
    from synthsr import io

    from . import pairs

    for name, scan, transform in zip(MIDWAY, scans, midway, strict=True):
        io.save(pairs.resample(scan, transform, grid, threads=threads), grid, out / name)
