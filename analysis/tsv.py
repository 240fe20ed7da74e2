"""Reading and writing of tab-separated tables: ``n/a`` for missing values as in BIDS, unchanged files left alone."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from synthsr import files

from .errors import DataError

MISSING = "n/a"
#: Texts, in any case, that stand for an unknown number.
UNKNOWN = "n/a|nan"


def read(
    path: Path, *, columns: Sequence[str] = (), numbers: Sequence[str] = (), unknown: str = UNKNOWN
) -> pd.DataFrame:
    """Read a table; every column is text unless named in ``numbers``.

    Parameters
    ----------
    path
        Tab-separated file with a header.
    columns
        Columns that must be there.
    numbers
        Those of them (or others, if present) to read as float; what is empty or ``unknown`` becomes NaN.
    unknown
        Regular expression, case ignored.

    Raises
    ------
    DataError
        If the file or a column is missing, or a number is not one; names the row.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such table; check the path, or make it first (python -m analysis --help)")
    try:
        table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a tab-separated table in UTF-8 ({error}); save it as such") from error
    if len(table) and not isinstance(table.index, pd.RangeIndex):
        # pandas takes the first cells of such rows for an index, and shifts the others.
        raise DataError(f"{path}: rows have more cells than the header has columns; remove tabs at the ends of lines")
    lacking = [column for column in columns if column not in table]
    if lacking:
        if len(table.columns) == 1 and set(columns) <= set(table.columns[0].split()):
            raise DataError(f"{path}: columns are parted by spaces; put one tab between them, in every line")
        raise DataError(
            f"{path}: lacks the column {', '.join(lacking)}; it has {', '.join(table.columns)}; add or rename one"
        )
    for column in numbers:
        if column not in table:
            continue
        text = table[column].str.strip()
        text = text.mask(text.str.fullmatch(f"(?:{unknown})", case=False), "")
        value = pd.to_numeric(text.where(text != ""), errors="coerce").astype(float)
        wrong = (text != "") & value.isna()
        if wrong.any():
            row = int(wrong.to_numpy().argmax())
            raise DataError(
                f"{path}: line {row + 2}, column {column}: {text.iloc[row]!r} is not a number; write a number or n/a"
            )
        table[column] = value
    return table


def write(table: pd.DataFrame, path: Path) -> None:
    """Write a table whole or not at all; a file that already reads so keeps its time."""
    stream = io.StringIO()
    writer = csv.writer(stream, delimiter="\t", lineterminator="\n")
    writer.writerow(table.columns)
    writer.writerows(zip(*(_texts(table.iloc[:, number]) for number in range(table.shape[1])), strict=True))
    files.write_text(Path(path), stream.getvalue())


def _texts(column: pd.Series) -> list[str]:
    """Cells as ``to_csv`` writes them, floats with six digits, in a third of its time."""
    if column.dtype.kind == "f":
        return [MISSING if value != value else f"{value:.6g}" for value in column.tolist()]
    if column.dtype == object:
        return [MISSING if missing else str(value) for value, missing in zip(column, column.isna(), strict=True)]
    codes, values = pd.factorize(column)
    # Few values, recurring; the code of a missing one is −1.
    texts = [*map(str, values), MISSING]
    return [texts[code] for code in codes]
