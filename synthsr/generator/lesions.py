"""Lesions in label maps: drawn from masks or from nothing, placed where anatomy allows, absent from the target.

Iglesias et al., Science Advances 2023: lesion labels join the map before intensities are drawn, so that they get a
random appearance, while the regression target shows healthy tissue.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor

from .. import io, labels
from ..errors import ConfigurationError, DataError
from . import deformation
from .steps import upsampled

Array = npt.NDArray[np.float64]
#: Control points per axis of the noise that roughens a random shape.
ROUGHNESS_POINTS = 6
#: A random shape ends here, in radii: where noise of full strength has taken all it can.
REACH_RADII = 1.75
#: Lesion masks smaller than this are specks of the segmentation.
MINIMUM_MASK_MM3 = 10
#: Places drawn for a lesion, of which the first in brain tissue is taken.
PLACES = 64


@dataclass(frozen=True)
class Lesions:
    """Ranges of the lesions.

    Attributes
    ----------
    probability
        Chance that an image has lesions.
    number
        Lesions of such an image, drawn from low to high (both included).
    volume_mm3
        Volume of a random shape, log-uniform from low to high; what lies outside the brain is cut off.
    roughness
        Departure of a random shape from a ball, 0 to 1, U(low, high).
    masks
        Binary lesion masks (NIfTI or MGH, 1 mm), their connected parts used beside random shapes: folders, or patterns
        such as ``$DATA/*/lesion*.nii.gz`` (``**`` for folders of any depth); one or a list.
    mask_probability
        Chance that a lesion is one of the masks, when there are any.
    rotation_deg, scaling
        Random turn of a mask about each axis, U(−, +), and size factor 1 + U(−, +).
    """

    probability: float = 0.0
    number: tuple[int, int] = (1, 8)
    volume_mm3: tuple[float, float] = (30.0, 60_000.0)
    roughness: tuple[float, float] = (0.2, 0.7)
    masks: tuple[Path, ...] = ()
    mask_probability: float = 0.5
    rotation_deg: float = 180.0
    scaling: float = 0.3


class LesionSource:
    """Draws lesions and lays them into deformed label maps.

    Parameters
    ----------
    config
        Ranges.
    """

    def __init__(self, config: Lesions) -> None:
        self.config = config
        self.shapes = read_masks(config.masks)
        rows = labels.table()
        self._brain = torch.tensor([label.tissue in ("white", "grey", "deep_grey") for label in rows])
        # CSF around and within the brain may be covered by a lesion that starts in tissue, bone and skin may not.
        self._allowed = torch.tensor([1 <= label.number <= 499 for label in rows])
        left, right = labels.index_lookup()[list(labels.LESION)].tolist()
        self._lesion = torch.tensor([right if label.side == "right" else left for label in rows])

    def sample(self, rng: np.random.Generator) -> list[dict[str, Any]]:
        """Draw the lesions of one image: shape, size, turn, and places in shares of the field of view."""
        c = self.config
        if rng.random() >= c.probability:
            return []
        return [self._sample_one(rng) for _ in range(int(rng.integers(c.number[0], c.number[1], endpoint=True)))]

    def _sample_one(self, rng: np.random.Generator) -> dict[str, Any]:
        c = self.config
        from_mask = bool(self.shapes) and rng.random() < c.mask_probability
        radius = (3 * np.exp(rng.uniform(*np.log(c.volume_mm3))) / (4 * np.pi)) ** (1 / 3)
        return {
            "mask": int(rng.integers(len(self.shapes))) if from_mask else None,
            "radius_mm": float(radius),
            "roughness": float(rng.uniform(*c.roughness)),
            "field": rng.standard_normal((ROUGHNESS_POINTS,) * 3),
            "turn": deformation.rotation_matrix(rng.uniform(-c.rotation_deg, c.rotation_deg, 3))
            / (1 + rng.uniform(-c.scaling, c.scaling)),
            "places": rng.random((PLACES, 3)),
        }

    def apply(self, index: Tensor, lesions: list[dict[str, Any]], voxel_size_mm: float) -> Tensor:
        """Lay lesions into one deformed label map.

        Parameters
        ----------
        index
            Positions in the label table, shape (x, y, z).
        lesions
            From :meth:`sample`.
        voxel_size_mm
            Of the grid.

        Returns
        -------
        A new map in which lesion voxels hold the position of label 25, or 57 in the right half of the brain.
        """
        brain, allowed, number = (part.to(index.device) for part in (self._brain, self._allowed, self._lesion))
        result = index.clone()
        for lesion in lesions:
            places = torch.as_tensor(lesion["places"] * index.shape, device=index.device).long()
            within = torch.nonzero(brain[index[places.unbind(1)]]).flatten()
            if not within.numel():
                continue
            voxel = places[within[0]].tolist()
            window = self._window(lesion, voxel, index.shape, voxel_size_mm)
            under = index[window]
            inside = self._shape(lesion, voxel, window, voxel_size_mm, index.device) & allowed[under]
            result[window] = torch.where(inside, number[under], result[window])
        return result

    def _window(self, lesion: dict[str, Any], voxel: Any, shape: Any, voxel_size_mm: float) -> tuple[slice, ...]:
        """Box about a lesion's centre that holds all of it."""
        if lesion["mask"] is None:
            reach_mm = np.full(3, REACH_RADII * lesion["radius_mm"])
        else:
            corner = np.array(self.shapes[lesion["mask"]].shape) / 2
            reach_mm = np.abs(np.linalg.inv(lesion["turn"])) @ corner
        half = np.ceil(reach_mm / voxel_size_mm).astype(int)
        return tuple(
            slice(max(at - reach, 0), min(at + reach + 1, length))
            for at, reach, length in zip(voxel, half.tolist(), shape, strict=True)
        )

    def _shape(
        self, lesion: dict[str, Any], voxel: Any, window: tuple[slice, ...], voxel_size_mm: float, device: torch.device
    ) -> Tensor:
        """Voxels of the window that the lesion covers, bool."""
        axes = [
            (torch.arange(part.start, part.stop, device=device, dtype=torch.float32) - at) * voxel_size_mm
            for part, at in zip(window, voxel, strict=True)
        ]
        x, y, z = axes[0][:, None, None], axes[1][None, :, None], axes[2][None, None, :]
        if lesion["mask"] is not None:
            mask = torch.from_numpy(self.shapes[lesion["mask"]]).to(device).float()
            turn = torch.as_tensor(lesion["turn"], dtype=torch.float32, device=device)
            middle = [(length - 1) / 2 for length in mask.shape]
            place = [row[0] * x + row[1] * y + row[2] * z + at for row, at in zip(turn, middle, strict=True)]
            covered: Tensor = deformation.interpolate(mask, torch.stack(place)) > 0.5
            return covered
        distance = (x * x + y * y + z * z).sqrt_().div_(lesion["radius_mm"])
        rough = upsampled(lesion["field"], distance).mul_(0.5 * lesion["roughness"])
        limit = REACH_RADII - 1
        covered = distance.add_(rough.clamp_(-limit, limit)) < 1
        return covered


@cache
def read_masks(masks: tuple[Path, ...]) -> tuple[npt.NDArray[np.bool_], ...]:
    """Connected parts of lesion masks, cropped and turned to RAS, read once in a process.

    Parameters
    ----------
    masks
        Folders and patterns, see :class:`Lesions`.

    Raises
    ------
    ConfigurationError
        If an entry names no image.
    DataError
        If an image is no mask of 1 mm voxels, or no part is large enough.
    """
    shapes = [part for path in find_masks(masks) for part in _parts(path)]
    if masks and not shapes:
        raise DataError(f"{', '.join(map(str, masks))}: no lesion of at least {MINIMUM_MASK_MM3} mm³ in these masks")
    return tuple(shapes)


def find_masks(masks: tuple[Path, ...]) -> list[Path]:
    """Images that folders and patterns name, environment variables filled in; each once, sorted.

    Raises
    ------
    ConfigurationError
        If an entry names none.
    """
    found: set[Path] = set()
    for entry in masks:
        pattern = Path(os.path.expandvars(entry))
        pattern = pattern / "*" if pattern.is_dir() else pattern
        named = Path(pattern.anchor).glob(str(pattern.relative_to(pattern.anchor)))
        images = {path for path in named if path.name.lower().endswith(io.SUFFIXES)}
        if not images:
            raise ConfigurationError(f"lesions.masks: {entry}: no image ({', '.join(io.SUFFIXES)}) is called so")
        found |= images
    return sorted(found)


def _parts(path: Path) -> list[npt.NDArray[np.bool_]]:
    """Connected parts of one mask."""
    data, affine = io.load(path)
    if not np.allclose(np.linalg.norm(affine[:3, :3], axis=0), 1, atol=0.05):
        raise DataError(f"{path}: lesion masks must have 1 mm voxels; resample it")
    mask = data > 0.5
    # Most of a mask is empty; what follows is quick on the rest.
    lines = [np.flatnonzero(mask.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    if not len(lines[0]):
        return []
    mask = mask[tuple(slice(line[0], line[-1] + 1) for line in lines)]
    mask = nib.orientations.apply_orientation(mask, nib.orientations.io_orientation(affine))
    numbered, _ = ndimage.label(mask)
    large = np.bincount(numbered.ravel()) >= MINIMUM_MASK_MM3
    boxes = ndimage.find_objects(numbered)
    return [np.pad(numbered[box] == n, 1) for n, box in enumerate(boxes, start=1) if large[n]]


def fill(grey: npt.NDArray[np.float32], lesion: npt.NDArray[np.bool_], white: npt.NDArray[np.bool_]) -> Any:
    """White-matter lesions of a real target replaced by the white matter around them.

    Normalised convolution: the Gaussian-weighted mean of white matter outside lesions, in a neighbourhood that grows
    until there is some.

    Parameters
    ----------
    grey
        Scan, shape (x, y, z).
    lesion, white
        Its white-matter lesions, and its white matter (lesions may be part of it).

    Returns
    -------
    The filled scan, float32.
    """
    sound = (white & ~lesion).astype(np.float32)
    filled = grey.astype(np.float32, copy=True)
    todo = lesion.copy()
    for sd_voxels in (2.0, 4.0, 8.0, 16.0):
        if not todo.any():
            break
        weight = ndimage.gaussian_filter(sound, sd_voxels)
        near = todo & (weight > 1e-3)
        filled[near] = (ndimage.gaussian_filter(grey * sound, sd_voxels)[near] / weight[near]).astype(np.float32)
        todo &= ~near
    return filled
