"""Sections through a scan's images at the same points of the world, and a scan's picture made of them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from synthsr import labels

Array = npt.NDArray[Any]

#: Pixel of the pictures, and half of what they show along x (right), y (front), z (up), in mm.
PIXEL_MM = 1.0
HALF_MM = (88.0, 108.0, 95.0)
#: The sagittal plane lies this far to the left of the middle, where it meets the hippocampus.
SAGITTAL_LEFT_MM = 24.0
#: Grey level shown white in a synthetic T1, whose range is 0–128.
T1_WHITE = 128.0
#: Percentiles of a scan's brightness shown black and white.
SHOWN_PERCENT = (1.0, 99.5)
GAP_PIXELS = 4
#: Height of a head without its neck, and the grey level above which a head is taken to be.
HEAD_MM, BRIGHT = 150.0, 64
#: Side of a checkerboard's fields.
FIELD_MM = 24.0


def load(path: Path) -> tuple[Array, Array]:
    """Voxels of a three-dimensional image (the first volume of a longer one) and its affine (RAS+ mm)."""
    image: Any = nib.load(path)
    data = np.asanyarray(image.dataobj)
    return data.reshape((*data.shape[:3], -1))[..., 0], image.affine


def sample(data: Array, affine: Array, points: Array, *, order: int, outside: float = 0.0) -> Array:
    """Values at points of the world.

    Parameters
    ----------
    data, affine
        Voxels, shape (x, y, z), and their place in RAS+ mm.
    points
        RAS+ mm, shape (..., 3).
    order
        0 for label maps, 1 for images.
    outside
        Value beyond the image.
    """
    inverse = np.linalg.inv(affine)
    voxels = np.moveaxis(points @ inverse[:3, :3].T + inverse[:3, 3], -1, 0)
    values = data if order == 0 else np.nan_to_num(data.astype(np.float32))
    interpolate: Any = ndimage.map_coordinates  # its stubs know no array of unknown type
    return np.asarray(interpolate(values, voxels, order=order, cval=outside))


def grey_window(data: Array) -> tuple[float, float]:
    """Brightness shown black and white: :data:`SHOWN_PERCENT` of what is finite."""
    finite = data[np.isfinite(data)]
    black, white = np.percentile(finite, SHOWN_PERCENT) if finite.size else (0.0, 1.0)
    return float(black), float(white)


def grey_levels(values: Array, window: tuple[float, float]) -> Array:
    """Values as uint8, 0 at the window's lower end and 255 at its upper."""
    black, white = window
    scaled = np.clip((values - black) / max(white - black, 1e-6), 0, 1)
    levels: Array = (scaled * 255).round().astype(np.uint8)
    return levels


def outlined(grey: Array, numbers: Array) -> Array:
    """Draw the borders of labelled structures, in the label table's colours, over an RGB picture.

    Parameters
    ----------
    grey
        RGB, uint8, shape (height, width, 3).
    numbers
        Label of every pixel. A pixel is border if one of its four neighbours has another label.
    """
    padded = np.pad(numbers, 1, mode="edge")
    neighbours = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    border = np.any([numbers != other for other in neighbours], axis=0)
    table = labels.by_number()
    painted = grey.copy()
    for number in np.unique(numbers[border]):
        label = table.get(int(number))
        if label is not None and label.tissue != "background":
            painted[border & (numbers == number)] = label.colour
    return painted


def montage(raw: Path, at_1mm: Path, segmentation: Path, *, is_synthetic: bool = True) -> Array:
    """Columns input, synthetic T1, outlines on the input, outlines on the synthetic T1; rows axial, coronal, sagittal.

    All are sampled at the same points of the world, so that a shift between them shows. Axial and coronal planes go
    through the middle of the brain, the sagittal one lies left of it. Neurological convention: the patient's left is
    on the left; in sagittal planes the front is on the right. What is not synthetic has the grey levels of the input.

    Returns
    -------
    RGB, uint8, shape (height, width, 3).
    """
    images = [load(path) for path in (raw, at_1mm, segmentation)]
    data, affine = images[2]
    inside = np.argwhere(np.isin(data, labels.intracranial_numbers()))
    centre = (inside.mean(axis=0) if len(inside) else (np.array(data.shape) - 1) / 2) @ affine[:3, :3].T + affine[:3, 3]
    beside = centre - np.array([SAGITTAL_LEFT_MM, 0, 0])
    window = grey_window(images[0][0])
    windows = (window, (0.0, T1_WHITE) if is_synthetic else window)
    rows = []
    for points in (_plane(centre, 0, 1), _plane(centre, 0, 2), _plane(beside, 1, 2)):
        numbers = sample(*images[2], points, order=0)
        greys = [
            np.repeat(grey_levels(sample(*image, points, order=1, outside=shown[0]), shown)[..., None], 3, axis=-1)
            for image, shown in zip(images[:2], windows, strict=True)
        ]
        rows.append(_row([*greys, *(outlined(grey, numbers) for grey in greys)]))
    return _stack(rows, axis=0)


def checkerboards(pairs: Sequence[tuple[Path, Path]]) -> Array:
    """A column per pair of images of one world, rows axial, coronal, sagittal: fields of the one and of the other.

    Where the images lie on each other, borders run on from field to field. Planes go through the middle of the first
    image's head, the sagittal one left of it, as in :func:`montage`; every image has grey levels of its own.

    Returns
    -------
    RGB, uint8, shape (height, width, 3).
    """
    columns = []
    for paths in pairs:
        images = [load(path) for path in paths]
        windows = [grey_window(data) for data, _ in images]
        centre = head_centre(*images[0], windows[0])
        beside = centre - np.array([SAGITTAL_LEFT_MM, 0, 0])
        column = []
        for points in (_plane(centre, 0, 1), _plane(centre, 0, 2), _plane(beside, 1, 2)):
            one, other = (
                grey_levels(sample(*image, points, order=1, outside=window[0]), window)
                for image, window in zip(images, windows, strict=True)
            )
            fields = np.add.outer(*(np.arange(n) * PIXEL_MM // FIELD_MM for n in one.shape)) % 2 == 0
            column.append(np.repeat(np.where(fields, one, other)[..., None], 3, axis=-1))
        columns.append(column)
    return _stack([_row(list(row)) for row in zip(*columns, strict=True)], axis=0)


def head_centre(data: Array, affine: Array, window: tuple[float, float]) -> Array:
    """Middle (RAS+ mm) of what is bright, not further than :data:`HEAD_MM` below its top: a neck does not count."""
    every = tuple(slice(None, None, 2) for _ in range(3))
    bright: Array = np.argwhere(grey_levels(data[every], window) > BRIGHT) * 2
    if not len(bright):
        bright = (np.array(data.shape)[None] - 1) / 2
    points = bright @ affine[:3, :3].T + affine[:3, 3]
    centre: Array = points[points[:, 2] > np.percentile(points[:, 2], 99.9) - HEAD_MM].mean(axis=0)
    return centre


def encode(rgb: Array) -> bytes:
    """PNG without signature or date."""
    from matplotlib.image import imsave

    unsigned: Any = {"Software": None}
    stream = io.BytesIO()
    imsave(stream, rgb, format="png", metadata=unsigned, pil_kwargs={"optimize": True})
    return stream.getvalue()


def _plane(centre: Array, across: int, up: int) -> Array:
    """World points of a plane through ``centre``, shape (rows, columns, 3); the first row is the uppermost."""
    steps = [np.arange(-HALF_MM[axis], HALF_MM[axis], PIXEL_MM) for axis in (across, up)]
    points = np.broadcast_to(centre, (len(steps[1]), len(steps[0]), 3)).copy()
    points[..., across] += steps[0]
    points[..., up] += steps[1][::-1, None]
    return points


def _row(pictures: Sequence[Array]) -> Array:
    """Side by side, each in a box as wide as the widest plane, so that columns of several rows stand in line."""
    width = int(2 * max(HALF_MM[:2]) / PIXEL_MM)
    padded = []
    for picture in pictures:
        short = width - picture.shape[1]
        padded.append(np.pad(picture, ((0, 0), (short // 2, short - short // 2), (0, 0))))
    return _stack(padded, axis=1)


def _stack(pictures: Sequence[Array], *, axis: int) -> Array:
    gap = [(0, 0)] * 3
    gap[axis] = (0, GAP_PIXELS)
    return np.concatenate([*(np.pad(picture, gap) for picture in pictures[:-1]), pictures[-1]], axis=axis)
