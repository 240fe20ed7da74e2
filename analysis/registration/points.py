"""Landmarks: points read from tables, carried through transforms, and the errors that remain."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from synthsr import files

from ..errors import DataError
from .transforms import Points, Transform

#: Columns of this project's tables (mm, RAS) and of BraTS-Reg's (Baheti 2021, arXiv 2112.06979: mm, LPS, as ITK has
#: them), with what takes their numbers to RAS.
LAYOUTS = (
    (("landmark", "x_mm", "y_mm", "z_mm"), (1.0, 1.0, 1.0)),
    (("Landmark", "X", "Y", "Z"), (-1.0, -1.0, 1.0)),
)


@dataclass(frozen=True)
class Landmarks:
    """Named points of one scan.

    Attributes
    ----------
    names
        As the table has them.
    points_mm
        Shape (n, 3), RAS.
    columns, signs
        Layout of the table, an entry of :data:`LAYOUTS`.
    """

    names: tuple[str, ...]
    points_mm: Points
    columns: tuple[str, ...]
    signs: tuple[float, ...]


def read(path: Path) -> Landmarks:
    """Read a table of landmarks, comma- or tab-separated, in one of :data:`LAYOUTS`.

    Raises
    ------
    DataError
        If it cannot be read, has other columns, no rows, a name twice, or a coordinate that is no number.
    """
    try:
        table = pd.read_csv(path, sep="\t" if path.suffix == ".tsv" else ",", dtype=str, skipinitialspace=True)
    except (OSError, ValueError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: cannot be read as a table of landmarks ({error}); give one with tabs (.tsv) or commas (.csv)"
        ) from error
    layout = next((each for each in LAYOUTS if set(each[0]) <= set(table.columns)), None)
    if layout is None:
        expected = " or ".join(", ".join(columns) for columns, _ in LAYOUTS)
        raise DataError(
            f"{path}: has the columns {', '.join(map(str, table.columns))}; expected {expected}; rename them"
        )
    columns, signs = layout
    if not len(table):
        raise DataError(f"{path}: holds no landmarks; give a row for each, or no table")
    numbers = table[list(columns[1:])].apply(pd.to_numeric, errors="coerce").to_numpy(dtype=float)
    for row, column in np.argwhere(~np.isfinite(numbers))[:1]:
        name = columns[1 + column]
        text = table[name].iloc[row]
        raise DataError(f"{path}: line {row + 2}, {name}: {text!r} is no coordinate; write mm as a number")
    names = tuple(table[columns[0]].str.strip())
    if len(set(names)) < len(names):
        twice = next(name for number, name in enumerate(names) if name in names[:number])
        raise DataError(f"{path}: the landmark {twice!r} is there twice; name every one differently")
    return Landmarks(names, numbers * np.array(signs), columns, signs)


def write(landmarks: Landmarks, path: Path) -> None:
    """Write landmarks in the layout they were read in, to the thousandth of a millimetre."""
    separator = "\t" if path.suffix == ".tsv" else ","
    rows = [separator.join(landmarks.columns)]
    for name, point in zip(landmarks.names, landmarks.points_mm * np.array(landmarks.signs), strict=True):
        rows.append(separator.join([name, *(f"{value:.3f}" for value in point)]))
    files.write_text(path, "\n".join(rows) + "\n")


def carried(landmarks: Landmarks, transform: Transform) -> Landmarks:
    """Landmarks of the fixed scan at their places in the moving scan."""
    return Landmarks(landmarks.names, transform.carry(landmarks.points_mm), landmarks.columns, landmarks.signs)


def errors_mm(found: Landmarks, true: Landmarks) -> dict[str, float]:
    """Distance of landmarks of the same name, mm: the rule of BraTS-Reg (Baheti 2021, arXiv 2112.06979, section 4).

    Raises
    ------
    DataError
        If no name is in both.
    """
    places = {name: point for name, point in zip(true.names, true.points_mm, strict=True)}
    common = [name for name in found.names if name in places]
    if not common:
        raise DataError(
            f"the two tables of landmarks share no name ({', '.join(found.names[:3])} … and "
            f"{', '.join(true.names[:3])} …); name a place alike in both"
        )
    points = dict(zip(found.names, found.points_mm, strict=True))
    return {name: float(np.linalg.norm(points[name] - places[name])) for name in common}
