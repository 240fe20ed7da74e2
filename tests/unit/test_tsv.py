"""Tables as people write them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import tsv
from analysis.errors import DataError


def test_a_tab_at_the_end_of_lines_shifts_no_column(tmp_path: Path) -> None:
    path = tmp_path / "people.tsv"
    path.write_text("participant_id\tage_years\nsub-1\t40\t\nsub-2\t50\t\n")
    with pytest.raises(DataError, match=r"people\.tsv: rows have more cells"):
        tsv.read(path, numbers=["age_years"])
    path.write_text("participant_id\tage_years\nsub-1\t40\nsub-2\t\n")
    assert tsv.read(path, numbers=["age_years"])["age_years"].tolist()[0] == 40
    path.write_text("participant_id\tage_years\n")
    assert tsv.read(path, columns=["participant_id"]).empty


def test_tables_are_written_as_pandas_does(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    numbers = rng.normal(size=60) * 10.0 ** rng.integers(-8, 8, 60)
    table = pd.DataFrame({
        "number": numbers, "rounded": numbers.round(1), "single": numbers.astype(np.float32), "integer": range(60),
        "text": ["a", "with\ttab", 'with "quote"', "two\nlines", "", "μ"] * 10, "flag": [True, False] * 30,
        "mixed": ["a", 1, 1.5, True, None, np.nan] * 10, "nothing": np.nan,
    })  # fmt: skip
    table.loc[[3, 9], ["number", "text"]] = np.nan, None
    table.loc[5, "number"] = np.inf
    table["kind"] = pd.Categorical(table["flag"].map({True: "x", False: "y"}))
    for part in (table, table.head(0), table[["text"]], table.head(0)[[]]):
        tsv.write(part, tmp_path / "table.tsv")
        how = {"sep": "\t", "index": False, "na_rep": "n/a", "float_format": "%.6g", "lineterminator": "\n"}
        assert (tmp_path / "table.tsv").read_text() == part.to_csv(**how)


def test_spaces_instead_of_tabs_are_called_so(tmp_path: Path) -> None:
    path = tmp_path / "exclusions.tsv"
    path.write_text("scan_id included reason\nsub-1 no motion\n")
    with pytest.raises(DataError, match="columns are parted by spaces; put one tab between them"):
        tsv.read(path, columns=("scan_id", "included", "reason"))
