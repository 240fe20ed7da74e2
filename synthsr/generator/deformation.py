"""Random geometry: affine map, stationary velocity field, left/right flip, and the grid that looks through them.

Sources: Iglesias et al., NeuroImage 2021, section 2.2 and table 1; the reference implementation; integration by
scaling and squaring after Arsigny et al. 2006.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

Array = npt.NDArray[np.float64]
#: Largest distance of the points between which the velocity field is integrated.
INTEGRATION_SPACING_MM = 4.0
#: Largest standard deviation of the velocity field per distance of its control points.
STEEPEST = 0.25


@dataclass(frozen=True)
class Deformation:
    """Ranges of the deformation. U(a, b) is uniform, N(0, s) normal.

    Attributes
    ----------
    rotation_deg
        Rotation about each axis, U(−, +).
    scaling
        Scaling of each axis: 1 + U(−, +), or exp(U(log(1 − scaling), log(1 + scaling))) if ``scaling_in_log``.
    scaling_in_log
        Draw the scaling in the log domain.
    shear
        Shear of each pair of axes, U(−, +).
    translation_mm
        Offset of the field's centre from the cerebrum's, per axis, U(−, +).
    velocity_sd_mm
        Standard deviation of the stationary velocity field, U(low, high); at most :data:`STEEPEST` times the distance
        of its control points, so that dense fields do not fold.
    velocity_points
        Control points of the velocity field per axis, drawn from low to high (both included).
    flip_probability
        Chance of a left/right mirrored head, label sides swapped.
    """

    rotation_deg: float = 15.0
    scaling: float = 0.15
    scaling_in_log: bool = False
    shear: float = 0.012
    translation_mm: float = 12.0
    velocity_sd_mm: tuple[float, float] = (0.0, 3.0)
    velocity_points: tuple[int, int] = (12, 12)
    flip_probability: float = 0.5

    def sample(self, rng: np.random.Generator, field_mm: float) -> DeformationDraw:
        """Draw one deformation for a cubic field of view of that side."""
        points = int(rng.integers(self.velocity_points[0], self.velocity_points[1], endpoint=True))
        sd_mm = min(rng.uniform(*self.velocity_sd_mm), STEEPEST * field_mm / (points - 1))
        return DeformationDraw(
            affine=self._sample_affine(rng),
            velocity_mm=sd_mm * rng.standard_normal((3, points, points, points)),
            flip=bool(rng.random() < self.flip_probability),
        )

    def _sample_affine(self, rng: np.random.Generator) -> Array:
        if self.scaling_in_log:
            scale = np.exp(rng.uniform(np.log(1 - self.scaling), np.log(1 + self.scaling), 3))
        else:
            scale = 1 + rng.uniform(-self.scaling, self.scaling, 3)
        shear = np.eye(3)
        shear[~np.eye(3, dtype=bool)] = rng.uniform(-self.shear, self.shear, 6)
        rotation = rotation_matrix(rng.uniform(-self.rotation_deg, self.rotation_deg, 3))
        translation = rng.uniform(-self.translation_mm, self.translation_mm, 3)
        return np.column_stack([rotation @ shear @ np.diag(scale), translation])


@dataclass(frozen=True)
class DeformationDraw:
    """One deformation.

    Attributes
    ----------
    affine
        Output millimetres about the field's centre → source millimetres about the cerebrum's centre, shape (3, 4).
    velocity_mm
        Stationary velocity at its control points, shape (3, p, p, p).
    flip
        Mirror left and right.
    """

    affine: Array
    velocity_mm: Array
    flip: bool

    def coordinates(self, centre: Array, *, size: int, voxel_size_mm: float, device: torch.device) -> Tensor:
        """Source voxel of every output voxel.

        The velocity field is integrated on a coarse grid and the whole map, affine part included, is interpolated from
        there, which is exact for its affine part.

        Parameters
        ----------
        centre
            Voxel coordinates of the source's centre; the source has 1 mm voxels.
        size, voxel_size_mm
            The cubic output grid.
        device
            Where to compute.

        Returns
        -------
        Shape (3, size, size, size), float32.
        """
        coarse = max(self.velocity_mm.shape[-1], int(size * voxel_size_mm / INTEGRATION_SPACING_MM) + 1)
        half = (size - 1) / 2 * voxel_size_mm
        axis_mm = torch.linspace(-half, half, coarse, device=device)
        place = torch.stack(torch.meshgrid(axis_mm, axis_mm, axis_mm, indexing="ij"))
        velocity = torch.as_tensor(self.velocity_mm, dtype=torch.float32, device=device)
        velocity = F.interpolate(velocity[None], size=(coarse,) * 3, mode="trilinear", align_corners=True)
        place = place + integrate(velocity, half)[0]
        matrix = torch.as_tensor(self.affine, dtype=torch.float32, device=device)
        place = torch.einsum("ij,jxyz->ixyz", matrix[:, :3], place) + matrix[:, 3].reshape(3, 1, 1, 1)
        if self.flip:
            place[0] = -place[0]
        place = place + torch.as_tensor(centre, dtype=torch.float32, device=device).reshape(3, 1, 1, 1)
        full: Tensor = F.interpolate(place[None], size=(size,) * 3, mode="trilinear", align_corners=True)
        return full[0]


def rotation_matrix(degrees: npt.ArrayLike) -> Array:
    """Rotation about x, then y, then z; shape (3, 3)."""
    matrix = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(np.asarray(degrees, dtype=np.float64))):
        i, j = [other for other in range(3) if other != axis]
        turn = np.eye(3)
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        matrix = turn @ matrix
    return matrix


def integrate(velocity_mm: Tensor, half_mm: float, steps: int = 6) -> Tensor:
    """Displacement at time one of a stationary velocity field, by scaling and squaring.

    Parameters
    ----------
    velocity_mm
        Shape (n, 3, s, s, s), on a grid spanning ±``half_mm`` per axis.
    half_mm
        Half the side of the field of view.
    steps
        Number of squarings.

    Returns
    -------
    Displacement in mm, same shape.
    """
    size = velocity_mm.shape[-1]
    axis = torch.linspace(-1, 1, size, device=velocity_mm.device)
    identity = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1)
    displacement: Tensor = velocity_mm / 2**steps
    for _ in range(steps):
        grid = identity + displacement.permute(0, 2, 3, 4, 1) / half_mm
        # grid_sample wants the last axis's coordinate first.
        moved = F.grid_sample(displacement, grid.flip(-1), padding_mode="border", align_corners=True)
        displacement = displacement + moved
    return displacement


def look_up(volume: Tensor, place: Tensor) -> Tensor:
    """Nearest voxel of ``volume`` (x, y, z) at coordinates ``place`` (3, …); beyond the border, the border's."""
    flat = torch.zeros(place.shape[1:], dtype=torch.int64, device=place.device)
    for axis, length in enumerate(volume.shape):
        flat.mul_(length).add_(place[axis].round().clamp_(0, length - 1).long())
    return volume.reshape(-1)[flat]


def interpolate(volume: Tensor, place: Tensor) -> Tensor:
    """Trilinear value of ``volume`` (x, y, z) at coordinates ``place`` (3, …); zero outside."""
    scale = torch.tensor([2 / max(length - 1, 1) for length in volume.shape], device=place.device)
    grid = place.movedim(0, -1) * scale - 1
    found: Tensor = F.grid_sample(volume[None, None], grid.flip(-1)[None], padding_mode="zeros", align_corners=True)
    return found[0, 0]


def rigid_grid(shape: tuple[int, int, int], rigid: Array, voxel_size_mm: float, device: torch.device) -> Tensor:
    """Voxel coordinates after a rigid map about the grid's centre.

    Parameters
    ----------
    shape
        Of the grid.
    rigid
        Rotation and translation in mm, shape (3, 4).
    voxel_size_mm
        Of the grid.
    device
        Where to compute.

    Returns
    -------
    Shape (3, x, y, z), float32.
    """
    axes = [torch.arange(length, dtype=torch.float32, device=device) - (length - 1) / 2 for length in shape]
    place = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    matrix = torch.as_tensor(rigid, dtype=torch.float32, device=device)
    offset = matrix[:, 3] / voxel_size_mm + torch.tensor([(length - 1) / 2 for length in shape], device=device)
    return torch.einsum("ij,jxyz->ixyz", matrix[:, :3], place) + offset.reshape(3, 1, 1, 1)
