"""The head of the converted BIDS dataset, and its tables of participants and scans."""

from __future__ import annotations

import fcntl
from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd

from analysis import tsv
from analysis.layout import Private, Results, entities
from synthsr import files

from .key import Key
from .profile import OLDEST_TOLD_YEARS

#: BIDS has no suffix for CT.
BIDSIGNORE = "*_ct.*\n"
README = """Converted clinical scans

Made by synthsr-cohort (python -m analysis inventory, convert) from DICOM files or another BIDS dataset. Identifiers are
removed: participants have pseudonyms, and dates in *_scans.tsv are moved, by the same number of days for all scans of a
participant, so that the intervals between them are true.
"""
_DESCRIPTION = {
    "Name": "Converted clinical scans",
    "BIDSVersion": "1.10.0",
    "DatasetType": "raw",
    "GeneratedBy": [{"Name": "synthsr-cohort", "Description": "python -m analysis inventory, convert"}],
}
_PARTICIPANTS = {
    "age_years": {
        "Description": f"Age at the first session; {OLDEST_TOLD_YEARS} stands for that and all higher ages",
        "Units": "year",
    },
    "sex": {"Description": "Sex", "Levels": {"F": "female", "M": "male"}},
}


def write_head(people: Iterable[Mapping[str, str]], rawdata: Path) -> None:
    """Write what describes the dataset.

    Parameters
    ----------
    people
        A row per participant with ``participant_id``, ``age_years`` and ``sex``.
    rawdata
        Folder of the dataset.
    """
    table = pd.DataFrame([dict(row) for row in people], columns=["participant_id", *_PARTICIPANTS])
    tsv.write(table.sort_values("participant_id"), rawdata / "participants.tsv")
    files.write_json(rawdata / "participants.json", _PARTICIPANTS)
    files.write_json(rawdata / "dataset_description.json", _DESCRIPTION)
    files.write_text(rawdata / "README", README)
    files.write_text(rawdata / ".bidsignore", BIDSIGNORE)


def write_scans(links: Iterable[Mapping[str, str]], results: Results, private: Private) -> None:
    """Write ``*_scans.tsv`` of sessions, with moved dates: the scans that are there now.

    Parameters
    ----------
    links
        Rows of the private table of series, of all scans of the sessions.
    results, private
        Folders of the study. Jobs of several batches may have scans of one session: one at a time looks and writes.
    """
    key = Key.of(private.key)
    with (private.root / ".scans.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        sessions: dict[Path, list[dict[str, str]]] = {}
        for row in links:
            image = results.raw(row["scan_id"])
            if not image.is_file() or row["contrast"] == "ct":  # BIDS has no suffix for CT
                continue
            named = entities(row["scan_id"])
            stem = "_".join(f"{entity}-{named[entity]}" for entity in ("sub", "ses") if entity in named)
            day = key.shifted(row["study_date"], row["patient_id"])
            scan = {
                "filename": image.relative_to(image.parents[1]).as_posix(),
                "acq_time": f"{day[:4]}-{day[4:6]}-{day[6:]}T00:00:00" if day else tsv.MISSING,
            }
            sessions.setdefault(image.parents[1] / f"{stem}_scans.tsv", []).append(scan)
        for path, scans in sessions.items():
            tsv.write(pd.DataFrame(scans).sort_values("filename"), path)
