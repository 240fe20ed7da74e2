"""What a batch job has done so far: a line per scan beside the table that it will write.

A job's table appears when all its scans are done. Until then the journal tells a killed job's successor which scans it
can leave alone, and ``python -m analysis status`` how far the job is.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from synthsr import files

Row = Mapping[str, str]
#: Follows the stem of a table's name.
SUFFIX = ".running.jsonl"


@dataclass(frozen=True)
class Journal:
    """A journal as read.

    Attributes
    ----------
    rows
        One per scan, columns as of the batch's table.
    found
        How many of them an earlier job had made.
    elapsed_s, idle_s
        From the start of the job to its last scan, and since then.
    """

    rows: list[dict[str, str]] = field(default_factory=list)
    found: int = 0
    elapsed_s: float = 0.0
    idle_s: float = 0.0


def path_of(table: Path) -> Path:
    """Journal of a batch table."""
    return table.with_name(f"{table.stem}{SUFFIX}")


def read(table: Path) -> Journal:
    """Read the journal of a table, without a line that is being written; empty if there is none."""
    path = path_of(table)
    try:
        first, *lines = path.read_text(encoding="utf-8").splitlines()
        changed = path.stat().st_mtime
        start = json.loads(first)
        rows = [json.loads(line) for line in lines if line.endswith("}")]
    except (FileNotFoundError, ValueError):
        return Journal()
    return Journal(rows, start["found"], changed - start["started"], time.time() - changed)


@contextmanager
def writing(table: Path, found: Sequence[Row]) -> Iterator[Callable[[Row], None]]:
    """Keep a journal: ``found`` at once, then what is given, row by row; deleted if the block ends well."""
    path = path_of(table)
    start = {"started": time.time(), "found": len(found)}
    files.write_text(path, "".join(json.dumps(line) + "\n" for line in (start, *found)))
    with path.open("a", encoding="utf-8") as stream:

        def write(row: Row) -> None:
            stream.write(json.dumps(row) + "\n")
            stream.flush()

        yield write
    path.unlink()
