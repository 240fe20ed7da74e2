"""A zip or tar archive: its DICOM files are unpacked, under numbers for names, into a private folder.

No member's name becomes a path. What would have led out of the archive, links, devices and encrypted or damaged
members are left out and counted; an archive that unpacks to far more than its size is unpacked no further.
"""

from __future__ import annotations

import errno
import hashlib
import json
import lzma
import re
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from analysis.errors import ToolError
from analysis.intake import folders, headers
from analysis.intake.series import to_text

from . import Fault

#: Kinds that are not read, and told; single files compressed as ``1.dcm.gz`` among them.
UNREAD_SUFFIXES = (".7z", ".rar", ".iso", ".tar.zst", ".dcm.gz", ".ima.gz")
#: An archive may unpack to so many times its size, and to at least so much; images compress to a third.
MOST_RATIO, LEAST_CAP_BYTES = 100, 1 << 30
MOST_MEMBERS = 1_000_000
LONGEST_NAME_BYTES = 1 << 16
_PAX = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)
#: Space that is left on the disk.
LEAST_FREE_BYTES = 1 << 28
_BLOCK_BYTES = 1 << 20
#: How zipfile, tarfile and the decompressors fail on damaged or encrypted content.
_DAMAGED = (
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, RuntimeError, ValueError),
    *(NotImplementedError, OSError),
)
#: What stops the run; other errors of the system are those of one archive.
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}

ESCAPES, LINKS = "have names that lead out of it", "are links or devices"
NESTED, UNREADABLE = "are archives themselves", "cannot be unpacked"


def is_archive(path: Path) -> bool:
    """Whether a file's name is that of an archive that can be read."""
    return path.name.lower().endswith(folders.ARCHIVES)


class _FullError(Exception):
    """The archive unpacks to more than it may."""


class _Member(tarfile.TarInfo):
    """A member whose long name, which is read into memory at once, is not longer than any file system's."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        is_name = self.type in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, *_PAX)
        if is_name and self.size > LONGEST_NAME_BYTES:
            raise tarfile.ReadError("a name of more bytes than any file system takes")
        return super()._proc_member(archive)  # type: ignore[misc,no-any-return]


class Archive:
    """An archive.

    Parameters
    ----------
    path
        The file.
    unpacked
        Private folder; the archive's files come into a folder of their own in it, and stay as long as the archive is
        as it was.
    """

    def __init__(self, path: Path, *, unpacked: Path) -> None:
        self.path = path.absolute()
        self.target = unpacked.absolute() / hashlib.sha256(to_text(self.path).encode()).hexdigest()[:16]

    def files(self) -> Iterator[Path | Fault]:
        """The DICOM files in it, unpacked, and what is wrong with it."""
        try:
            status = self.path.stat()
        except OSError as error:
            yield Fault(self.path, f"an archive that cannot be read ({type(error).__name__})")
            return
        state = {"size": status.st_size, "mtime_ns": status.st_mtime_ns}
        try:
            known = json.loads((self.target / "archive.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            known = {}
        if {key: known.get(key) for key in state} != state:
            try:
                known = state | {"faults": self._unpack(state)}
            except OSError as error:
                if error.errno in _DISK:
                    raise
                # Not remembered: the next run tries again.
                yield Fault(self.path, f"an archive that cannot be read ({type(error).__name__})")
                return
        yield from sorted(path for path in self.target.iterdir() if path.suffix == ".dcm")
        yield from (Fault(self.path, reason) for reason in known["faults"])

    def _unpack(self, state: dict[str, int]) -> list[str]:
        """Unpack into a temporary folder that gets its name when it is whole; the faults."""
        self.target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        for unfinished in self.target.parent.glob(".part-*"):  # of a run that was killed
            shutil.rmtree(unfinished)
        with tempfile.TemporaryDirectory(prefix=".part-", dir=self.target.parent) as name:
            folder = Path(name, "content")
            folder.mkdir(mode=0o700)
            left_out: Counter[str] = Counter()
            faults = []
            cap_bytes = max(MOST_RATIO * state["size"], LEAST_CAP_BYTES)
            try:
                self._unpack_members(folder, cap_bytes, left_out)
            except _FullError:
                faults.append(f"an archive that unpacks to more than {MOST_RATIO} times its size; unpack it")
            except _DAMAGED as error:
                if getattr(error, "errno", None) is not None:  # of the system, not of the archive
                    raise
                faults.append(f"an archive that is damaged or cut off ({type(error).__name__}); export it again")
            for what, count in sorted(left_out.items()):
                faults.append(f"an archive of which {count} members {what}; these are left out")
            record = json.dumps({**state, "faults": faults})
            (folder / "archive.json").write_text(record, encoding="utf-8")
            shutil.rmtree(self.target, ignore_errors=True)
            folder.replace(self.target)
        return faults

    def _unpack_members(self, folder: Path, cap_bytes: int, left_out: Counter[str]) -> None:
        members = self._zip(left_out) if self.path.name.lower().endswith(".zip") else self._tar(left_out, cap_bytes)
        total_bytes = 0
        for index, (name, stream) in enumerate(members, start=1):
            if index > MOST_MEMBERS:
                raise _FullError
            target = folder / f"{index:07d}.dcm"
            try:
                with stream:
                    start = stream.read(_BLOCK_BYTES)
                    total_bytes += len(start)
                    if not headers.promises_dicom(start, name):
                        continue
                    with target.open("wb") as output:
                        while start:
                            if total_bytes > cap_bytes:
                                target.unlink()
                                raise _FullError
                            _check_space(folder)
                            output.write(start)
                            start = stream.read(_BLOCK_BYTES)
                            total_bytes += len(start)
            except (zipfile.BadZipFile, zlib.error, EOFError, lzma.LZMAError):
                target.unlink(missing_ok=True)
                left_out[UNREADABLE] += 1

    def _zip(self, left_out: Counter[str]) -> Iterator[tuple[str, BinaryIO]]:
        with zipfile.ZipFile(self.path) as archive:
            for member in archive.infolist():
                mode = member.external_attr >> 16
                if member.is_dir():
                    continue
                if fault := _fault(member.filename, is_file=stat.S_IFMT(mode) in (0, stat.S_IFREG)):
                    left_out[fault] += 1
                    continue
                try:
                    stream = archive.open(member)
                except (RuntimeError, NotImplementedError, zipfile.BadZipFile):  # encrypted, or another compression
                    left_out[UNREADABLE] += 1
                    continue
                yield member.filename, stream  # type: ignore[misc]

    def _tar(self, left_out: Counter[str], cap_bytes: int) -> Iterator[tuple[str, BinaryIO]]:
        total_bytes = 0
        with tarfile.open(self.path, "r|*", tarinfo=_Member) as archive:
            for member in archive:
                # What is stepped over is inflated as well.
                total_bytes += member.size
                if total_bytes > cap_bytes:
                    raise _FullError
                if member.isdir():
                    continue
                fault = _fault(member.name, is_file=member.isreg())
                stream = None if fault else archive.extractfile(member)
                if stream is None:
                    left_out[fault] += 1
                    continue
                yield member.name, stream  # type: ignore[misc]


def _fault(name: str, *, is_file: bool) -> str:
    """Why a member is left out, or empty."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or re.match("[A-Za-z]:", name):
        return ESCAPES
    if not is_file:
        return LINKS
    return NESTED if is_archive(Path(path.name)) else ""


def _check_space(folder: Path) -> None:
    if shutil.disk_usage(folder).free < LEAST_FREE_BYTES:
        raise ToolError("the disk of the private folder is full: archives are unpacked there; make room and run again")
