"""What the ageing section says: whether anything was fitted, and how trends stand to the true ones, if known."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import tsv
from analysis.layout import Results

#: How the measured change with age may stand to the true one: :attr:`Trend.verdict`, and as a sentence says it.
VERDICTS = {
    "in the wrong direction": "goes in the wrong direction",
    "too flat": "is too flat",
    "too steep": "is too steep",
    "not clearly different": "is not clearly different from the true one",
}
#: What the statistic writes before the reason for which a structure was not fitted.
NOT_FITTED = "not fitted: "


@dataclass(frozen=True)
class Analysis:
    """One level of the analysis of ageing.

    Attributes
    ----------
    folder
        Where it lies.
    table
        Its summary, a row per structure.
    facts
        Its JSON file.
    """

    folder: Path
    table: pd.DataFrame
    facts: dict[str, Any]

    @classmethod
    def find(cls, folder: Path) -> Analysis | None:
        """The analysis in a folder; None if it has not run."""
        facts, table = folder / "ageing.json", folder / "ageing_summary.tsv"
        if not (facts.is_file() and table.is_file()):
            return None
        return cls(folder, tsv.read(table), json.loads(facts.read_text(encoding="utf-8")))

    @property
    def is_fitted(self) -> bool:
        """Whether there is a curve of any structure."""
        return any(not note.startswith(NOT_FITTED) for note in self._notes)

    @property
    def why_not(self) -> str:
        """Why nothing was fitted, the commonest reason first."""
        reasons = Counter(note.removeprefix(NOT_FITTED) for note in self._notes)
        return "; ".join(reason for reason, _ in reasons.most_common()) or "there are no volumes"

    @property
    def _notes(self) -> list[str]:
        return [str(note) for note in self.table.reindex(columns=["note"], fill_value="")["note"]]


@dataclass(frozen=True)
class Slope:
    """Change with age in mm³ per year, after correction for ICV and sex, and its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def sign(self) -> int:
        """-1 or 1 where the interval excludes zero, else 0."""
        return int(self.low > 0) - int(self.high < 0)


@dataclass(frozen=True)
class Trend:
    """A structure's change with age, true and measured in the same sessions.

    Attributes
    ----------
    structure
        Which.
    true, measured, difference
        The slopes, and measured minus true.
    """

    structure: str
    true: Slope
    measured: Slope
    difference: Slope

    @property
    def verdict(self) -> str:
        """One of :data:`VERDICTS`."""
        if self.difference.sign == 0:
            return "not clearly different"
        if self.true.sign * self.measured.sign < 0:
            return "in the wrong direction"
        return "too flat" if abs(self.measured.value) < abs(self.true.value) else "too steep"


def trends(results: Results) -> list[Trend]:
    """Structures whose true and measured slopes are compared, in the order of the table; none without known truth."""
    path = results.statistics("agreement") / "agreement_slopes.tsv"
    if not path.is_file():
        return []
    ends = ("", "_low", "_high")
    columns = [[f"{which}{end}_mm3_per_year" for end in ends] for which in ("true", "measured", "difference")]
    numbers = [name for names in columns for name in names]
    table = tsv.read(path, columns=("structure", *numbers), numbers=numbers).dropna(subset=numbers)
    return [
        Trend(str(row["structure"]), *(Slope(*(float(row[name]) for name in names)) for names in columns))
        for row in table.to_dict("records")
    ]


def judged(found: list[Trend]) -> list[tuple[str, list[str]]]:
    """What is said of each verdict that is there, the worst first: words of :data:`VERDICTS`, and the structures."""
    told = ((words, [one.structure for one in found if one.verdict == verdict]) for verdict, words in VERDICTS.items())
    return [(words, names) for words, names in told if names]
