"""Losses and overlap measures on label maps, by gather and index-add rather than dense one-hot volumes."""

from __future__ import annotations

import torch
from torch import Tensor


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
