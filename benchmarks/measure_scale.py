"""Time and memory of the workflow's plan for thousands of scans, with made-up tables.

    python benchmarks/measure_scale.py --scans 1000 10000 [--out scale.json]

Of every number of scans: a dry run on a fresh tree; a dry run where the inventory's checkpoint is resolved and every
stage is still to be done; and a run where nothing has changed. Each in a process of its own, on empty files.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import process
import yaml

from analysis.layout import Results
from synthsr import files

ROOT = Path(__file__).parents[1]
SCANS_PER_SESSION = 4
#: Three back ends, and registration in as many jobs as there may be at a time.
EVERY_STAGE = {
    "backends": ["embedded", "synthseg", "fast"],
    "registration": {"align": True, "longitudinal": "rigid", "shards": 100},
}
#: What the plan may take.
GOALS = {"fresh": (15, 500), "planned": (15, 500), "unchanged": (30, 500)}


def make_source(folder: Path, n_scans: int) -> None:
    """An empty BIDS dataset of so many scans."""
    for number in range(n_scans):
        person = f"sub-{number // SCANS_PER_SESSION:05d}"
        anat = folder / person / "ses-01" / "anat"
        anat.mkdir(parents=True, exist_ok=True)
        (anat / f"{person}_ses-01_run-{number % SCANS_PER_SESSION + 1}_T1w.nii.gz").touch()


class Study:
    """A study folder whose plan is timed.

    Attributes
    ----------
    folder
        Where it lies.
    configuration
        As for ``--configfile``.
    """

    def __init__(self, folder: Path, source: Path) -> None:
        self.folder, self.configuration = folder, folder / "config.yaml"
        files.write_text(self.configuration, yaml.safe_dump({"bids": str(source), **EVERY_STAGE}))

    def snakemake(self, *arguments: str) -> process.Cost:
        """Time of a call of Snakemake."""
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--cores", "2"]
        given = ["--directory", str(self.folder), "--configfile", str(self.configuration)]
        return process.cost([*command, *given, *arguments])

    def take_stock(self, n_batches: int) -> None:
        """As if the inventory had found so many batches."""
        results = Results(self.folder / "results")
        select = [results.batch("select", f"{number:04d}") for number in range(1, n_batches + 1)]
        for path in (results.series, results.sessions, *select):
            files.write_text(path, "made up\n")
        self.snakemake("--touch", "--until", "inventory", "--quiet")

    def finish(self, plan: str) -> None:
        """As if everything that a plan names had been made."""
        for line in plan.splitlines():
            name, _, paths = line.strip().partition(": ")
            if name == "output":
                for path in paths.split(", "):
                    files.write_text(self.folder / path.removesuffix(" (update)"), "made up\n")
        self.snakemake("--touch", "--quiet")


def measure(n_scans: int) -> dict[str, process.Cost]:
    """The three runs, by name."""
    batch_size = yaml.safe_load((ROOT / "config" / "config.yaml").read_text(encoding="utf-8"))["batch_size"]
    n_batches = -(-n_scans // batch_size)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source"
        make_source(source, n_scans)
        study = Study(Path(folder) / "study", source)
        found = {"fresh": study.snakemake("--dry-run", "--quiet")}
        study.take_stock(n_batches)
        found["planned"] = study.snakemake("--dry-run")
        study.finish(found["planned"].output)
        found["unchanged"] = study.snakemake()
        if "Nothing to be done" not in found["unchanged"].output:
            raise SystemExit(f"something was to be done:\n{found['unchanged'].output[-2000:]}")
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", type=int, nargs="+", default=[1000, 10000], metavar="N", help="(%(default)s)")
    parser.add_argument("--out", type=Path, metavar="JSON")
    given = parser.parse_args()
    report = {}
    print(f"{'scans':>7s}  {'run':10s} {'seconds':>8s} {'processor s':>12s} {'MB':>6s}  goal")
    for n_scans in given.scans:
        for name, one in measure(n_scans).items():
            goal_s, goal_mb = GOALS[name]
            report[f"{n_scans} {name}"] = {"wall_s": one.wall_s, "cpu_s": one.cpu_s, "peak_mb": one.peak_mb}
            print(
                f"{n_scans:7d}  {name:10s} {one.wall_s:8.1f} {one.cpu_s:12.1f} {one.peak_mb:6.0f}  "
                f"{goal_s} s, {goal_mb} MB",
                flush=True,
            )
    if given.out:
        files.write_json(given.out, report)


if __name__ == "__main__":
    main()
