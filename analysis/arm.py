"""Volumes of one arm of a comparison: per session, the median over its scans of one kind.

Arms are ways of measuring the same people, such as SynthSR from 5 mm FLAIR, the same FLAIR interpolated, and the real
1 mm T1 of the session. ``groups`` compares several such tables, ``agreement`` holds one against another.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("volumes", type=Path, metavar="VOLUMES.tsv", help="tables/volumes.tsv of a study: "
                        "participant_id, session_id, scan_id, structure, volume_mm3, contrast, spacing_mm")  # fmt: skip
    parser.add_argument("--contrast", help="scans of this contrast only, such as FLAIR")
    parser.add_argument("--spacing-mm", nargs=2, type=float, metavar=("LEAST", "BELOW"),
                        help="scans whose slices lie so far apart only: from LEAST on, under BELOW")  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, metavar="TABLE.tsv", help="the arm's table")


def run(arguments: argparse.Namespace) -> None:
    """Write the table."""
    from . import tsv
    from .errors import ConfigurationError, DataError

    needed = ("participant_id", "session_id", "scan_id", "structure", "contrast")
    scans = tsv.read(arguments.volumes, columns=(*needed, "volume_mm3", "spacing_mm"),
                     numbers=("volume_mm3", "spacing_mm"))  # fmt: skip
    chosen, what = scans, "scans"
    if arguments.contrast is not None:
        chosen, what = chosen[chosen["contrast"] == arguments.contrast], f"{arguments.contrast} scans"
    if arguments.spacing_mm is not None:
        low, high = arguments.spacing_mm
        if not low < high:
            raise ConfigurationError(f"--spacing-mm {low:g} {high:g}: the second must be the larger")
        chosen = chosen[(chosen["spacing_mm"] >= low) & (chosen["spacing_mm"] < high)]
        what += f" with slices {low:g} to under {high:g} mm apart"
    if len(scans) and not len(chosen):
        kinds = scans.drop_duplicates("scan_id").groupby("contrast")["spacing_mm"].agg(["min", "max"])
        there = ", ".join(f"{name} {row['min']:g} to {row['max']:g} mm" for name, row in kinds.iterrows())
        raise DataError(f"{arguments.volumes}: has no {what}; there are {there}")
    by = ["participant_id", "session_id", "structure"]
    table = chosen.groupby(by, as_index=False).agg(volume_mm3=("volume_mm3", "median"), n_scans=("scan_id", "nunique"))
    tsv.write(table, arguments.out)
    print(f"arm: {chosen['scan_id'].nunique()} {what} of {chosen['participant_id'].nunique()} participants "
          f"→ {arguments.out}")  # fmt: skip
