"""A folder tree, of any nesting, with archives and media in it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from analysis.intake import folders

from . import Fault
from .archive import UNREAD_SUFFIXES, Archive, is_archive
from .dicomdir import MediaDirectory, is_dicomdir

CLOSED = "a folder that cannot be read; give the right to read it"
UNREAD_ARCHIVE = "an archive or compressed file of a kind that is not read; unpack it"


class Folder:
    """A folder tree.

    Parameters
    ----------
    path
        The folder.
    unpacked
        Private folder for what the archives in it hold; not gone through itself.
    """

    def __init__(self, path: Path, *, unpacked: Path) -> None:
        self.path, self.unpacked = path, unpacked

    def files(self) -> Iterator[Path | Fault]:
        """Every file that can be read to its end, those in archives too; closed folders and faults of media."""
        closed: list[Path] = []
        walked = folders.walk(
            self.path,
            without=self.unpacked,
            onerror=lambda error: closed.append(Path(os.fsdecode(error.filename)).absolute()),
        )
        for parent, names in walked:
            for path in ((parent / name).absolute() for name in names):
                if _is_endless(path):
                    continue
                if is_archive(path):
                    yield from Archive(path, unpacked=self.unpacked).files()
                elif is_dicomdir(path):
                    yield from MediaDirectory(path).faults()
                elif path.name.lower().endswith(UNREAD_SUFFIXES):
                    yield Fault(path, UNREAD_ARCHIVE)
                else:
                    yield path
        yield from (Fault(path, CLOSED) for path in closed)


def _is_endless(path: Path) -> bool:
    """Whether it is a pipe, socket or device. What cannot be asked is tried, and then a row of its own."""
    try:
        return not stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False
