"""Stages that work through a batch of scans: one job, one model load, many scans.

A batch job declares one output, its table: a row per scan with status, reason, path and hash. The per-scan files are
side effects. Run again, it checks the files of every scan against their hash, remakes only what is missing, changed,
or made from another input, tries again what was rejected, and does not rewrite an unchanged table.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from synthsr import files

from . import tsv
from .errors import DataError
from .layout import BATCH_STAGES, Results

#: Columns of every batch table. ``path`` is the scan's main file, ``sha256`` the :func:`digest` of all its files,
#: ``key`` what decided them: hash of the input, hash of the weights, version of the algorithm.
COLUMNS = ("scan_id", "participant_id", "session_id", "contrast", "status", "reason", "path", "sha256", "key")
DONE, REJECTED = "done", "rejected"

#: A scan's input row.
Scan = Mapping[str, str]


def read(path: Path) -> pd.DataFrame:
    """Read a batch table; all columns are text."""
    return tsv.read(path, columns=COLUMNS)


def rows(path: Path) -> list[dict[str, str]]:
    """Rows of a batch table, as :func:`read` has them but twenty times as fast: a cohort has hundreds of tables.

    Raises
    ------
    DataError
        If the file or a column is missing.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such table")
    with path.open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream, delimiter="\t")
        lacking = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
        if lacking:
            raise DataError(f"{path}: lacks the column {', '.join(lacking)}")
        return list(reader)


def furthest(results: Results) -> list[dict[str, str]]:
    """One row per scan: its row of the last stage that saw it, with that ``stage``, in order of scan_id.

    A scan that reached the last stage is the only kind whose status is ``done``.
    """
    found: dict[str, dict[str, str]] = {}
    for stage in BATCH_STAGES[1:]:
        for path in sorted(results.batches(stage).glob("batch-*.tsv")):
            for scan in rows(path):
                found[scan["scan_id"]] = {**scan, "stage": stage}
    return [found[scan_id] for scan_id in sorted(found)]


def run(
    scans: pd.DataFrame,
    table: Path,
    *,
    root: Path,
    worker: Callable[[Scan], None],
    outputs: Callable[[Scan], Sequence[Path]],
    key: Callable[[Scan], str],
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
    outputs
        All files of a scan, the main one first; if one is missing or changed, the scan is made again.
    key
        What decides the output of a row; a change remakes it.

    Returns
    -------
    The table as written.
    """
    earlier = {}
    if table.is_file():
        earlier = {row["scan_id"]: {str(k): str(v) for k, v in row.items()} for row in read(table).to_dict("records")}
    made = []
    for record in scans.to_dict("records"):
        scan = {str(name): str(value) for name, value in record.items()}
        if scan.get("status", DONE) == REJECTED:
            continue
        row = {column: scan.get(column, "") for column in COLUMNS[:4]}
        row["key"] = key(scan)
        before = earlier.get(row["scan_id"], {})
        paths = outputs(scan)
        if before.get("key") == row["key"] and _is_sound(before, paths):
            made.append({**row, **{column: before[column] for column in ("status", "reason", "path", "sha256")}})
            continue
        try:
            worker(scan)
            row |= {
                "status": DONE,
                "reason": "",
                "path": paths[0].relative_to(root).as_posix(),
                "sha256": digest(paths),
            }
        except DataError as error:
            row |= {"status": REJECTED, "reason": str(error), "path": "", "sha256": ""}
        made.append(row)
    result = pd.DataFrame(made, columns=list(COLUMNS))
    tsv.write(result, table)
    return result


def digest(paths: Sequence[Path]) -> str:
    """SHA-256 over the hexadecimal SHA-256 of each file, in order, a line each."""
    return hashlib.sha256("".join(f"{files.sha256(path)}\n" for path in paths).encode()).hexdigest()


def _is_sound(row: Scan, paths: Sequence[Path]) -> bool:
    """A rejection never is: it may have been a full memory that failed, not the scan."""
    return row["status"] == DONE and all(path.is_file() for path in paths) and digest(paths) == row["sha256"]
