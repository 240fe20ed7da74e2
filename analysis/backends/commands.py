"""Command lines of other laboratories' tools.

nipype's interfaces where it has them (``recon-all``, ``bet``, ``fast``, ``run_first_all``); the others are declared
here in its way: typed inputs that know their flags. Every file lies in the request's folder.
"""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nipype.interfaces import fsl
from nipype.interfaces.base import CommandLine, CommandLineInputSpec, File, traits
from nipype.interfaces.freesurfer import ReconAll

from ..errors import ConfigurationError

# nipype asks the network for its latest version when the first interface is made.
os.environ.setdefault("NO_ET", "1")

_FSL_TYPE = "NIFTI_GZ"
#: Parts of recon-all that can be asked for, in order; its volumes come with ``all`` or ``autorecon3``.
STAGES = ("all", "autorecon1", "autorecon2", "autorecon3", "qcache")


@dataclass(frozen=True)
class Request:
    """What is asked of a tool.

    Attributes
    ----------
    image
        Scan or 1 mm T1, ``.nii.gz``, below ``folder``.
    folder
        Empty but for the image; the outputs go there. No space in its path.
    name
        The scan's pseudonym; a FreeSurfer subject is called so.
    threads
        CPU threads.
    ct
        Whether the image is computed tomography.
    stages
        Of recon-all, of :data:`STAGES`.
    """

    image: Path
    folder: Path
    name: str
    threads: int = 1
    ct: bool = False
    stages: tuple[str, ...] = ("all",)


class _SynthInput(CommandLineInputSpec):  # type: ignore[misc]
    in_file = File(exists=True, argstr="--i %s", mandatory=True, position=0, desc="image")
    out_file = File(argstr="--o %s", mandatory=True, position=1, desc="output")
    threads = traits.Int(argstr="--threads %d", desc="CPU threads")
    cpu = traits.Bool(argstr="--cpu", desc="no GPU")
    ct = traits.Bool(argstr="--ct", desc="computed tomography: clip to [0, 80] HU")


class _SynthSegInput(_SynthInput):
    robust = traits.Bool(argstr="--robust", desc="slower, for scans of poor quality")
    parc = traits.Bool(argstr="--parc", desc="parcels of the cortex")
    vol = File(argstr="--vol %s", desc="table of volumes")
    qc = File(argstr="--qc %s", desc="table of quality scores")


class SynthSeg(CommandLine):  # type: ignore[misc]
    """``mri_synthseg`` of FreeSurfer 7.4 (Billot et al., PNAS 2023)."""

    _cmd = "mri_synthseg"
    input_spec = _SynthSegInput


class SynthSR(CommandLine):  # type: ignore[misc]
    """``mri_synthsr`` of FreeSurfer 7.3 (Iglesias et al., Science Advances 2023)."""

    _cmd = "mri_synthsr"
    input_spec = _SynthInput


class _SamsegInput(CommandLineInputSpec):  # type: ignore[misc]
    in_file = File(exists=True, argstr="--input %s", mandatory=True, position=0, desc="T1")
    out_dir = traits.Str(argstr="--output %s", mandatory=True, position=1, desc="folder of the outputs")
    threads = traits.Int(argstr="--threads %d", desc="CPU threads")


class Samseg(CommandLine):  # type: ignore[misc]
    """``run_samseg`` (Puonti et al., NeuroImage 2016)."""

    _cmd = "run_samseg"
    input_spec = _SamsegInput


class _ClinicalInput(CommandLineInputSpec):  # type: ignore[misc]
    in_file = File(exists=True, argstr="%s", mandatory=True, position=0, desc="scan")
    subject = traits.Str(argstr="%s", mandatory=True, position=1, desc="subject")
    threads = traits.Int(argstr="%d", mandatory=True, position=2, desc="CPU threads")
    subjects_dir = traits.Str(argstr="%s", mandatory=True, position=3, desc="folder of subjects")


class ReconAllClinical(CommandLine):  # type: ignore[misc]
    """``recon-all-clinical.sh`` of FreeSurfer 7.4 (Gopinath et al., Medical Image Analysis 2025)."""

    _cmd = "recon-all-clinical.sh"
    input_spec = _ClinicalInput


def of(backend: str, request: Request) -> Iterator[list[str]]:
    """Command lines of a back end, to be run in the request's folder.

    Yields
    ------
    Each when those before it have run: nipype checks that the inputs exist.

    Raises
    ------
    ConfigurationError
        If the folder's path has a space, which FreeSurfer's scripts do not stand; or for unknown stages.
    """
    _require_no_space(request)
    for interface in _interfaces(backend, request):
        # nipype gives some paths relative to the current folder.
        with contextlib.chdir(request.folder):
            command = shlex.split(interface.cmdline)
        yield command


def synthsr(request: Request, target: Path) -> list[str]:
    """Command line of ``mri_synthsr``, the alternative synthesiser; errors as of :func:`of`."""
    _require_no_space(request)
    interface = SynthSR(in_file=request.image, out_file=target, threads=request.threads, cpu=True, ct=request.ct)
    return shlex.split(interface.cmdline)


def _require_no_space(request: Request) -> None:
    if any(character.isspace() for character in str(request.folder)):
        raise ConfigurationError(
            f"{request.folder}: other tools cannot work below a path with spaces; set TMPDIR to one without"
        )


def _interfaces(backend: str, request: Request) -> Iterator[CommandLine]:
    image, folder, threads = request.image, request.folder, request.threads
    if backend == "recon-all":
        yield from _recon_all(request)
    elif backend == "recon-all-clinical":
        yield ReconAllClinical(in_file=image, subject=request.name, threads=threads, subjects_dir=str(folder))
    elif backend == "samseg":
        yield Samseg(in_file=image, out_dir=str(folder / "samseg"), threads=threads)
    elif backend == "synthseg":
        yield SynthSeg(
            in_file=image,
            out_file=folder / "synthseg.nii.gz",
            robust=True,
            parc=True,
            vol=folder / "volumes.csv",
            qc=folder / "qc.csv",
            threads=threads,
            cpu=True,
            ct=request.ct,
        )
    elif backend == "fast":
        os.environ.setdefault("FSLOUTPUTTYPE", _FSL_TYPE)  # or nipype warns
        brain = folder / "brain.nii.gz"
        yield fsl.BET(in_file=image, out_file=brain, robust=True, mask=True, output_type=_FSL_TYPE)
        yield fsl.FAST(
            in_files=[brain], out_basename=folder / "fast", img_type=1, number_classes=3, output_type=_FSL_TYPE
        )
    elif backend == "first":
        os.environ.setdefault("FSLOUTPUTTYPE", _FSL_TYPE)
        yield fsl.FIRST(in_file=image, out_file=folder / "first", output_type=_FSL_TYPE)
    else:
        raise ConfigurationError(f"unknown back end {backend!r}")


def _recon_all(request: Request) -> list[CommandLine]:
    unknown = [stage for stage in request.stages if stage not in STAGES]
    if unknown or not request.stages:
        what = f"no stage {', '.join(unknown)}" if unknown else "to be given a stage"
        raise ConfigurationError(f"recon-all has {what}; there are {', '.join(STAGES)}")
    common = {"subject_id": request.name, "subjects_dir": str(request.folder), "openmp": request.threads}
    first, *others = request.stages
    # Of a subject's files nipype leaves out the steps that it takes for done: a fresh subject has none ahead.
    return [
        ReconAll(T1_files=[str(request.image)], directive=first, **common),
        *(ReconAll(directive=stage, **common) for stage in others),
    ]
