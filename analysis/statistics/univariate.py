"""Small tests and intervals that several commands share; what does not exist is NaN, never a warning."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

if TYPE_CHECKING:
    from .laplace import Array

#: Shapiro and Wilk's p is Royston's approximation, which holds up to this many values (Applied Statistics 1995).
SHAPIRO_MOST = 5000
#: Up to this many clusters all choices of their signs are tried.
EXACT_CLUSTERS = 12


def shapiro_p(values: Array) -> float:
    """Shapiro–Wilk test of normality; NaN for fewer than three values, equal values, or more than 5,000."""
    if not 3 <= len(values) <= SHAPIRO_MOST or np.ptp(values) == 0:
        return float("nan")
    return float(stats.shapiro(values).pvalue)


def signed_rank_p(differences: Array) -> float:
    """Wilcoxon's signed rank test of differences; NaN where all are zero.

    Zeros are left out (Wilcoxon's own rule). As scipy decides: exact up to 50 differences without ties and zeros, else
    normal with the variance corrected for ties.
    """
    if not np.any(differences):
        return float("nan")
    return float(stats.wilcoxon(differences).pvalue)


def clustered_signed_rank_p(differences: Array, clusters: Any) -> float:
    """Signed rank test of differences that come in clusters, such as the landmarks of a pair of scans.

    Under the null hypothesis the sign of a cluster's sum of signed ranks is free (Rosner, Glynn & Lee, Biometrics
    2006): the total is held against all choices of signs, or, of many clusters, over the root of the sums' squares
    against the normal distribution. With clusters of one it is Wilcoxon's test. Zeros are left out; NaN if nothing is
    left.

    Parameters
    ----------
    differences
        Shape (n,).
    clusters
        Which cluster each difference belongs to, shape (n,).
    """
    used = differences != 0
    differences = differences[used]
    names, number = np.unique(np.asarray(clusters)[used], return_inverse=True)
    if not len(names):
        return float("nan")
    sums = np.bincount(number, np.sign(differences) * stats.rankdata(np.abs(differences)))
    total = float(abs(sums.sum()))
    if len(names) <= EXACT_CLUSTERS:
        signs = 1 - 2 * (np.arange(2 ** len(names))[:, None] >> np.arange(len(names)) & 1)
        return float(np.mean(np.abs(signs @ sums) >= total - 1e-9))
    scatter = float(np.sqrt(np.sum(sums**2)))
    return float(2 * stats.norm.sf(total / scatter)) if scatter > 0 else 1.0


def pearson(x: Array, y: Array, *, confidence: float = 0.95) -> tuple[float, float, float, float]:
    """Pearson's r, its interval by Fisher's transform and the p of its t test.

    All NaN for fewer than three pairs or equal values; the interval alone for three pairs.
    """
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return (float("nan"),) * 4
    found = stats.pearsonr(x, y)
    interval = found.confidence_interval(confidence) if len(x) > 3 else (np.nan, np.nan)
    return float(found.statistic), float(interval[0]), float(interval[1]), float(found.pvalue)


def false_discovery_rates(p_values: Any) -> Array:
    """Benjamini and Hochberg's adjusted p of each p (J. R. Stat. Soc. B 1995); NaN neither counts nor gets one."""
    p_values = np.asarray(p_values, dtype=float)
    adjusted = np.full(p_values.shape, np.nan)
    known = np.isfinite(p_values)
    if known.any():
        adjusted[known] = stats.false_discovery_control(p_values[known])
    return adjusted


def median_difference_interval(
    first: Array, second: Array, *, replicates: int, seed: int, confidence: float = 0.95
) -> tuple[float, float]:
    """Percentiles of the difference of medians over people drawn with replacement within each group."""
    rng = np.random.default_rng(seed)
    medians = [
        np.median(group[rng.integers(len(group), size=(replicates, len(group)))], axis=1) for group in (first, second)
    ]
    low, high = np.quantile(medians[0] - medians[1], [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def hodges_lehmann(first: Array, second: Array, *, confidence: float = 0.95) -> tuple[float, float, float]:
    """Median of all differences between members of two groups, and the shifts that the rank sum test does not reject.

    Hollander, Wolfe & Chicken, Nonparametric Statistical Methods 2014, sections 4.2 and 4.3, with the normal
    approximation; the interval is NaN where the groups are too small for the coverage.
    """
    m, n = len(first), len(second)
    gaps = np.sort(np.subtract.outer(first, second), axis=None)
    reach = stats.norm.ppf((1 + confidence) / 2) * np.sqrt(m * n * (m + n + 1) / 12)
    place = int(np.floor(m * n / 2 - reach))
    low, high = (gaps[place - 1], gaps[m * n - place]) if place >= 1 else (np.nan, np.nan)
    return float(np.median(gaps)), float(low), float(high)
