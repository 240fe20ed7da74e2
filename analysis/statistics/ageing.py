"""Volumes against age: median trajectories with their confidence band, centiles, and linear fits.

Volumes are corrected for intracranial volume and sex by additive linear terms (to the mean ICV and to the mean of the
sexes) that are fitted together with the age curve, a Laplace distribution whose median and log-scale are natural
splines of age: Iglesias et al., Science Advances 2023, figure 2. The linear fits, with the same correction, are those
of Iglesias et al., NeuroImage 2021, figure 11.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from .laplace import Array

CENTILES = (5, 25, 75, 95)
#: A design whose least singular value is a smaller fraction of its largest cannot be fitted.
LEAST_SINGULAR_VALUE = 1e-6
CURVE_COLUMNS = ("structure", "age_years", "median_mm3", "low_mm3", "high_mm3", *(f"centile{c}_mm3" for c in CENTILES))
SUMMARY_COLUMNS = (
    "structure",
    "n_scans",
    "n_participants",
    "knots",
    "slope_mm3_per_year",
    "slope_low_mm3_per_year",
    "slope_high_mm3_per_year",
    "pearson_r",
    "p_value",
    "peak_age_years",
    "icv_coefficient",
    "male_minus_female_mm3",
    "log_likelihood",
    "note",
)
SOURCES = (
    "Iglesias et al., Science Advances 2023, doi 10.1126/sciadv.add3607 (figure 2: Laplace model with splines)",
    "Iglesias et al., NeuroImage 2021, doi 10.1016/j.neuroimage.2021.118206 (figure 11: linear fits)",
)


@dataclass(frozen=True)
class Settings:
    """How the curves are fitted.

    Attributes
    ----------
    knots
        Knots of the splines of median and log-scale; at most a tenth of the participants are used.
    replicates
        Cluster-bootstrap replicates behind the band.
    seed
        Seed of the bootstrap.
    confidence
        Coverage of the band, pointwise.
    minimum_participants
        Fewer participants give a documented NA.
    minimum_range_years
        A narrower range of ages gives a documented NA.
    """

    knots: int = 6
    replicates: int = 500
    seed: int = 0
    confidence: float = 0.95
    minimum_participants: int = 20
    minimum_range_years: float = 5.0


@dataclass(frozen=True)
class StructureFit:
    """What is found for one structure: rows of the two tables and what the figure shows."""

    summary: dict[str, Any]
    curve: pd.DataFrame
    age_years: Array
    corrected_mm3: Array


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("volumes", type=Path, metavar="VOLUMES.tsv", help="participant_id, session_id, [scan_id], "
                        "structure, volume_mm3; ICV is one of the structures")  # fmt: skip
    parser.add_argument("--participants", type=Path, required=True, metavar="TABLE.tsv",
                        help="participant_id, [session_id], age_years, sex (M or F)")  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for tables, JSON and figure")
    parser.add_argument("--knots", type=int, default=Settings.knots, help="spline knots (default %(default)s), "
                        "at most a tenth of the participants are used")  # fmt: skip
    parser.add_argument("--replicates", type=int, default=Settings.replicates,
                        help="bootstrap replicates behind the confidence band (default %(default)s)")  # fmt: skip
    parser.add_argument("--seed", type=int, default=Settings.seed, help="seed of the bootstrap (default %(default)s)")


def run(arguments: argparse.Namespace) -> None:
    """Fit all structures and write ``ageing_curves.tsv``, ``ageing_summary.tsv``, ``ageing.json``, ``ageing.png``."""
    import pandas as pd

    from analysis import tsv
    from analysis.errors import ConfigurationError
    from synthsr import files

    from . import cohort, figures

    if arguments.knots < 2 or arguments.replicates < 100:
        raise ConfigurationError("--knots must be 2 or more, --replicates 100 or more")
    settings = Settings(knots=arguments.knots, replicates=arguments.replicates, seed=arguments.seed)
    volumes = cohort.read_volumes(arguments.volumes)
    table, notes = cohort.with_people(volumes, cohort.read_people(arguments.participants))
    fits = {name: fit_structure(table, name, settings) for name in cohort.structures(volumes)}
    out: Path = arguments.out
    curves = [fit.curve for fit in fits.values() if len(fit.curve)]
    tsv.write(pd.concat(curves) if curves else pd.DataFrame(columns=list(CURVE_COLUMNS)), out / "ageing_curves.tsv")
    tsv.write(
        pd.DataFrame([fit.summary for fit in fits.values()], columns=list(SUMMARY_COLUMNS)), out / "ageing_summary.tsv"
    )
    figures.write(draw(fits), out / "ageing.png")
    n_participants = int(table["participant_id"].nunique())
    if not len(volumes):
        notes.append("There are no volumes.")
    elif n_participants // 10 < settings.knots:
        notes.append(
            f"{knots_for(n_participants, settings.knots)} knots instead of {settings.knots}: at most a tenth of the "
            f"{n_participants} participants."
        )
    files.write_json(
        out / "ageing.json",
        {
            "analysis": "ageing",
            "level": "scan" if "scan_id" in volumes else "session",
            "settings": asdict(settings),
            "n_rows_given": len(volumes),
            "n_rows": len(table),
            "n_participants": n_participants,
            "notes": notes,
            "method": "Laplace regression by maximum likelihood, median and log-scale natural cubic splines of age "
            "(knots at equally spaced quantiles from 5 to 95 %, scale "
            "constant beyond), ICV and sex as linear terms of the median; band: "
            "pointwise percentiles of a weighted bootstrap that draws participants with all their scans, correction "
            "included; slope: least squares with age, ICV and sex, standard error by the jackknife over participants.",
            "sources": list(SOURCES),
        },
    )
    fitted = sum(1 for fit in fits.values() if len(fit.curve))
    print(f"ageing: {fitted} of {len(fits)} structures, {len(table)} rows, {n_participants} participants → {out}")
    for note in notes:
        print(f"  {note}")


def knots_for(n_participants: int, wanted: int) -> int:
    """Knots used: at most a tenth of the participants, at least two (a straight line)."""
    return max(2, min(wanted, n_participants // 10))


def fit_structure(table: pd.DataFrame, structure: str, settings: Settings) -> StructureFit:
    """Fit one structure.

    Parameters
    ----------
    table
        ``participant_id``, ``age_years``, ``male`` and a column per structure (mm³), ICV among them.
    structure
        The column to fit; ICV itself is corrected for sex only.
    settings
        Knots, bootstrap and limits.
    """
    import numpy as np
    import pandas as pd

    from . import cohort, laplace

    by_icv = structure != cohort.ICV
    needed = [structure, *([cohort.ICV] if by_icv and cohort.ICV in table else [])]
    used = table.dropna(subset=needed)
    dropped = len(table) - len(used)
    remarks = [f"{cohort.counted(dropped)} without volume left out"] if dropped else []
    y, age = used[structure].to_numpy(dtype=float), used["age_years"].to_numpy(dtype=float)
    groups, people = pd.factorize(used["participant_id"])
    summary: dict[str, Any] = {
        **dict.fromkeys(SUMMARY_COLUMNS, np.nan),
        "structure": structure,
        "n_scans": len(used),
        "n_participants": len(people),
    }
    reason = _why_not(used, structure, settings)
    if not reason:
        names, covariates = _covariates(used, by_icv=by_icv)
        spline = laplace.NaturalSpline.at_quantiles(age, knots_for(len(people), settings.knots))
        basis, scale_basis = spline.design(age), spline.design_held(age)
        k = basis.shape[1]
        design = np.column_stack([basis, covariates])
        if not _is_full_rank(design):
            reason = f"too few different ages for a curve of {k} knots; lower --knots (in a study ageing.knots)"
    if reason:
        summary["note"] = "; ".join([f"not fitted: {reason}", *remarks])
        return StructureFit(summary, pd.DataFrame(columns=list(CURVE_COLUMNS)), age, y)

    fit = laplace.fit(y, design, scale_basis)
    rng = np.random.default_rng(settings.seed)
    weights = laplace.cluster_weights(groups, settings.replicates, rng)
    replicates = laplace.fit(y, design, scale_basis, weights=weights, start=fit)

    grid = np.arange(np.ceil(age.min()), np.floor(age.max()) + 1)
    at_grid = spline.design(grid)
    median, scale = at_grid @ fit.location[0, :k], np.exp(spline.design_held(grid) @ fit.log_scale[0])
    tail = (1 - settings.confidence) / 2
    low, high = np.quantile(replicates.location[:, :k] @ at_grid.T, [tail, 1 - tail], axis=0)
    curve = pd.DataFrame(
        {
            "structure": structure,
            "age_years": grid,
            "median_mm3": median,
            "low_mm3": low,
            "high_mm3": high,
            **{f"centile{c}_mm3": laplace.quantile(c / 100, median, scale) for c in CENTILES},
        }
    )
    top = int(np.argmax(median))
    if top in (0, len(grid) - 1):
        remarks.append(f"no peak: largest at the {'youngest' if top == 0 else 'oldest'} age")
    terms = dict(zip(names, fit.location[0, k:], strict=True))
    summary |= {
        "knots": k,
        **_linear_fit(y, age, covariates, groups, settings.confidence),
        "peak_age_years": np.nan if top in (0, len(grid) - 1) else grid[top],
        "icv_coefficient": terms.get("icv", np.nan),
        "male_minus_female_mm3": terms.get("sex", np.nan),
        "log_likelihood": laplace.log_likelihood(y, design @ fit.location[0], scale_basis @ fit.log_scale[0]),
        "note": "; ".join(remarks),
    }
    return StructureFit(summary, curve, age, y - covariates @ fit.location[0, k:])


def _why_not(used: pd.DataFrame, structure: str, settings: Settings) -> str:
    """Why these rows cannot be fitted; empty if they can."""
    import numpy as np

    from . import cohort

    volume, age = used[structure].to_numpy(dtype=float), used["age_years"].to_numpy(dtype=float)
    n_participants = used["participant_id"].nunique()
    by_icv = structure != cohort.ICV
    if by_icv and cohort.ICV not in used:
        return "the table has no ICV to correct for"
    if n_participants < settings.minimum_participants:
        return f"{n_participants} participants, {settings.minimum_participants} are the least"
    if np.ptp(age) < settings.minimum_range_years:
        return f"ages span {np.ptp(age):.3g} years, {settings.minimum_range_years:g} are the least"
    if not np.median(np.abs(volume - np.median(volume))) > 0:
        return "more than half of the volumes are the same"
    design = np.column_stack([np.ones_like(age), age, _covariates(used, by_icv=by_icv)[1]])
    if not _is_full_rank(design):
        return "age, ICV and sex cannot be told apart"
    return ""


def _covariates(used: pd.DataFrame, *, by_icv: bool) -> tuple[list[str], Array]:
    """ICV from its mean (mm³) and sex from the mean of the sexes (−½ F, ½ M); a constant one is left out."""
    import numpy as np

    from . import cohort

    found: dict[str, Any] = {}
    if by_icv and np.ptp(used[cohort.ICV]) > 0:
        found["icv"] = (used[cohort.ICV] - used[cohort.ICV].mean()).to_numpy(dtype=float)
    if used["male"].notna().all() and used["male"].nunique() == 2:
        found["sex"] = used["male"].to_numpy(dtype=float) - 0.5
    return list(found), np.column_stack([*found.values()]) if found else np.empty((len(used), 0))


def _is_full_rank(design: Array) -> bool:
    """Whether the columns can be told apart, also after squaring (normal equations)."""
    import numpy as np

    return bool(np.linalg.matrix_rank(_comparable(design), rtol=LEAST_SINGULAR_VALUE) == design.shape[1])


def _comparable(columns: Array) -> Array:
    """Columns of one size, so that mm³ do not drown years."""
    import numpy as np

    largest = np.abs(columns).max(axis=0, initial=0)
    return columns / np.where(largest > 0, largest, 1)


def _linear_fit(y: Array, age: Array, covariates: Array, groups: Any, confidence: float) -> dict[str, float]:
    """Slope of the corrected volume on age, its interval and p (t, participants − 1 degrees of freedom), Pearson's r.

    The standard error is the jackknife over participants (CR3: Bell & McCaffrey, Survey Methodology 2002), honest with
    several scans per participant and unequal scatter: each participant's residuals e_g become (I − H_gg)⁻¹ e_g.
    """
    import numpy as np
    from scipy import stats

    design = np.column_stack([np.ones_like(age), age - age.mean(), _comparable(covariates)])
    coefficients = np.linalg.lstsq(design, y, rcond=None)[0]
    residual = y - design @ coefficients
    bread = np.linalg.pinv(design.T @ design)
    n_groups = int(groups.max()) + 1
    scores = np.empty((n_groups, design.shape[1]))
    for group in range(n_groups):
        rows = groups == group
        leverage = design[rows] @ bread @ design[rows].T
        scores[group] = design[rows].T @ np.linalg.pinv(np.eye(len(leverage)) - leverage) @ residual[rows]
    variance = (n_groups - 1) / n_groups * bread @ scores.T @ scores @ bread
    slope, error = coefficients[1], np.sqrt(variance[1, 1])
    reach = stats.t.ppf((1 + confidence) / 2, n_groups - 1) * error
    corrected = y - design[:, 2:] @ coefficients[2:]
    return {
        "slope_mm3_per_year": float(slope),
        "slope_low_mm3_per_year": float(slope - reach),
        "slope_high_mm3_per_year": float(slope + reach),
        "pearson_r": float(np.corrcoef(corrected, age)[0, 1]),
        "p_value": float(2 * stats.t.sf(abs(slope / error), n_groups - 1)),
    }


def draw(fits: dict[str, StructureFit]) -> Any:
    """Small multiples of the main structures: corrected volumes, centiles, median and its band."""
    from . import figures

    fitted = [name for name, fit in fits.items() if len(fit.curve)]
    if not fitted:
        reasons = sorted({str(fit.summary["note"]) for fit in fits.values()})
        return figures.saying("No ageing curves: " + ("; ".join(reasons[:2]) if reasons else "no volumes."))
    names = figures.main_structures(fitted)
    figure, axes = figures.panels(len(names))
    for axis, name in zip(axes, names, strict=True):
        fit, curve = fits[name], fits[name].curve
        age = curve["age_years"]
        axis.scatter(fit.age_years, fit.corrected_mm3 / 1000, s=7, color=figures.GREY, alpha=0.45, linewidths=0,
                     label="one volume")  # fmt: skip
        for outer, inner in ((5, 95), (25, 75)):
            for centile in (outer, inner):
                axis.plot(age, curve[f"centile{centile}_mm3"] / 1000, color=figures.ORANGE, lw=0.8,
                          ls=":" if outer == 5 else "--",
                          label=f"centiles {outer}, {inner}" if centile == outer else None)  # fmt: skip
        axis.fill_between(age, curve["low_mm3"] / 1000, curve["high_mm3"] / 1000, color=figures.BLUE, alpha=0.3, lw=0,
                          label="95 % confidence of the median")  # fmt: skip
        axis.plot(age, curve["median_mm3"] / 1000, color=figures.BLUE, lw=1.6, label="median")
        shown = [fit.corrected_mm3.min(), fit.corrected_mm3.max(), curve["low_mm3"].min(), curve["high_mm3"].max()]
        margin = 0.05 * (max(shown) - min(shown))
        axis.set_ylim((min(shown) - margin) / 1000, (max(shown) + margin) / 1000)
        axis.set_title(figures.readable(name), fontsize=9.5)
    figure.supxlabel("age (years)", fontsize=9)
    figure.supylabel("volume corrected for ICV and sex (ml)", fontsize=9)
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=5, frameon=False, fontsize=8.5
    )
    return figure
