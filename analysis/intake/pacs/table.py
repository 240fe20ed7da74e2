"""The table of what to fetch: accession numbers, or patient identifiers and dates."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from analysis import tsv
from analysis.errors import DataError
from analysis.intake.headers import is_date

COLUMNS = ("accession_number", "patient_id", "date_from", "date_to")


@dataclass(frozen=True)
class Request:
    """A line of the table: studies of an accession number, or of a patient, between two dates.

    Attributes
    ----------
    line
        Of the table, the header being 1.
    accession_number, patient_id
        Empty where not given; at least one is.
    date_from, date_to
        ``YYYYMMDD``, ends included; empty where open.
    fault
        Why the line cannot be asked for, or empty.
    """

    line: int
    accession_number: str
    patient_id: str
    date_from: str
    date_to: str
    fault: str

    @property
    def dates(self) -> str:
        """Range as a query has it; empty if both ends are open."""
        return f"{self.date_from}-{self.date_to}" if self.date_from or self.date_to else ""

    def fits(self, *, accession_number: str, patient_id: str, study_date: str) -> bool:
        """Whether an answer is what was asked for: some PACS pass over keys that they do not know."""
        return (
            self.accession_number in ("", accession_number.strip())
            and self.patient_id in ("", patient_id.strip())
            and (not self.dates or (self.date_from <= study_date and study_date <= (self.date_to or "99999999")))
        )


def read(path: Path) -> list[Request]:
    """Read the table; dates are ``YYYY-MM-DD`` or ``YYYYMMDD``, and unknown values ``n/a`` or empty.

    Raises
    ------
    DataError
        If it is no table, or has neither of the columns ``accession_number`` and ``patient_id``.
    """
    table = tsv.read(path)
    if not {"accession_number", "patient_id"} & set(table):
        raise DataError(f"{path}: lacks accession_number or patient_id; of {', '.join(COLUMNS)} give one or more")
    rows = table.reindex(columns=list(COLUMNS), fill_value="").to_dict("records")
    return [_request(line, {str(key): str(value) for key, value in row.items()}) for line, row in enumerate(rows, 2)]


def _request(line: int, row: dict[str, str]) -> Request:
    values = {key: "" if value.strip().lower() == tsv.MISSING else value.strip() for key, value in row.items()}
    for key in ("date_from", "date_to"):
        values[key] = values[key].replace("-", "")
    return Request(line=line, **values, fault=_fault(values))


def _fault(values: dict[str, str]) -> str:
    if not (values["accession_number"] or values["patient_id"]):
        return "neither accession_number nor patient_id"
    for key in ("accession_number", "patient_id"):
        # A star would ask for everybody.
        if re.search(r"[*?\\\x00-\x1f]", values[key]) or len(values[key]) > 64:
            return f"{key} has wildcards, control characters or more than 64 characters"
    if any(values[key] and not is_date(values[key]) for key in ("date_from", "date_to")):
        return "a date that is not YYYY-MM-DD"
    return ""
