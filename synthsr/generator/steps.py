"""The steps between a deformed label map and a synthetic scan. A configuration lists them in its own order.

Every step is a frozen dataclass of its ranges with two methods: ``sample`` draws all that is random about one image
into a dictionary of plain arrays, ``apply`` uses the draws of a batch. A step whose strength is zero changes nothing.

Sources: Iglesias et al., NeuroImage 2021 [S21]; the reference implementation of SynthSR and SynthSeg [REF]; Hoffmann
2025 [T25]; Billot et al. 2023 (SynthSeg).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from .. import labels, preprocess, resample
from . import deformation
from .priors import Priors, read_priors

Array = npt.NDArray[np.float64]
#: What one step drew for one image: names to numbers or arrays.
Draw = dict[str, Any]


@dataclass
class Scene:
    """What the steps of one batch know besides the images.

    Attributes
    ----------
    index
        Positions in :func:`synthsr.labels.table`, lesions included, int64, shape (n, x, y, z).
    voxel_size_mm
        Of the grid.
    channels
        Channels per image.
    scan
        Real scans, deformed with the labels, shape (n, x, y, z), if :class:`RealScan` is among the steps.
    rigid
        Per image and channel, where :class:`Misalign` put it, shape (n, channels, 3, 4).
    reliability
        Left by :class:`Acquire`, shape (n, channels, x, y, z): 1 on voxels that lie on an acquired slice. Zero in
        channels that are missing.
    high_resolution
        The images as they were before the first :class:`Acquire`, shape (n, channels, x, y, z).
    """

    index: Tensor
    voxel_size_mm: float
    channels: int
    scan: Tensor | None = None
    rigid: Array | None = None
    reliability: Tensor | None = None
    high_resolution: Tensor | None = None

    @property
    def size(self) -> int:
        """Voxels per side."""
        return int(self.index.shape[-1])


class Step(ABC):
    """One step."""

    @abstractmethod
    def sample(self, rng: np.random.Generator, channels: int) -> Draw:
        """Draw all that is random for one image of so many channels."""

    @abstractmethod
    def apply(self, images: Tensor, draws: Sequence[Draw], scene: Scene) -> Tensor:
        """Images (n, channels, x, y, z) after the step; ``draws`` has one entry per image."""


def stacked(draws: Sequence[Draw], name: str, like: Tensor) -> Tensor:
    """One drawn quantity of the whole batch, first axis images, on the images' device."""
    return torch.as_tensor(np.stack([draw[name] for draw in draws]), dtype=like.dtype, device=like.device)


def per_channel(values: Tensor) -> Tensor:
    """Shape (n, c) → (n, c, 1, 1, 1)."""
    return values[:, :, None, None, None]


def normal_noise(shape: Sequence[int], seed: int, device: torch.device) -> Tensor:
    """Standard normal voxels that depend on the seed and the kind of device alone."""
    return torch.randn(shape, generator=torch.Generator(device).manual_seed(seed), device=device)


def draw_seed(rng: np.random.Generator) -> int:
    """Seed for voxel noise."""
    return int(rng.integers(2**62))


@dataclass(frozen=True)
class Mixture(Step):
    """Gaussian mixture: every label its mean and standard deviation, both sides of a structure the same.

    Attributes
    ----------
    mean_grey, sd_grey
        Uniform ranges of a label's mean and standard deviation.
    tied_probability
        Chance that labels of one tissue lie close together, as they do in real scans, with deep grey matter between
        cortex and white matter.
    tied_jitter_grey
        Standard deviation of a label's mean about its tissue's, when tied; four times as much in soft tissue.
    dark_background_probability
        Chance of a background near zero.
    priors
        One table per channel from ``synthsr priors``; then means and deviations are drawn from them [S21] and the
        ranges above are for labels that the tables lack.
    """

    mean_grey: tuple[float, float] = (25.0, 225.0)
    sd_grey: tuple[float, float] = (5.0, 25.0)
    tied_probability: float = 0.0
    tied_jitter_grey: float = 8.0
    dark_background_probability: float = 0.0
    priors: tuple[Path, ...] = ()

    def sample(self, rng: np.random.Generator, channels: int) -> Draw:
        """Means and standard deviations, shape (channels, labels), and the noise's seed."""
        priors = [read_priors(path) for path in self.priors]
        if priors and len(priors) != channels:
            raise ValueError(f"{len(priors)} tables of priors for {channels} channels")
        drawn = [self._sample_channel(rng, priors[channel] if priors else None) for channel in range(channels)]
        mean, sd = (np.stack(values) for values in zip(*drawn, strict=True))
        return {"mean_grey": mean, "sd_grey": sd, "seed": draw_seed(rng)}

    def _sample_channel(self, rng: np.random.Generator, priors: Priors | None) -> tuple[Array, Array]:
        rows = labels.table()
        tied = rng.random() < self.tied_probability
        tissue_mean = {tissue: rng.uniform(*self.mean_grey) for tissue in sorted({label.tissue for label in rows})}
        tissue_mean["deep_grey"] = tissue_mean["grey"] + rng.uniform(0, 0.8) * (
            tissue_mean["white"] - tissue_mean["grey"]
        )
        tissue_sd = {tissue: rng.uniform(*self.sd_grey) for tissue in tissue_mean}
        mean, sd = np.zeros(len(rows)), np.zeros(len(rows))
        for index, (label, mirror) in enumerate(zip(rows, labels.mirror_of_index(), strict=True)):
            if mirror < index:
                mean[index], sd[index] = mean[mirror], sd[mirror]
            elif priors is not None and label.number in priors:
                mean[index], sd[index] = priors[label.number].sample(rng)
            elif tied:
                spread = self.tied_jitter_grey * (4 if label.tissue == "soft" else 1)
                mean[index] = np.clip(tissue_mean[label.tissue] + spread * rng.standard_normal(), 0, 255)
                sd[index] = tissue_sd[label.tissue]
            else:
                mean[index], sd[index] = rng.uniform(*self.mean_grey), rng.uniform(*self.sd_grey)
        if rng.random() < self.dark_background_probability:
            mean[0], sd[0] = rng.uniform(0, 10), rng.uniform(0, 5)
        return mean, sd

    def apply(self, images: Tensor, draws: Sequence[Draw], scene: Scene) -> Tensor:
        """Replace the images by the mixture's."""
        made = []
        for index, draw in zip(scene.index, draws, strict=True):
            flat = index.reshape(-1)
            mean, sd = (
                torch.as_tensor(draw[k], dtype=images.dtype, device=images.device) for k in ("mean_grey", "sd_grey")
            )
            noise = normal_noise((scene.channels, flat.numel()), draw["seed"], images.device)
            made.append(noise.mul_(sd[:, flat]).add_(mean[:, flat]).reshape(scene.channels, *index.shape))
        return torch.stack(made)


@dataclass(frozen=True)
class RealScan(Step):
    """The head's real scan instead of a synthetic one, in the first channel: the supervised arm of the papers.

    It needs label maps with a ``scan``. Lesions laid into the label map do not show in it.
    """

    def sample(self, rng: np.random.Generator, channels: int) -> Draw:
        """Nothing is random."""
        return {}

    def apply(self, images: Tensor, draws: Sequence[Draw], scene: Scene) -> Tensor:
        """Replace the first channel."""
        assert scene.scan is not None
        return torch.cat([scene.scan[:, None], images[:, 1:]], dim=1)


@dataclass(frozen=True)
class Bias(Step):
    """Smooth multiplicative field: exponential of normal control points, interpolated.

    Attributes
    ----------
    log_sd
        Standard deviation of the control points, U(low, high).
    points
        Control points per axis.
    """

    log_sd: tuple[float, float] = (0.0, 0.3)
    points: int = 5

    def sample(self, rng: np.random.Generator, channels: int) -> Draw:
        """Logarithm of the field at its control points, shape (channels, p, p, p)."""
        sd = rng.uniform(*self.log_sd, (channels, 1, 1, 1))
        return {"log_bias": sd * rng.standard_normal((channels,) + (self.points,) * 3)}

    def apply(self, images: Tensor, draws: Sequence[Draw], scene: Scene) -> Tensor:
        """Multiply."""
        log_bias = stacked(draws, "log_bias", images)
        return images * F.interpolate(log_bias, size=images.shape[2:], mode="trilinear", align_corners=True).exp_()


@dataclass(frozen=True)
class Attenuation(Step):
    """Smooth loss of signal between 1 − drop and 1 [T25].

    Attributes
    ----------
    drop
        Largest share of signal lost, U(low, high).
    points
        Control points per axis, drawn from low to high (both included).
    """

    drop: tuple[float, float] = (0.0, 0.5)
    points: tuple[int, int] = (2, 4)

    def sample(self, rng: np.random.Generator, channels: int) -> Draw:
        """One field per channel at its control points, between 0 (no loss) and the largest loss."""
        points = [int(rng.integers(self.points[0], self.points[1], endpoint=True)) for _ in range(channels)]
        return {"loss": [rng.uniform(*self.drop) * rng.random((p, p, p)) for p in points]}

    def apply(self, images: Tensor, draws: Sequence[Draw], scene: Scene) -> Tensor:
        """Multiply by one minus the loss."""
        result = images.clone()
        for image, draw in zip(result, draws, strict=True):
            for channel, loss in zip(image, draw["loss"], strict=True):
                channel.mul_(1 - upsampled(loss, channel))
        return result


def upsampled(control: Array, like: Tensor) -> Tensor:
    """Control points interpolated to the shape (x, y, z) of ``like``."""
    values = torch.as_tensor(control, dtype=like.dtype, device=like.device)[None, None]
    field: Tensor = F.interpolate(values, size=like.shape, mode="trilinear", align_corners=True)
    return field[0, 0]


@dataclass(frozen=True)
class Normalise(Step):
    """Clip to [0, ``clip_grey``], then scale every channel to [0, 1] by its minimum and maximum.

    Attributes
    ----------
    clip_grey
        Largest grey level; ``None`` leaves the clipping out.
    """

    clip_grey: float | None = 300.0

    def sample(self, rng: np.random.Generator, channels: int) -> Draw:
        """Nothing is random."""
        return {}

    def apply(self, images: Tensor, draws: Sequence[Draw], scene: Scene) -> Tensor:
        """Clip and scale."""
        return preprocess.scale_to_unit(images if self.clip_grey is None else images.clamp(0, self.clip_grey))


@dataclass(frozen=True)
class Gamma(Step):
    """Power law on each channel's own range from minimum to maximum, which it keeps.

    Attributes
    ----------
    exponent
        U(low, high) [S21, T25]; or
    log_sd
        standard deviation of the logarithm of the exponent, normal about 0 [REF].
    """

    exponent: tuple[float, float] | None = None
    log_sd: float | None = None

    def __post_init__(self) -> None:
        if (self.exponent is None) == (self.log_sd is None):
            raise ValueError("gamma: give either exponent or log_sd")

    def sample(self, rng: np.random.Generator, channels: int) -> Draw:
        """Exponent per channel."""
        if self.exponent is not None:
            return {"gamma": rng.uniform(*self.exponent, channels)}
        return {"gamma": np.exp((self.log_sd or 0.0) * rng.standard_normal(channels))}

    def apply(self, images: Tensor, draws: Sequence[Draw], scene: Scene) -> Tensor:
        """Raise to the power."""
        low = images.amin(dim=(2, 3, 4), keepdim=True)
        width = (images.amax(dim=(2, 3, 4), keepdim=True) - low).clamp_min(1e-12)
        gamma = per_channel(stacked(draws, "gamma", images))
        return ((images - low) / width).pow_(gamma).mul_(width).add_(low)


@dataclass(frozen=True)
class Blur(Step):
    """Isotropic Gaussian blur.

    Attributes
    ----------
    sd_mm
        U(low, high).
    """

    sd_mm: tuple[float, float] = (0.5, 0.5)

    def sample(self, rng: np.random.Generator, channels: int) -> Draw:
        """Standard deviation per channel."""
        return {"sd_mm": rng.uniform(*self.sd_mm, channels)}

    def apply(self, images: Tensor, draws: Sequence[Draw], scene: Scene) -> Tensor:
        """Blur along each axis."""
        operators = [[resample.gaussian_blur(scene.size, sd / scene.voxel_size_mm) for sd in d["sd_mm"]] for d in draws]
        for axis in (2, 3, 4):
            images = resample.apply_each(images, np.array(operators), axis)
        return images


@dataclass(frozen=True)
class Noise(Step):
    """Normal noise.

    Attributes
    ----------
    sd
        Standard deviation as a share of the image's largest value, U(low, high).
    """

    sd: tuple[float, float] = (0.0, 0.1)

    def sample(self, rng: np.random.Generator, channels: int) -> Draw:
        """Strength per channel and the seed."""
        return {"sd": rng.uniform(*self.sd, channels), "seed": draw_seed(rng)}

    def apply(self, images: Tensor, draws: Sequence[Draw], scene: Scene) -> Tensor:
        """Add."""
        noise = torch.stack([normal_noise(images.shape[1:], draw["seed"], images.device) for draw in draws])
        return images + noise * per_channel(stacked(draws, "sd", images)) * images.amax(dim=(2, 3, 4), keepdim=True)


@dataclass(frozen=True)
class Misalign(Step):
    """Every channel but the first is scanned in a head position of its own.

    Attributes
    ----------
    rotation_deg, translation_mm
        About and along each axis, U(−, +).
    """

    rotation_deg: float = 10.0
    translation_mm: float = 20.0

    def sample(self, rng: np.random.Generator, channels: int) -> Draw:
        """Rigid map per channel, shape (channels, 3, 4); identity for the first."""
        rigid = [np.eye(3, 4)]
        for _ in range(channels - 1):
            rotation = deformation.rotation_matrix(rng.uniform(-self.rotation_deg, self.rotation_deg, 3))
            rigid.append(np.column_stack([rotation, rng.uniform(-self.translation_mm, self.translation_mm, 3)]))
        return {"rigid": np.stack(rigid)}

    def apply(self, images: Tensor, draws: Sequence[Draw], scene: Scene) -> Tensor:
        """Move the channels, and note where they are."""
        scene.rigid = np.stack([draw["rigid"] for draw in draws])
        return move_channels(images, scene.rigid, scene.voxel_size_mm)


@dataclass(frozen=True)
class Realign(Step):
    """Channels back to the first one's position, with the error that a registration leaves.

    Attributes
    ----------
    rotation_error_deg, translation_error_mm
        About and along each axis: U(−, +) [REF], or the standard deviation if ``normal`` [S21].
    normal
        Normal instead of uniform errors.
    """

    rotation_error_deg: float = 0.5
    translation_error_mm: float = 0.5
    normal: bool = False

    def sample(self, rng: np.random.Generator, channels: int) -> Draw:
        """Error per channel, a rigid map of shape (channels, 3, 4); identity for the first."""
        error = [np.eye(3, 4)]
        for _ in range(channels - 1):
            unit = rng.standard_normal(6) if self.normal else rng.uniform(-1, 1, 6)
            rotation = deformation.rotation_matrix(self.rotation_error_deg * unit[:3])
            error.append(np.column_stack([rotation, self.translation_error_mm * unit[3:]]))
        return {"error": np.stack(error)}

    def apply(self, images: Tensor, draws: Sequence[Draw], scene: Scene) -> Tensor:
        """Undo :class:`Misalign` but for the error; reliability maps move along."""
        if scene.rigid is None:
            raise ValueError("realign: there is no misalign step before it")
        error = np.stack([draw["error"] for draw in draws])
        rotation = np.swapaxes(scene.rigid[..., :3], -1, -2)
        back = np.concatenate([rotation, -rotation @ scene.rigid[..., 3:]], axis=-1)
        whole = np.concatenate(
            [error[..., :3] @ back[..., :3], error[..., :3] @ back[..., 3:] + error[..., 3:]], axis=-1
        )
        if scene.reliability is not None:
            scene.reliability = move_channels(scene.reliability, whole, scene.voxel_size_mm)
        return move_channels(images, whole, scene.voxel_size_mm)


def move_channels(images: Tensor, rigid: Array, voxel_size_mm: float) -> Tensor:
    """Resample every channel but the first by its rigid map, shape (n, channels, 3, 4)."""
    moved = images.clone()
    x, y, z = images.shape[2:]
    for position in range(images.shape[0]):
        for channel in range(1, images.shape[1]):
            place = deformation.rigid_grid((x, y, z), rigid[position, channel], voxel_size_mm, images.device)
            moved[position, channel] = deformation.interpolate(images[position, channel], place)
    return moved


@dataclass(frozen=True)
class Acquire(Step):
    """Slices: blur by the slice profile, sampling at the slice distance, linear interpolation back.

    Per channel either nothing is made coarser, or all axes alike, or one axis is thick.

    Attributes
    ----------
    spacing_mm
        Distance of the slices of one thick axis, U(low, high).
    isotropic_spacing_mm
        Voxel size of a scan coarse in all axes, U(low, high).
    high_resolution_probability, isotropic_probability
        Chance that nothing is made coarser; and else, that all axes are.
    gaps
        Slices may be thinner than their distance, U(voxel size, distance) [REF]; else they touch [S21].
    profile
        Standard deviation of the slice profile as a share of the slice thickness: 0.42 [REF]; or
        2·ln(10)/2π = 0.733 [S21].
    profile_jitter
        Factor on it, U(low, high).
    fixed_spacing_mm
        Spacing of a known protocol: one triple per channel, slice axis included; overrides all random spacing.
    """

    spacing_mm: tuple[float, float] = (1.0, 9.0)
    isotropic_spacing_mm: tuple[float, float] = (1.0, 4.0)
    high_resolution_probability: float = 0.2
    isotropic_probability: float = 0.25
    gaps: bool = True
    profile: float = 0.42
    profile_jitter: tuple[float, float] = (1 / 1.15, 1.15)
    fixed_spacing_mm: tuple[tuple[float, float, float], ...] = ()

    def sample(self, rng: np.random.Generator, channels: int) -> Draw:
        """Spacing, slice thickness, standard deviation of the profile and first slice, each (channels, 3), in mm."""
        if self.fixed_spacing_mm and len(self.fixed_spacing_mm) != channels:
            raise ValueError(f"acquire: {len(self.fixed_spacing_mm)} fixed spacings for {channels} channels")
        spacing = np.array([self._sample_spacing(rng, channel) for channel in range(channels)])
        thin = np.minimum(spacing, 1.0)
        thickness = rng.uniform(thin, spacing) if self.gaps else spacing
        blur = self.profile * thickness * rng.uniform(*self.profile_jitter, (channels, 3))
        return {"spacing_mm": spacing, "profile_sd_mm": blur, "offset_mm": spacing * rng.random((channels, 3))}

    def _sample_spacing(self, rng: np.random.Generator, channel: int) -> Array:
        if self.fixed_spacing_mm:
            return np.array(self.fixed_spacing_mm[channel])
        spacing = np.zeros(3)
        if rng.random() < self.high_resolution_probability:
            return spacing
        if rng.random() < self.isotropic_probability:
            spacing[:] = rng.uniform(*self.isotropic_spacing_mm)
        else:
            spacing[int(rng.integers(3))] = rng.uniform(*self.spacing_mm)
        return spacing

    def apply(self, images: Tensor, draws: Sequence[Draw], scene: Scene) -> Tensor:
        """Scan; leaves the reliability maps and the images as they were in the scene."""
        scene.high_resolution = images
        n, channels, size = len(draws), images.shape[1], scene.size
        reliable = torch.ones((), dtype=images.dtype, device=images.device)
        for axis in range(3):
            operators = np.empty((n, channels, size, size))
            on_slice = np.ones((n, channels, size))
            for position, draw in enumerate(draws):
                for channel in range(channels):
                    spacing, blur, offset = (
                        draw[name][channel, axis] / scene.voxel_size_mm
                        for name in ("spacing_mm", "profile_sd_mm", "offset_mm")
                    )
                    if spacing <= 1:
                        operators[position, channel] = np.eye(size)
                        continue
                    operators[position, channel] = resample.acquisition(size, spacing, blur, offset)
                    on_slice[position, channel] = resample.slice_weights(size, spacing, offset)
            images = resample.apply_each(images, operators, axis + 2)
            shape = [n, channels, 1, 1, 1]
            shape[axis + 2] = size
            weight = torch.as_tensor(on_slice, dtype=images.dtype, device=images.device).reshape(shape)
            reliable = reliable * weight
        reliable = reliable.expand(images.shape)
        scene.reliability = reliable if scene.reliability is None else reliable * scene.reliability
        return images


@dataclass(frozen=True)
class CutFieldOfView(Step):
    """A field of view cut short: zeros beyond a window.

    Attributes
    ----------
    probability
        Chance per image.
    share
        Part cut from each axis, U(low, high), at either end in random parts.
    """

    probability: float = 0.3
    share: tuple[float, float] = (0.0, 0.2)

    def sample(self, rng: np.random.Generator, channels: int) -> Draw:
        """First and last share of the field that was scanned, shape (channels, 3, 2)."""
        lost = rng.uniform(*self.share, (channels, 3)) * (rng.random((channels, 1)) < self.probability)
        low = lost * rng.random((channels, 3))
        return {"window": np.stack([low, 1 - (lost - low)], axis=-1)}

    def apply(self, images: Tensor, draws: Sequence[Draw], scene: Scene) -> Tensor:
        """Set to zero beyond the window."""
        window = stacked(draws, "window", images)
        share = (torch.arange(scene.size, device=images.device, dtype=images.dtype) + 0.5) / scene.size
        inside = (share >= window[..., :1]) & (share <= window[..., 1:])
        x, y, z = (inside[:, :, axis].to(images.dtype) for axis in range(3))
        return images * x[..., :, None, None] * y[..., None, :, None] * z[..., None, None, :]
