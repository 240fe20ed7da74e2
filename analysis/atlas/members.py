"""Who takes part in an atlas: a table of images, written by hand or put together from a study's results."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import tsv
from ..errors import DataError
from ..registration import cohort
from ..statistics.cohort import check_unique

if TYPE_CHECKING:
    import pandas as pd

    from ..layout import Results
    from .folder import Folder

COLUMNS = ("participant_id", "scan_id", "session_id", "contrast", "image", "labels", "lesion")
SCAN_COLUMNS = ("participant_id", "contrast", "image")

Member = Mapping[str, str]


def read(folder: Folder) -> list[dict[str, str]]:
    """Members in order of their names, with absolute paths; ``labels`` and ``lesion`` may be empty.

    Raises
    ------
    DataError
        If the table is missing or somebody is in it twice.
    """
    table = tsv.read(folder.members, columns=("participant_id", "image"))
    check_unique(table, ["participant_id"], folder.members)
    for column in COLUMNS:
        if column not in table:
            table[column] = table["participant_id"] if column == "scan_id" else ""
    rows = table[list(COLUMNS)].fillna("").sort_values("participant_id").to_dict("records")
    if not rows:
        raise DataError(f"{folder.members}: nobody is in it; an atlas needs members")
    return [_absolute({str(name): str(value) for name, value in row.items()}, folder.root) for row in rows]


def scans(folder: Folder) -> dict[str, list[dict[str, str]]]:
    """Other scans of every member, in order of contrast; empty if the table is not there."""
    found: dict[str, list[dict[str, str]]] = {}
    if not folder.scans.is_file():
        return found
    table = tsv.read(folder.scans, columns=SCAN_COLUMNS).sort_values(list(SCAN_COLUMNS))
    for row in table[list(SCAN_COLUMNS)].to_dict("records"):
        scan = _absolute({str(name): str(value) for name, value in row.items()}, folder.root)
        found.setdefault(scan["participant_id"], []).append(scan)
    return found


def _absolute(row: dict[str, str], root: Path) -> dict[str, str]:
    for column in ("image", "labels", "lesion"):
        if row.get(column):
            row[column] = os.path.normpath(root / row[column])
    return row


def of_study(results: Results, folder: Folder, *, lesions: Path | None, links: Path | None) -> None:
    """Write the tables of a study: the first session's reference scan of everybody whom the gate included.

    Members are registered by their synthetic T1s. Of every other contrast of that session the finest scan goes along:
    with the header that ``align`` gave it, where the study aligns its sessions, else with its own.

    Parameters
    ----------
    results, folder
        Of the study and of its atlas.
    lesions, links
        See :func:`lesion_masks`.
    """
    import pandas as pd

    masks = lesion_masks(lesions, links) if lesions else {}
    members, others = [], []
    for sessions in cohort.by_session(cohort.included(results)).values():
        session = next(iter(sessions.values()))
        chosen = cohort.reference(session)
        participant = chosen["participant_id"]
        mask = masks.get((participant, chosen["session_id"]))
        members.append(
            {
                **{column: chosen[column] for column in COLUMNS[:4]},
                "image": folder.relative(results.synthetic(chosen["scan_id"])),
                "labels": folder.relative(results.segmentation(chosen["scan_id"])),
                "lesion": folder.relative(mask) if mask else "",
            }
        )
        for kind in sorted({scan["kind"] for scan in session}):
            scan = cohort.reference([one for one in session if one["kind"] == kind])
            aligned = results.aligned(scan["scan_id"])
            image = aligned if scan is not chosen and aligned.is_file() else results.raw(scan["scan_id"])
            others.append({"participant_id": participant, "contrast": kind, "image": folder.relative(image)})
    tsv.write(pd.DataFrame(members, columns=list(COLUMNS)), folder.members)
    tsv.write(pd.DataFrame(others, columns=list(SCAN_COLUMNS)), folder.scans)


def lesion_masks(path: Path, links: Path | None) -> dict[tuple[str, str], Path]:
    """Masks by participant and session: of several of a session the one with the most slices, or the first.

    Parameters
    ----------
    path
        Table of ``participant_id`` and ``session_id`` (or ``study_uid``) and ``lesion_mask``, the path of an image in
        the space of the session's scans, from the table's folder; ``scans.tsv`` of a simulated clinic is one.
    links
        Table of ``participant_id``, ``session_id`` and ``study_uid``, for a table of the last.

    Raises
    ------
    DataError
        If it is none such, or an image is not there.
    """
    table = cohort.with_sessions(tsv.read(path, columns=("lesion_mask",), numbers=("slices",)), path, links)
    if "slices" in table:
        table = table.sort_values("slices", ascending=False, kind="stable")
    found: dict[tuple[str, str], Path] = {}
    for row in table.to_dict("records"):
        if row["lesion_mask"] in ("", tsv.MISSING):
            continue
        image = path.parent / str(row["lesion_mask"])
        if not image.is_file():
            raise DataError(f"{path}: {row['lesion_mask']} is not there; paths count from the table's folder")
        found.setdefault((str(row["participant_id"]), str(row["session_id"])), image)
    return found


def rows(members: list[dict[str, str]]) -> pd.DataFrame:
    """Members as :func:`analysis.batch.run` takes them."""
    import pandas as pd

    from .. import batch

    content: list[dict[str, Any]] = [{**member, "scan_id": member["participant_id"]} for member in members]
    return pd.DataFrame(content, columns=[*batch.COLUMNS[:4], "image", "labels", "lesion"])
