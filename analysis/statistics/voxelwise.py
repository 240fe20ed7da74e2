r"""Tests at every voxel (or vertex, or lesion pattern): rank sum, partial correlation, and the family-wise error.

Two tests serve all commands. :func:`rank_sum` compares two groups where the *measure* differs from voxel to voxel
(log-Jacobians). :func:`correlations` relates one *variable of the people* to every voxel with covariates taken out of
both (Frisch and Waugh, Econometrica 1933), and since a correlation has no direction it serves lesions (voxels explain a
score) and thickness (a group explains voxels) alike:

.. math:: t = r \sqrt{\frac{\nu}{1 - r^2}}, \quad \nu = n - c - 1 \qquad\text{and}\qquad z = r \sqrt{n - c}

for n people and c covariates, the constant among them. With scores t is that of the linear model, for two groups
Student's with pooled variance; with midranks of the scores and no covariate but the constant, z is exactly Wilcoxon's
rank sum, its variance corrected for ties, without continuity correction.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

Array = npt.NDArray[np.floating[Any]]

#: Values of one block of voxels × people; bounds the memory of every loop.
BLOCK_VALUES = 1_000_000
#: Permuted statistics this close below the observed one count as reaching it: permutations of tied scores repeat it
#: but for rounding.
TIE = 1e-9


def blocks(n_rows: int, n_columns: int) -> Iterator[slice]:
    """Cut ``n_rows`` into slices of about :data:`BLOCK_VALUES` values each."""
    step = max(1, BLOCK_VALUES // max(1, n_columns))
    for start in range(0, n_rows, step):
        yield slice(start, min(start + step, n_rows))


def rank_sum(values: Array, first: npt.NDArray[np.bool_]) -> tuple[Array, Array]:
    r"""Wilcoxon's rank sum test at every voxel.

    .. math:: z = \frac{U - mn/2}{\sqrt{\frac{mn}{12} \left( N + 1 - \frac{\sum (t^3 - t)}{N (N - 1)} \right)}}

    with t people of the same value (Hollander, Wolfe & Chicken, Nonparametric Statistical Methods 2014, equation 4.13).
    No continuity correction.

    Parameters
    ----------
    values
        Shape (voxels, people), finite.
    first
        Who is in the first group, shape (people,).

    Returns
    -------
    z, positive where the first group has the larger values, NaN where all values are the same; and the probability
    that a member of the first group has a larger value than one of the second (AUROC, ties count half), shape (voxels,)
    both. The rank-biserial correlation is 2 AUROC − 1.
    """
    n_voxels, n = values.shape
    m = int(first.sum())
    order = np.argsort(values, axis=1)
    ordered = np.take_along_axis(values, order, axis=1)
    starts = np.ones(values.shape, dtype=bool)
    np.not_equal(ordered[:, 1:], ordered[:, :-1], out=starts[:, 1:])
    begin = np.flatnonzero(starts)
    length = np.diff(begin, append=starts.size)
    ranks = np.repeat(begin % n + (length + 1) / 2, length).reshape(values.shape)
    total = np.einsum("vp,vp->v", ranks, first[order])
    tied = np.bincount(begin // n, weights=length.astype(float) ** 3 - length, minlength=n_voxels)
    variance = m * (n - m) / 12 * (n + 1 - tied / (n * (n - 1)))
    larger = total - m * (m + 1) / 2
    spread = np.sqrt(np.where(variance > 1e-9, variance, np.nan))
    return (larger - m * (n - m) / 2) / spread, larger / (m * (n - m))


def two_sided_p(z: Array) -> Array:
    """Two-sided p of standard normal deviates."""
    return np.asarray(2 * special.ndtr(-np.abs(z)))


def two_sided_t_p(t: Array, freedom: int) -> Array:
    """Two-sided p of Student's t."""
    return np.asarray(2 * special.stdtr(freedom, -np.abs(t)))


def orthonormal(covariates: Array) -> Array:
    """Orthonormal basis, shape (people, c), of the space of the constant and the covariates (people, any number).

    Covariates that add nothing (constant ones, repeated ones) do not count.
    """
    centred = covariates - covariates.mean(axis=0)
    size = np.linalg.norm(centred, axis=0)
    useful = centred[:, size > 1e-9 * np.abs(covariates).max(axis=0, initial=0)]
    left, singular, _ = np.linalg.svd(useful / np.linalg.norm(useful, axis=0), full_matrices=False)
    constant = np.full((len(covariates), 1), 1 / np.sqrt(len(covariates)))
    return np.hstack([constant, left[:, singular > 1e-6]])


def residuals(rows: Array, basis: Array) -> Array:
    """What the basis (people, c) leaves of rows (any, people)."""
    return np.asarray(rows - (rows @ basis) @ basis.T)


def unit(rows: Array, *, before: Array | None = None) -> Array:
    """Rows scaled to length one; zero where nothing but rounding is left of the row as it was ``before``."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    original = length if before is None else np.linalg.norm(before, axis=1, keepdims=True)
    return np.where(length > 1e-7 * original, rows / np.where(length > 0, length, 1), 0)


def correlations(rows: npt.NDArray[Any], variables: Array, basis: Array) -> Array:
    """Partial correlation of every row with every variable.

    Parameters
    ----------
    rows
        Voxels, shape (voxels, people).
    variables
        Shape (variables, people).
    basis
        :func:`orthonormal` basis of the covariates.

    Returns
    -------
    Shape (voxels, variables); zero for a row or variable that the covariates explain.
    """
    theirs = unit(residuals(variables, basis), before=variables).T
    found = np.empty((len(rows), len(variables)))
    for part in blocks(len(rows), max(rows.shape[1], len(variables))):
        block = rows[part].astype(float)
        found[part] = unit(residuals(block, basis), before=block) @ theirs
    return np.clip(found, -1, 1)


def t_of(correlation: Array, freedom: int) -> Array:
    """Student's t of correlations; of ±1, which no image can hold, it is large but finite."""
    return np.asarray(correlation * np.sqrt(freedom / np.maximum(1 - correlation**2, 1e-12)))


def largest_correlations(
    rows: npt.NDArray[Any], variable: Array, basis: Array, *, permutations: int, seed: int
) -> Array:
    """Largest absolute correlation over all rows, for permutations of the variable.

    With covariates, the residuals of the variable are permuted and taken out of the covariates anew, which is Freedman
    and Lane's scheme (J. Bus. Econ. Stat. 1983; Winkler et al., NeuroImage 2014). t and z grow with the absolute
    correlation, so that its maximum serves both.

    Returns
    -------
    Shape (permutations,).
    """
    rng = np.random.default_rng(seed)
    left = residuals(variable[None], basis)[0]
    shuffled = np.stack([rng.permutation(left) for _ in range(permutations)])
    theirs = unit(residuals(shuffled, basis), before=shuffled).T
    largest = np.zeros(permutations)
    for part in blocks(len(rows), max(rows.shape[1], permutations)):
        block = rows[part].astype(float)
        found = unit(residuals(block, basis), before=block) @ theirs
        np.maximum(largest, np.abs(found, out=found).max(axis=0), out=largest)
    return largest


def family_wise_p(statistic: Array, largest: Array) -> Array:
    """Share of permutations, the identity counted among them, whose maximum reaches each \\|statistic\\|."""
    ordered = np.sort(largest)
    reached = len(ordered) - np.searchsorted(ordered, np.abs(statistic) - TIE)
    return (1 + reached) / (1 + len(ordered))
