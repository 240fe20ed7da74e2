"""Scans of a deformed anatomy.

The signal of a voxel that several tissues share is the sum of theirs by fraction. The fractions come from points at
most ``sampling_mm`` apart in every direction (half a millimetre), weighted by the slice's profile. Linear interpolation
of the signals of the base's labels is that sum for fractions interpolated linearly, so one scalar image stands for all
fractions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch.nn import functional

from . import deform
from .anatomy import Anatomy
from .geometry import FLIP, Stack
from .patients import Patient, Visit
from .tissues import AIR_HU, BEYOND, LESIONS, SINUS, Sequence, signal, signals, table

Array = npt.NDArray[np.float32]
Window = tuple[slice, slice]

#: Distance, within a slice, of the points at which the deformation is looked up; between them it is linear.
COARSE_MM = 2.0
#: Width of each of the profile's slopes over its width at half height: a trapezoid, as of a selective pulse.
SLOPES = 0.4
#: Steps of the search for where a point of the base lies, and their length: with whole steps it would not end where the
#: patient is less than half as large as the base.
INVERTING, STEP = 80, 0.4
#: Part of the lines of k-space that are acquired along the phase direction.
PHASE_RESOLUTION = 0.85


@dataclass(frozen=True)
class Head:
    """A patient's head in the scanner.

    Attributes
    ----------
    anatomy
        The base.
    pull_mm
        On the deformation's grid (3, X, Y, Z): displacement to the base.
    texture
        On the same grid of the base (X, Y, Z): unit variance.
    to_base
        Matrix (3, 4) from scanner coordinates (right, anterior, superior, mm) to undeformed base voxels.
    lesion
        Class of every voxel of the base, 0 where healthy; None without a lesion.
    sinus
        Voxels of the base that are venous blood, though the anatomy counts them as fluid.
    """

    anatomy: Anatomy
    pull_mm: torch.Tensor
    texture: torch.Tensor
    to_base: npt.NDArray[np.float64]
    lesion: npt.NDArray[np.uint8] | None = None
    sinus: npt.NDArray[np.bool_] | None = None

    @property
    def scale_cubed(self) -> float:
        """Volume in the scanner of a unit volume of the base's voxel space."""
        return float(1 / np.linalg.det(self.to_base[:, :3]))

    @cached_property
    def shown(self) -> npt.NDArray[np.uint16]:
        """Numbers of the base's tissues as they are imaged (X, Y, Z), with lesion and sinus."""
        numbers = self.anatomy.numbers
        if self.sinus is not None:
            numbers = np.where(self.sinus, np.uint16(SINUS), numbers)
        if self.lesion is not None:
            numbers = np.where(self.lesion > 0, BEYOND + self.lesion.astype(np.uint16), numbers)
        return numbers

    def volume(self, sequence: Sequence) -> torch.Tensor:
        """Signal of every voxel of the base (X, Y, Z)."""
        level, spread = signals(sequence)
        fine = functional.interpolate(self.texture[None, None], size=self.shown.shape, mode="trilinear")[0, 0]
        textured = level[self.shown] + spread[self.shown] * fine.numpy()
        return torch.from_numpy(textured if sequence.kind == "x_ray" else np.maximum(textured, 0))

    @cached_property
    def intracranial(self) -> npt.NDArray[np.bool_]:
        """Blocks of the deformation's grid that touch the patient's intracranial space."""
        held = np.asarray(self.anatomy.fractions.sum(axis=0)).reshape(self.anatomy.grid_shape) > 0
        return self._deformed(held)

    def _deformed(self, blocks: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Blocks of the patient that touch given blocks of the base."""
        nodes = deform.lattice(self.anatomy.grid_shape) + self.pull_mm.movedim(0, -1) / self.anatomy.grid_mm
        share = torch.from_numpy(blocks.astype(np.float32))[None]
        return np.asarray(deform.sample(share, nodes)[0].numpy() > 0)

    def _middles_mm(self, blocks: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
        """Middles of blocks in the scanner (N, 3), right, anterior, superior."""
        grid = self.anatomy.grid_mm
        return self.to_scanner(np.argwhere(blocks).astype(np.float64) * grid + (grid - 1) / 2)

    def to_scanner(self, points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Scanner coordinates (N, 3) of points in the undeformed base's voxels."""
        return np.asarray(np.linalg.solve(self.to_base[:, :3], (points - self.to_base[:, 3]).T).T)

    def intracranial_points_mm(self) -> npt.NDArray[np.float64]:
        """Middles of the intracranial blocks in the scanner (N, 3)."""
        return self._middles_mm(self.intracranial)

    @cached_property
    def points_mm(self) -> npt.NDArray[np.float64]:
        """Middles of all blocks of the head in the scanner (N, 3)."""
        x, y, z = self.anatomy.grid_shape
        grid = self.anatomy.grid_mm
        blocks = (self.anatomy.numbers > 0).reshape(x, grid, y, grid, z, grid).max(axis=(1, 3, 5))
        return self._middles_mm(self._deformed(np.asarray(blocks)))

    def carried_mm(self, points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Where points of the base (N, 3; voxels) lie in the scanner: the inverse of the pull, by iteration."""
        grid = self.anatomy.grid_mm
        wanted = torch.from_numpy(points.astype(np.float32))
        found = wanted
        for _ in range(INVERTING):
            lacking = wanted - found - deform.sample(self.pull_mm, (found - (grid - 1) / 2) / grid).movedim(0, -1)
            found = found + STEP * lacking
        return self.to_scanner(found.numpy().astype(np.float64))


def place(
    anatomy: Anatomy,
    pull: Array,
    patient: Patient,
    visit: Visit,
    *,
    rng: np.random.Generator,
    swelling: float = 1.0,
    lesion: npt.NDArray[np.uint8] | None = None,
    sinus: npt.NDArray[np.bool_] | None = None,
) -> Head:
    """Put a deformed anatomy into the scanner.

    Parameters
    ----------
    anatomy, pull
        The base and its deformation, as :func:`.deform.fit` gives it.
    patient, visit
        Whose head size, and its position.
    rng
        Of the texture.
    swelling
        Intracranial volume that the deformation makes over the base's; size makes up for it.
    lesion, sinus
        As in :class:`Head`.
    """
    noise = ndimage.gaussian_filter(rng.standard_normal(anatomy.grid_shape, dtype=np.float32), 0.7)
    scale = (patient.icv_mm3 / (swelling * anatomy.volumes_mm3.sum())) ** (1 / 3)
    linear = visit.rotation.T / scale
    offset = anatomy.centre - linear @ visit.translation_mm
    return Head(
        anatomy,
        torch.from_numpy(pull * anatomy.grid_mm),
        torch.from_numpy(noise / noise.std()),
        np.column_stack([linear, offset]),
        lesion,
        sinus,
    )


def true_volumes_mm3(head: Head, *, step_mm: float) -> npt.NDArray[np.float64]:
    """Volumes of the anatomy's structures, counted on the deformed label map.

    Parameters
    ----------
    head
        The patient's head.
    step_mm
        Largest distance of the points at which the label is looked up, in the scanner.

    Returns
    -------
    numpy.ndarray
        By class of lesion (rows; the first is healthy tissue) and structure (columns).
    """
    anatomy = head.anatomy
    grid, fine = anatomy.grid_mm, int(np.ceil(head.scale_cubed ** (1 / 3) / step_mm - 1e-6))
    kinds = len(anatomy.structures) + 1
    # Whatever is no structure inside the skull counts as one more.
    lookup = np.full(int(anatomy.numbers.max()) + 1, kinds - 1, dtype=np.int32)
    lookup[list(anatomy.structures)] = np.arange(kinds - 1)
    codes = torch.from_numpy(lookup[anatomy.numbers])
    if head.lesion is not None:
        codes += kinds * torch.from_numpy(head.lesion)
    last = torch.tensor(codes.shape)[:, None, None, None] - 1
    counts = torch.zeros(kinds * (len(LESIONS) + 1), dtype=torch.int64)
    # Only where the intracranial space may be, and a block around it.
    (x0, x1), (y0, y1), (z0, z1) = (
        (max(int(axis.min()) - 1, 0), min(int(axis.max()) + 2, n))
        for axis, n in zip(np.nonzero(head.intracranial), anatomy.grid_shape, strict=True)
    )
    for slab in range(x0, x1):
        # A slab of blocks and its neighbours; upsampling by the block's size leaves a block's middle on its node.
        low, high = max(slab - 1, 0), min(slab + 2, anatomy.grid_shape[0])
        scale = grid * fine
        moved = functional.interpolate(
            head.pull_mm[None, :, low:high, y0:y1, z0:z1], scale_factor=scale, mode="trilinear", align_corners=False
        )[0, :, (slab - low) * scale : (slab - low + 1) * scale]
        for axis, (first, stop) in enumerate(((slab, slab + 1), (y0, y1), (z0, z1))):
            points = (torch.arange(first * scale, stop * scale) + 0.5) / fine - 0.5
            moved[axis] += points.reshape([-1 if i == axis else 1 for i in range(3)])
        x, y, z = torch.minimum(moved.round_().to(torch.int64).clamp_(min=0), last)
        counts += torch.bincount(codes[x, y, z].ravel(), minlength=counts.numel())
    return counts.numpy().reshape(-1, kinds)[:, :-1] / fine**3 * head.scale_cubed


def profile(thickness_mm: float, *, step_mm: float) -> tuple[Array, Array]:
    """Offsets in mm across a slice and their weights: a trapezoid ``thickness_mm`` wide at half its height."""
    half = thickness_mm * (1 + SLOPES) / 2
    count = int(np.ceil(2 * half / step_mm)) | 1
    offsets = (np.arange(count) - (count - 1) / 2) * (2 * half / count)
    weights = np.clip((half - np.abs(offsets)) / (thickness_mm * SLOPES), 0, 1)
    return offsets.astype(np.float32), (weights / weights.sum()).astype(np.float32)


@dataclass(frozen=True)
class Move:
    """Where the head is, for a while, relative to where it should be: a turn about the stack's middle, then a shift."""

    turn: npt.NDArray[np.float64]
    shift_mm: npt.NDArray[np.float64]


def render(
    head: Head, sequence: Sequence, stack: Stack, *, sampling_mm: float, moves: list[Move] | None = None
) -> Array:
    """Signal without noise, (slices, rows, columns), in units of fully relaxed water or Hounsfield units.

    Parameters
    ----------
    head, sequence, stack
        What is scanned, how, and where.
    sampling_mm
        Largest distance of the points that a voxel averages.
    moves
        Of the head at every slice.
    """
    volume = head.volume(sequence)[None, None]
    step = int(np.ceil(stack.pixel_mm / sampling_mm - 1e-6))
    offsets, weights = profile(stack.thickness_mm, step_mm=sampling_mm)
    image = np.full((stack.slices, stack.matrix, stack.matrix), AIR_HU if sequence.kind == "x_ray" else 0, np.float32)
    for number, window in _windows(head, stack, moved=moves is not None):
        grid = _points(head, stack, number, window, offsets, step=step, move=moves[number] if moves else None)
        fine = functional.grid_sample(volume, grid[None], padding_mode="border", align_corners=True)[0, 0]
        across = torch.tensordot(torch.from_numpy(weights), fine, 1)
        image[number][window] = functional.avg_pool2d(across[None], step)[0].numpy()
    return image


def lesion_mask(head: Head, stack: Stack) -> npt.NDArray[np.uint8]:
    """Class of the lesion at the middle of every voxel, (slices, rows, columns)."""
    mask = np.zeros((stack.slices, stack.matrix, stack.matrix), dtype=np.uint8)
    if head.lesion is not None:
        volume = torch.from_numpy(head.lesion.astype(np.float32))[None, None]
        for number, window in _windows(head, stack, moved=False):
            grid = _points(head, stack, number, window, np.zeros(1, np.float32), step=1, move=None)
            nearest = functional.grid_sample(volume, grid[None], mode="nearest", align_corners=True)
            mask[number][window] = nearest[0, 0, 0].numpy().astype(np.uint8)
    return mask


def _windows(head: Head, stack: Stack, *, moved: bool) -> Iterator[tuple[int, Window]]:
    """Slices that the head reaches, and the rows and columns that it does."""
    block_mm = head.anatomy.grid_mm * head.scale_cubed ** (1 / 3)
    margin_mm = 2 * block_mm + (6.0 if moved else 0.0)
    axes = np.stack([stack.column, stack.row, stack.normal])
    along = (head.points_mm * FLIP - stack.position_mm(0)) @ axes.T
    order = np.argsort(along[:, 2])
    along = along[order]
    reach_mm = stack.thickness_mm * (1 + SLOPES) / 2 + margin_mm
    for number in range(stack.slices):
        middle = number * stack.spacing_mm
        first, stop = np.searchsorted(along[:, 2], (middle - reach_mm, middle + reach_mm))
        if first == stop:
            continue
        near = along[first:stop, :2]
        low = np.floor((near.min(axis=0) - margin_mm) / stack.pixel_mm).astype(int)
        high = np.ceil((near.max(axis=0) + margin_mm) / stack.pixel_mm).astype(int) + 1
        low, high = np.clip(low, 0, stack.matrix), np.clip(high, 0, stack.matrix)
        if (low < high).all():
            yield number, (slice(low[0], high[0]), slice(low[1], high[1]))


def _points(
    head: Head, stack: Stack, number: int, window: Window, offsets: Array, *, step: int, move: Move | None
) -> torch.Tensor:
    """Points of the base that a slice's window averages (K, rows, columns, 3), as ``grid_sample`` wants them.

    Each pixel has ``step`` × ``step`` points, and ``offsets`` (K, mm) across the slice.
    """
    rows, columns = ((part.stop - part.start) for part in window)
    # Evenly from the first to the last fine point, in pixels.
    ends = [(part.start - 0.5 + 0.5 / step, part.stop - 0.5 - 0.5 / step) for part in window]
    counts = [max(int(np.ceil(n * stack.pixel_mm / COARSE_MM)), 1) + 1 for n in (rows, columns)]
    j, i = (np.linspace(*end, count) * stack.pixel_mm for end, count in zip(ends, counts, strict=True))
    lps = (
        stack.position_mm(number)
        + offsets[:, None, None, None] * stack.normal
        + j[:, None, None] * stack.column
        + i[:, None] * stack.row
    )
    ras = lps * FLIP
    if move is not None:
        middle = stack.centre_mm * FLIP
        ras = (ras - middle) @ move.turn.T + middle + move.shift_mm
    points = torch.from_numpy((ras @ head.to_base[:, :3].T + head.to_base[:, 3]).astype(np.float32))
    grid = head.anatomy.grid_mm
    points += deform.sample(head.pull_mm, (points - (grid - 1) / 2) / grid).movedim(0, -1)
    last = torch.tensor(head.anatomy.numbers.shape, dtype=torch.float32) - 1
    normalised = (2 * points / last - 1).flip(-1)
    fine = functional.interpolate(
        normalised.permute(0, 3, 1, 2), size=(rows * step, columns * step), mode="bilinear", align_corners=True
    )
    return fine.permute(0, 2, 3, 1)


@dataclass(frozen=True)
class Ghost:
    """Breathing or trembling along the phase direction while k-space is filled.

    Attributes
    ----------
    amplitude_px
        Of the movement.
    cycles
        During the scan.
    phase
        In radians.
    """

    amplitude_px: float
    cycles: float
    phase: float


def acquire(
    image: Array, stack: Stack, rng: np.random.Generator, *, noise: float, bias: float, ghost: Ghost | None = None
) -> Array:
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
        Standard deviation of the log sensitivity 70 mm from the isocentre along an axis (a random quadratic in
        position).
    ghost
        Movement while lines are acquired.
    """
    frequency = np.fft.fftfreq(stack.matrix)
    lines = np.abs(frequency) / (0.5 * PHASE_RESOLUTION)
    # Raised cosine over the outer fifth: the vendors' mild filter against ringing.
    window = np.where(lines > 1, 0, 0.5 + 0.5 * np.cos(np.pi * np.clip((lines - 0.8) / 0.2, 0, 1))).astype(complex)
    if ghost is not None:
        when = frequency + 0.5
        moved = ghost.amplitude_px * np.sin(2 * np.pi * ghost.cycles * when + ghost.phase)
        window *= np.exp(-2j * np.pi * frequency * moved)
    # The lines' noise goes through the same filter.
    loud = noise / np.sqrt(np.mean(np.abs(window) ** 2))
    terms = rng.normal(0, bias / np.sqrt(2), 6)
    affine = stack.affine_ras()
    j, i = np.ogrid[: stack.matrix, : stack.matrix]
    acquired = np.empty_like(image)
    for k, plane in enumerate(image):
        x, y, z = ((a * i + b * j + c * k + start) / 70 for a, b, c, start in affine[:3])
        log_sensitivity = sum(term * part for term, part in zip(terms, (x, y, z, x * x, y * y, z * z), strict=True))
        real, imaginary = loud * rng.standard_normal((2, *plane.shape))
        noisy = plane * np.exp(np.clip(log_sensitivity, -1, 1)) + real + 1j * imaginary
        acquired[k] = np.abs(np.fft.ifft(np.fft.fft(noisy, axis=1) * window, axis=1))
    return acquired


def reconstruct(image: Array, rng: np.random.Generator, *, noise_hu: float) -> Array:
    """What a CT scanner makes of attenuations: a soft kernel's blur, and noise that is smooth for the same reason.

    Parameters
    ----------
    image
        Hounsfield units (slices, rows, columns).
    rng
        Random numbers.
    noise_hu
        Standard deviation of the noise.
    """
    soft = (0.0, 0.7, 0.7)
    noise = ndimage.gaussian_filter(rng.standard_normal(image.shape, dtype=np.float32), soft)
    blurred = ndimage.gaussian_filter(image, soft)
    return np.asarray(np.maximum(blurred + noise_hu / noise.std() * noise, AIR_HU), dtype=np.float32)


def white_matter_signal(sequence: Sequence) -> float:
    """Signal of white matter, to which the noise is related."""
    return signal(table()["Cerebral-White-Matter"], sequence)
