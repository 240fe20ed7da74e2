"""Cortical thickness: a linear model at every vertex of FreeSurfer's surface overlays, where a study has them.

Group (or any variable's) effect corrected for age and sex, as in Iglesias et al., NeuroImage 2021, figures 5 and 6 and
table 3, with the false discovery rate over the vertices of both hemispheres. The overlays must lie on one surface, such
as those that ``mris_preproc`` or ``mri_surf2surf`` leave on fsaverage. FreeSurfer itself is not needed.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from .voxelwise import Array

HEMISPHERES = ("lh", "rh")
#: Names by which overlays are found in folders: images of FreeSurfer, and its old format, which has no suffix.
SUFFIXES = (".mgh", ".mgz", ".thickness", ".area", ".curv")
MEAN_COLUMNS = ("participant_id", "hemisphere", "mean_thickness_mm", "n_vertices")
EFFECT_COLUMNS = (
    "hemisphere",
    "n_participants",
    "n_vertices_tested",
    "n_vertices_significant_fdr",
    "largest_t",
    "smallest_t",
    "mean_effect_mm",
    "mean_t",
    "mean_p",
)
ALPHA = 0.05
SOURCES = (
    "Iglesias et al., NeuroImage 2021, doi 10.1016/j.neuroimage.2021.118206 (figures 5, 6 and table 3)",
    "Benjamini & Hochberg, J. R. Stat. Soc. B 1995, doi 10.1111/j.2517-6161.1995.tb02031.x (false discovery rate)",
)


@dataclass(frozen=True)
class Design:
    """Who is compared, and what is corrected for.

    Attributes
    ----------
    participants
        Those with everything known, in the order of the rows.
    variable
        The contrast: 1 for the first and 0 for the second group, or the variable itself; shape (n,).
    covariates
        Shape (n, any number).
    told
        The contrast in words.
    groups
        The first and the second group; empty for a slope.
    """

    participants: list[str]
    variable: Array
    covariates: Array
    told: str
    groups: tuple[str, ...]


@dataclass(frozen=True)
class Effect:
    """Effect at every vertex of one hemisphere; NaN where not tested, shape (vertices,).

    Attributes
    ----------
    slope
        In the overlays' unit per unit of the variable.
    t, p
        Student's, p two-sided.
    freedom
        Degrees of freedom of t.
    """

    slope: Array
    t: Array
    p: Array
    freedom: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("overlays", nargs="+", type=Path, metavar="OVERLAY", help="lh.*/rh.* overlays on one surface "
                        "per hemisphere (.mgh, .mgz, or curv format): files, folders or quoted patterns")  # fmt: skip
    parser.add_argument("--participants", type=Path, required=True, metavar="TABLE.tsv",
                        help="participant_id, the contrast's column and those corrected for")  # fmt: skip
    parser.add_argument("--contrast", nargs="+", required=True, metavar="COLUMN [A B]",
                        help="a column and two of its values (A − B), or a column of numbers (slope)")  # fmt: skip
    parser.add_argument("--correct", nargs="*", default=["age_years", "sex"], metavar="COLUMN",
                        help="columns to correct for (default: age_years sex)")  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for maps, tables and figure")


def run(arguments: argparse.Namespace) -> None:
    """Write ``{lh,rh}.{t,p_fdr,effect}.mgh``, ``thickness_{means,effects}.tsv``, ``thickness.json`` and figure."""
    import numpy as np
    import pandas as pd

    from analysis import dictionary, tsv
    from synthsr import files

    from . import figures, imageset, univariate

    paths = imageset.find_images(arguments.overlays, SUFFIXES)
    sides = by_hemisphere(paths)
    tables = {side: read_overlays(found) for side, found in sides.items()}
    names = sorted({name for table in tables.values() for name in table})
    design, notes = read_design(arguments.participants, arguments.contrast, arguments.correct, names)
    effects, rows, means = {}, [], []
    for side, table in tables.items():
        used = [index for index, name in enumerate(design.participants) if name in table]
        if len(used) < len(design.participants):
            notes.append(f"{side}: {len(design.participants) - len(used)} participants without overlay left out.")
        values = np.stack([table[design.participants[index]] for index in used], axis=1)
        effect, row = fit(values, design.variable[used], design.covariates[used], side)
        effects[side] = effect
        rows.append({**row, "hemisphere": side, "n_participants": len(used)})
        means += [
            {"participant_id": name, "hemisphere": side, "mean_thickness_mm": float(_cortex_mean(overlay)),
             "n_vertices": int((overlay > 0).sum())}
            for name, overlay in table.items()
        ]  # fmt: skip
    p_fdr = univariate.false_discovery_rates(np.concatenate([effect.p for effect in effects.values()]))
    adjusted = dict(
        zip(effects, np.split(p_fdr, np.cumsum([len(effect.p) for effect in effects.values()])[:-1]), strict=True)
    )
    out: Path = arguments.out
    for row in rows:
        row["n_vertices_significant_fdr"] = int((adjusted[row["hemisphere"]] <= ALPHA).sum())
    for side, effect in effects.items():
        untested = ~np.isfinite(effect.t)
        if untested.any():
            notes.append(f"{side}: {int(untested.sum())} vertices with the same value in everybody not tested.")
        for name, values, background in (("t", effect.t, 0), ("p_fdr", adjusted[side], 1), ("effect", effect.slope, 0)):
            write_overlay(np.where(untested, background, values), out / f"{side}.{name}.mgh")
    mean_table = pd.DataFrame(means, columns=list(MEAN_COLUMNS))
    tsv.write(mean_table, out / "thickness_means.tsv")
    tsv.write(pd.DataFrame(rows, columns=list(EFFECT_COLUMNS)), out / "thickness_effects.tsv")
    figures.write(draw(effects, mean_table, design), out / "thickness.png")
    files.write_json(
        out / "thickness.json",
        {
            "analysis": "thickness",
            "contrast": design.told,
            "corrected_for": arguments.correct,
            "n_participants": len(design.participants),
            "notes": notes,
            "method": "Least squares at every vertex, Student's t, two-sided; false discovery rate over the tested "
            "vertices of all hemispheres given. Means are over vertices above zero, not weighted by area.",
            "sources": list(SOURCES),
            "columns": dictionary.of_folder("statistics/thickness"),
        },
    )
    print(f"thickness: {design.told}, {len(design.participants)} participants, {' and '.join(effects)} → {out}")
    for note in notes:
        print(f"  {note}")


def by_hemisphere(paths: list[Path]) -> dict[str, list[Path]]:
    """Sort overlays by the ``lh.`` or ``rh.`` that their names start with (or hold between dots).

    Raises
    ------
    DataError
        If a name has neither.
    """
    from analysis.errors import DataError

    sides: dict[str, list[Path]] = {side: [] for side in HEMISPHERES}
    for path in paths:
        side = next((side for side in HEMISPHERES if side in path.name.split(".")), None)
        if side is None:
            raise DataError(f"{path}: its name tells no hemisphere; overlays are named lh.… or rh.…")
        sides[side].append(path)
    return {side: found for side, found in sides.items() if found}


def read_overlays(paths: list[Path]) -> dict[str, Array]:
    """Read one hemisphere's overlays: participant → values in mm, shape (vertices,).

    Raises
    ------
    DataError
        If one cannot be read, holds NaN or infinity, is no overlay, or has another number of vertices than most.
    """
    import nibabel as nib
    import numpy as np

    from analysis.errors import DataError

    from . import imageset

    overlays: dict[str, Array] = {}
    for path, name in zip(paths, imageset.participants(paths), strict=True):
        try:
            if path.name.lower().endswith((".mgh", ".mgz")):
                image: Any = nib.load(path)
                values = np.asarray(image.dataobj, dtype=float)
            else:
                values = np.asarray(nib.freesurfer.read_morph_data(path), dtype=float)
        except Exception as error:  # a damaged file makes nibabel and zlib raise nearly anything
            raise DataError(f"{path}: cannot be read as a surface overlay ({error}); is it whole?") from error
        if values.size != max(values.shape):
            raise DataError(f"{path}: shape {values.shape} is not one value per vertex; give an overlay of one person")
        if not np.isfinite(values).all():
            raise DataError(
                f"{path}: {int((~np.isfinite(values)).sum())} vertices are NaN or infinite; repair or leave out"
            )
        overlays[name] = values.ravel()
    sizes = [len(values) for values in overlays.values()]
    most = max(set(sizes), key=sizes.count)
    for path, size in zip(paths, sizes, strict=True):
        if size != most:
            raise DataError(
                f"{path}: {size} vertices, where most overlays have {most}; resample all to one surface such as "
                "fsaverage (mri_surf2surf)"
            )
    return overlays


def read_design(path: Path, contrast: list[str], correct: list[str], names: list[str]) -> tuple[Design, list[str]]:
    """Read the contrast and what is corrected for; numbers stay numbers, other texts become indicators.

    Returns
    -------
    The design, of participants with an overlay and everything known, and notes on who is left out.

    Raises
    ------
    ConfigurationError
        If the contrast is not a column, alone or with two different values, or is itself corrected for.
    DataError
        If somebody has two rows, a group is empty, the variable is constant, or it cannot be told from the covariates.
    """
    import numpy as np

    from analysis import tsv
    from analysis.errors import ConfigurationError, DataError

    from . import coding, cohort, voxelwise

    column, groups = contrast[0], contrast[1:]
    if len(groups) not in (0, 2) or len(set(groups)) != len(groups) or column in correct:
        raise ConfigurationError(
            f"--contrast {' '.join(contrast)}: give a column, alone or with two different values, not one of --correct"
        )
    table = tsv.read(path, columns=("participant_id", column, *correct), numbers=() if groups else (column,))
    cohort.check_unique(table, ["participant_id"], path)
    table = table.set_index("participant_id").reindex(names)
    notes = []
    if groups:
        table[column] = table[column].str.strip()
    else:
        table[column] = coding.coded(table[column], path)[:, 0]
    unknown = ~table[column].isin(groups) if groups else table[column].isna()
    if unknown.any():
        what = "in neither group" if groups else f"without {column}"
        notes.append(f"{int(unknown.sum())} of {len(names)} participants {what} left out.")
    table = table[~unknown]
    for group in groups:
        if not (table[column] == group).any():
            raise DataError(f"{path}: {column} is {group} for none of the {len(names)} participants with an overlay")
    covariates = np.hstack([np.empty((len(table), 0)), *(coding.coded(table[name], path) for name in correct)])
    complete = np.isfinite(covariates).all(axis=1)
    if not complete.all():
        notes.append(f"{int((~complete).sum())} participants without {' or '.join(correct)} left out.")
    kept, covariates = table[complete], covariates[complete]
    variable = (kept[column] == groups[0] if groups else kept[column]).to_numpy().astype(np.float64)
    told = f"{column}: {groups[0]} − {groups[1]}" if groups else f"slope on {column}"
    if len(kept) < 3 or np.ptp(variable) == 0:
        raise DataError(
            f"{path}: {told} of {len(kept)} participants with everything known cannot be tested; "
            "give more people, or correct for less (--correct)"
        )
    basis = voxelwise.orthonormal(covariates)
    if len(kept) <= basis.shape[1] + 1:
        raise DataError(
            f"{path}: {len(kept)} participants are too few to correct for {', '.join(correct)}; "
            "correct for less (--correct)"
        )
    left = voxelwise.residuals(variable[None], basis)
    if not voxelwise.unit(left, before=variable[None]).any():
        raise DataError(f"{path}: {told} cannot be told from {', '.join(correct)}; correct for less (--correct)")
    return Design([str(name) for name in kept.index], variable, covariates, told, tuple(groups)), notes


def fit(values: Array, variable: Array, covariates: Array, side: str) -> tuple[Effect, dict[str, Any]]:
    """Fit every vertex, and the mean over vertices.

    Parameters
    ----------
    values
        Shape (vertices, participants).
    variable, covariates
        As in :class:`Design`.
    side
        For messages.

    Returns
    -------
    The effect per vertex, and a row of the table of effects.
    """
    import numpy as np

    from analysis.errors import DataError

    from . import voxelwise

    basis = voxelwise.orthonormal(covariates)
    freedom = len(variable) - basis.shape[1] - 1
    left = voxelwise.residuals(variable[None], basis)
    if freedom < 1 or not voxelwise.unit(left, before=variable[None]).any():
        raise DataError(
            f"{side}: too few participants have an overlay of this hemisphere ({len(variable)}); "
            "give more, or leave its overlays out"
        )
    tested = np.ptp(values, axis=1) > 0
    slope, t, p = (np.full(len(values), np.nan) for _ in range(3))
    r = voxelwise.correlations(values[tested], variable[None], basis)[:, 0]
    t[tested] = voxelwise.t_of(r, freedom)
    p[tested] = voxelwise.two_sided_t_p(t[tested], freedom)
    slope[tested] = values[tested] @ left[0] / (left[0] @ left[0])
    mean = np.array([_cortex_mean(column) for column in values.T])
    mean_r = voxelwise.correlations(mean[None], variable[None], basis)[:, 0]
    mean_t = voxelwise.t_of(mean_r, freedom)
    return Effect(slope, t, p, freedom), {
        "n_vertices_tested": int(tested.sum()),
        "largest_t": float(t[tested].max(initial=-np.inf)) if tested.any() else np.nan,
        "smallest_t": float(t[tested].min(initial=np.inf)) if tested.any() else np.nan,
        "mean_effect_mm": float(mean @ left[0] / (left[0] @ left[0])),
        "mean_t": float(mean_t[0]) if np.ptp(mean) > 0 else np.nan,
        "mean_p": float(voxelwise.two_sided_t_p(mean_t, freedom)[0]) if np.ptp(mean) > 0 else np.nan,
    }


def _cortex_mean(overlay: Array) -> float:
    """Mean over vertices above zero (the medial wall is zero); NaN if there is none."""
    import numpy as np

    cortex = overlay[overlay > 0]
    return float(cortex.mean()) if len(cortex) else float(np.nan)


def write_overlay(values: Array, path: Path) -> None:
    """Write an overlay in FreeSurfer's format, float32, shape (vertices, 1, 1)."""
    import nibabel as nib
    import numpy as np

    from synthsr import files

    image = nib.MGHImage(values.astype(np.float32).reshape(-1, 1, 1), np.eye(4))
    with files.whole(path) as temporary:
        temporary.write_bytes(image.to_bytes())


def draw(effects: dict[str, Effect], means: pd.DataFrame, design: Design) -> Any:
    """Mean thickness against the contrast, and the distribution of t with that of no effect."""
    import numpy as np
    from scipy import stats

    from . import figures

    figure, axes = figures.panels(2 * len(effects), columns=2, width_inch=4.2)
    rng = np.random.default_rng(0)
    for row, (side, effect) in enumerate(effects.items()):
        left, right = axes[2 * row : 2 * row + 2]
        own = means[means["hemisphere"] == side].set_index("participant_id")["mean_thickness_mm"]
        aside = rng.uniform(-0.1, 0.1, len(design.variable)) if design.groups else 0
        left.scatter(design.variable + aside, own.reindex(design.participants), s=10, color=figures.BLUE, alpha=0.6,
                     linewidths=0)  # fmt: skip
        if design.groups:
            left.set_xticks([1, 0], list(design.groups))
            left.set_xlim(-0.6, 1.6)
        left.set_title(f"{side}: mean thickness (mm), {design.told}", fontsize=9)
        t = effect.t[np.isfinite(effect.t)]
        if len(t):
            right.hist(t, bins=60, density=True, color=figures.BLUE, alpha=0.5)
            grid = np.linspace(min(-4.0, float(t.min())), max(4.0, float(t.max())), 200)
            right.plot(grid, stats.t.pdf(grid, effect.freedom), color=figures.GREY, lw=1.2)
        right.set_title(f"{side}: t at {len(t):,} vertices (line: no effect)", fontsize=9)
    return figure
