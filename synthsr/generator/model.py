"""The generator: ``sample(rng) → Params``, then ``apply(label maps, params) → images``, batched, on one device.

Iglesias et al., NeuroImage 2021, section 2.2; Iglesias et al., Science Advances 2023. The same parameters give the
same images, bit by bit on CPUs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import labels, preprocess, resample
from ..errors import DataError
from . import deformation
from .config import GeneratorConfig
from .deformation import DeformationDraw
from .lesions import LesionSource
from .source import LabelMap
from .steps import Draw, RealScan, Scene

#: Where the papers' targets have 1.0.
WHITE_MATTER = 110 / preprocess.FULL_SCALE_GREY
#: Standard deviation in mm of the blur that takes the steps off a T1 made from labels.
LABEL_TARGET_BLUR_MM = 0.5


@dataclass(frozen=True)
class Params:
    """One draw: all that decides an image besides the label map.

    Attributes
    ----------
    deformation
        Geometry.
    lesions
        Lesions laid into the deformed map.
    steps
        What every step drew, in the configuration's order.
    """

    deformation: DeformationDraw
    lesions: list[dict[str, Any]]
    steps: tuple[Draw, ...]


@dataclass(frozen=True)
class Generated:
    """A batch of n synthetic scans of c channels.

    Attributes
    ----------
    image
        In [0, 1], float32, shape (n, c, x, y, z).
    target
        What the network is to make of it, float32, shape (n, 1, x, y, z). A T1 has white matter at
        :data:`WHITE_MATTER`.
    channel
        Segmentation channel per voxel, without lesions, int64, shape (n, x, y, z).
    lesion
        Voxels of lesions, bool, shape (n, x, y, z).
    reliability
        1 on voxels that lie on an acquired slice, 0 in missing channels, float32, shape (n, c, x, y, z).
    """

    image: Tensor
    target: Tensor
    channel: Tensor
    lesion: Tensor
    reliability: Tensor


class Generator:
    """Draws and renders synthetic scans.

    Parameters
    ----------
    config
        From :func:`synthsr.generator.read_config`.
    device
        Where images are made.
    """

    def __init__(self, config: GeneratorConfig, device: torch.device | str = "cpu") -> None:
        self.config = config
        self.device = torch.device(device)
        self._lesions = LesionSource(config.lesions)
        self._channel = torch.from_numpy(labels.channel_of_index().astype(np.int64)).to(self.device)
        self._mirror = torch.from_numpy(labels.mirror_of_index().astype(np.int64)).to(self.device)
        grey = np.array([label.t1_grey for label in labels.table()], dtype=np.float32)
        self._t1 = torch.from_numpy(grey / preprocess.FULL_SCALE_GREY).to(self.device)

    def sample(self, rng: np.random.Generator) -> Params:
        """Draw the parameters of one image."""
        return Params(
            deformation=self.config.deformation.sample(rng, self.config.field_mm),
            lesions=self._lesions.sample(rng),
            steps=tuple(step.sample(rng, self.config.channels) for step in self.config.steps),
        )

    def apply(self, sources: Sequence[LabelMap], params: Sequence[Params]) -> Generated:
        """Render a batch.

        Parameters
        ----------
        sources
            Heads to deform, n of them.
        params
            From :meth:`sample`, one per head.
        """
        c = self.config
        place = [self.coordinates(source, draw) for source, draw in zip(sources, params, strict=True)]
        healthy = torch.stack(
            [self._deformed(s, at, flip=d.deformation.flip) for s, at, d in zip(sources, place, params, strict=True)]
        )
        index = healthy
        if any(draw.lesions for draw in params):
            laid = [
                self._lesions.apply(head, draw.lesions, c.voxel_size_mm)
                for head, draw in zip(healthy, params, strict=True)
            ]
            index = torch.stack(laid)
        scene = Scene(index, c.voxel_size_mm, c.channels)
        if any(isinstance(step, RealScan) for step in c.steps):
            scene.scan = torch.stack([self._real_scan(s, at) for s, at in zip(sources, place, strict=True)])
        images = torch.zeros((len(sources), c.channels, *index.shape[1:]), device=self.device)
        for position, step in enumerate(c.steps):
            images = step.apply(images, [draw.steps[position] for draw in params], scene)
        reliability = torch.ones_like(images) if scene.reliability is None else scene.reliability
        return Generated(
            image=preprocess.scale_to_unit(images),
            target=self._target(sources, place, healthy, images, scene),
            channel=self._channel[healthy],
            lesion=index != healthy,
            reliability=reliability,
        )

    def deform(self, source: LabelMap, params: Params) -> Tensor:
        """Deformed label map, without lesions: positions in :func:`synthsr.labels.table`, int64, shape (size,)·3."""
        return self._deformed(source, self.coordinates(source, params), flip=params.deformation.flip)

    def coordinates(self, source: LabelMap, params: Params) -> Tensor:
        """Source voxel coordinates of every output voxel, shape (3, size, size, size), float32."""
        return params.deformation.coordinates(
            source.centre, size=self.config.size, voxel_size_mm=self.config.voxel_size_mm, device=self.device
        )

    def _deformed(self, source: LabelMap, place: Tensor, *, flip: bool) -> Tensor:
        index = deformation.look_up(torch.from_numpy(source.index).to(self.device), place).long()
        return self._mirror[index] if flip else index

    def _target(
        self, sources: Sequence[LabelMap], place: list[Tensor], healthy: Tensor, images: Tensor, scene: Scene
    ) -> Tensor:
        if self.config.target.kind == "channel":
            # Normalised exactly as the input: by the acquired image's minimum and maximum.
            channel = self.config.target.channel
            acquired = images[:, channel : channel + 1]
            sharp = acquired if scene.high_resolution is None else scene.high_resolution[:, channel : channel + 1]
            low = acquired.amin(dim=(2, 3, 4), keepdim=True)
            width = (acquired.amax(dim=(2, 3, 4), keepdim=True) - low).clamp_min(1e-12)
            return (sharp - low) / width
        return torch.stack(
            [
                self._label_t1(head) if source.t1 is None else self._real_t1(source, at)
                for source, at, head in zip(sources, place, healthy, strict=True)
            ]
        )

    def _label_t1(self, index: Tensor) -> Tensor:
        """T1 with one grey level per label, a little blurred; shape (1, x, y, z)."""
        target = self._t1[index][None, None]
        sharp = resample.gaussian_blur(self.config.size, LABEL_TARGET_BLUR_MM / self.config.voxel_size_mm)
        for axis in (2, 3, 4):
            target = resample.apply(target, sharp, axis)
        return target[0]

    def _real_scan(self, source: LabelMap, place: Tensor) -> Tensor:
        """The source's real scan, deformed with the labels; shape (x, y, z)."""
        if source.scan is None:
            raise DataError(f"{source.path}: has no real scan, which the step real_scan needs; name one for it")
        return deformation.interpolate(torch.from_numpy(source.scan).to(self.device), place)

    def _real_t1(self, source: LabelMap, place: Tensor) -> Tensor:
        """The source's real T1, deformed with the labels; shape (1, x, y, z).

        Clipped where predictions are: else the loss would be about fat, of which nothing is seen later.
        """
        assert source.t1 is not None
        volume = torch.from_numpy(source.t1).to(self.device)
        scale = WHITE_MATTER / source.white_matter_grey(self.config.target.white_matter)
        return (deformation.interpolate(volume, place)[None] * scale).clamp_(0, preprocess.SYNTHETIC_MAXIMUM)
