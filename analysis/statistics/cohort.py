"""Volumes and people as the statistics want them: one row per scan or session, both sides added up, age and sex."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from analysis import tsv
from analysis.errors import DataError
from synthsr import labels

#: Columns that say whose volume it is; the last is absent at session level.
KEYS = ("participant_id", "session_id", "scan_id")
ICV = "ICV"
#: Columns by which a hospital's table may know people; their content never leaves the private tables.
PRIVATE_KEYS = ("study_uid", "patient_id")
#: What stands for men (1) and women (0), as BIDS has it, in any case.
SEXES = {"M": 1.0, "MALE": 1.0, "F": 0.0, "FEMALE": 0.0}
#: Ages outside are taken for typing errors (years).
PLAUSIBLE_AGE_YEARS = (0.0, 120.0)
_SIDES = ("Left-", "Right-")


def read_volumes(path: Path, *, keys: Sequence[str] = KEYS[:2]) -> pd.DataFrame:
    """Read a long table of volumes, as :func:`read_sided_volumes`, with both sides added up (:func:`add_sides`)."""
    wide = read_sided_volumes(path, keys=keys)
    present = [column for column in (*keys, *KEYS[2:]) if column in wide]
    return add_sides(wide.set_index(present)).reset_index()


def read_sided_volumes(path: Path, *, keys: Sequence[str] = KEYS[:2]) -> pd.DataFrame:
    """Read a long table of volumes and spread it.

    Parameters
    ----------
    path
        Table with the ``keys``, ``structure`` and ``volume_mm3``; ``scan_id`` counts as a key where there is one.
    keys
        Columns that must identify a row together with ``structure``.

    Returns
    -------
    One row per scan (or session), the keys first, then a column per structure in mm³, left and right apart. What is
    missing, infinite or negative is NaN.

    Raises
    ------
    DataError
        If a column is missing, a volume is text, or a scan has the same structure twice.
    """
    table = tsv.read(path, columns=(*keys, "structure", "volume_mm3"), numbers=("volume_mm3",))
    present = [*keys, *(key for key in KEYS[2:] if key in table)]
    check_unique(table, [*present, "structure"], path)
    values = table["volume_mm3"].to_numpy(dtype=float)
    table["volume_mm3"] = np.where(np.isfinite(values) & (values >= 0), values, np.nan)
    wide = table.pivot(index=present, columns="structure", values="volume_mm3")
    wide.columns.name = None
    return wide.reset_index()


def add_sides(wide: pd.DataFrame) -> pd.DataFrame:
    """Replace ``Left-X`` and ``Right-X`` by their sum ``X``; anatomical order, ICV last.

    A sum lacks where one of its sides lacks; a side whose partner has no column keeps its own name.
    """
    sums = {}
    for name in wide.columns:
        pair = [side + unsided(name) for side in _SIDES]
        if set(pair) <= set(wide.columns):
            sums[unsided(name)] = wide[pair].sum(axis=1, skipna=False)
        else:
            sums[name] = wide[name]
    order = {unsided(label.name): label.number for label in reversed(labels.table())}
    names = sorted(sums, key=lambda name: (name == ICV, order.get(unsided(name), float("inf")), name))
    return pd.DataFrame({name: sums[name] for name in names}, index=wide.index)


def unsided(name: str) -> str:
    """Name of a structure without its side: ``Left-Hippocampus`` → ``Hippocampus``."""
    for side in _SIDES:
        name = name.removeprefix(side)
    return name


def structures(wide: pd.DataFrame) -> list[str]:
    """Columns that hold volumes."""
    return [column for column in wide.columns if column not in KEYS]


def read_people(path: Path) -> pd.DataFrame:
    """Read ages and sexes, and diagnoses where there are some.

    Returns
    -------
    ``participant_id``, ``session_id`` where the file has it, ``age_years`` (NaN if missing or implausible), ``male``
    (1, 0, or NaN for anything but :data:`SEXES`), and ``diagnosis`` where the file has it.

    Raises
    ------
    DataError
        If an age is text, or somebody has two rows.
    """
    table = tsv.read(path, columns=("participant_id", "age_years", "sex"), numbers=("age_years",))
    keys = [key for key in KEYS[:2] if key in table]
    check_unique(table, keys, path)
    low, high = PLAUSIBLE_AGE_YEARS
    return pd.DataFrame(
        {
            **{key: table[key] for key in keys},
            "age_years": table["age_years"].where(table["age_years"].between(low, high)),
            "male": table["sex"].str.strip().str.upper().map(SEXES).astype(float),
            **{key: table[key].str.strip() for key in ("diagnosis",) if key in table},
        }
    )


def read_keyed(
    path: Path, *, columns: Sequence[str], numbers: Sequence[str] = (), links: Path | None = None
) -> pd.DataFrame:
    """Read a table about participants or sessions, known by the study's names for them or by the hospital's.

    Parameters
    ----------
    path
        Table with ``participant_id`` [, ``session_id``] or one of :data:`PRIVATE_KEYS`, and ``columns``.
    columns
        What it tells.
    numbers
        Those of the columns that are numbers.
    links
        Table of ``participant_id``, ``session_id`` and the private keys. With it a private key counts before
        ``participant_id``, which may be another system's.

    Returns
    -------
    ``participant_id``, ``session_id`` where it is known, and ``columns``; no private key survives.

    Raises
    ------
    DataError
        If a column is missing, a number is text, or somebody has two rows.
    """
    table = tsv.read(path, columns=columns, numbers=numbers)
    private = next((key for key in PRIVATE_KEYS if key in table), None) if links is not None else None
    if links is not None and private is not None:
        check_unique(table, [private], path)
        known = tsv.read(links, columns=(*KEYS[:2], private))[[*KEYS[:2], private]]
        check_unique(known, KEYS[:2], links)
        given = table[~table[private].isin(["", tsv.MISSING])]
        return known.merge(given[[private, *columns]], on=private).drop(columns=private)
    keys = [key for key in KEYS[:2] if key in table]
    if "participant_id" not in keys:
        raise DataError(
            f"{path}: needs a column participant_id; or study_uid or patient_id, and --links a table of that column, "
            f"participant_id and session_id. It has {', '.join(table.columns)}"
        )
    check_unique(table, keys, path)
    return table[[*keys, *columns]]


def per_participant(table: pd.DataFrame, by: Sequence[str] = KEYS[:1]) -> pd.DataFrame:
    """Median over each participant's rows of every volume, of age and of sex (unknown where rows contradict).

    Returns
    -------
    One row per participant, or per combination of ``by``, which becomes the index.
    """
    names = structures(table.drop(columns=[*by, "diagnosis"], errors="ignore"))
    grouped = table.groupby(list(by))
    medians = grouped[names].median()
    if "male" in medians:
        medians["male"] = medians["male"].where(grouped["male"].nunique() == 1)
    return medians


def with_people(volumes: pd.DataFrame, people: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Join volumes with people and keep the rows that a regression on age can use.

    Returns
    -------
    The joined table, and a note for everything left out.
    """
    keys = [key for key in KEYS[:2] if key in people]
    table = volumes.merge(people, on=keys, how="left", validate="many_to_one", indicator="found")
    notes = []
    absent = table.pop("found") == "left_only"
    if absent.any():
        whose = " and ".join(keys)
        notes.append(f"{counted(absent.sum())} left out, as the table of participants lacks their {whose}.")
    table = table[~absent]
    if table["male"].isna().all():
        if len(table):
            notes.append("Nobody's sex (M or F) is known: volumes are not corrected for sex.")
        needed = {"age_years": "a known age"}
    else:
        needed = {"age_years": "a known age", "male": "a known sex (M or F)"}
    for column, what in needed.items():
        lacking = table[column].isna()
        if lacking.any():
            notes.append(f"{counted(lacking.sum())} without {what} left out.")
        table = table[~lacking]
    return table.reset_index(drop=True), notes


def counted(number: int) -> str:
    """``1 row`` or ``2 rows``."""
    return f"{number} row" if number == 1 else f"{number} rows"


def check_unique(table: pd.DataFrame, keys: Sequence[str], path: Path) -> None:
    """Raise :class:`DataError` naming the first row that repeats an earlier one's keys; private ones by line alone."""
    repeated = table.duplicated(list(keys))
    if repeated.any():
        row = int(repeated.to_numpy().argmax())
        first = int((table[list(keys)] == table.loc[row, list(keys)]).all(axis=1).to_numpy().argmax())
        texts = table.loc[row, list(keys)].astype(str).items()
        what = ", ".join(f"the same {key}" if key in PRIVATE_KEYS else f"{key} {text}" for key, text in texts)
        raise DataError(f"{path}: lines {first + 2} and {row + 2} are both for {what}; leave one of them")
