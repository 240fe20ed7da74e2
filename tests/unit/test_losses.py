"""Losses against known answers and against their dense definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import distance_transform_edt, gaussian_filter
from torch import Tensor

from synthsr.losses import distance_loss, hard_dice, segmentation_loss, soft_dice, truncated_distance
from synthsr.networks import DISTANCE_LIMIT_MM


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


@pytest.mark.parametrize(("voxel_size_mm", "limit_mm"), [(1, 5), (2, 5), (1.5, 4), (1, 12)])
def test_truncated_distance_equals_scipy(voxel_size_mm: float, limit_mm: float) -> None:
    rng = np.random.default_rng(3)
    blobs = np.stack([gaussian_filter(rng.standard_normal((25, 31, 28)), sd) > 0.3 / sd**1.5 for sd in (1.5, 3)])
    assert 0.02 < blobs.mean() < 0.6
    found = truncated_distance(torch.from_numpy(blobs), limit_mm=limit_mm, voxel_size_mm=voxel_size_mm)
    for inside, distance in zip(blobs, found.numpy(), strict=True):
        outer, inner = ((distance_transform_edt(where) - 0.5) * voxel_size_mm for where in (~inside, inside))
        np.testing.assert_allclose(distance, np.where(inside, -inner, outer).clip(-limit_mm, limit_mm), rtol=1e-5)


def test_truncated_distance_is_zero_halfway() -> None:
    inside = torch.zeros(1, 12, 3, 2, dtype=torch.bool)
    inside[:, :5] = True
    distance = truncated_distance(inside, limit_mm=7, voxel_size_mm=2)
    expected = torch.tensor([-7.0, -7, -5, -3, -1, 1, 3, 5, 7, 7, 7, 7])
    torch.testing.assert_close(distance, expected.reshape(1, 12, 1, 1).expand(1, 12, 3, 2))


@pytest.mark.parametrize("inside", [True, False])
def test_truncated_distance_without_boundary(inside: bool) -> None:
    distance = truncated_distance(torch.full((1, 4, 4, 4), inside), voxel_size_mm=1)
    assert (distance == (-DISTANCE_LIMIT_MM if inside else DISTANCE_LIMIT_MM)).all()


def test_distance_loss_known_answers() -> None:
    limit = DISTANCE_LIMIT_MM
    true = torch.tensor([0.0, 2, -limit, limit, limit])
    predicted = torch.tensor([3.0, 2, -limit - 2, limit + 1, limit - 1], requires_grad=True)
    loss = distance_loss(predicted, true)
    torch.testing.assert_close(loss, torch.tensor((9 + 0 + 0 + 0 + 1) / 5))
    loss.backward()
    assert predicted.grad is not None
    torch.testing.assert_close(predicted.grad, torch.tensor([6.0, 0, 0, 0, -2]) / 5)


def test_distance_loss_pulls_back_from_the_wrong_side() -> None:
    predicted = torch.tensor([-9.0, 9.0], requires_grad=True)
    distance_loss(predicted, torch.tensor([DISTANCE_LIMIT_MM, -DISTANCE_LIMIT_MM])).backward()
    assert predicted.grad is not None
    assert predicted.grad[0] < 0 < predicted.grad[1]
