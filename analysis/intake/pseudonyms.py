"""The linking tables: who is which pseudonym, kept for ever and in the private folder only.

What has a name keeps it. Participants are named by keyed hashes of their identifiers (:mod:`.key`); new sessions,
series and scans are numbered on from the highest number, and new scans form new batches, so that a growing archive
leaves earlier results as they are.
"""

from __future__ import annotations

import csv
import heapq
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from analysis import tsv
from analysis.errors import DataError
from analysis.layout import Private
from synthsr import files

from .key import Key
from .profile import told_age_years
from .series import DESCRIPTION, Series, number, to_text

#: Columns of the linking tables; the first ones of each are private.
IDENTITY = ("series_id", "source", "patient_id", "study_uid", "series_uid", "study_date", "source_key", "faulty_path")
#: Identity of a series in its source.
KEY = ("source", "patient_id", "study_uid", "series_uid")
#: Texts of the source that a linking table repeats.
FOREIGN = ("patient_id", "study_uid", "series_uid")
NAMES = ("participant_id", "session_id", "scan_id", "batch")
SESSION_COLUMNS = ("participant_id", "session_id", "patient_id", "study_uid", "study_date", "age_years", "sex")
FILE_COLUMNS = ("series_id", "path")

INCLUDE, EXCLUDE = "include", "exclude"
GONE = "no longer in the source"

Row = dict[str, str]


@dataclass
class Links:
    """The linking tables as rows.

    Attributes
    ----------
    key
        Makes the pseudonyms.
    series
        By source, patient, study and series.
    sessions
        By patient and study.
    paths
        Files, by series_id, of the series found in this run. They are never all in memory.
    """

    key: Key
    series: dict[tuple[str, ...], Row] = field(default_factory=dict)
    sessions: dict[tuple[str, str], Row] = field(default_factory=dict)
    paths: dict[str, Iterable[Path]] = field(default_factory=dict)

    @classmethod
    def read(cls, private: Private) -> Links:
        """Read the key and the tables of an earlier run, if there was one."""
        series = {tuple(row[column] for column in KEY): row for row in read_series(private)}
        sessions = _rows(private.sessions, SESSION_COLUMNS)
        known = {(row["patient_id"], row["study_uid"]): row for row in sessions}
        return cls(Key.of(private.key), series, known)

    def write(self, private: Private) -> None:
        """Write the tables; sessions first, so that a participant without series yet keeps the number."""
        series = sorted(self.series.values(), key=lambda row: row["series_id"])
        sessions = sorted(self.sessions.values(), key=lambda row: (row["participant_id"], row["session_id"]))
        tsv.write(inert(pd.DataFrame(sessions, columns=list(SESSION_COLUMNS))), private.sessions)
        tsv.write(inert(pd.DataFrame(series, columns=[*IDENTITY, *NAMES, *DESCRIPTION])), private.series)
        self._write_paths(private)

    def _write_paths(self, private: Private) -> None:
        """Write the table of files as a stream: what was found in this run, and of other series what stood there."""
        found = ((key, to_text(path)) for key in sorted(self.paths) for path in self.paths[key])
        others = ((key, path) for key, path in _path_rows(private) if key not in self.paths)
        with files.whole(private.files) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
            table = csv.writer(stream, delimiter="\t", lineterminator="\n")
            table.writerow(FILE_COLUMNS)
            table.writerows(heapq.merge(found, others))

    def add(self, found: Iterable[Series], *, batch_size: int) -> None:
        """Link what was found: known series keep their names, new ones get the next.

        Raises
        ------
        DataError
            If a BIDS participant has the name of somebody else.
        """
        ordered = _ordered(found, self.key)
        self._add_sessions([series for series in ordered if series.patient_id])
        named = {row["scan_id"]: row for row in self.series.values() if row["scan_id"]}
        runs = Counter(map(_without_run, named))
        unbatched: list[Row] = []
        fields_mm3: dict[str, float] = {}
        for series in ordered:
            row = self._add_series(series)
            if not series.is_included or row["scan_id"]:
                continue
            if before := named.get(series.scan_id):  # X.nii that has become X.nii.gz
                row |= {column: before[column] for column in ("scan_id", "batch")}
                before |= {"scan_id": "", "batch": ""}
            else:
                row["scan_id"] = series.scan_id or _scan_id(row, runs)
                unbatched.append(row)
                fields_mm3[row["scan_id"]] = series.field_mm3
        last = max((int(row["batch"]) for row in self.series.values() if row["batch"]), default=0)
        batches = _balanced(fields_mm3, batch_size)
        for row in unbatched:
            row["batch"] = f"{last + 1 + batches[row['scan_id']]:04d}"

    def forget(self, found: Iterable[Series], *, is_converted: Callable[[str], bool]) -> None:
        """Leave out what the source no longer holds, unless the scan of this name is converted already."""
        keys = {_key(series) for series in found}
        sources = {source for source, *_ in keys}
        for key, row in self.series.items():
            is_kept = key in keys or key[0] not in sources or (row["scan_id"] and is_converted(row["scan_id"]))
            if not is_kept:
                row |= {"decision": EXCLUDE, "reason": GONE, "source_key": ""}

    def _add_sessions(self, found: Sequence[Series]) -> None:
        participants = {row["patient_id"]: row["participant_id"] for row in self.sessions.values()}
        owners = {name: patient for patient, name in participants.items()}
        taken: dict[str, list[str]] = defaultdict(list)
        for row in self.sessions.values():
            taken[row["patient_id"]].append(row["session_id"])
        for series in found:
            patient = series.patient_id
            if patient not in participants:
                name = series.participant_id or self.key.participant(patient)
                if name in owners:
                    raise DataError(
                        f"{name} of the BIDS dataset is another participant of these results already; "
                        "use another results and private folder for this dataset"
                    )
                participants[patient], owners[name] = name, patient
            if (patient, series.study_uid) not in self.sessions:
                session_id = series.session_id or f"ses-{_highest_session(taken[patient]) + 1:02d}"
                taken[patient].append(session_id)
                self.sessions[patient, series.study_uid] = {
                    "participant_id": participants[patient],
                    "session_id": session_id,
                    "patient_id": patient,
                    "study_uid": series.study_uid,
                    "study_date": series.study_date,
                    "age_years": tsv.MISSING,
                    "sex": tsv.MISSING,
                }
            session = self.sessions[patient, series.study_uid]
            age_years = told_age_years(series.age_years)
            for column, value in (("age_years", number(age_years, digits=2)), ("sex", series.sex)):
                if value != tsv.MISSING:
                    session[column] = value

    def _add_series(self, series: Series) -> Row:
        key = _key(series)
        session = self.sessions.get((series.patient_id, series.study_uid), {})
        if key not in self.series:
            self.series[key] = {
                "series_id": f"series-{len(self.series) + 1:06d}",
                "scan_id": "",
                "batch": "",
            }
        row = self.series[key]
        # A scan keeps the contrast and plane that its name tells.
        named = {column: row[column] for column in ("contrast", "plane")} if row["scan_id"] else {}
        row |= dict(zip(KEY, key, strict=True))
        row |= {
            "study_date": series.study_date,
            # Keyed: names of files may be those of patients, and the tables of batches show this.
            "source_key": self.key.digest(series.source_key),
            "faulty_path": series.faulty_path,
            "participant_id": session.get("participant_id", tsv.MISSING),
            "session_id": session.get("session_id", tsv.MISSING),
            "decision": INCLUDE if series.is_included else EXCLUDE,
        }
        row |= series.description()
        row |= named
        self.paths[row["series_id"]] = series.paths
        return row


def read_series(private: Private) -> list[Row]:
    """Rows of the private table of series; none before the first inventory."""
    return _rows(private.series, (*IDENTITY, *NAMES))


def read_paths(private: Private, series_ids: Container[str] | None = None) -> dict[str, list[str]]:
    """Files, as text, of the given series or of all; the table may have millions of rows and is read as a stream."""
    paths: dict[str, list[str]] = defaultdict(list)
    for series_id, path in _path_rows(private):
        if series_ids is None or series_id in series_ids:
            paths[series_id].append(path)
    return dict(paths)


def _path_rows(private: Private) -> Iterator[tuple[str, str]]:
    if private.files.is_file():
        with private.files.open(encoding="utf-8", newline="") as stream:
            yield from ((row["series_id"], row["path"]) for row in csv.DictReader(stream, delimiter="\t"))


def _rows(path: Path, columns: Sequence[str]) -> list[Row]:
    if not path.is_file():
        return []
    table = plain(tsv.read(path, columns=columns))
    return [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]


def inert(table: pd.DataFrame) -> pd.DataFrame:
    """Escape what a spreadsheet would run as a formula (``=cmd|…``) at the beginning of a source's identifiers."""
    columns = {name: table[name].str.replace(r"^[=+@%-]", _escaped, regex=True) for name in FOREIGN if name in table}
    return table.assign(**columns)


def plain(table: pd.DataFrame) -> pd.DataFrame:
    """Inverse of :func:`inert`."""
    columns = {
        name: table[name].str.replace(r"^%(3D|2B|40|25|2D)", lambda found: chr(int(found[1], 16)), regex=True)
        for name in FOREIGN
        if name in table
    }
    return table.assign(**columns)


def _escaped(found: re.Match[str]) -> str:
    return f"%{ord(found[0]):02X}"


def _key(series: Series) -> tuple[str, ...]:
    return tuple(str(getattr(series, column)) for column in KEY)


def _ordered(found: Iterable[Series], key: Key) -> list[Series]:
    """By patient, date, study, series; files that belong to nobody last.

    Patients come in the order of a keyed hash. In the order of their identifiers, or of a hash that anybody can make,
    the numbers of their series would be ranks that tell the patient to whoever has the list of identifiers.
    """

    def order(series: Series) -> tuple[bool, str, str, str, str]:
        date = series.study_date or "99999999"
        place = key.digest(series.patient_id or series.series_uid)
        return not series.patient_id, place, date, series.study_uid, series.series_uid

    return sorted(found, key=order)


def _balanced(fields_mm3: Mapping[str, float], batch_size: int) -> dict[str, int]:
    """Index of the batch of each scan: as few batches as can be, of about the same number of voxels at 1 mm.

    Networks see scans at 1 mm, so that a batch lasts as long as its fields of view are large. The largest scan left
    goes into the batch that has least and still has room (Graham, SIAM J Appl Math 1969).
    """
    batches = [(0.0, index) for index in range(-(-len(fields_mm3) // batch_size))]
    members = Counter[int]()
    found = {}
    for scan_id in sorted(fields_mm3, key=lambda scan_id: (-fields_mm3[scan_id], scan_id)):
        total_mm3, found[scan_id] = heapq.heappop(batches)
        members[found[scan_id]] += 1
        if members[found[scan_id]] < batch_size:
            heapq.heappush(batches, (total_mm3 + fields_mm3[scan_id], found[scan_id]))
    return found


def _highest_session(names: Iterable[str]) -> int:
    return max((int(match[1]) for name in names if (match := re.fullmatch(r"ses-(\d+)", name))), default=0)


def _without_run(scan_id: str) -> str:
    return re.sub(r"_run-\d+", "", scan_id)


def _scan_id(row: Row, runs: Counter[str]) -> str:
    stem = f"{row['participant_id']}_{row['session_id']}_acq-{row['plane']}"
    if row["contrast_agent"] == "yes":
        stem += "_ce-iodine" if row["contrast"] == "ct" else "_ce-gd"
    name = f"{stem}_{row['contrast']}"
    runs[name] += 1
    return f"{stem}_run-{runs[name]}_{row['contrast']}"
