"""A DICOMDIR: the table of contents of a CD or of an export that is laid out like one."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

from . import Fault

#: A larger table of contents than any medium has; its folder can be read without it.
MOST_BYTES = 1 << 28


def is_dicomdir(path: Path) -> bool:
    """Whether a file's name is that of a DICOMDIR."""
    return path.name.upper() == "DICOMDIR"


class MediaDirectory:
    """A DICOMDIR and the files it names, which lie in its folder or below.

    Parameters
    ----------
    path
        The DICOMDIR.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()

    def files(self) -> Iterator[Path | Fault]:
        """The files it names, and what is wrong with it."""
        inside, faults = self._resolve()
        yield from inside
        yield from faults

    def faults(self) -> list[Fault]:
        """What is wrong with it; its files are found without it."""
        return self._resolve()[1]

    def _resolve(self) -> tuple[list[Path], list[Fault]]:
        try:
            references = self._references()
        except Exception as error:  # pydicom raises nearly anything on a damaged file
            return [], [Fault(self.path, f"a DICOMDIR that cannot be read ({type(error).__name__})")]
        root = self.path.parent.resolve()
        inside: list[Path] = []
        n_escaped = n_missing = 0
        for parts in references:
            if any(part in ("", ".", "..") or "/" in part or "\\" in part for part in parts):
                n_escaped += 1
                continue
            path = _existing(self.path.parent, parts)
            if path is None:
                n_missing += 1
            elif not path.resolve().is_relative_to(root):
                n_escaped += 1
            else:
                inside.append(path)
        faults = []
        if n_escaped:
            reason = f"a DICOMDIR that names {n_escaped} files outside its folder; these are left out"
            faults.append(Fault(self.path, reason))
        if n_missing:
            reason = f"a DICOMDIR of whose files {n_missing} are not there; copy the whole medium"
            faults.append(Fault(self.path, reason))
        return inside, faults

    def _references(self) -> list[tuple[str, ...]]:
        from pydicom import dcmread

        if self.path.stat().st_size > MOST_BYTES:
            raise ValueError("too large")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            records = dcmread(self.path, specific_tags=["DirectoryRecordSequence"]).get("DirectoryRecordSequence") or []
            found = [record.get("ReferencedFileID") for record in records]
        return [(value,) if isinstance(value, str) else tuple(map(str, value)) for value in found if value]


def _existing(folder: Path, parts: tuple[str, ...]) -> Path | None:
    """The file of that name, or, as some systems copy CDs, with a name in lower case or a version behind it."""
    names = (parts, tuple(part.lower() for part in parts), (*parts[:-1], f"{parts[-1]};1"))
    return next((path for name in names if (path := folder.joinpath(*name)).is_file()), None)
