"""Errors at landmarks of virtual tumour pairs: scans before and after an operation, registered directly and as SynthSR.

    python benchmarks/tumour_pairs.py --out DIR
    python benchmarks/tumour_pairs.py --out DIR --until prepared

Patients of ``config/clinic/tumour.yaml`` with a seed of their own are simulated; every scan becomes a synthetic T1; the
brain of every session is outlined once, in the T1 without contrast agent, as ``synthsr strip`` does it. Scans and
synthetic T1s of a session are then brought onto one isotropic grid about that brain, and are 0 outside its mask: skulls
are off both methods alike, as in BraTS-Reg. The follow-up (fixed) is registered with the scan before the operation
(moving), its landmarks are carried there, and the distance to where they are is the error (Baheti 2021, arXiv
2112.06979). Every registration leaves a JSON file and is not done again.

The experiment is that of Iglesias et al., Science Advances 2023 (figure 4), on virtual patients.
"""

from __future__ import annotations

import argparse
import json
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from measure_registration import brought, once

from analysis import tsv
from analysis.cli import main as analysis
from analysis.registration import cohort, pairs, points, transforms
from analysis.registration.pairs import Image, Settings
from analysis.registration.transforms import Grid, Matrix, move
from synthsr import inference
from synthsr.predict import Predictor
from synthsr.segment import Segmenter
from synthsr.strip import strip

SEED = 4711
CONTRASTS = ("T1w", "T1CE", "T2w", "FLAIR")
#: The contrast that brains are outlined in.
OUTLINED = "T1w"
BEFORE, AFTER = "ses-01", "ses-02"
#: Border of the brain's mask, and of the box about it beyond that.
BORDER_MM, MARGIN_MM = 2.0, 2.0
STEPS = ("simulated", "prepared", "registered")


def main() -> None:
    """Simulate, prepare, register, and tell the errors; each as far as it is not done yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--patients", type=int, default=9)
    parser.add_argument("--contrasts", nargs="+", choices=CONTRASTS, default=CONTRASTS)
    parser.add_argument("--spacings-mm", type=float, nargs="+", default=(5.0, 10.0, 20.0))
    parser.add_argument("--voxel-mm", type=float, default=2.0)
    parser.add_argument("--iterations", type=int, help="of the last level (default: NiftyReg's 150)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--until", choices=STEPS, default=STEPS[-1])
    arguments = parser.parse_args()
    inference.prepare_process(arguments.threads)
    out: Path = arguments.out
    simulate(out, arguments.patients)
    folder = out / f"pairs_{arguments.voxel_mm:g}mm_{arguments.iterations or 'all'}iterations"
    people = sorted({participant for participant, _, _ in scans(out)})
    for participant in people if arguments.until != "simulated" else ():
        prepare(out, participant)
        if arguments.until == "registered":
            register(out, folder, participant, arguments)
            tell(folder)


def simulate(out: Path, patients: int) -> None:
    """The clinic, as far as it is not there yet."""
    config = yaml.safe_load((Path(__file__).parents[1] / "config" / "clinic" / "tumour.yaml").read_text())
    out.mkdir(parents=True, exist_ok=True)
    (out / "clinic.yaml").write_text(yaml.safe_dump(config | {"seed": SEED, "patients": patients}, sort_keys=False))
    if analysis(["simulate", str(out / "clinic.yaml"), "--out", str(out / "clinic"), "--format", "bids"]):
        raise SystemExit("simulating failed")


def scans(out: Path) -> dict[tuple[str, str, str], Path]:
    """Scans by participant, session and contrast."""
    found = {}
    for path in sorted((out / "clinic" / "bids").glob("sub-*/ses-*/anat/*.nii.gz")):
        contrast = path.name.removesuffix(".nii.gz").rpartition("_")[2]
        found[path.parts[-4], path.parts[-3], "T1CE" if "_ce-" in path.name else contrast] = path
    return found


def synthetic_of(out: Path, scan: Path) -> Path:
    """Where the synthetic T1 of a scan lies."""
    return out / "synthsr" / scan.name


def mask_of(out: Path, participant: str, session: str) -> Path:
    """Where the mask of a session's brain lies."""
    return out / "masks" / f"{participant}_{session}_mask.nii.gz"


def prepare(out: Path, participant: str) -> None:
    """Synthetic T1s of a patient's scans, and a mask of every session's brain, as far as they are not there yet."""
    for folder in ("synthsr", "masks"):
        (out / folder).mkdir(exist_ok=True)
    for (somebody, session, contrast), scan in scans(out).items():
        if somebody != participant:
            continue
        if not synthetic_of(out, scan).is_file():
            predictor()(scan, synthetic_of(out, scan))
        mask = mask_of(out, participant, session)
        if contrast == OUTLINED and not mask.is_file():
            strip(segmenter(), scan, mask.with_name(scan.name), mask_target=mask, border_mm=BORDER_MM)


@lru_cache
def predictor() -> Predictor:
    """SynthSR, loaded once."""
    return Predictor.load(device="cpu")


@lru_cache
def segmenter() -> Segmenter:
    """What outlines brains, loaded once."""
    return Segmenter.load(device="cpu")


def brain_grid(mask: Image, voxel_mm: float) -> Grid:
    """Grid of RAS axes that holds a mask and a margin about it."""
    places = move(mask.grid.affine, np.argwhere(mask.data > 0))
    low, high = places.min(axis=0) - MARGIN_MM, places.max(axis=0) + MARGIN_MM
    x, y, z = (int(n) for n in np.ceil((high - low) / voxel_mm) + 1)
    affine = np.diag([voxel_mm, voxel_mm, voxel_mm, 1.0])
    affine[:3, 3] = low
    return Grid((x, y, z), affine)


def brain(scan: Path, mask: Image, voxel_mm: float) -> Image:
    """A scan on the grid of a brain, 0 outside it."""
    grid = brain_grid(mask, voxel_mm)
    inside = brought(mask, transforms.linear(np.eye(4)), grid, voxel_mm).data > 0.5
    data = brought(Image.load(scan), transforms.linear(np.eye(4)), grid, voxel_mm).data
    return Image(scan.name, np.where(inside, data, 0).astype(np.float32), grid)


def register(out: Path, folder: Path, participant: str, arguments: argparse.Namespace) -> None:
    """Register every contrast of a patient directly and through SynthSR."""
    for contrast in arguments.contrasts:
        for method in cohort.METHODS:
            for spacing_mm in arguments.spacings_mm:
                settings = Settings("svf", spacing_mm, arguments.threads, arguments.iterations)
                once(
                    folder / f"{participant}_{contrast}_{method}_{spacing_mm:g}mm.json",
                    partial(errors, out, participant, contrast, method, arguments.voxel_mm, settings),
                )


def errors(
    out: Path, participant: str, contrast: str, method: str, voxel_mm: float, settings: Settings
) -> dict[str, Any]:
    """Errors at a patient's landmarks of one registration, and without its non-linear part, and with neither."""
    fixed, moving, matrix = aligned(out, participant, contrast, method, voxel_mm, settings.threads)
    found = pairs.bend(fixed, moving, matrix, settings=settings)
    known = cohort.read_points(out / "clinic" / "landmarks.tsv")
    ways = {"unregistered": transforms.linear(np.eye(4)), "affine": transforms.linear(matrix), "svf": found.forward}
    return {
        "pair": participant,
        "contrast": contrast,
        "spacing_mm": settings.spacing_mm,
        "method": method,
        "voxels": int(np.prod(fixed.grid.shape)),
        "folding_fraction": float((found.forward.on(fixed.grid).jacobian() <= 0).mean()),
        "errors_mm": {
            name: points.errors_mm(points.carried(known[participant, AFTER], way), known[participant, BEFORE])
            for name, way in ways.items()
        },
    }


@lru_cache(maxsize=1)
def aligned(
    out: Path, participant: str, contrast: str, method: str, voxel_mm: float, threads: int
) -> tuple[Image, Image, Matrix]:
    """The brain after and before the operation, and the affine between them: one for all spacings."""
    brains = []
    for session in (AFTER, BEFORE):
        scan = scans(out)[participant, session, contrast]
        mask = Image.load(mask_of(out, participant, session))
        brains.append(brain(synthetic_of(out, scan) if method == "synthsr" else scan, mask, voxel_mm))
    found = pairs.register(brains[0], brains[1], settings=Settings("affine", threads=threads))
    return brains[0], brains[1], found.forward.linear


def tell(folder: Path) -> None:
    """Table of errors, its comparison by ``python -m analysis landmarks``, and both as Markdown."""
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("sub-*.json"))]
    rows = [
        [*(record[name] for name in cohort.ERROR_COLUMNS[:4]), landmark, error]
        for record in records
        for landmark, error in record["errors_mm"]["svf"].items()
    ]
    table = pd.DataFrame(rows, columns=list(cohort.ERROR_COLUMNS))
    # Errors of one method alone are not compared.
    both = table.groupby(["pair", "contrast", "spacing_mm"])["method"].transform("nunique") == len(cohort.METHODS)
    table = table[both]
    tsv.write(table, folder / "errors.tsv")
    if analysis(["landmarks", str(folder / "errors.tsv"), "--out", str(folder / "landmarks")]):
        raise SystemExit("comparing failed")
    percent = [f"difference{part}_percent" for part in ("", "_low", "_high")]
    numbers = ("spacing_mm", "n_pairs", *percent, "medians_p", "errors_p")
    tests = tsv.read(folder / "landmarks" / "landmarks_tests.tsv", numbers=numbers)
    lines = [
        "| contrast | control points every, mm | pairs | directly, mm | through SynthSR, mm | difference, % (95 %) | "
        "p of medians | p of errors |",
        "|" + "---|" * 8,
    ]
    for test in tests.to_dict("records"):
        cell = table[(table["contrast"] == test["contrast"]) & (table["spacing_mm"] == test["spacing_mm"])]
        means = [
            f"{found.mean():.2f} ± {found.std():.2f}"
            for found in (cell.loc[cell["method"] == method, "error_mm"] for method in cohort.METHODS)
        ]
        difference, low, high = (test[name] for name in percent)
        compared = "– | – | –"
        if np.isfinite(low):
            compared = (
                f"{difference:+.0f} ({low:+.0f} to {high:+.0f}) | {test['medians_p']:.3f} | {test['errors_p']:.3f}"
            )
        where = f"{test['contrast']} | {test['spacing_mm']:g} | {test['n_pairs']:.0f}"
        lines.append(f"| {where} | {' | '.join(means)} | {compared} |")
    lines += ["", *parts(records)]
    (folder / "landmarks.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


def parts(records: list[dict[str, Any]]) -> list[str]:
    """Mean errors before and after each part of the transform, over all contrasts and spacings, and what it took."""
    lines = ["| method | registrations | unregistered, mm | affine, mm | svf, mm | folding, % | processor seconds |",
             "|" + "---|" * 7]  # fmt: skip
    for method in cohort.METHODS:
        mine = [record for record in records if record["method"] == method]
        means = [
            np.mean([error for record in mine for error in record["errors_mm"][way].values()])
            for way in ("unregistered", "affine", "svf")
        ]
        folding = 100 * np.mean([record["folding_fraction"] for record in mine])
        seconds = np.mean([record["cpu_seconds"] for record in mine])
        lines.append(
            f"| {method} | {len(mine)} | {' | '.join(f'{mm:.2f}' for mm in means)} | {folding:.3f} | {seconds:.0f} |"
        )
    return lines


if __name__ == "__main__":
    main()
