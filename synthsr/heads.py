"""Label maps of whole heads from real T1 scans, so that scan and label map are a pair to train on.

The brain is the project's own segmentation, with the folds redrawn by intensity, or somebody else's; the rest of the
head is told apart by intensity.
"""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.processing import resample_from_to
from scipy import cluster, ndimage

from . import files, io, labels, preprocess, scan
from .errors import DataError
from .segment import Segmenter

BONE, SOFT, FAT = 515, 507, 511
#: What of the neck is kept below the brain.
NECK_MM = 60
#: Thickness given to the skin.
SKIN_MM = 2
#: Bright tissue deeper than this is muscle, marrow or mucosa rather than the fat under the skin.
SCALP_MM = 12
#: What is darker than this part of white matter is taken for air when the head is looked for.
AIR = 0.1
#: Width over which a scan's sensitivity is taken to be even.
SENSITIVITY_MM = 25
#: Opens the sidecar of every output.
FACTS = {"Description": "Label map of a whole head, numbers of synthsr/labels.tsv"}


def label_head(
    t1: Path, target: Path, *, segmenter: Segmenter, brain: Path | None = None, names: Path | None = None
) -> None:
    """Write the label map of a T1's whole head to ``target``, on the T1's RAS grid of 1 mm, with a JSON sidecar.

    Parameters
    ----------
    t1
        T1 scan, skull and skin included.
    target
        Label map to write.
    segmenter
        Finds the brain; of a given brain, the sides and the fluid around it.
    brain
        Segmentation to keep, on any grid of the same space.
    names
        Its look-up table, see :func:`synthsr.labels.read_segmentation_names`.

    Raises
    ------
    DataError
        If a file cannot be used or shows no cerebral white matter; nothing is written then.
    """
    image, grid = scan.read(t1, ct=False)
    channel, _ = segmenter.segment(image)
    own = np.array(labels.segmentation_numbers(), dtype=np.uint16)[channel.numpy()]
    _require_white_matter(own, f"{t1}: the segmentation network finds")
    grey = image[0, 0].numpy()
    facts = dict(FACTS)
    if brain is None:
        numbers = fold_cerebrum(grey, own)
    else:
        numbers = complete(_read_given(brain, names, grid), own)
        _require_white_matter(numbers, f"{brain}: on the grid of {t1} it has")
        facts |= {"Brain": brain.name, "BrainSHA256": files.sha256(brain)}
    whole = around_brain(grey, numbers)
    scan.write_sidecar(target, facts, source=t1, weights=segmenter.weights, ct=False, flip=True)
    io.save(whole.astype(np.int16), grid, target)


def _require_white_matter(numbers: npt.NDArray[np.uint16], found: str) -> None:
    """Intensities of the head are related to white matter."""
    if not np.isin(numbers, labels.WHITE_MATTER).any():
        raise DataError(f"{found} no cerebral white matter (labels {labels.WHITE_MATTER}); is it a T1 of this head?")


def _read_given(brain: Path, names: Path | None, grid: preprocess.Grid) -> npt.NDArray[np.uint16]:
    """Numbers of a given segmentation on a grid, shape (2, x, y, z): as they are on the left, and on the right."""
    data, affine = io.load(brain)
    index = np.rint(data).astype(np.int64)
    known = labels.read_segmentation_names(names)
    unknown = sorted(set(np.unique(index).tolist()) - set(known))
    if unknown or np.abs(index - data).max() > 1e-3:
        raise DataError(
            f"{brain}: {f'labels {unknown} have no name' if unknown else 'values between whole numbers'}; give a "
            "segmentation and its table of names"
        )
    placed = resample_from_to(nib.Nifti1Image(data, affine), (grid.shape, grid.affine), order=0)
    index = np.rint(np.asarray(placed.dataobj)).astype(np.int64)  # 0 outside
    numbers = np.zeros((2, max(known) + 1), dtype=np.uint16)
    for position, (*_, last) in known.items():
        numbers[:, position] = known[position][0], last
    return numbers[:, index]


def complete(given: npt.NDArray[np.uint16], own: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint16]:
    """Give a segmentation the sides and the outer fluid that it lacks.

    Parameters
    ----------
    given
        Numbers of the segmentation if a voxel is left, and if it is right, shape (2, x, y, z).
    own
        Segmentation with sides and fluid, shape (x, y, z).

    Returns
    -------
    numpy.ndarray
        The given structures, each voxel on the side of the nearest voxel of ``own`` that has one; fluid (24) where
        ``own`` is inside the skull and nothing is given.
    """
    side_of_number = np.zeros(labels.table()[-1].number + 1, dtype=np.uint8)
    for label in labels.table():
        side_of_number[label.number] = ("midline", "left", "right").index(label.side)
    side = side_of_number[own]
    nearest = ndimage.distance_transform_edt(side == 0, return_distances=False, return_indices=True)
    structure = np.where(side[tuple(nearest)] == 2, given[1], given[0])
    return np.where((structure == 0) & (own > 0), labels.FLUID, structure).astype(np.uint16)


def fold_cerebrum(t1: npt.NDArray[np.float32], brain: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint16]:
    """Redraw cortex, cerebral white matter and outer fluid by the scan's own intensity.

    A network's segmentation may be smoother than the folds; on a T1 scan the three tissues are told apart by grey level
    alone. Each voxel takes the side of the nearest voxel that the segmentation calls cortex or white matter.

    Parameters
    ----------
    t1, brain
        Scan and segmentation on one grid of 1 mm.
    """
    region = np.isin(brain, (*labels.CORTEX, *labels.WHITE_MATTER, labels.FLUID))
    # Slow changes of sensitivity would pass for tissue: divide by the local mean over the region.
    weight = ndimage.gaussian_filter(region.astype(np.float32), SENSITIVITY_MM)
    local = ndimage.gaussian_filter(np.where(region, t1, 0), SENSITIVITY_MM) / np.maximum(weight, 1e-6)
    grey = ndimage.gaussian_filter(t1, 0.5) / np.maximum(local, 1e-6)
    starts = np.percentile(grey[region], [10, 50, 90])[:, None]
    levels = np.sort(cluster.vq.kmeans2(grey[region][:, None], starts)[0].ravel())
    tissue = np.digitize(grey, (levels[1:] + levels[:-1]) / 2)
    sides = np.where(np.isin(brain, (labels.CORTEX[0], labels.WHITE_MATTER[0])), 1, 0) + np.where(
        np.isin(brain, (labels.CORTEX[1], labels.WHITE_MATTER[1])), 2, 0
    )
    nearest = ndimage.distance_transform_edt(sides == 0, return_distances=False, return_indices=True)
    side = sides[tuple(nearest)] - 1
    redrawn = np.array([(labels.FLUID, labels.FLUID), labels.CORTEX, labels.WHITE_MATTER])[tissue, side]
    return np.where(region, redrawn, brain).astype(np.uint16)


def around_brain(t1: npt.NDArray[np.float32], brain: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint16]:
    """Label the head outside the intracranial space by its T1 intensity.

    Parameters
    ----------
    t1, brain
        Scan and segmentation (0 outside, 1–499 inside, some of it white matter) on one grid of 1 mm.

    Returns
    -------
    numpy.ndarray
        ``brain`` with 515 (bone, air), 507 (soft tissue) and 511 (fat) for the dark, middle and bright of three
        clusters of intensity, 511 also within ``SKIN_MM`` of the air around the head and never deeper than
        ``SCALP_MM``; 0 outside the head and further than ``NECK_MM`` below the brain. Holes of ``brain`` count as
        fluid (24).
    """
    inside = ndimage.binary_fill_holes(brain > 0)
    white = float(np.median(t1[np.isin(brain, labels.WHITE_MATTER)]))
    smooth = ndimage.gaussian_filter(t1, 0.7)
    head = (smooth > AIR * white) | inside
    head[:, :, : max(int(np.nonzero(inside.any(axis=(0, 1)))[0].min()) - NECK_MM, 0)] = False
    parts, _ = ndimage.label(head)
    head = parts == np.bincount(parts[inside]).argmax()
    # Closed with the edge repeated, so that the cut through the neck does not open the head.
    head = ndimage.binary_closing(np.pad(head, 12, mode="edge"), _ball(3), iterations=4)[12:-12, 12:-12, 12:-12]
    for axis in range(3):
        for plane in np.moveaxis(head, axis, 0):
            plane |= ndimage.binary_fill_holes(plane)
    around = head & ~inside
    levels = np.sort(
        cluster.vq.kmeans2(smooth[around][:, None], np.percentile(smooth[around], [10, 50, 90])[:, None])[0].ravel()
    )
    classes = np.array([BONE, SOFT, FAT], dtype=np.uint16)[np.digitize(smooth, (levels[1:] + levels[:-1]) / 2)]
    depth_mm = ndimage.distance_transform_edt(head)
    classes[(classes == FAT) & (depth_mm > SCALP_MM)] = SOFT
    classes[depth_mm <= SKIN_MM] = FAT
    return np.where(inside, np.where(brain > 0, brain, labels.FLUID), np.where(head, classes, 0)).astype(np.uint16)


def _ball(radius: int) -> npt.NDArray[np.bool_]:
    x, y, z = np.ogrid[-radius : radius + 1, -radius : radius + 1, -radius : radius + 1]
    return np.asarray(x * x + y * y + z * z <= radius * radius)
