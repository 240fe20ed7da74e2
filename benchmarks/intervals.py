"""Intervals from resampling label maps: rows of one head are not independent, heads are."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pandas as pd

RESAMPLINGS = 1000
Array = npt.NDArray[np.float64]
#: Estimate, lower and upper bound; ``None`` where it is not a number (JSON has none).
Interval = list[float | None]


def resampled(n_maps: int) -> npt.NDArray[np.int64]:
    """Label maps drawn with replacement, shape (:data:`RESAMPLINGS`, n_maps); always the same draws."""
    return np.random.default_rng(1).integers(n_maps, size=(RESAMPLINGS, n_maps))


def of_mean(table: pd.DataFrame, column: str) -> Interval:
    """Mean over label maps of a column's mean in each, and its 95 % interval."""
    found = table.loc[table[column].notna(), ["label_map", column]]
    if found.empty:
        return [None, None, None]
    _, head = np.unique(found["label_map"].to_numpy(dtype=str), return_inverse=True)
    per_map = np.bincount(head, found[column].to_numpy(dtype=np.float64)) / np.bincount(head)
    return _rounded(float(per_map.mean()), per_map[resampled(per_map.size)].mean(axis=1))


def of_statistic(table: pd.DataFrame, columns: list[str], statistic: Callable[[Array], float]) -> Interval:
    """Any statistic of all rows together, and its 95 % interval; resampled maps bring all their rows.

    Parameters
    ----------
    table
        With column ``label_map``.
    columns
        What the statistic sees, shape (rows, columns).
    statistic
        To compute.
    """
    parts = [part[columns].to_numpy(dtype=np.float64) for _, part in table.groupby("label_map")]
    if not parts:
        return [None, None, None]
    values = [statistic(np.concatenate([parts[one] for one in draw])) for draw in resampled(len(parts))]
    return _rounded(statistic(np.concatenate(parts)), np.array(values))


def of_correlation(table: pd.DataFrame, one: str, other: str) -> Interval:
    """Pearson's correlation of two columns over all rows together, and its 95 % interval."""
    pair = table[[one, other]].to_numpy(dtype=np.float64)
    x, y = (pair - pair.mean(axis=0)).T if len(pair) else np.empty((2, 0))
    moments = pd.DataFrame({"n": np.ones(x.size), "x": x, "y": y, "xx": x * x, "yy": y * y, "xy": x * y})
    per_map = moments.groupby(table["label_map"].to_numpy()).sum().to_numpy()
    if not len(per_map):
        return [None, None, None]
    return _rounded(float(_pearson(per_map.sum(axis=0))), _pearson(per_map[resampled(len(per_map))].sum(axis=1)))


def _pearson(moments: Array) -> Array:
    """Correlation from count and sums of x, y, x², y², xy; not a number where either is constant."""
    n, x, y, xx, yy, xy = np.moveaxis(moments, -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((n * xy - x * y) / np.sqrt((n * xx - x * x) * (n * yy - y * y)))


def _rounded(estimate: float, values: Array) -> Interval:
    values = values[np.isfinite(values)]
    bounds = np.percentile(values, [2.5, 97.5]) if values.size else (np.nan, np.nan)
    return [round(float(value), 4) if np.isfinite(value) else None for value in (estimate, *bounds)]
