"""Measures of a scan, on volumes whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from miniature_head import numbers as miniature

from analysis import quality
from synthsr import labels, preprocess

HEAD = np.where(miniature() < 500, miniature(), 0).astype(np.int16)
GRID = preprocess.Grid(HEAD.shape, np.eye(4))


def test_a_field_of_view_that_cuts_the_brain() -> None:
    assert quality.edge_share(HEAD) == 0
    middle = HEAD.shape[2] // 2
    assert quality.edge_share(HEAD[:, :, :middle]) == pytest.approx(1, abs=0.02)
    brain = np.isin(HEAD, labels.brain_numbers()).sum(axis=(0, 1))
    plane = int(np.argmax(brain > 0)) + 4
    assert quality.edge_share(HEAD[:, :, plane:]) == pytest.approx(brain[plane] / brain.max())
    assert quality.edge_share(np.zeros((4, 4, 4), np.int16)) == 0


@pytest.mark.parametrize("spacing_mm", [1, 4])
def test_noise_is_told_whatever_the_anatomy_and_the_slices(spacing_mm: int) -> None:
    rng = np.random.default_rng(0)
    grey = np.where(np.isin(HEAD, labels.brain_numbers()), 100.0, 0)[:, :, ::spacing_mm]
    affine = np.diag([1.0, 1, spacing_mm, 1])
    for sd in (2.0, 10.0):
        data = (grey + sd * rng.standard_normal(grey.shape)).clip(0).astype(np.float32)
        # The brain's border, which is much of so small a head, adds a little.
        assert quality.noise_share(data, affine, HEAD, GRID) == pytest.approx(sd / 100, rel=0.2)
    assert math.isnan(quality.noise_share(data, affine, np.zeros_like(HEAD), GRID))


def test_agreement_of_two_segmentations() -> None:
    assert quality.agreement_dice(HEAD, HEAD) == 1
    assert quality.agreement_dice(HEAD, np.zeros_like(HEAD)) == 0
    assert 0.3 < quality.agreement_dice(HEAD, np.roll(HEAD, 3, axis=0)) < 0.9
    assert math.isnan(quality.agreement_dice(HEAD, HEAD[1:]))


def test_contrast_of_a_synthetic_t1() -> None:
    grey = np.zeros(labels.table()[-1].number + 1)
    for label in labels.table():
        grey[label.number] = label.t1_grey
    assert quality.grey_white_contrast(grey[HEAD].astype(np.float32), HEAD) == pytest.approx((110 - 72) / 110)
    assert quality.grey_white_contrast(np.full(HEAD.shape, 64, np.float32), HEAD) == 0
    assert quality.grey_white_contrast(np.ones(HEAD.shape, np.float32), np.zeros_like(HEAD)) == 0


def test_asymmetry_of_the_hemispheres() -> None:
    sizes = {"Left-Cerebral-White-Matter": 200.0, "Right-Cerebral-White-Matter": 100, "Left-Cerebral-Cortex": 250}
    assert quality.asymmetry({**sizes, "Right-Cerebral-Cortex": 250}) == pytest.approx(100 / 800)
    assert quality.asymmetry({"Left-Cerebral-Cortex": 100}) == quality.asymmetry({}) == 1


def test_all_measures_together() -> None:
    entropies = np.linspace(0, 1, len(labels.segmentation_numbers()))
    sizes = {labels.by_number()[n].name: float((n == HEAD).sum()) for n in labels.segmentation_numbers()}
    found = quality.measure(
        (HEAD * 10).astype(np.float32)[:, :, ::3],
        np.diag([1.0, 1, 3, 1]),
        HEAD.astype(np.float32),
        grid=GRID,
        numbers=HEAD,
        direct=HEAD,
        entropies=entropies,
        volumes_mm3={**sizes, "ICV": 1.4e6},
        seen=None,
    )
    assert math.isnan(found["motion"])
    assert found["spacing_mm"] == 3 and found["icv_litres"] == 1.4 and found["agreement_dice"] == 1
    assert abs(found["centre_x_mm"] - (HEAD.shape[0] - 1) / 2) < 1
    assert (
        0 < found["entropy"] < 1
        and found["entropy_Left-Hippocampus"] == entropies[labels.segmentation_numbers().index(17)]
    )
