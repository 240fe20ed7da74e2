"""Resampling operators against analytic answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from synthsr import resample

N = 64


@pytest.mark.parametrize(
    "matrix",
    [
        resample.interpolation(np.linspace(-3, N + 3, 50), N),
        resample.interpolation([0.0, 0.3], 1),
        resample.gaussian_blur(N, 0.5),
        resample.gaussian_blur(N, 6.0),
        resample.acquisition(N, 1.0, 0.5),
        resample.acquisition(N, 5.3, 2.1, 3.7),
        resample.acquisition(N, 9.0, 0.0, 8.9),
    ],
)
def test_rows_sum_to_one(matrix: resample.Matrix) -> None:
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-12)
    assert matrix.min() >= 0


def test_identities() -> None:
    np.testing.assert_array_equal(resample.interpolation(np.arange(N), N), np.eye(N))
    np.testing.assert_array_equal(resample.gaussian_blur(N, 0), np.eye(N))
    np.testing.assert_array_equal(resample.acquisition(N, 1, 0), np.eye(N))


def test_interpolation_is_linear_and_clamped() -> None:
    values = resample.interpolation([-2.0, 0.25, 1.5, 9.0], 3) @ np.array([0.0, 10.0, 40.0])
    np.testing.assert_allclose(values, [0, 2.5, 25, 40])


@pytest.mark.parametrize("sd", [1.0, 2.5, 4.0])
def test_gaussian_has_its_width(sd: float) -> None:
    response = resample.gaussian_blur(N, sd)[:, N // 2]
    place = np.arange(N) - N // 2
    assert response @ place == pytest.approx(0, abs=1e-9)
    assert np.sqrt(response @ place**2) == pytest.approx(sd, rel=2e-3)
    np.testing.assert_allclose(response, np.exp(-0.5 * (place / sd) ** 2) / (sd * np.sqrt(2 * np.pi)), atol=1e-4)


@pytest.mark.parametrize(("spacing", "blur", "offset"), [(2.0, 1.0, 0.0), (5.0, 2.1, 3.0), (6.7, 2.8, 1.3)])
def test_acquisition_keeps_ramps(spacing: float, blur: float, offset: float) -> None:
    ramp = 3 + 0.5 * np.arange(N)
    margin = int(np.ceil(4 * blur + spacing))
    inside = slice(margin, N - margin)
    np.testing.assert_allclose((resample.acquisition(N, spacing, blur, offset) @ ramp)[inside], ramp[inside])


@pytest.mark.parametrize(("spacing", "offset"), [(3, 0), (5, 2), (9, 8)])
def test_acquired_slices_come_back_exactly(spacing: int, offset: int) -> None:
    signal = np.random.default_rng(1).random(N)
    seen = resample.acquisition(N, spacing, 0.0, offset) @ signal
    np.testing.assert_allclose(seen[offset::spacing], signal[offset::spacing], atol=1e-12)
    blur = resample.gaussian_blur(N, 1.5)
    blurred = resample.acquisition(N, spacing, 1.5, offset) @ signal
    np.testing.assert_allclose(blurred[offset::spacing], (blur @ signal)[offset::spacing], atol=1e-12)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_apply_acts_on_one_axis(axis: int) -> None:
    image = torch.rand(6, 7, 8, generator=torch.Generator().manual_seed(1))
    matrix = np.random.default_rng(1).random((4, image.shape[axis]))
    expected = np.moveaxis(np.tensordot(matrix, image.numpy(), (1, axis)), 0, axis)
    np.testing.assert_allclose(resample.apply(image, matrix, axis).numpy(), expected, rtol=1e-5)
