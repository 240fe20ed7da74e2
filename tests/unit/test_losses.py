"""Losses against known answers and against their dense definitions."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from synthsr.losses import hard_dice, segmentation_loss, soft_dice


def dense(channel: Tensor, channels: int) -> Tensor:
    """One-hot volumes, shape (n, c, x, y, z)."""
    return F.one_hot(channel, channels).movedim(-1, 1).float()


@pytest.fixture
def target() -> Tensor:
    """Channels 0, 1 and 3 of four, two volumes."""
    return torch.tensor([0, 1, 3])[torch.randint(3, (2, 4, 5, 6), generator=torch.Generator().manual_seed(1))]


@pytest.fixture
def logits() -> Tensor:
    return torch.randn(2, 4, 4, 5, 6, generator=torch.Generator().manual_seed(2))


def test_soft_dice_of_perfect_prediction_is_one(target: Tensor) -> None:
    dice = soft_dice(dense(target, 4), target)
    assert torch.equal(dice[[0, 1, 3]], torch.ones(3))
    assert dice[2].isnan()


def test_soft_dice_of_disjoint_prediction_is_zero(target: Tensor) -> None:
    assert torch.equal(soft_dice(dense((target + 1) % 4, 4), target)[[0, 1, 3]], torch.zeros(3))


def test_soft_dice_known_answer() -> None:
    # Four voxels, two of each channel, even odds everywhere: 2 · (2 · ½) / (4 · ¼ + 2) = 2/3.
    target = torch.tensor([0, 0, 1, 1]).reshape(1, 1, 2, 2)
    torch.testing.assert_close(soft_dice(torch.full((1, 2, 1, 2, 2), 0.5), target), torch.full((2,), 2 / 3))


def test_soft_dice_equals_dense_definition(target: Tensor, logits: Tensor) -> None:
    probability, truth = logits.softmax(1), dense(target, 4)
    axes = (0, 2, 3, 4)
    expected = 2 * (probability * truth).sum(axes) / (probability.square() + truth.square()).sum(axes)
    torch.testing.assert_close(soft_dice(probability, target)[[0, 1, 3]], expected[[0, 1, 3]])


def test_segmentation_loss_equals_its_parts(target: Tensor, logits: Tensor) -> None:
    dice = soft_dice(logits.softmax(1), target)[[0, 1, 3]].mean()
    torch.testing.assert_close(segmentation_loss(logits, target), F.cross_entropy(logits, target) + 1 - dice)


def test_gradient_is_finite_with_absent_channels(target: Tensor, logits: Tensor) -> None:
    logits.requires_grad_()
    segmentation_loss(logits, target).backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all() and logits.grad.abs().sum() > 0


def test_gradient_descends(target: Tensor, logits: Tensor) -> None:
    logits.requires_grad_()
    loss = segmentation_loss(logits, target)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert segmentation_loss(logits - 10 * gradient, target) < loss


def test_hard_dice_known_answers() -> None:
    predicted = torch.tensor([0, 0, 1, 1, 1, 3])
    target = torch.tensor([0, 1, 1, 1, 2, 2])
    dice = hard_dice(predicted, target, 5).tolist()
    assert dice[:4] == pytest.approx([2 / 3, 4 / 6, 0, 0])
    assert math.isnan(dice[4])


def test_hard_dice_of_itself_is_one(target: Tensor) -> None:
    assert hard_dice(target, target, 4)[[0, 1, 3]].tolist() == [1, 1, 1]
