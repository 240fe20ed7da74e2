"""Opens image files of unknown make without trusting them: what they claim is compared with what is there first."""

from __future__ import annotations

import gzip
import io
import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
from nibabel.spatialimages import SpatialImage

from analysis.errors import DataError

EXTENSIONS = (".nii.gz", ".nii", ".mgz")
#: More voxels than any scanner makes of a head (0.25 mm throughout: 5e8), and as many as fit into 4 GB of memory.
MOST_VOXELS = 500_000_000
#: Bytes of a header with its extensions; bytes that may follow the last voxel (MGZ: its table of scan parameters).
LONGEST_HEADER, LONGEST_TAIL = 16 << 20, 1 << 20
_GZIP = b"\x1f\x8b"
_CHUNK = 1 << 20
#: Bytes of the longest fixed header, NIfTI-2's.
_LONGEST_START = 540


@dataclass(frozen=True)
class Opened:
    """An image and what had to be repaired to open it.

    Attributes
    ----------
    image
        As nibabel has it.
    repairs
        What was repaired, one sentence each; the file itself is as it was.
    """

    image: SpatialImage
    repairs: list[str] = field(default_factory=list)


def extension(path: Path) -> str:
    """The image extension of a file name, ``.nii.gz`` as one; empty if it is none."""
    return next((ending for ending in EXTENSIONS if path.name.endswith(ending)), "")


@contextmanager
def opened(path: Path, *, whole: bool) -> Iterator[Opened]:
    """Open an image for as long as the block lasts.

    Parameters
    ----------
    path
        Its file; compressed or not, whatever its name says.
    whole
        Read a compressed file to its end first, to see whether it is whole and no longer than its header says.

    Raises
    ------
    DataError
        If it cannot be read, claims more voxels than any scan has, or is shorter or longer than it claims.
    """
    with tempfile.TemporaryDirectory(prefix="image-") as folder:
        try:
            image = _open(path, Path(folder), whole=whole)
        except DataError:
            raise
        except EOFError as error:
            raise DataError(f"{path.name}: is truncated; export the scan again") from error
        except Exception as error:  # nibabel and zlib raise nearly anything on a damaged file
            raise DataError(unreadable(path, error)) from error
        yield image


def unreadable(path: Path, error: Exception) -> str:
    """Reason of an image that cannot be read."""
    return f"{path.name}: cannot be read as an image ({type(error).__name__}); export the scan again"


def _open(path: Path, folder: Path, *, whole: bool) -> Opened:
    with path.open("rb") as raw:
        is_compressed = raw.read(2) == _GZIP
    repairs = []
    if is_compressed != path.name.endswith("z"):
        right = {".nii.gz": ".nii", ".nii": ".nii.gz", ".mgz": ".mgh"}[extension(path)]
        repairs.append(f"read as {right}, which it is")
        link = folder / f"image{right}"
        link.symlink_to(path.resolve())
    else:
        link = path
    with gzip.open(path) if is_compressed else path.open("rb") as stream:
        slope = _examine(stream, path.name, whole=whole)
    if not math.isfinite(slope):
        repairs.append("values taken as they are stored, as scl_slope is no number")
    return Opened(nib.load(link), repairs)


def _examine(stream: gzip.GzipFile | io.BufferedReader, name: str, *, whole: bool) -> float:
    """Compare a header's claims with limits, and with the length of the file; return the slope of its values.

    The length of a compressed file is known only after it has been read, if ``whole``, to its end.
    """
    start = stream.read(_LONGEST_START)
    claims = _claims(start)
    if claims is None:
        return 1.0  # nibabel will say what is wrong
    n_voxels = math.prod(claims.shape[:3])
    if n_voxels > MOST_VOXELS:
        raise DataError(f"{name}: claims {n_voxels:.3g} voxels, more than a scan of a head has; leave it out")
    if not 0 <= claims.first_byte <= LONGEST_HEADER:
        raise DataError(f"{name}: claims that its voxels begin at byte {claims.first_byte}; export the scan again")
    expected = claims.first_byte + math.prod(claims.shape) * claims.voxel_bytes
    if isinstance(stream, io.BufferedReader):
        found = os.fstat(stream.fileno()).st_size
    elif whole:
        found = len(start)
        while found <= expected + LONGEST_TAIL and (chunk := stream.read(_CHUNK)):
            found += len(chunk)
    else:
        return claims.slope
    if found > expected + LONGEST_TAIL:
        raise DataError(f"{name}: goes on after the last voxel that its header claims; export the scan again")
    if found < expected:
        raise DataError(f"{name}: is truncated, {found} bytes where {expected} are expected; export the scan again")
    return claims.slope


@dataclass(frozen=True)
class _Claims:
    shape: tuple[int, ...]
    first_byte: int
    voxel_bytes: int
    slope: float


def _claims(start: bytes) -> _Claims | None:
    """What a header says of the size of its file; None if it is no header of a known kind."""
    slope = 1.0
    if start[:4] in (b"\x5c\x01\0\0", b"\0\0\x01\x5c"):
        header = nib.Nifti1Header(start[:348], check=False)
    elif start[:4] in (b"\x1c\x02\0\0", b"\0\0\x02\x1c"):
        header = nib.Nifti2Header(start[:540], check=False)
    elif start[:4] == b"\0\0\0\x01":
        header = nib.freesurfer.mghformat.MGHHeader(start[:284], check=False)
        shape = tuple(int(size) for size in header.get_data_shape())
        return _Claims(shape, header.get_data_offset(), header.get_data_dtype().itemsize, slope)
    else:
        return None
    first_byte, slope = float(header["vox_offset"]), float(header["scl_slope"])
    shape = tuple(int(size) for size in header.get_data_shape())
    return _Claims(shape, int(first_byte) if math.isfinite(first_byte) else -1, header.get_data_dtype().itemsize, slope)
