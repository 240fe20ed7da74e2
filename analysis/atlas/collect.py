"""The atlas of its members: median images, most frequent label, how frequent each is, and who lies badly.

Median images per contrast are those of Iglesias et al. (Science Advances 2023, figure 5): every scan is divided by its
own 95th percentile over the template's brain first, as scans of one contrast have no common scale.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pandas as pd

from synthsr import files, io, labels
from synthsr.progress import tracked

from .. import tsv
from ..errors import ConfigurationError, DataError
from ..registration import pairs, quality, transforms
from ..registration.pairs import Image, Settings
from ..registration.transforms import Grid
from ..statistics import figures, imageset, voxelwise
from . import carry
from .folder import CARRIED, Folder
from .rounds import BRAIN_LEVEL, facts_of, template_of

QUALITY = ("lncc", "nmi", "ncc", "dice_mean", "jacobian_p1", "jacobian_p99", "folding_fraction", "overlap_fraction",
           "affine_scale")  # fmt: skip
#: Measures by which a member is an outlier: which side is bad, and the least distance from the others that counts, as
#: members of one kind can be so alike that a thousandth is many deviations.
BAD_SIDE = {"lncc": (-1, 0.02), "dice_mean": (-1, 0.03), "jacobian_p1": (-1, 0.1), "jacobian_p99": (1, 0.2)}
#: Median absolute deviations, scaled to standard deviations, beyond which a member is an outlier.
OUTLIER_SD = 5.0
MAD_TO_SD = 1.4826
#: Part of the brain's voxels where space may fold.
FOLDING_LIMIT = 0.01
MINIMUM_FOR_OUTLIERS = 5
#: nilearn's MNI152 template, by the name that asks for it.
NILEARN = "nilearn"
MNI_VOXEL_MM = 2
SOURCES = (
    "Joshi et al., NeuroImage 2004, doi 10.1016/j.neuroimage.2004.07.068 (unbiased atlas)",
    "Iglesias et al., Science Advances 2023, doi 10.1126/sciadv.add3607 (figures 5 and 6: median templates, lesions)",
    "Modat et al., SPIE 2012, doi 10.1117/12.911441 (symmetric registration by stationary velocity fields)",
    "Modat et al., J Med Imaging 2014, doi 10.1117/1.JMI.1.2.024003 (block matching)",
)


def collect(folder: Folder, outputs: Mapping[str, Sequence[Path]], *, rounds: int, mni: str | None) -> dict[str, Any]:
    """Write the atlas.

    Parameters
    ----------
    folder
        With every member carried.
    outputs
        Members' files, by name. What former members left beside them is removed, as commands take whole folders.
    rounds
        Number of the last round.
    mni
        ``None``, :data:`NILEARN`, or the path of a template without skull to report coordinates in: the affine to it.

    Returns
    -------
    What ``atlas.json`` holds.
    """
    members = sorted(outputs)
    _tidy(folder, {path for paths in outputs.values() for path in paths})
    template = template_of(folder.round(rounds))
    grid, brain = template.grid, template.data > BRAIN_LEVEL
    io.save(brain.astype(np.uint8), grid, folder.root / "brain.nii.gz")
    contrasts: dict[str, list[Path]] = {}
    for name in members:
        for path in sorted((folder.root / "warped").glob(f"{name}_*.nii.gz")):
            contrasts.setdefault(io.stem(path).removeprefix(f"{name}_"), []).append(path)
    for contrast, paths in sorted(contrasts.items()):
        out = "template_T1w" if contrast == carry.SYNTHETIC else f"median_{contrast}"
        io.save(median(paths, grid, brain, folder.root), grid, folder.root / f"{out}.nii.gz")
    table = pd.DataFrame([_quality(folder, name) for name in members])
    most = frequencies(folder, members, grid)
    if most is not None:
        table["dice_mean"] = [_mean_dice(folder, name, most) for name in members]
    table = judged(table)
    tsv.write(table, folder.root / "quality.tsv")
    bad = table[table["outlier"] == "yes"]
    exclusions = {"scan_id": bad["scan_id"], "included": "no", "reason": "registration: " + bad["reason"]}
    tsv.write(pd.DataFrame(exclusions, columns=["scan_id", "included", "reason"]), folder.root / "outliers.tsv")
    history = [facts_of(folder.round(number)) for number in range(rounds + 1)]
    tsv.write(pd.DataFrame(history), folder.root / "rounds.tsv")
    figures.write(draw(folder, grid, history), folder.root / "atlas.png")
    facts = {
        "analysis": "atlas",
        "members": len(members),
        "rounds": rounds,
        "grid": {"shape": list(grid.shape), "affine": grid.affine.tolist()},
        "contrasts": {contrast: len(paths) for contrast, paths in sorted(contrasts.items())},
        "last_round": history[-1],
        "outliers": len(bad),
        "mni": _to_mni(folder, template, mni),
        "sources": list(SOURCES),
    }
    files.write_json(folder.root / "atlas.json", facts)
    return facts


def _tidy(folder: Folder, expected: set[Path]) -> None:
    """Remove everything else from the folders of members' files."""
    for name in CARRIED:
        for stale in set((folder.root / name).glob("*")) - expected:
            stale.unlink()


def median(paths: Sequence[Path], grid: Grid, brain: npt.NDArray[np.bool_], scratch: Path) -> npt.NDArray[np.float32]:
    """Median of images, each divided by its 95th percentile over the brain; memory holds a block of voxels only."""
    with tempfile.TemporaryFile(dir=scratch) as stream:
        for path in tracked(paths, what="images read", total=len(paths)):
            data = imageset.load_on(path, grid)
            scale = float(np.percentile(data[brain], 95))
            stream.write((data / scale if scale > 0 else data).astype(np.float32).tobytes())
        stream.flush()
        values = np.memmap(stream, dtype=np.float32, mode="r", shape=(len(paths), int(np.prod(grid.shape))))
        found = np.empty(values.shape[1], dtype=np.float32)
        for part in voxelwise.blocks(values.shape[1], len(paths)):
            found[part] = np.median(values[:, part], axis=0)
    return found.reshape(grid.shape)


def frequencies(folder: Folder, members: Sequence[str], grid: Grid) -> npt.NDArray[np.int16] | None:
    """Write how frequent every label is at every voxel, and the most frequent one; ``None`` if nobody has labels.

    Of labels as frequent the one with the smallest number is taken, and background only if it is more frequent than
    each.
    """
    paths = [folder.labels_of(name) for name in members if folder.labels_of(name).is_file()]
    if not paths:
        return None
    counts: dict[int, npt.NDArray[np.uint16]] = {}
    for path in tracked(paths, what="label maps read", total=len(paths)):
        data = np.rint(imageset.load_on(path, grid)).astype(np.int32)
        for number in np.unique(data):
            counts.setdefault(int(number), np.zeros(grid.shape, dtype=np.uint16))[data == number] += 1
    most, best = np.zeros(grid.shape, dtype=np.int16), counts.pop(0, np.zeros(grid.shape, dtype=np.uint16))
    names = labels.by_number()
    lines = []
    for number, count in sorted(counts.items()):
        name = names[number].name if number in names else f"label-{number}"
        lines.append(f"{number} {name}")
        io.save((count / len(paths)).astype(np.float32), grid, folder.root / "probability" / f"{name}.nii.gz")
        larger = (count > best) | ((count == best) & (most == 0) & (count > 0))
        most[larger], best = number, np.maximum(best, count)
    io.save(most, grid, folder.root / "labels.nii.gz")
    files.write_text(folder.root / "labels.txt", "\n".join(lines) + "\n")
    return most


def _mean_dice(folder: Folder, participant: str, most: npt.NDArray[np.int16]) -> float:
    if not folder.labels_of(participant).is_file():
        return float("nan")
    own = np.asarray(nib.load(folder.labels_of(participant)).dataobj)
    return round(float(np.mean(list(quality.dice(most, own).values()))), 5)


def _quality(folder: Folder, participant: str) -> dict[str, Any]:
    return {"participant_id": participant, **json.loads(folder.quality_of(participant).read_text(encoding="utf-8"))}


def judged(table: pd.DataFrame) -> pd.DataFrame:
    """Add ``outlier`` and ``reason``: beyond :data:`OUTLIER_SD` of the members, or where space folds.

    Median and median absolute deviation are the members' own (Leys 2013, J Exp Soc Psychol 49:764); of fewer than
    :data:`MINIMUM_FOR_OUTLIERS` only folding tells.
    """
    reasons: list[list[str]] = [[] for _ in range(len(table))]
    for name, (side, least) in BAD_SIDE.items():
        if name not in table or len(table) < MINIMUM_FOR_OUTLIERS:
            continue
        values = table[name].to_numpy(dtype=float)
        middle = np.nanmedian(values)
        spread = MAD_TO_SD * np.nanmedian(np.abs(values - middle))
        for row in np.flatnonzero(side * (values - middle) > max(OUTLIER_SD * spread, least)):
            reasons[row].append(f"{name} {values[row]:.3g}, of the others {middle:.3g}")
    for row in np.flatnonzero(table["folding_fraction"].to_numpy(dtype=float) > FOLDING_LIMIT):
        reasons[row].append(f"space folds in {100 * table['folding_fraction'].iloc[row]:.2g} % of the brain")
    table = table.assign(outlier=["yes" if why else "no" for why in reasons], reason=["; ".join(w) for w in reasons])
    ordered = ["participant_id", "scan_id", *(name for name in QUALITY if name in table), "outlier", "reason"]
    return table[ordered]


def _to_mni(folder: Folder, template: Image, mni: str | None) -> str | None:
    """Affine from the atlas to a template of MNI space; returns what that template is."""
    path = folder.root / "mni_affine.txt"
    if mni is None:
        path.unlink(missing_ok=True)
        return None
    if mni == NILEARN:
        from nilearn import datasets

        loaded = datasets.load_mni152_template(resolution=MNI_VOXEL_MM)
        data = np.asarray(loaded.dataobj, dtype=np.float32)
        target = Image("nilearn's MNI152", data, Grid(data.shape, np.asarray(loaded.affine, dtype=float)))
        described = "MNI152 2009 symmetric, of nilearn"
    elif Path(mni).is_file():
        target, described = Image.load(Path(mni)), Path(mni).name
    else:
        raise ConfigurationError(f"{mni}: no such image; give a template of MNI space without skull, or {NILEARN}")
    found = pairs.register(template, target, settings=Settings("affine"))
    shared = pairs.overlap(template.grid, target.grid, found.forward)
    if shared < pairs.LEAST_OVERLAP:
        raise DataError(f"{target.name}: the atlas does not lie on it; is it a brain without skull?")
    transforms.write_matrix(found.forward.linear, path)
    return described


def draw(folder: Folder, grid: Grid, history: Sequence[dict[str, Any]]) -> Any:
    """Axial slices of the medians and labels, and how the template changed from round to round."""
    from matplotlib.figure import Figure

    images = [folder.root / "template_T1w.nii.gz", *sorted(folder.root.glob("median_*.nii.gz"))]
    figure = Figure(figsize=(10.5, 1.9 * (len(images) + 1.4)), layout="constrained")
    parts: Any = figure.subfigures(len(images) + 1, 1, height_ratios=[1.0] * len(images) + [1.4])
    inside = template_of(folder.round(int(history[-1]["round"]))).data > BRAIN_LEVEL
    heights = imageset.slice_heights(inside.astype(float), grid, 7)
    for part, path in zip(parts, images, strict=False):
        data = np.asarray(nib.load(path).dataobj, dtype=np.float32)
        look = {"cmap": "gray", "vmin": 0.0, "vmax": float(np.percentile(data[inside], 99.5))}
        title = io.stem(path).replace("_", " ").replace("template T1w", "median of the synthetic T1s")
        imageset.draw_axial(part, data, grid, heights, title=title, background=None, look=look)
    axes = parts[-1].subplots(1, 3)
    numbers = [facts["round"] for facts in history]
    for axis, (name, title) in zip(
        axes,
        (
            ("sharpness", "sharpness (mean gradient per mm)"),
            ("variability", "members' standard deviation"),
            ("mean_displacement_mm", "mean displacement (mm)"),
        ),
        strict=True,
    ):
        axis.plot(numbers, [facts[name] for facts in history], "o-", color=figures.BLUE)
        axis.set_title(title, fontsize=9)
        axis.set_xticks(numbers, [f"{facts['round']}\n{facts['kind']}" for facts in history], fontsize=6)
        axis.set_ylim(bottom=0)
    return figure
