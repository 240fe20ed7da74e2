"""FreeSurfer subjects that exist already: validated and imported, never resumed.

``recon-all`` called on a subject that exists goes on from whatever lies there, whoever made it from whatever scan. Here
a subject is either made from nothing in a folder of its own, or somebody else's is taken as it is, or refused.
"""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from ..errors import DataError

#: Log of a subject, and how it ends when all went well: of ``recon-all`` and of ``recon-all-clinical``.
FULL = ("recon-all-status.log", "finished without error")
CLINICAL = ("recon-all-clinical.log", "All done!")
#: A run without a sign of life for so long is taken for dead where its process cannot be seen.
STALE_HOURS = 48.0


@dataclass(frozen=True)
class Running:
    """A file ``IsRunning.*``: somebody works on the subject, or died over it.

    Attributes
    ----------
    path
        The file.
    host, process
        Where, as the file says; empty and 0 where it does not.
    hours
        Since anything in the subject's ``scripts`` changed.
    """

    path: Path
    host: str
    process: int
    hours: float

    @property
    def is_stale(self) -> bool:
        """Whether nobody works on it any more: the process is gone, or, on another machine, silent for two days."""
        if self.host in (socket.gethostname(), socket.getfqdn()) and self.process:
            try:
                os.kill(self.process, 0)
            except ProcessLookupError:
                return True
            except PermissionError:
                return False
            return False
        return self.hours > STALE_HOURS

    def __str__(self) -> str:
        """For a person."""
        state = "stale: its process is gone" if self.is_stale else "recon-all may be at work on it"
        return f"{self.path.name} of {self.host or 'an unknown host'}, {self.hours:.0f} h silent, {state}"


def running(subject: Path) -> list[Running]:
    """The ``IsRunning`` files of a subject."""
    scripts = subject / "scripts"
    found = []
    for path in sorted(scripts.glob("IsRunning*")):
        words = dict(
            (line.split()[0], line.split()[1])
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines()
            if len(line.split()) > 1
        )
        process = words.get("PROCESSID", "")
        newest = max(entry.stat().st_mtime for entry in scripts.iterdir())
        found.append(
            Running(
                path, words.get("HOST", ""), int(process) if process.isdigit() else 0, (time.time() - newest) / 3600
            )
        )
    return found


def validate(subject: Path, *, clinical: bool = False) -> None:
    """See that a subject was finished; its tables and images are checked where they are read.

    Parameters
    ----------
    subject
        Its folder.
    clinical
        Made by ``recon-all-clinical``.

    Raises
    ------
    DataError
        If it is not there, not finished, ended with an error, or is being worked on.
    """
    name = subject.name
    if not subject.is_dir():
        raise DataError(f"{name}: no such subject; existing subjects are imported, none is made")
    at_work = running(subject)
    if at_work:
        raise DataError(
            f"{name}: {at_work[0]}; it is not resumed: finish it, or delete the subject (or that file, if it is whole)"
        )
    if (subject / "scripts" / "recon-all.error").is_file():
        raise DataError(f"{name}: recon-all ended with an error (scripts/recon-all.error); it is not resumed")
    name_of_log, ending = CLINICAL if clinical else FULL
    log = subject / "scripts" / name_of_log
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    last = next((line for line in reversed(lines) if line.strip()), "")
    if ending not in last:
        raise DataError(f"{name}: scripts/{name_of_log} does not end with '{ending}'; it is not resumed")
