"""Inventory of DICOM files or a BIDS dataset: a decision and a reason per series, pseudonyms, batches.

Only headers are read, and those of earlier runs not again; config/series_rules.yaml holds the rules. Names, dates,
identifiers and paths stay in the private folder. Run again after new studies have come: what has a pseudonym, a scan
name and a batch keeps them, new scans form new batches.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.errors import ConfigurationError, DataError
from analysis.layout import Private, Results

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .pseudonyms import Links
    from .series import Series

#: ``source_key`` changes with the scan's files, so that the next stage sees it.
SELECT_COLUMNS = (
    *("scan_id", "participant_id", "session_id", "contrast", "series_id", "spacing_mm", "plane", "source_key"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument(
        "source",
        type=Path,
        metavar="SOURCE",
        help="folder of DICOM files and archives in any nesting, a zip or tar archive, a DICOMDIR, or a BIDS dataset",
    )
    parser.add_argument("--format", choices=("dicom", "bids"), default="dicom", help="what SOURCE holds (%(default)s)")
    parser.add_argument("--out", type=Path, required=True, metavar="RESULTS", help="results folder")
    parser.add_argument(
        "--private",
        type=Path,
        metavar="DIR",
        help="folder of the linking tables, not below RESULTS (beside it: private)",
    )
    parser.add_argument(
        "--rules", type=Path, metavar="YAML", help="rules of your own for DICOM (config/series_rules.yaml)"
    )
    parser.add_argument("--processes", type=int, metavar="N", help="read headers by so many processes (all processors)")
    parser.add_argument("--batch-size", type=int, default=20, metavar="N", help="scans per batch (%(default)s)")


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    from . import bids, classify, dicom
    from .index import Index
    from .lock import locked
    from .pseudonyms import Links
    from .sources import open_source

    results = Results(arguments.out)
    private = Private(arguments.private or arguments.out.absolute().parent / "private")
    if arguments.batch_size < 1:
        raise ConfigurationError(f"--batch-size {arguments.batch_size}: give 1 or more")
    if arguments.processes is not None and arguments.processes < 1:
        raise ConfigurationError(f"--processes {arguments.processes}: give 1 or more")
    if private.root.resolve().is_relative_to(results.root.resolve()):
        raise ConfigurationError(f"--private {private.root} lies below the results; give a folder beside them")
    rules = classify.Rules(arguments.rules or classify.RULES)
    if not arguments.source.exists():
        raise DataError(f"{arguments.source}: no such folder, archive or DICOMDIR")
    with locked(private.root):
        if arguments.format == "bids":
            found = bids.find_series(arguments.source)
        else:
            source, index = open_source(arguments.source, unpacked=private.unpacked), Index(private.index)
            found = dicom.find_series(source, index, rules=rules, processes=arguments.processes)
            print("{} files, of which {} are not DICOM and were left out".format(*index.count()))
        links = Links.read(private)
        links.add(found, batch_size=arguments.batch_size)
        links.forget(found, is_converted=lambda scan_id: results.raw(scan_id).is_file())
        links.write(private)
        publish(links, results)
    _tell(found, links, results)


def _tell(found: Sequence[Series], links: Links, results: Results) -> None:
    from analysis import tsv

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

    from . import dataset, lowfield
    from .pseudonyms import EXCLUDE
    from .series import SERIES_COLUMNS

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

    with_scans = {row["participant_id"] for row in scans}
    people = {row["participant_id"]: row for row in reversed(sessions) if row["participant_id"] in with_scans}
    if low_field := lowfield.pairs(rows):
        tsv.write(pd.DataFrame(low_field, columns=list(lowfield.COLUMNS)), results.low_field)
    else:
        results.low_field.unlink(missing_ok=True)
    dataset.write_head(people.values(), results.root / "rawdata")
