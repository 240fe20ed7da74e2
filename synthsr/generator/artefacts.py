"""Artefacts beyond the papers' first set; each is a step of its own, off unless a configuration lists it.

They run batched on the images' device. Well-kept libraries have Gibbs ringing, ghosting and the like for one image at a
time (MONAI, TorchIO), none for a batch on the device with separately drawn parameters; each is a few lines here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .. import labels
from .steps import Draw, Scene, Step, draw_seed, normal_noise, per_channel, stacked, upsampled


def happens(rng: np.random.Generator, probability: float, channels: int) -> np.ndarray:
    """1.0 for the channels that get the artefact, else 0.0."""
    return (rng.random(channels) < probability).astype(np.float64)


@dataclass(frozen=True)
class ClearSlices(Step):
    """Slices lost on the way: a few planes of one axis are zero.

    Attributes
    ----------
    probability
        Chance per channel.
    share
        Part of the planes lost, U(low, high).
    """

    probability: float = 0.1
    share: tuple[float, float] = (0.0, 0.1)

    def sample(self, rng: np.random.Generator, channels: int) -> Draw:
        """Axis, and the share and seed that pick the planes, per channel."""
        return {
            "axis": rng.integers(3, size=channels),
            "share": rng.uniform(*self.share, channels) * happens(rng, self.probability, channels),
            "seed": draw_seed(rng),
        }

    def apply(self, images: Tensor, draws: Sequence[Draw], scene: Scene) -> Tensor:
        """Clear the planes."""
        result = images.clone()
        for image, draw in zip(result, draws, strict=True):
            rng = np.random.default_rng(draw["seed"])
            for channel, axis, share in zip(image, draw["axis"], draw["share"], strict=True):
                lost = rng.permutation(scene.size)[: int(share * scene.size)]
                channel.index_fill_(int(axis), torch.as_tensor(lost, device=images.device), 0.0)
        return result


@dataclass(frozen=True)
class DropChannels(Step):
    """Scans that a session lacks: their channels are zero, and so are their reliability maps. One is always left.

    Attributes
    ----------
    probability
        Chance per channel; if all were to go, one of them, each as likely, stays.
    """

    probability: float = 0.3

    def sample(self, rng: np.random.Generator, channels: int) -> Draw:
        """1 for the channels that stay, else 0, shape (channels,)."""
        kept = 1 - happens(rng, self.probability, channels)
        if not kept.any():
            kept[rng.integers(channels)] = 1
        return {"kept": kept}

    def apply(self, images: Tensor, draws: Sequence[Draw], scene: Scene) -> Tensor:
        """Set to zero."""
        kept = per_channel(stacked(draws, "kept", images))
        scene.reliability = kept * (torch.ones_like(images) if scene.reliability is None else scene.reliability)
        return images * kept


@dataclass(frozen=True)
class SkullStrip(Step):
    """Everything outside the brain removed, as some archives do; the mask is a little too large or too small.

    Attributes
    ----------
    probability
        Chance per image (all channels alike).
    margin_mm
        Distance of the mask's edge from the intracranial labels, U(low, high); negative eats into the brain.
    """

    probability: float = 0.1
    margin_mm: tuple[float, float] = (-1.0, 4.0)

    def sample(self, rng: np.random.Generator, channels: int) -> Draw:
        """Whether, and with which margin."""
        return {"stripped": bool(rng.random() < self.probability), "margin_mm": rng.uniform(*self.margin_mm)}

    def apply(self, images: Tensor, draws: Sequence[Draw], scene: Scene) -> Tensor:
        """Set to zero outside the mask."""
        result = images.clone()
        for image, index, draw in zip(result, scene.index, draws, strict=True):
            if draw["stripped"]:
                image *= grown(intracranial(index), round(draw["margin_mm"] / scene.voxel_size_mm))
        return result


def intracranial(index: Tensor) -> Tensor:
    """Voxels of the brain and its ventricles (labels 1–499), float32, same shape."""
    inside = torch.tensor([1 <= label.number <= 499 for label in labels.table()], device=index.device)
    return inside[index].float()


def grown(mask: Tensor, voxels: int) -> Tensor:
    """Dilated by so many voxels, or eroded if negative; 6-neighbourhood and 26-neighbourhood in turn."""
    grow = voxels > 0
    work = (mask if grow else 1 - mask)[None, None]
    for step in range(abs(voxels)):
        if step % 2:
            work = F.max_pool3d(work, 3, 1, 1)
        else:
            kernels = [(3, 1, 1), (1, 3, 1), (1, 1, 3)]
            work = torch.stack([F.max_pool3d(work, k, 1, tuple(side // 2 for side in k)) for k in kernels]).amax(0)
    return work[0, 0] if grow else 1 - work[0, 0]


@dataclass(frozen=True)
class RicianNoise(Step):
    """Noise of a magnitude image: √((x + n₁)² + n₂²) (Gudbjartsson and Patz 1995).

    Attributes
    ----------
    probability
        Chance per channel.
    sd
        Standard deviation of n as a share of the image's largest value, U(low, high).
    """

    probability: float = 0.3
    sd: tuple[float, float] = (0.0, 0.08)

    def sample(self, rng: np.random.Generator, channels: int) -> Draw:
        """Strength per channel and the seed."""
        sd = rng.uniform(*self.sd, channels) * happens(rng, self.probability, channels)
        return {"sd": sd, "seed": draw_seed(rng)}

    def apply(self, images: Tensor, draws: Sequence[Draw], scene: Scene) -> Tensor:
        """Add in quadrature; images must not be negative."""
        shape = (2, *images.shape[1:])
        noise = torch.stack([normal_noise(shape, draw["seed"], images.device) for draw in draws])
        noise = noise * (per_channel(stacked(draws, "sd", images)) * images.amax(dim=(2, 3, 4), keepdim=True))[:, None]
        noisy = torch.hypot(images + noise[:, 0], noise[:, 1])
        return torch.where(per_channel(stacked(draws, "sd", images)) > 0, noisy, images)


@dataclass(frozen=True)
class GibbsRinging(Step):
    """Ringing at edges along one axis: spatial frequencies beyond a cut-off are missing.

    Attributes
    ----------
    probability
        Chance per channel.
    kept
        Share of the frequencies kept, U(low, high).
    """

    probability: float = 0.1
    kept: tuple[float, float] = (0.5, 0.9)

    def sample(self, rng: np.random.Generator, channels: int) -> Draw:
        """Axis and share kept per channel; 1 keeps everything."""
        kept = np.where(happens(rng, self.probability, channels) > 0, rng.uniform(*self.kept, channels), 1.0)
        return {"axis": rng.integers(3, size=channels), "kept": kept}

    def apply(self, images: Tensor, draws: Sequence[Draw], scene: Scene) -> Tensor:
        """Cut off; the magnitude remains."""
        result = images.clone()
        for image, draw in zip(result, draws, strict=True):
            for channel, axis, kept in zip(image, draw["axis"], draw["kept"], strict=True):
                if kept < 1:
                    spectrum = torch.fft.rfft(channel, dim=int(axis))
                    spectrum.narrow(
                        int(axis), (low := int(kept * spectrum.shape[axis])), spectrum.shape[axis] - low
                    ).zero_()
                    channel.copy_(torch.fft.irfft(spectrum, n=scene.size, dim=int(axis)).abs_())
        return result


@dataclass(frozen=True)
class MotionGhosting(Step):
    """Ghosts of a head that moved periodically: every k-th line of k-space has another strength.

    Attributes
    ----------
    probability
        Chance per channel.
    ghosts
        Number of ghosts along the axis, drawn from low to high (both included).
    strength
        Relative change of the lines, U(low, high).
    """

    probability: float = 0.1
    ghosts: tuple[int, int] = (2, 8)
    strength: tuple[float, float] = (0.1, 0.6)

    def sample(self, rng: np.random.Generator, channels: int) -> Draw:
        """Axis, number and strength per channel."""
        return {
            "axis": rng.integers(3, size=channels),
            "ghosts": rng.integers(self.ghosts[0], self.ghosts[1], size=channels, endpoint=True),
            "strength": rng.uniform(*self.strength, channels) * happens(rng, self.probability, channels),
        }

    def apply(self, images: Tensor, draws: Sequence[Draw], scene: Scene) -> Tensor:
        """Modulate the lines but those in the middle; the magnitude remains."""
        result = images.clone()
        for image, draw in zip(result, draws, strict=True):
            each = zip(image, draw["axis"], draw["ghosts"], draw["strength"], strict=True)
            for channel, axis, ghosts, strength in each:
                if strength == 0:
                    continue
                size = channel.shape[axis]
                factor = torch.ones(size, device=images.device)
                factor[:: int(ghosts)] = 1 - strength
                # The middle of k-space holds the image's contrast and is left alone.
                middle = max(size // 50, 1)
                factor[:middle] = factor[-middle:] = 1
                shape = [1, 1, 1]
                shape[axis] = size
                spectrum = torch.fft.fft(channel, dim=int(axis)) * factor.reshape(shape)
                channel.copy_(torch.fft.ifft(spectrum, dim=int(axis)).abs())
        return result


@dataclass(frozen=True)
class FractalField(Step):
    """Additive fractal texture: octaves of interpolated random points, each finer and weaker by half [Hoffmann 2025].

    Attributes
    ----------
    probability
        Chance per channel.
    strength
        Largest amplitude as a share of the image's largest value, U(low, high).
    points
        Control points per axis of the coarsest octave.
    octaves
        Number of octaves.
    """

    probability: float = 0.2
    strength: tuple[float, float] = (0.0, 0.2)
    points: int = 3
    octaves: int = 4

    def sample(self, rng: np.random.Generator, channels: int) -> Draw:
        """Control points of every octave and channel, already with their strength."""
        strength = rng.uniform(*self.strength, channels) * happens(rng, self.probability, channels)
        fields = []
        for channel in range(channels):
            sides = [self.points * 2**octave for octave in range(self.octaves)]
            fields.append([strength[channel] / 2**k * rng.uniform(-1, 1, (p, p, p)) for k, p in enumerate(sides)])
        return {"fields": fields, "strength": strength}

    def apply(self, images: Tensor, draws: Sequence[Draw], scene: Scene) -> Tensor:
        """Add; what would fall below zero becomes zero."""
        result = images.clone()
        for image, draw in zip(result, draws, strict=True):
            for channel, octaves, strength in zip(image, draw["fields"], draw["strength"], strict=True):
                if strength > 0:
                    largest = channel.amax().clone()
                    for octave in octaves:
                        channel.add_(upsampled(octave, channel) * largest)
                    channel.clamp_(min=0)
        return result
