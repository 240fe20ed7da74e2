"""Volumes of all included scans as long tables: per scan, and per session as the median over its scans.

Leaves ``tables/volumes.tsv`` and ``tables/volumes_sessions.tsv``, each also as Parquet.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("--out", type=Path, required=True, metavar="RESULTS", help="results folder")


def run(arguments: argparse.Namespace) -> None:
    """Write the tables."""
    import pandas as pd

    from synthsr import files

    from . import batch, gate, tsv
    from .errors import DataError
    from .layout import Results

    results = Results(arguments.out)
    included = set(tsv.read(results.gate).query("included == 'yes'")["scan_id"])
    sessions = tsv.read(results.sessions, columns=["participant_id", "session_id"], numbers=["age_years"])
    series = tsv.read(results.series, numbers=["spacing_mm"])[["scan_id", "spacing_mm", "plane"]]
    parts = []
    for scan in batch.furthest(results):
        if scan["scan_id"] not in included:
            continue
        try:
            volumes, _ = gate.read_volumes(arguments.out / scan["path"])
        except DataError as error:  # lost after the gate looked
            print(f"left out {scan['scan_id']}: {error}")
            continue
        identity = {column: scan[column] for column in ("participant_id", "session_id", "scan_id", "contrast")}
        parts.append(volumes[["structure", "label", "volume_mm3"]].assign(**identity))
    columns = ["participant_id", "session_id", "scan_id", "structure", "label", "volume_mm3", "contrast"]
    scans = pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)
    scans = scans.merge(series, on="scan_id", how="left").merge(
        sessions, on=["participant_id", "session_id"], how="left", validate="many_to_one"
    )
    scans = scans.assign(backend="embedded").sort_values(["scan_id", "structure"], ignore_index=True)
    by = ["participant_id", "session_id", "structure", "label", "age_years", "sex", "backend"]
    grouped = scans.groupby(by, dropna=False, as_index=False)
    medians = grouped.agg(volume_mm3=("volume_mm3", "median"), n_scans=("scan_id", "nunique"))
    for table, path in ((scans, results.volumes), (medians, results.session_volumes)):
        tsv.write(table, path)
        with files.whole(path.with_suffix(".parquet")) as temporary:
            table.to_parquet(temporary, index=False)
