r"""ComBat: shifts and scales of sites taken out of many measures, pooled over measures by empirical Bayes.

Johnson, Li & Rabinovic, Biostatistics 2007; for brain measures Fortin et al., NeuroImage 2018. Of measure g of person j
at site i,

.. math:: y_{ijg} = \alpha_g + x_j^\top \beta_g + \sigma_g (\gamma_{ig} + \delta_{ig} \varepsilon_{ijg}),

what is kept is :math:`\alpha_g + x_j^\top \beta_g + \sigma_g \varepsilon_{ijg}`. Least squares give α (mean over all
people), β and σ; within a site the γ of all measures are taken for draws of one normal, the δ² of one inverse gamma
distribution, whose moments come from the measures, and conditional posterior means are iterated (Johnson, equations 3.1
and 3.2 and the appendix).

Own code, as no package fits: neuroCombat (0.2.12, 2021, no longer maintained) turns a missing volume, a constant
structure or a site of one into NaN everywhere; neuroHarmonize wants numpy and pandas of past years; inmoose and combat
are under the GPL. On complete data the numbers are neuroCombat's (``tests/data/neurocombat_reference.json``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from . import linear

if TYPE_CHECKING:
    from .voxelwise import Array

#: Values of a measure that a site needs, for a mean and a variance.
MINIMUM_PER_SITE = 2
#: With fewer measures there is no distribution to pool over: each site's own shift and scale are used.
MINIMUM_MEASURES = 3
#: Iteration ends when no shift or squared scale moves by more than this (in the measure's standard deviation).
TOLERANCE = 1e-8
MAX_ITERATIONS = 1000


@dataclass(frozen=True)
class Harmonised:
    """Values without their sites' shifts and scales.

    Attributes
    ----------
    values
        Shape (people, measures). NaN where the value was, or where a measure has too few, at its site or altogether.
    shift
        σ γ: what a site adds, in the measure's unit; shape (sites, measures). NaN where not estimated.
    scale
        δ: factor on the scatter; shape (sites, measures).
    untouched
        Measures left as they were: nothing varies once sites and covariates are accounted for. Shape (measures,).
    """

    values: Array
    shift: Array
    scale: Array
    untouched: npt.NDArray[np.bool_]


def harmonise(values: Array, site: npt.NDArray[np.intp], covariates: Array) -> Harmonised:
    """Take shifts and scales of sites out of every measure.

    Parameters
    ----------
    values
        Shape (people, measures); NaN is missing.
    site
        Number of each person's site, from 0 on; shape (people,).
    covariates
        What is to be kept, finite; shape (people, any number).

    Raises
    ------
    ValueError
        If sites and covariates cannot be told apart.
    """
    n_sites, n_measures = int(site.max()) + 1, values.shape[1]
    spread = covariates.std(axis=0)
    covariates = ((covariates - covariates.mean(axis=0)) / np.where(spread > 0, spread, 1))[:, spread > 0]
    whole = np.hstack([np.eye(n_sites)[site], covariates])
    if not linear.is_full_rank(whole):
        raise ValueError("sites and covariates cannot be told apart")
    shape = (n_sites, n_measures)
    gamma, delta2, count = np.full(shape, np.nan), np.full(shape, np.nan), np.zeros(shape)
    standardised, kept = np.full(values.shape, np.nan), np.full(values.shape, np.nan)
    sigma, untouched = np.ones(n_measures), np.zeros(n_measures, dtype=bool)
    for g in range(n_measures):
        rows = np.flatnonzero(np.isfinite(values[:, g]))
        size = np.bincount(site[rows], minlength=n_sites)
        rows = rows[size[site[rows]] >= MINIMUM_PER_SITE]
        there, which = np.unique(site[rows], return_inverse=True)
        design = np.hstack([np.eye(len(there))[which], covariates[rows]])
        if len(rows) <= design.shape[1] or not linear.is_full_rank(design):
            continue
        y = values[rows, g]
        coefficients = np.linalg.lstsq(design, y, rcond=None)[0]
        sigma[g] = np.sqrt(np.mean((y - design @ coefficients) ** 2))
        if not sigma[g] > 1e-9 * np.abs(y).max():
            untouched[g] = True
            kept[rows, g] = y
            continue
        of_sites = coefficients[: len(there)]
        kept[rows, g] = of_sites[which].mean() + covariates[rows] @ coefficients[len(there) :]
        standardised[rows, g] = (y - kept[rows, g]) / sigma[g]
        for place, number in enumerate(there):
            z = standardised[rows[which == place], g]
            gamma[number, g], delta2[number, g], count[number, g] = z.mean(), z.var(ddof=1), len(z)
    delta2[delta2 < 1e-18] = 1  # all alike at a site: no scale to learn
    gamma_star, delta2_star = np.full(shape, np.nan), np.full(shape, np.nan)
    for number in range(n_sites):
        known = np.isfinite(gamma[number])
        if known.any():
            gamma_star[number, known], delta2_star[number, known] = _posterior(
                standardised[site == number][:, known],
                gamma[number, known],
                delta2[number, known],
                count[number, known],
            )
    adjusted = (standardised - gamma_star[site]) / np.sqrt(delta2_star[site])
    harmonised = np.where(untouched, kept, kept + sigma * adjusted)
    return Harmonised(harmonised, sigma * gamma_star, np.sqrt(delta2_star), untouched)


def _posterior(z: Array, gamma: Array, delta2: Array, count: Array) -> tuple[Any, Any]:
    """Posterior shift and squared scale of a site's measures.

    Parameters
    ----------
    z
        Standardised values, NaN where missing; shape (people of the site, measures).
    gamma, delta2, count
        Mean, variance and number per measure.
    """
    if len(gamma) < MINIMUM_MEASURES or not (np.ptp(gamma) > 0 and np.ptp(delta2) > 0):
        return gamma, delta2
    centre, tau2 = gamma.mean(), gamma.var(ddof=1)
    mean, variance = delta2.mean(), delta2.var(ddof=1)
    shape, rate = 2 + mean**2 / variance, mean + mean**3 / variance
    shift, scale2 = gamma, delta2
    for _ in range(MAX_ITERATIONS):
        new_shift = (tau2 * count * gamma + scale2 * centre) / (tau2 * count + scale2)
        new_scale2 = (0.5 * np.nansum((z - new_shift) ** 2, axis=0) + rate) / (count / 2 + shape - 1)
        change = max(np.abs(new_shift - shift).max(), np.abs(new_scale2 - scale2).max())
        shift, scale2 = new_shift, new_scale2
        if change < TOLERANCE:
            break
    return shift, scale2
