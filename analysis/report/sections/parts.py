"""What a section of the page is made of: figures, tables, and the folder of the analysis that they come from."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import tsv
from analysis.statistics import figures

#: Where every structure would be too many rows (several arms, several sites): these.
FEW_STRUCTURES = ("Hippocampus", "Amygdala", "Thalamus", "Lateral-Ventricle", "Cerebral-Cortex")

#: Notes of a table's rows are in this column.
NOTE = "Note"


@dataclass(frozen=True)
class Figure:
    """A picture.

    Attributes
    ----------
    picture
        PNG that a statistic drew, or what draws one.
    alt
        What those who do not see it miss.
    caption
        What is drawn.
    sources
        Tables of what is drawn.
    """

    picture: Path | Callable[[], bytes]
    alt: str
    caption: str
    sources: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Table:
    """Rows of text.

    Attributes
    ----------
    caption
        What they tell.
    sources
        Whole tables that they are taken from.
    head
        Names of the columns; the first column heads its row.
    rows
        A text per column.
    n_texts
        How many columns, from the left, hold words and not numbers.
    """

    caption: str
    sources: tuple[Path, ...]
    head: tuple[str, ...]
    rows: list[list[str]]
    n_texts: int = 1

    def without_empty_notes(self) -> Table:
        """The same without a last column :data:`NOTE` in which nothing stands."""
        if self.head[-1] != NOTE or any(row[-1] for row in self.rows):
            return self
        return replace(self, head=self.head[:-1], rows=[row[:-1] for row in self.rows])


@dataclass(frozen=True)
class Section:
    """A statistic on the page.

    Attributes
    ----------
    anchor, title, lead
        Name in addresses, heading, what was asked of whom.
    figures, tables
        What was found.
    gallery, gallery_lead
        Small pictures behind the tables, and what they are together.
    data
        Tables of the section's own, by name: the page writes them to ``data/NAME.tsv``.
    notes
        What was left out.
    method
        How it was computed.
    sources
        Publications.
    limits
        What may not be concluded.
    """

    anchor: str
    title: str
    lead: str
    figures: list[Figure]
    tables: list[Table]
    gallery: list[Figure] = field(default_factory=list)
    gallery_lead: str = ""
    data: dict[str, pd.DataFrame] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    method: str = ""
    sources: list[str] = field(default_factory=list)
    limits: str = ""


@dataclass(frozen=True)
class Outputs:
    """The folder of one analysis.

    Attributes
    ----------
    folder
        Where.
    facts
        Its JSON file.
    """

    folder: Path
    facts: dict[str, Any]

    @classmethod
    def find(cls, folder: Path, name: str, table: str) -> Outputs | None:
        """The folder, if ``name.json`` and the table are there."""
        facts = folder / f"{name}.json"
        if not (facts.is_file() and (folder / table).is_file()):
            return None
        return cls(folder, json.loads(facts.read_text(encoding="utf-8")))

    def rows(self, table: str, structures: Sequence[str] | None = None) -> list[dict[str, str]]:
        """Rows of a table as text; of some structures, in the page's order, if they are named."""
        rows = [{str(key): str(value) for key, value in row.items()} for row in self.frame(table).to_dict("records")]
        if structures is None:
            return rows
        return [row for name in structures for row in rows if row["structure"] == name]

    def main(self, table: str) -> list[dict[str, str]]:
        """Rows of the structures that are worth a row."""
        present = list(dict.fromkeys(self.frame(table)["structure"]))
        return self.rows(table, figures.main_structures(present))

    def frame(self, table: str) -> pd.DataFrame:
        """A table, every column text; empty if it is not there."""
        path = self.folder / table
        return tsv.read(path) if path.is_file() else pd.DataFrame()

    def pictures(self, *given: tuple[str, str, str]) -> list[Figure]:
        """Figures that are there, of file name, description and caption."""
        return [
            Figure(
                self.folder / name,
                f"{alt}; the numbers are in the tables below.",
                caption,
                tuple(sorted(self.folder.glob("*.tsv"))),
            )
            for name, alt, caption in given
            if (self.folder / name).is_file()
        ]

    def remarks(self) -> dict[str, Any]:
        """Notes, method and sources as a section takes them."""
        return {
            "notes": list(self.facts.get("notes", [])),
            "method": str(self.facts.get("method", "")),
            "sources": list(self.facts.get("sources", [])),
        }
