"""Straight lines: volume on age by least squares, with errors that know of several scans per participant."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

if TYPE_CHECKING:
    import numpy.typing as npt

    from .laplace import Array

#: A design whose least singular value is a smaller fraction of its largest cannot be fitted.
LEAST_SINGULAR_VALUE = 1e-6


def is_full_rank(design: Array) -> bool:
    """Whether the columns can be told apart, also after squaring (normal equations)."""
    return bool(np.linalg.matrix_rank(_comparable(design), rtol=LEAST_SINGULAR_VALUE) == design.shape[1])


def _comparable(columns: Array) -> Array:
    """Columns of one size, so that mm³ do not drown years."""
    largest = np.abs(columns).max(axis=0, initial=0)
    return columns / np.where(largest > 0, largest, 1)


def fit(
    y: Array, age: Array, *, covariates: Array, groups: npt.NDArray[np.int64], confidence: float
) -> dict[str, float]:
    """Slope of the corrected volume on age, its interval and p (t, participants − 1 degrees of freedom), Pearson's r.

    The standard error is the jackknife over participants (:func:`slope_of`), honest with several scans per participant
    and unequal scatter.
    """
    coefficients, deviations, design = slope_of(y, age, covariates=covariates, groups=groups)
    slope, n_groups = coefficients[1], len(deviations)
    error = jackknife_error(deviations)
    reach = stats.t.ppf((1 + confidence) / 2, n_groups - 1) * error
    corrected = y - design[:, 2:] @ coefficients[2:]
    return {
        "slope_mm3_per_year": float(slope),
        "slope_low_mm3_per_year": float(slope - reach),
        "slope_high_mm3_per_year": float(slope + reach),
        "pearson_r": float(np.corrcoef(corrected, age)[0, 1]),
        "p_value": float(2 * stats.t.sf(abs(slope / error), n_groups - 1)),
    }


def slope_of(y: Array, age: Array, *, covariates: Array, groups: npt.NDArray[np.int64]) -> tuple[Array, Array, Array]:
    """Least squares of volume on age and covariates, and what the slope owes to each participant.

    Returns
    -------
    Coefficients (intercept, slope, covariates); change of the slope by each participant in turn, shape
    (participants,); design. The change is the exact difference to the fit without that participant, by the
    residuals (I − H_gg)⁻¹ e_g (Bell & McCaffrey, Survey Methodology 2002).
    """
    design = np.column_stack([np.ones_like(age), age - age.mean(), _comparable(covariates)])
    coefficients = np.linalg.lstsq(design, y, rcond=None)[0]
    residual = y - design @ coefficients
    bread = np.linalg.pinv(design.T @ design)
    counts = np.bincount(groups)
    order, first = np.argsort(groups, kind="stable"), np.cumsum(counts) - counts
    deviations = np.empty(len(counts))
    # Participants with as many scans go together: their matrices have one shape.
    for count in np.unique(counts):
        members = np.flatnonzero(counts == count)
        rows = order[first[members, None] + np.arange(count)]
        own = design[rows]
        leverage = own @ bread @ own.swapaxes(1, 2)
        without = np.linalg.pinv(np.eye(count) - leverage, hermitian=True) @ residual[rows][..., None]
        deviations[members] = np.einsum("p,gmp,gm->g", bread[1], own, without[..., 0])
    return coefficients, deviations, design


def jackknife_error(deviations: Array) -> float:
    """Standard error from the changes that each of the participants makes: √((n − 1)/n · Σ d²)."""
    n = len(deviations)
    return float(np.sqrt((n - 1) / n * np.sum(deviations**2)))
