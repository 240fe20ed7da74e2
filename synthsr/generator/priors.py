"""Intensity priors of a known protocol: what the labels of its scans look like.

Iglesias et al., NeuroImage 2021, section 2.2: per label, median and 1.4826 × median absolute deviation over a scan's
voxels; variances raised by the ratio of voxel sizes (the blur that follows brings them back down); a Gaussian over
scans, its spread multiplied by five.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .. import files, io, labels
from ..errors import DataError

#: Median absolute deviation → standard deviation of a normal distribution.
MAD_TO_SD = 1.4826
#: Factor on the spread over scans.
SPREAD = 5.0
#: Fewest voxels of a label in a scan for its figures to count.
MINIMUM_VOXELS = 20
COLUMNS = ("label", "mean_grey", "mean_spread", "sd_grey", "sd_spread")


@dataclass(frozen=True)
class Prior:
    """Distribution of one label's mean and standard deviation over scans.

    Attributes
    ----------
    mean_grey, mean_spread
        Of the label's mean: centre and standard deviation.
    sd_grey, sd_spread
        Of the label's standard deviation.
    """

    mean_grey: float
    mean_spread: float
    sd_grey: float
    sd_spread: float

    def sample(self, rng: np.random.Generator) -> tuple[float, float]:
        """A mean and a standard deviation; the latter's Gaussian is truncated at zero."""
        mean = rng.normal(self.mean_grey, self.mean_spread)
        sd = rng.normal(self.sd_grey, self.sd_spread)
        while sd < 0:
            sd = rng.normal(self.sd_grey, self.sd_spread)
        return float(mean), float(sd)


Priors = Mapping[int, Prior]


def label_figures(
    grey: npt.NDArray[np.floating], number: npt.NDArray[np.integer], spacing_mm: Sequence[float]
) -> dict[int, tuple[float, float]]:
    """Median and robust standard deviation per label of one scan.

    Parameters
    ----------
    grey
        Scan, shape (x, y, z).
    number
        Its label numbers, same shape.
    spacing_mm
        Voxel size; the variance is multiplied by the ratio of its sum over axes to that of 1 mm voxels.

    Returns
    -------
    Per label of at least :data:`MINIMUM_VOXELS` voxels, median and standard deviation.
    """
    ratio = sum(spacing_mm) / 3.0
    figures = {}
    for label in np.unique(number).tolist():
        values = grey[number == label]
        if values.size >= MINIMUM_VOXELS:
            median = float(np.median(values))
            sd = MAD_TO_SD * float(np.median(np.abs(values - median)))
            figures[int(label)] = (median, sd * float(np.sqrt(max(ratio, 1.0))))
    return figures


def estimate(scans: Sequence[Mapping[int, tuple[float, float]]]) -> dict[int, Prior]:
    """Priors from the figures of several scans; sides of a structure are pooled.

    Raises
    ------
    DataError
        If there is no scan.
    """
    if not scans:
        raise DataError("no scan to estimate priors from; give scans and their label maps")
    pooled: dict[int, list[tuple[float, float]]] = {}
    for figures in scans:
        for label, pair in figures.items():
            pooled.setdefault(min(label, labels.mirror_number(label)), []).append(pair)
    priors = {}
    for label, pairs in sorted(pooled.items()):
        mean, sd = np.array(pairs).T
        spread = [float(values.std(ddof=1)) * SPREAD if values.size > 1 else 0.0 for values in (mean, sd)]
        prior = Prior(float(mean.mean()), spread[0], float(sd.mean()), spread[1])
        priors[label] = priors[labels.mirror_number(label)] = prior
    return priors


def estimate_from_files(scans: Path, label_maps: Path) -> dict[int, Prior]:
    """Priors from a folder of scans and a folder of their label maps (``synthsr segment`` makes them).

    Parameters
    ----------
    scans
        Scans of one protocol.
    label_maps
        Label maps named as the scans, or with ``_dseg`` added. A label map on another grid (``synthsr segment`` leaves
        1 mm) is looked up at the scan's voxels.

    Raises
    ------
    DataError
        If a scan has no label map.
    """
    figures = []
    maps = {io.stem(path).removesuffix("_dseg"): path for path in io.list_images(label_maps)}
    for path in io.list_images(scans):
        if io.stem(path) not in maps:
            raise DataError(f"{path}: no label map of that name in {label_maps}; make one with synthsr segment")
        grey, affine = io.load(path)
        number, own = io.load(maps[io.stem(path)])
        to_label = np.linalg.inv(own) @ affine
        voxel = np.indices(grey.shape).reshape(3, -1)
        place = np.rint(to_label[:3, :3] @ voxel + to_label[:3, 3:]).astype(int)
        within = ((place >= 0) & (place < np.array(number.shape)[:, None])).all(axis=0)
        found = np.zeros(voxel.shape[1], dtype=np.int64)
        found[within] = number[tuple(place[:, within])].astype(np.int64)
        spacing_mm = np.linalg.norm(affine[:3, :3], axis=0)
        # Background of a label map also holds skull and skin: not a tissue.
        scan = label_figures(grey, found.reshape(grey.shape), spacing_mm.tolist())
        figures.append({label: pair for label, pair in scan.items() if label != 0})
    return estimate(figures)


def write_priors(priors: Priors, path: Path) -> None:
    """Write a TSV with the columns :data:`COLUMNS`."""
    lines = ["\t".join(COLUMNS)]
    for label, prior in sorted(priors.items()):
        values = (prior.mean_grey, prior.mean_spread, prior.sd_grey, prior.sd_spread)
        lines.append("\t".join([str(label), *(f"{value:.6g}" for value in values)]))
    files.write_text(path, "\n".join(lines) + "\n")


@cache
def read_priors(path: Path) -> Priors:
    """Read what :func:`write_priors` wrote.

    Raises
    ------
    DataError
        For a file that is missing or not such a table.
    """
    try:
        with Path(path).open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream, delimiter="\t"))
        return {int(row["label"]): Prior(*(float(row[name]) for name in COLUMNS[1:])) for row in rows}
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: not a table of priors ({error!r}); make one with synthsr priors") from error
