"""Walks through a source, of any nesting. Imports nothing heavy: every plan of the workflow asks for its state."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

#: Archives that can be read, by the ends of their names in lower case.
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
#: Files whose own time counts: archives, tables of contents, and what a BIDS dataset has; all of them may be edited,
#: replaced or fetched where they lie.
WATCHED = (*ARCHIVES, "dicomdir", "participants.tsv", "_sessions.tsv", ".nii.gz", ".nii", ".mgz")


def walk(
    root: Path, *, without: Path | None = None, onerror: Callable[[OSError], None] | None = None
) -> Iterator[tuple[Path, list[str]]]:
    """Folders and the names of their files, sorted, through links to folders but never in circles.

    Parameters
    ----------
    root
        Where to begin.
    without
        A folder to stay out of.
    onerror
        Called with the error, whose ``filename`` is the folder, where a folder cannot be read.
    """
    seen = {os.path.realpath(without)} if without else set()
    for parent, folders, names in os.walk(root, followlinks=True, onerror=onerror):
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        # What DataLad keeps in .git is linked from outside.
        folders[:] = sorted(name for name in folders if name != ".git")
        yield Path(parent), sorted(names)


def state(source: Path, *, without: Path | None = None) -> str:
    """Hash that changes when anything comes, goes or is renamed in a source, or a file of :data:`WATCHED` changes.

    A folder's time tells of its own entries only, so that all of them count. A DICOM file overwritten where it lies is
    not seen: to look at every file would cost as much as the inventory.

    Parameters
    ----------
    source
        A folder, an archive, or a ``DICOMDIR``, which stands for its folder.
    without
        A folder to stay out of.
    """
    root = source.parent if source.name.upper() == "DICOMDIR" else source
    found = walk(root, without=without) if root.is_dir() else [(root, [])]
    digest = hashlib.sha256()
    for parent, names in found:
        for path in (parent, *(parent / name for name in names if name.lower().endswith(WATCHED))):
            digest.update(os.fsencode(f"{path.relative_to(root)}\0{_time_ns(path)}\0"))
    return digest.hexdigest()


def _time_ns(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:  # a link to what has not been fetched
        return 0
