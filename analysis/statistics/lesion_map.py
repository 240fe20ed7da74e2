"""Lesion masks on one grid: where lesions are, how large on each side, and what score goes with them.

Counts and probabilities per voxel, per class of lesion and per region of an atlas, with their maxima, as in Iglesias et
al., Science Advances 2023, figures 5 and 6; volumes on either side, which `asymmetry` reads; and lesion–symptom mapping
(Bates et al., Nature Neuroscience 2003; Rorden, Karnath & Bonilha, J. Cogn. Neurosci. 2007): at every voxel, whether a
score differs between those with and without a lesion there.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from synthsr.preprocess import Grid

    from .lesion_symptom import SymptomMap
    from .voxelwise import Array

#: The row and the file of all classes together.
ALL = "lesion"
MAXIMA_COLUMNS = ("map", "value", "n_participants", "x_mm", "y_mm", "z_mm", "region")
REGION_COLUMNS = (
    "class",
    "label",
    "region",
    "n_voxels",
    "n_participants",
    "mean_probability",
    "max_probability",
    "lesion_share",
)
#: Voxels whose centre is this close to the midplane (mm) belong to neither side.
MIDPLANE_MM = 1e-3
#: Shares below this part of the largest are left out of the figure, not to hide the brain.
FAINT = 0.1
SOURCES = (
    "Iglesias et al., Science Advances 2023, doi 10.1126/sciadv.add3607 (figures 5 and 6: probability maps)",
    "Bates et al., Nature Neuroscience 2003, doi 10.1038/nn1050 (lesion–symptom mapping)",
    "Rorden, Karnath & Bonilha, J. Cogn. Neurosci. 2007, doi 10.1162/jocn.2007.19.7.1081 (rank tests, least number)",
    "Benjamini & Hochberg, J. R. Stat. Soc. B 1995, doi 10.1111/j.2517-6161.1995.tb02031.x (false discovery rate)",
    "Freedman & Lane, J. Bus. Econ. Stat. 1983, doi 10.1080/07350015.1983.10509354 (permutation with covariates)",
)


@dataclass(frozen=True)
class Settings:
    """How scores are mapped.

    Attributes
    ----------
    test
        ``rank`` (Wilcoxon's rank sum, z) or ``t`` (Student's, pooled variance).
    minimum
        Voxels with fewer participants lesioned, or fewer spared, are not tested.
    permutations
        Permutations of the score behind the family-wise error.
    seed
        Their seed.
    correct_volume
        Whether lesion volume is taken out of score and voxel.
    """

    test: str = "rank"
    minimum: int = 10
    permutations: int = 1000
    seed: int = 0
    correct_volume: bool = False


@dataclass
class Survey:
    """What one pass over the masks gathers.

    Attributes
    ----------
    grid
        The masks' grid.
    counts
        Participants with a lesion per voxel, for :data:`ALL` and, of several classes, for each; int32, grid's shape.
    volumes
        A row per participant: volumes in mm³.
    touched
        Participants with a lesion in each region, per class; index is the atlas's label.
    packed
        Masks of all classes together, as :func:`.lesion_symptom.pack` leaves them; empty unless asked for.
    """

    grid: Grid
    counts: dict[str, Any]
    volumes: list[dict[str, Any]] = field(default_factory=list)
    touched: dict[str, Any] = field(default_factory=dict)
    packed: list[bytes] = field(default_factory=list)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("masks", nargs="+", type=Path, metavar="MASK", help="lesion masks on one grid: files, a "
                        "folder, or a quoted pattern; one per participant, known by sub-… in its name")  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for maps, tables and figure")
    parser.add_argument("--classes", nargs="+", default=[], metavar="NUMBER=NAME", help="names of the masks' numbers, "
                        "such as 1=necrosis 2=oedema (default: every number found is a class)")  # fmt: skip
    parser.add_argument("--participants", type=Path, metavar="TABLE.tsv", help="participant_id and the score")
    parser.add_argument("--score", metavar="COLUMN", help="score to map, a column of --participants")
    parser.add_argument("--test", choices=("rank", "t"), default=Settings.test,
                        help="Wilcoxon's rank sum or Student's t (default %(default)s)")  # fmt: skip
    parser.add_argument("--correct-volume", action="store_true",
                        help="take lesion volume out of the score and of every voxel")  # fmt: skip
    parser.add_argument("--minimum", type=int, default=Settings.minimum, metavar="N",
                        help="test voxels with N lesioned and N spared participants (default %(default)s)")  # fmt: skip
    parser.add_argument("--permutations", type=int, default=Settings.permutations,
                        help="of the score, for the family-wise error (default %(default)s)")  # fmt: skip
    parser.add_argument("--seed", type=int, default=Settings.seed, help="of the permutations (default %(default)s)")
    parser.add_argument("--atlas", type=Path, metavar="LABELS.nii.gz", help="regions, on the masks' grid")
    parser.add_argument("--atlas-names", type=Path, metavar="NAMES.txt", help="lines of a number and a name")
    parser.add_argument("--template", type=Path, metavar="IMAGE", help="image of the same space, for the figure")
    parser.add_argument("--mni-affine", type=Path, metavar="MATRIX.txt", help="from the images' space to MNI space, as "
                        "atlas leaves it: maxima are told in both")  # fmt: skip


def run(arguments: argparse.Namespace) -> None:
    """Write the maps, ``lesions.tsv``, ``lesion_maxima.tsv``, ``lesion_regions.tsv``, JSON and figure."""
    import numpy as np
    import pandas as pd

    from analysis import dictionary, tsv
    from analysis.errors import ConfigurationError
    from synthsr import files, io

    from . import figures, imageset, lesion_symptom

    if (arguments.score is None) != (arguments.participants is None):
        raise ConfigurationError("--score and --participants go together: give both or neither")
    if arguments.minimum < 2 or arguments.permutations < 100:
        raise ConfigurationError("--minimum must be 2 or more, --permutations 100 or more")
    if arguments.atlas_names and not arguments.atlas:
        raise ConfigurationError("--atlas-names without --atlas; give both")
    settings = Settings(arguments.test, arguments.minimum, arguments.permutations, arguments.seed,
                        arguments.correct_volume)  # fmt: skip
    classes = read_classes(arguments.classes)
    paths = imageset.find_images(arguments.masks)
    names = imageset.participants(paths)
    grid = imageset.common_grid(paths)
    scores, notes = read_scores(arguments.participants, arguments.score, names)
    atlas = read_atlas(arguments.atlas, grid) if arguments.atlas else None
    regions = imageset.label_names(arguments.atlas_names) if arguments.atlas_names else {}

    survey = look_over(paths, names, grid, classes=classes, atlas=atlas, pack=arguments.score is not None)
    volumes = pd.DataFrame(survey.volumes)
    empty = int((volumes["volume_mm3"] == 0).sum())
    if empty:
        notes.append(
            f"{empty} of the {len(paths)} masks {'is' if empty == 1 else 'are'} empty; counted as without lesion."
        )
    symptom = None
    correlation: list[dict[str, Any]] = []
    if arguments.score is not None:
        correlation = correlate_volume(volumes["volume_mm3"].to_numpy(), scores)
        symptom, remarks = lesion_symptom.map_scores(
            survey.packed, grid.shape, scores, volumes["volume_mm3"].to_numpy(), settings
        )
        notes += remarks

    out: Path = arguments.out
    for name, count in survey.counts.items():
        io.save(count.astype(np.int16), grid, out / f"{_file_stem(name)}_count.nii.gz")
        io.save((count / len(paths)).astype(np.float32), grid, out / f"{_file_stem(name)}_probability.nii.gz")
    tables = {
        "lesions.tsv": volumes,
        "lesion_maxima.tsv": imageset.add_mni(list_maxima(survey, symptom, atlas, regions), arguments.mni_affine),
        "lesion_regions.tsv": pd.DataFrame(
            list_regions(survey, atlas, regions, len(paths)) if atlas is not None else [], columns=list(REGION_COLUMNS)
        ),
    }
    for name, table in tables.items():
        tsv.write(table, out / name)
    if symptom is not None:
        for name, (values, background) in symptom.maps().items():
            io.save(symptom.spread(values, background), grid, out / f"symptom_{name}.nii.gz")
    figures.write(draw(survey, symptom, scores, volumes["volume_mm3"].to_numpy(), arguments), out / "lesion_map.png")
    files.write_json(
        out / "lesion_map.json",
        {
            "analysis": "lesion-map",
            "settings": asdict(settings) | {"score": arguments.score},
            "n_masks": len(paths),
            "n_with_score": int(np.isfinite(scores).sum()),
            "classes": [name for name in survey.counts if name != ALL],
            "grid": {"shape": list(grid.shape), "affine": grid.affine.tolist()},
            "volume_and_score": correlation,
            "symptom": None if symptom is None else symptom.summary(),
            "notes": notes,
            "method": "Sides by the sign of x in RAS+ mm (left below zero); voxels on the midplane count in the volume "
            "only. Score per voxel: "
            + (
                "ranks of the score, z = r √(n − c), Wilcoxon's rank sum without continuity correction where nothing "
                "is corrected for"
                if settings.test == "rank"
                else "Student's t with pooled variance"
            )
            + ("; lesion volume (its ranks, for the rank test) taken out of both." if settings.correct_volume else ".")
            + " Voxels that are lesioned in the same participants are tested once. False discovery rate over tested "
            "voxels; family-wise error by permutation of the score, two-sided maximum. Intervals of correlations: "
            "Fisher's transform, standard error by Bonett & Wright for Spearman.",
            "sources": list(SOURCES),
            "columns": dictionary.of_folder("statistics/lesion-map"),
        },
    )
    total = survey.counts[ALL]
    print(f"lesion-map: {len(paths)} masks, at most {int(total.max())} overlap → {out}")
    for note in notes:
        print(f"  {note}")


def read_classes(given: list[str]) -> dict[int, str]:
    """Read ``NUMBER=NAME`` arguments.

    Raises
    ------
    ConfigurationError
        If one is not of that form, repeats, or its name does not do as part of a file's.
    """
    import re

    from analysis.errors import ConfigurationError

    classes: dict[int, str] = {}
    for text in given:
        parts = re.fullmatch(r"([1-9][0-9]*)=([A-Za-z0-9-]+)", text)
        if parts is None or int(parts[1]) in classes or parts[2] in {*classes.values(), ALL}:
            raise ConfigurationError(
                f"--classes {text}: give NUMBER=NAME once each, names of letters, digits and hyphens other than {ALL}"
            )
        classes[int(parts[1])] = parts[2]
    return classes


def read_scores(path: Path | None, column: str | None, names: list[str]) -> tuple[Array, list[str]]:
    """Scores of the masks' participants, NaN where unknown, shape (masks,), and notes on who lacks one.

    Raises
    ------
    DataError
        If somebody has two rows, no mask has a score, or all scores are the same.
    """
    import numpy as np

    from analysis import tsv
    from analysis.errors import DataError

    from . import cohort

    if path is None or column is None:
        return np.full(len(names), np.nan), []
    table = tsv.read(path, columns=("participant_id", column), numbers=(column,))
    cohort.check_unique(table, ["participant_id"], path)
    known = table.set_index("participant_id")[column]
    known = known.where(np.isfinite(known))
    scores = known.reindex(names).to_numpy(dtype=float)
    found = scores[np.isfinite(scores)]
    if not len(found):
        raise DataError(
            f"{path}: no {column} for any of the {len(names)} masks; the first is {names[0]}'s, the table's first "
            f"participant is {known.index[0] if len(known) else 'missing'}"
        )
    if np.ptp(found) == 0:
        raise DataError(
            f"{path}: {column} is {found[0]:g} for all {len(found)} participants with a mask; nothing to map"
        )
    lacking = len(scores) - len(found)
    notes = [f"{lacking} masks without {column} left out of what concerns it."] if lacking else []
    spare = int(known[~known.index.isin(names)].notna().sum())
    return scores, notes + (
        [f"{cohort.counted(spare)} of {path.name} with {column}, but without mask."] if spare else []
    )


def read_atlas(path: Path, grid: Grid) -> Any:
    """Read labels of regions, int32, the grid's shape."""
    import numpy as np

    from . import imageset

    atlas = np.zeros(grid.shape, dtype=np.int32)
    voxels, labels = imageset.load_labels(path, grid)
    atlas.ravel()[voxels] = labels
    return atlas


def look_over(
    paths: list[Path], names: list[str], grid: Grid, *, classes: dict[int, str], atlas: Any = None, pack: bool = False
) -> Survey:
    """Read every mask once.

    Parameters
    ----------
    paths, names
        Masks and their participants.
    grid
        The masks' grid.
    classes
        Names of the numbers; empty to take every number found as a class of its own.
    atlas
        Labels on the grid, for :attr:`Survey.touched`.
    pack
        Whether to keep the masks for lesion–symptom mapping.

    Raises
    ------
    DataError
        If a mask holds fractions, or numbers that are not among ``classes``.
    """
    import numpy as np

    from analysis.errors import DataError
    from synthsr.progress import tracked

    from . import imageset, lesion_symptom

    side = sides(grid).ravel()
    voxel_mm3 = float(abs(np.linalg.det(grid.affine[:3, :3])))
    size = int(np.prod(grid.shape))
    survey = Survey(grid, {ALL: np.zeros(size, dtype=np.int32)})
    n_regions = int(atlas.max()) + 1 if atlas is not None else 0
    masks = zip(paths, names, strict=True)
    for path, name in tracked(masks, what="masks read", total=len(paths)):
        voxels, numbers = imageset.load_labels(path, grid)
        present = [int(number) for number in np.flatnonzero(np.bincount(numbers))]
        unknown = [number for number in present if classes and number not in classes]
        if unknown:
            raise DataError(
                f"{path}: holds {', '.join(map(str, unknown))}, but --classes names only "
                f"{', '.join(map(str, classes))}; name them as well"
            )
        parts = {ALL: voxels}
        parts |= {classes.get(number, str(number)): voxels[numbers == number] for number in present}
        row: dict[str, Any] = {
            "participant_id": name,
            "left_mm3": float((side[voxels] < 0).sum() * voxel_mm3),
            "right_mm3": float((side[voxels] > 0).sum() * voxel_mm3),
        }
        for kind, part in parts.items():
            survey.counts.setdefault(kind, np.zeros(size, dtype=np.int32))
            survey.counts[kind][part] += 1
            row["volume_mm3" if kind == ALL else f"{kind}_mm3"] = float(len(part) * voxel_mm3)
            if atlas is not None:
                survey.touched.setdefault(kind, np.zeros(n_regions, dtype=int))
                survey.touched[kind] += np.bincount(atlas.ravel()[part], minlength=n_regions) > 0
        survey.volumes.append(row)
        if pack:
            survey.packed.append(lesion_symptom.pack(voxels, size))
    kinds = sorted(
        (kind for kind in survey.counts if kind != ALL), key=lambda kind: (not kind.isdigit(), kind.zfill(9))
    )
    kinds = [kind for kind in classes.values()] if classes else kinds
    if len(kinds) == 1 and not classes:
        kinds = []
    none = np.zeros(size, dtype=np.int32)
    survey.counts = {kind: survey.counts.get(kind, none).reshape(grid.shape) for kind in (ALL, *kinds)}
    whole = ("participant_id", "left_mm3", "right_mm3", "volume_mm3")
    survey.volumes = [
        {**{key: row[key] for key in whole}, **{f"{kind}_mm3": row.get(f"{kind}_mm3", 0.0) for kind in kinds}}
        for row in survey.volumes
    ]
    return survey


def sides(grid: Grid) -> Any:
    """−1 left, 1 right, 0 on the midplane, by the sign of RAS+ x; int8, the grid's shape."""
    import numpy as np

    i, j, k = np.ogrid[tuple(slice(size) for size in grid.shape)]
    a = grid.affine[0]
    x_mm = a[0] * i + a[1] * j + a[2] * k + a[3]
    return (np.sign(x_mm) * (np.abs(x_mm) > MIDPLANE_MM)).astype(np.int8)


def correlate_volume(volume_mm3: Array, scores: Array) -> list[dict[str, Any]]:
    r"""Pearson's and Spearman's correlation of lesion volume with the score, 95 % intervals, p.

    Spearman's interval is :math:`\tanh(\operatorname{artanh} r \pm 1.96 \sqrt{(1 + r^2 / 2) / (n - 3)})` (Bonett &
    Wright, Psychometrika 2000). None where undefined (JSON has no NaN).
    """
    import numpy as np
    from scipy import stats

    from . import univariate

    used = np.isfinite(scores)
    volume, score = volume_mm3[used], scores[used]
    n = len(score)
    rows = {"pearson": univariate.pearson(volume, score)}
    if n > 3 and np.ptp(volume) > 0 and np.ptp(score) > 0:
        found = stats.spearmanr(volume, score)
        r = float(found.statistic)
        with np.errstate(divide="ignore"):
            reach = 1.96 * np.sqrt((1 + r**2 / 2) / (n - 3))
            low, high = np.tanh(np.arctanh(r) - reach), np.tanh(np.arctanh(r) + reach)
        rows["spearman"] = (r, float(low), float(high), float(found.pvalue))
    else:
        rows["spearman"] = (np.nan,) * 4
    return [
        {"kind": kind, "n": n}
        | {
            key: float(value) if np.isfinite(value) else None
            for key, value in zip(("r", "low", "high", "p_value"), values, strict=True)
        }
        for kind, values in rows.items()
    ]


def list_maxima(survey: Survey, symptom: SymptomMap | None, atlas: Any, regions: dict[int, str]) -> pd.DataFrame:
    """Maxima of every count map and of both signs of the symptom map, in RAS+ mm, with the region they lie in.

    ``n_participants`` have a lesion there; of the symptom map, and a score.
    """
    import pandas as pd

    from . import imageset

    # Name, values, their sign, and how many have a lesion.
    maps: list[tuple[str, Any, int, Any]] = [
        (f"{kind}_count", count, 1, count) for kind, count in survey.counts.items()
    ]
    if symptom is not None:
        statistic, lesioned = symptom.spread(symptom.statistic, 0), symptom.spread(symptom.n_lesioned, 0)
        maps += [(f"symptom_{symptom.letter}", sign * statistic, sign, lesioned) for sign in (1, -1)]
    rows = []
    for name, values, sign, lesioned in maps:
        for voxel, place in imageset.maxima(values, survey.grid.affine):
            label = int(atlas[voxel]) if atlas is not None else 0
            rows.append(
                {
                    **dict(zip(("x_mm", "y_mm", "z_mm"), (round(mm, 3) + 0.0 for mm in place), strict=True)),
                    "map": name,
                    "value": sign * float(values[voxel]),
                    "n_participants": int(lesioned[voxel]),
                    "region": regions.get(label, str(label)) if label else "",
                }
            )
    return pd.DataFrame(rows, columns=list(MAXIMA_COLUMNS))


def list_regions(survey: Survey, atlas: Any, regions: dict[int, str], n_masks: int) -> list[dict[str, Any]]:
    """Rows per class and region; ``lesion_share`` is the share of all lesioned voxels that lie in the region."""
    import numpy as np

    labels = [int(label) for label in np.unique(atlas) if label]
    size = np.bincount(atlas.ravel())
    rows = []
    for kind, count in survey.counts.items():
        total = np.bincount(atlas.ravel(), weights=count.ravel())
        largest = np.zeros(len(size), dtype=int)
        np.maximum.at(largest, atlas.ravel(), count.ravel())
        touched = survey.touched.get(kind, np.zeros(len(size), dtype=int))
        everything = float(count.sum())
        rows += [
            {
                "class": kind,
                "label": label,
                "region": regions.get(label, str(label)),
                "n_voxels": int(size[label]),
                "n_participants": int(touched[label]),
                "mean_probability": total[label] / size[label] / n_masks,
                "max_probability": largest[label] / n_masks,
                "lesion_share": total[label] / everything if everything else np.nan,
            }
            for label in labels
        ]
    return rows


def draw(survey: Survey, symptom: SymptomMap | None, scores: Array, volume_mm3: Array, arguments: Any) -> Any:
    """Axial slices of the probability and of the significant symptom map, and lesion volume against the score."""
    import numpy as np
    from matplotlib.figure import Figure

    from . import figures, imageset

    count = survey.counts[ALL]
    if not count.any():
        return figures.saying("No lesion map: all masks are empty.")
    number = 7
    heights = imageset.slice_heights(count.astype(float), survey.grid, number)
    background = imageset.resampled(arguments.template, survey.grid) if arguments.template else None
    has_scores = bool(np.isfinite(scores).any())
    n_rows = 1 + (symptom is not None)
    figure = Figure(figsize=(10.5, 1.95 * n_rows + (2.6 if has_scores else 0) + 0.2), layout="constrained")
    parts = figure.subfigures(n_rows + has_scores, 1, height_ratios=[1.95] * n_rows + [2.6] * has_scores, squeeze=False)
    share = count / len(volume_mm3)
    shown = np.where(share >= FAINT * share.max(), share, np.nan)
    title = f"share of {len(volume_mm3)} participants with a lesion (where above {FAINT * share.max():.1%})"
    maps: list[tuple[str, Any, Any]] = [(title, shown, {"cmap": "plasma", "vmin": 0, "vmax": float(share.max())})]
    if symptom is not None:
        maps.append(symptom.picture())
    for part, (title, values, look) in zip(parts[:, 0], maps, strict=False):
        imageset.draw_axial(part, values, survey.grid, heights, title=title, background=background, look=look)
    if has_scores:
        axis = parts[-1, 0].subplots(1, 3, width_ratios=[1, 2, 1])
        for outer in (axis[0], axis[2]):
            outer.set_axis_off()
        axis[1].scatter(volume_mm3 / 1000, scores, s=9, color=figures.BLUE, alpha=0.6, linewidths=0)
        axis[1].set_xscale("symlog", linthresh=1)
        axis[1].set_xlim(left=-0.1)
        axis[1].xaxis.set_major_formatter("{x:g}")
        axis[1].set_xlabel("lesion volume (ml)", fontsize=9)
        axis[1].set_ylabel(arguments.score, fontsize=9)
        axis[1].spines[["top", "right"]].set_visible(False)
        axis[1].tick_params(labelsize=8)
    return figure


def _file_stem(kind: str) -> str:
    """Start of the names of a class's maps."""
    return ALL if kind == ALL else f"{ALL}-{kind}"
