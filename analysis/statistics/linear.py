"""Straight lines: volume on age by least squares, with errors that know of several scans per participant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

if TYPE_CHECKING:
    import numpy.typing as npt

    from .laplace import Array

#: A design whose least singular value is a smaller fraction of its largest cannot be fitted.
LEAST_SINGULAR_VALUE = 1e-6
#: Residuals below this fraction of the largest value are rounding.
LEAST_RESIDUAL = 1e-9
#: A participant's residuals are free in directions whose share of freedom is larger.
LEAST_FREEDOM = 1e-9


@dataclass(frozen=True)
class Line:
    """A fitted line.

    Attributes
    ----------
    slope
        Change of the volume per year (mm³).
    contributions
        What each participant adds to the slope's error, shape (participants,); their squares add up to its variance.
    freedom
        Degrees of freedom of that error.
    corrected_mm3
        Volumes without the effect of the covariates, shape (n,).
    """

    slope: float
    contributions: Array
    freedom: float
    corrected_mm3: Array


def fit(y: Array, age: Array, *, covariates: Array, groups: npt.NDArray[np.int64]) -> Line:
    r"""Least squares of volume on age and covariates.

    The error is CR2 of Bell & McCaffrey (Survey Methodology 2002), unbiased where scatter is equal and honest where it
    is not or where a participant has several scans: a participant's residuals become
    :math:`(I - H_{gg})^{-1/2} e_g`. Degrees of freedom are theirs as well (Imbens & Kolesár, Rev. Econ. Stat. 2016,
    equation 10): :math:`\operatorname{tr}(M)^2 / \operatorname{tr}(M^2)`, M the covariance of the contributions were
    scatter equal.

    Parameters
    ----------
    y
        Volumes (mm³), shape (n,).
    age
        In years, shape (n,).
    covariates
        Shape (n, any number).
    groups
        Participant of each row, counted from zero.
    """
    design = np.column_stack([np.ones_like(age), age - age.mean(), _comparable(covariates)])
    coefficients = np.linalg.lstsq(design, y, rcond=None)[0]
    residual = y - design @ coefficients
    bread = np.linalg.pinv(design.T @ design)
    counts = np.bincount(groups)
    order, first = np.argsort(groups, kind="stable"), np.cumsum(counts) - counts
    contributions, squares = np.empty(len(counts)), np.empty(len(counts))
    pulls = np.empty((len(counts), design.shape[1]))
    # Participants with as many scans go together: their matrices have one shape.
    for count in np.unique(counts):
        members = np.flatnonzero(counts == count)
        rows = order[first[members, None] + np.arange(count)]
        own = design[rows]
        values, vectors = np.linalg.eigh(np.eye(count) - own @ bread @ own.swapaxes(1, 2))
        roots = np.where(values > LEAST_FREEDOM, 1 / np.sqrt(np.maximum(values, LEAST_FREEDOM)), 0)
        weights = np.einsum("gij,gj,gkj,gkp,p->gi", vectors, roots, vectors, own, bread[1], optimize=True)
        contributions[members] = np.einsum("gi,gi->g", weights, residual[rows])
        squares[members] = np.einsum("gi,gi->g", weights, weights)
        pulls[members] = np.einsum("gip,gi->gp", own, weights)
    shared = np.einsum("gp,pq,gq->g", pulls, bread, pulls, optimize=True)
    overlap = bread @ pulls.T @ pulls
    trace, trace_of_square = (
        (squares - shared).sum(),
        (squares**2 - 2 * squares * shared).sum() + (overlap @ overlap).trace(),
    )
    return Line(
        slope=float(coefficients[1]),
        contributions=contributions,
        freedom=float(trace**2 / trace_of_square),
        corrected_mm3=y - design[:, 2:] @ coefficients[2:],
    )


def difference(line: Line, other: Line) -> Line:
    """Difference of two lines through the same rows, such as measured and true volumes; the lesser freedom counts."""
    return Line(
        slope=line.slope - other.slope,
        contributions=line.contributions - other.contributions,
        freedom=min(line.freedom, other.freedom),
        corrected_mm3=line.corrected_mm3 - other.corrected_mm3,
    )


def inference(line: Line, *, confidence: float) -> tuple[float, float, float]:
    """Ends of the slope's interval, and the two-sided p of no slope (NaN if the volumes are on the line exactly)."""
    error = float(np.sqrt(np.sum(line.contributions**2)))
    reach = stats.t.ppf((1 + confidence) / 2, line.freedom) * error
    p_value = 2 * stats.t.sf(abs(line.slope) / error, line.freedom) if error > 0 else np.nan
    return float(line.slope - reach), float(line.slope + reach), float(p_value)


def is_explained(y: Array, covariates: Array) -> bool:
    """Whether the covariates (n, any number) and a constant leave nothing of ``y`` but rounding."""
    design = np.column_stack([np.ones_like(y), _comparable(covariates)])
    residual = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
    return bool(np.abs(residual).max() <= LEAST_RESIDUAL * np.abs(y).max())


def is_full_rank(design: Array) -> bool:
    """Whether the columns can be told apart, also after squaring (normal equations)."""
    return bool(np.linalg.matrix_rank(_comparable(design), rtol=LEAST_SINGULAR_VALUE) == design.shape[1])


def _comparable(columns: Array) -> Array:
    """Columns of one size, so that mm³ do not drown years."""
    largest = np.abs(columns).max(axis=0, initial=0)
    return columns / np.where(largest > 0, largest, 1)
