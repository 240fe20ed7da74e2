"""Tables as people write them."""

from __future__ import annotations

from pathlib import Path

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
