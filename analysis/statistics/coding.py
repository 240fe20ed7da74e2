"""Columns of a participants' table as numbers that a linear model can take."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from analysis import tsv

from . import cohort

if TYPE_CHECKING:
    from .voxelwise import Array


def coded(column: pd.Series) -> Array:
    """Numbers as they are, other texts as indicators of every value but the first in the alphabet.

    Ages and sexes are checked as everywhere (:func:`.cohort.read_people`): an implausible age, and any sex but M and F,
    are unknown.

    Parameters
    ----------
    column
        Texts or numbers; ``n/a``, ``nan`` and nothing are unknown.

    Returns
    -------
    Shape (rows, any number); a row of NaN where unknown.
    """
    texts = column.astype("string").fillna("").str.strip()
    texts = texts.mask(texts.str.fullmatch(tsv.UNKNOWN, case=False), "")
    if column.name == "sex":
        texts = texts.str.upper().where(texts.str.upper().isin(["M", "F"]), "")
    unknown = (texts == "").to_numpy(dtype=bool)
    numbers: Array = np.array(pd.to_numeric(texts.where(~unknown), errors="coerce"), dtype=np.float64)
    if np.isfinite(numbers[~unknown]).all():
        if column.name == "age_years":
            low, high = cohort.PLAUSIBLE_AGE_YEARS
            numbers[(numbers < low) | (numbers > high)] = np.nan
        return numbers[:, None]
    values = sorted(set(texts[~unknown]))
    indicators = np.stack([np.array(texts == value, dtype=np.float64) for value in values], axis=1)[:, 1:]
    indicators[unknown] = np.nan
    return indicators
