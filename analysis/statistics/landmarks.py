"""Errors of registration at landmarks, directly and through SynthSR, per contrast and spacing of control points.

Source: Iglesias et al., Science Advances 2023, figure 4: mean and standard deviation of the error, and Wilcoxon tests.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from .laplace import Array

#: What was registered: the scans themselves, or their synthetic T1s.
METHODS = ("direct", "synthsr")
#: Columns that identify an error together with the method.
KEYS = ("pair", "contrast", "spacing_mm", "landmark")
COLUMNS = (
    "contrast",
    "spacing_mm",
    "method",
    "n_pairs",
    "n_landmarks",
    "mean_mm",
    "mean_low_mm",
    "mean_high_mm",
    "sd_mm",
    "median_mm",
    "note",
)
TESTS_COLUMNS = (
    "contrast",
    "spacing_mm",
    "n_pairs",
    "n_landmarks",
    "difference_mm",
    "difference_low_mm",
    "difference_high_mm",
    "difference_percent",
    "difference_low_percent",
    "difference_high_percent",
    "sd_difference_mm",
    "sd_difference_low_mm",
    "sd_difference_high_mm",
    "medians_p",
    "errors_p",
    "note",
)
#: Fewer pairs give a documented NA.
MINIMUM_PAIRS = 3
SOURCES = (
    "Iglesias et al., Science Advances 2023, doi 10.1126/sciadv.add3607 (figure 4)",
    "Rosner, Glynn & Lee, Biometrics 2006, doi 10.1111/j.1541-0420.2005.00389.x (signed rank test of clusters)",
)
METHOD = (
    "Landmarks whose error is known of both methods. Differences are SynthSR minus direct, so negative where SynthSR "
    "errs less; percentages are of the direct mean. Intervals: percentiles, expanded for few pairs (Hesterberg, Am. "
    "Stat. 2015), of a bootstrap that draws pairs with all their landmarks, both methods together. medians_p: "
    "Wilcoxon signed rank test of the pairs' median errors, exact up to 50 pairs without ties. errors_p: signed rank "
    "test of all errors' differences with the landmarks of a pair as one cluster (exact up to 12 pairs), because the "
    "plain test takes them for independent and rejects too often."
)


@dataclass(frozen=True)
class Settings:
    """How errors are compared.

    Attributes
    ----------
    replicates
        Bootstrap replicates behind the intervals.
    seed
        Seed of the bootstrap.
    confidence
        Coverage of the intervals.
    """

    replicates: int = 2000
    seed: int = 0
    confidence: float = 0.95


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("errors", type=Path, metavar="ERRORS.tsv", help="pair, contrast, spacing_mm (of control "
                        "points), method (direct or synthsr), landmark, error_mm")  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for tables, JSON and figure")
    parser.add_argument("--replicates", type=int, default=Settings.replicates,
                        help="bootstrap replicates behind the intervals (default %(default)s)")  # fmt: skip
    parser.add_argument("--seed", type=int, default=Settings.seed, help="seed of the bootstrap (default %(default)s)")


def run(arguments: argparse.Namespace) -> None:
    """Compare and write ``landmarks.tsv``, ``landmarks_tests.tsv``, ``landmarks.json`` and ``landmarks.png``."""
    import pandas as pd

    from analysis import dictionary, tsv
    from analysis.errors import ConfigurationError
    from synthsr import files

    from . import figures

    if arguments.replicates < 100:
        raise ConfigurationError("--replicates must be 100 or more")
    settings = Settings(replicates=arguments.replicates, seed=arguments.seed)
    errors, notes = read_errors(arguments.errors)
    rows, tests = [], []
    for (contrast, spacing_mm), cell in errors.groupby(["contrast", "spacing_mm"]):
        measured, test = compare_cell(cell, settings)
        where = {"contrast": contrast, "spacing_mm": spacing_mm}
        rows += [{**where, **row} for row in measured]
        tests.append({**where, **test})
    out: Path = arguments.out
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    tsv.write(table, out / "landmarks.tsv")
    tsv.write(pd.DataFrame(tests, columns=list(TESTS_COLUMNS)), out / "landmarks_tests.tsv")
    figures.write(draw(table), out / "landmarks.png")
    files.write_json(
        out / "landmarks.json",
        {
            "analysis": "landmarks",
            "settings": asdict(settings),
            "n_pairs": int(errors["pair"].nunique()),
            "n_landmarks": len(errors[["pair", "landmark"]].drop_duplicates()),
            "notes": notes,
            "method": METHOD,
            "sources": list(SOURCES),
            "columns": dictionary.of_folder("statistics/landmarks"),
        },
    )
    print(f"landmarks: {len(tests)} contrasts and spacings, {errors['pair'].nunique()} pairs → {out}")
    for note in notes:
        print(f"  {note}")


def read_errors(path: Path) -> tuple[pd.DataFrame, list[str]]:
    """Read errors and put those of both methods side by side.

    Returns
    -------
    A row per landmark, contrast and spacing: :data:`KEYS`, then a column per method (mm), every error known; and a note
    for everything left out. Missing, infinite and negative errors are unknown.

    Raises
    ------
    DataError
        If a column is missing, a number is text, a method is neither, a spacing is missing, or an error is there twice.
    """
    import numpy as np

    from analysis import tsv
    from analysis.errors import DataError

    from . import cohort

    table = tsv.read(path, columns=(*KEYS, "method", "error_mm"), numbers=("spacing_mm", "error_mm"))
    table["method"] = table["method"].str.strip().str.lower()
    for wrong, what in (
        (~table["method"].isin(METHODS), f"the method is not {' or '.join(METHODS)}"),
        (~(table["spacing_mm"] > 0), "spacing_mm is no positive number"),
    ):
        if wrong.any():
            raise DataError(f"{path}: line {int(wrong.to_numpy().argmax()) + 2}: {what}; correct it")
    cohort.check_unique(table, [*KEYS, "method"], path)
    error = table["error_mm"]
    table["error_mm"] = error.where(np.isfinite(error) & (error >= 0))
    wide = table.pivot(index=list(KEYS), columns="method", values="error_mm").reindex(columns=list(METHODS))
    wide.columns.name = None
    known = wide.dropna().reset_index()
    if not len(table):
        return known, ["There are no errors."]
    lacking = len(wide) - len(known)
    return known, [f"{cohort.counted(lacking)} without the error of both methods left out."] if lacking else []


def compare_cell(cell: pd.DataFrame, settings: Settings) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Compare one contrast at one spacing.

    Parameters
    ----------
    cell
        ``pair`` and a column per method (mm), a row per landmark.
    settings
        Bootstrap and coverage.

    Returns
    -------
    A row per method, and the row of tests, both without contrast and spacing.
    """
    import numpy as np
    import pandas as pd

    from . import laplace, univariate

    number, pairs = pd.factorize(cell["pair"])
    counted = {"n_pairs": len(pairs), "n_landmarks": len(cell)}
    errors = cell[list(METHODS)].to_numpy(dtype=float)
    rows: list[dict[str, Any]] = [
        {**dict.fromkeys(COLUMNS[2:], np.nan), **counted, "method": method, "note": ""} for method in METHODS
    ]
    test: dict[str, Any] = {**dict.fromkeys(TESTS_COLUMNS[2:], np.nan), **counted, "note": ""}
    if len(pairs) < MINIMUM_PAIRS:
        why = f"not compared: {len(pairs)} pairs, {MINIMUM_PAIRS} are the least"
        return [row | {"note": why} for row in rows], test | {"note": why}
    mean, sd = errors.mean(axis=0), errors.std(axis=0, ddof=1)
    means, sds = bootstrap(errors, number, settings)
    tail = laplace.expanded_tail(settings.confidence, n_clusters=len(pairs), n_parameters=1)
    tails = [tail, 1 - tail]
    for index, row in enumerate(rows):
        low, high = np.quantile(means[:, index], tails)
        row |= {"mean_mm": float(mean[index]), "mean_low_mm": float(low), "mean_high_mm": float(high),
                "sd_mm": float(sd[index]), "median_mm": float(np.median(errors[:, index]))}  # fmt: skip
    differences = errors[:, 1] - errors[:, 0]
    medians = cell.groupby("pair")[list(METHODS)].median().to_numpy(dtype=float)
    low, high = np.quantile(means[:, 1] - means[:, 0], tails)
    sd_low, sd_high = np.quantile(sds[:, 1] - sds[:, 0], tails)
    test |= {
        "difference_mm": float(mean[1] - mean[0]),
        "difference_low_mm": float(low),
        "difference_high_mm": float(high),
        "sd_difference_mm": float(sd[1] - sd[0]),
        "sd_difference_low_mm": float(sd_low),
        "sd_difference_high_mm": float(sd_high),
        "medians_p": univariate.signed_rank_p(medians[:, 1] - medians[:, 0]),
        "errors_p": univariate.clustered_signed_rank_p(differences, number),
    }
    if (means[:, 0] > 0).all():
        low, high = np.quantile(100 * (means[:, 1] / means[:, 0] - 1), tails)
        test |= {"difference_percent": float(100 * (mean[1] / mean[0] - 1)),
                 "difference_low_percent": float(low), "difference_high_percent": float(high)}  # fmt: skip
    if not differences.any():
        test["note"] = "not tested: both methods err alike everywhere"
    return rows, test


def bootstrap(errors: Array, number: Any, settings: Settings) -> tuple[Array, Array]:
    """Means and standard deviations, each (replicates, methods), of landmarks whose pairs are drawn with replacement.

    Parameters
    ----------
    errors
        Shape (landmarks, methods), mm.
    number
        Index of each landmark's pair, shape (landmarks,).
    settings
        Replicates and seed.
    """
    import numpy as np

    n_pairs = int(number.max()) + 1
    rng = np.random.default_rng(settings.seed)
    times = rng.multinomial(n_pairs, np.full(n_pairs, 1 / n_pairs), size=settings.replicates).astype(float)
    centre = errors.mean(axis=0)
    counts = np.bincount(number)
    sums, squares = (
        np.stack([np.bincount(number, column) for column in power.T], axis=1)
        for power in (errors - centre, (errors - centre) ** 2)
    )
    drawn = (times @ counts)[:, None]
    mean = times @ sums / drawn
    variance = np.maximum(times @ squares / drawn - mean**2, 0) * drawn / np.maximum(drawn - 1, 1)
    return mean + centre, np.sqrt(variance)


def draw(table: pd.DataFrame) -> Any:
    """Small multiples, one per contrast: mean with its interval, and standard deviation, per spacing and method."""
    from . import figures

    shown = table.dropna(subset=["mean_mm"])
    if not len(shown):
        return figures.saying("No errors: fewer than three pairs with landmarks whose error both methods have.")
    contrasts = sorted(set(shown["contrast"]))
    figure, axes = figures.panels(len(contrasts))
    labels = {"direct": "directly", "synthsr": "through SynthSR"}
    spacings = sorted(set(shown["spacing_mm"]))
    for axis, contrast in zip(axes, contrasts, strict=True):
        for method, colour, aside in zip(METHODS, (figures.BLUE, figures.VERMILION), (-0.15, 0.15), strict=True):
            rows = shown[(shown["contrast"] == contrast) & (shown["method"] == method)]
            places = [spacings.index(spacing) + aside for spacing in rows["spacing_mm"]]
            axis.errorbar(places, rows["mean_mm"], rows["sd_mm"], fmt="none", ecolor=colour, elinewidth=0.8, capsize=2)
            reach = [rows["mean_mm"] - rows["mean_low_mm"], rows["mean_high_mm"] - rows["mean_mm"]]
            axis.errorbar(
                places, rows["mean_mm"], reach, fmt="o", ms=4, color=colour, elinewidth=3, label=labels[method]
            )
        axis.set_xticks(range(len(spacings)), [f"{spacing:g}" for spacing in spacings])
        axis.set_xlim(-0.5, len(spacings) - 0.5)
        axis.set_ylim(bottom=min(0, axis.get_ylim()[0]))
        axis.set_title(contrast, fontsize=9.5)
    figure.supxlabel("spacing of control points (mm)\nthick: 95 % confidence of the mean, thin: ± 1 SD", fontsize=8)
    figure.supylabel("error at landmarks (mm)", fontsize=9)
    handles = axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=2, frameon=False, fontsize=8.5)
    return figure
