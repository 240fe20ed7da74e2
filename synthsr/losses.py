"""Losses and measures on label maps: overlap by gather and index-add, without dense one-hot volumes, and distance."""

from __future__ import annotations

import torch
from torch import Tensor

from .networks import DISTANCE_LIMIT_MM


def soft_dice(probability: Tensor, target: Tensor) -> Tensor:
    """Soft Dice of every channel, over the batch as a whole.

    Parameters
    ----------
    probability
        Shape (n, c, x, y, z), non-negative, channels adding to one.
    target
        Shape (n, x, y, z), int64 channel numbers.

    Returns
    -------
    Shape (c,): 2·Σ p·t / (Σ p² + Σ t) (Milletari et al. 2016); NaN for channels absent from target.
    """
    return _soft_dice(_by_voxel(probability), target.reshape(-1))


def _by_voxel(image: Tensor) -> Tensor:
    """(n, c, x, y, z) → (n·x·y·z, c): a view of channels-last memory, on which sums over channels are fastest."""
    return image.movedim(1, -1).reshape(-1, image.shape[1])


def _soft_dice(probability: Tensor, target: Tensor) -> Tensor:
    """As :func:`soft_dice`, with one row per voxel."""
    channels = probability.shape[1]
    hit = probability.gather(1, target.unsqueeze(1)).squeeze(1)
    overlap = torch.zeros(channels, dtype=hit.dtype, device=hit.device).index_add(0, target, hit)
    count = torch.bincount(target, minlength=channels).to(hit.dtype)
    mass = probability.square().sum(dim=0)
    dice = 2 * overlap / (mass + count).clamp_min(1e-6)
    return torch.where(count > 0, dice, torch.full_like(dice, float("nan")))


def segmentation_loss(logits: Tensor, target: Tensor, dice_weight: float = 1.0) -> Tensor:
    """Cross-entropy plus ``dice_weight`` times one minus the mean soft Dice over the channels present.

    Parameters
    ----------
    logits
        Shape (n, c, x, y, z), float32.
    target
        Shape (n, x, y, z), int64.
    """
    log_probability, target = _by_voxel(logits).log_softmax(dim=1), target.reshape(-1)
    cross_entropy = -log_probability.gather(1, target.unsqueeze(1)).mean()
    if not dice_weight:
        return cross_entropy
    return cross_entropy + dice_weight * (1 - torch.nanmean(_soft_dice(log_probability.exp(), target)))


def hard_dice(predicted: Tensor, target: Tensor, channels: int) -> Tensor:
    """Dice overlap of two label maps per channel, shape (channels,); NaN where both lack the label."""
    predicted, target = predicted.reshape(-1), target.reshape(-1)
    overlap = torch.bincount(target[predicted == target], minlength=channels).double()
    total = torch.bincount(predicted, minlength=channels) + torch.bincount(target, minlength=channels)
    return 2 * overlap / total


def truncated_distance(inside: Tensor, *, limit_mm: float = DISTANCE_LIMIT_MM, voxel_size_mm: float) -> Tensor:
    """Signed Euclidean distance to the boundary of a mask, negative inside, clipped to ±``limit_mm``.

    Zero lies halfway between neighbours of which one is inside: a voxel's distance is that between its centre and the
    nearest centre on the other side, less half a voxel. Exact up to the limit, by minima over shifts s along one axis
    after the other of d²(x + s) + s² (Felzenszwalb and Huttenlocher, Theory of Computing 2012). Beyond its borders a
    volume is taken to have no boundary.

    Parameters
    ----------
    inside
        Shape (n, x, y, z), bool.
    limit_mm
        Distances beyond are told as this; below 90 voxels.
    voxel_size_mm
        Side of the isotropic voxels.

    Returns
    -------
    Shape (n, x, y, z), float32, mm.
    """
    half_mm = voxel_size_mm / 2
    reach = int((limit_mm + half_mm) / voxel_size_mm)
    # In voxels squared, to the nearest voxel inside and to the nearest outside; small integers, for speed.
    squared = torch.stack([~inside, inside]).to(torch.int16) * (reach + 1) ** 2
    for axis in (2, 3, 4):
        start = squared.clone()
        for shift in range(1, min(reach, squared.shape[axis] - 1) + 1):
            raised, length = start + shift**2, squared.shape[axis] - shift
            for here, there in ((0, shift), (shift, 0)):
                part = squared.narrow(axis, here, length)
                torch.minimum(part, raised.narrow(axis, there, length), out=part)
    distance = (squared.sum(0, dtype=torch.int16).float().sqrt() * voxel_size_mm - half_mm).clamp_max(limit_mm)
    return torch.where(inside, -distance, distance)


def distance_loss(predicted: Tensor, true: Tensor) -> Tensor:
    """Mean squared error of distances near the boundary, in mm².

    SynthStrip's loss (Hoopes et al., NeuroImage 2022) on a narrow band: a true distance of ±:data:`DISTANCE_LIMIT_MM`
    says no more than that the boundary is at least so far away, and is met by every prediction beyond.

    Parameters
    ----------
    predicted, true
        Of one shape, mm; the latter from :func:`truncated_distance` with its default limit.
    """
    error = predicted - true
    beyond = (true.abs() >= DISTANCE_LIMIT_MM) & (error * true > 0)
    return error.masked_fill(beyond, 0).square().mean()
