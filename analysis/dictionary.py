"""What the columns of a study's tables mean: one list for the tables' JSON files and for the documentation.

``columns.tsv`` has the meanings; a row without a table holds for every table that has no row of its own. The tables of
volumes have their dictionaries in :mod:`analysis.tables`.
"""

from __future__ import annotations

import csv
import importlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources

from .tables import SCANS, SESSIONS, SURFACES, Column


@dataclass(frozen=True)
class Table:
    """A table that a study leaves.

    Attributes
    ----------
    path
        Below the results folder, with words in capitals for what varies.
    about
        What it is, a row per what.
    columns
        In their order.
    """

    path: str
    about: str
    columns: tuple[Column, ...]


#: Tables by path: what they are, and where their columns are named (``module:NAME``, or the name itself).
_TABLES: dict[str, tuple[str, tuple[str, ...]]] = {
    "intake/series.tsv": (
        "What came in: a row per series, with its decision.",
        ("intake.series:SERIES_COLUMNS",),
    ),
    "intake/sessions.tsv": (
        "Age and sex: a row per session.",
        ("participant_id", "session_id", "age_years", "sex"),
    ),
    "intake/low_field.tsv": (
        "T1 and T2 of low field that go together; only where there are any.",
        ("intake.lowfield:COLUMNS",),
    ),
    "batches/select/batch-NNNN.tsv": (
        "Chosen scans, a batch of the later stages.",
        ("intake.command:SELECT_COLUMNS",),
    ),
    "batches/STAGE/batch-NNNN.tsv": (
        "What a stage made of a batch (convert, synthesise, segment, segment-BACKEND): a row per scan.",
        ("batch:COLUMNS",),
    ),
    "multichannel/sessions.tsv": (
        "Sessions of which several scans made one synthetic T1: a row per session; scan_id is the session's name.",
        ("batch:COLUMNS",),
    ),
    "qc/scans.tsv": (
        "The gate's measures and decision: a row per scan.",
        ("gate:COLUMNS", "decided_by", "score", "gate:ALSO", "icv_litres", "edge_share", "noise_share",
         "motion", "agreement_dice", "grey_white_contrast", "asymmetry", "entropy", "cohort_distance",
         "session_shift_mm", "session_sides"),
    ),
    "segmentation-BACKEND/…_volumes.tsv": (
        "Volumes of one scan, before the gate: a row per structure. A JSON file beside it tells where they come from.",
        ("volumes:COLUMNS",),
    ),
    "arms/NAME.tsv": (
        "An arm of a comparison: median over a session's scans of one kind.",
        ("participant_id", "session_id", "structure", "volume_mm3", "n_scans"),
    ),
    "registration/TASK/shard-NNNN.tsv": (
        "What register-cohort made of a part of the cohort: a row per scan or pair of scans.",
        ("batch:COLUMNS",),
    ),
    "registration/landmarks/errors.tsv": (
        "Errors at landmarks: a row per landmark and registration.",
        ("registration.cohort:ERROR_COLUMNS",),
    ),
    "atlas/members.tsv": (
        "Who takes part in the atlas: a row per person; paths are relative to the table's folder.",
        ("atlas.members:COLUMNS",),
    ),
    "atlas/scans.tsv": (
        "Other scans that are carried along: a row per person and contrast.",
        ("atlas.members:SCAN_COLUMNS",),
    ),
    "atlas/rounds.tsv": (
        "How the atlas was built: a row per round.",
        ("round", "kind", "members", "change", "sharpness", "variability", "mean_displacement_mm", "converged"),
    ),
    "atlas/quality.tsv": (
        "How well everybody lies on the atlas: a row per person.",
        ("participant_id", "scan_id", "atlas.collect:QUALITY", "outlier", "reason"),
    ),
    "atlas/outliers.tsv": (
        "Those that do not, as config/exclusions.tsv has it.",
        ("scan_id", "included", "reason"),
    ),
    "statistics/ageing-LEVEL/ageing_curves.tsv": (
        "Curves of the figure; LEVEL is scans or sessions. The JSON file beside it has method and sources, as in every "
        "folder of statistics.",
        ("statistics.ageing:CURVE_COLUMNS",),
    ),
    "statistics/ageing-LEVEL/ageing_summary.tsv": (
        "Linear fit and peak: a row per structure.",
        ("statistics.ageing:SUMMARY_COLUMNS",),
    ),
    "statistics/ageing-LEVEL/ageing_scores.tsv": (
        "Everybody's centile: a row per scan or session and structure (scan_id only of scans).",
        ("participant_id", "session_id", "scan_id", "statistics.ageing:SCORE_COLUMNS"),
    ),
    "statistics/agreement/agreement.tsv": (
        "Measured against true volumes, per session: a row per structure. Arms are compared likewise, in arm-NAME/.",
        ("statistics.agreement:COLUMNS",),
    ),
    "statistics/agreement/agreement_scans.tsv": (
        "The same per scan, all and by kind of scan.",
        ("statistics.agreement:GROUP_COLUMNS", "statistics.agreement:COLUMNS"),
    ),
    "statistics/agreement/agreement_slopes.tsv": (
        "Change with age, measured and true: a row per structure.",
        ("statistics.agreement:SLOPE_COLUMNS",),
    ),
    "statistics/groups/groups.tsv": (
        "Two groups of people: a row per structure and way of measuring.",
        ("statistics.groups:COLUMNS",),
    ),
    "statistics/groups/groups_methods.tsv": (
        "Two ways of measuring the same people; only where there are several.",
        ("statistics.groups:METHODS_COLUMNS",),
    ),
    "statistics/asymmetry/asymmetry.tsv": (
        "The side of a lesion against the other: a row per structure.",
        ("statistics.asymmetry:COLUMNS",),
    ),
    "statistics/landmarks/landmarks.tsv": (
        "Registration errors: a row per contrast, distance of control points and method.",
        ("statistics.landmarks:COLUMNS",),
    ),
    "statistics/landmarks/landmarks_tests.tsv": (
        "The two methods against each other.",
        ("statistics.landmarks:TESTS_COLUMNS",),
    ),
    "statistics/lesion-map/lesions.tsv": (
        "Volume of every mask: a row per participant; of several classes a column each (CLASS_mm3).",
        ("participant_id", "left_mm3", "right_mm3", "volume_mm3"),
    ),
    "statistics/lesion-map/lesion_maxima.tsv": (
        "Maxima of the maps.",
        ("statistics.lesion_map:MAXIMA_COLUMNS", "statistics.imageset:MNI_COLUMNS"),
    ),
    "statistics/lesion-map/lesion_regions.tsv": (
        "The maps by region of an atlas.",
        ("statistics.lesion_map:REGION_COLUMNS",),
    ),
    "statistics/tbm/tbm_maxima.tsv": (
        "Maxima of the voxel-wise comparison.",
        ("statistics.tbm:MAXIMA_COLUMNS", "statistics.imageset:MNI_COLUMNS"),
    ),
    "statistics/thickness/thickness_means.tsv": (
        "Mean thickness: a row per person and hemisphere.",
        ("statistics.thickness:MEAN_COLUMNS",),
    ),
    "statistics/thickness/thickness_effects.tsv": (
        "The effect on thickness: a row per hemisphere.",
        ("statistics.thickness:EFFECT_COLUMNS",),
    ),
    "statistics/harmonise/harmonise_sites.tsv": (
        "What was taken out: a row per structure and site.",
        ("statistics.harmonise:SITE_COLUMNS",),
    ),
}  # fmt: skip


def tables() -> Iterator[Table]:
    """Every table, those of volumes first."""
    yield Table("tables/volumes.tsv", "Volumes of the included scans: a row per scan and structure.", SCANS)
    yield Table("tables/volumes_sessions.tsv", "The same per session, over its scans.", SESSIONS)
    yield Table(
        "tables/BACKEND/surfaces.tsv", "Thickness and area, of back ends that leave FreeSurfer subjects.", SURFACES
    )
    for path, (about, named) in _TABLES.items():
        yield Table(path, about, tuple(described(path, (name for source in named for name in _names(source)))))


def described(path: str, names: Iterable[str]) -> Iterator[Column]:
    """Columns of a table with unit and meaning.

    Raises
    ------
    KeyError
        If ``columns.tsv`` does not know one.
    """
    meanings = _meanings()
    for name in names:
        places = (path, f"{path.rpartition('/')[0]}/", "")
        unit, meaning = next((meanings[place, name] for place in places if (place, name) in meanings), ("", ""))
        if not meaning:
            raise KeyError(f"{path}: {name} has no meaning in analysis/columns.tsv")
        yield Column(name, "", meaning, unit)


def of_folder(folder: str) -> dict[str, dict[str, dict[str, str]]]:
    """Dictionaries of a folder's tables, for its JSON file: by file and column, as in BIDS."""
    return {
        table.path.rpartition("/")[2]: {
            column.name: {"Description": column.meaning, **({"Units": column.unit} if column.unit else {})}
            for column in table.columns
        }
        for table in tables()
        if table.path.rpartition("/")[0] == folder
    }


def _names(source: str) -> tuple[str, ...]:
    module, _, attribute = source.partition(":")
    if not attribute:
        return (source,)
    found: tuple[str, ...] = getattr(importlib.import_module(f"analysis.{module}"), attribute)
    return found


@cache
def _meanings() -> dict[tuple[str, str], tuple[str, str]]:
    with resources.files("analysis").joinpath("columns.tsv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    return {(row["table"], row["column"]): (row["unit"], row["meaning"]) for row in rows}
