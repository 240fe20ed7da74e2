"""Volumes against age: median trajectories with their confidence band, centiles, everybody's own score, linear fits.

Volumes are corrected for intracranial volume and sex by additive linear terms (to the mean ICV and to the mean of the
sexes) that are fitted together with the age curve, a Laplace distribution whose median and log-scale are natural
splines of age: Iglesias et al., Science Advances 2023, figure 2. The linear fits, with the same correction, are those
of Iglesias et al., NeuroImage 2021, figure 11. With a reference group everything is fitted to its people alone, and
everybody is scored.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas as pd

    from .laplace import Array, NaturalSpline

CENTILES = (5, 25, 75, 95)
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
    "peak_low_years",
    "peak_high_years",
    "icv_coefficient",
    "male_minus_female_mm3",
    "log_likelihood",
    "note",
)
SCORE_COLUMNS = ("structure", "age_years", "corrected_mm3", "centile", "z", "note")
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
class Model:
    """Fitted distribution of one structure's volumes at every age.

    Attributes
    ----------
    structure
        Its name.
    spline
        Of median and log-scale.
    median_mm3, log_scale
        Their values at the knots.
    effects
        Change of the median per covariate (``icv`` in mm³ per mm³, ``sex`` in mm³, men minus women).
    icv_mean_mm3
        ICV to which volumes are corrected.
    age_range_years
        Youngest and oldest age that the model has seen.
    sexes
        Values of ``male`` that it has seen.
    """

    structure: str
    spline: NaturalSpline
    median_mm3: Array
    log_scale: Array
    effects: dict[str, float]
    icv_mean_mm3: float
    age_range_years: tuple[float, float]
    sexes: tuple[float, ...]

    def median(self, age_years: Array) -> Array:
        """Median corrected volume (mm³) at some ages."""
        return self.spline.design(age_years) @ self.median_mm3

    def scale(self, age_years: Array) -> Array:
        """Scale of the Laplace distribution (mm³) at some ages."""
        import numpy as np

        return np.asarray(np.exp(self.spline.design_held(age_years) @ self.log_scale))

    def corrected(self, table: pd.DataFrame) -> Array:
        """Volumes (mm³) at mean ICV and at the mean of the sexes."""
        covariates = _covariates(table, list(self.effects), self.icv_mean_mm3)
        return table[self.structure].to_numpy(dtype=float) - covariates @ list(self.effects.values())


@dataclass(frozen=True)
class StructureFit:
    """What is found for one structure: rows of the tables and what the figure shows.

    Attributes
    ----------
    summary, curve
        Row and rows of the tables.
    model
        ``None`` where nothing could be fitted.
    age_years, corrected_mm3
        What was fitted to.
    """

    summary: dict[str, Any]
    curve: pd.DataFrame
    model: Model | None
    age_years: Array
    corrected_mm3: Array


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("volumes", type=Path, metavar="VOLUMES.tsv", help="participant_id, session_id, [scan_id], "
                        "structure, volume_mm3; ICV is one of the structures")  # fmt: skip
    parser.add_argument("--participants", type=Path, required=True, metavar="TABLE.tsv",
                        help="participant_id, [session_id], age_years, sex (M or F), [diagnosis]")  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for tables, JSON and figure")
    parser.add_argument("--knots", type=int, default=Settings.knots, help="spline knots (default %(default)s), "
                        "at most a tenth of the participants are used")  # fmt: skip
    parser.add_argument("--replicates", type=int, default=Settings.replicates,
                        help="bootstrap replicates behind the confidence band (default %(default)s)")  # fmt: skip
    parser.add_argument("--seed", type=int, default=Settings.seed, help="seed of the bootstrap (default %(default)s)")
    parser.add_argument("--reference-group", metavar="DIAGNOSIS",
                        help="fit to the people of this diagnosis alone and score everybody")  # fmt: skip


def run(arguments: argparse.Namespace) -> None:
    """Fit all structures; write ``ageing_{curves,summary,scores}.tsv``, ``ageing.json`` and ``ageing.png``."""
    import pandas as pd

    from analysis import dictionary, tsv
    from analysis.errors import ConfigurationError
    from synthsr import files
    from synthsr.progress import tracked

    from . import cohort, figures

    if arguments.knots < 2 or arguments.replicates < 100:
        raise ConfigurationError("--knots must be 2 or more, --replicates 100 or more")
    settings = Settings(knots=arguments.knots, replicates=arguments.replicates, seed=arguments.seed)
    volumes = cohort.read_volumes(arguments.volumes)
    people = cohort.read_people(arguments.participants)
    table, notes = cohort.with_people(volumes, people)
    reference = table
    if arguments.reference_group is not None:
        check_group(people, arguments.reference_group, path=arguments.participants)
        reference = table[table["diagnosis"] == arguments.reference_group]
        notes.append(
            f"Fitted to {cohort.counted(len(reference))} with the diagnosis {arguments.reference_group}; "
            f"all {len(table)} are scored."
        )
    names = cohort.structures(volumes)
    fits = {
        name: fit_structure(reference, name, settings)
        for name in tracked(names, what="structures fitted", total=len(names))
    }
    out: Path = arguments.out
    curves = [fit.curve for fit in fits.values() if len(fit.curve)]
    tsv.write(pd.concat(curves) if curves else pd.DataFrame(columns=list(CURVE_COLUMNS)), out / "ageing_curves.tsv")
    tsv.write(
        pd.DataFrame([fit.summary for fit in fits.values()], columns=list(SUMMARY_COLUMNS)), out / "ageing_summary.tsv"
    )
    scores = [score(table, fit.model) for fit in fits.values() if fit.model]
    keys = [key for key in cohort.KEYS if key in volumes]
    tsv.write(pd.concat(scores) if scores else pd.DataFrame(columns=[*keys, *SCORE_COLUMNS]), out / "ageing_scores.tsv")
    figures.write(draw(fits, table.drop(reference.index)), out / "ageing.png")
    n_participants = int(reference["participant_id"].nunique())
    if not len(volumes):
        notes.append("There are no volumes.")
    elif curves and n_participants // 10 < settings.knots:
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
            "n_rows": len(reference),
            "reference_group": arguments.reference_group,
            "n_participants": n_participants,
            "notes": notes,
            "method": "Laplace regression by maximum likelihood, median and log-scale natural cubic splines of age "
            "(knots at equally spaced quantiles from 5 to 95 %, scale constant beyond), ICV and sex as linear terms of "
            "the median; band: pointwise percentiles of a weighted bootstrap that draws participants with all their "
            "scans, correction included, expanded for few participants (Hesterberg, American Statistician 2015); "
            "peak: age of the largest median, its interval the ages whose median may be as large by the same "
            "bootstrap; centile: of the volume in the "
            "fitted distribution at its age, z: the normal quantile of that; slope: least squares with age, ICV and "
            "sex, standard error clustered by participant (CR2, Bell & McCaffrey 2002).",
            "sources": list(SOURCES),
            "columns": dictionary.of_folder("statistics/ageing-LEVEL"),
        },
    )
    fitted = sum(1 for fit in fits.values() if len(fit.curve))
    print(f"ageing: {fitted} of {len(fits)} structures, {len(reference)} rows, {n_participants} participants → {out}")
    for note in notes:
        print(f"  {note}")


def check_group(people: pd.DataFrame, diagnosis: str, *, path: Path) -> None:
    """Raise :class:`DataError` if nobody has the diagnosis."""
    from analysis import tsv
    from analysis.errors import DataError

    if "diagnosis" not in people:
        raise DataError(
            f"{path}: lacks the column diagnosis, which --reference-group needs; add it, or leave that option out"
        )
    found = sorted(set(people["diagnosis"]) - {"", tsv.MISSING})
    if diagnosis not in found:
        raise DataError(f"{path}: nobody has the diagnosis {diagnosis!r}; there are: {', '.join(found) or 'none'}")


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

    from . import cohort, laplace, linear

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
    reason = why_not(used, structure, settings)
    if not reason:
        names, covariates, icv_mean_mm3 = covariates_of(used, structure)
        spline = laplace.NaturalSpline.at_quantiles(age, knots_for(len(people), settings.knots))
        basis, scale_basis = spline.design(age), spline.design_held(age)
        k = basis.shape[1]
        design = np.column_stack([basis, covariates])
        if not linear.is_full_rank(design):
            reason = f"too few different ages for a curve of {k} knots; lower --knots (in a study ageing.knots)"
    if reason:
        summary["note"] = "; ".join([f"not fitted: {reason}", *remarks])
        return StructureFit(summary, pd.DataFrame(columns=list(CURVE_COLUMNS)), None, age, y)

    fit = laplace.fit(y, design, scale_basis)
    rng = np.random.default_rng(settings.seed)
    weights = laplace.cluster_weights(groups, settings.replicates, rng)
    replicates = laplace.fit(y, design, scale_basis, weights=weights, start=fit)
    model = Model(
        structure=structure,
        spline=spline,
        median_mm3=fit.location[0, :k],
        log_scale=fit.log_scale[0],
        effects=dict(zip(names, fit.location[0, k:].tolist(), strict=True)),
        icv_mean_mm3=icv_mean_mm3,
        age_range_years=(float(age.min()), float(age.max())),
        sexes=tuple(used["male"].dropna().unique()),
    )
    grid = np.arange(np.ceil(age.min()), np.floor(age.max()) + 1)
    median, scale = model.median(grid), model.scale(grid)
    medians = replicates.location[:, :k] @ spline.design(grid).T
    tail = laplace.expanded_tail(settings.confidence, n_clusters=len(people), n_parameters=design.shape[1])
    low, high = np.quantile(medians, [tail, 1 - tail], axis=0)
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
    peak = peak_low = peak_high = np.nan
    if top in (0, len(grid) - 1):
        remarks.append(f"no peak: largest at the {'youngest' if top == 0 else 'oldest'} age")
    else:
        # Not the replicates' own peaks: their percentiles missed a planted peak, sharper than a spline's, too often.
        as_large = grid[np.quantile(medians[:, [top]] - medians, tail, axis=0) <= 0]
        peak, peak_low, peak_high = grid[top], as_large.min(), as_large.max()
        if (peak_low, peak_high) == (grid[0], grid[-1]):
            remarks.append("no clear peak: its interval is all ages")
    summary |= {
        "knots": k,
        **straight(y, age, covariates=covariates, groups=groups, confidence=settings.confidence),
        "peak_age_years": peak,
        "peak_low_years": peak_low,
        "peak_high_years": peak_high,
        "icv_coefficient": model.effects.get("icv", np.nan),
        "male_minus_female_mm3": model.effects.get("sex", np.nan),
        "log_likelihood": laplace.log_likelihood(y, design @ fit.location[0], scale_basis @ fit.log_scale[0]),
        "note": "; ".join(remarks),
    }
    return StructureFit(summary, curve, model, age, model.corrected(used))


def straight(
    y: Array, age: Array, *, covariates: Array, groups: npt.NDArray[np.int64], confidence: float
) -> dict[str, float]:
    """Slope of the corrected volume on age with its interval and p (:func:`linear.fit`), and Pearson's r."""
    import numpy as np

    from . import linear

    line = linear.fit(y, age, covariates=covariates, groups=groups)
    low, high, p_value = linear.inference(line, confidence=confidence)
    return {
        "slope_mm3_per_year": line.slope,
        "slope_low_mm3_per_year": low,
        "slope_high_mm3_per_year": high,
        "pearson_r": float(np.corrcoef(line.corrected_mm3, age)[0, 1]),
        "p_value": p_value,
    }


def score(table: pd.DataFrame, model: Model) -> pd.DataFrame:
    """Where everybody's volume lies in the fitted distribution at their age.

    Parameters
    ----------
    table
        As :func:`fit_structure` takes it.
    model
        The fitted distribution.

    Returns
    -------
    The keys and :data:`SCORE_COLUMNS`, a row per volume: the corrected volume, its centile, and ``z``, the quantile of
    the standard normal distribution at that centile. Of an age or sex that the model has not seen, both are NaN and
    the note says so.
    """
    import numpy as np

    from . import cohort, laplace

    needed = [model.structure, *([cohort.ICV] if "icv" in model.effects else [])]
    used = table.dropna(subset=needed)
    age, corrected = used["age_years"].to_numpy(dtype=float), model.corrected(used)
    standardised = (corrected - model.median(age)) / model.scale(age)
    youngest, oldest = model.age_range_years
    notes = np.full(len(used), "", dtype=object)
    if model.sexes:
        notes[~used["male"].isin(model.sexes).to_numpy()] = "nobody of this sex in the reference"
    notes[(age < youngest) | (age > oldest)] = f"age outside the reference's {youngest:.3g} to {oldest:.3g} years"
    known = notes == ""
    keys = [key for key in cohort.KEYS if key in used]
    return used[keys].assign(
        structure=model.structure,
        age_years=age,
        corrected_mm3=corrected,
        centile=np.where(known, 100 * laplace.probability(standardised), np.nan),
        z=np.where(known, laplace.normal_score(standardised), np.nan),
        note=notes,
    )


def why_not(used: pd.DataFrame, structure: str, settings: Settings) -> str:
    """Why these rows cannot be fitted; empty if they can."""
    import numpy as np

    from . import cohort, linear

    volume, age = used[structure].to_numpy(dtype=float), used["age_years"].to_numpy(dtype=float)
    n_participants = used["participant_id"].nunique()
    if structure != cohort.ICV and cohort.ICV not in used:
        return "the table has no ICV to correct for"
    if n_participants < settings.minimum_participants:
        return f"{n_participants} participants, {settings.minimum_participants} are the least"
    if np.ptp(age) < settings.minimum_range_years:
        return f"ages span {np.ptp(age):.3g} years, {settings.minimum_range_years:g} are the least"
    if not np.median(np.abs(volume - np.median(volume))) > 0:
        return "more than half of the volumes are the same"
    covariates = covariates_of(used, structure)[1]
    if not linear.is_full_rank(np.column_stack([np.ones_like(age), age, covariates])):
        return "age, ICV and sex cannot be told apart"
    if linear.is_explained(volume, covariates):
        return "ICV and sex leave no scatter"
    return ""


def covariates_of(used: pd.DataFrame, structure: str) -> tuple[list[str], Array, float]:
    """What a structure is corrected for; a constant covariate is left out, and ICV for itself.

    Returns
    -------
    Names; columns, shape (n, names): ICV from its mean (mm³), sex from the mean of the sexes (−½ F, ½ M); and that
    mean ICV, NaN without it.
    """
    import numpy as np

    from . import cohort

    names: list[str] = []
    icv_mean_mm3 = np.nan
    if structure != cohort.ICV and np.ptp(used[cohort.ICV]) > 0:
        names.append("icv")
        icv_mean_mm3 = float(used[cohort.ICV].mean())
    if used["male"].notna().all() and used["male"].nunique() == 2:
        names.append("sex")
    return names, _covariates(used, names, icv_mean_mm3), icv_mean_mm3


def _covariates(table: pd.DataFrame, names: list[str], icv_mean_mm3: float) -> Array:
    import numpy as np

    from . import cohort

    columns = {
        "icv": lambda: table[cohort.ICV].to_numpy(dtype=float) - icv_mean_mm3,
        "sex": lambda: table["male"].to_numpy(dtype=float) - 0.5,
    }
    return np.column_stack([columns[name]() for name in names]) if names else np.empty((len(table), 0))


def draw(fits: dict[str, StructureFit], others: pd.DataFrame) -> Any:
    """Small multiples of the main structures: corrected volumes, centiles, median and its band.

    ``others`` are the rows that were scored only.
    """
    import numpy as np

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
        corrected = [fit.corrected_mm3]
        if len(others) and fit.model:
            corrected.append(fit.model.corrected(others))
            axis.scatter(others["age_years"], corrected[1] / 1000, s=9, color=figures.VERMILION, alpha=0.6,
                         linewidths=0, label="volume, scored only")  # fmt: skip
        axis.scatter(fit.age_years, fit.corrected_mm3 / 1000, s=9, color=figures.GREY, alpha=0.6,
                     linewidths=0, label="volume")  # fmt: skip
        for outer, inner in ((5, 95), (25, 75)):
            for centile in (outer, inner):
                axis.plot(age, curve[f"centile{centile}_mm3"] / 1000, color=figures.ORANGE, lw=0.8,
                          ls=":" if outer == 5 else "--",
                          label=f"centiles {outer}, {inner}" if centile == outer else None)  # fmt: skip
        axis.plot(age, curve["median_mm3"] / 1000, color=figures.BLUE, lw=1.6, label="median")
        axis.fill_between(age, curve["low_mm3"] / 1000, curve["high_mm3"] / 1000, color=figures.BLUE, alpha=0.3, lw=0,
                          label="its 95 % confidence")  # fmt: skip
        drawn = ["low_mm3", "high_mm3", *(f"centile{centile}_mm3" for centile in CENTILES)]
        shown = np.concatenate([*corrected, *(curve[name] for name in drawn)])
        bottom, top = np.nanmin(shown), np.nanmax(shown)
        margin = 0.05 * (top - bottom)
        axis.set_ylim((bottom - margin) / 1000, (top + margin) / 1000)
        axis.set_title(figures.readable(name), fontsize=9.5)
    figure.supxlabel("age (years)", fontsize=9)
    figure.supylabel("corrected volume (ml)", fontsize=9)
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=6, frameon=False, fontsize=8.5
    )
    return figure
