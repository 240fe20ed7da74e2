"""Quality gate: measures, a score and a decision per scan.

Every measure of a scan (:mod:`analysis.quality`, and those below that need the cohort) has a typical value and a limit
in ``gate_limits.tsv``. Its badness is 0 at the typical value and 1 at the limit; the score of a scan is that of its
worst measure. A scan is included if every stage made its output and its score is not above 1, unless a person decided
otherwise (``config/exclusions.tsv`` of the study: ``scan_id``, ``included``, ``reason``).

Typical values and limits come from scans without failure (``benchmarks/gate_failures.py``). Others are those of the
intracranial volume, which are Iglesias et al.'s (Science Advances 2023) and the largest of human heads, of motion and
of a session's scans (docs/back-ends.md). Scans of more than three dimensions are turned away by the intake; their rows
are in ``intake/series.tsv``.
"""

from __future__ import annotations

import argparse
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import DataError

if TYPE_CHECKING:
    import pandas as pd

    from .volumes import ScanVolumes

#: Scans that make a cohort: with fewer its spread is not known.
COHORT_MINIMUM = 20
#: Other scans of a session that tell where the brain is, and which side is left.
SESSION_MINIMUM = 2
#: MAD of a normal distribution to its standard deviation.
MAD_TO_SD = 1.4826
#: Spread of log volume shares below which a structure tells nothing (all scans alike).
LEAST_SPREAD = 1e-6
#: |z| of a structure that a scan lacks and others have.
Z_OF_NOTHING = 10.0
COLUMNS = ("scan_id", "participant_id", "session_id", "contrast", "stage", "icv_mm3", "included", "reason")
#: Measures in the table, beside those of the limits.
ALSO = ("spacing_mm",)
EXCLUSION_COLUMNS = ("scan_id", "included", "reason")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("--out", type=Path, required=True, metavar="RESULTS", help="results folder")
    parser.add_argument("--exclusions", type=Path, metavar="TABLE", help="what a person decided: scan_id, included "
                        "(yes or no), reason")  # fmt: skip
    parser.add_argument("--limits", type=Path, metavar="TABLE", help="instead of the shipped gate_limits.tsv")


def run(arguments: argparse.Namespace) -> None:
    """Write ``qc/scans.tsv``."""
    import pandas as pd

    from . import batch, tsv, volumes
    from .layout import Results

    results = Results(arguments.out)
    limits = read_limits(arguments.limits)
    rows, read = [], {}
    for scan in batch.furthest(results):
        row = {**{column: scan[column] for column in COLUMNS[:5]}, "reason": scan["reason"]}
        if scan["status"] == batch.DONE:
            try:
                read[scan["scan_id"]] = volumes.read(arguments.out / scan["path"])
            except DataError as error:
                row["reason"] = str(error)
        rows.append(row)
    scans = pd.DataFrame(rows, columns=[*COLUMNS[:5], "reason"])
    scans.index = pd.Index(scans["scan_id"].tolist(), dtype=str)
    table = judge(scans.join(measures(scans, read, limits)), limits)
    if arguments.exclusions is not None:
        table = overrule(table, arguments.exclusions)
    names = list(dict.fromkeys([*ALSO, *limits["measure"]]))
    tsv.write(table[[*COLUMNS, "decided_by", "score", *names]].sort_values("scan_id"), results.gate)
    print(f"gate: {(table['included'] == 'yes').sum()} of {len(table)} scans included")


def read_limits(path: Path | None = None) -> pd.DataFrame:
    """Table of limits: ``measure``, ``typical``, ``limit`` (above or below it) and ``reason``.

    Raises
    ------
    DataError
        If it is not such a table.
    """
    from . import tsv

    numbers = ("typical", "limit")
    if path is None:
        with resources.as_file(resources.files("analysis").joinpath("gate_limits.tsv")) as shipped:
            limits = tsv.read(shipped, columns=("measure", *numbers, "reason"), numbers=numbers)
    else:
        limits = tsv.read(path, columns=("measure", *numbers, "reason"), numbers=numbers)
    wrong = limits["typical"].isna() | limits["limit"].isna() | (limits["typical"] == limits["limit"])
    if wrong.any():
        raise DataError(
            f"{path or 'gate_limits.tsv'}: {limits['measure'][wrong].iloc[0]} needs a limit that is not typical"
        )
    return limits


def measures(scans: pd.DataFrame, read: dict[str, ScanVolumes], limits: pd.DataFrame) -> pd.DataFrame:
    """Measures of segmented scans: their own, and those that need the others.

    Parameters
    ----------
    scans
        One row per scan, indexed by ``scan_id``, with ``participant_id`` and ``session_id``.
    read
        Volumes and own measures by ``scan_id``.
    limits
        From :func:`read_limits`. Only scans within all others know left from right.

    Returns
    -------
    Indexed by ``scan_id``: ``icv_mm3``, own measures, ``cohort_distance``, ``session_shift_mm`` and ``session_sides``.
    """
    import pandas as pd

    index = pd.Index(list(read), dtype=str)
    own = pd.DataFrame([found.quality for found in read.values()], index=index, dtype=float)
    own["icv_mm3"] = pd.Series({name: found.icv_mm3 for name, found in read.items()}, dtype=float)
    own["icv_litres"] = own["icv_mm3"] / 1e6
    sizes = pd.DataFrame({name: found.volumes_mm3 for name, found in read.items()}).T
    own["cohort_distance"] = cohort_distance(sizes)
    sessions = scans["participant_id"] + "/" + scans["session_id"]
    centre = own.reindex(columns=["centre_x_mm", "centre_y_mm", "centre_z_mm"])
    own["session_shift_mm"] = session_shift(centre, sessions)
    passed = judge(own.assign(reason=""), limits)["included"] == "yes"
    own["session_sides"] = session_sides(sizes[passed], sessions)
    return own


def cohort_distance(volumes_mm3: pd.DataFrame) -> pd.Series:
    """How far a scan's volumes are from the cohort's: the median over structures of |robust z|.

    z is of the log of a structure's share of the intracranial volume, by the cohort's median and MAD. Of a scan like
    the others it is about 0.7; a structure that is ill in one person moves it little.

    Parameters
    ----------
    volumes_mm3
        A row per scan, a column per structure, ``ICV`` among them.

    Returns
    -------
    By scan; NaN in cohorts of less than :data:`COHORT_MINIMUM`.
    """
    import numpy as np
    import pandas as pd

    from .volumes import ICV

    if len(volumes_mm3) < COHORT_MINIMUM:
        return pd.Series(float("nan"), index=volumes_mm3.index)
    names = [name for name in volumes_mm3 if name != ICV]
    shares = volumes_mm3[names].to_numpy(dtype=float) / volumes_mm3[[ICV]].to_numpy(dtype=float)
    with np.errstate(divide="ignore"):
        logs = pd.DataFrame(np.log(shares), index=volumes_mm3.index).replace(-np.inf, np.nan)
    away = (logs - logs.median()).abs()
    spread = MAD_TO_SD * away.median()
    spread = spread.where(spread > LEAST_SPREAD)
    z = (away / spread).mask((shares == 0) & spread.notna().to_numpy(), Z_OF_NOTHING)
    distance: pd.Series = z.median(axis=1)
    return distance


def session_shift(centre_mm: pd.DataFrame, sessions: pd.Series) -> pd.Series:
    """Distance of a brain's centre from the median of its session's, in scanner coordinates.

    Parameters
    ----------
    centre_mm
        Three columns, a row per scan.
    sessions
        The session of each.

    Returns
    -------
    Millimetres; NaN in sessions of fewer scans than :data:`SESSION_MINIMUM` others.
    """
    import pandas as pd

    if centre_mm.empty:
        return pd.Series(dtype=float)
    groups = centre_mm.groupby(sessions)
    away = ((centre_mm - groups.transform("median")) ** 2).sum(axis=1, skipna=False) ** 0.5
    return away.where(groups.transform("count").iloc[:, 0] > SESSION_MINIMUM)


def session_sides(volumes_mm3: pd.DataFrame, sessions: pd.Series) -> pd.Series:
    """Whether a scan's left and right are those of its session's other scans: 1 if so, −1 if it is mirrored.

    Nobody's brain is symmetric: what left and right structures differ by, over their sum, is nearly the same in all
    scans of a person, and of opposite sign in one that is mirrored. Networks that treat both sides alike cannot see
    that in the scan itself. The cosine of these differences with another scan's, median over the other scans; if one of
    three is mirrored, the two sound ones are so at 0. The majority is right: of two mirrored scans and a sound one the
    sound one has −1.

    Parameters
    ----------
    volumes_mm3
        A row per scan, a column per structure.
    sessions
        The session of each.

    Returns
    -------
    By scan; NaN where fewer than :data:`SESSION_MINIMUM` others have differences.
    """
    import numpy as np
    import pandas as pd

    lefts = [name for name in map(str, volumes_mm3) if name.startswith("Left-")]
    left = volumes_mm3[lefts].to_numpy(dtype=float)
    right = volumes_mm3.reindex(columns=[name.replace("Left-", "Right-", 1) for name in lefts]).to_numpy(dtype=float)
    with np.errstate(invalid="ignore"):
        differences = np.nan_to_num((left - right) / (left + right))
    size = np.linalg.norm(differences, axis=1)
    told = np.full(len(volumes_mm3), np.nan)
    of_scan = sessions.reindex(volumes_mm3.index)
    for places in of_scan.groupby(of_scan).indices.values():
        if len(places) > SESSION_MINIMUM:
            # Not a number where a brain is the same on both sides.
            with np.errstate(invalid="ignore"):
                cosines = differences[places] @ differences[places].T / np.outer(size[places], size[places])
            np.fill_diagonal(cosines, np.nan)
            enough = np.isfinite(cosines).sum(axis=1) >= SESSION_MINIMUM
            told[places] = pd.DataFrame(cosines).median(axis=1).where(enough)
    return pd.Series(told, index=volumes_mm3.index)


def judge(scans: pd.DataFrame, limits: pd.DataFrame) -> pd.DataFrame:
    """Score, decision and reason of every scan.

    Parameters
    ----------
    scans
        With ``reason`` (empty where every stage made its output) and measures; what is NaN tells nothing.
    limits
        From :func:`read_limits`.

    Returns
    -------
    The same with all columns of the gate's table; ``score`` is NaN where there is nothing to judge.
    """
    import pandas as pd

    table = scans.reindex(columns=list(dict.fromkeys([*scans.columns, *limits["measure"], *ALSO, "icv_mm3"])))
    rows = limits.to_dict("records")
    badness = pd.DataFrame(index=table.index)
    for number, row in enumerate(rows):
        typical, limit = float(row["typical"]), float(row["limit"])
        badness[number] = (table[row["measure"]].astype(float) - typical) / (limit - typical)
    table["score"] = badness.max(axis=1).clip(lower=0)
    failed = (table["score"] > 1) & (table["reason"] == "")
    reasons = []
    for (_, scan), number in zip(table[failed].iterrows(), badness[failed].idxmax(axis=1), strict=True):
        row = rows[int(number)]
        measured = f"{row['measure']} {float(scan[row['measure']]):.3g}, limit {float(row['limit']):g}"
        reasons.append(f"{row['reason']} ({measured})")
    table.loc[failed, "reason"] = reasons
    # Without an intracranial volume nothing was measured, whatever a stage said.
    unmeasured = table["icv_mm3"].isna() & (table["reason"] == "")
    table.loc[unmeasured, "reason"] = "no intracranial volume was measured"
    return table.assign(included=(table["reason"] == "").map({True: "yes", False: "no"}), decided_by="gate")


def overrule(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Put a person's decisions in place of the gate's.

    A scan that was not segmented stays out: there is nothing to include. Scans that the study does not have are named.

    Raises
    ------
    DataError
        If a decision is neither yes nor no, lacks a reason, or is given twice.
    """
    from . import tsv

    given = tsv.read(path, columns=EXCLUSION_COLUMNS)
    for line, row in enumerate(given.to_dict("records"), start=2):
        if row["included"] not in ("yes", "no") or not str(row["reason"]).strip():
            raise DataError(f"{path}: line {line}: included must be yes or no, with a reason")
    twice = given["scan_id"][given["scan_id"].duplicated()]
    if len(twice):
        raise DataError(f"{path}: {twice.iloc[0]} is decided twice; leave one")
    given = given.set_index("scan_id")
    unknown = sorted(set(given.index) - set(table["scan_id"]))
    if unknown:
        print(f"{path}: {len(unknown)} of {len(given)} scans are not in this study: {', '.join(unknown)}")
    known = table["scan_id"].isin(given.index)
    barred = known & table["icv_mm3"].isna()
    changed = known & ~barred
    names = table.loc[changed, "scan_id"]
    table = table.copy()
    table.loc[changed, "included"] = given.loc[names, "included"].to_numpy()
    table.loc[changed, "reason"] = given.loc[names, "reason"].to_numpy()
    table.loc[changed, "decided_by"] = "person"
    return table
