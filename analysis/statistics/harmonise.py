"""Site harmonisation: differences between scanners or hospitals taken out of a table of volumes (ComBat).

Johnson et al., Biostatistics 2007; Fortin et al., NeuroImage 2018. Every structure counts as a measure of its own, left
and right apart, ICV among them; the result is a table of the same long form, which every statistic can take.

What is kept but unevenly spread over sites, as where one hospital sends most of the patients, is found too often
afterwards (Nygaard, Rødland & Hovig, Biostatistics 2016); ``benchmarks/null_voxelwise.py`` has the numbers.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from .combat import Harmonised
    from .voxelwise import Array

SITE_COLUMNS = ("structure", "site", "n_rows", "n_participants", "shift_mm3", "scale", "note")
SOURCES = (
    "Johnson, Li & Rabinovic, Biostatistics 2007, doi 10.1093/biostatistics/kxj037 (ComBat)",
    "Fortin et al., NeuroImage 2018, doi 10.1016/j.neuroimage.2017.11.024 (for cortical thickness and volumes)",
    "Nygaard, Rødland & Hovig, Biostatistics 2016, doi 10.1093/biostatistics/kxv027 (groups unbalanced over sites)",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("volumes", type=Path, metavar="VOLUMES.tsv",
                        help="participant_id, session_id, [scan_id], structure, volume_mm3")  # fmt: skip
    parser.add_argument("--participants", type=Path, required=True, metavar="TABLE.tsv",
                        help="participant_id, [session_id], the site, and what is kept if not in VOLUMES")  # fmt: skip
    parser.add_argument("--links", type=Path, metavar="TABLE.tsv", help="participant_id, session_id, study_uid or "
                        "patient_id, where --participants is known by those")  # fmt: skip
    parser.add_argument("--site", required=True, metavar="COLUMN", help="column that names scanner or hospital")
    parser.add_argument("--keep", nargs="*", default=["age_years", "sex"], metavar="COLUMN",
                        help="columns whose effects must survive (default: age_years sex); name what is to be "
                        "compared afterwards, such as diagnosis")  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for tables, JSON and figure")


def run(arguments: argparse.Namespace) -> None:
    """Write ``volumes.tsv`` (harmonised), ``harmonise_sites.tsv``, ``harmonise.json`` and ``harmonise.png``."""
    import numpy as np
    import pandas as pd

    from analysis import dictionary, tsv
    from analysis.errors import DataError
    from synthsr import files

    from . import cohort, combat, figures

    wide = cohort.read_sided_volumes(arguments.volumes)
    structures = cohort.structures(wide)
    table, site, covariates, notes = read_sites(arguments, wide)
    names, number = np.unique(site, return_inverse=True)
    values = table[structures].to_numpy(dtype=float)
    try:
        found = combat.harmonise(values, number, covariates)
    except ValueError as error:
        raise DataError(
            f"{arguments.participants}: {arguments.site} and {', '.join(arguments.keep)} cannot be told apart, as when "
            "a site has only patients, or one sex; keep less (--keep), or leave out that site"
        ) from error
    notes += remarks(values, found, structures)

    keys = [key for key in cohort.KEYS if key in table]
    harmonised = pd.DataFrame(found.values, columns=structures, index=pd.MultiIndex.from_frame(table[keys]))
    long = tsv.read(arguments.volumes)
    own = pd.MultiIndex.from_frame(long[keys])
    rows, columns = harmonised.index.get_indexer(own), pd.Index(structures).get_indexer(pd.Index(long["structure"]))
    long["volume_mm3"] = np.where(rows >= 0, found.values[rows, columns], np.nan)
    out: Path = arguments.out
    tsv.write(long[rows >= 0], out / "volumes.tsv")
    tsv.write(list_sites(table, structures, names, number, found), out / "harmonise_sites.tsv")
    figures.write(draw(values, found.values, names, number, arguments.site), out / "harmonise.png")
    sizes = {str(name): int((number == index).sum()) for index, name in enumerate(names)}
    files.write_json(
        out / "harmonise.json",
        {
            "analysis": "harmonise",
            "site": arguments.site,
            "kept": arguments.keep,
            "rows_per_site": sizes,
            "n_rows_given": len(wide),
            "n_rows": len(table),
            "n_participants": int(table["participant_id"].nunique()),
            "n_structures": len(structures),
            "notes": notes,
            "method": "ComBat with empirical Bayes over structures (parametric priors): shift and scale per site and "
            "structure, linear effects of the kept columns preserved; rows count as independent. Tests of a kept "
            "column that is unevenly spread over sites reject too often afterwards.",
            "sources": list(SOURCES),
            "columns": dictionary.of_folder("statistics/harmonise"),
        },
    )
    print(f"harmonise: {len(structures)} structures, {len(table)} rows, {len(names)} sites → {out}")
    for note in notes:
        print(f"  {note}")


def read_sites(arguments: argparse.Namespace, wide: pd.DataFrame) -> tuple[pd.DataFrame, Any, Array, list[str]]:
    """Join volumes with sites and what is kept.

    Returns
    -------
    The rows of ``wide`` that can be harmonised, their sites, the kept columns as numbers (rows, any number), and notes
    on what is left out.

    Raises
    ------
    DataError
        If a column is in neither table, somebody has two rows, or fewer than two sites are left.
    """
    import numpy as np

    from analysis import tsv
    from analysis.errors import ConfigurationError, DataError

    from . import coding, cohort, combat

    path, column = arguments.participants, arguments.site
    if column in arguments.keep:
        raise ConfigurationError(f"--keep {column}: is the site, which is to be taken out")
    given = tsv.read(path, columns=(column,))
    long = tsv.read(arguments.volumes)
    theirs = [name for name in arguments.keep if name in given]
    ours = [name for name in arguments.keep if name not in given]
    lacking = [name for name in ours if name not in long]
    if lacking:
        raise DataError(
            f"{path}: lacks the column {', '.join(lacking)}, and so does {arguments.volumes}; name others with --keep"
        )
    people = cohort.read_keyed(path, columns=(column, *theirs), links=arguments.links)
    keys = [key for key in cohort.KEYS if key in wide]
    table = wide.merge(long[[*keys, *ours]].drop_duplicates(keys), on=keys, how="left", validate="one_to_one")
    table = table.merge(
        people, on=[key for key in cohort.KEYS[:2] if key in people], how="left", validate="many_to_one"
    )
    site = table[column].fillna("").str.strip()
    notes = []
    known = (site != "") & ~site.str.fullmatch(tsv.UNKNOWN, case=False)
    if not known.all():
        notes.append(f"{cohort.counted(int((~known).sum()))} without {column} left out.")
    table, site = table[known].reset_index(drop=True), site[known].reset_index(drop=True)
    columns = [coding.coded(table[name], path if name in theirs else arguments.volumes) for name in arguments.keep]
    covariates = np.hstack([np.empty((len(table), 0)), *columns])
    complete = np.isfinite(covariates).all(axis=1)
    if not complete.all():
        notes.append(f"{cohort.counted(int((~complete).sum()))} without {' or '.join(arguments.keep)} left out.")
    table, site, covariates = table[complete].reset_index(drop=True), site[complete].to_numpy(), covariates[complete]
    people_per_site = table.groupby(site)["participant_id"].nunique()
    small = sorted(people_per_site.index[people_per_site < combat.MINIMUM_PER_SITE])
    if small:
        rows = int(np.isin(site, small).sum())
        notes.append(
            f"{cohort.counted(rows)} left out, of sites with one participant, as these cannot be told from their "
            f"participant: {', '.join(small)}."
        )
        keep = ~np.isin(site, small)
        table, site, covariates = table[keep].reset_index(drop=True), site[keep], covariates[keep]
    if len(set(site)) < 2:
        raise DataError(
            f"{path}: {column} leaves {len(set(site))} site with {combat.MINIMUM_PER_SITE} or more participants whose "
            f"volumes and {', '.join(arguments.keep) or 'sites'} are known; nothing to harmonise"
        )
    repeated = len(table) - int(table["participant_id"].nunique())
    if repeated:
        notes.append(
            f"{cohort.counted(repeated)} more than participants: ComBat takes repeated scans for independent ones."
        )
    return table, site, covariates, notes


def remarks(values: Array, found: Harmonised, structures: list[str]) -> list[str]:
    """Notes on structures that were left alone, values that were lost, and those that became negative."""
    import numpy as np

    notes = []
    constant = [name for name, untouched in zip(structures, found.untouched, strict=True) if untouched]
    if constant:
        notes.append(f"Left as they are, since they do not vary within sites: {', '.join(constant)}.")
    lost = int((np.isfinite(values) & ~np.isfinite(found.values)).sum())
    if lost:
        notes.append(f"{lost} volumes are n/a now: too few values of the structure, at their site or altogether.")
    negative = int((found.values < 0).sum())
    if negative:
        notes.append(f"{negative} volumes are negative now, which the statistics take for missing.")
    return notes


def list_sites(table: pd.DataFrame, structures: list[str], names: Any, number: Any, found: Harmonised) -> pd.DataFrame:
    """What was taken out: a row per structure and site."""
    import numpy as np
    import pandas as pd

    rows = []
    for place, structure in enumerate(structures):
        for index, name in enumerate(names):
            here = table[number == index].dropna(subset=[structure])
            estimated = bool(np.isfinite(found.shift[index, place]))
            note = "" if estimated else "left as it is" if found.untouched[place] else "too few values at this site"
            rows.append((structure, name, len(here), here["participant_id"].nunique(), found.shift[index, place],
                         found.scale[index, place], note))  # fmt: skip
    return pd.DataFrame(rows, columns=list(SITE_COLUMNS))


def draw(before: Array, after: Array, names: Any, number: Any, column: str) -> Any:
    """Sites' mean of every structure, in standard deviations of all rows, before and after."""
    import numpy as np

    from . import figures

    figure, axes = figures.panels(2, columns=2, width_inch=max(3.0, 0.5 * len(names)), height_inch=3.0)
    rng = np.random.default_rng(0)
    for axis, values, title in zip(axes, (before, after), ("as measured", "harmonised"), strict=True):
        known = np.isfinite(after)
        values = np.where(known, values, np.nan)
        usable = known.sum(axis=0) > 1
        values = values[:, usable]
        spread = np.nanstd(values, axis=0)
        scores = (values - np.nanmean(values, axis=0)) / np.where(spread > 0, spread, 1)
        for index in range(len(names)):
            rows = scores[number == index]
            measured = np.isfinite(rows).any(axis=0)
            means = np.nanmean(rows[:, measured], axis=0)
            axis.scatter(index + 0.08 * rng.standard_normal(len(means)), means, s=9, color=figures.BLUE, alpha=0.6,
                         linewidths=0)  # fmt: skip
        labels = [str(name) for name in names]
        axis.set_xticks(range(len(names)), labels, fontsize=8, **figures.slanted(len(names) > 4))
        axis.set_title(title, fontsize=9.5)
        axis.axhline(0, color=figures.GREY, lw=0.8)
    axes[1].set_ylim(axes[0].get_ylim())
    axes[0].set_ylabel("mean of a structure (SD)", fontsize=9)
    figure.supxlabel(column, fontsize=9)
    return figure
