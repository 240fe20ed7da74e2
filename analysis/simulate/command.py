"""Make a clinic of simulated patients as DICOM studies, with their true volumes beside it.

``OUT/dicom/SIM0001/…`` holds the studies, ``OUT/truth.tsv`` the volumes counted on each patient's deformed label map
beside those prescribed, ``OUT/patients.tsv`` age, sex and protocol, ``OUT/clinic.json`` what it was all made from.
Called again, it makes only the patients that are missing or were made from something else.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..errors import ConfigurationError, DataError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("config", type=Path, help="settings in YAML, such as config/clinic.yaml")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the clinic")
    parser.add_argument(
        "--anatomy", type=Path, metavar="LABELMAP", help="base label map, 1 mm (default: the project's)"
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="patients made at the same time (default 1)")


def run(arguments: argparse.Namespace) -> None:
    """Make the clinic."""
    from . import anatomy, build, clinic

    if arguments.jobs < 1:
        raise ConfigurationError(f"--jobs {arguments.jobs}: give at least 1")
    label_map = arguments.anatomy or anatomy.DEFAULT
    if not label_map.is_file():
        raise DataError(f"{label_map}: no such label map; give one by --anatomy")
    build.build(
        clinic.read(arguments.config),
        anatomy=label_map,
        out=arguments.out,
        jobs=arguments.jobs,
        report=lambda line: print(line, file=sys.stderr, flush=True),
    )
