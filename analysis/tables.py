"""Volumes of all included scans as long tables: per scan, and per session.

Of the study's first back end ``tables/volumes.tsv`` and ``tables/volumes_sessions.tsv``, of any other the same in
``tables/BACKEND/``; each also as Parquet, and with its dictionary as JSON. Of a session's scans there is the median and
the mean weighted by the gate's score. Back ends that leave FreeSurfer subjects also have ``surfaces.tsv``: thickness
and area. With ``--participants`` that table's columns are joined by explicit keys, and ``participants_unmatched.tsv``
tells whom it did not match. With ``--multichannel`` a session's row also has the volume of one synthetic T1 made of
several of its scans. DuckDB reads them all: ``SELECT … FROM 'results/tables/**/volumes.parquet'``.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .backends.registry import BACKENDS, NAMES
from .layout import EMBEDDED, Results

if TYPE_CHECKING:
    import pandas as pd

    from .volumes import ScanVolumes

#: Least weight in a session's mean: a scan that a person included though its score is above the limit still counts.
LEAST_WEIGHT = 0.05


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes
    ----------
    name
        In the header.
    kind
        ``string``, ``double`` or ``int64``, as Arrow calls it.
    meaning
        For the dictionary.
    unit
        Likewise; empty for text.
    """

    name: str
    kind: str
    meaning: str
    unit: str = ""


_WHO = (
    Column("participant_id", "string", "Pseudonym of the person"),
    Column("session_id", "string", "Session within the person"),
)
_WHAT = (
    Column("structure", "string", "Anatomical structure, FreeSurfer's name; ICV is the intracranial volume"),
    Column("side", "string", "left, right or midline"),
    Column("label", "string", "FreeSurfer's label number; n/a for the ICV and for parcels"),
)
_PERSON = (
    Column("age_years", "double", "Age at the session", "years"),
    Column("sex", "string", "F, M or n/a"),
)
_MADE = (
    Column("backend", "string", "What measured the volumes"),
    Column("version", "string", "Its version"),
    Column("segmenter_sha256", "string", "SHA-256 of the embedded segmenter's weights; n/a for other tools"),
    Column("synthesiser", "string", "What made the image that was measured; none for the scan itself"),
    Column("synthesiser_sha256", "string", "SHA-256 of its weights; n/a where it has none"),
)
_ICV = (
    Column("icv_mm3", "double", "Intracranial volume", "mm^3"),
    Column("icv_backend", "string", "What measured it: the embedded back end where this one does not"),
)
SCANS = (
    *_WHO,
    Column("scan_id", "string", "BIDS name of the converted scan"),
    Column("contrast", "string", "T1w, T2w, FLAIR, PDw or ct"),
    *_WHAT,
    Column("volume_mm3", "double", "Volume", "mm^3"),
    *_ICV,
    Column("spacing_mm", "double", "Distance of the scan's slices", "mm"),
    Column("plane", "string", "Orientation of its slices"),
    Column("score", "double", "The gate's score: 0 for a typical scan, 1 at the limit", "1"),
    *_PERSON,
    *_MADE,
)
SESSIONS = (
    *_WHO,
    *_WHAT,
    Column("volume_mm3", "double", "Median of the volume over the session's included scans", "mm^3"),
    Column("volume_weighted_mm3", "double", "Mean, weighted by 1 − score (at least 0.05)", "mm^3"),
    Column("volume_multichannel_mm3", "double", "Of one synthetic T1 made of several of the session's scans", "mm^3"),
    Column("n_scans", "int64", "Included scans that have the structure", "1"),
    *_ICV,
    *_PERSON,
    *_MADE,
)
SURFACES = (
    *_WHO,
    Column("scan_id", "string", "BIDS name of the converted scan"),
    Column("structure", "string", "Parcel of the Desikan-Killiany atlas; cortex is the hemisphere"),
    Column("side", "string", "left or right"),
    Column("thickness_mm", "double", "Mean thickness of the cortex", "mm"),
    Column("area_mm2", "double", "Area of the white surface", "mm^2"),
    Column("volume_mm3", "double", "Volume of grey matter", "mm^3"),
    Column("backend", "string", "What measured"),
    Column("version", "string", "Its version"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("--out", type=Path, required=True, metavar="RESULTS", help="results folder")
    parser.add_argument("--backends", nargs="+", choices=NAMES, default=[EMBEDDED], metavar="NAME",
                        help="the first one's tables are those of the statistics (default: embedded)")  # fmt: skip
    parser.add_argument("--participants", type=Path, metavar="TABLE", help="what is known of people, by participant_id "
                        "[and session_id], study_uid or patient_id")  # fmt: skip
    parser.add_argument("--links", type=Path, metavar="TABLE", help="private linking table, for the latter two keys")
    parser.add_argument("--multichannel", type=Path, metavar="TABLE", help="of the command multichannel: its volumes "
                        "join those of the embedded back end's sessions")  # fmt: skip


def run(arguments: argparse.Namespace) -> None:
    """Write the tables."""
    from . import tsv

    results = Results(arguments.out)
    gate = tsv.read(results.gate, columns=("scan_id", "included"), numbers=("icv_mm3", "score"))
    included = gate[gate["included"] == "yes"].set_index("scan_id")
    sessions = tsv.read(results.sessions, columns=("participant_id", "session_id"), numbers=("age_years",))
    sessions = sessions[["participant_id", "session_id", "age_years", "sex"]]
    added: list[Column] = []
    if arguments.participants is not None:
        sessions, added, unmatched = join_participants(sessions, arguments.participants, arguments.links)
        tsv.write(unmatched, results.tables() / "participants_unmatched.tsv")
    series = tsv.read(results.series, numbers=("spacing_mm",))
    series = series[["scan_id", "spacing_mm", "plane"]].drop_duplicates("scan_id").set_index("scan_id")
    for number, backend in enumerate(dict.fromkeys(arguments.backends)):
        folder = results.tables(backend if number else None)
        scans = per_scan(collect(results, backend, set(included.index)), included)
        scans = scans.join(series, on="scan_id").merge(
            sessions, on=["participant_id", "session_id"], how="left", validate="many_to_one"
        )
        write(scans, (*SCANS, *added), folder / "volumes.tsv")
        medians = per_session(scans, [column.name for column in added])
        if arguments.multichannel is not None and backend == EMBEDDED:
            keys = ["participant_id", "session_id", "structure"]
            of_several = multichannel(results, arguments.multichannel)
            medians = medians.merge(of_several, on=keys, how="left", validate="one_to_one")
        write(medians, (*SESSIONS, *added), folder / "volumes_sessions.tsv")
        if backend in BACKENDS and BACKENDS[backend].keeps_subject:
            write(surfaces(results, backend, included), SURFACES, folder / "surfaces.tsv")


def collect(results: Results, backend: str, wanted: Iterable[str]) -> list[tuple[dict[str, str], ScanVolumes]]:
    """Batch rows and volumes of the wanted scans that a back end measured, in order of scan_id.

    What was lost since is named and left out.
    """
    from . import batch, volumes
    from .errors import DataError
    from .layout import segment_stage

    chosen, found = set(wanted), {}
    for path in sorted(results.batches(segment_stage(backend)).glob("batch-*.tsv")):
        for scan in batch.rows(path):
            if scan["scan_id"] not in chosen or scan["status"] != batch.DONE:
                continue
            try:
                found[scan["scan_id"]] = scan, volumes.read(results.root / scan["path"])
            except DataError as error:
                print(f"left out {scan['scan_id']}: {error}")
    return [found[scan_id] for scan_id in sorted(found)]


def per_scan(found: Sequence[tuple[dict[str, str], ScanVolumes]], included: pd.DataFrame) -> pd.DataFrame:
    """Long table of volumes, a row per scan and structure; the ICV is the gate's where the back end measures none.

    Parameters
    ----------
    found
        From :func:`collect`.
    included
        Rows of the gate, by ``scan_id``: ``icv_mm3`` and ``score``.
    """
    import pandas as pd

    from synthsr import labels

    from .volumes import ICV, MISSING, side_of

    numbers = {label.name: str(label.number) for label in labels.table()}
    gate_icv_mm3 = dict(zip(included.index, included["icv_mm3"].to_numpy(dtype=float), strict=True))
    rows = []
    for scan, volumes in found:
        is_own = ICV in volumes.volumes_mm3
        icv_mm3 = volumes.icv_mm3 if is_own else gate_icv_mm3[scan["scan_id"]]
        where = volumes.provenance
        common = (scan["participant_id"], scan["session_id"], scan["scan_id"], scan["contrast"], icv_mm3,
                  where.backend if is_own else EMBEDDED, *vars(where).values())  # fmt: skip
        sizes = volumes.volumes_mm3 if is_own else {**volumes.volumes_mm3, ICV: icv_mm3}
        rows += [(*common, name, volume) for name, volume in sizes.items()]
    names = ("participant_id", "session_id", "scan_id", "contrast", "icv_mm3", "icv_backend",
             *(column.name for column in _MADE), "structure", "volume_mm3")  # fmt: skip
    table = pd.DataFrame(rows, columns=list(names))
    table["side"] = table["structure"].map({name: side_of(name) for name in table["structure"].unique()})
    table["label"] = table["structure"].map(numbers).fillna(MISSING)
    scores = included["score"] if "score" in included else pd.Series(dtype=float)
    table["score"] = table["scan_id"].map(scores)
    return table.sort_values(["scan_id", "structure"], ignore_index=True)


def per_session(scans: pd.DataFrame, also: Sequence[str] = ()) -> pd.DataFrame:
    """Median, and mean weighted by 1 − score, of every structure over a session's scans.

    Parameters
    ----------
    scans
        From :func:`per_scan`, with age and sex.
    also
        Columns that are the same for all scans of a session.
    """
    weight = (1 - scans["score"].astype(float)).clip(lower=LEAST_WEIGHT).fillna(1.0)
    table = scans.assign(_weight=weight, _weighted=weight * scans["volume_mm3"])
    by = ["participant_id", "session_id", "structure"]
    grouped = table.groupby(by, sort=True)
    same = ["side", "label", "icv_backend", "age_years", "sex", *(column.name for column in _MADE), *also]
    result = grouped.agg(
        volume_mm3=("volume_mm3", "median"),
        _weighted=("_weighted", "sum"),
        _weight=("_weight", "sum"),
        n_scans=("scan_id", "nunique"),
        icv_mm3=("icv_mm3", "median"),
        **{name: (name, "first") for name in same},
    ).reset_index()
    # Of scans that differ in how they were made, such as CT by another network, none is named.
    for column in _MADE:
        several = grouped[column.name].nunique().to_numpy() > 1
        result[column.name] = result[column.name].mask(several, "several")
    return result.assign(volume_weighted_mm3=result["_weighted"] / result["_weight"])


def multichannel(results: Results, path: Path) -> pd.DataFrame:
    """Volumes of the synthetic T1s that are made of several scans of a session, a row per session and structure."""
    import pandas as pd

    from . import batch, volumes
    from .errors import DataError

    rows: list[tuple[str, str, str, float]] = []
    for session in batch.rows(path):
        if session["status"] != batch.DONE:
            continue
        try:
            sizes = volumes.read(results.root / session["path"]).volumes_mm3
        except DataError as error:
            print(f"left out of the synthesis from several scans {session['scan_id']}: {error}")
            continue
        rows += [(session["participant_id"], session["session_id"], name, volume) for name, volume in sizes.items()]
    return pd.DataFrame(rows, columns=["participant_id", "session_id", "structure", "volume_multichannel_mm3"])


def surfaces(results: Results, backend: str, included: pd.DataFrame) -> pd.DataFrame:
    """Thickness and area of all included scans."""
    import pandas as pd

    from . import tsv

    parts = []
    for scan, _ in collect(results, backend, set(included.index)):
        path = results.root / scan["path"]
        table = tsv.read(
            path.with_name(path.name.replace("_volumes.tsv", "_surfaces.tsv")),
            numbers=("thickness_mm", "area_mm2", "volume_mm3"),
        )
        parts.append(table.assign(participant_id=scan["participant_id"], session_id=scan["session_id"]))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=[c.name for c in SURFACES])


def join_participants(
    sessions: pd.DataFrame, path: Path, links: Path | None
) -> tuple[pd.DataFrame, list[Column], pd.DataFrame]:
    """Join a table about people by the one key that it gives.

    Parameters
    ----------
    sessions
        The study's, one row each.
    path
        With ``study_uid`` or ``patient_id`` (by ``links``), or ``participant_id`` [and ``session_id``].
    links
        Private linking table of ``participant_id``, ``session_id`` and the hospital's keys.

    Returns
    -------
    The sessions with the table's columns; these columns; and who was not matched: ``missing_in`` (``table`` or
    ``study``), ``participant_id``, ``session_id``, and the ``line`` of the table, which names nobody.

    Raises
    ------
    DataError
        If there is no such key, or somebody has two rows.
    """
    import pandas as pd

    from . import tsv
    from .statistics import cohort

    table = tsv.read(path)
    keys = [*(cohort.PRIVATE_KEYS if links is not None else ()), *cohort.KEYS[:2]]
    known = {column.name for column in (*SCANS, *SESSIONS)}
    columns = [name for name in table.columns if name not in {*keys, *cohort.PRIVATE_KEYS, *known}]
    double = sorted((set(table.columns) & known) - set(keys))
    if double:
        print(f"{path.name}: {', '.join(double)} left out: the study has columns of these names")
    joined = cohort.read_keyed(path, columns=columns, links=links)
    by = [key for key in cohort.KEYS[:2] if key in joined]
    matched = sessions.merge(joined, on=by, how="left", validate="many_to_one", indicator=True)
    lonely = matched.loc[matched["_merge"] == "left_only", list(cohort.KEYS[:2])].assign(missing_in="table", line="")
    # Rows of the table that no session has: by the study's own keys, or through the links.
    private = next((key for key in cohort.PRIVATE_KEYS if key in table), None) if links is not None else None
    if private is not None and links is not None:
        study = tsv.read(links, columns=(*cohort.KEYS[:2], private)).merge(sessions, on=list(cohort.KEYS[:2]))
        has = table[private].isin(study[private]).to_numpy()
    else:
        has = pd.MultiIndex.from_frame(table[by]).isin(pd.MultiIndex.from_frame(sessions[by]))
    lines = [str(number + 2) for number, is_known in enumerate(has) if not is_known]
    strangers = pd.DataFrame({"participant_id": "", "session_id": "", "missing_in": "study", "line": lines})
    order = ["missing_in", "participant_id", "session_id", "line"]
    unmatched = pd.concat([lonely, strangers], ignore_index=True)[order].replace("", tsv.MISSING)
    print(f"{path.name}: {len(matched) - len(lonely)} of {len(matched)} sessions matched, {len(lines)} of {len(table)} "
          f"lines are of nobody in the study")  # fmt: skip
    added = [Column(name, "string", f"From {path.name}") for name in columns]
    return matched.drop(columns="_merge"), added, unmatched


def write(table: pd.DataFrame, schema: Sequence[Column], path: Path) -> None:
    """Write a table by its schema as TSV, as Parquet, and the schema as its dictionary."""
    import pyarrow as pa
    from pyarrow import parquet

    from synthsr import files

    from . import tsv

    ordered = table.reindex(columns=[column.name for column in schema])
    tsv.write(ordered, path)
    described = {column.name: {"description": column.meaning, "unit": column.unit} for column in schema}
    kinds = {"string": pa.string(), "double": pa.float64(), "int64": pa.int64()}
    fields = [pa.field(column.name, kinds[column.kind], metadata=described[column.name]) for column in schema]
    for column in schema:
        if column.kind == "string":
            ordered[column.name] = ordered[column.name].replace(tsv.MISSING, None)
    arrow = pa.Table.from_pandas(ordered, schema=pa.schema(fields), preserve_index=False)
    with files.whole(path.with_suffix(".parquet")) as temporary:
        parquet.write_table(arrow, temporary, compression="zstd")
    dictionary = {
        column.name: {"Description": column.meaning, **({"Units": column.unit} if column.unit else {})}
        for column in schema
    }
    files.write_json(path.with_suffix(".json"), dictionary)
