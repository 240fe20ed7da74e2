"""Tensor-based morphometry: where two groups' log-Jacobians differ, voxel by voxel.

Wilcoxon's rank sum at every voxel of log-Jacobian maps in the space of an atlas, as in Iglesias et al., NeuroImage
2021, figure 7, with the false discovery rate, the difference of the groups' medians and the AUROC. Any other images of
one grid will do as well.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from synthsr.preprocess import Grid

    from .voxelwise import Array

MAXIMA_COLUMNS = ("direction", "z", "p_fdr", "median_difference", "auroc", "x_mm", "y_mm", "z_mm")
MINIMUM_PER_GROUP = 3
#: Below this the normal approximation of the rank sum is rough in the tails that many voxels need.
SMALL_GROUP = 10
ALPHA = 0.05
SOURCES = (
    "Iglesias et al., NeuroImage 2021, doi 10.1016/j.neuroimage.2021.118206 (figure 7: voxel-wise Wilcoxon rank sum)",
    "Benjamini & Hochberg, J. R. Stat. Soc. B 1995, doi 10.1111/j.2517-6161.1995.tb02031.x (false discovery rate)",
)


@dataclass(frozen=True)
class GroupMaps:
    """Statistics at the tested voxels; differences are first minus second group.

    Attributes
    ----------
    voxels
        Flat indices of the tested voxels.
    z
        Positive where the first group has the larger values.
    p_fdr
        Two-sided, false discovery rate over the tested voxels.
    median_difference
        In the images' unit.
    auroc
        Probability that a member of the first group has the larger value; 2 AUROC − 1 is the rank-biserial correlation.
    """

    voxels: Any
    z: Array
    p_fdr: Array
    median_difference: Array
    auroc: Array

    def spread(self, values: Array, shape: tuple[int, ...], background: float) -> Any:
        """Values of the tested voxels on the grid, ``background`` elsewhere; float32."""
        import numpy as np

        image = np.full(shape, background, dtype=np.float32)
        image.ravel()[self.voxels] = values
        return image


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("images", nargs="+", type=Path, metavar="LOGJAC", help="log-Jacobians on one grid: files, a "
                        "folder, or a quoted pattern; one per participant, known by sub-… in its name")  # fmt: skip
    parser.add_argument("--participants", type=Path, required=True, metavar="TABLE.tsv",
                        help="participant_id and the column of groups")  # fmt: skip
    parser.add_argument("--column", default="diagnosis", help="column of groups (default %(default)s)")
    parser.add_argument("--groups", nargs=2, required=True, metavar=("A", "B"),
                        help="values of that column; maps are positive where A is larger")  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for maps, table and figure")
    parser.add_argument("--mask", type=Path, metavar="IMAGE", help="test where it is not zero (same grid)")
    parser.add_argument("--template", type=Path, metavar="IMAGE", help="image of the same space, for the figure")
    parser.add_argument("--mni-affine", type=Path, metavar="MATRIX.txt", help="from the images' space to MNI space, as "
                        "atlas leaves it: maxima are told in both")  # fmt: skip


def run(arguments: argparse.Namespace) -> None:
    """Write ``tbm_{z,p_fdr,median_difference,auroc}.nii.gz``, ``tbm_maxima.tsv``, ``tbm.json`` and ``tbm.png``."""
    import numpy as np

    from analysis import dictionary, tsv
    from analysis.errors import DataError
    from synthsr import files, io

    from . import figures, imageset

    first, second = arguments.groups
    paths = imageset.find_images(arguments.images)
    names = imageset.participants(paths)
    group, notes = read_groups(arguments.participants, arguments.column, names, (first, second))
    used = [path for path, label in zip(paths, group, strict=True) if label]
    is_first = np.array([label == first for label in group if label])
    grid = imageset.common_grid(used)
    inside = np.ones(grid.shape, dtype=bool)
    if arguments.mask:
        inside = imageset.load_on(arguments.mask, grid) != 0
        if not inside.any():
            raise DataError(f"{arguments.mask}: is zero everywhere; nothing to test")
    else:
        notes.append("No mask: background, where the field only fades out, is tested and corrected for as well.")
    out: Path = arguments.out
    found = compare(used, is_first, np.flatnonzero(inside), grid, out)
    constant = int(inside.sum()) - len(found.voxels)
    if constant:
        notes.append(f"{constant} voxels with the same value in all images not tested.")
    if min(is_first.sum(), (~is_first).sum()) < SMALL_GROUP:
        notes.append(f"A group has fewer than {SMALL_GROUP} images: the normal approximation of the p values is rough.")

    for name, background in (("z", 0.0), ("p_fdr", 1.0), ("median_difference", 0.0), ("auroc", 0.5)):
        io.save(found.spread(getattr(found, name), grid.shape, background), grid, out / f"tbm_{name}.nii.gz")
    tsv.write(imageset.add_mni(list_maxima(found, grid), arguments.mni_affine), out / "tbm_maxima.tsv")
    figures.write(draw(found, grid, arguments), out / "tbm.png")
    significant = found.p_fdr <= ALPHA
    files.write_json(
        out / "tbm.json",
        {
            "analysis": "tbm",
            "groups": {first: int(is_first.sum()), second: int((~is_first).sum())},
            "grid": {"shape": list(grid.shape), "affine": grid.affine.tolist()},
            "n_voxels_tested": len(found.voxels),
            f"n_voxels_{first}_larger_significant_fdr": int((significant & (found.z > 0)).sum()),
            f"n_voxels_{second}_larger_significant_fdr": int((significant & (found.z < 0)).sum()),
            "notes": notes,
            "method": "Wilcoxon rank sum per voxel, normal approximation with the variance corrected for ties, without "
            "continuity correction; two-sided; false discovery rate over tested voxels (Benjamini–Hochberg).",
            "sources": list(SOURCES),
            "columns": dictionary.of_folder("statistics/tbm"),
        },
    )
    print(f"tbm: {len(used)} images, {int(significant.sum())} of {len(found.voxels)} voxels significant → {out}")
    for note in notes:
        print(f"  {note}")


def read_groups(path: Path, column: str, names: list[str], groups: tuple[str, str]) -> tuple[list[str], list[str]]:
    """Group of every image's participant, empty for anything but the two, and notes on who is left out.

    Raises
    ------
    DataError
        If somebody has two rows, or a group has fewer than :data:`MINIMUM_PER_GROUP` images.
    """
    from analysis import tsv
    from analysis.errors import DataError

    from . import cohort

    if groups[0] == groups[1]:
        raise DataError(f"--groups {groups[0]} {groups[1]}: give two different groups")
    table = tsv.read(path, columns=("participant_id", column))
    cohort.check_unique(table, ["participant_id"], path)
    known = table.set_index("participant_id")[column].str.strip()
    found = [str(known.get(name, "")) for name in names]
    group = [label if label in groups else "" for label in found]
    for label in groups:
        if group.count(label) < MINIMUM_PER_GROUP:
            there = ", ".join(sorted({label for label in found if label})) or "none"
            raise DataError(
                f"{path}: {column} is {label} for {group.count(label)} of the {len(names)} images, "
                f"{MINIMUM_PER_GROUP} are the least; values of the images' participants: {there}"
            )
    out = group.count("")
    return group, [f"{out} of {len(names)} images in neither group left out."] if out else []


def compare(paths: list[Path], first: Any, voxels: Any, grid: Grid, scratch: Path) -> GroupMaps:
    """Test all voxels, block by block.

    Parameters
    ----------
    paths
        Images on ``grid``.
    first
        Whether each is of the first group, shape (images,).
    voxels
        Flat indices to test; those with the same value in all images are dropped.
    scratch
        Folder for a temporary file of images × voxels × 4 bytes, so that memory holds a block only.
    """
    import numpy as np

    from synthsr.progress import tracked

    from . import imageset, univariate, voxelwise

    results: dict[str, list[Any]] = {"z": [], "auroc": [], "median_difference": []}
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=scratch) as stream:
        for path in tracked(paths, what="images read", total=len(paths)):
            stream.write(imageset.load_on(path, grid).ravel()[voxels].tobytes())
        stream.flush()
        values = np.memmap(stream, dtype=np.float32, mode="r", shape=(len(paths), len(voxels)))
        for part in voxelwise.blocks(len(voxels), len(paths)):
            block = np.ascontiguousarray(values[:, part].T)
            z, auroc = voxelwise.rank_sum(block, first)
            results["z"].append(z)
            results["auroc"].append(auroc)
            results["median_difference"].append(_medians(block[:, first]) - _medians(block[:, ~first]))
    merged = {name: np.concatenate(parts) for name, parts in results.items()}
    tested = np.isfinite(merged["z"])
    merged = {name: values[tested] for name, values in merged.items()}
    p_fdr = univariate.false_discovery_rates(voxelwise.two_sided_p(merged["z"]))
    return GroupMaps(voxels=voxels[tested], p_fdr=p_fdr, **merged)


def _medians(values: Array) -> Array:
    """Median of every row; sorting small rows is several times faster than numpy's selection."""
    import numpy as np

    ordered, middle = np.sort(values, axis=1), values.shape[1] // 2
    return np.asarray((ordered[:, middle] + ordered[:, (values.shape[1] - 1) // 2]) / 2)


def list_maxima(found: GroupMaps, grid: Grid) -> pd.DataFrame:
    """Maxima of z in both directions, in RAS+ mm."""
    import numpy as np
    import pandas as pd

    from . import imageset

    z = found.spread(found.z, grid.shape, 0)
    index = np.full(grid.shape, -1, dtype=np.int64)
    index.ravel()[found.voxels] = np.arange(len(found.voxels))
    rows = []
    for direction, values in (("first larger", z), ("second larger", -z)):
        for voxel, place in imageset.maxima(values, grid.affine):
            at = index[voxel]
            rows.append(
                {
                    "direction": direction,
                    **{name: float(getattr(found, name)[at]) for name in ("z", "p_fdr", "median_difference", "auroc")},
                    **dict(zip(("x_mm", "y_mm", "z_mm"), (round(mm, 3) + 0.0 for mm in place), strict=True)),
                }
            )
    return pd.DataFrame(rows, columns=list(MAXIMA_COLUMNS))


def draw(found: GroupMaps, grid: Grid, arguments: Any) -> Any:
    """Axial slices of z, of the significant z, and of the difference of medians."""
    import numpy as np
    from matplotlib.figure import Figure

    from . import figures, imageset

    if not len(found.voxels):
        return figures.saying("No voxel could be tested: all images are the same.")
    heights = imageset.slice_heights(found.spread(np.abs(found.z), grid.shape, 0), grid, 7)
    background = imageset.resampled(arguments.template, grid) if arguments.template else None
    significant = np.where(found.p_fdr <= ALPHA, found.z, np.nan)
    first, second = arguments.groups
    figure = Figure(figsize=(10.5, 6.2), layout="constrained")
    rows = (
        (f"z of the rank sum, {first} − {second}", found.z, float(np.abs(found.z).max())),
        (f"z where significant (FDR 0.05): {np.isfinite(significant).sum():,} of {len(found.voxels):,} voxels",
         significant, float(np.abs(found.z).max())),
        ("difference of medians", found.median_difference,
         float(np.percentile(np.abs(found.median_difference), 99.5)) or 1.0),
    )  # fmt: skip
    parts: Any = figure.subfigures(3, 1)
    for part, (title, values, reach) in zip(parts, rows, strict=True):
        look = {"cmap": "RdBu_r", "vmin": -reach, "vmax": reach}
        image = found.spread(values, grid.shape, np.nan)
        imageset.draw_axial(part, image, grid, heights, title=title, background=background, look=look)
    return figure
