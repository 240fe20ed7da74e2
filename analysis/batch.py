"""Stages that work through a batch of scans: one job, one model load, many scans.

A batch job declares one output, its table: a row per scan with status, reason, path and SHA-256. The per-scan files
are side effects. Run again, it checks every file against its hash, remakes only what is missing, changed, or made
from another input, and leaves an unchanged table untouched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from synthsr import files

from . import tsv
from .errors import DataError
from .layout import BATCH_STAGES, Results

#: Columns of every batch table. ``key`` sums up what decided the output: input hash, weights, algorithm version.
COLUMNS = ("scan_id", "participant_id", "session_id", "contrast", "status", "reason", "path", "sha256", "key")
DONE, REJECTED = "done", "rejected"

#: Makes one scan's files from its input row and returns the path of the main one.
Worker = Callable[[Mapping[str, str]], Path]


def read(path: Path) -> pd.DataFrame:
    """Read a batch table; all columns are text."""
    return tsv.read(path, columns=COLUMNS)


def furthest(results: Results) -> list[dict[str, str]]:
    """One row per scan: its row of the last stage that saw it, with that ``stage``, in order of scan_id.

    A scan that reached the last stage is the only kind whose status is ``done``.
    """
    rows: dict[str, dict[str, str]] = {}
    for stage in BATCH_STAGES[1:]:
        for path in sorted(results.batches(stage).glob("batch-*.tsv")):
            for scan in read(path).to_dict("records"):
                rows[scan["scan_id"]] = {**{str(name): str(value) for name, value in scan.items()}, "stage": stage}
    return [rows[scan_id] for scan_id in sorted(rows)]


def run(
    scans: pd.DataFrame,
    table: Path,
    *,
    root: Path,
    worker: Worker,
    key: Callable[[Mapping[str, str]], str],
    also: Callable[[Mapping[str, str]], Sequence[Path]] = lambda scan: (),
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
    also
        Further files of a scan; if one is missing, the scan is made again.

    Returns
    -------
    The table as written.
    """
    earlier = {}
    if table.is_file():
        earlier = {row["scan_id"]: {str(k): str(v) for k, v in row.items()} for row in read(table).to_dict("records")}
    rows = []
    for record in scans.to_dict("records"):
        scan = {str(name): str(value) for name, value in record.items()}
        if scan.get("status", DONE) == REJECTED:
            continue
        row = {column: scan.get(column, "") for column in COLUMNS[:4]}
        row["key"] = key(scan)
        before = earlier.get(row["scan_id"], {})
        if before.get("key") == row["key"] and _is_sound(before, root, also(scan)):
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


def _is_sound(row: Mapping[str, str], root: Path, also: Sequence[Path]) -> bool:
    if row["status"] == REJECTED:
        return True
    path = root / row["path"]
    return all(other.is_file() for other in also) and path.is_file() and files.sha256(path) == row["sha256"]
