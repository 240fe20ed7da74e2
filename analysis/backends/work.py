"""A batch of scans through one of the other laboratories' tools."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

from synthsr import files, io, preprocess

from .. import tsv, volumes
from ..errors import ConfigurationError, DataError, ToolError
from ..layout import Results, description_of, sidecar_of
from . import commands, outputs, subjects, suites
from .outputs import Found
from .registry import Backend
from .suites import Installation

#: Raise when the output of an unchanged scan with an unchanged tool changes.
ALGORITHM_VERSION = 2
SURFACE_COLUMNS = ("structure", "side", "thickness_mm", "area_mm2", "volume_mm3")
#: Exit codes by which a shell says that there is no such program, or that it cannot be run.
NOT_RUNNABLE = (126, 127)


@dataclass(frozen=True)
class Tool:
    """A back end and where it is.

    Attributes
    ----------
    backend
        Which.
    installation
        Where its programs are.
    results
        Of the study.
    threads
        CPU threads of a tool.
    stages
        Of recon-all.
    subjects
        Folder of finished FreeSurfer subjects, named by scan_id, to be imported; nothing is run then.
    """

    backend: Backend
    installation: Installation
    results: Results
    threads: int = 1
    stages: tuple[str, ...] = ("all",)
    subjects: Path | None = None

    def __post_init__(self) -> None:
        if self.subjects is not None and not self.backend.keeps_subject:
            raise ConfigurationError(f"{self.backend.name} makes no FreeSurfer subjects; none can be imported")
        if self.subjects is not None and not self.subjects.is_dir():
            raise ConfigurationError(f"{self.subjects}: no such folder of FreeSurfer subjects")
        if self.subjects is None:
            self.installation.require(self.backend.programs)

    @cached_property
    def version(self) -> str:
        """Of the tool."""
        return self.installation.version()

    def outputs(self, scan: Mapping[str, str]) -> list[Path]:
        """Files of a scan, the table of volumes first. What is kept of a FreeSurfer subject is not among them."""
        scan_id, backend = scan["scan_id"], self.backend.name
        made_by = self._description(scan)
        table = self.results.scan_volumes(scan_id, description=made_by, backend=backend)
        segmentation = self.results.segmentation(scan_id, description=made_by, backend=backend)
        found = [table, volumes.json_of(table), segmentation]
        if self.backend.keeps_subject:
            found.append(self.results.scan_surfaces(scan_id, description=made_by, backend=backend))
        return found

    def key(self, scan: Mapping[str, str]) -> str:
        """What decides a scan's outputs."""
        source = files.sha256(self._source(scan)) if self.backend.reads_scan else scan["sha256"]
        how = [self.backend.name, str(ALGORITHM_VERSION)]
        if self.subjects is not None:
            log = self.subjects / scan["scan_id"] / "scripts" / self._log
            return ":".join([source, *how, "imported", files.sha256(log) if log.is_file() else "nothing"])
        how.append(self.version)
        if self.backend.name == "recon-all":
            how += self.stages
        return ":".join([source, *how])

    def work(self, scan: Mapping[str, str]) -> None:
        """Make a scan's outputs.

        Raises
        ------
        DataError
            If the tool failed on it, or the subject to be imported is not sound.
        ToolError
            If the tool cannot be run at all.
        """
        with tempfile.TemporaryDirectory(prefix=f"{self.backend.name}-") as name:
            folder = Path(name).resolve()
            request = commands.Request(
                image=folder / "input.nii.gz",
                folder=folder,
                name=scan["scan_id"],
                threads=self.threads,
                ct=self.backend.reads_scan and scan["contrast"] == "ct",
                stages=self.stages,
            )
            # A copy under another name: neither a space in the study's path nor a patient's name reaches the tool.
            if request.ct and self._is_clinical:
                _copy_ct(self._source(scan), request.image)
            else:
                shutil.copyfile(self._source(scan).resolve(), request.image)
            if self.subjects is not None:
                subject = self.subjects / scan["scan_id"]
                subjects.validate(subject, clinical=self._is_clinical)
                found = outputs.checked(outputs.subject(subject, clinical=self._is_clinical), request)
            else:
                for command in commands.of(self.backend.name, request):
                    call(self.installation, command, folder)
                if self.backend.keeps_subject:
                    subjects.validate(folder / request.name, clinical=self._is_clinical)
                found = outputs.read(self.backend.name, request)
            self._keep(scan, found, folder / request.name)

    @property
    def _is_clinical(self) -> bool:
        return self.backend.name == "recon-all-clinical"

    @property
    def _log(self) -> str:
        return (subjects.CLINICAL if self._is_clinical else subjects.FULL)[0]

    def _description(self, scan: Mapping[str, str]) -> str:
        return "scan" if self.backend.reads_scan else description_of(scan["path"])

    def _source(self, scan: Mapping[str, str]) -> Path:
        return self.results.raw(scan["scan_id"]) if self.backend.reads_scan else self.results.root / scan["path"]

    def _keep(self, scan: Mapping[str, str], found: Found, subject: Path) -> None:
        """Bring what was found under its final names, the table of volumes last."""
        table, _, segmentation, *surfaces = self.outputs(scan)
        version = self.version
        if self.subjects is not None:
            stamp = self.subjects / scan["scan_id"] / "scripts" / self.installation.suite.stamp
            version = stamp.read_text(encoding="utf-8").strip() if stamp.is_file() else suites.UNKNOWN
        if self.backend.keeps_subject and self.subjects is None:
            _keep_subject(subject, self.results.subject(scan["scan_id"], backend=self.backend.name))
        if surfaces:
            table_of_surfaces = pd.DataFrame(found.surfaces, columns=list(SURFACE_COLUMNS))
            table_of_surfaces.insert(0, "scan_id", scan["scan_id"])
            tsv.write(table_of_surfaces.assign(backend=self.backend.name, version=version), surfaces[0])
        with files.whole(segmentation) as temporary:
            if found.segmentation.name.endswith(".nii.gz"):
                shutil.copyfile(found.segmentation, temporary)
            else:
                image = nib.load(found.segmentation)
                nib.save(nib.Nifti1Image(np.rint(image.dataobj).astype(np.int32), image.affine), temporary)
        synthesiser = ("none", volumes.MISSING)
        if self.subjects is not None:
            synthesiser = ("unknown: imported", volumes.MISSING)
        elif not self.backend.reads_scan:
            synthesiser = volumes.synthesiser_of(sidecar_of(self._source(scan)))
        provenance = volumes.Provenance(self.backend.name, version, volumes.MISSING, *synthesiser)
        volumes.write(table, scan["scan_id"], volumes.ScanVolumes(found.volumes_mm3, provenance, found.quality))


def call(installation: Installation, command: list[str], folder: Path) -> None:
    """Run one command line in a folder; what it says goes to the job's log.

    Raises
    ------
    DataError
        If it fails.
    ToolError
        If it cannot be run at all.
    """
    print("+", shlex.join(command), flush=True)
    try:
        ended = subprocess.run(
            installation.command(command, folder),
            cwd=folder,
            env=installation.environment(),
            stdin=subprocess.DEVNULL,
            check=False,
        ).returncode
    except OSError as error:
        raise ToolError(f"{command[0]} cannot be started ({error.strerror}); see python -m analysis doctor") from error
    if ended in NOT_RUNNABLE:
        raise ToolError(f"{command[0]} cannot be run (exit code {ended}); see python -m analysis doctor")
    if ended != 0:
        raise DataError(f"{command[0]} ended with code {ended}; the job's log tells why")


def _copy_ct(source: Path, target: Path) -> None:
    """Copy computed tomography clipped as ``mri_synthseg --ct`` does it; ``recon-all-clinical`` has no such option."""
    data, affine = io.load(source)
    nib.save(nib.Nifti1Image(np.clip(data, *preprocess.CT_WINDOW_HU), affine), target)


def _keep_subject(made: Path, kept: Path) -> None:
    """Put a FreeSurfer subject in place of an earlier one, whole or not at all."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    partial = kept.with_name(f".part-{kept.name}")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(made, partial, symlinks=True)
    shutil.rmtree(kept, ignore_errors=True)
    partial.replace(kept)
