"""The generator of random-contrast, random-resolution scans from label maps.

Steps in the order of the reference implementation of SynthSR (SCIENCE: deform, left/right flip with label swap,
Gaussian mixture per label, bias field, clip and normalise, gamma, slice blur, downsample, back to the 1 mm grid):
Iglesias et al., NeuroImage 2021, section 2.2; Iglesias et al., Science Advances 2023; Billot et al. 2023 (SynthSeg).
Randomness is drawn by :meth:`Generator.sample` and used by :meth:`Generator.apply`; the same parameters give the same
image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from .. import labels, preprocess, resample
from .source import LabelMap

#: Grey level at which intensities are clipped before normalising (reference implementation).
INTENSITY_CLIP = 300.0
#: Standard deviation of a slice profile as a share of the slice thickness (reference implementation).
SLICE_BLUR_COEFFICIENT = 0.42
SLICE_BLUR_JITTER = 1.15
#: Standard deviation in mm of the blur every synthetic image gets (Iglesias et al. 2021).
HIGH_RESOLUTION_BLUR_MM = 0.5
#: Output units: 1.0 is grey level 255, so that predictions × 255 have white matter at 110 as in FreeSurfer.
FULL_SCALE_GREY = 255.0

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class GeneratorConfig:
    """Ranges of everything random. U(a, b) is uniform, N(0, s) normal.

    Attributes
    ----------
    field_mm
        Side of the cubic field of view, mm.
    voxel_size_mm
        Voxel size of the generated grid, mm (1, or 2 for the first stage of training).
    rotation_deg
        Rotation about each axis, U(−, +).
    scaling
        Scaling of each axis, 1 + U(−, +).
    shear
        Shear, U(−, +).
    translation_mm
        Offset of the field's centre from the cerebrum's, per axis, U(−, +).
    warp_sd_max_mm
        Standard deviation of the stationary velocity field, U(0, max).
    warp_points
        Control points of the velocity field per axis.
    flip_probability
        Chance of a left/right mirrored head.
    mean_grey, sd_grey
        Range of the mean and standard deviation of a label's intensity.
    tissue_tied_probability
        Chance that labels of one tissue lie close together (as in real scans) instead of being independent.
    tissue_jitter_grey
        Standard deviation of a label's mean about its tissue's, when tied.
    dark_background_probability
        Chance of a background near zero.
    bias_sd_max
        Standard deviation of the log bias field at its control points, U(0, max).
    bias_points
        Control points of the bias field per axis.
    gamma_log_sd
        Standard deviation of the logarithm of the gamma exponent.
    spacing_max_mm
        Largest distance between slices, one axis thick.
    isotropic_spacing_max_mm
        Largest voxel of isotropic low resolution.
    high_resolution_probability
        Chance that nothing is made coarser.
    cut_probability, cut_max
        Chance per image of a field of view cut short, and the largest share cut from an axis.
    """

    field_mm: int = 192
    voxel_size_mm: int = 1
    rotation_deg: float = 15.0
    scaling: float = 0.15
    shear: float = 0.012
    translation_mm: float = 12.0
    warp_sd_max_mm: float = 3.0
    warp_points: int = 12
    flip_probability: float = 0.5
    mean_grey: tuple[float, float] = (25.0, 225.0)
    sd_grey: tuple[float, float] = (0.0, 25.0)
    tissue_tied_probability: float = 0.5
    tissue_jitter_grey: float = 8.0
    dark_background_probability: float = 0.7
    bias_sd_max: float = 0.3
    bias_points: int = 5
    gamma_log_sd: float = 0.4
    spacing_max_mm: float = 9.0
    isotropic_spacing_max_mm: float = 4.0
    high_resolution_probability: float = 0.2
    cut_probability: float = 0.3
    cut_max: float = 0.2

    @property
    def size(self) -> int:
        """Voxels per side."""
        return self.field_mm // self.voxel_size_mm


@dataclass(frozen=True)
class Params:
    """One draw: all that decides an image besides the label map.

    Attributes
    ----------
    affine
        Output millimetres about the centre → source millimetres about the cerebrum's centre, shape (3, 4).
    velocity_mm
        Stationary velocity at its control points, shape (3, p, p, p).
    flip
        Mirror left and right, swapping label sides.
    mean_grey, sd_grey
        Per position of :func:`synthsr.labels.table`.
    log_bias
        Logarithm of the bias field at its control points, shape (b, b, b).
    gamma
        Exponent.
    spacing_mm, blur_sd_mm, offset_mm
        Per axis: slice distance, standard deviation of the slice profile, first slice centre.
    window
        Per axis: first and last share of the field of view that was scanned.
    noise_seed
        Seed of the device's generator for the voxel noise.
    """

    affine: Array
    velocity_mm: Array
    flip: bool
    mean_grey: Array
    sd_grey: Array
    log_bias: Array
    gamma: float
    spacing_mm: tuple[float, float, float]
    blur_sd_mm: tuple[float, float, float]
    offset_mm: tuple[float, float, float]
    window: tuple[tuple[float, float], tuple[float, float], tuple[float, float]]
    noise_seed: int


@dataclass(frozen=True)
class Generated:
    """What one draw gives, all on one grid of shape (1, ·, x, y, z).

    Attributes
    ----------
    image
        Synthetic scan in [0, 1], float32.
    target
        T1-like image, 1.0 for grey level 255 (white matter 110), float32.
    channel
        Segmentation channel per voxel, int64, shape (1, x, y, z).
    """

    image: Tensor
    target: Tensor
    channel: Tensor


class Generator:
    """Draws and renders synthetic scans.

    Parameters
    ----------
    config
        Ranges.
    device
        Where images are made.
    """

    def __init__(self, config: GeneratorConfig, device: torch.device | str = "cpu") -> None:
        self.config = config
        self.device = torch.device(device)
        self._channel = torch.from_numpy(labels.channel_of_index().astype(np.int64)).to(self.device)
        self._mirror = torch.from_numpy(labels.mirror_of_index().astype(np.int64)).to(self.device)
        grey = np.array([label.t1_grey for label in labels.table()], dtype=np.float32)
        self._t1 = torch.from_numpy(grey / FULL_SCALE_GREY).to(self.device)

    def sample(self, rng: np.random.Generator) -> Params:
        """Draw the parameters of one image."""
        c = self.config
        mean, sd = self._sample_intensities(rng)
        bias_sd = rng.uniform(0, c.bias_sd_max)
        spacing, blur, offset = self._sample_acquisition(rng)
        cut = rng.random() < c.cut_probability
        window = []
        for _ in range(3):
            lost = rng.uniform(0, c.cut_max) if cut else 0.0
            low = lost * rng.random()
            window.append((low, 1 - (lost - low)))
        p = c.warp_points
        return Params(
            affine=self._sample_affine(rng),
            velocity_mm=rng.uniform(0, c.warp_sd_max_mm) * rng.standard_normal((3, p, p, p)),
            flip=bool(rng.random() < c.flip_probability),
            mean_grey=mean,
            sd_grey=sd,
            log_bias=bias_sd * rng.standard_normal((c.bias_points,) * 3),
            gamma=float(np.exp(c.gamma_log_sd * rng.standard_normal())),
            spacing_mm=spacing,
            blur_sd_mm=blur,
            offset_mm=offset,
            window=(window[0], window[1], window[2]),
            noise_seed=int(rng.integers(2**62)),
        )

    def _sample_affine(self, rng: np.random.Generator) -> Array:
        c = self.config
        matrix = np.diag(1 + rng.uniform(-c.scaling, c.scaling, 3))
        shear = np.eye(3)
        shear[~np.eye(3, dtype=bool)] = rng.uniform(-c.shear, c.shear, 6)
        matrix = shear @ matrix
        for axis in range(3):
            angle = np.deg2rad(rng.uniform(-c.rotation_deg, c.rotation_deg))
            rotation = np.eye(3)
            i, j = [other for other in range(3) if other != axis]
            rotation[i, i] = rotation[j, j] = np.cos(angle)
            rotation[i, j], rotation[j, i] = -np.sin(angle), np.sin(angle)
            matrix = rotation @ matrix
        translation = rng.uniform(-c.translation_mm, c.translation_mm, 3)
        return np.column_stack([matrix, translation])

    def _sample_intensities(self, rng: np.random.Generator) -> tuple[Array, Array]:
        """Mean and standard deviation per table position; both sides of a structure share theirs."""
        c = self.config
        rows = labels.table()
        tied = rng.random() < c.tissue_tied_probability
        tissues = sorted({label.tissue for label in rows})
        tissue_mean = {tissue: rng.uniform(*c.mean_grey) for tissue in tissues}
        # Deep grey matter lies between cortex and white matter in nearly every sequence.
        tissue_mean["deep_grey"] = tissue_mean["grey"] + rng.uniform(0, 0.8) * (
            tissue_mean["white"] - tissue_mean["grey"]
        )
        tissue_sd = {tissue: rng.uniform(*c.sd_grey) for tissue in tissues}
        mean, sd = np.zeros(len(rows)), np.zeros(len(rows))
        for index, (label, mirror) in enumerate(zip(rows, labels.mirror_of_index(), strict=True)):
            if mirror < index:
                mean[index], sd[index] = mean[mirror], sd[mirror]
            elif tied:
                spread = c.tissue_jitter_grey * (4 if label.tissue == "soft" else 1)
                mean[index] = np.clip(tissue_mean[label.tissue] + spread * rng.standard_normal(), 0, 255)
                sd[index] = tissue_sd[label.tissue]
            else:
                mean[index], sd[index] = rng.uniform(*c.mean_grey), rng.uniform(*c.sd_grey)
        if rng.random() < c.dark_background_probability:
            mean[0], sd[0] = rng.uniform(0, 10), rng.uniform(0, 5)
        return mean, sd

    def _sample_acquisition(
        self, rng: np.random.Generator
    ) -> tuple[tuple[float, float, float], tuple[float, float, float], tuple[float, float, float]]:
        """Slice distance, slice profile and first slice of every axis: nothing, isotropic, or one thick axis."""
        c = self.config
        spacing = np.full(3, float(c.voxel_size_mm))
        if rng.random() >= c.high_resolution_probability:
            axis = int(rng.integers(4))
            if axis == 3:
                spacing[:] = np.maximum(spacing, rng.uniform(1, c.isotropic_spacing_max_mm))
            else:
                spacing[axis] = max(spacing[axis], rng.uniform(1, c.spacing_max_mm))
        thickness = rng.uniform(np.minimum(spacing, c.voxel_size_mm), spacing)
        jitter = np.exp(rng.uniform(-1, 1, 3) * np.log(SLICE_BLUR_JITTER))
        coarse = spacing > c.voxel_size_mm
        blur = np.where(
            coarse,
            np.hypot(HIGH_RESOLUTION_BLUR_MM, SLICE_BLUR_COEFFICIENT * thickness * jitter),
            HIGH_RESOLUTION_BLUR_MM,
        )
        offset = rng.uniform(0, 1, 3) * np.where(coarse, spacing, 0)
        return _triple(spacing), _triple(blur), _triple(offset)

    def apply(self, source: LabelMap, params: Params) -> Generated:
        """Render one image.

        Parameters
        ----------
        source
            Head to deform.
        params
            From :meth:`sample`.
        """
        c = self.config
        index = self.deform(source, params)
        image = self._render(index, params)
        target = self._t1.index_select(0, index.reshape(-1)).reshape(1, 1, *index.shape)
        sharp = resample.gaussian_blur(c.size, HIGH_RESOLUTION_BLUR_MM / c.voxel_size_mm)
        for axis in (2, 3, 4):
            target = resample.apply(target, sharp, axis)
        channel = self._channel.index_select(0, index.reshape(-1)).reshape(1, *index.shape)
        return Generated(image, target, channel)

    def deform(self, source: LabelMap, params: Params) -> Tensor:
        """Deformed label map: positions in :func:`synthsr.labels.table`, int64, shape (size,)·3."""
        size = self.config.size
        place = self.coordinates(source, params)
        shape = source.index.shape
        flat = torch.zeros(size, size, size, dtype=torch.int64, device=self.device)
        for axis, length in enumerate(shape):
            flat.mul_(length).add_(place[axis].round_().clamp_(0, length - 1).long())
        volume = torch.from_numpy(source.index).to(self.device)
        index = volume.reshape(-1)[flat].long()
        return self._mirror[index] if params.flip else index

    def coordinates(self, source: LabelMap, params: Params) -> Tensor:
        """Source voxel coordinates of every output voxel, shape (3, size, size, size), float32.

        The velocity field is integrated on a coarse grid by scaling and squaring (Arsigny et al. 2006) and the whole
        map, affine part included, is interpolated from there, which is exact for its affine part.
        """
        c = self.config
        coarse = max(c.warp_points, c.size // 4 + 1)
        half = (c.size - 1) / 2 * c.voxel_size_mm
        axis_mm = torch.linspace(-half, half, coarse, device=self.device)
        place = torch.stack(torch.meshgrid(axis_mm, axis_mm, axis_mm, indexing="ij"))
        velocity = torch.as_tensor(params.velocity_mm, dtype=torch.float32, device=self.device)
        velocity = F.interpolate(velocity[None], size=(coarse,) * 3, mode="trilinear", align_corners=True)
        place = place + integrate(velocity, half)[0]
        matrix = torch.as_tensor(params.affine, dtype=torch.float32, device=self.device)
        place = torch.einsum("ij,jxyz->ixyz", matrix[:, :3], place) + matrix[:, 3].reshape(3, 1, 1, 1)
        if params.flip:
            place[0] = -place[0]
        place = place + torch.as_tensor(source.centre, dtype=torch.float32, device=self.device).reshape(3, 1, 1, 1)
        full: Tensor = F.interpolate(place[None], size=(c.size,) * 3, mode="trilinear", align_corners=True)
        return full[0]

    def _render(self, index: Tensor, params: Params) -> Tensor:
        c = self.config
        flat = index.reshape(-1)
        mean = torch.as_tensor(params.mean_grey, dtype=torch.float32, device=self.device)
        sd = torch.as_tensor(params.sd_grey, dtype=torch.float32, device=self.device)
        random = torch.Generator(self.device).manual_seed(params.noise_seed)
        image = torch.randn(flat.shape, generator=random, device=self.device)
        image.mul_(sd[flat]).add_(mean[flat])
        image = image.reshape(1, 1, *index.shape)
        log_bias = torch.as_tensor(params.log_bias, dtype=torch.float32, device=self.device)[None, None]
        image.mul_(F.interpolate(log_bias, size=index.shape, mode="trilinear", align_corners=True).exp_())
        image = preprocess.scale_to_unit(image.clamp_(0, INTENSITY_CLIP)).pow_(params.gamma)
        for axis in range(3):
            matrix = resample.acquisition(
                c.size,
                params.spacing_mm[axis] / c.voxel_size_mm,
                params.blur_sd_mm[axis] / c.voxel_size_mm,
                params.offset_mm[axis] / c.voxel_size_mm,
            )
            low, high = params.window[axis]
            matrix[: round(low * c.size)] = 0
            matrix[round(high * c.size) :] = 0
            image = resample.apply(image, matrix, axis + 2)
        return preprocess.scale_to_unit(image)


def _triple(values: Array) -> tuple[float, float, float]:
    x, y, z = values.tolist()
    return x, y, z


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
