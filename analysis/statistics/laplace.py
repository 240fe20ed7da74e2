r"""Regression with a Laplace distribution whose location and log-scale are both linear in their designs.

.. math:: p(y_i) = \frac{1}{2 s_i} \exp(-|y_i - m_i| / s_i), \qquad m = X \beta, \qquad \log s = Z \gamma

with age splines as designs this is the ageing model of Iglesias et al., Science Advances 2023 (materials and methods).
The location is the conditional median. The likelihood has a kink at every observation, so that its Hessian says
nothing about uncertainty and Newton-like optimisers (statsmodels' ``GenericLikelihoodModel``) stop short. Maximised
here by majorisation: :math:`|r| \approx \rho = \sqrt{r^2 + \epsilon^2}` is bounded by a parabola (iteratively
reweighted least squares for :math:`\beta`; Hunter & Lange, J. Comput. Graph. Stat. 2000), and :math:`\gamma` takes
Fisher-scoring steps. All of it runs over many sets of observation weights at once, which makes the bootstrap cheap.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special, stats
from scipy.interpolate import CubicSpline

Array = npt.NDArray[np.floating[Any]]

#: Half-width of the rounded kink, as a fraction of the mean absolute residual.
KINK = 0.02
#: Least distance between knots, as a fraction of the range.
KNOT_GAP = 0.02
#: Weight of the prior that pulls the log-scale at each knot to the mean over knots, in observations. It keeps the
#: likelihood bounded where a lone patient at the end of the age range could be met exactly with a vanishing scale.
PRIOR_OBSERVATIONS = 1.0
#: Least scale to start from, as a fraction of the median absolute deviation: values may lie exactly on a curve.
LEAST_SCALE = 1e-6
#: A fit ends when no median moves by more than this fraction of the mean absolute residual, no log-scale by more.
TOLERANCE = 1e-3
MAX_ITERATIONS = 500


@dataclass(frozen=True)
class NaturalSpline:
    """Natural cubic spline: linear beyond its outer knots, parametrised by its values at the knots.

    Attributes
    ----------
    knots
        Rising positions, at least two.
    """

    knots: Array

    @classmethod
    def at_quantiles(cls, x: Array, n_knots: int) -> NaturalSpline:
        """Knots at equally spaced quantiles from 5 % to 95 % (Harrell, Regression Modeling Strategies, table 2.3).

        Knots nearer to their neighbour than :data:`KNOT_GAP` fall together; if one is left, the ends of ``x`` serve.
        """
        wanted = np.quantile(x, np.linspace(0.05, 0.95, n_knots))
        knots = list(wanted[:1])
        for knot in wanted[1:]:
            if knot - knots[-1] >= KNOT_GAP * np.ptp(x):
                knots.append(knot)
        return cls(np.array(knots if len(knots) > 1 else [x.min(), x.max()]))

    def design(self, x: Array) -> Array:
        """Basis at ``x``, shape (len(x), number of knots); its rows sum to one."""
        inside = np.clip(x, self.knots[0], self.knots[-1])
        spline = CubicSpline(self.knots, np.eye(len(self.knots)), bc_type="natural")
        return np.asarray(spline(inside) + spline(inside, 1) * (x - inside)[:, None], dtype=float)

    def design_held(self, x: Array) -> Array:
        """As :meth:`design`, but constant beyond the outer knots: for a scale, which must not run away there."""
        return self.design(np.clip(x, self.knots[0], self.knots[-1]))


@dataclass(frozen=True)
class LaplaceFit:
    """Coefficients of R fits, one per set of weights.

    Attributes
    ----------
    location
        β, shape (R, columns of X).
    log_scale
        γ, shape (R, columns of Z).
    """

    location: Array
    log_scale: Array


def log_likelihood(y: Array, location: Array, log_scale: Array) -> float:
    """Sum of log densities at given medians and log-scales, each of shape (n,)."""
    return float(-np.sum(np.log(2) + log_scale + np.abs(y - location) * np.exp(-log_scale)))


def quantile(probability: float, median: Array, scale: Array) -> Array:
    """Quantile of the Laplace distribution: m + s·sign(p − ½)·(−ln(1 − 2|p − ½|))."""
    offset = probability - 0.5
    factor = float(np.copysign(np.log1p(-2 * abs(offset)), offset))
    return median + factor * scale


def probability(standardised: Array) -> Array:
    """Share of the distribution below ``standardised`` = (y − m) / s."""
    tail = 0.5 * np.exp(-np.abs(standardised))
    return np.where(standardised < 0, tail, 1 - tail)


def normal_score(standardised: Array) -> Array:
    """Quantile of the standard normal distribution at :func:`probability`, finite however far out."""
    return np.asarray(np.copysign(special.ndtri_exp(np.log(0.5) - np.abs(standardised)), standardised))


def fit(
    y: Array, location: Array, log_scale: Array, *, weights: Array | None = None, start: LaplaceFit | None = None
) -> LaplaceFit:
    """Maximum likelihood under each set of weights.

    Parameters
    ----------
    y
        Observations, shape (n,).
    location, log_scale
        Designs X and Z, shapes (n, p) and (n, q); X of full rank, the rows of Z sum to one (a spline by its values at
        the knots).
    weights
        Shape (R, n); one set of ones unless given.
    start
        One fit to start from (R = 1); least squares unless given.

    Raises
    ------
    ValueError
        If more than half of the observations are the same, so that a scale does not exist.
    """
    weights = np.ones((1, len(y))) if weights is None else weights
    unit = float(np.median(np.abs(y - np.median(y))))
    if not unit > 0:
        raise ValueError("more than half of the values are the same")
    if start is None:
        beta = np.linalg.lstsq(location, y, rcond=None)[0]
        scale = max(float(np.mean(np.abs(y - location @ beta))), LEAST_SCALE * unit)
        start = LaplaceFit(beta[None], np.full((1, log_scale.shape[1]), np.log(scale)))
    n_sets, p, q = len(weights), location.shape[1], log_scale.shape[1]
    beta, gamma = np.repeat(start.location, n_sets, axis=0), np.repeat(start.log_scale, n_sets, axis=0)
    found = LaplaceFit(beta.copy(), gamma.copy())
    prior = PRIOR_OBSERVATIONS * (np.eye(q) - 1 / q)
    information = np.linalg.inv((weights @ _outer(log_scale)).reshape(-1, q, q) + prior)
    outer_location = _outer(location)
    typical = float(np.exp(np.mean(start.log_scale)))
    epsilon = KINK * typical
    running = np.arange(n_sets)
    median = beta @ location.T
    rounded = np.sqrt((y - median) ** 2 + epsilon**2)
    for _ in range(MAX_ITERATIONS):
        precision = np.exp(-gamma @ log_scale.T)
        pull = weights * precision / rounded
        normal = (pull @ outer_location).reshape(-1, p, p)
        beta = np.linalg.solve(normal, ((pull * y) @ location)[..., None])[..., 0]
        before, median = median, beta @ location.T
        rounded = np.sqrt((y - median) ** 2 + epsilon**2)
        slope = (weights * (rounded * precision - 1)) @ log_scale - gamma @ prior
        step = np.clip(np.einsum("rij,rj->ri", information, slope), -1, 1)
        gamma = gamma + step
        found.location[running], found.log_scale[running] = beta, gamma
        moved = np.maximum(np.abs(median - before).max(axis=1) / typical, np.abs(step).max(axis=1)) > TOLERANCE
        if not moved.any():
            break
        if not moved.all():
            running, gamma, weights, information = running[moved], gamma[moved], weights[moved], information[moved]
            median, rounded = median[moved], rounded[moved]
    return found


def cluster_weights(groups: npt.NDArray[np.int64], replicates: int, rng: np.random.Generator) -> Array:
    """Bootstrap weights, shape (replicates, n): one Exp(1) draw per cluster, normalised to mean one.

    The weighted bootstrap of Rubin (Ann. Stat. 1981), drawn for clusters. Unlike resampling it leaves nobody out, so
    that every replicate has a solution.
    """
    draws = rng.exponential(size=(replicates, int(groups.max()) + 1))
    weights = draws[:, groups]
    return np.asarray(weights / weights.mean(axis=1, keepdims=True), dtype=float)


def expanded_tail(confidence: float, *, n_clusters: int, n_parameters: int) -> float:
    r"""Percentile of bootstrap replicates that bounds a confidence interval from below, honest with few clusters.

    Plain percentiles are too narrow, as residuals are and as the normal distribution is against Student's:
    :math:`\Phi(-\sqrt{n / (n - p)}\; t_{n - p})`, Hesterberg, American Statistician 2015, section 4, there for p = 1.
    """
    left = n_clusters - n_parameters
    reach = np.sqrt(n_clusters / left) * stats.t.ppf((1 + confidence) / 2, left)
    return float(stats.norm.cdf(-reach))


def _outer(design: Array) -> Array:
    """Row-wise outer products, flattened: weighted sums of them are matrix products."""
    return (design[:, :, None] * design[:, None, :]).reshape(len(design), -1)
