"""Quality gate: measures and a decision per scan.

A scan is included if every stage made its output and its intracranial volume is that of a head (at least 1.1 litres,
Iglesias et al., Science Advances 2023). Scans of more than three dimensions are turned away by the intake; their rows
are in ``intake/series.tsv``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import DataError

if TYPE_CHECKING:
    import pandas as pd

#: Below this a scan does not show a whole head (Iglesias et al. 2023).
ICV_MINIMUM_MM3 = 1.1e6
#: Above this no human head is known; a larger figure is a failed segmentation.
ICV_MAXIMUM_MM3 = 2.2e6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("--out", type=Path, required=True, metavar="RESULTS", help="results folder")


def run(arguments: argparse.Namespace) -> None:
    """Write ``qc/scans.tsv``."""
    import pandas as pd

    from . import batch, tsv
    from .layout import Results

    results = Results(arguments.out)
    rows = []
    for scan in batch.furthest(results):
        row = {column: scan[column] for column in ("scan_id", "participant_id", "session_id", "contrast", "stage")}
        icv_mm3, reason = float("nan"), scan["reason"]
        if scan["status"] == batch.DONE:
            try:
                icv_mm3 = read_volumes(arguments.out / scan["path"])[1]
                reason = judge(icv_mm3)
            except DataError as error:
                reason = str(error)
        rows.append({**row, "icv_mm3": icv_mm3, "included": "no" if reason else "yes", "reason": reason})
    columns = ["scan_id", "participant_id", "session_id", "contrast", "stage", "icv_mm3", "included", "reason"]
    tsv.write(pd.DataFrame(rows, columns=columns).sort_values("scan_id"), results.gate)


def read_volumes(path: Path) -> tuple[pd.DataFrame, float]:
    """Table of one scan's volumes, and the ICV in it in mm³.

    Raises
    ------
    DataError
        If the table is missing or damaged.
    """
    from synthsr.segment import ICV

    from . import tsv

    advice = "call again with --forcerun segment"
    try:
        volumes = tsv.read(path, columns=["structure", "label", "volume_mm3"], numbers=["volume_mm3"])
    except DataError as error:
        raise DataError(f"{error}; {advice}") from error
    icv_mm3 = volumes.loc[volumes["structure"] == ICV, "volume_mm3"]
    if len(icv_mm3) != 1:
        raise DataError(f"{path}: {len(icv_mm3)} rows of {ICV}, expected one; {advice}")
    return volumes, float(icv_mm3.iloc[0])


def judge(icv_mm3: float) -> str:
    """Reason to leave a segmented scan out; empty if there is none."""
    litres = icv_mm3 / 1e6
    if not icv_mm3 >= ICV_MINIMUM_MM3:
        return f"ICV {litres:.2f} l is under {ICV_MINIMUM_MM3 / 1e6} l: not a whole head, or a failed segmentation"
    if icv_mm3 > ICV_MAXIMUM_MM3:
        return f"ICV {litres:.2f} l is over {ICV_MAXIMUM_MM3 / 1e6} l: failed segmentation"
    return ""
