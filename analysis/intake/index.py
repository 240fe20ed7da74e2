"""Headers of a source's files on disk, so that memory does not grow with their number and none is read twice."""

from __future__ import annotations

import json
import multiprocessing
import os
import sqlite3
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from synthsr.errors import DataError, ToolError
from synthsr.progress import tracked

from . import headers
from .series import to_path, to_text

#: Files that a process reads before it reports, and files between two commits.
CHUNK, COMMIT = 64, 4096
#: Fewer new files than this are read without further processes.
FEW = 512

#: What a file was found to be.
IMAGE, NOTHING, UNREADABLE = 0, 1, 2
NOT_LET = "a file that the system does not let be read"

_TABLES = """
CREATE TABLE IF NOT EXISTS files (
    path TEXT PRIMARY KEY, size INTEGER, mtime_ns INTEGER, kind INTEGER, series TEXT, header TEXT, judged INTEGER
);
CREATE INDEX IF NOT EXISTS files_by_series ON files (series, path) WHERE kind = 0;
CREATE INDEX IF NOT EXISTS files_by_judgement ON files (judged, path);
CREATE TEMP TABLE IF NOT EXISTS found (path TEXT PRIMARY KEY, size INTEGER, mtime_ns INTEGER) WITHOUT ROWID;
CREATE TEMP TABLE IF NOT EXISTS new (path TEXT);
"""

_Record = tuple[str, int, int, int, str, str]


@dataclass(frozen=True)
class Entry:
    """An image file: its row in the index, path, size and header."""

    number: int
    path: Path
    size: int
    header: headers.Header


class Files:
    """Paths of a judged series, read from the index whenever they are gone through."""

    def __init__(self, index: Index, number: int) -> None:
        self._index, self._number = index, number

    def __iter__(self) -> Iterator[Path]:
        return self._index.paths(self._number)


class Index:
    """The index of a source.

    Parameters
    ----------
    path
        SQLite file; private, as it holds headers. Made anew if it is damaged or of an earlier version.

    Raises
    ------
    ToolError
        From every method, if the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._open(path)
        except (sqlite3.DatabaseError, ToolError):
            path.unlink(missing_ok=True)
            with _told():
                self._open(path)

    def _open(self, path: Path) -> None:
        self._database = sqlite3.connect(path)
        (version,) = self._database.execute("PRAGMA user_version").fetchone()
        if version != headers.VERSION:
            self._database.execute("DROP TABLE IF EXISTS files")
        self._database.execute("PRAGMA synchronous = OFF")
        self._database.executescript(_TABLES)
        self._database.execute(f"PRAGMA user_version = {headers.VERSION}")
        self._database.commit()

    def update(self, files: Iterable[Path], *, processes: int) -> int:
        """Take in what is new or changed, drop what is gone.

        Parameters
        ----------
        files
            All files of the source.
        processes
            How many read headers at once.

        Returns
        -------
        How many files were read.
        """
        with _told():
            execute = self._database.execute
            execute("DELETE FROM found")
            execute("DELETE FROM new")
            self._database.executemany("INSERT OR IGNORE INTO found VALUES (?, ?, ?)", map(_state, files))
            execute("DELETE FROM files WHERE path NOT IN (SELECT path FROM found)")
            execute(
                "INSERT INTO new SELECT path FROM (SELECT * FROM found EXCEPT SELECT path, size, mtime_ns FROM files)"
            )
            (n_new,) = execute("SELECT count(*) FROM new").fetchone()
            self._database.commit()
            records = _read_all(self._new(), processes if n_new >= FEW else 1)
            for number, record in enumerate(tracked(records, what="headers read", total=n_new), start=1):
                execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, NULL)", record)
                if number % COMMIT == 0:
                    self._database.commit()
            execute("UPDATE files SET judged = NULL WHERE judged IS NOT NULL")
            self._database.commit()
        return int(n_new)

    def unreadable(self) -> Iterator[tuple[Path, str]]:
        """Files that should be DICOM and cannot be read, and why."""
        with _told():
            query = "SELECT path, header FROM files WHERE kind = ? ORDER BY path"
            yield from ((to_path(path), reason) for path, reason in self._database.execute(query, (UNREADABLE,)))

    def count(self) -> tuple[int, int]:
        """How many files there are, and how many of them are neither DICOM images nor claim to be."""
        with _told():
            query = "SELECT count(*), coalesce(sum(kind = ?), 0) FROM files"
            n_files, n_others = self._database.execute(query, (NOTHING,)).fetchone()
        return n_files, n_others

    def groups(self) -> Iterator[list[Entry]]:
        """Images of each SeriesInstanceUID, by path; one series in memory at a time."""
        with _told():
            series = "SELECT DISTINCT series FROM files WHERE kind = 0 ORDER BY series"
            files = "SELECT rowid, path, size, header FROM files WHERE kind = 0 AND series = ? ORDER BY path"
            uids = self._database.execute(series).fetchall()
            for uid in tracked(uids, what="series judged", total=len(uids)):
                yield [_entry(*row) for row in self._database.execute(files, uid)]
            self._database.commit()

    def mark(self, numbers: Iterable[int], judged: int) -> Files:
        """Remember that these rows are the files of a judged series."""
        with _told():
            rows = ((judged, number) for number in numbers)
            self._database.executemany("UPDATE files SET judged = ? WHERE rowid = ?", rows)
        return Files(self, judged)

    def paths(self, judged: int) -> Iterator[Path]:
        """Files of a judged series."""
        with _told():
            query = "SELECT path FROM files WHERE judged = ? ORDER BY path"
            yield from (to_path(path) for (path,) in self._database.execute(query, (judged,)))

    def _new(self) -> Iterator[list[str]]:
        """Paths to read, in order of their folders, in chunks."""
        place = 0
        while True:
            query = "SELECT rowid, path FROM new WHERE rowid > ? ORDER BY rowid LIMIT ?"
            rows = self._database.execute(query, (place, CHUNK)).fetchall()
            if not rows:
                return
            place = rows[-1][0]
            yield [path for _, path in rows]


def _entry(number: int, path: str, size: int, text: str) -> Entry:
    values, frames, fault = json.loads(text)
    return Entry(
        number, to_path(path), size, headers.Header(dict(zip(headers.TAGS, values, strict=True)), frames, fault)
    )


@contextmanager
def _told() -> Iterator[None]:
    """Turn the database's errors into one that says what to do and names no file."""
    try:
        yield
    except sqlite3.Error as error:
        raise ToolError(
            f"the index in the private folder cannot be used ({error}); see to space and rights, or remove index.sqlite"
        ) from error


def _state(path: Path) -> tuple[str, int, int]:
    try:
        status = path.stat()
    except OSError:  # a link into nowhere, or no right to look: a file that cannot be read
        return to_text(path), -1, 0
    return to_text(path), status.st_size, status.st_mtime_ns


def _read_all(chunks: Iterable[list[str]], processes: int) -> Iterator[_Record]:
    """Read files by several processes, with few chunks on the way at any time."""
    if processes == 1:
        for chunk in chunks:
            yield from _read_chunk(chunk)
        return
    # Not forked: the libraries of this process may have threads.
    context = multiprocessing.get_context("spawn")
    pending: deque[Future[list[_Record]]] = deque()
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        try:
            for chunk in chunks:
                pending.append(pool.submit(_read_chunk, chunk))
                if len(pending) > 4 * processes:
                    yield from pending.popleft().result()
            while pending:
                yield from pending.popleft().result()
        except BrokenExecutor as error:
            raise ToolError("a process that reads headers was killed (memory?); run again, it goes on") from error


def _read_chunk(chunk: list[str]) -> list[_Record]:
    return [_read(path) for path in chunk]


def _read(text: str) -> _Record:
    path = to_path(text)
    _, size, mtime_ns = _state(path)
    try:
        header = headers.read(path)
    except OSError as error:
        # Of the system, not of the file: no state of the file is this one, so that the next run tries again.
        return text, -1, -1, UNREADABLE, "", f"{NOT_LET} ({type(error).__name__}), see to rights and mounts"
    except DataError as error:
        # The path before the reason identifies.
        return text, size, mtime_ns, UNREADABLE, "", str(error).removeprefix(f"{path}: ")
    if header is None:
        return text, size, mtime_ns, NOTHING, "", ""
    series = header.texts["SeriesInstanceUID"]
    if not series:
        return text, size, mtime_ns, UNREADABLE, "", f"{headers.UNREADABLE} (no SeriesInstanceUID)"
    content = json.dumps([list(header.texts.values()), header.frames, header.fault], separators=(",", ":"))
    return text, size, mtime_ns, IMAGE, series, content


def available_processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0))
