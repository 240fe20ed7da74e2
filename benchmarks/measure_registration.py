"""Registration against known transforms, on real patients against others' affines, and its cost.

    python benchmarks/measure_registration.py known --data $SYNTHSR_TEST_DATA --out DIR
    python benchmarks/measure_registration.py patients --data $SYNTHSR_TEST_DATA --out DIR
    python benchmarks/measure_registration.py speed --data $SYNTHSR_TEST_DATA --out DIR

``known``: each real T1 is brought through a random affine, and through a random diffeomorphism besides, onto another
grid, with another contrast, a bias field and noise, and registered back; both are cut to boxes about their brains.
``patients``: T1W and T2W laid on the FLAIR of two patients with multiple sclerosis (Lesjak et al., Neuroinformatics
2016), against the affines that come with them. ``speed``: two people's T1s, cut likewise, by kind of transform, spacing
and threads, and what an atlas of many cases would take. Every case leaves a JSON file in DIR and is not done again.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial.transform import Rotation

from analysis.registration import align, pairs, transforms
from analysis.registration.pairs import Image, Settings
from analysis.registration.transforms import Field, Grid, Transform, move
from analysis.simulate import deform
from synthsr import files

SCANS = ("uih", "uih2", "datalad")
#: Coarse nodes of the random velocities (mm), their standard deviation and smoothness in nodes.
NODE_MM, VELOCITY_SD, VELOCITY_LENGTH = 4.0, 0.9, 5.0
#: Noise and bias of the warped copy: parts of the largest grey level.
NOISE, BIAS, GAMMA = 0.02, 0.2, 0.8
#: About the brain, where scans are cut to it; and off its middle, where left and right are told apart.
MARGIN_MM, LATERAL_MM = 10.0, 10.0
#: Cases that ITK affines come with: folder, moving and fixed scan.
PATIENTS = (("04", "study1_T1W", "study1_FLAIR"), ("04", "study1_T2W", "study1_FLAIR"),
            ("20", "study2_T1W", "study2_FLAIR"))  # fmt: skip
#: An atlas: cases, rounds of each kind, jobs at a time.
CASES, ROUNDS, JOBS = 1251, {"rigid": 1, "affine": 3, "svf": 6}, 100


def main() -> None:
    """Run one of the three."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("known", "patients", "speed"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--voxel-mm", type=float, default=2.0)
    parser.add_argument("--scans", nargs="+", default=SCANS)
    parser.add_argument("--kinds", nargs="+", default=("affine", "svf"))
    parser.add_argument("--spacings-mm", type=float, nargs="+", default=(5.0, 10.0, 20.0))
    parser.add_argument("--threads", type=int, nargs="+", default=(1,))
    parser.add_argument("--iterations", type=int, help="of the velocity field's last level (default: NiftyReg's 150)")
    parser.add_argument("--whole-heads", action="store_true", help="do not cut the scans to boxes about their brains")
    arguments = parser.parse_args()
    {"known": known, "patients": patients, "speed": speed}[arguments.what](arguments)


def once(path: Path, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a case gave, measured only if it is not there yet, with seconds by the clock and of the programs."""
    if not path.is_file():
        start, before = time.monotonic(), _cpu_s()
        content = measure()
        content |= {"seconds": round(time.monotonic() - start, 1), "cpu_seconds": round(_cpu_s() - before, 1)}
        files.write_json(path, content)
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    print(path.stem, json.dumps(found), flush=True)
    return found


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def t1(data: Path, name: str) -> tuple[Image, Image]:
    """A real T1 and the label map of its brain."""
    folder = data / "nifti" / "t1_targets"
    return Image.load(folder / f"{name}_T1w.nii.gz"), Image.load(folder / f"{name}_desc-meshnet18_dseg.nii.gz")


def coarser(scan: Image, voxel_mm: float, transform: Transform | None = None) -> Image:
    """A scan on a coarser grid of RAS axes about its middle, or what a transform makes of it there."""
    extent = scan.grid.spacing_mm * scan.grid.shape
    shape = np.ceil(extent / voxel_mm).astype(int)
    affine = np.diag([voxel_mm, voxel_mm, voxel_mm, 1.0])
    middle = move(scan.grid.affine, (np.array(scan.grid.shape) - 1) / 2)
    affine[:3, 3] = middle - voxel_mm * (shape - 1) / 2
    grid = Grid((int(shape[0]), int(shape[1]), int(shape[2])), affine)
    return brought(scan, transform or transforms.linear(np.eye(4)), grid, voxel_mm)


def brought(scan: Image, transform: Transform, grid: Grid, voxel_mm: float) -> Image:
    """What a transform makes of a scan on a grid; blurred before as voxels of the grid's size would see it."""
    sd = 0.42 * voxel_mm / scan.grid.spacing_mm
    blurred = Image(scan.name, ndimage.gaussian_filter(scan.data, sd), scan.grid)
    return Image(scan.name, pairs.resample(blurred, transform, grid).clip(min=0), grid)


def cut(scan: Image, points_mm: npt.NDArray[np.float64]) -> Image:
    """The box of a scan that holds points (n, 3) and :data:`MARGIN_MM` about them."""
    voxels = scan.grid.voxels(points_mm)
    margin = MARGIN_MM / scan.grid.spacing_mm
    low = np.maximum(np.floor(voxels.min(axis=0) - margin), 0).astype(int)
    high = np.minimum(np.ceil(voxels.max(axis=0) + margin) + 1, scan.grid.shape).astype(int)
    affine = scan.grid.affine.copy()
    affine[:3, 3] = move(scan.grid.affine, low)
    data = np.ascontiguousarray(scan.data[tuple(slice(a, b) for a, b in zip(low, high, strict=True))])
    return Image(scan.name, data, Grid((data.shape[0], data.shape[1], data.shape[2]), affine))


def random_transform(rng: np.random.Generator, scan: Image, *, bent: bool) -> Transform:
    """A random affine about the scan's middle, and a random diffeomorphism before it."""
    middle = move(scan.grid.affine, (np.array(scan.grid.shape) - 1) / 2)
    matrix = np.eye(4)
    shear = np.eye(3) + np.triu(rng.uniform(-0.02, 0.02, (3, 3)), 1)
    turn = Rotation.from_euler("xyz", rng.uniform(-10, 10, 3), degrees=True).as_matrix()
    matrix[:3, :3] = turn @ shear @ np.diag(np.exp(rng.uniform(-0.08, 0.08, 3)))
    matrix[:3, 3] = middle - matrix[:3, :3] @ middle + rng.uniform(-10, 10, 3)
    if not bent:
        return transforms.linear(matrix)
    extent = scan.grid.spacing_mm * scan.grid.shape + 40
    shape = tuple(int(n) for n in np.ceil(extent / NODE_MM))
    velocity = deform.random_velocity(rng, shape, sd=VELOCITY_SD, length=VELOCITY_LENGTH)
    nodes = np.diag([NODE_MM] * 3 + [1.0])
    nodes[:3, 3] = middle - NODE_MM * (np.array(shape) - 1) / 2
    displacement = NODE_MM * np.moveaxis(deform.flow(velocity), 0, -1)
    grid = Grid((shape[0], shape[1], shape[2]), nodes)
    return Transform(np.eye(4), Field(displacement.astype(np.float32), grid), matrix)


def altered(scan: Image, rng: np.random.Generator) -> Image:
    """The scan with another contrast, a bias field and noise."""
    largest = float(np.percentile(scan.data, 99.5))
    grey = (scan.data / largest).clip(0, 1.5) ** GAMMA
    wave = ndimage.zoom(rng.normal(0, BIAS, (4, 4, 4)), np.array(scan.data.shape) / 4, order=3)
    noisy = np.hypot(grey * np.exp(wave) + rng.normal(0, NOISE, grey.shape), rng.normal(0, NOISE, grey.shape))
    return Image(scan.name, (1000 * noisy).astype(np.float32), scan.grid)


def brain_points(grid: Grid, labels: Image, transform: Transform) -> npt.NDArray[np.float64]:
    """Voxel centres of a grid whose place is in the brain, every second along an axis, (n, 3) mm."""
    points = grid.points()[::2, ::2, ::2].reshape(-1, 3)
    voxels = np.rint(labels.grid.voxels(transform.carry(points))).astype(int)
    held = ((voxels >= 0) & (voxels < labels.grid.shape)).all(axis=1)
    inside = np.zeros(len(points), dtype=bool)
    inside[held] = labels.data[tuple(voxels[held].T)] > 0
    return points[inside]


def known(arguments: argparse.Namespace) -> None:
    """Known transforms recovered."""
    rounds = arguments.iterations or "all"
    for number, name in enumerate(SCANS):
        for kind in arguments.kinds:
            if name in arguments.scans:
                every = f"_every{arguments.spacings_mm[0]:g}mm_{rounds}iterations" if kind == "svf" else ""
                whole = "_whole" if arguments.whole_heads else ""
                path = arguments.out / f"known_{name}_{kind}{every}_{arguments.voxel_mm:g}mm{whole}.json"
                once(path, partial(recovered, number, name, kind, arguments))


def recovered(number: int, name: str, kind: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """One known transform recovered, with distances in mm over the brain."""
    rng = np.random.default_rng([7, number, kind == "svf"])
    scan, labels = t1(arguments.data, name)
    true = random_transform(rng, scan, bent=kind == "svf")
    fixed = altered(coarser(scan, arguments.voxel_mm, true), rng)
    moving = coarser(scan, 1.15 * arguments.voxel_mm)
    points = brain_points(fixed.grid, labels, true)
    places = true.carry(points)
    if not arguments.whole_heads:
        fixed, moving = cut(fixed, points), cut(moving, places)
    settings = Settings(kind, arguments.spacings_mm[0], arguments.threads[0], arguments.iterations)
    found = pairs.register(fixed, moving, settings=settings)
    there = found.forward.carry(points)
    error = np.linalg.norm(there - places, axis=1)
    linear = np.linalg.norm(move(found.forward.linear, points) - places, axis=1)
    back = np.linalg.norm(found.inverse.carry(there) - points, axis=1)
    # The plane between the hemispheres nearly is one of these scans' grids.
    middle = places[:, 0].mean()
    lateral = np.abs(places[:, 0] - middle) > LATERAL_MM
    content = {
        "moved_mm": float(np.linalg.norm(places - points, axis=1).mean()),
        "affine_error_mm": float(linear.mean()),
        "error_mm": float(error.mean()),
        "error_p95_mm": float(np.percentile(error, 95)),
        "inverse_mm": float(back.mean()),
        "inverse_p95_mm": float(np.percentile(back, 95)),
        "same_side_fraction": float((((there - middle) * (places - middle))[lateral, 0] > 0).mean()),
        "voxels": int(np.prod(fixed.grid.shape)),
        "voxel_mm": arguments.voxel_mm,
        "settings": asdict(settings),
    }
    if true.field is not None and found.forward.field is not None:
        log_jacobian = np.log(true.field.jacobian())
        content |= {
            "bend_mm": float(np.linalg.norm(true.field.displacement_mm, axis=-1).mean()),
            "bend_log_jacobian_sd": float(log_jacobian.std()),
            "folding_fraction": float((found.forward.field.jacobian() <= 0).mean()),
        }
    return content


def patients(arguments: argparse.Namespace) -> None:
    """Scans of one session laid on each other, against the affines that come with them."""
    root = arguments.data / "ms" / "longitudinal"
    for patient, moving, fixed in PATIENTS:

        def measure(patient: str = patient, moving: str = moving, fixed: str = fixed) -> dict[str, Any]:
            raw = root / f"raw_{patient}"
            paths = {"fixed": raw / f"{fixed}.nii.gz", "moving": raw / f"{moving}.nii.gz"}
            study = fixed.split("_")[0]

            def itk(name: str) -> transforms.Matrix:
                return transforms.import_linear(raw / f"{name}.txt", kind="itk", **paths)

            mask = Image.load(root / f"coreg_{patient}" / "brainmask.nii.gz")
            brain = move(mask.grid.affine, np.argwhere(mask.data > 0)[::23])
            # ITK's transforms take points of the fixed space to the moving one: of the common space to the FLAIR.
            points = move(itk(f"{study}_FLAIR_to_common_space"), brain)
            theirs = itk(f"{moving}_intrastudy_to_FLAIR")
            scans = {name: Image.load(path) for name, path in paths.items()}
            ours = {
                "mutual_information": align.rigid(scans["fixed"], scans["moving"]),
                "block_matching": pairs.register(
                    scans["fixed"], scans["moving"], settings=Settings("rigid")
                ).forward.linear,
            }
            target = move(theirs, points)
            content: dict[str, Any] = {"before_mm": float(np.linalg.norm(points - target, axis=1).mean())}
            for name, matrix in ours.items():
                away = np.linalg.norm(move(matrix, points) - target, axis=1)
                content |= {f"{name}_mm": float(away.mean()), f"{name}_largest_mm": float(away.max())}
            return content

        once(arguments.out / f"patient_{patient}_{moving}.json", measure)


def speed(arguments: argparse.Namespace) -> None:
    """Seconds by kind, spacing and threads, and what an atlas would take."""
    fixed, moving = (brain_box(arguments.data, name, arguments.voxel_mm) for name in SCANS[:2])
    settings = [Settings(kind, threads=threads) for threads in arguments.threads for kind in ("rigid", "affine")]
    settings += [
        Settings("svf", spacing_mm, threads, arguments.iterations)
        for threads in arguments.threads
        for spacing_mm in arguments.spacings_mm
    ]
    seconds: dict[str, float] = {}
    for one in settings:
        every = f"_every{one.spacing_mm:g}mm_{one.iterations or 'all'}iterations" if one.kind == "svf" else ""

        def measure(one: Settings = one) -> dict[str, Any]:
            pairs.register(fixed, moving, settings=one)
            return {"voxels": int(np.prod(fixed.grid.shape)), "load": os.getloadavg()[0], "settings": asdict(one)}

        path = arguments.out / f"speed_{one.kind}{every}_{one.threads}threads_{arguments.voxel_mm:g}mm.json"
        # Of the first spacing and number of threads, with which an atlas is reckoned.
        seconds.setdefault(one.kind, once(path, measure)["cpu_seconds"])
    hours = CASES * sum(count * seconds[kind] for kind, count in ROUNDS.items()) / 3600
    print(
        f"an atlas of {CASES} cases at {arguments.voxel_mm:g} mm, control points every {arguments.spacings_mm[0]:g} mm "
        f"takes {hours:.0f} processor hours, {hours / JOBS:.1f} hours with {JOBS} jobs at a time"
    )


def brain_box(data: Path, name: str, voxel_mm: float) -> Image:
    """A real T1 on a coarser grid, cut to the box about its brain."""
    scan, labels = t1(data, name)
    return cut(coarser(scan, voxel_mm), move(labels.grid.affine, np.argwhere(labels.data > 0)))


if __name__ == "__main__":
    main()
