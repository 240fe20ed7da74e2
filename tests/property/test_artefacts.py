"""What each artefact does to a simple image, by known answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from synthsr import labels
from synthsr.generator import artefacts
from synthsr.generator.steps import Scene, Step

SIZE = 32


def scene() -> Scene:
    """A brain of radius 8 in a head of radius 14."""
    place = torch.stack(torch.meshgrid(*[torch.arange(SIZE) - (SIZE - 1) / 2] * 3, indexing="ij"))
    radius = place.norm(dim=0)
    lookup = labels.index_lookup()
    index = torch.zeros((SIZE,) * 3, dtype=torch.int64)
    index[radius < 14] = int(lookup[511])
    index[radius < 8] = int(lookup[2])
    return Scene(index[None], 1.0, 1)


def image() -> Tensor:
    return (scene().index > 0).float()[:, None] * 0.8


def after(step: Step, seed: int = 1, before: Tensor | None = None, **drawn: Any) -> Tensor:
    """The image after the step, some draws set by hand."""
    draw = {**step.sample(np.random.default_rng(seed), 1), **drawn}
    result: Tensor = step.apply(image() if before is None else before, [draw], scene())
    return result


def test_cleared_slices_are_planes() -> None:
    found = after(artefacts.ClearSlices(1.0, (0.25, 0.25)), axis=np.array([1]), before=torch.ones(1, 1, *(SIZE,) * 3))
    empty = (found[0, 0] == 0).all(dim=2).all(dim=0)
    assert empty.sum() == 8
    assert (found[0, 0][:, ~empty] == 1).all()


@pytest.mark.parametrize(("margin", "radius"), [(0.0, 8), (3.0, 11), (-2.0, 6)])
def test_skull_stripping_leaves_the_brain_and_a_margin(margin: float, radius: float) -> None:
    found = after(artefacts.SkullStrip(1.0, (margin, margin)))[0, 0] > 0
    volume = float(found.sum())
    assert (0.75 * volume / (np.pi)) ** (1 / 3) == pytest.approx(radius, abs=0.8)
    if margin == 0:
        assert torch.equal(found, scene().index[0] == int(labels.index_lookup()[2]))


def test_rician_noise_lifts_the_background() -> None:
    """Where there is no signal its mean is σ·√(π/2); where there is much, about nothing is added."""
    found = after(artefacts.RicianNoise(1.0, (0.05, 0.05)))[0, 0]
    sd = 0.05 * 0.8
    background = found[scene().index[0] == 0]
    assert background.min() >= 0
    assert float(background.mean()) == pytest.approx(sd * np.sqrt(np.pi / 2), rel=0.02)
    assert float(found[scene().index[0] > 0].mean()) == pytest.approx(np.hypot(0.8, sd), rel=0.01)


def test_gibbs_ringing_overshoots_at_edges_and_keeps_the_mean_nearly() -> None:
    found = after(artefacts.GibbsRinging(1.0, (0.5, 0.5)), axis=np.array([0]))
    assert found.max() > 0.8 * 1.04
    assert float(found.mean()) == pytest.approx(float(image().mean()), rel=0.05)
    assert torch.equal(after(artefacts.GibbsRinging(1.0, (1.0, 1.0))), image())


def test_ghosts_lie_along_one_axis() -> None:
    """Every second line of k-space weaker: a copy half a field of view away."""
    before = torch.zeros(1, 1, *(SIZE,) * 3)
    before[0, 0, 4:10, 10:20, 10:20] = 1
    found = after(artefacts.MotionGhosting(1.0, (2, 2), (0.4, 0.4)), axis=np.array([0]), before=before)[0, 0]
    assert found[20:26, 10:20, 10:20].mean() > 0.1
    assert found[:, :10].abs().max() < 1e-5 and found[:, :, 20:].abs().max() < 1e-5


def test_fractal_field_is_textured_and_bounded() -> None:
    found = after(artefacts.FractalField(1.0, (0.2, 0.2)), before=torch.full((1, 1, *(SIZE,) * 3), 0.5))
    change = found - 0.5
    assert 0.02 < float(change.std()) < 0.1
    assert change.abs().max() <= 0.5 * 0.2 * 2 + 1e-6
    assert found.min() >= 0


@pytest.mark.parametrize(("channels", "probability"), [(3, 0.5), (3, 0.2), (2, 1.0)])
def test_any_channel_may_be_missing_but_one_is_left(channels: int, probability: float) -> None:
    """Each set of channels as often as independent losses make it; if all were lost, one, drawn evenly, stays."""
    step, rng = artefacts.DropChannels(probability), np.random.default_rng(1)
    code = 2 ** np.arange(channels)
    found = np.bincount([int(step.sample(rng, channels)["kept"] @ code) for _ in range(10_000)], minlength=2**channels)
    assert found[0] == 0
    sets = np.arange(2**channels)
    size = np.array([bin(kept).count("1") for kept in sets])
    chance = (1 - probability) ** size * probability ** (channels - size)
    chance[code] += chance[0] / channels
    assert found[chance == 0].sum() == 0
    likely = (chance > 0) & (sets > 0)
    assert stats.chisquare(found[likely], 10_000 * chance[likely]).pvalue > 0.001


def test_nothing_happens_without_probability() -> None:
    kinds = (
        artefacts.ClearSlices, artefacts.SkullStrip, artefacts.RicianNoise, artefacts.GibbsRinging,
        artefacts.MotionGhosting, artefacts.FractalField, artefacts.DropChannels,
    )  # fmt: skip
    for kind in kinds:
        assert torch.equal(after(kind(probability=0.0)), image()), kind.__name__
