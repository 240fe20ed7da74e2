"""Inventory of a DICOM archive or a BIDS dataset: a decision and a reason per series, pseudonyms, batches.

Names, dates, identifiers and paths stay in the private folder. Run again after new studies have come: what has a
pseudonym, a scan name and a batch keeps them, new scans form new batches.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.errors import ConfigurationError, DataError
from analysis.layout import Private, Results

if TYPE_CHECKING:
    from .pseudonyms import Links

SERIES_COLUMNS = (
    *("series_id", "participant_id", "session_id", "scan_id", "modality", "contrast", "rows", "columns", "n_slices"),
    *("n_volumes", "in_plane_mm", "spacing_mm", "thickness_mm", "plane", "missing_slices", "decision", "reason"),
    "batch",
)
#: ``source_key`` changes with the scan's files, so that the next stage sees it.
SELECT_COLUMNS = (
    *("scan_id", "participant_id", "session_id", "contrast", "series_id", "spacing_mm", "plane", "source_key"),
)
#: BIDS has no suffix for CT.
BIDSIGNORE = "*_ct.*\n"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument(
        "source", type=Path, metavar="SOURCE", help="folder of DICOM files in any nesting, or a BIDS dataset"
    )
    parser.add_argument("--format", choices=("dicom", "bids"), default="dicom", help="what SOURCE holds (%(default)s)")
    parser.add_argument("--out", type=Path, required=True, metavar="RESULTS", help="results folder")
    parser.add_argument(
        "--private", type=Path, required=True, metavar="DIR", help="folder of the linking tables, not below RESULTS"
    )
    parser.add_argument("--batch-size", type=int, default=20, metavar="N", help="scans per batch (%(default)s)")


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    from analysis import tsv

    from . import bids, dicom
    from .pseudonyms import Links

    results, private = Results(arguments.out), Private(arguments.private)
    if arguments.batch_size < 1:
        raise ConfigurationError(f"--batch-size {arguments.batch_size}: give 1 or more")
    if private.root.resolve().is_relative_to(results.root.resolve()):
        raise ConfigurationError(f"--private {private.root} lies below the results; give a folder beside them")
    if not arguments.source.is_dir():
        raise DataError(f"{arguments.source}: no such folder")
    found = (dicom if arguments.format == "dicom" else bids).find_series(arguments.source)

    private.root.mkdir(mode=0o700, parents=True, exist_ok=True)
    private.root.chmod(0o700)
    links = Links.read(private)
    links.add(found, batch_size=arguments.batch_size)
    links.forget(found, is_converted=lambda scan_id: results.raw(scan_id).is_file())
    links.write(private)
    publish(links, results)

    n_included = sum(series.is_included for series in found)
    print(f"{len(found)} series found, {n_included} included; reasons are in {results.series}")
    n_aged = sum(row["age_years"] != tsv.MISSING for row in links.sessions.values())
    print(f"ages known for {n_aged} of {len(links.sessions)} sessions")
    if not n_included:
        print(f"none of the {len(found)} series can be used: volumes, curves and report will be empty")


def publish(links: Links, results: Results) -> None:
    """Write what identifies nobody: series, sessions, batches and the head of the BIDS dataset."""
    import pandas as pd

    from analysis import tsv
    from synthsr import files

    from .pseudonyms import EXCLUDE

    rows = sorted(links.series.values(), key=lambda row: row["series_id"])
    scans = [row for row in rows if row["scan_id"]]
    unnamed = {"scan_id": tsv.MISSING, "batch": tsv.MISSING}
    public = [row | unnamed if row["decision"] == EXCLUDE else row for row in rows]
    tsv.write(pd.DataFrame(public, columns=list(SERIES_COLUMNS)), results.series)

    sessions = sorted(links.sessions.values(), key=lambda row: (row["participant_id"], row["session_id"]))
    tsv.write(pd.DataFrame(sessions, columns=["participant_id", "session_id", "age_years", "sex"]), results.sessions)

    for batch in sorted({row["batch"] for row in scans}):
        members = sorted((row for row in scans if row["batch"] == batch), key=lambda row: row["scan_id"])
        tsv.write(pd.DataFrame(members, columns=list(SELECT_COLUMNS)), results.batch("select", batch))

    rawdata = results.root / "rawdata"
    with_scans = {row["participant_id"] for row in scans}
    people = {row["participant_id"]: row for row in reversed(sessions) if row["participant_id"] in with_scans}
    columns = ["participant_id", "age_years", "sex"]
    tsv.write(pd.DataFrame([people[name] for name in sorted(people)], columns=columns), rawdata / "participants.tsv")
    files.write_text(rawdata / ".bidsignore", BIDSIGNORE)
    files.write_json(
        rawdata / "dataset_description.json",
        {
            "Name": "Converted clinical scans",
            "BIDSVersion": "1.10.0",
            "DatasetType": "raw",
            "GeneratedBy": [{"Name": "synthsr-cohort", "Description": "python -m analysis inventory, convert"}],
        },
    )
