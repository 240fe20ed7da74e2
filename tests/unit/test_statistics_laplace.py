"""The Laplace regression: against QuantReg, against the likelihood itself, and the coverage of its band."""

import numpy as np
import pytest
from statsmodels.api import QuantReg

from analysis.statistics import laplace


def skewed_cohort(n: int = 300) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    age = rng.uniform(20, 90, n)
    return age, 8000 - 0.6 * np.maximum(age - 45, 0) ** 2 + 300 * rng.gumbel(size=n)


def test_spline_is_linear_beyond_its_knots_and_meets_its_values():
    spline = laplace.NaturalSpline(np.array([30.0, 50.0, 70.0, 80.0]))
    values = np.array([1.0, 3.0, 2.0, 0.0])
    np.testing.assert_allclose(spline.design(spline.knots) @ values, values, atol=1e-12)
    tail = spline.design(np.array([80.0, 85.0, 90.0])) @ values
    assert tail[2] - tail[1] == pytest.approx(tail[1] - tail[0])
    np.testing.assert_allclose(spline.design(np.linspace(10, 100, 50)).sum(axis=1), 1)


def test_two_knots_make_a_straight_line():
    spline = laplace.NaturalSpline(np.array([20.0, 80.0]))
    np.testing.assert_allclose(spline.design(np.array([5.0, 50.0, 95.0])) @ [2.0, 8.0], [0.5, 5.0, 9.5])


def test_median_with_constant_scale_is_quantile_regression():
    age, y = skewed_cohort()
    basis = laplace.NaturalSpline.at_quantiles(age, 6).design(age)
    ours = basis @ laplace.fit(y, basis, np.ones((len(y), 1))).location[0]
    theirs = basis @ QuantReg(y, basis).fit(q=0.5).params
    assert np.abs(ours - theirs).max() < 0.05 * np.std(y - theirs)
    assert np.abs(y - ours).sum() < 1.001 * np.abs(y - theirs).sum()


def test_nothing_nearby_is_more_likely():
    age, y = skewed_cohort()
    basis = laplace.NaturalSpline.at_quantiles(age, 4).design(age)
    fit = laplace.fit(y, basis, basis)
    best = laplace.log_likelihood(y, basis @ fit.location[0], basis @ fit.log_scale[0])
    rng = np.random.default_rng(0)
    for size in (0.03, 0.1, 0.3):
        for _ in range(200):
            location = fit.location[0] + size * 300 * rng.normal(size=4)
            log_scale = fit.log_scale[0] + size * rng.normal(size=4)
            assert laplace.log_likelihood(y, basis @ location, basis @ log_scale) < best + 0.3


def test_scale_follows_age():
    rng = np.random.default_rng(0)
    age = rng.uniform(20, 90, 3000)
    y = 100 + rng.laplace(size=age.size) * np.exp(1 + 0.02 * age)
    basis = laplace.NaturalSpline.at_quantiles(age, 4).design(age)
    fitted = basis @ laplace.fit(y, basis, basis).log_scale[0]
    assert np.abs(fitted - (1 + 0.02 * age)).max() < 0.15


def test_weights_are_repetitions():
    age, y = skewed_cohort(80)
    basis = laplace.NaturalSpline.at_quantiles(age, 3).design(age)
    times = np.random.default_rng(0).integers(1, 4, len(y))
    weighted = laplace.fit(y, basis, basis, weights=times[None].astype(float))
    repeated = laplace.fit(np.repeat(y, times), np.repeat(basis, times, axis=0), np.repeat(basis, times, axis=0))
    np.testing.assert_allclose(weighted.location, repeated.location, atol=10)
    np.testing.assert_allclose(weighted.log_scale, repeated.log_scale, atol=0.05)


def test_lone_oldest_patient_does_not_make_the_scale_vanish():
    rng = np.random.default_rng(0)
    age = np.append(rng.uniform(20, 60, 60), 99.0)
    y = np.append(rng.normal(100, 10, 60), 20.0)
    spline = laplace.NaturalSpline.at_quantiles(age, 6)
    held = spline.design_held(age)
    assert (held @ laplace.fit(y, spline.design(age), held).log_scale[0]).min() > 1


def test_quantiles_against_scipy():
    from scipy.stats import laplace as reference

    for p in (0.05, 0.25, 0.5, 0.75, 0.95):
        assert laplace.quantile(p, np.array([3.0]), np.array([2.0]))[0] == pytest.approx(reference.ppf(p, 3, 2))


def test_cluster_weights_are_shared_within_a_cluster():
    weights = laplace.cluster_weights(np.array([0, 0, 1, 2]), 50, np.random.default_rng(0))
    assert (weights[:, 0] == weights[:, 1]).all() and (weights[:, 0] != weights[:, 2]).all()
    np.testing.assert_allclose(weights.mean(axis=1), 1)


def test_more_than_half_identical_is_refused():
    with pytest.raises(ValueError, match="half"):
        laplace.fit(np.array([1.0, 1, 1, 2]), np.ones((4, 1)), np.ones((4, 1)))


def test_median_with_covariates_is_quantile_regression():
    """As the command fits it, curve and covariates together, with a constant scale."""
    age, y = skewed_cohort()
    rng = np.random.default_rng(1)
    covariates = np.column_stack([1e5 * rng.normal(size=len(y)), rng.integers(0, 2, len(y)) - 0.5])
    y = y + covariates @ [0.004, 300.0]
    design = np.column_stack([laplace.NaturalSpline.at_quantiles(age, 5).design(age), covariates])
    ours = laplace.fit(y, design, np.ones((len(y), 1))).location[0]
    scale = np.abs(design).max(axis=0)
    theirs = QuantReg(y, design / scale).fit(q=0.5).params / scale
    assert np.abs(y - design @ ours).sum() < 1.001 * np.abs(y - design @ theirs).sum()
    np.testing.assert_allclose(ours[-2:], theirs[-2:], rtol=0.15)


def test_probability_and_score_against_scipy():
    from scipy.stats import laplace as reference
    from scipy.stats import norm

    standardised = np.array([-30.0, -3.0, -0.2, 0.0, 0.2, 3.0])
    np.testing.assert_allclose(laplace.probability(standardised), reference.cdf(standardised))
    np.testing.assert_allclose(norm.cdf(laplace.normal_score(standardised)), reference.cdf(standardised))
    far = laplace.normal_score(np.array([-1000.0, 1000.0]))
    assert np.isfinite(far).all() and far[0] == -far[1] < -40


def test_expanded_tail_is_students_interval_of_a_mean():
    """Of the mean of n normal values, whose bootstrap distribution is normal with the variance over n."""
    from scipy.stats import norm, t

    n, values = 12, np.random.default_rng(0).normal(size=12)
    tail = laplace.expanded_tail(0.95, n_clusters=n, n_parameters=1)
    reach = -norm.ppf(tail) * values.std() / np.sqrt(n)
    assert reach == pytest.approx(t.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n))
