"""Skull-stripping: what of a scan lies within the brain's boundary, on the scan's own grid (Hoopes et al. 2022)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from . import io, scan
from .errors import ConfigurationError, DataError
from .networks import DISTANCE_LIMIT_MM
from .preprocess import Grid
from .segment import Segmenter

#: How far outside the brain the mask ends: SynthStrip's default.
BORDER_MM = 1.0
#: Open the sidecars of the stripped scan and of the mask.
FACTS = {"Description": "Skull-stripped scan", "SkullStripped": True}
MASK_FACTS = {"Description": "Brain mask", "Type": "Brain"}


def brain_mask(distance_mm: npt.NDArray[np.float32], border_mm: float = BORDER_MM) -> npt.NDArray[np.bool_]:
    """Largest connected part of what is nearer than a border, with its holes filled, as in SynthStrip.

    Parameters
    ----------
    distance_mm
        Signed distance to the brain's boundary, negative inside, shape (x, y, z).
    border_mm
        Where the mask ends.

    Returns
    -------
    Shape (x, y, z); empty where nothing is so near.
    """
    parts, number = ndimage.label(distance_mm < border_mm)
    if not number:
        return np.zeros(distance_mm.shape, dtype=bool)
    largest = 1 + np.bincount(parts.ravel())[1:].argmax()
    filled: npt.NDArray[np.bool_] = ndimage.binary_fill_holes(parts == largest)
    return filled


def require_border(border_mm: float) -> None:
    """Raise :class:`ConfigurationError` for a border at which distances are not told."""
    if not abs(border_mm) < DISTANCE_LIMIT_MM:
        raise ConfigurationError(
            f"border of {border_mm:g} mm: distances to the brain are told up to {DISTANCE_LIMIT_MM:g} mm; "
            "give less, negative to cut into the brain"
        )


def strip(
    segmenter: Segmenter,
    source: Path,
    target: Path,
    *,
    mask_target: Path | None = None,
    border_mm: float = BORDER_MM,
    ct: bool = False,
    flip: bool = True,
) -> None:
    """Write ``source`` without what is outside the brain, on its own grid and in its own intensities.

    Outside is 0, or the scan's minimum if that is lower. Sidecars lie beside both outputs.

    Parameters
    ----------
    segmenter
        With weights that tell distances.
    source
        Three-dimensional scan, NIfTI or MGH.
    target, mask_target
        Stripped scan, and the mask if that is wanted too.
    border_mm
        How far outside the brain's boundary to cut.
    ct
        The scan is computed tomography in Hounsfield units; the network sees it clipped, the output is not.
    flip
        Average with the mirrored pass.

    Raises
    ------
    ConfigurationError
        If the weights do not tell distances, or not as far as the border.
    DataError
        If the scan cannot be used, or has no brain in it; nothing is written then.
    """
    require_border(border_mm)
    segmenter.require_distance()
    data, affine = io.load(source)
    image, grid = scan.prepared(source, data, affine, ct=ct)
    distance = segmenter.strip(image, flip=flip).numpy()
    if not np.isfinite(distance).all():
        raise DataError(f"{source}: the network's output is not finite; try --device cpu, or leave out this scan")
    x, y, z = data.shape
    own = Grid((x, y, z), affine)
    mask = brain_mask(scan.onto_grid(distance, grid.affine, own), border_mm)
    if not mask.any():
        raise DataError(f"{source}: no brain found in it; is it a scan of a head, with a right header?")
    made = {"BorderMm": border_mm}
    for path, facts, voxels in (
        (target, FACTS, np.where(mask, data, min(0, data.min())).astype(np.float32)),
        (mask_target, MASK_FACTS, mask.astype(np.uint8)),
    ):
        if path is not None:
            scan.write_sidecar(path, facts | made, source=source, weights=segmenter.weights, ct=ct, flip=flip)
            io.save(voxels, own, path)
