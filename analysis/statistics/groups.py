"""Two groups of people, such as controls and Alzheimer's: normality, medians, rank sum, AUROC, corrected effect size.

Of several methods that measured the same people, such as real and synthetic T1s, every number is of the people that
all of them measured, and their AUROCs and volumes are held against each other. Sources: Iglesias et al., Science
Advances 2023, figure 3 (Shapiro–Wilk, medians, Wilcoxon rank sum, AUROC), and NeuroImage 2021, table 2 (effect size
corrected for sex, ICV and age; its form is not stated there).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from .laplace import Array

COLUMNS = (
    "structure",
    "method",
    "group",
    "other_group",
    "n",
    "other_n",
    "shapiro_p",
    "other_shapiro_p",
    "median_mm3",
    "other_median_mm3",
    "difference_mm3",
    "difference_low_mm3",
    "difference_high_mm3",
    "shift_mm3",
    "shift_low_mm3",
    "shift_high_mm3",
    "rank_sum_p",
    "rank_sum_fdr",
    "auroc",
    "auroc_error",
    "auroc_low",
    "auroc_high",
    "auroc_p",
    "n_corrected",
    "effect_size",
    "effect_low",
    "effect_high",
    "effect_p",
    "effect_fdr",
    "note",
)
METHODS_COLUMNS = (
    "structure",
    "method",
    "other_method",
    "n",
    "other_n",
    "pearson_r",
    "pearson_low",
    "pearson_high",
    "auroc",
    "other_auroc",
    "auroc_difference",
    "difference_low",
    "difference_high",
    "p_value",
    "fdr",
    "note",
)
#: Fewer people in a group give a documented NA.
MINIMUM_PER_GROUP = 3
#: Residuals below this fraction of the range are rounding.
LEAST_RESIDUAL = 1e-9
SOURCES = (
    "Iglesias et al., Science Advances 2023, doi 10.1126/sciadv.add3607 (figure 3)",
    "Iglesias et al., NeuroImage 2021, doi 10.1016/j.neuroimage.2021.118206 (table 2)",
    "DeLong et al., Biometrics 1988, doi 10.2307/2531595 (variance and comparison of AUROCs)",
    "Sun & Xu, IEEE Signal Process. Lett. 2014, doi 10.1109/LSP.2014.2337313 (the same from midranks)",
    "Brunner & Munzel, Biom. J. 2000 (its test against one half, with Student's t)",
    "Hodges & Lehmann, Ann. Math. Stat. 1963 (shift); Benjamini & Hochberg, J. R. Stat. Soc. B 1995 (false discovery)",
)
METHOD = (
    "One value per participant: the median over scans or sessions of the volume and of age; of several methods only "
    "people that all of them measured. Differences are the first group minus the other. Interval of the difference of "
    "medians: percentiles of a bootstrap within groups. Shift: Hodges–Lehmann, its interval the rank sum's (normal "
    "approximation). Rank sum: two-sided; exact where a group has at most 8 people and no volumes are equal, else "
    "normal with corrections for ties and continuity. AUROC: probability that a random member of the first group has "
    "the larger volume, so under one half where the other group's are larger; DeLong's error, interval normal on the "
    "logit scale; p against one half, and of the difference of two methods on the same people, by Student's t with "
    "Satterthwaite's degrees of freedom. Effect size: Cohen's d, the group's coefficient in a least-squares fit of the "
    "volume on group, sex, age and ICV (ICV itself on group, sex and age) over the fit's residual standard deviation, "
    "without small-sample correction, for people of whom all are known; interval by the noncentral t distribution. "
    "False discovery rates: Benjamini–Hochberg over the structures of a method."
)


@dataclass(frozen=True)
class Settings:
    """How groups are compared.

    Attributes
    ----------
    replicates
        Bootstrap replicates behind the interval of the difference of medians.
    seed
        Seed of the bootstrap.
    confidence
        Coverage of all intervals.
    """

    replicates: int = 2000
    seed: int = 0
    confidence: float = 0.95


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("volumes", nargs="+", metavar="[NAME=]VOLUMES.tsv",
                        help="participant_id, session_id, [scan_id], structure, volume_mm3; ICV is a structure. "
                        "Several tables are several methods, each named by its file or NAME")  # fmt: skip
    parser.add_argument("--participants", type=Path, required=True, metavar="TABLE.tsv",
                        help="participant_id, [session_id], age_years, sex (M or F), [diagnosis]")  # fmt: skip
    parser.add_argument("--diagnoses", type=Path, metavar="TABLE.tsv",
                        help="diagnosis by participant_id, [session_id], instead of the column of --participants; "
                        "or by study_uid or patient_id")  # fmt: skip
    parser.add_argument("--links", type=Path, metavar="TABLE.tsv", help="participant_id, session_id, study_uid, "
                        "patient_id, for diagnoses known by one of the latter two")  # fmt: skip
    parser.add_argument("--groups", nargs=2, required=True, metavar=("GROUP", "OTHER"),
                        help="two diagnoses, as they are written; differences are GROUP minus OTHER")  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for tables, JSON and figure")
    parser.add_argument("--replicates", type=int, default=Settings.replicates,
                        help="bootstrap replicates of the difference of medians (default %(default)s)")  # fmt: skip
    parser.add_argument("--seed", type=int, default=Settings.seed, help="seed of the bootstrap (default %(default)s)")


def run(arguments: argparse.Namespace) -> None:
    """Compare and write ``groups.tsv``, ``groups.json``, ``groups.png``; of several methods ``groups_methods.tsv``."""
    import pandas as pd

    from analysis import dictionary, tsv
    from analysis.errors import ConfigurationError
    from synthsr import files

    from . import cohort, figures

    levels = tuple(arguments.groups)
    if levels[0] == levels[1] or arguments.replicates < 100:
        raise ConfigurationError("--groups must be two different ones, --replicates 100 or more")
    settings = Settings(replicates=arguments.replicates, seed=arguments.seed)
    volumes = {name: cohort.read_volumes(path) for name, path in named_paths(arguments.volumes).items()}
    people = read_groups(arguments.participants, arguments.diagnoses, arguments.links)
    if any(len(table) for table in volumes.values()):
        check_levels(people, levels, arguments.diagnoses or arguments.participants)
    tables, notes = {}, []
    for name, table in volumes.items():
        tables[name], found = by_person(table, people, levels)
        notes += [note if len(volumes) == 1 else f"{name}: {note}" for note in found]
    first = next(iter(volumes.values()))
    common = [name for name in cohort.structures(first) if all(name in table for table in volumes.values())]
    if not common:
        notes.append("There are no volumes." if not len(first) else "The methods have no structure in common.")
    rows, pairs = compare(tables, common, levels, settings)
    out: Path = arguments.out
    tsv.write(pd.DataFrame(rows, columns=list(COLUMNS)), out / "groups.tsv")
    if len(tables) > 1:
        tsv.write(pd.DataFrame(pairs, columns=list(METHODS_COLUMNS)), out / "groups_methods.tsv")
    figures.write(draw(tables, common, levels, rows), out / "groups.png")
    people_used = {person for table in tables.values() for person, _ in table.index}
    files.write_json(
        out / "groups.json",
        {
            "analysis": "groups",
            "groups": list(levels),
            "methods": list(tables),
            "settings": asdict(settings),
            "n_participants": len(people_used),
            "notes": notes,
            "method": METHOD,
            "sources": list(SOURCES),
            "columns": dictionary.of_folder("statistics/groups"),
        },
    )
    compared = sum(1 for row in rows if row["auroc"] == row["auroc"])
    print(f"groups: {compared} of {len(rows)} comparisons of {levels[0]} and {levels[1]}, "
          f"{len(people_used)} participants → {out}")  # fmt: skip
    for note in notes:
        print(f"  {note}")


def named_paths(texts: Sequence[str]) -> dict[str, Path]:
    """``NAME=PATH`` or ``PATH``, which is named by its file.

    Raises
    ------
    ConfigurationError
        If two have the same name.
    """
    from analysis.errors import ConfigurationError

    paths: dict[str, Path] = {}
    for text in texts:
        given, equals, after = text.partition("=")
        is_named = bool(equals) and "/" not in given
        path = Path(after if is_named else text)
        name = given if is_named else path.stem
        if name in paths:
            raise ConfigurationError(f"two methods are called {name!r}; give one of them as NAME={path}")
        paths[name] = path
    return paths


def read_groups(participants: Path, diagnoses: Path | None, links: Path | None) -> pd.DataFrame:
    """People with their diagnoses, from one table or two.

    Raises
    ------
    DataError
        If neither table has diagnoses.
    """
    from analysis.errors import DataError

    from . import cohort

    people = cohort.read_people(participants)
    if diagnoses is not None:
        known = cohort.read_keyed(diagnoses, columns=("diagnosis",), links=links)
        known["diagnosis"] = known["diagnosis"].str.strip()
        keys = [key for key in cohort.KEYS[:2] if key in known and key in people]
        return people.drop(columns="diagnosis", errors="ignore").merge(known, on=keys, how="left")
    if "diagnosis" not in people:
        raise DataError(
            f"{participants}: lacks the column diagnosis; add it, or give a table of its own by --diagnoses"
        )
    return people


def check_levels(people: pd.DataFrame, levels: Sequence[str], path: Path) -> None:
    """Raise :class:`DataError` if nobody at all has one of the diagnoses: it is misspelt."""
    from analysis import tsv
    from analysis.errors import DataError

    found = sorted(set(people["diagnosis"].dropna()) - {"", tsv.MISSING})
    for level in levels:
        if level not in found:
            listed = ", ".join(found[:10]) + (" …" if len(found) > 10 else "")
            raise DataError(
                f"{path}: nobody of the study has the diagnosis {level!r}; there are: {listed or 'none'}. "
                "Give two of them to --groups"
            )


def by_person(volumes: pd.DataFrame, people: pd.DataFrame, levels: Sequence[str]) -> tuple[pd.DataFrame, list[str]]:
    """One row per participant of the two groups.

    Returns
    -------
    Medians of volumes, age and sex, indexed by participant and diagnosis, and a note for everything left out.
    """
    from . import cohort

    keys = [key for key in cohort.KEYS[:2] if key in people]
    table = volumes.merge(people, on=keys, how="left", validate="many_to_one")
    inside = table["diagnosis"].isin(levels)
    notes = []
    if not inside.all():
        notes.append(f"{cohort.counted((~inside).sum())} whose diagnosis is not {levels[0]} or {levels[1]} left out.")
    table = table[inside]
    changed = table.groupby("participant_id")["diagnosis"].transform("nunique") > 1
    if changed.any():
        names = table.loc[changed, "participant_id"].nunique()
        notes.append(f"{names} with both diagnoses, at different sessions, left out.")
    return cohort.per_participant(table[~changed], ("participant_id", "diagnosis")), notes


def compare(
    tables: dict[str, pd.DataFrame], structures: Sequence[str], levels: Sequence[str], settings: Settings
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of both tables: a structure and method each, a structure and two methods each.

    Parameters
    ----------
    tables
        Of each method, volumes (mm³), ``age_years`` and ``male``, indexed by participant and diagnosis.
    structures
        Columns to compare; all tables have them.
    levels
        The two diagnoses.
    settings
        Bootstrap and coverage.
    """
    from . import univariate

    rows, pairs = [], []
    for structure in structures:
        used = measured_by_all(tables, structure)
        for name, table in used.items():
            row = compare_groups(table, structure, levels, settings)
            left_out = int(tables[name][structure].notna().sum()) - len(table)
            remark = f"{left_out} not measured by all methods left out" if left_out else ""
            row["note"] = "; ".join(text for text in (row["note"], remark) if text)
            rows.append(row | {"method": name})
        pairs += [compare_methods(used, structure, pair, levels, settings) for pair in combinations(tables, 2)]
    for found, names, adjusted in (
        (rows, ("method",), {"rank_sum_p": "rank_sum_fdr", "effect_p": "effect_fdr"}),
        (pairs, ("method", "other_method"), {"p_value": "fdr"}),
    ):
        for family in {tuple(row[name] for name in names) for row in found}:
            members = [row for row in found if tuple(row[name] for name in names) == family]
            for p_value, column in adjusted.items():
                rates = univariate.false_discovery_rates([row[p_value] for row in members])
                for row, rate in zip(members, rates, strict=True):
                    row[column] = float(rate)
    return rows, pairs


def measured_by_all(tables: dict[str, pd.DataFrame], structure: str) -> dict[str, pd.DataFrame]:
    """Of each method's table the people whose volume all methods have, in one order."""
    measured = {name: table.dropna(subset=[structure]) for name, table in tables.items()}
    shared = next(iter(measured.values())).index
    for table in measured.values():
        shared = shared.intersection(table.index)
    return {name: table.loc[shared] for name, table in measured.items()}


def compare_groups(table: pd.DataFrame, structure: str, levels: Sequence[str], settings: Settings) -> dict[str, Any]:
    """Row of one structure, without method; ``table`` as in :func:`compare`, every volume known."""
    import numpy as np
    from scipy import stats

    from . import roc, univariate

    first, second = values_by_group(table, structure, levels)
    row: dict[str, Any] = {
        **dict.fromkeys(COLUMNS, np.nan),
        "structure": structure,
        "group": levels[0],
        "other_group": levels[1],
        "n": len(first),
        "other_n": len(second),
        "note": _why_not(first, second, levels),
    }
    if row["note"]:
        return row
    low, high = univariate.median_difference_interval(first, second, **asdict(settings))
    shift, shift_low, shift_high = univariate.hodges_lehmann(first, second, confidence=settings.confidence)
    auroc = roc.area(first, second)
    auroc_low, auroc_high = auroc.logit_interval(settings.confidence)
    effect, note = corrected_effect(table, structure, levels, confidence=settings.confidence)
    notes = [note] if note else []
    if not auroc.error > 0:
        notes.append("no interval of the AUROC: the groups do not overlap")
    return row | {
        "shapiro_p": univariate.shapiro_p(first),
        "other_shapiro_p": univariate.shapiro_p(second),
        "median_mm3": float(np.median(first)),
        "other_median_mm3": float(np.median(second)),
        "difference_mm3": float(np.median(first) - np.median(second)),
        "difference_low_mm3": low,
        "difference_high_mm3": high,
        "shift_mm3": shift,
        "shift_low_mm3": shift_low,
        "shift_high_mm3": shift_high,
        "rank_sum_p": float(stats.mannwhitneyu(first, second).pvalue),
        "auroc": auroc.value,
        "auroc_error": auroc.error if auroc.error > 0 else np.nan,
        "auroc_low": auroc_low,
        "auroc_high": auroc_high,
        "auroc_p": auroc.p_value(0.5),
        **effect,
        "note": "; ".join(notes),
    }


def compare_methods(
    used: dict[str, pd.DataFrame], structure: str, methods: Sequence[str], levels: Sequence[str], settings: Settings
) -> dict[str, Any]:
    """Row of one structure and two methods, whose tables have the same people in the same order."""
    import numpy as np

    from . import roc, univariate

    mine, other = (values_by_group(used[name], structure, levels) for name in methods)
    row: dict[str, Any] = {
        **dict.fromkeys(METHODS_COLUMNS, np.nan),
        "structure": structure,
        "method": methods[0],
        "other_method": methods[1],
        "n": len(mine[0]),
        "other_n": len(mine[1]),
        "note": _why_not(*mine, levels) or _why_not(*other, levels),
    }
    if row["note"]:
        return row
    gap = roc.difference(mine, other)
    low, high = gap.interval(settings.confidence)
    r, r_low, r_high, _ = univariate.pearson(*(np.concatenate(both) for both in (mine, other)),
                                             confidence=settings.confidence)  # fmt: skip
    return row | {
        "pearson_r": r,
        "pearson_low": r_low,
        "pearson_high": r_high,
        "auroc": roc.area(*mine).value,
        "other_auroc": roc.area(*other).value,
        "auroc_difference": gap.value,
        "difference_low": low,
        "difference_high": high,
        "p_value": gap.p_value(0),
        "note": "" if gap.error > 0 else "not tested: the difference of the AUROCs has no scatter",
    }


def values_by_group(table: pd.DataFrame, structure: str, levels: Sequence[str]) -> tuple[Array, Array]:
    """Volumes (mm³) of both groups, in the table's order."""
    diagnosis, volume = table.index.get_level_values("diagnosis"), table[structure].to_numpy(dtype=float)
    return volume[diagnosis == levels[0]], volume[diagnosis == levels[1]]


def _why_not(first: Array, second: Array, levels: Sequence[str]) -> str:
    """Why two groups cannot be compared; empty if they can."""
    if min(len(first), len(second)) < MINIMUM_PER_GROUP:
        found = f"{len(first)} {levels[0]} and {len(second)} {levels[1]}"
        return f"not compared: {found}, {MINIMUM_PER_GROUP} of each are the least"
    if first.min() == first.max() == second.min() == second.max():
        return "not compared: all volumes are the same"
    return ""


def corrected_effect(
    table: pd.DataFrame, structure: str, levels: Sequence[str], *, confidence: float = 0.95
) -> tuple[dict[str, float], str]:
    r"""Cohen's d of the group in a linear model with sex, age and ICV, or the reason why there is none.

    :math:`d = \hat\beta_g / \hat\sigma` of :math:`v = \beta_0 + \beta_g g + \beta_1 sex + \beta_2 age + \beta_3 ICV +
    \epsilon`, g = 1 in the first group, 0 in the other. Without covariates it is the difference of means over the
    pooled standard deviation. As :math:`t = d / \sqrt{c}` with :math:`c = [(X^\top X)^{-1}]_{gg}` is noncentral t with
    noncentrality :math:`\delta / \sqrt{c}`, so is its interval (Steiger & Fouladi 1997). A covariate that is the same
    for everybody is left out.
    """
    import numpy as np
    from scipy import special, stats

    from . import cohort, linear

    names = ["age_years", "male", *([cohort.ICV] if structure != cohort.ICV else [])]
    if any(name not in table for name in names):
        return {}, "no effect size: the table has no ICV to correct for"
    used = table.dropna(subset=names)
    in_first = (used.index.get_level_values("diagnosis") == levels[0]).astype(float)
    counts = int(in_first.sum()), int(len(used) - in_first.sum())
    found: dict[str, float] = {"n_corrected": len(used)}
    if min(counts) < MINIMUM_PER_GROUP:
        return found, (
            f"no effect size: age, sex and ICV are known of {counts[0]} {levels[0]} and {counts[1]} {levels[1]}"
        )
    covariates = used[[name for name in names if used[name].nunique() > 1]].to_numpy(dtype=float)
    standardised = (covariates - covariates.mean(axis=0)) / covariates.std(axis=0)
    design = np.column_stack([in_first, np.ones(len(used)), standardised])
    freedom = len(used) - design.shape[1]
    if freedom < 1 or not linear.is_full_rank(design):
        return found, "no effect size: group, age, sex and ICV cannot be told apart"
    volume = used[structure].to_numpy(dtype=float)
    coefficients = np.linalg.lstsq(design, volume, rcond=None)[0]
    scatter = float(np.sqrt(np.sum((volume - design @ coefficients) ** 2) / freedom))
    if scatter <= LEAST_RESIDUAL * np.ptp(volume):
        return found, "no effect size: group, age, sex and ICV leave no scatter"
    unit = float(np.sqrt(np.linalg.inv(design.T @ design)[0, 0]))
    effect = float(coefficients[0]) / scatter
    tail = (1 - confidence) / 2
    low, high = unit * special.nctdtrinc(freedom, [1 - tail, tail], effect / unit)
    return found | {
        "effect_size": effect,
        "effect_low": float(low),
        "effect_high": float(high),
        "effect_p": float(2 * stats.t.sf(abs(effect / unit), freedom)),
    }, ""


def draw(
    tables: dict[str, pd.DataFrame], structures: Sequence[str], levels: Sequence[str], rows: list[dict[str, Any]]
) -> Any:
    """Small multiples of the main structures: everybody's volume, boxes of both groups, side by side per method."""
    import numpy as np

    from . import figures

    found = {(row["structure"], row["method"]): row for row in rows}
    compared = [name for name in structures if any(found[name, m]["auroc"] == found[name, m]["auroc"] for m in tables)]
    if not compared:
        reasons = sorted({row["note"] for row in rows})
        return figures.saying("No comparison of groups: " + ("; ".join(reasons[:2]) if reasons else "no volumes."))
    names = figures.main_structures(compared)
    many = len(tables) > 3
    figure, axes = figures.panels(len(names), columns=2 if many else 4, width_inch=2.6 + 0.7 * (len(tables) - 1),
                                  height_inch=3.0 if many else 2.3)  # fmt: skip
    rng = np.random.default_rng(0)
    colours = (figures.BLUE, figures.VERMILION)
    for axis, name in zip(axes, names, strict=True):
        for place, table in enumerate(measured_by_all(tables, name).values()):
            for side, (group, colour) in enumerate(zip(levels, colours, strict=True)):
                values = values_by_group(table, name, levels)[side] / 1000
                middle = place + 0.4 * side - 0.2
                axis.scatter(middle + rng.uniform(-0.1, 0.1, len(values)), values, s=7, color=colour, alpha=0.45,
                             linewidths=0, label=group if place == 0 else None)  # fmt: skip
                line = {"color": colour, "lw": 0.9}
                axis.boxplot(values, positions=[middle], widths=0.3, showfliers=False, manage_ticks=False,
                             boxprops=line, whiskerprops=line, capprops=line,
                             medianprops=line | {"lw": 2.2})  # fmt: skip
        ticks = [f"{method}\nAUROC {found[name, method]['auroc']:.2f}" for method in tables]
        axis.set_xticks(range(len(tables)), ticks, fontsize=8, **figures.slanted(many))
        axis.set_xlim(-0.5, len(tables) - 0.5)
        axis.set_title(figures.readable(name), fontsize=9.5)
    figure.supxlabel(f"AUROC: probability that {levels[0]} has the larger volume", fontsize=9)
    figure.supylabel("volume (ml)", fontsize=9)
    legend = figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False, fontsize=8.5
    )
    for handle in filter(None, legend.legend_handles):
        handle.set(alpha=1, sizes=[24])
    return figure
