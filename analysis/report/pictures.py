"""The page's pictures: who the people are, and what became of some scans."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import ndimage

from analysis.statistics import figures
from synthsr import labels

if TYPE_CHECKING:
    from pathlib import Path

    from .content import Cohort

Array = npt.NDArray[Any]

#: Pixel of the pictures, and half of what they show along x (right), y (front), z (up), in mm.
PIXEL_MM = 1.25
HALF_MM = (88.0, 108.0, 95.0)
#: The sagittal plane lies this far to the left of the middle, where it meets the hippocampus.
SAGITTAL_LEFT_MM = 24.0
#: Grey level shown white in a synthetic T1, whose range is 0–128.
T1_WHITE = 128.0
COLOUR_WEIGHT = 0.5
GAP_PIXELS = 4


@dataclass(frozen=True)
class Montage:
    """A scan in three planes: input, synthetic T1, segmentation over it.

    Attributes
    ----------
    scan
        Row of the included scans.
    png
        The picture.
    """

    scan: dict[str, Any]
    png: bytes


def choose(scans: pd.DataFrame, number: int) -> pd.DataFrame:
    """Up to ``number`` scans, taking turns over contrasts and planes so that each kind is seen."""
    turn = scans.groupby(["contrast", "plane"]).cumcount()
    kind = scans.groupby(["contrast", "plane"]).ngroup()
    order = pd.DataFrame({"turn": turn, "kind": kind}).sort_values(["turn", "kind"]).index[:number]
    return scans.loc[order].sort_values(["contrast", "plane", "scan_id"])


def montages(cohort: Cohort, number: int) -> list[Montage]:
    """Pictures of up to ``number`` included scans; a scan whose files are gone is passed over."""
    found = []
    for scan in choose(cohort.included, number).to_dict("records"):
        paths = list(cohort.images(str(scan["scan_id"])).values())
        if all(path.is_file() for path in paths):
            picture = encode(montage(*paths, is_synthetic=cohort.is_synthetic))
            found.append(Montage({str(key): value for key, value in scan.items()}, picture))
    return found


def montage(raw: Path, at_1mm: Path, segmentation: Path, *, is_synthetic: bool = True) -> Array:
    """Rows input, synthetic T1, segmentation; columns axial and coronal through the middle, sagittal left of it.

    All three are sampled at the same points of the world, so that a shift between them shows. Neurological
    convention: the patient's left is on the left. What is not synthetic has the grey levels of the input.

    Returns
    -------
    RGB, uint8, shape (height, width, 3).
    """
    images = [_load(path) for path in (raw, at_1mm, segmentation)]
    data, affine = images[2]
    inside = np.argwhere(np.isin(data, labels.intracranial_numbers()))
    centre = (inside.mean(axis=0) if len(inside) else (np.array(data.shape) - 1) / 2) @ affine[:3, :3].T + affine[:3, 3]
    beside = centre - np.array([SAGITTAL_LEFT_MM, 0, 0])
    planes = [_plane(centre, 0, 1), _plane(centre, 0, 2), _plane(beside, 1, 2)]
    finite = images[0][0][np.isfinite(images[0][0])]
    black, white = np.percentile(finite, [1, 99.5]) if finite.size else (0.0, 1.0)
    inputs = [_grey(_sample(*images[0], plane, order=1, outside=black), black, white) for plane in planes]
    levels = (0.0, T1_WHITE) if is_synthetic else (black, white)
    t1s = [_grey(_sample(*images[1], plane, order=1, outside=levels[0]), *levels) for plane in planes]
    tinted = [tint(t1, _sample(*images[2], plane, order=0)) for t1, plane in zip(t1s, planes, strict=True)]
    return _stack([_row(inputs), _row(t1s), _row(tinted)], axis=0)


def tint(grey: Array, numbers: Array) -> Array:
    """Lay the label table's colours over an RGB picture, half transparent; background stays grey."""
    table = labels.by_number()
    painted = grey.astype(float)
    for number in np.unique(numbers):
        label = table.get(int(number))
        if label is not None and label.tissue != "background":
            where = numbers == number
            painted[where] = (1 - COLOUR_WEIGHT) * painted[where] + COLOUR_WEIGHT * np.array(label.colour)
    return painted.round().astype(np.uint8)


def encode(rgb: Array) -> bytes:
    """PNG without signature or date."""
    from matplotlib.image import imsave

    unsigned: Any = {"Software": None}
    stream = io.BytesIO()
    imsave(stream, rgb, format="png", metadata=unsigned, pil_kwargs={"optimize": True})
    return stream.getvalue()


def people(persons: pd.DataFrame, scans: pd.DataFrame) -> bytes:
    """Histogram of age by sex (one count per person) and of slice spacing by contrast (one per scan)."""
    figure, (left, right) = figures.panels(2, width_inch=4.4, height_inch=2.8)
    sexes = {"F": "women", "M": "men"}
    ages = [persons.loc[persons["sex"] == sex, "age_years"].dropna() for sex in sexes]
    ages.append(persons.loc[~persons["sex"].isin(sexes), "age_years"].dropna())
    _histogram(left, ages, [*sexes.values(), "sex unknown"], np.arange(0, 121, 5))
    left.set_xlabel("age at first session (years)")
    left.set_ylabel("people")
    contrasts = sorted(scans["contrast"].unique())
    spacings = [scans.loc[scans["contrast"] == contrast, "spacing_mm"].dropna() for contrast in contrasts]
    _histogram(right, spacings, contrasts, np.arange(0.25, 15.3, 0.5))
    right.set_xlabel("spacing between slices (mm)")
    right.set_ylabel("scans")
    return figures.png(figure)


def _histogram(axis: Any, values: Sequence[Any], names: Sequence[str], bins: Array) -> None:
    """Stacked, with hatches beside colours so that it can be read without them."""
    shown = [(value, name) for value, name in zip(values, names, strict=True) if len(value)]
    if not shown:
        axis.text(0.5, 0.5, "not known", ha="center", va="center", transform=axis.transAxes)
        return
    colours = (figures.ORANGE, figures.BLUE, figures.GREEN, figures.PURPLE, figures.VERMILION, figures.GREY)
    everything = np.concatenate([value for value, _ in shown])
    used = bins[max(np.searchsorted(bins, everything.min(), "right") - 2, 0) :
                np.searchsorted(bins, everything.max(), "right") + 1]  # fmt: skip
    axis.hist([value for value, _ in shown], bins=used if len(used) > 1 else 10, stacked=True,
              label=[name for _, name in shown], color=[colours[i % len(colours)] for i in range(len(shown))],
              hatch=[("", "///", "...", "xx", "\\\\", "++")[i % 6] for i in range(len(shown))],
              edgecolor="white", linewidth=0.6)  # fmt: skip
    axis.legend(frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(shown))
    axis.yaxis.get_major_locator().set_params(integer=True)


def _load(path: Path) -> tuple[Array, Array]:
    image: Any = nib.load(path)
    data = np.asanyarray(image.dataobj)
    return data.reshape((*data.shape[:3], -1))[..., 0], image.affine


def _plane(centre: Array, across: int, up: int) -> Array:
    """World points of a plane through ``centre``, shape (rows, columns, 3); the first row is the uppermost."""
    steps = [np.arange(-HALF_MM[axis], HALF_MM[axis], PIXEL_MM) for axis in (across, up)]
    points = np.broadcast_to(centre, (len(steps[1]), len(steps[0]), 3)).copy()
    points[..., across] += steps[0]
    points[..., up] += steps[1][::-1, None]
    return points


def _sample(data: Array, affine: Array, points: Array, *, order: int, outside: float = 0.0) -> Array:
    inverse = np.linalg.inv(affine)
    voxels = np.moveaxis(points @ inverse[:3, :3].T + inverse[:3, 3], -1, 0)
    values = data if order == 0 else np.nan_to_num(data.astype(np.float32))
    interpolate: Any = ndimage.map_coordinates  # its stubs know no array of unknown type
    return np.asarray(interpolate(values, voxels, order=order, cval=outside))


def _grey(values: Array, black: float, white: float) -> Array:
    scaled = np.clip((values - black) / max(white - black, 1e-6), 0, 1)
    return np.repeat((scaled * 255).round().astype(np.uint8)[..., None], 3, axis=-1)


def _row(pictures: Sequence[Array]) -> Array:
    height = max(picture.shape[0] for picture in pictures)
    padded = []
    for picture in pictures:
        short = height - picture.shape[0]
        padded.append(np.pad(picture, ((short // 2, short - short // 2), (0, 0), (0, 0))))
    return _stack(padded, axis=1)


def _stack(pictures: Sequence[Array], *, axis: int) -> Array:
    gap = [(0, 0)] * 3
    gap[axis] = (0, GAP_PIXELS)
    return np.concatenate([*(np.pad(picture, gap) for picture in pictures[:-1]), pictures[-1]], axis=axis)
