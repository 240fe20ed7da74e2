"""Make a clinic of simulated patients, as DICOM studies or a BIDS dataset, with the truth about them beside it.

What lies where in the folder is described in analysis/simulate/clinic.py, and so is every key of the configuration.
Called again, it makes only the patients that are missing or were made from something else; more patients in the
configuration leave the earlier ones as they are.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..errors import ConfigurationError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("config", type=Path, help="settings in YAML, such as config/clinic.yaml")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the clinic")
    parser.add_argument("--format", choices=("dicom", "bids"), default="dicom", help="of the scans (%(default)s)")
    parser.add_argument(
        "--anatomy",
        type=Path,
        metavar="PATH",
        help="base label map, 1 mm, or a folder of such (default: the configuration's, else the project's)",
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="patients made at the same time (default 1)")


def run(arguments: argparse.Namespace) -> None:
    """Make the clinic."""
    import os

    from synthsr.progress import say

    from . import anatomy, build, clinic

    if arguments.jobs < 1:
        raise ConfigurationError(f"--jobs {arguments.jobs}: give at least 1")
    settings = clinic.read(arguments.config)
    path = arguments.anatomy or Path(os.path.expandvars(settings.anatomy) or anatomy.DEFAULT)
    build.build(
        settings,
        anatomies=build.find_anatomies(path),
        out=arguments.out,
        scans_as=arguments.format,
        jobs=arguments.jobs,
        report=say,
    )
