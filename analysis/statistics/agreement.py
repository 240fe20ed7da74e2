"""Measured volumes against true ones, per structure: correlation, concordance, bias, limits of agreement.

Where the truth is known per session, every scan of a session is held against it. Sources: Iglesias et al., Science
Advances 2023, tables 1 and 2 (Pearson's r at scan and session level); Lin, Biometrics 1989 (concordance);
Bland & Altman, Lancet 1986 (bias and limits).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from .laplace import Array

COLUMNS = (
    "structure",
    "n_scans",
    "n_participants",
    "pearson_r",
    "pearson_low",
    "pearson_high",
    "spearman_r",
    "concordance",
    "bias_mm3",
    "bias_percent",
    "limit_low_mm3",
    "limit_high_mm3",
    "mean_absolute_error_percent",
    "note",
)
MINIMUM_SCANS = 3
SOURCES = (
    "Iglesias et al., Science Advances 2023, doi 10.1126/sciadv.add3607 (tables 1 and 2)",
    "Lin, Biometrics 1989, doi 10.2307/2532051 (concordance correlation)",
    "Bland & Altman, Lancet 1986, doi 10.1016/S0140-6736(86)90837-8 (limits of agreement)",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("volumes", type=Path, metavar="VOLUMES.tsv",
                        help="measured: participant_id, session_id, [scan_id], structure, volume_mm3")  # fmt: skip
    parser.add_argument("truth", type=Path, metavar="TRUTH.tsv",
                        help="true: study_uid (or participant_id, session_id), structure, volume_mm3")  # fmt: skip
    parser.add_argument("--links", type=Path, metavar="TABLE.tsv",
                        help="participant_id, session_id, study_uid, for a truth known by study_uid")  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for table, JSON and figure")


def run(arguments: argparse.Namespace) -> None:
    """Compare and write ``agreement.tsv``, ``agreement.json`` and ``agreement.png``."""
    import pandas as pd

    from analysis import tsv
    from synthsr import files

    from . import cohort, figures

    measured = cohort.read_volumes(arguments.volumes)
    true = read_truth(arguments.truth, arguments.links)
    pairs = measured.merge(true, on=list(cohort.KEYS[:2]), suffixes=("", " true"), validate="many_to_one")
    common = [name for name in cohort.structures(measured) if name in cohort.structures(true)]
    rows = [compare_structure(pairs, name) for name in common]
    notes = []
    if len(pairs) < len(measured):
        notes.append(f"{cohort.counted(len(measured) - len(pairs))} of the measured volumes without truth left out.")
    if not common:
        notes.append("The two tables have no structure in common.")
    out: Path = arguments.out
    tsv.write(pd.DataFrame(rows, columns=list(COLUMNS)), out / "agreement.tsv")
    figures.write(draw(pairs, common, {row["structure"]: row for row in rows}), out / "agreement.png")
    files.write_json(
        out / "agreement.json",
        {
            "analysis": "agreement",
            "level": "scan" if "scan_id" in measured else "session",
            "n_rows": len(pairs),
            "n_participants": int(pairs["participant_id"].nunique()),
            "notes": notes,
            "method": "Difference is measured minus true. Intervals of Pearson's r by Fisher's transform with the "
            "number of participants for the sample size, so that several scans of a participant do not narrow them. "
            "Limits of agreement: bias ± 1.96 standard deviations of the differences. Percentages are of the true "
            "volume.",
            "sources": list(SOURCES),
        },
    )
    print(f"agreement: {len(common)} structures, {len(pairs)} rows → {out}")
    for note in notes:
        print(f"  {note}")


def read_truth(path: Path, links: Path | None) -> pd.DataFrame:
    """Read true volumes, both sides added up, keyed by participant and session; a ``study_uid`` does not survive.

    Raises
    ------
    DataError
        If the truth is known by ``study_uid`` and there is no table of links, or that table is ambiguous.
    """
    from analysis import tsv
    from analysis.errors import DataError

    from . import cohort

    keys = list(cohort.KEYS[:2])
    if "study_uid" not in tsv.read(path):
        return cohort.read_volumes(path, keys=keys).drop(columns="scan_id", errors="ignore")
    if links is None:
        raise DataError(
            f"{path}: knows sessions by study_uid; give --links a table of participant_id, session_id, study_uid"
        )
    known = tsv.read(links, columns=(*keys, "study_uid"))[[*keys, "study_uid"]]
    cohort.check_unique(known, ["study_uid"], links)
    true = cohort.read_volumes(path, keys=["study_uid"]).merge(known, on="study_uid").drop(columns="study_uid")
    cohort.check_unique(true, keys, links)
    return true


def compare_structure(pairs: pd.DataFrame, structure: str) -> dict[str, Any]:
    """Row of the table for one structure; ``pairs`` has the columns ``structure`` and ``structure true`` (mm³)."""
    import numpy as np

    used = pairs.dropna(subset=[structure, f"{structure} true"])
    n_participants = int(used["participant_id"].nunique())
    row: dict[str, Any] = {**dict.fromkeys(COLUMNS, np.nan), "structure": structure, "n_scans": len(used),
                           "n_participants": n_participants, "note": ""}  # fmt: skip
    if len(used) < MINIMUM_SCANS:
        return row | {"note": f"not compared: {len(used)} scans with truth, {MINIMUM_SCANS} are the least"}
    measured, true = used[structure].to_numpy(dtype=float), used[f"{structure} true"].to_numpy(dtype=float)
    row |= differences(measured, true)
    if np.ptp(measured) == 0 or np.ptp(true) == 0:
        return row | {"note": "no correlation: all volumes are the same"}
    return row | correlations(measured, true, n_participants)


def differences(measured: Array, true: Array) -> dict[str, float]:
    """Bias, limits of agreement and relative errors; where a true volume is zero, percentages are NaN."""
    import numpy as np

    difference = measured - true
    bias, reach = float(difference.mean()), 1.96 * float(difference.std(ddof=1))
    relative = difference / true * 100 if (true > 0).all() else np.full_like(true, np.nan)
    return {
        "bias_mm3": bias,
        "bias_percent": float(relative.mean()),
        "limit_low_mm3": bias - reach,
        "limit_high_mm3": bias + reach,
        "mean_absolute_error_percent": float(np.abs(relative).mean()),
    }


def correlations(measured: Array, true: Array, n_independent: int) -> dict[str, float]:
    r"""Pearson with interval, Spearman, and Lin's concordance.

    Fisher: :math:`\tanh(\operatorname{artanh} r \pm 1.96 / \sqrt{n - 3})`, NaN for n ≤ 3. Lin 1989, equation 1 with
    sample moments over n: :math:`2 s_{xy} / (s_x^2 + s_y^2 + (\bar x - \bar y)^2)`.
    """
    import numpy as np
    from scipy import stats

    r = float(np.clip(np.corrcoef(measured, true)[0, 1], -1, 1))
    low = high = np.nan
    if n_independent > 3:
        reach = 1.96 / np.sqrt(n_independent - 3)
        with np.errstate(divide="ignore"):
            low, high = np.tanh(np.arctanh(r) - reach), np.tanh(np.arctanh(r) + reach)
    shared = float(np.mean((measured - measured.mean()) * (true - true.mean())))
    return {
        "pearson_r": r,
        "pearson_low": float(low),
        "pearson_high": float(high),
        "spearman_r": float(stats.spearmanr(measured, true).statistic),
        "concordance": float(2 * shared / (measured.var() + true.var() + (measured.mean() - true.mean()) ** 2)),
    }


def draw(pairs: pd.DataFrame, common: list[str], rows: dict[str, dict[str, Any]]) -> Any:
    """Small multiples of the main structures: measured against true, with the line of identity."""
    from . import figures

    names = [name for name in figures.main_structures(common) if rows[name]["n_scans"] >= MINIMUM_SCANS]
    if not names:
        return figures.saying("No agreement: fewer than three scans whose true volumes are known.")
    figure, axes = figures.panels(len(names))
    for axis, name in zip(axes, names, strict=True):
        true, measured = pairs[f"{name} true"] / 1000, pairs[name] / 1000
        low, high = min(true.min(), measured.min()), max(true.max(), measured.max())
        axis.plot([low, high], [low, high], color=figures.GREY, lw=1, ls="--")
        axis.scatter(true, measured, s=10, color=figures.BLUE, alpha=0.6, linewidths=0)
        axis.set_title(f"{figures.readable(name)}, r = {rows[name]['pearson_r']:.2f}", fontsize=9.5)
    figure.supxlabel("true volume (ml)", fontsize=9)
    figure.supylabel("measured volume (ml)", fontsize=9)
    return figure
