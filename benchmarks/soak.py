"""A long run on many small scans of which some are broken: every broken one is rejected, every other one measured.

    python benchmarks/soak.py --out DIR [--scans 500] [--failures 0.05] [--cores N]

Makes a BIDS dataset of noisy ellipsoids of 4 mm, plants failures (truncated, constant, not finite, four-dimensional,
too small a field of view, no geometry), and runs the pipeline to the gate with tiny untrained networks. Then it is run
again: nothing may be done. Prints what became of the planted scans, time per scan, and the largest memory of a process,
of the first and the last batch's jobs. Ends with code 1 if anything is not as it should be.
"""

from __future__ import annotations

import argparse
import gzip
import os
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import process
import torch
import yaml

from analysis import batch, tsv
from analysis.layout import Results
from synthsr import files, labels
from synthsr.networks import UNet, UNetConfig
from synthsr.weights.storage import save_network

ROOT = Path(__file__).parents[1]
SHAPE, SPACING_MM = (48, 56, 44), 4.0
AFFINE = np.diag([SPACING_MM] * 3 + [1])


def scan(seed: int) -> np.ndarray:
    """An ellipsoid of a head's size with noise."""
    axes = np.meshgrid(*(np.linspace(-1.1, 1.1, size) for size in SHAPE), indexing="ij", sparse=True)
    noise = np.random.default_rng(seed).normal(0, 20, SHAPE)
    return (np.where(sum(axis**2 for axis in axes) < 1, 400, 0) + np.abs(noise)).astype(np.float32)


def save(data: np.ndarray, path: Path, affine: np.ndarray = AFFINE) -> None:
    """Write an image."""
    nib.save(nib.Nifti1Image(data, affine), path)


def truncated(data: np.ndarray, path: Path) -> None:
    """Half of the voxels are gone, in a file that gzip finds whole."""
    save(data, path)
    content = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(content[: len(content) // 2]))


def not_finite(data: np.ndarray, path: Path) -> None:
    """One voxel is NaN."""
    data[20, 20, 20] = np.nan
    save(data, path)


def unplaced(data: np.ndarray, path: Path) -> None:
    """Neither qform nor sform is set."""
    image = nib.Nifti1Image(data, None)
    image.header.set_zooms([SPACING_MM] * 3)
    nib.save(image, path)


FAILURES: dict[str, Callable[[np.ndarray, Path], None]] = {
    "truncated": truncated,
    "constant": lambda data, path: save(np.ones_like(data), path),
    "not finite": not_finite,
    "four-dimensional": lambda data, path: save(np.stack([data] * 3, axis=-1), path),
    "cut": lambda data, path: save(data[:, :, 18:26], path),
    "no geometry": unplaced,
}


def make_source(folder: Path, n_scans: int, share: float) -> dict[str, str]:
    """Write the dataset; the kind of failure by participant."""
    planted = {}
    chosen = np.random.default_rng(0).permutation(n_scans)[: round(share * n_scans)]
    kinds = {int(number): list(FAILURES)[place % len(FAILURES)] for place, number in enumerate(chosen)}
    for number in range(n_scans):
        person = f"sub-{number:05d}"
        path = folder / person / "anat" / f"{person}_T1w.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        if number in kinds:
            planted[person] = kinds[number]
            FAILURES[kinds[number]](scan(number), path)
        else:
            save(scan(number), path)
    return planted


def make_weights(folder: Path) -> dict[str, str]:
    """Tiny untrained networks that see the whole scan."""
    torch.manual_seed(1)
    channels = {"synthsr": 1, "segmentation": len(labels.segmentation_numbers())}
    for name, number in channels.items():
        save_network(UNet(UNetConfig(1, number, features=2, levels=2, stride=2)), folder / f"{name}.safetensors", {})
    return {name: str(folder / f"{name}.safetensors") for name in channels}


def main() -> None:
    """Run, check, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--scans", type=int, default=500, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--failures", type=float, default=0.05, metavar="SHARE", help="(default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=20, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)), metavar="N", help="(default: all)")
    given = parser.parse_args()
    given.out.mkdir(parents=True)
    planted = make_source(given.out / "source", given.scans, given.failures)
    study = given.out / "study"
    settings = {"bids": str((given.out / "source").absolute()), "batch_size": given.batch_size}
    configuration = study / "config.yaml"
    files.write_text(configuration, yaml.safe_dump({**settings, "weights": make_weights(given.out.absolute())}))
    command = [sys.executable, "-m", "snakemake", "--snakefile", ROOT / "Snakefile", "--directory", study]
    command += ["--configfile", configuration, "--cores", str(given.cores), "results/qc/scans.tsv"]
    first, second = process.cost(command), process.cost(command)
    wrong = [] if "Nothing to be done" in second.output else ["the second run did something"]
    results = Results(study / "results")
    done = {row["participant_id"] for row in batch.furthest(results) if row["status"] == batch.DONE}
    reasons = {row["participant_id"]: row["reason"] for row in batch.furthest(results) if row["reason"]}
    for row in tsv.read(results.series).to_dict("records"):
        if row["decision"] != "include":
            reasons[row["participant_id"]] = row["reason"]
    for number in range(given.scans):
        person = f"sub-{number:05d}"
        if (person in done) is (person in planted):
            wrong.append(f"{person} ({planted.get(person, 'sound')}): {reasons.get(person, 'went through')}")
    for kind in FAILURES:
        people = [person for person in sorted(planted) if planted[person] == kind]
        if people:
            print(f"{kind:16s} {len(people):3d} planted, such as {people[0]}: {reasons.get(people[0], 'went through')}")
    print(f"{len(done)} of {given.scans} scans went through, {len(planted)} had planted failures")
    print(f"{first.wall_s / given.scans:.2f} s, {first.cpu_s / given.scans:.2f} s of the processor a scan; ", end="")
    print(f"largest memory of a process {first.peak_mb:.0f} MB; nothing to be done again in {second.wall_s:.1f} s")
    for stage in ("synthesise", "segment"):
        each = [memory_mb(path) for path in sorted((study / "benchmarks" / stage).glob("*.tsv"))]
        print(f"{stage}: {each[0]:.0f} MB in the first batch, {each[-1]:.0f} MB in the last")
    if wrong:
        raise SystemExit("\n".join(["WRONG:", *wrong]))


def memory_mb(benchmark: Path) -> float:
    """Largest resident memory of a job, as Snakemake wrote it down."""
    (row,) = tsv.read(benchmark, numbers=["max_rss"]).to_dict("records")
    return float(row["max_rss"])


if __name__ == "__main__":
    main()
