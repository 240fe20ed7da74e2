"""Slices of heads that moved while k-space was acquired, and of heads that lay still."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Slice = npt.NDArray[np.float32]
Spectrum = npt.NDArray[np.complex128]


@dataclass(frozen=True)
class Acquisition:
    """How slices are scanned; ranges are drawn from uniformly, both ends of whole numbers included.

    Attributes
    ----------
    positions
        Number of positions that a restless head takes.
    shift_mm, rotation_deg
        Of the position farthest from the one at the middle of k-space; standard deviation of the rotation.
    every
        Lines of k-space are acquired one after the other, or every so many of them in turn.
    least_change
        Of a slice with motion: norm of the difference from the still head as a share of the head's. What is less is
        drawn again, as nobody would see it.
    cut_probability, kept
        Chance per axis of coarser pixels, and the share of k-space that is then acquired.
    noise
        Standard deviation as a share of the brightest voxels.
    blanked_probability
        Chance of a background that the scanner (or an archive) set to zero.
    smoothed_probability, smoothed_voxels
        Chance of a smoothed image, and the standard deviation.
    gamma
        Exponent of the brightness.
    """

    positions: tuple[int, int] = (2, 8)
    shift_mm: tuple[float, float] = (3.0, 14.0)
    rotation_deg: tuple[float, float] = (0.0, 6.0)
    every: tuple[int, int] = (2, 4)
    least_change: float = 0.12
    cut_probability: float = 0.3
    kept: tuple[float, float] = (0.5, 1.0)
    noise: tuple[float, float] = (0.0, 0.05)
    blanked_probability: float = 0.4
    smoothed_probability: float = 0.3
    smoothed_voxels: tuple[float, float] = (0.0, 0.8)
    gamma: tuple[float, float] = (0.7, 1.4)

    def __call__(self, still: Slice, rng: np.random.Generator, *, moves: bool) -> Slice:
        """Scan a slice.

        Parameters
        ----------
        still
            Square, voxels of 1 mm, not negative.
        rng
            Decides everything.
        moves
            Whether the head moves.
        """
        spectrum = centred_spectrum(still)
        if moves:
            spectrum = self._moved(still, rng)
        for axis in (0, 1):
            if rng.random() < self.cut_probability:
                spectrum = spectrum * self._window(still.shape[axis], rng).reshape((-1, 1) if axis == 0 else (1, -1))
        image = magnitude(spectrum)
        sd = rng.uniform(*self.noise) * np.percentile(image, 99)
        image = np.hypot(image + sd * rng.standard_normal(image.shape), sd * rng.standard_normal(image.shape))
        if rng.random() < self.blanked_probability:
            head = still > still.max() * rng.uniform(0.05, 0.2)
            image = image * ndimage.binary_fill_holes(ndimage.binary_dilation(head, iterations=int(rng.integers(1, 4))))
        if rng.random() < self.smoothed_probability:
            image = ndimage.gaussian_filter(image, rng.uniform(*self.smoothed_voxels))
        top = max(float(np.percentile(image, 99)), 1e-6)
        shown: Slice = ((image / top) ** rng.uniform(*self.gamma)).astype(np.float32)
        return shown

    def _moved(self, still: Slice, rng: np.random.Generator) -> Spectrum:
        """K-space of a head that moved so much that one can see it."""
        size = float(np.linalg.norm(still))
        while True:
            poses = self.poses(rng)
            cuts = np.sort(rng.integers(1, len(still), len(poses) - 1))
            spectrum = restless_spectrum(still, self.order(len(still), rng), poses, cuts)
            if np.linalg.norm(magnitude(spectrum) - still) >= self.least_change * size:
                return spectrum

    def order(self, lines: int, rng: np.random.Generator) -> npt.NDArray[np.intp]:
        """When the lines of k-space are acquired: the place of each in time."""
        if rng.random() < 0.5:
            return np.arange(lines)
        every = int(rng.integers(*self.every, endpoint=True))
        return np.argsort(np.argsort(np.arange(lines) % every, kind="stable"))

    def poses(self, rng: np.random.Generator) -> npt.NDArray[np.float64]:
        """Rotation (radians) and shifts (mm) of every position, in time: drawn independently, or as a random walk."""
        poses = rng.standard_normal((int(rng.integers(*self.positions, endpoint=True)), 3))
        if rng.random() < 0.5:
            poses = poses.cumsum(axis=0)
        poses -= poses.mean(axis=0)
        farthest = max(float(np.hypot(poses[:, 1], poses[:, 2]).max()), 1e-6)
        poses[:, 0] *= np.deg2rad(rng.uniform(*self.rotation_deg)) / farthest
        poses[:, 1:] *= rng.uniform(*self.shift_mm) / farthest
        return poses

    def _window(self, lines: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
        """What is left of the lines: none beyond an edge, and sometimes less towards it."""
        place = np.abs(np.linspace(-1, 1, lines))
        kept = place <= rng.uniform(*self.kept)
        return kept * np.cos(place * np.pi / 2).clip(0) ** (rng.uniform(0, 1) if rng.random() < 0.5 else 0.0)


def centred_spectrum(image: Slice) -> Spectrum:
    """K-space of an image, its middle in the middle."""
    return np.fft.fftshift(np.fft.fft2(image))


def magnitude(spectrum: Spectrum) -> Slice:
    """Image of a k-space."""
    return np.abs(np.fft.ifft2(np.fft.ifftshift(spectrum))).astype(np.float32)


def restless_spectrum(
    still: Slice, order: npt.NDArray[np.intp], poses: npt.NDArray[np.float64], cuts: npt.NDArray[np.intp]
) -> Spectrum:
    """K-space whose lines (axis 0) were acquired while the head lay elsewhere.

    Parameters
    ----------
    still
        The head.
    order
        Place in time of every line.
    poses
        Rotation about the middle in radians, shifts in mm; one after the other in time.
    cuts
        Places in time at which the next position begins.

    Returns
    -------
    With the position at the middle of k-space as the head's own: the picture stays where it is.
    """
    position = np.searchsorted(cuts, order, side="right")
    relative = poses - poses[position[len(still) // 2]]
    spectrum = np.empty(still.shape, dtype=np.complex128)
    for number in np.unique(position):
        spectrum[position == number] = centred_spectrum(moved(still, *relative[number]))[position == number]
    return spectrum


def moved(image: Slice, rotation: float, first_mm: float, second_mm: float) -> Slice:
    """A slice rotated about its middle and shifted."""
    if rotation == first_mm == second_mm == 0:
        return image
    cos, sin = np.cos(rotation), np.sin(rotation)
    matrix = np.array([[cos, -sin], [sin, cos]])
    middle = (np.array(image.shape) - 1) / 2
    shifted = middle + np.array([first_mm, second_mm])
    there: Slice = ndimage.affine_transform(image, matrix, middle - matrix @ shifted, order=1)
    return there
