"""One run at a time on a private folder."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from analysis.errors import ToolError


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder, made with mode 0700 if it is not there; the system lets go of it even if the process is killed.

    Raises
    ------
    ToolError
        If another process holds it.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    with (folder / ".lock").open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ToolError(
                f"another run is at work in {folder}; wait for it to end, or give another folder"
            ) from error
        yield
