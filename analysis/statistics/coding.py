"""Columns of a participants' table as numbers that a linear model can take."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from analysis import tsv
from analysis.errors import DataError

from . import cohort

if TYPE_CHECKING:
    from .voxelwise import Array


def coded(column: pd.Series, path: Path) -> Array:
    """Numbers as they are, other texts as indicators of every value but the first in the alphabet.

    Ages and sexes are checked as everywhere (:func:`.cohort.read_people`): an implausible age, and any sex but M and F,
    are unknown, and so is infinity.

    Parameters
    ----------
    column
        Texts or numbers; ``n/a``, ``nan`` and nothing are unknown.
    path
        Its table, for messages.

    Returns
    -------
    Shape (rows, any number); a row of NaN where unknown.

    Raises
    ------
    DataError
        If numbers and other texts are mixed, or an age is text: one typing error would make every age a group.
    """
    texts = column.astype("string").fillna("").str.strip()
    texts = texts.mask(texts.str.fullmatch(tsv.UNKNOWN, case=False), "")
    if column.name == "sex":
        numbers: Array = texts.str.upper().map(cohort.SEXES).to_numpy(dtype=np.float64)
        return numbers[:, None]
    unknown = (texts == "").to_numpy(dtype=bool)
    numbers = np.array(pd.to_numeric(texts.where(~unknown), errors="coerce"), dtype=np.float64)
    is_text = ~unknown & np.isnan(numbers)
    if is_text.any() and (column.name == "age_years" or not is_text[~unknown].all()):
        raise DataError(
            f"{path}: column {column.name}: {texts[is_text].iloc[0]!r} is not a number, as others are; write numbers "
            "or n/a, or texts throughout"
        )
    if not is_text.any():
        numbers[np.isinf(numbers)] = np.nan
        if column.name == "age_years":
            low, high = cohort.PLAUSIBLE_AGE_YEARS
            numbers[(numbers < low) | (numbers > high)] = np.nan
        return numbers[:, None]
    values = sorted(set(texts[~unknown]))
    indicators = np.stack([np.array(texts == value, dtype=np.float64) for value in values], axis=1)[:, 1:]
    indicators[unknown] = np.nan
    return indicators
