"""Measures of one scan for the gate: how much of the head is there, whether it lay still, how noisy the scan is, and
whether networks agree on it.

All come from the scan, its 1 mm image and the embedded segmenter; none needs a truth or another scan.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from synthsr import labels, preprocess

from . import motion
from .volumes import ICV

#: Tissues whose structures are compared and whose entropies are averaged.
TISSUES = ("white", "grey", "deep_grey", "csf")
#: Voxels of a structure below which its overlap tells little.
LEAST_VOXELS = 100
#: MAD of a normal distribution to its standard deviation.
MAD_TO_SD = 1.4826
#: What the second difference (1, −2, 1) in both in-plane directions makes of white noise of SD 1.
LAPLACIAN_SD = 6.0

Volume = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.int16]


def edge_share(numbers: Numbers) -> float:
    """How far the field of view cuts the brain: 0 if nowhere, 1 if through its largest section.

    The area of brain in the outermost plane of each of the six faces, as a share of the largest section along that
    axis; the largest of the six.

    Parameters
    ----------
    numbers
        Label map, shape (x, y, z).
    """
    brain = brain_of(numbers)
    shares = [0.0]
    for axis in range(3):
        area = brain.sum(axis=tuple(other for other in range(3) if other != axis))
        if area.max() > 0:
            shares += [area[0] / area.max(), area[-1] / area.max()]
    return float(max(shares))


def brain_of(numbers: Numbers) -> npt.NDArray[np.bool_]:
    """Where a label map has brain."""
    is_brain = np.zeros(labels.table()[-1].number + 1, dtype=bool)
    is_brain[list(labels.brain_numbers())] = True
    found: npt.NDArray[np.bool_] = is_brain[numbers]
    return found


def noise_share(data: Volume, affine: npt.NDArray[np.float64], numbers: Numbers, grid: preprocess.Grid) -> float:
    """Noise of a scan as a share of the brain's brightness.

    The scan's second differences within its slices, which smooth anatomy hardly has (Immerkaer, CVIU 1996), by their
    median absolute deviation in the brain.

    Parameters
    ----------
    data, affine
        The scan, and its voxels' place in RAS+ mm.
    numbers, grid
        Its label map at 1 mm, and where that lies.

    Returns
    -------
    Standard deviation over the median brightness; NaN where there is no brain or it is black.
    """
    inside = _onto_scan(brain_of(numbers), np.linalg.inv(grid.affine) @ affine, data.shape)
    if not inside.any():
        return math.nan
    # Where there is brain, and a voxel about it.
    box = tuple(slice(max(0, part.start - 1), part.stop + 1) for part in ndimage.find_objects(inside.view(np.uint8))[0])
    inside, differences = inside[box], data[box]
    through = int(np.argmax(np.linalg.norm(affine[:3, :3], axis=0)))
    for axis in range(3):
        if axis != through:
            differences = ndimage.convolve1d(differences, [1.0, -2.0, 1.0], axis=axis, mode="nearest")
    level = float(np.median(data[box][inside]) - min(float(data.min()), 0.0))
    spread = float(np.median(np.abs(differences[inside])))
    return MAD_TO_SD * spread / LAPLACIAN_SD / level if level > 0 else math.nan


def _onto_scan(
    mask: npt.NDArray[np.bool_], matrix: npt.NDArray[np.float64], shape: tuple[int, ...]
) -> npt.NDArray[np.bool_]:
    """Nearest voxel of a mask for every voxel of a scan whose axes are the mask's, in another order or direction.

    Parameters
    ----------
    mask
        On the grid of :func:`synthsr.preprocess.prepare` for this scan.
    matrix
        From the scan's voxels to the mask's.
    shape
        Of the scan; what lies outside the mask is False.
    """
    of_scan = np.abs(matrix[:3, :3]).argmax(axis=1)  # for every axis of the mask
    picked = np.pad(mask, 1)
    for axis, other in enumerate(of_scan):
        places = matrix[axis, other] * np.arange(shape[other]) + matrix[axis, 3]
        # One further because of the padding, which stands for what lies outside.
        nearest = np.floor(places + 0.5).clip(-1, mask.shape[axis]).astype(int) + 1
        picked = picked.take(nearest, axis=axis)
    return picked.transpose(np.argsort(of_scan))


def agreement_dice(first: Numbers, second: Numbers) -> float:
    """Mean Dice over structures of two label maps on one grid; one that only one of them has counts as 0.

    Parameters
    ----------
    first, second
        The segmentation of the 1 mm image, and that of the scan itself.
    """
    if first.shape != second.shape:
        return math.nan
    length = labels.table()[-1].number + 1
    counts = [np.bincount(each.ravel(), minlength=length) for each in (first, second)]
    both = np.bincount(first[first == second], minlength=length)
    total = counts[0] + counts[1]
    wanted = [number for number in structures() if total[number] >= 2 * LEAST_VOXELS]
    return float(np.mean(2 * both[wanted] / total[wanted])) if wanted else 0.0


def grey_white_contrast(image: Volume, numbers: Numbers) -> float:
    """White against grey matter in the 1 mm image: difference of the medians over that of white matter.

    About 0.35 in a T1 (FreeSurfer's grey levels); near 0 where the network answered the same everywhere.
    """
    pairs = (labels.WHITE_MATTER, labels.CORTEX)
    white, grey = (image[(numbers == left) | (numbers == right)] for left, right in pairs)
    if not (len(white) and len(grey)):
        return 0.0
    level = float(np.median(white))
    return (level - float(np.median(grey))) / level if level > 0 else 0.0


def asymmetry(volumes_mm3: Mapping[str, float]) -> float:
    """Difference of the hemispheres over their sum, of cerebral white matter and cortex; 1 where one is missing."""
    sides = [0.0, 0.0]
    for pair in (labels.WHITE_MATTER, labels.CORTEX):
        for side, number in enumerate(pair):
            sides[side] += volumes_mm3.get(labels.by_number()[number].name, 0.0)
    total = sum(sides)
    return abs(sides[0] - sides[1]) / total if total > 0 else 1.0


def mean_entropy(entropies: npt.NDArray[np.float64]) -> float:
    """Mean over structures of :meth:`synthsr.segment.Segmenter.segment_with_entropy`'s entropies (nats)."""
    wanted = set(structures())
    chosen = [value for number, value in zip(labels.segmentation_numbers(), entropies, strict=True) if number in wanted]
    return float(np.mean(chosen))


def structures() -> list[int]:
    """Numbers of the structures that are compared."""
    return [number for number in labels.segmentation_numbers() if labels.by_number()[number].tissue in TISSUES]


def measure(
    data: Volume,
    affine: npt.NDArray[np.float64],
    image: Volume,
    *,
    grid: preprocess.Grid,
    numbers: Numbers,
    direct: Numbers,
    entropies: npt.NDArray[np.float64],
    volumes_mm3: Mapping[str, float],
    seen: Volume | None,
    is_t1: bool = True,
) -> dict[str, float]:
    """All measures of a scan.

    Parameters
    ----------
    data, affine
        The scan as it was acquired.
    image
        Its 1 mm image, on ``grid``.
    grid
        Of the label maps.
    numbers, direct
        Segmentation of the 1 mm image, and of the scan itself.
    entropies
        Per channel, of the former.
    volumes_mm3
        Per structure.
    seen
        The scan at 1 mm, on ``grid``; None of a CT, in which motion looks otherwise: it is not known then.
    is_t1
        Whether the 1 mm image is a (synthetic) T1; of others :func:`grey_white_contrast` is not known.

    Returns
    -------
    By name, as in ``gate_limits.tsv``; ``entropy_…`` of every structure follow.
    """
    spacing_mm = np.linalg.norm(affine[:3, :3], axis=0)
    middle = grid.affine @ [*ndimage.center_of_mass(brain), 1] if (brain := brain_of(numbers)).any() else [math.nan] * 3
    names = labels.by_number()
    per_structure = {
        f"entropy_{names[number].name}": float(value)
        for number, value in zip(labels.segmentation_numbers(), entropies, strict=True)
        if number != 0
    }
    return {
        "spacing_mm": float(spacing_mm.max()),
        "edge_share": edge_share(numbers),
        "noise_share": noise_share(data, affine, numbers, grid),
        "motion": motion.probability(motion.shipped(), seen, affine) if seen is not None else math.nan,
        "agreement_dice": agreement_dice(numbers, direct),
        "grey_white_contrast": grey_white_contrast(image, numbers) if is_t1 else math.nan,
        "asymmetry": asymmetry(volumes_mm3),
        "entropy": mean_entropy(entropies),
        "icv_litres": volumes_mm3[ICV] / 1e6,
        **{f"centre_{axis}_mm": float(value) for axis, value in zip("xyz", middle[:3], strict=True)},
        **per_structure,
    }
