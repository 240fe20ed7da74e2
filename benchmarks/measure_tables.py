"""Time that a cohort's gate and tables take: made-up volumes of thousands of scans, aggregated, gated and joined.

    python benchmarks/measure_tables.py --scans 5000

Prints seconds (by the clock, and of the processor) of ``gate`` and of ``tables`` with a table of participants, and the
seconds of a median by DuckDB, if it is installed.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from analysis import batch, cli, tsv, volumes
from analysis.layout import Results
from synthsr import labels

#: As in a study.
BATCH_SIZE = 20
SCANS_PER_SESSION = 3
CONTRASTS = ("T1w", "T2w", "FLAIR")


def make(results: Results, n_scans: int) -> Path:
    """Write what the stages before the gate leave, and a table of participants that lacks some; return the latter."""
    rng = np.random.default_rng(1)
    names = [label.name for label in labels.table() if label.number in labels.intracranial_numbers()]
    typical = rng.uniform(500, 200_000, len(names))
    made = volumes.Provenance("embedded", "0.1.0", "5" * 64, "synthsr 0.1.0", "7" * 64)
    rows, series, people = [], [], {}
    for number in range(n_scans):
        person = f"sub-{number // SCANS_PER_SESSION + 1:05d}"
        contrast = CONTRASTS[number % SCANS_PER_SESSION]
        scan_id = f"{person}_ses-01_{contrast}"
        sizes = dict(zip(names, typical * np.exp(rng.normal(0, 0.1, len(names))), strict=True))
        sizes[volumes.ICV] = float(rng.normal(1.5e6, 1e5))
        quality = {"spacing_mm": 5.0, "edge_share": 0.0, "noise_share": 0.03, "motion": 0.05, "agreement_dice": 0.8,
                   "asymmetry": 0.01,
                   "grey_white_contrast": 0.33, "entropy": 0.3, "icv_litres": sizes[volumes.ICV] / 1e6,
                   **{f"centre_{axis}_mm": float(rng.normal(0, 3)) for axis in "xyz"}}  # fmt: skip
        path = results.scan_volumes(scan_id)
        volumes.write(path, scan_id, volumes.ScanVolumes(sizes, made, quality))
        rows.append({"scan_id": scan_id, "participant_id": person, "session_id": "ses-01", "contrast": contrast,
                     "status": batch.DONE, "path": path.relative_to(results.root).as_posix()})  # fmt: skip
        series.append({"scan_id": scan_id, "spacing_mm": 5.0, "plane": "axial"})
        people[person] = {"participant_id": person, "session_id": "ses-01", "age_years": 60.0, "sex": "F"}
    table = pd.DataFrame(rows, columns=list(batch.COLUMNS), dtype=object).fillna("")
    for number, start in enumerate(range(0, n_scans, BATCH_SIZE), start=1):
        for stage in ("convert", "synthesise", "segment"):
            tsv.write(table.iloc[start : start + BATCH_SIZE], results.batch(stage, f"{number:04d}"))
    tsv.write(pd.DataFrame(series), results.series)
    known = pd.DataFrame(people.values())
    tsv.write(known, results.sessions)
    participants = results.root / "participants.tsv"
    tsv.write(known[["participant_id"]].iloc[:-5].assign(apoe="e4"), participants)
    return participants


def timed(name: str, work: Callable[[], object]) -> None:
    """Do the work and print what it took."""
    clock, processor = time.perf_counter(), time.process_time()
    work()
    print(f"{name}\t{time.perf_counter() - clock:.2f} s\t{time.process_time() - processor:.2f} s of the processor")


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", type=int, default=5000, metavar="N", help="(%(default)s)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = Results(Path(folder))
        participants = make(results, given.scans)
        timed("gate", lambda: cli.main(["gate", "--out", folder]))
        timed("tables", lambda: cli.main(["tables", "--out", folder, "--participants", str(participants)]))
        rows = len(pd.read_parquet(results.volumes.with_suffix(".parquet")))
        print(f"{rows} rows of {tsv.read(results.gate).shape[0]} scans")
        try:
            import duckdb
        except ModuleNotFoundError:
            return
        query = "SELECT structure, sex, median(volume_mm3) FROM read_parquet(?) GROUP BY ALL"
        timed("duckdb", lambda: duckdb.execute(query, [str(results.volumes.with_suffix(".parquet"))]).fetchall())


if __name__ == "__main__":
    main()
