"""FreeSurfer's ``mri_synthsr`` in the place of this project's SynthSR."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from synthsr import files, io, preprocess, scan

from ..errors import DataError
from ..layout import sidecar_of
from . import commands, outputs
from .suites import Installation
from .work import call

PROGRAM = "mri_synthsr"


@dataclass(frozen=True)
class Synthesiser:
    """``mri_synthsr`` and where it is.

    Attributes
    ----------
    installation
        FreeSurfer.
    threads
        CPU threads.
    """

    installation: Installation
    threads: int = 1

    def __post_init__(self) -> None:
        self.installation.require((PROGRAM,))

    @cached_property
    def maker(self) -> str:
        """What decides its output."""
        return f"{PROGRAM} {self.installation.version()}"

    def __call__(self, source: Path, target: Path, *, ct: bool = False) -> None:
        """Write the synthetic T1 of ``source`` to ``target`` and a JSON sidecar, as :mod:`synthsr.predict` does.

        Raises
        ------
        DataError
            If the scan cannot be used, or the tool left no image of it.
        """
        data, affine = io.load(source)
        _, grid = scan.prepared(source, data, affine, ct=ct)
        with tempfile.TemporaryDirectory(prefix=f"{PROGRAM}-") as name:
            folder = Path(name).resolve()
            request = commands.Request(folder / "input.nii.gz", folder, "scan", self.threads, ct)
            made = folder / "t1.nii.gz"
            shutil.copyfile(source.resolve(), request.image)
            call(self.installation, commands.synthsr(request, made), folder)
            answer, place = io.load(outputs.present(made))
        # It answers on the scan's field of view at 1 mm; here on the grid that everything after it expects.
        grey = scan.onto_grid(answer, place, grid, outside=0.0).clip(0, preprocess.FULL_SCALE_GREY)
        if not grey.max() > grey.min():
            raise DataError(f"{source.name}: {PROGRAM} left a constant image, or one that lies elsewhere than the scan")
        facts = {
            "Synthetic": True,
            "Description": "T1-weighted image synthesised by mri_synthsr; its intensities are not a measurement",
            "Sources": [source.name],
            "SourceSHA256": files.sha256(source),
            "GeneratedBy": {"Name": PROGRAM, "Version": self.installation.version()},
            "ComputedTomography": ct,
        }
        # The sidecar first: no synthetic image lies about without its flag.
        files.write_json(sidecar_of(target), facts)
        io.save(grey, grid, target)
