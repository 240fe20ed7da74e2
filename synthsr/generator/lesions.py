"""Lesions in label maps: drawn from masks or from nothing, placed where anatomy allows, absent from the target.

Iglesias et al., Science Advances 2023: lesion labels join the map before intensities are drawn, so that they get a
random appearance, while the regression target shows healthy tissue.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor

from .. import io, labels
from ..errors import DataError
from . import deformation
from .steps import upsampled

Array = npt.NDArray[np.float64]
#: Control points per axis of the noise that roughens a random shape.
ROUGHNESS_POINTS = 6
#: Lesion masks smaller than this are specks of the segmentation.
MINIMUM_MASK_MM3 = 10


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
        Folder of binary lesion masks (NIfTI, 1 mm); their connected parts are used beside random shapes.
    mask_probability
        Chance that a lesion is one of the masks, when there are any.
    rotation_deg, scaling
        Random turn of a mask about each axis, U(−, +), and size factor 1 + U(−, +).
    """

    probability: float = 0.0
    number: tuple[int, int] = (1, 8)
    volume_mm3: tuple[float, float] = (30.0, 60_000.0)
    roughness: tuple[float, float] = (0.2, 0.7)
    masks: Path | None = None
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
        self.shapes = [] if config.masks is None else read_masks(config.masks)
        rows = labels.table()
        self._brain = torch.tensor([label.tissue in ("white", "grey", "deep_grey") for label in rows])
        # CSF around and within the brain may be covered by a lesion that starts in tissue, bone and skin may not.
        self._allowed = torch.tensor([1 <= label.number <= 499 for label in rows])
        left, right = labels.index_lookup()[list(labels.LESION)].tolist()
        self._lesion = torch.tensor([right if label.side == "right" else left for label in rows])

    def sample(self, rng: np.random.Generator) -> list[dict[str, Any]]:
        """Draw the lesions of one image: shape, size, turn, and the share of brain voxels before its place."""
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
            "place": float(rng.random()),
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
        result = index.clone()
        for lesion in lesions:
            tissue = torch.nonzero(self._brain.to(index.device)[index].reshape(-1)).flatten()
            if not tissue.numel():
                return result
            centre = int(tissue[int(lesion["place"] * tissue.numel())])
            voxel = np.unravel_index(centre, index.shape)
            window = self._window(lesion, voxel, index.shape, voxel_size_mm)
            region, under = result[window], index[window]
            inside = self._shape(lesion, voxel, window, voxel_size_mm, index.device)
            inside &= self._allowed.to(index.device)[under]
            region[inside] = self._lesion.to(index.device)[under][inside]
        return result

    def _window(self, lesion: dict[str, Any], voxel: Any, shape: Any, voxel_size_mm: float) -> tuple[slice, ...]:
        """Box about a lesion's centre that holds all of it."""
        if lesion["mask"] is None:
            reach = 2 * lesion["radius_mm"]
        else:
            stretch = 1 / np.linalg.norm(lesion["turn"][0])
            reach = stretch * np.linalg.norm(self.shapes[lesion["mask"]].shape) / 2
        half = int(np.ceil(reach / voxel_size_mm))
        return tuple(
            slice(max(int(at) - half, 0), min(int(at) + half + 1, length))
            for at, length in zip(voxel, shape, strict=True)
        )

    def _shape(
        self, lesion: dict[str, Any], voxel: Any, window: tuple[slice, ...], voxel_size_mm: float, device: torch.device
    ) -> Tensor:
        """Voxels of the window that the lesion covers, bool."""
        axes = [
            (torch.arange(part.start, part.stop, device=device, dtype=torch.float32) - float(at)) * voxel_size_mm
            for part, at in zip(window, voxel, strict=True)
        ]
        place = torch.stack(torch.meshgrid(*axes, indexing="ij"))
        turn = torch.as_tensor(lesion["turn"], dtype=torch.float32, device=device)
        if lesion["mask"] is not None:
            mask = torch.from_numpy(self.shapes[lesion["mask"]]).to(device)
            middle = torch.tensor([(length - 1) / 2 for length in mask.shape], device=device).reshape(3, 1, 1, 1)
            covered: Tensor = deformation.interpolate(mask, torch.einsum("ij,jxyz->ixyz", turn, place) + middle) > 0.5
            return covered
        distance: Tensor = place.norm(dim=0) / lesion["radius_mm"]
        rough = lesion["roughness"] * upsampled(lesion["field"], distance)
        # Beyond twice the radius there is no lesion, whatever the noise.
        covered = (distance + 0.5 * rough.clamp(-1.5, 1.5) < 1) & (distance < 2)
        return covered


def read_masks(folder: Path) -> list[npt.NDArray[np.float32]]:
    """Connected parts of every mask in a folder, cropped and turned to RAS.

    Raises
    ------
    DataError
        If the folder holds no image, an image is no mask of 1 mm voxels, or no part is large enough.
    """
    shapes: list[npt.NDArray[np.float32]] = []
    for path in io.list_images(folder):
        data, affine = io.load(path)
        if not np.allclose(np.linalg.norm(affine[:3, :3], axis=0), 1, atol=0.05):
            raise DataError(f"{path}: lesion masks must have 1 mm voxels; resample it")
        mask = np.asarray(nib.as_closest_canonical(nib.Nifti1Image((data > 0.5).astype(np.uint8), affine)).dataobj)
        parts, _ = ndimage.label(mask)
        for position, box in enumerate(ndimage.find_objects(parts), start=1):
            shape = (parts[box] == position).astype(np.float32)
            if shape.sum() >= MINIMUM_MASK_MM3:
                shapes.append(np.pad(shape, 1))
    if not shapes:
        raise DataError(f"{folder}: no lesion of at least {MINIMUM_MASK_MM3} mm³ in these masks")
    return shapes


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
