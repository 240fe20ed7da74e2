"""Stages that work through a batch of scans: one job, one model load, many scans.

A batch job declares one output, its table: a row per scan with status, reason, path and SHA-256. The per-scan files
are side effects. Run again, it checks every file against its hash, remakes only what is missing, changed, or made
from another input, and leaves an unchanged table untouched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd

from synthsr import files

from . import tsv
from .errors import DataError

#: Columns of every batch table. ``key`` sums up what decided the output: input hash, weights, algorithm version.
COLUMNS = ("scan_id", "participant_id", "session_id", "contrast", "status", "reason", "path", "sha256", "key")
DONE, REJECTED = "done", "rejected"

#: Makes one scan's files from its input row and returns the path of the main one.
Worker = Callable[[Mapping[str, str]], Path]


def read(path: Path) -> pd.DataFrame:
    """Read a batch table; all columns are text."""
    return tsv.read(path, columns=COLUMNS)


def run(
    scans: pd.DataFrame, table: Path, *, root: Path, worker: Worker, key: Callable[[Mapping[str, str]], str]
) -> pd.DataFrame:
    """Work through the scans of one batch and write its table.

    Parameters
    ----------
    scans
        One row per scan, with at least the first four of :data:`COLUMNS`. Rows with status ``rejected`` (of an
        earlier stage) are passed over.
    table
        The batch's table, read if it exists.
    root
        Results folder; paths in the table are relative to it.
    worker
        Makes a scan's files. :class:`~synthsr.errors.DataError` rejects the scan with the error's text; any other
        exception stops the job.
    key
        What decides the output of a row; a change remakes it.

    Returns
    -------
    The table as written.
    """
    earlier = read(table).set_index("scan_id") if table.is_file() else pd.DataFrame()
    rows = []
    for scan in scans.to_dict("records"):
        if scan.get("status", DONE) == REJECTED:
            continue
        row = {column: str(scan.get(column, "")) for column in COLUMNS[:4]}
        row["key"] = key(scan)
        before = earlier.loc[row["scan_id"]].to_dict() if row["scan_id"] in earlier.index else {}
        if before.get("key") == row["key"] and _is_sound(before, root):
            rows.append({**row, **{column: before[column] for column in ("status", "reason", "path", "sha256")}})
            continue
        try:
            path = worker(scan)
            row |= {
                "status": DONE,
                "reason": "",
                "path": path.relative_to(root).as_posix(),
                "sha256": files.sha256(path),
            }
        except DataError as error:
            row |= {"status": REJECTED, "reason": str(error), "path": "", "sha256": ""}
        rows.append(row)
    result = pd.DataFrame(rows, columns=list(COLUMNS))
    tsv.write(result, table)
    return result


def _is_sound(row: Mapping[str, str], root: Path) -> bool:
    if row["status"] == REJECTED:
        return True
    path = root / row["path"]
    return path.is_file() and files.sha256(path) == row["sha256"]
