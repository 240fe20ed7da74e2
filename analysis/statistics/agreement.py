"""Measured volumes against true ones, per structure: correlation, concordance, bias, limits of agreement, slopes.

Truth is known per session. Every scan of a session is held against it, and so is the median over the session's scans;
scans also by the distance of their slices and by contrast. Sources: Iglesias et al., Science Advances 2023, tables 1
and 2 (Pearson's r at both levels); Lin, Biometrics 1989 (concordance); Bland & Altman, J. Biopharm. Stat. 2007 (bias
and limits with several measurements per participant).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas as pd

    from .laplace import Array

#: Statistics with an interval: column, and the columns of its two ends.
INTERVALS = {
    "pearson_r": ("pearson_low", "pearson_high"),
    "spearman_r": ("spearman_low", "spearman_high"),
    "concordance": ("concordance_low", "concordance_high"),
    "bias_mm3": ("bias_low_mm3", "bias_high_mm3"),
    "bias_percent": ("bias_low_percent", "bias_high_percent"),
    "mean_absolute_error_percent": ("error_low_percent", "error_high_percent"),
    "spread_mm3": ("spread_low_mm3", "spread_high_mm3"),
    "limit_low_mm3": ("limit_low_from_mm3", "limit_low_to_mm3"),
    "limit_high_mm3": ("limit_high_from_mm3", "limit_high_to_mm3"),
}
#: Those whose interval is symmetric after Fisher's transform, and after the logarithm.
CORRELATIONS = ("pearson_r", "spearman_r", "concordance")
POSITIVE = ("mean_absolute_error_percent", "spread_mm3")
#: Standard deviations of a single difference from bias to limit of agreement.
REACH = 1.96
COLUMNS = (
    "structure",
    "n_scans",
    "n_participants",
    *(column for name, ends in INTERVALS.items() for column in (name, *ends)),
    "note",
)
GROUP_COLUMNS = ("group_by", "group")
SLOPE_COLUMNS = (
    "structure",
    "n_sessions",
    "n_participants",
    "true_mm3_per_year",
    "true_low_mm3_per_year",
    "true_high_mm3_per_year",
    "measured_mm3_per_year",
    "measured_low_mm3_per_year",
    "measured_high_mm3_per_year",
    "difference_mm3_per_year",
    "difference_low_mm3_per_year",
    "difference_high_mm3_per_year",
    "p_value",
    "note",
)
EVERYTHING = "all"
#: Bounds between groups of slice distance, so that 3, 5 and 7 mm (Iglesias et al. 2021) lie amid theirs.
SPACING_BOUNDS_MM = (2.0, 4.0, 6.0)
MINIMUM_SCANS = 3
CONFIDENCE = 0.95
SOURCES = (
    "Iglesias et al., Science Advances 2023, doi 10.1126/sciadv.add3607 (tables 1 and 2)",
    "Lin, Biometrics 1989, doi 10.2307/2532051 (concordance correlation)",
    "Zou, Statistical Methods in Medical Research 2013, doi 10.1177/0962280211402548 (intervals of the limits)",
    "Bland & Altman, Journal of Biopharmaceutical Statistics 2007, doi 10.1080/10543400701329422 (limits of agreement)",
)


@dataclass(frozen=True)
class Group:
    """Rows that are compared together.

    Attributes
    ----------
    level
        ``scan`` or ``session``.
    group_by, group
        What they have in common: ``all``, ``spacing`` or ``contrast``, and which.
    pairs
        Participant, and of each structure ``X`` the columns ``X`` and ``X true`` (mm³).
    """

    level: str
    group_by: str
    group: str
    pairs: pd.DataFrame


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("volumes", type=Path, metavar="VOLUMES.tsv", help="measured: participant_id, session_id, "
                        "[scan_id], structure, volume_mm3, [spacing_mm], [contrast]")  # fmt: skip
    parser.add_argument("truth", type=Path, metavar="TRUTH.tsv", help="true: study_uid (or participant_id, "
                        "session_id), [scan_id], structure, volume_mm3")  # fmt: skip
    parser.add_argument("--links", type=Path, metavar="TABLE.tsv",
                        help="participant_id, session_id, study_uid, for a truth known by study_uid")  # fmt: skip
    parser.add_argument("--participants", type=Path, metavar="TABLE.tsv", help="participant_id, [session_id], "
                        "age_years, sex: compares slopes with age as well")  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for tables, JSON and figures")


def run(arguments: argparse.Namespace) -> None:
    """Compare and write ``agreement{,_scans,_pearson,_slopes}.tsv``, ``agreement.json`` and two figures."""
    import pandas as pd

    from analysis import dictionary, tsv
    from synthsr import files

    from . import cohort, figures

    measured = cohort.read_volumes(arguments.volumes)
    true = read_truth(arguments.truth, arguments.links)
    scans = read_scans(arguments.volumes) if "scan_id" in measured else None
    keys = list(cohort.KEYS[:2])
    pairs = measured.merge(true, on=keys, suffixes=("", " true"), validate="many_to_one")
    common = [name for name in cohort.structures(measured) if name in cohort.structures(true)]
    sessions = pairs.drop(columns="scan_id", errors="ignore").groupby(keys, as_index=False).median()
    groups = [Group("session", EVERYTHING, EVERYTHING, sessions)]
    if scans is not None:
        groups += scan_groups(pairs.merge(scans, on=list(cohort.KEYS), validate="one_to_one"))
    rows = [
        {"level": group.level, "group_by": group.group_by, "group": group.group, **compare_structure(group.pairs, name)}
        for group in groups
        for name in common
    ]
    notes = []
    if len(pairs) < len(measured):
        notes.append(f"{cohort.counted(len(measured) - len(pairs))} of the measured volumes without truth left out.")
    if not common:
        notes.append("The two tables have no structure in common.")
    if scans is None:
        notes.append("The volumes are of sessions: nothing is compared per scan.")
    slopes = pd.DataFrame(columns=list(SLOPE_COLUMNS))
    if arguments.participants is None:
        notes.append("Slopes with age are not compared: no --participants.")
    else:
        aged, remarks = cohort.with_people(sessions, cohort.read_people(arguments.participants))
        notes += [f"Slopes: {remark[0].lower()}{remark[1:]}" for remark in remarks]
        slopes = pd.DataFrame([compare_slopes(aged, name) for name in common], columns=list(SLOPE_COLUMNS))
    out: Path = arguments.out
    table = pd.DataFrame(rows, columns=["level", *GROUP_COLUMNS, *COLUMNS])
    tsv.write(table.loc[table["level"] == "session", list(COLUMNS)], out / "agreement.tsv")
    tsv.write(table.loc[table["level"] == "scan", [*GROUP_COLUMNS, *COLUMNS]], out / "agreement_scans.tsv")
    tsv.write(published(table, common), out / "agreement_pearson.tsv")
    tsv.write(slopes, out / "agreement_slopes.tsv")
    found = {row["structure"]: row for row in rows if row["level"] == "session"}
    names = [name for name in figures.main_structures(common) if found[name]["n_scans"] >= MINIMUM_SCANS]
    figures.write(draw_identity(sessions, names, rows=found), out / "agreement.png")
    figures.write(draw_differences(sessions, names, rows=found), out / "agreement_differences.png")
    files.write_json(
        out / "agreement.json",
        {
            "analysis": "agreement",
            "level": "session",
            "n_rows": len(sessions),
            "n_scans": None if scans is None else len(pairs),
            "n_participants": int(pairs["participant_id"].nunique()),
            "notes": notes,
            "method": "A session's volume, measured or true, is the median over its scans. Difference is measured "
            "minus true. Limits of agreement: bias ± 1.96 standard deviations of a single volume's difference "
            "(spread), between and within participants. Percentages are of the true volume. 95 % intervals: jackknife "
            "over participants, each with all scans, so that several scans of a participant do not narrow them, and "
            "Student's t; of correlations after Fisher's transform, of mean error and spread after the logarithm, of "
            "limits from those of bias and spread (Zou 2013). Slopes: least squares with age, ICV and sex, each with "
            "its own ICV, standard errors clustered by participant (CR2, Bell & McCaffrey 2002).",
            "sources": list(SOURCES),
            "columns": dictionary.of_folder("statistics/agreement"),
        },
    )
    print(f"agreement: {len(common)} structures, {len(sessions)} sessions → {out}")
    for note in notes:
        print(f"  {note}")


def read_truth(path: Path, links: Path | None) -> pd.DataFrame:
    """Read true volumes, both sides added up, keyed by participant and session; a ``study_uid`` does not survive.

    Of several scans of a session, such as two real 1 mm T1s, the median counts.

    Raises
    ------
    DataError
        If the truth is known by ``study_uid`` and there is no table of links, or that table is ambiguous.
    """
    from analysis import tsv
    from analysis.errors import DataError

    from . import cohort

    keys = list(cohort.KEYS[:2])
    known_by = ["study_uid"] if "study_uid" in tsv.read(path) else keys
    scans = cohort.read_volumes(path, keys=known_by).drop(columns="scan_id", errors="ignore")
    true = scans.groupby(known_by, as_index=False).median()
    if known_by == keys:
        return true
    if links is None:
        raise DataError(
            f"{path}: knows sessions by study_uid; give --links a table of participant_id, session_id, study_uid"
        )
    known = tsv.read(links, columns=(*keys, "study_uid"))[[*keys, "study_uid"]]
    cohort.check_unique(known, ["study_uid"], links)
    cohort.check_unique(known, keys, links)
    return true.merge(known, on="study_uid").drop(columns="study_uid")


def read_scans(path: Path) -> pd.DataFrame:
    """Keys, ``spacing_mm`` (NaN if unknown) and ``contrast`` of a table of volumes, a row per scan."""
    import numpy as np

    from analysis import tsv

    from . import cohort

    keys = list(cohort.KEYS)
    table = tsv.read(path, columns=keys, numbers=("spacing_mm",))
    for column, unknown in (("spacing_mm", np.nan), ("contrast", tsv.MISSING)):
        if column not in table:
            table[column] = unknown
    return table.drop_duplicates(keys)[[*keys, "spacing_mm", "contrast"]]


def scan_groups(pairs: pd.DataFrame) -> Iterator[Group]:
    """All scans, and those of one slice distance or contrast; unknown ones are in no group."""
    import numpy as np

    from analysis import tsv

    yield Group("scan", EVERYTHING, EVERYTHING, pairs)
    bounds = (0.0, *SPACING_BOUNDS_MM, np.inf)
    for low, high in pairwise(bounds):
        inside = pairs[(pairs["spacing_mm"] >= low) & (pairs["spacing_mm"] < high)]
        name = (
            f"under {high:g} mm" if low == 0 else f"{low:g} mm and more" if high == np.inf else f"{low:g}–{high:g} mm"
        )
        if len(inside):
            yield Group("scan", "spacing", name, inside)
    for contrast, inside in pairs.groupby("contrast"):
        if contrast not in ("", tsv.MISSING):
            yield Group("scan", "contrast", str(contrast), inside)


def compare_structure(pairs: pd.DataFrame, structure: str) -> dict[str, Any]:
    """Row of the table for one structure; ``pairs`` has the columns ``structure`` and ``structure true`` (mm³)."""
    import numpy as np
    import pandas as pd

    used = pairs.dropna(subset=[structure, f"{structure} true"])
    groups, people = pd.factorize(used["participant_id"])
    row: dict[str, Any] = {**dict.fromkeys(COLUMNS, np.nan), "structure": structure, "n_scans": len(used),
                           "n_participants": len(people), "note": ""}  # fmt: skip
    if len(used) < MINIMUM_SCANS:
        return row | {"note": f"not compared: {len(used)} scans with truth, {MINIMUM_SCANS} are the least"}
    measured, true = used[structure].to_numpy(dtype=float), used[f"{structure} true"].to_numpy(dtype=float)
    found = compare(measured, true, groups=groups)
    row |= found
    row["limit_low_mm3"] = found["bias_mm3"] - REACH * found["spread_mm3"]
    row["limit_high_mm3"] = found["bias_mm3"] + REACH * found["spread_mm3"]
    notes = []
    if np.isnan(row["pearson_r"]):
        notes.append("no correlation: all volumes are the same")
    if not (true > 0).all():
        notes.append("no percentages: a true volume is zero")
    if len(people) < MINIMUM_SCANS:
        notes.append(f"no intervals: {len(people)} participants, {MINIMUM_SCANS} are the least")
        return row | {"note": "; ".join(notes)}
    without = [compare(measured[rest], true[rest], groups=groups[rest]) for rest in _left_out(groups)]
    for name in found:
        row |= zip(INTERVALS[name], interval(name, row[name], [other[name] for other in without]), strict=True)
    return row | limit_intervals(row) | {"note": "; ".join(notes)}


def compare(measured: Array, true: Array, *, groups: npt.NDArray[np.int64]) -> dict[str, float]:
    r"""All of :data:`INTERVALS` but limits; NaN where a volume never changes, percentages where a true volume is zero.

    Concordance is Lin 1989, equation 1 with sample moments over n,
    :math:`2 s_{xy} / (s_x^2 + s_y^2 + (\bar x - \bar y)^2)`.

    Parameters
    ----------
    measured, true
        Volumes (mm³), shape (n,).
    groups
        Participant of each, counted from zero.
    """
    import numpy as np
    from scipy import stats

    difference = measured - true
    relative = difference / true * 100 if (true > 0).all() else np.full_like(true, np.nan)
    bias = float(difference.mean())
    found = {
        "bias_mm3": bias,
        "bias_percent": float(relative.mean()),
        "mean_absolute_error_percent": float(np.abs(relative).mean()),
        "spread_mm3": spread_of_one(difference, groups),
    }
    if np.ptp(measured) == 0 or np.ptp(true) == 0:
        return found | dict.fromkeys(CORRELATIONS, np.nan)
    variance, true_variance, shared = _moments(measured, true)
    r = shared / np.sqrt(variance * true_variance)
    rank_variance, true_rank_variance, rank_shared = _moments(stats.rankdata(measured), stats.rankdata(true))
    rho = rank_shared / np.sqrt(rank_variance * true_rank_variance)
    return found | {
        "pearson_r": float(np.clip(r, -1, 1)),
        "spearman_r": float(np.clip(rho, -1, 1)),
        "concordance": 2 * shared / (variance + true_variance + bias**2),
    }


def _moments(x: Array, y: Array) -> tuple[float, float, float]:
    """Variances and covariance over n."""
    x, y, n = x - x.mean(), y - y.mean(), len(x)
    return float(x @ x / n), float(y @ y / n), float(x @ y / n)


def spread_of_one(difference: Array, groups: npt.NDArray[np.int64]) -> float:
    """Standard deviation of one volume's difference, participants having several each.

    Variance within participants and variance between them are estimated by analysis of variance and added: Bland &
    Altman 2007, section 3. Of one volume each, this is the plain standard deviation.
    """
    import numpy as np

    counts = np.bincount(groups)
    counts = counts[counts > 0]
    n, k = len(difference), len(counts)
    if k == 1 or n == k:
        return float(difference.std(ddof=1))
    means = (np.bincount(groups, difference) / np.maximum(np.bincount(groups), 1))[groups]
    within = float(np.sum((difference - means) ** 2)) / (n - k)
    between = float(np.sum((means - difference.mean()) ** 2)) / (k - 1)
    per_participant = (n - np.sum(counts**2) / n) / (k - 1)
    return float(np.sqrt(within + max(between - within, 0) / per_participant))


def interval(name: str, value: float, without: list[float]) -> tuple[float, float]:
    r"""Confidence interval from the values that leaving out each participant gives: jackknife and Student's t.

    Of correlations on Fisher's scale, :math:`\operatorname{artanh} r`, of what cannot be negative on that of the
    logarithm. NaN where the value or one of the others does not exist. With 15 to 41 participants correlations and
    concordance are covered in 92 to 96 %, where percentiles of a cluster bootstrap cover them in 88 to 94 %
    (``benchmarks/recover_ageing.py``).
    """
    import numpy as np
    from scipy import stats

    values = np.array([value, *without])
    # All the same but for rounding, such as perfect correlations, whose transform is infinite.
    if np.ptp(values) <= 1e-12 * np.abs(values).max():
        return value, value
    there: Any = _identity
    back: Any = _identity
    if name in CORRELATIONS:
        there, back = np.arctanh, np.tanh
    elif name in POSITIVE:
        there, back = np.log, np.exp
    with np.errstate(divide="ignore", invalid="ignore"):
        centre, others = there(values[0]), there(values[1:])
        n = len(others)
        error = np.sqrt((n - 1) / n * np.sum((others - others.mean()) ** 2))
        low, high = back(centre + stats.t.ppf([(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], n - 1) * error)
    return float(low), float(high)


def limit_intervals(row: dict[str, Any]) -> dict[str, float]:
    """Confidence intervals of the limits of agreement from those of bias and spread.

    Zou, Stat. Methods Med. Res. 2013 (MOVER), for several measurements per participant: distances from an estimate to
    the ends of its interval add up as squares.
    """
    import numpy as np

    bias, spread = row["bias_mm3"], REACH * row["spread_mm3"]
    bias_below, bias_above = bias - row["bias_low_mm3"], row["bias_high_mm3"] - bias
    spread_below, spread_above = spread - REACH * row["spread_low_mm3"], REACH * row["spread_high_mm3"] - spread
    low, high = row["limit_low_mm3"], row["limit_high_mm3"]
    return {
        "limit_low_from_mm3": float(low - np.hypot(bias_below, spread_above)),
        "limit_low_to_mm3": float(low + np.hypot(bias_above, spread_below)),
        "limit_high_from_mm3": float(high - np.hypot(bias_below, spread_below)),
        "limit_high_to_mm3": float(high + np.hypot(bias_above, spread_above)),
    }


def _identity(values: Any) -> Any:
    return values


def _left_out(groups: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.bool_]]:
    for group in range(int(groups.max()) + 1):
        yield groups != group


def compare_slopes(aged: pd.DataFrame, structure: str) -> dict[str, Any]:
    """Row of the table of slopes: volume on age, corrected for ICV and sex, measured and true, and their difference.

    Parameters
    ----------
    aged
        One row per session with ``participant_id``, ``age_years``, ``male`` and the columns ``X`` and ``X true`` (mm³).
    structure
        Which.
    """
    import numpy as np
    import pandas as pd

    from . import ageing, cohort, linear

    wanted = [f"{name}{which}" for name in {structure, cohort.ICV} for which in ("", " true")]
    row: dict[str, Any] = {**dict.fromkeys(SLOPE_COLUMNS, np.nan), "structure": structure, "note": ""}
    if not set(wanted) <= set(aged.columns):
        return row | {"n_sessions": 0, "n_participants": 0, "note": "not compared: no measured and true ICV"}
    used = aged.dropna(subset=wanted)
    groups, people = pd.factorize(used["participant_id"])
    row |= {"n_sessions": len(used), "n_participants": len(people)}
    reference = used.assign(**{name: used[f"{name} true"] for name in {structure, cohort.ICV}})
    found = {}
    for which, table in (("true", reference), ("measured", used)):
        reason = ageing.why_not(table, structure, ageing.Settings())
        if reason:
            return row | {"note": f"not compared: {which} volumes: {reason}"}
        volume, age = table[structure].to_numpy(dtype=float), table["age_years"].to_numpy(dtype=float)
        found[which] = linear.fit(volume, age, covariates=ageing.covariates_of(table, structure)[1], groups=groups)
    found["difference"] = linear.difference(found["measured"], found["true"])
    for which, line in found.items():
        low, high, p_value = linear.inference(line, confidence=CONFIDENCE)
        values = {"": line.slope, "_low": low, "_high": high}
        row |= {f"{which}{end}_mm3_per_year": value for end, value in values.items()}
    return row | {"p_value": p_value}


def published(table: pd.DataFrame, structures: list[str]) -> pd.DataFrame:
    """Pearson's r as the paper prints it: a row per level and group, a column per structure."""
    by = ["level", *GROUP_COLUMNS]
    wide = table.pivot(index=by, columns="structure", values="pearson_r")
    sizes = table.groupby(by)[["n_scans", "n_participants"]].max()
    order = table[by].drop_duplicates()
    return order.merge(sizes.join(wide), on=by)[[*by, "n_scans", "n_participants", *structures]]


def draw_identity(sessions: pd.DataFrame, names: list[str], *, rows: dict[str, dict[str, Any]]) -> Any:
    """Small multiples: measured against true, with the line of identity."""
    from . import figures

    if not names:
        return figures.saying("No agreement: fewer than three scans whose true volumes are known.")
    figure, axes = figures.panels(len(names))
    for axis, name in zip(axes, names, strict=True):
        true, measured = sessions[f"{name} true"] / 1000, sessions[name] / 1000
        ends = [true.min(), true.max()]
        axis.plot(ends, ends, color=figures.GREY, lw=1, ls="--", label="measured = true")
        axis.scatter(true, measured, s=10, color=figures.BLUE, alpha=0.6, linewidths=0)
        axis.text(0.97, 0.04, f"r = {rows[name]['pearson_r']:.2f}", transform=axis.transAxes, ha="right", fontsize=8.5,
                  bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.5})  # fmt: skip
        axis.set_title(figures.readable(name), fontsize=9.5)
    figure.supxlabel("true volume (ml)", fontsize=9)
    figure.supylabel("measured volume (ml)", fontsize=9)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", frameon=False, fontsize=8.5)
    return figure


def draw_differences(sessions: pd.DataFrame, names: list[str], *, rows: dict[str, dict[str, Any]]) -> Any:
    """Small multiples after Bland and Altman: difference against the true volume, bias and limits with intervals.

    Against the truth, not the mean of both as among two methods that both err.
    """
    from . import figures

    if not names:
        return figures.saying("No agreement: fewer than three scans whose true volumes are known.")
    figure, axes = figures.panels(len(names))
    for axis, name in zip(axes, names, strict=True):
        true, row = sessions[f"{name} true"] / 1000, rows[name]
        axis.axhline(0, color=figures.GREY, lw=0.8)
        axis.scatter(true, sessions[name] / 1000 - true, s=10, color=figures.BLUE, alpha=0.6, linewidths=0)
        for value, ends, style, label in (
            ("bias_mm3", INTERVALS["bias_mm3"], "-", "bias"),
            ("limit_low_mm3", INTERVALS["limit_low_mm3"], "--", "limits of agreement"),
            ("limit_high_mm3", INTERVALS["limit_high_mm3"], "--", None),
        ):
            axis.axhline(row[value] / 1000, color=figures.VERMILION, lw=1.2, ls=style, label=label)
            axis.axhspan(*(row[end] / 1000 for end in ends), color=figures.VERMILION, alpha=0.12, lw=0,
                         label="95 % confidence" if label == "bias" else None)  # fmt: skip
        axis.set_title(figures.readable(name), fontsize=9.5)
    figure.supxlabel("true volume (ml)", fontsize=9)
    figure.supylabel("measured minus true volume (ml)", fontsize=9)
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False, fontsize=8.5
    )
    return figure
