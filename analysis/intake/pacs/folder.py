"""The folder tree that fetched files come into: a folder per study, and in it one per series."""

from __future__ import annotations

import hashlib
import io
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pydicom

from synthsr import files

from .peer import RemoteSeries


class SeriesFolder:
    """Folder of one series that is being fetched; what is in it need not be fetched again.

    Parameters
    ----------
    root
        Folder of all that is fetched.
    series
        Which one.
    pace
        Slows down what comes too fast.

    Attributes
    ----------
    n_foreign
        Counts images that came under the name of another, and were not kept.
    """

    def __init__(self, root: Path, series: RemoteSeries, pace: Pace) -> None:
        self.path = root / _name(series.study_uid) / _name(series.series_uid)
        for unfinished in self.path.glob(".part-*"):  # of a run that was killed
            unfinished.unlink()
        self._series, self._pace = series, pace
        self._expected: frozenset[str] = frozenset()
        self.n_foreign = 0

    def expect(self, instances: Sequence[str]) -> None:
        """Take these, and no others."""
        self._expected = frozenset(instances)

    def missing(self, instances: Sequence[str]) -> list[str]:
        """Which instances are not there yet."""
        there = {path.name for path in self.path.glob("*.dcm")} if self.path.is_dir() else set()
        return [instance for instance in instances if f"{_name(instance)}.dcm" not in there]

    def receive(self, instance: str, content: bytes) -> bool:
        """Keep an instance that is expected, and is what it is called; it gets its name when it is whole."""
        if instance not in self._expected:
            return False
        if _uids(content) != (self._series.study_uid, self._series.series_uid, instance):
            self.n_foreign += 1
            return False
        path = self.path / f"{_name(instance)}.dcm"
        if not path.is_file():
            self._pace.wait()
            with files.whole(path) as temporary:
                temporary.write_bytes(content)
        return True


class Pace:
    """Lets pass not more than so many in a second."""

    def __init__(self, per_second: float) -> None:
        self._gap_s = 1 / per_second
        self._next = time.monotonic()
        self._lock = threading.Lock()

    def wait(self) -> None:
        """Return when the next one may pass."""
        with self._lock:
            now = time.monotonic()
            if self._next > now:
                time.sleep(self._next - now)
            self._next = max(self._next, now) + self._gap_s


def _uids(content: bytes) -> tuple[str, ...]:
    """Of study, series and instance, as a file itself has them; none if it cannot be read."""
    names = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
    try:
        header = pydicom.dcmread(io.BytesIO(content), stop_before_pixels=True, specific_tags=list(names))
        return tuple(str(header.get(name) or "") for name in names)
    except Exception:  # pydicom raises nearly anything on damaged data
        return ()


def _name(uid: str) -> str:
    """Name of a file or folder: a PACS may send anything as UID."""
    return hashlib.sha256(uid.encode()).hexdigest()[:24]
