"""Where DICOM files come from: a folder tree, an archive, a DICOMDIR; each gives its files and what is wrong with it.

What a PACS holds is fetched into a folder tree first (``python -m analysis fetch``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from analysis.errors import DataError


@dataclass(frozen=True)
class Fault:
    """A file or folder of a source that cannot be used, or not wholly, and why; the reason does not name it."""

    path: Path
    reason: str


class Source(Protocol):
    """Something that holds DICOM files.

    Attributes
    ----------
    path
        What it was opened by.
    """

    path: Path

    def files(self) -> Iterator[Path | Fault]:
        """Files, absolute, and faults."""


def open_source(path: Path, *, unpacked: Path) -> Source:
    """Source of the kind that ``path`` is.

    Parameters
    ----------
    path
        A folder, an archive, or a ``DICOMDIR``.
    unpacked
        Private folder for what archives hold.

    Raises
    ------
    DataError
        If it is none of them.
    """
    from .archive import Archive, is_archive
    from .dicomdir import MediaDirectory, is_dicomdir
    from .folder import Folder

    if path.is_dir():
        return Folder(path, unpacked=unpacked)
    if path.is_file() and is_archive(path):
        return Archive(path, unpacked=unpacked)
    if path.is_file() and is_dicomdir(path):
        return MediaDirectory(path)
    if path.exists():
        raise DataError(f"{path}: is no folder, archive (.zip, .tar, .tar.gz …) or DICOMDIR; give one of these")
    raise DataError(f"{path}: no such folder, archive or DICOMDIR")
