"""Which back ends there are, what each reads and what it needs."""

from __future__ import annotations

from dataclasses import dataclass

from ..layout import EMBEDDED
from .suites import FREESURFER, FSL, Suite


@dataclass(frozen=True)
class Backend:
    """A way to get volumes from another laboratory's tools.

    Attributes
    ----------
    name
        As in the configuration and in the tables' column ``backend``.
    suite
        Whose it is.
    programs
        Executables it calls.
    reads_scan
        Whether it takes the scan as it was acquired; else the 1 mm T1.
    keeps_subject
        Whether it leaves a FreeSurfer subject, which is kept.
    """

    name: str
    suite: Suite
    programs: tuple[str, ...]
    reads_scan: bool = False
    keeps_subject: bool = False


BACKENDS = {
    backend.name: backend
    for backend in (
        Backend("recon-all", FREESURFER, ("recon-all",), keeps_subject=True),
        Backend("recon-all-clinical", FREESURFER, ("recon-all-clinical.sh",), reads_scan=True, keeps_subject=True),
        Backend("samseg", FREESURFER, ("run_samseg",)),
        Backend("synthseg", FREESURFER, ("mri_synthseg",), reads_scan=True),
        Backend("fast", FSL, ("bet", "fast")),
        Backend("first", FSL, ("run_first_all",)),
    )
}
NAMES = (EMBEDDED, *BACKENDS)
