"""Section on registration: what became of a cohort's pairs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis import batch
from analysis.layout import Results, entities
from analysis.registration.command import MIDWAY, SIDECAR, WARPED

from .. import pictures, planes
from ..text import NONE, counted, number, without_paths
from .parts import Figure, Section, Table

#: What ``register-cohort`` does, as people call it.
TASKS = {
    "align": "Scans laid on their session's reference scan",
    "longitudinal": "Later sessions registered with the first",
    "landmarks": "Errors at landmarks measured",
}
#: Of median absolute deviations, scaled to standard deviations (Leys 2013), beyond which a pair is an outlier.
OUTLIER_SD, MAD_TO_SD = 5.0, 1.4826
#: Of fewer pairs nothing typical is known.
LEAST_PAIRS = 5
#: Pairs that are shown.
SHOWN = 12
GALLERY = (
    f"The pairs as checkerboards, the worst first, {SHOWN} at most: fields of the first and of the later scan, on "
    "the left in the mid-space after the linear part alone, on the right on the first scan's grid after the whole "
    "transform. Where a pair lies well, borders run on from field to field. The patient's left is on the left."
)

METHOD = (
    "Pairs are registered symmetrically in a space half between both scans: block matching for the linear part, "
    "then a stationary velocity field by local correlation. Folding is the part of voxels where the Jacobian "
    "determinant is zero or less; the inverse error is how far from itself a point comes back. A pair is an outlier "
    f"where a measure lies on its bad side more than {OUTLIER_SD:g} median absolute deviations, scaled to standard "
    f"deviations, from the median of all pairs; with fewer than {LEAST_PAIRS} pairs no limit is drawn."
)
SOURCES = [
    "Reuter et al., NeuroImage 2010, doi 10.1016/j.neuroimage.2010.07.020 (mid-space)",
    "Modat et al., Journal of Medical Imaging 2014, doi 10.1117/1.JMI.1.2.024003 (block matching)",
    "Modat et al., SPIE 2012, doi 10.1117/12.911441 (symmetric registration by stationary velocity fields)",
    "Leys et al., Journal of Experimental Social Psychology 2013, doi 10.1016/j.jesp.2013.03.013 (outliers)",
]
LIMITS = (
    "None of the measures knows where a place truly is: a wrong transform can be smooth, invertible and similar. "
    "What changes between sessions (a lesion, an operation) lowers the similarity of a good registration. Limits "
    "are those of these pairs: where most are bad, none stands out."
)


@dataclass(frozen=True)
class Measure:
    """A measure of a pair's registration.

    Attributes
    ----------
    words
        As people call it.
    bad_side
        -1 where small values are bad, 1 where large ones are.
    tolerance
        Less than this from the median is nothing, however much the other pairs agree.
    digits
        Decimals that are shown.
    """

    words: str
    bad_side: int
    tolerance: float
    digits: int


#: By their names in the sidecar (:class:`analysis.registration.quality.Quality`).
MEASURES = {
    "nmi": Measure("Normalised mutual information", -1, 0.01, 3),
    "lncc": Measure("Local correlation", -1, 0.01, 3),
    "folding_fraction": Measure("Part of voxels where space folds", 1, 1e-4, 4),
    "jacobian_least": Measure("Smallest Jacobian determinant", -1, 0.01, 2),
    "jacobian_largest": Measure("Largest Jacobian determinant", 1, 0.01, 2),
    "inverse_mean_mm": Measure("Mean inverse error (mm)", 1, 0.01, 2),
    "inverse_largest_mm": Measure("Largest inverse error (mm)", 1, 0.1, 2),
}


def registration_section(results: Results) -> Section | None:
    """What ``register-cohort`` has done, and how good the longitudinal pairs are."""
    rows = {
        task: [row for table in sorted(results.registration(task).glob("shard-*.tsv")) for row in batch.rows(table)]
        for task in TASKS
    }
    rows = {task: found for task, found in rows.items() if found}
    if not rows:
        return None
    data = results.report.parent / "data"
    tasks = pd.DataFrame(
        [(task, scan["scan_id"], scan["status"], scan["reason"]) for task in rows for scan in rows[task]],
        columns=["task", "scan_id", "status", "reason"],
    )
    tasks["reason"] = tasks["reason"].map(without_paths)
    states = list(tasks["status"])
    section = Section(
        "registration",
        "Registration",
        f"{states.count(batch.DONE)} scans were registered, {states.count(batch.REJECTED)} were turned away.",
        [],
        [_tasks_table(rows, data)],
        data={"registration_tasks": tasks},
        method=METHOD,
        sources=SOURCES,
        limits=LIMITS,
        gallery_lead=GALLERY,
    )
    pairs = _pairs(results, rows.get("longitudinal", []))
    if len(pairs.dropna(how="all", subset=list(MEASURES))):
        _add_pairs(section, results, pairs, data)
    return section


def judged(pairs: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tell which pairs lie beyond robust limits.

    Parameters
    ----------
    pairs
        A column per measure, NaN where it is not known.

    Returns
    -------
    The pairs with ``outlier`` (``yes`` or ``no``), ``reason`` and ``badness`` (1 at the nearest limit; NaN without
    limits); and per measure ``measure``, ``median``, ``percentile5``, ``percentile95``, ``limit`` and ``beyond``.
    """
    limits, badness = [], pd.DataFrame(index=pairs.index)
    reasons: list[list[str]] = [[] for _ in range(len(pairs))]
    for name, measure in MEASURES.items():
        known = pairs[name].dropna()
        if known.empty:
            continue
        middle, (low, high) = known.median(), known.quantile([0.05, 0.95])
        width = max(OUTLIER_SD * MAD_TO_SD * (known - middle).abs().median(), measure.tolerance)
        limit, beyond = np.nan, 0
        if len(known) >= LEAST_PAIRS:
            limit = middle + measure.bad_side * width
            badness[name] = measure.bad_side * (pairs[name] - middle) / width
            is_beyond = (badness[name] > 1).to_numpy()
            beyond = int(is_beyond.sum())
            for row in np.flatnonzero(is_beyond):
                value, told = (number(one, measure.digits) for one in (pairs[name].iloc[row], limit))
                reasons[row].append(f"{measure.words[:1].lower()}{measure.words[1:]} {value}, limit {told}")
        limits.append((name, len(known), middle, low, high, limit, beyond))
    table = pairs.assign(
        outlier=["yes" if told else "no" for told in reasons],
        reason=["; ".join(told) for told in reasons],
        badness=badness.max(axis=1) if len(badness.columns) else np.nan,
    )
    columns = ["measure", "pairs", "median", "percentile5", "percentile95", "limit", "beyond"]
    return table, pd.DataFrame(limits, columns=columns)


def _add_pairs(section: Section, results: Results, pairs: pd.DataFrame, data: Path) -> None:
    """Figure, tables and checkerboards of the longitudinal pairs."""
    table, limits = judged(pairs)
    section.data["registration_pairs"] = table
    section.data["registration_limits"] = limits
    source = (data / "registration_pairs.tsv", data / "registration_limits.tsv")
    words = {name: measure.words for name, measure in MEASURES.items()}
    drawn = table.rename(columns=words), limits.replace({"measure": words}), table["outlier"] == "no"
    section.figures.append(
        Figure(
            partial(pictures.distributions, *drawn, words=("pairs", "outliers"), what="pairs"),
            "Measures of the longitudinal pairs, a panel each, with their limits; the numbers are in the tables below.",
            f"Measures of {len(table)} longitudinal pairs; dashed: the limit, on the measure's bad side. Bars count "
            f"pairs; of fewer than {pictures.FEW_VALUES} each has its mark. "
            "Jacobian determinants are volume in the later scan over volume in the first.",
            source,
        )
    )
    section.tables.append(
        Table(
            "Measures of the longitudinal pairs.",
            source,
            ("Measure", "Pairs", "Median (5 to 95 %)", "Limit", "Beyond"),
            [_limit_row(row) for row in limits.to_dict("records")],
        )
    )
    outliers = table[table["outlier"] == "yes"].sort_values("badness", ascending=False)
    if len(outliers):
        section.tables.append(
            Table(
                "Pairs beyond a limit, the worst first, by the later session's scan: look at them.",
                source[:1],
                ("Scan", "Why"),
                [[scan_id, why] for scan_id, why in zip(outliers["scan_id"], outliers["reason"], strict=True)],
                n_texts=2,
            )
        )
    elif len(table) >= LEAST_PAIRS:
        section.notes.append("No longitudinal pair lies beyond a limit.")
    worst = table.sort_values(["badness", "lncc", "scan_id"], ascending=[False, True, True]).head(SHOWN)
    section.gallery.extend(_boards(results, worst.to_dict("records")))


def _limit_row(row: Mapping[Any, Any]) -> list[str]:
    measure = MEASURES[row["measure"]]
    names = ("median", "percentile5", "percentile95", "limit")
    middle, low, high, limit = (number(row[name], measure.digits) for name in names)
    return [measure.words, str(row["pairs"]), f"{middle} ({low} to {high})", limit, str(row["beyond"])]


def _boards(results: Results, pairs: Sequence[Mapping[Any, Any]]) -> list[Figure]:
    """Checkerboards of pairs whose images are there."""
    found = []
    for pair in pairs:
        folder = results.longitudinal(pair["scan_id"])
        boards = [(folder / MIDWAY[0], folder / MIDWAY[1]), (_image(results, pair["first"]), folder / WARPED)]
        if all(path.is_file() for board in boards for path in board):
            session = entities(pair["first"].removesuffix(".nii.gz")).get("ses", "")
            found.append(
                Figure(
                    partial(_checkerboards, boards),
                    f"{pair['scan_id']} and the first session's scan as checkerboards in three planes.",
                    f"{pair['scan_id']} with ses-{session}{': ' if pair['reason'] else ''}{pair['reason']}",
                )
            )
    return found


def _checkerboards(boards: Sequence[tuple[Path, Path]]) -> bytes:
    return planes.encode(planes.checkerboards(boards))


def _pairs(results: Results, rows: Sequence[Mapping[str, str]]) -> pd.DataFrame:
    """Measures of the longitudinal pairs that are done, by the later scan; ``first`` is the other one's image."""
    found = []
    for row in rows:
        sidecar = results.longitudinal(row["scan_id"]) / SIDECAR
        if row["status"] == batch.DONE and sidecar.is_file():
            facts = json.loads(sidecar.read_text(encoding="utf-8"))
            names = {name: row[name] for name in ("scan_id", "participant_id", "session_id")}
            found.append({**names, "first": facts["Sources"][0], **facts["Quality"]})
    table = pd.DataFrame(found, columns=["scan_id", "participant_id", "session_id", "first", *MEASURES])
    return table.astype(dict.fromkeys(MEASURES, float))


def _image(results: Results, name: str) -> Path:
    """A synthetic T1, or a scan itself, by the name of its file."""
    dataset = "synthsr" if "_desc-synthsr_" in name else "rawdata"
    return results.anat(dataset, name.removesuffix(".nii.gz")) / name


def _tasks_table(rows: Mapping[str, Sequence[Mapping[str, str]]], data: Path) -> Table:
    """Counts of every task, and why scans were rejected."""
    lines = []
    for task, found in rows.items():
        rejected = [(task, row["reason"]) for row in found if row["status"] == batch.REJECTED]
        why = "; ".join(f"{n} × {reason}" for _, reason, n in counted(rejected))
        lines.append([TASKS[task], why or NONE, str(len(found) - len(rejected)), str(len(rejected))])
    return Table(
        "Scans by task, and why some were rejected; reasons that differ only in numbers or names are counted together.",
        (data / "registration_tasks.tsv",),
        ("Task", "Rejected because", "Done", "Rejected"),
        lines,
        n_texts=2,
    )
