r"""Areas under ROC curves with DeLong's variance, alone and compared on the same people.

The area is the probability that a random member of the first group has the larger value,
:math:`\hat\theta = \frac{1}{mn} \sum_{ij} \psi(x_i, y_j)` with ψ = 1, ½, 0 for larger, equal, smaller. A member's
placement is the share of the other group that it stands on the right side of,
:math:`V_i = \frac{1}{n} \sum_j \psi(x_i, y_j)` and :math:`W_j = \frac{1}{m} \sum_i \psi(x_i, y_j)`; the variance of the
area is :math:`s_V^2 / m + s_W^2 / n`, and that of the difference of two areas the same of the differences of placements
(DeLong et al., Biometrics 1988). Placements come from midranks (Sun & Xu, IEEE Signal Process. Lett. 2014).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

if TYPE_CHECKING:
    from .laplace import Array


@dataclass(frozen=True)
class Area:
    """An area, or a difference of two.

    Attributes
    ----------
    value
        The estimate.
    error
        DeLong's standard error; 0 where the groups do not overlap, which says nothing of the uncertainty.
    freedom
        Satterthwaite's degrees of freedom of that error (NaN if it is 0).
    """

    value: float
    error: float
    freedom: float

    def p_value(self, null: float) -> float:
        """Two-sided p of the hypothesis that the value is ``null``; NaN without an error.

        Student's t instead of the normal distribution, which rejects too often in small groups; for an area against
        one half this is the test of Brunner & Munzel (Biometrical Journal 2000).
        """
        if not self.error > 0:
            return float("nan")
        return float(2 * stats.t.sf(abs(self.value - null) / self.error, self.freedom))

    def logit_interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Interval of an area, normal on the logit scale; NaN without an error.

        It stays within 0 and 1, and covers large areas in small groups better than the symmetric one (Pepe, The
        Statistical Evaluation of Medical Tests for Classification and Prediction 2003, chapter 5).
        """
        if not self.error > 0:
            return float("nan"), float("nan")
        logit = np.log(self.value / (1 - self.value))
        reach = stats.norm.ppf((1 + confidence) / 2) * self.error / (self.value * (1 - self.value))
        return float(1 / (1 + np.exp(reach - logit))), float(1 / (1 + np.exp(-reach - logit)))

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Symmetric t interval of a difference; NaN without an error."""
        if not self.error > 0:
            return float("nan"), float("nan")
        reach = float(stats.t.ppf((1 + confidence) / 2, self.freedom)) * self.error
        return max(self.value - reach, -1.0), min(self.value + reach, 1.0)


def area(first: Array, second: Array) -> Area:
    """Area of one measure, from the values of both groups (two of each at least)."""
    return _estimate(*placements(first, second))


def difference(measure: tuple[Array, Array], other: tuple[Array, Array]) -> Area:
    """Area of a measure minus that of another; each gives both groups' values, the same people in the same order."""
    pairs = zip(placements(*measure), placements(*other), strict=True)
    first, second = (mine - others for mine, others in pairs)
    return _estimate(first, second)


def placements(first: Array, second: Array) -> tuple[Array, Array]:
    """Placements V and W of the two groups' members, shapes (m,) and (n,); each mean is the area."""
    m, n = len(first), len(second)
    ranks = stats.rankdata(np.concatenate([first, second]))
    return (ranks[:m] - stats.rankdata(first)) / n, 1 - (ranks[m:] - stats.rankdata(second)) / m


def _estimate(first: Array, second: Array) -> Area:
    parts = np.array([first.var(ddof=1) / len(first), second.var(ddof=1) / len(second)])
    # Rounding leaves a variance of about 1e-34 where all placements are the same.
    parts[parts < 1e-24] = 0
    variance = float(parts.sum())
    freedom = variance**2 / float(np.sum(parts**2 / [len(first) - 1, len(second) - 1])) if variance else float("nan")
    return Area(float(first.mean()), float(np.sqrt(variance)), freedom)
