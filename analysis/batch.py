"""Stages that work through a batch of scans: one job, one model load, many scans.

A batch job declares one output, its table: a row per scan with status, reason, path and hash. The per-scan files are
side effects. Run again, it checks the files of every scan against their hash, remakes only what is missing, changed,
or made from another input, tries again what was rejected, and does not rewrite an unchanged table.
"""

from __future__ import annotations

import csv
import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from synthsr import files
from synthsr.progress import tracked

from . import journal, tsv
from .errors import DataError, SynthSRError
from .layout import BATCH_STAGES, Results

#: Columns of every batch table. ``path`` is the scan's main file, ``sha256`` the :func:`digest` of all its files,
#: ``key`` what decided them: hash of the input, hash of the weights, version of the algorithm.
COLUMNS = ("scan_id", "participant_id", "session_id", "contrast", "status", "reason", "path", "sha256", "key")
#: Of a scan's row; ``failed`` only in journals, as the job ends there.
DONE, REJECTED, FAILED = "done", "rejected", "failed"
#: Scans whose files may wait to be written while the next one is computed.
UNWRITTEN = 1

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
        raise DataError(f"{path}: no such table; the stage {path.parent.name} leaves it: run that first")
    with path.open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream, delimiter="\t")
        lacking = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
        if lacking:
            raise DataError(
                f"{path}: lacks the column {', '.join(lacking)}: it was edited, or another version of this package "
                f"made it; remove it and run the stage {path.parent.name} again"
            )
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


@dataclass(frozen=True)
class Steps:
    """A scan's work in three parts: files are read and written while the scans between them are computed.

    Attributes
    ----------
    read
        Gives what ``work`` needs of a scan; called in a thread of its own, one scan ahead.
    work
        Gives what ``write`` needs; called in the caller's thread, one scan after the other.
    write
        Makes the scan's files; called in a thread of its own, up to :data:`UNWRITTEN` scans behind.
    """

    read: Callable[[Scan], Any]
    work: Callable[[Scan, Any], Any]
    write: Callable[[Scan, Any], None]


def run(
    scans: pd.DataFrame,
    table: Path,
    *,
    root: Path,
    worker: Callable[[Scan], None] | Steps,
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
        The batch's table, read if it exists. Until it is written a journal lies beside it (:mod:`analysis.journal`);
        a job that was killed goes on from there.
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
    known = [*(rows(table) if table.is_file() else []), *journal.read(table).rows]
    earlier = {row["scan_id"]: row for row in known}
    table_rows: dict[str, dict[str, str]] = {}
    wanted = []
    for record in scans.to_dict("records"):
        scan = {str(name): str(value) for name, value in record.items()}
        if scan.get("status", DONE) == REJECTED:
            continue
        row = {**dict.fromkeys(COLUMNS, ""), **{column: scan.get(column, "") for column in COLUMNS[:4]}}
        row["key"] = key(scan)
        before = earlier.get(row["scan_id"], {})
        if before.get("key") == row["key"] and _is_sound(before, outputs(scan)):
            row |= {column: before[column] for column in ("status", "reason", "path", "sha256")}
        else:
            wanted.append(scan)
        table_rows[row["scan_id"]] = row
    with journal.writing(table, [row for row in table_rows.values() if row["status"]]) as write:
        making: Iterator[tuple[Scan, Callable[[], None]]]
        if isinstance(worker, Steps):
            making = _overlapped(wanted, worker)
        else:
            making = ((scan, partial(worker, scan)) for scan in wanted)
        # Named after the stage: the text goes to logs.
        for worked, finish in tracked(making, what=f"{table.parent.name}: scans", total=len(wanted)):
            row, paths = table_rows[worked["scan_id"]], outputs(worked)
            try:
                finish()
                path = paths[0].relative_to(root).as_posix()
                row |= {"status": DONE, "path": path, "sha256": digest(paths)}
            except DataError as error:
                row |= {"status": REJECTED, "reason": str(error)}
            except Exception as error:
                # The text of other errors than this project's may name a path, and with it a patient.
                what = str(error) if isinstance(error, SynthSRError) else type(error).__name__
                write({**row, "status": FAILED, "reason": what})
                raise
            write(row)
        result = pd.DataFrame(list(table_rows.values()), columns=list(COLUMNS))
        tsv.write(result, table)
    return result


def _overlapped(scans: Sequence[Scan], steps: Steps) -> Iterator[tuple[Scan, Callable[[], None]]]:
    """Work through scans, in their order; each with what returns when its files are there, or raises what went wrong.

    At most one scan is read ahead and :data:`UNWRITTEN` are written behind, so that the memory is bounded.
    """
    behind: deque[tuple[Scan, Future[None]]] = deque()
    with ThreadPoolExecutor(1, "reader") as reader, ThreadPoolExecutor(1, "writer") as writer:
        ahead = [reader.submit(steps.read, scan) for scan in scans[:1]]
        for position, scan in enumerate(scans):
            read = ahead.pop()
            wait([read])
            ahead += [reader.submit(steps.read, following) for following in scans[position + 1 : position + 2]]
            try:
                behind.append((scan, writer.submit(steps.write, scan, steps.work(scan, read.result()))))
            except Exception as error:
                failed: Future[None] = Future()
                failed.set_exception(error)
                behind.append((scan, failed))
            while behind and (len(behind) > UNWRITTEN or behind[0][1].done()):
                first, written = behind.popleft()
                yield first, written.result
        yield from ((scan, written.result) for scan, written in behind)


def digest(paths: Sequence[Path]) -> str:
    """SHA-256 over the hexadecimal SHA-256 of each file, in order, a line each."""
    return hashlib.sha256("".join(f"{files.sha256(path)}\n" for path in paths).encode()).hexdigest()


def _is_sound(row: Scan, paths: Sequence[Path]) -> bool:
    """A rejection never is: it may have been a full memory that failed, not the scan."""
    return row["status"] == DONE and all(path.is_file() for path in paths) and digest(paths) == row["sha256"]
