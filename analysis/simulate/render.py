"""Thick-slice scans of a deformed anatomy.

The signal of a voxel that several tissues share is the sum of theirs by fraction. Linear interpolation of the signals
of the base's labels is that sum for fractions interpolated linearly, so one scalar image stands for all fractions.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

from . import deform
from .anatomy import Anatomy
from .geometry import FLIP, Stack
from .patients import Patient
from .tissues import Sequence, signal, signals, table

Array = npt.NDArray[np.float32]

#: Sampling across a slice, at most.
STEP_MM = 1.0
#: Part of the profile's width at half height that its slopes take, both together: a trapezoid, as of a selective pulse.
SLOPES = 0.4
#: Part of the lines of k-space that are acquired along the phase direction.
PHASE_RESOLUTION = 0.85


@dataclass(frozen=True)
class Head:
    """A patient's head in the scanner.

    Attributes
    ----------
    anatomy
        The base.
    fields
        On the deformation's grid (4, X, Y, Z): displacement to the base in mm, and a texture of unit variance.
    to_base
        Matrix (3, 4) from scanner coordinates (right, anterior, superior, mm) to undeformed base voxels.
    """

    anatomy: Anatomy
    fields: torch.Tensor
    to_base: npt.NDArray[np.float64]

    @property
    def scale_cubed(self) -> float:
        """Volume in the scanner of a unit volume of the base's voxel space."""
        return float(1 / np.linalg.det(self.to_base[:, :3]))

    @cached_property
    def intracranial(self) -> npt.NDArray[np.bool_]:
        """Blocks of the deformation's grid that touch the patient's intracranial space."""
        anatomy = self.anatomy
        held = np.asarray(anatomy.fractions.sum(axis=0)).reshape(anatomy.grid_shape) > 0
        nodes = deform.lattice(anatomy.grid_shape) + self.fields[:3].movedim(0, -1) / anatomy.grid_mm
        share = torch.from_numpy(held.astype(np.float32))[None]
        return np.asarray(deform.sample(share, nodes)[0].numpy() > 0)

    def intracranial_points_mm(self) -> npt.NDArray[np.float64]:
        """Middles of those blocks in the scanner (N, 3), right, anterior, superior."""
        grid = self.anatomy.grid_mm
        voxels = np.argwhere(self.intracranial) * grid + (grid - 1) / 2
        return np.asarray(np.linalg.solve(self.to_base[:, :3], (voxels - self.to_base[:, 3]).T).T)


def place(anatomy: Anatomy, warp: deform.Warp, patient: Patient, rng: np.random.Generator) -> Head:
    """Put a deformed anatomy into the scanner: head size, rotation and position of ``patient``, texture by ``rng``."""
    noise = ndimage.gaussian_filter(rng.standard_normal(anatomy.grid_shape, dtype=np.float32), 0.7)
    fields = np.concatenate([warp.pull * anatomy.grid_mm, (noise / noise.std())[None]])
    scale = (patient.icv_mm3 / anatomy.volumes_mm3.sum()) ** (1 / 3)
    linear = patient.rotation.T / scale
    offset = anatomy.centre - linear @ patient.translation_mm
    return Head(anatomy, torch.from_numpy(fields.astype(np.float32)), np.column_stack([linear, offset]))


def true_volumes_mm3(head: Head, *, step_mm: float) -> npt.NDArray[np.float64]:
    """Volumes of the anatomy's structures, counted on the deformed label map.

    Parameters
    ----------
    head
        The patient's head.
    step_mm
        Distance of the points at which the label is looked up, one over a whole number; in the base's millimetres.
    """
    anatomy = head.anatomy
    grid, fine = anatomy.grid_mm, round(1 / step_mm)
    numbers = torch.from_numpy(anatomy.numbers.astype(np.int32))
    last = torch.tensor(numbers.shape)[:, None, None, None] - 1
    counts = torch.zeros(int(numbers.max()) + 1, dtype=torch.int64)
    # Only where the intracranial space may be, and a block around it.
    (x0, x1), (y0, y1), (z0, z1) = (
        (max(int(axis.min()) - 1, 0), min(int(axis.max()) + 2, n))
        for axis, n in zip(np.nonzero(head.intracranial), anatomy.grid_shape, strict=True)
    )
    for slab in range(x0, x1):
        # A slab of blocks and its neighbours; upsampling by the block's size leaves a block's middle on its node.
        low, high = max(slab - 1, 0), min(slab + 2, anatomy.grid_shape[0])
        scale = grid * fine
        moved = torch.nn.functional.interpolate(
            head.fields[None, :3, low:high, y0:y1, z0:z1], scale_factor=scale, mode="trilinear", align_corners=False
        )[0, :, (slab - low) * scale : (slab - low + 1) * scale]
        for axis, (first, stop) in enumerate(((slab, slab + 1), (y0, y1), (z0, z1))):
            points = (torch.arange(first * scale, stop * scale) + 0.5) / fine - 0.5
            moved[axis] += points.reshape([-1 if i == axis else 1 for i in range(3)])
        x, y, z = torch.minimum(moved.round_().to(torch.int64).clamp_(min=0), last)
        counts += torch.bincount(numbers[x, y, z].ravel(), minlength=counts.numel())
    return counts[list(anatomy.structures)].numpy() / fine**3 * head.scale_cubed


def profile(thickness_mm: float) -> tuple[Array, Array]:
    """Offsets in mm across a slice and their weights: a trapezoid ``thickness_mm`` wide at half its height."""
    half = thickness_mm * (1 + SLOPES) / 2
    count = int(np.ceil(2 * half / STEP_MM)) | 1
    offsets = (np.arange(count) - (count - 1) / 2) * (2 * half / count)
    weights = np.clip((half - np.abs(offsets)) / (thickness_mm * SLOPES), 0, 1)
    return offsets.astype(np.float32), (weights / weights.sum()).astype(np.float32)


def render(head: Head, sequence: Sequence, stack: Stack) -> Array:
    """Signal without noise, (slices, rows, columns), in units of fully relaxed water."""
    base = torch.from_numpy(np.stack([lookup[head.anatomy.numbers] for lookup in signals(sequence)]))
    grid = head.anatomy.grid_mm
    linear, shift = head.to_base[:, :3], head.to_base[:, 3]
    # Steps in base voxels along the columns, the rows and across the slice.
    along, down, across = (torch.from_numpy((linear @ (FLIP * v)).astype(np.float32)) for v in
                           (stack.row, stack.column, stack.normal))  # fmt: skip
    pixels = torch.arange(float(stack.matrix)) * stack.pixel_mm
    offsets, weights = (torch.from_numpy(values) for values in profile(stack.thickness_mm))
    plane = down * pixels[:, None, None] + along * pixels[None, :, None]
    image = np.empty((stack.slices, stack.matrix, stack.matrix), dtype=np.float32)
    for number in range(stack.slices):
        corner = torch.from_numpy((linear @ (FLIP * stack.position_mm(number)) + shift).astype(np.float32))
        points = corner + plane + across * offsets[:, None, None, None]
        *displacement, texture = deform.sample(head.fields, (points - (grid - 1) / 2) / grid)
        level, spread = deform.sample(base, points + torch.stack(displacement, dim=-1), outside="zeros")
        image[number] = torch.einsum("k,kij->ij", weights, (level + spread * texture).clamp_(min=0)).numpy()
    return image


def acquire(image: Array, stack: Stack, rng: np.random.Generator, *, noise: float, bias: float) -> Array:
    """What the scanner makes of a signal: coil sensitivity, fewer phase-encoding lines, complex noise, magnitude.

    Parameters
    ----------
    image
        Signal (slices, rows, columns).
    stack
        Its geometry.
    rng
        Random numbers.
    noise
        Standard deviation in each of the real and the imaginary part: the magnitude's is Rician.
    bias
        Standard deviation of the log sensitivity 70 mm from the isocentre (a random quadratic in position).
    """
    terms = rng.normal(0, bias / 2, 6)
    affine = stack.affine_ras()
    k, j, i = np.ogrid[: stack.slices, : stack.matrix, : stack.matrix]
    x, y, z = ((affine[axis, 0] * i + affine[axis, 1] * j + affine[axis, 2] * k + affine[axis, 3]) / 70
               for axis in range(3))  # fmt: skip
    log_sensitivity = sum(term * part for term, part in zip(terms, (x, y, z, x * x, y * y, z * z), strict=True))
    lines = np.abs(np.fft.fftfreq(stack.matrix)) / (0.5 * PHASE_RESOLUTION)
    # Raised cosine over the outer fifth: the vendors' mild filter against ringing.
    window = np.where(lines > 1, 0, 0.5 + 0.5 * np.cos(np.pi * np.clip((lines - 0.8) / 0.2, 0, 1)))
    lit = (image * np.exp(np.clip(log_sensitivity, -1, 1))).astype(np.float32)
    spectrum = np.fft.fft(lit, axis=2) * window
    noisy = np.fft.ifft(spectrum, axis=2)
    noisy += noise * (rng.standard_normal(image.shape) + 1j * rng.standard_normal(image.shape))
    return np.abs(noisy).astype(np.float32)


def white_matter_signal(sequence: Sequence) -> float:
    """Signal of white matter, to which the noise is related."""
    return signal(table()["Cerebral-White-Matter"], sequence)
