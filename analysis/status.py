"""How far a study is: scans done, rejected, failed and waiting per stage, and the time left.

Reads what the stages leave, also while they run; changes nothing. The time left is what the finished batches took
(Snakemake's ``benchmarks/``, or the running jobs' own journals), for as many jobs at a time as are running now.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .layout import BATCH_STAGES, PICTURES, Results

#: A job that has not finished a scan for so long is taken for dead.
SILENCE_S = 3600.0


@dataclass
class Stage:
    """Where one stage is.

    Attributes
    ----------
    name
        As of :func:`analysis.layout.segment_stage`.
    done, rejected, failed
        Scans of the stage; ``failed`` ended their job.
    waiting
        Scans that may still come to it.
    running
        Jobs that work on it now.
    scan_s
        Seconds per scan; ``None`` if nothing is known yet.
    """

    name: str
    done: int = 0
    rejected: int = 0
    failed: int = 0
    waiting: int = 0
    running: int = 0
    scan_s: float | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("--out", type=Path, default=Path("results"), metavar="RESULTS", help="default: %(default)s")


def run(arguments: argparse.Namespace) -> None:
    """Print the table."""
    from .errors import DataError

    results = Results(arguments.out)
    if not results.root.is_dir():
        raise DataError(f"{results.root}: no such folder; give the results of a study, --out STUDY/results")
    print(text(results, stages(results)))


def stages(results: Results) -> list[Stage]:
    """Every stage that works in batches, in order; back ends besides the embedded one if they have begun."""
    others = sorted(path.name for path in (results.root / "batches").glob("segment-*") if path.is_dir())
    n_scans = sum(_lines(path) for path in results.batches("select").glob("batch-*.tsv"))
    found: list[Stage] = []
    coming = n_scans
    for name in (*BATCH_STAGES[1:], *others, PICTURES):
        if name in others:  # it waits for the same scans as the embedded back end
            coming = found[1].done + found[1].waiting
        elif name == PICTURES:  # of what the embedded back end has segmented
            coming = found[2].done + found[2].waiting
        stage = _stage(results, name)
        stage.waiting = max(coming - stage.done - stage.rejected - stage.failed, 0)
        coming = stage.done + stage.waiting
        found.append(stage)
    return found


def _stage(results: Results, name: str) -> Stage:
    """Counts of a stage but for what waits."""
    from . import batch, journal

    stage = Stage(name)
    seconds, timed = 0.0, 0
    # A batch that is made again has both, and the journal is the later.
    tables = {path.stem: path for path in results.batches(name).glob("batch-*.tsv")}
    journals = {
        path.name.removesuffix(journal.SUFFIX): path for path in results.batches(name).glob(f"batch-*{journal.SUFFIX}")
    }
    for stem in sorted({*tables, *journals}):
        table = results.batches(name) / f"{stem}.tsv"
        if stem in journals:
            begun = journal.read(table)
            rows = begun.rows
            made = len(rows) - begun.found
            seconds, timed = seconds + begun.elapsed_s * (made > 0), timed + made
            stage.running += begun.idle_s < SILENCE_S and not any(row["status"] == batch.FAILED for row in rows)
        else:
            rows = batch.rows(table)
            taken_s = _benchmark_s(results, name, stem)
            if taken_s is not None:
                seconds, timed = seconds + taken_s, timed + len(rows)
        states = [row["status"] for row in rows]
        stage.done += states.count(batch.DONE)
        stage.rejected += states.count(batch.REJECTED)
        stage.failed += states.count(batch.FAILED)
    stage.scan_s = seconds / timed if timed else None
    return stage


def _benchmark_s(results: Results, stage: str, stem: str) -> float | None:
    """Seconds of a batch's job, as Snakemake wrote them down; ``None`` if it did not."""
    path = results.root.absolute().parent / "benchmarks" / stage / f"{stem}.tsv"
    try:
        return float(path.read_text(encoding="utf-8").splitlines()[1].split("\t")[0])
    except (OSError, IndexError, ValueError):
        return None


def _lines(table: Path) -> int:
    """Rows of a table."""
    with table.open(encoding="utf-8") as stream:
        return max(sum(1 for _ in stream) - 1, 0)


def seconds_left(found: Iterable[Stage], *, jobs: int) -> float | None:
    """Time left for stages, so many jobs at a time; ``None`` if something waits whose time is not known."""
    total = 0.0
    for stage in found:
        if stage.waiting and stage.scan_s is None:
            return None
        total += stage.waiting * (stage.scan_s or 0.0)
    return total / jobs


def text(results: Results, found: Sequence[Stage]) -> str:
    """The table, a line per stage, and what comes after the batches."""
    jobs = max(sum(stage.running for stage in found), 1)
    lines: list[tuple[str, ...]] = [("stage", "done", "rejected", "failed", "waiting", "jobs", "s/scan", "left")]
    for stage in found:
        counts = (stage.done, stage.rejected, stage.failed, stage.waiting, stage.running)
        pace = "-" if stage.scan_s is None else f"{stage.scan_s:.1f}"
        left = duration(seconds_left([stage], jobs=jobs)) if stage.waiting else "-"
        lines.append((stage.name, *map(str, counts), pace, left))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = ["  ".join(map(str.rjust, line, widths)) for line in lines]
    at_a_time = f"{jobs} job{'s' if jobs > 1 else ''} at a time"
    unknown = [stage.name for stage in found if stage.waiting and stage.scan_s is None]
    of_what = f"; no scan of {', '.join(unknown)} is through yet" if unknown else ""
    rows.append(f"left in all: {duration(seconds_left(found, jobs=jobs))} ({at_a_time}{of_what})")
    networks = [stage for stage in BATCH_STAGES if stage != "select"]
    segmented = [stage.name for stage in found if stage.name.startswith("segment")]
    # Each with what it is made from.
    after = {
        "gate": (results.gate, _batches(results, networks)),
        "tables": (results.volumes, [results.gate, *_batches(results, segmented)]),
        "report": (results.report, [results.gate, results.volumes, *_batches(results, [PICTURES])]),
    }
    for name, (path, sources) in after.items():
        if not path.is_file():
            state = "not made yet"
        elif path.stat().st_mtime < max((source.stat().st_mtime for source in sources if source.is_file()), default=0):
            state = "older than what it is made from: to be made again"
        else:
            state = "made"
        rows.append(f"{name}: {state}")
    return "\n".join(rows)


def _batches(results: Results, names: Iterable[str]) -> list[Path]:
    """Finished tables of stages."""
    return [table for name in names for table in results.batches(name).glob("batch-*.tsv")]


def duration(seconds: float | None) -> str:
    """A time that a person can take in: ``2 h 10 min``; ``?`` if it is not known."""
    if seconds is None:
        return "?"
    minutes = math.ceil(seconds / 60)
    days, hours = divmod(minutes // 60, 24)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min"
