"""Weights known by name: which files there are, what they are for, and how to get those that are not shipped.

``registry.tsv`` lists them. A file is what its SHA-256 says it is: it may come from its source, from a mirror (a folder
or another address), or be copied into the resources folder by hand. Nothing is ever unpickled.
"""

from __future__ import annotations

import csv
import os
import shutil
import urllib.error
import urllib.request
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from .. import files
from ..errors import ConfigurationError, DataError, ToolError

#: Where fetched files go unless SYNTHSR_RESOURCES says otherwise.
DEFAULT_RESOURCES = Path("~/.local/share/synthsr-cohort")
CHUNK_BYTES = 1 << 20
TIMEOUT_S = 60
#: Times a broken download is taken up again before giving up.
ATTEMPTS = 5


@dataclass(frozen=True)
class Entry:
    """One row of ``registry.tsv``.

    Attributes
    ----------
    name, version
        What it is called.
    file
        File name.
    sha256
        Of the file.
    licence
        SPDX identifier.
    source
        ``shipped`` with the package, or the address of the file.
    purpose
        What for.
    """

    name: str
    version: str
    file: str
    sha256: str
    licence: str
    source: str
    purpose: str

    @property
    def path(self) -> Path:
        """Where the file is, or will be once fetched."""
        folder = Path(__file__).parent if self.source == "shipped" else resources_folder()
        return folder / self.file


def resources_folder() -> Path:
    """The one folder of fetched files."""
    return Path(os.environ.get("SYNTHSR_RESOURCES") or DEFAULT_RESOURCES).expanduser()


def registered(table: Path | None = None) -> dict[str, Entry]:
    """Entries by name.

    Parameters
    ----------
    table
        Another registry than the package's, of the same columns.

    Raises
    ------
    ConfigurationError
        If it cannot be read.
    """
    own = resources.files(__package__).joinpath("registry.tsv")
    try:
        text = own.read_text(encoding="utf-8") if table is None else Path(table).read_text(encoding="utf-8")
        return {row["name"]: Entry(**row) for row in csv.DictReader(text.splitlines(), delimiter="\t")}
    except (OSError, TypeError, KeyError) as error:
        raise ConfigurationError(f"{table}: not a registry of weights ({error})") from error


def is_sound(entry: Entry) -> bool:
    """Whether the file is there and is what the registry says."""
    return entry.path.is_file() and files.sha256(entry.path) == entry.sha256


def fetch(entry: Entry, mirror: str | None = None) -> Path:
    """Bring a registered file into the resources folder; a file that is there and sound is left alone.

    A download that breaks off is taken up where it stopped, also by a later call.

    Parameters
    ----------
    entry
        What to fetch.
    mirror
        Folder or address that holds the file under its name, instead of its source.

    Raises
    ------
    ToolError
        If it cannot be had.
    DataError
        If what came is not the registered file; nothing is left under its name.
    """
    if is_sound(entry):
        return entry.path
    if entry.source == "shipped":
        raise DataError(f"{entry.path}: damaged (its SHA-256 is not the registered one); install the package again")
    source = entry.source if mirror is None else f"{mirror.rstrip('/')}/{entry.file}"
    part = entry.path.with_name(f".part-{entry.sha256}")
    part.parent.mkdir(parents=True, exist_ok=True)
    for attempt in range(ATTEMPTS):
        try:
            _take_up(source, part)
            break
        except (OSError, urllib.error.URLError) as error:
            if attempt == ATTEMPTS - 1 or isinstance(error, (FileNotFoundError, urllib.error.HTTPError)):
                raise ToolError(
                    f"{source}: cannot be fetched ({error}); where there is no internet, give --mirror FOLDER with a "
                    f"copy of {entry.file}"
                ) from error
    found = files.sha256(part)
    if found != entry.sha256:
        part.unlink()
        raise DataError(
            f"{source}: SHA-256 is {found}, registered is {entry.sha256}; nothing was kept; "
            "fetch it again, or from another place (--mirror)"
        )
    part.replace(entry.path)
    return entry.path


def _take_up(source: str, part: Path) -> None:
    """Append to ``part`` what is still missing of ``source``."""
    done = part.stat().st_size if part.is_file() else 0
    if "://" not in source:
        with Path(source).open("rb") as stream, part.open("ab") as target:
            stream.seek(done)
            shutil.copyfileobj(stream, target, CHUNK_BYTES)
        return
    if not source.startswith(("https://", "http://")):
        raise ToolError(f"{source}: neither a folder nor an http address")
    request = urllib.request.Request(source, headers={"Range": f"bytes={done}-"} if done else {})  # noqa: S310
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT_S)  # noqa: S310
    except urllib.error.HTTPError as error:
        if error.code == 416:  # there is no byte after the last one we have
            return
        raise
    with answer, part.open("ab" if answer.status == 206 else "wb") as target:
        left = int(answer.headers.get("Content-Length") or 0)
        while data := answer.read(CHUNK_BYTES):
            target.write(data)
            left -= len(data)
        if left > 0:  # urllib takes a broken connection for the end
            raise ConnectionError(f"broke off with {left} bytes to come")
