"""Register a cohort's included scans: sessions aligned, longitudinal pairs, or errors at landmarks.

``align``: every scan of a session laid on its reference scan (rigid, mutual information), the header updated.
``longitudinal``: every later session's reference scan against the first session's, symmetric through a mid-space.
``landmarks``: every contrast of the last session (fixed) against the first (moving), directly and through SynthSR, at
several distances of control points; only the errors at known points are kept.
``collect``: those errors of all shards in one table, ``registration/landmarks/errors.tsv``, which
``python -m analysis landmarks`` reads.

Participants are dealt out to ``--shard K/N`` by their names, so that a job's people stay the same while the cohort
grows. A shard's table has a row per scan with status, reason and hash; called again, it remakes what is missing.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigurationError, DataError

if TYPE_CHECKING:
    import pandas as pd

    from ..layout import Results
    from .pairs import Settings
    from .points import Landmarks

TASKS = ("align", "longitudinal", "landmarks", "collect")
#: Raise when the output of unchanged scans with unchanged programs changes.
ALGORITHM_VERSION = 2
#: Which scan of a session the others are laid on: the first contrast there is, of it the finest.
REFERENCES = ("T1w", "T2w", "FLAIR", "PDw", "ct")
METHODS = ("direct", "synthsr")
SESSION = ("participant_id", "session_id")
ERROR_COLUMNS = ("pair", "contrast", "spacing_mm", "method", "landmark", "error_mm")

Scan = Mapping[str, str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("task", choices=TASKS, help="what to register")
    parser.add_argument("--out", type=Path, required=True, metavar="RESULTS", help="results folder of a study")
    parser.add_argument("--shard", default="1/1", metavar="K/N", help="part of the participants (default: all)")
    parser.add_argument("--transform", choices=("rigid", "affine", "svf"), default="svf", help="of longitudinal pairs "
                        "and at landmarks (default %(default)s)")  # fmt: skip
    parser.add_argument("--through", choices=METHODS, default="synthsr", help="longitudinal pairs by their synthetic "
                        "T1s, or the scans themselves (default %(default)s)")  # fmt: skip
    parser.add_argument("--spacing-mm", type=float, nargs="+", default=[5.0], metavar="MM", help="distance of control "
                        "points; of landmarks several (default 5)")  # fmt: skip
    parser.add_argument("--points", type=Path, metavar="TABLE", help="landmarks: participant_id, session_id, landmark, "
                        "x_mm, y_mm, z_mm (RAS), or BraTS-Reg's folder of CSV files")  # fmt: skip
    parser.add_argument("--links", type=Path, metavar="TABLE", help="participant_id, session_id, study_uid: for a "
                        "table of points by the last")  # fmt: skip
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default %(default)s)")


def run(arguments: argparse.Namespace) -> None:
    """Work through one shard of one task and write its table."""
    import pandas as pd

    from .. import batch, tsv
    from ..layout import Results
    from . import niftyreg
    from .pairs import Settings

    results = Results(arguments.out)
    if arguments.task == "collect":
        tsv.write(collect_errors(results), results.landmark_errors)
        return
    shard, shards = read_shard(arguments.shard)
    settings = Settings(arguments.transform, arguments.spacing_mm[0], arguments.threads)
    if arguments.task != "landmarks" and len(arguments.spacing_mm) > 1:
        raise ConfigurationError("--spacing-mm: several distances are for landmarks only")
    scans = [scan for scan in included(results) if of_shard(scan["participant_id"], shard, shards)]
    task: Task
    if arguments.task == "align":
        task = Alignment(results, settings, scans)
    elif arguments.task == "longitudinal":
        niftyreg.locate()
        task = Longitudinal(results, settings, scans, through=arguments.through)
    else:
        if arguments.points is None:
            raise ConfigurationError("landmarks: give the table of points by --points")
        niftyreg.locate()
        known = read_points(arguments.points, arguments.links)
        task = LandmarkErrors(results, settings, scans, points=known, spacings_mm=arguments.spacing_mm)
    table = results.registered(arguments.task, shard)
    rows = pd.DataFrame(task.rows, columns=list(batch.COLUMNS[:4]))
    done = batch.run(rows, table, root=arguments.out, worker=task.work, outputs=task.outputs, key=task.key)
    counts = done["status"].value_counts()
    print(f"register-cohort {arguments.task}: {counts.get('done', 0)} done, {counts.get('rejected', 0)} rejected")


def read_shard(text: str) -> tuple[int, int]:
    """Number and count of ``K/N``.

    Raises
    ------
    ConfigurationError
        If it is none such.
    """
    number, slash, count = text.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise ConfigurationError(f"--shard {text}: expected K/N, such as 1/8")
    return int(number), int(count)


def of_shard(participant: str, shard: int, shards: int) -> bool:
    """Whether a participant is dealt to a shard, by a hash of the name."""
    return int(hashlib.sha256(participant.encode()).hexdigest(), 16) % shards == shard - 1


def included(results: Results) -> list[dict[str, Any]]:
    """Scans that the gate included, in order of scan_id; ``kind`` tells enhanced T1s from plain ones (``T1CE``)."""
    from .. import tsv
    from ..layout import entities

    columns = ("scan_id", "participant_id", "session_id", "contrast", "included")
    gate = tsv.read(results.gate, columns=columns, numbers=("spacing_mm",))
    chosen = gate[gate["included"] == "yes"].sort_values("scan_id").to_dict("records")
    rows = [{str(name): value for name, value in row.items()} for row in chosen]
    for row in rows:
        row["kind"] = "T1CE" if row["contrast"] == "T1w" and "ce" in entities(row["scan_id"]) else row["contrast"]
    return rows


def by_session(scans: Sequence[dict[str, Any]]) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Scans of every participant's sessions, both in order of their names."""
    people: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for scan in sorted(scans, key=lambda scan: (scan["participant_id"], scan["session_id"], scan["scan_id"])):
        people.setdefault(scan["participant_id"], {}).setdefault(scan["session_id"], []).append(scan)
    return people


def reference(scans: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The scan of a session that the others are laid on: by :data:`REFERENCES`, plain before enhanced, then fine."""
    return min(
        scans,
        key=lambda scan: (
            REFERENCES.index(scan["contrast"]),
            scan["kind"] == "T1CE",
            scan.get("spacing_mm", 0.0),
            scan["scan_id"],
        ),
    )


class Task:
    """What :func:`analysis.batch.run` needs: rows, worker, outputs and key of one task.

    Parameters
    ----------
    results
        Of the study.
    settings
        Of the registration.
    scans
        Of :func:`included`.
    """

    def __init__(self, results: Results, settings: Settings, scans: Sequence[dict[str, Any]]) -> None:
        self.results = results
        self.settings = settings
        self.rows: list[dict[str, Any]] = []

    def work(self, scan: Scan) -> None:
        """Make the files of a row."""
        raise NotImplementedError

    def outputs(self, scan: Scan) -> Sequence[Path]:
        """Files of a row, the main one first."""
        raise NotImplementedError

    def sources(self, scan: Scan) -> Sequence[Path]:
        """Files that a row is made from."""
        raise NotImplementedError

    def key(self, scan: Scan) -> str:
        """What decides the files of a row."""
        from synthsr import files

        from . import niftyreg

        parts = [*(files.sha256(path) for path in self.sources(scan)), self._settings(), str(ALGORITHM_VERSION)]
        if not isinstance(self, Alignment):
            parts.append(niftyreg.locate().version)
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def _settings(self) -> str:
        return f"{self.settings.kind} {self.settings.spacing_mm:g} {self.settings.iterations}"


class Alignment(Task):
    """Scans of a session on their reference scan."""

    def __init__(self, results: Results, settings: Settings, scans: Sequence[dict[str, Any]]) -> None:
        super().__init__(results, settings, scans)
        self.references: dict[str, str] = {}
        for sessions in by_session(scans).values():
            for session in sessions.values():
                target = reference(session)
                others = [scan for scan in session if scan is not target]
                self.references |= {scan["scan_id"]: target["scan_id"] for scan in others}
                self.rows += others

    def work(self, scan: Scan) -> None:
        """Align a scan."""
        from . import align
        from .pairs import Image

        target, out = self.results.raw(self.references[scan["scan_id"]]), self.results.aligned(scan["scan_id"])
        align.write(target, Image.load(target), self.results.raw(scan["scan_id"]), out.parent,
                            threads=self.settings.threads, name=out.name.removesuffix(".nii.gz"))  # fmt: skip

    def outputs(self, scan: Scan) -> Sequence[Path]:
        """The scan with its new header, its sidecar and its matrix."""
        image = self.results.aligned(scan["scan_id"])
        stem = image.name.removesuffix(".nii.gz")
        return [image, image.with_name(f"{stem}.json"), image.with_name(f"{stem}_affine.txt")]

    def sources(self, scan: Scan) -> Sequence[Path]:
        """The scan and its reference."""
        return [self.results.raw(scan["scan_id"]), self.results.raw(self.references[scan["scan_id"]])]

    def _settings(self) -> str:
        return "align"


class Longitudinal(Task):
    """Later sessions against the first."""

    def __init__(self, results: Results, settings: Settings, scans: Sequence[dict[str, Any]], *, through: str) -> None:
        super().__init__(results, settings, scans)
        self.through = through
        self.first: dict[str, str] = {}
        for sessions in by_session(scans).values():
            baseline, *later = sessions.values()
            for session in later:
                kinds = {scan["kind"] for scan in baseline} & {scan["kind"] for scan in session}
                # Of the scans themselves one contrast; synthetic T1s are alike whatever they were made from.
                comparable = [
                    [scan for scan in each if through == "synthsr" or scan["kind"] in kinds]
                    for each in (baseline, session)
                ]
                if all(comparable):
                    chosen = reference(comparable[1])
                    same = [scan for scan in comparable[0] if scan["kind"] == chosen["kind"]]
                    self.first[chosen["scan_id"]] = reference(same or comparable[0])["scan_id"]
                    self.rows.append(chosen)

    def work(self, scan: Scan) -> None:
        """Register a later scan (moving) with the first (fixed)."""
        from . import command

        parser = argparse.ArgumentParser()
        command.add_arguments(parser)
        words = {
            "--out": self.results.longitudinal(scan["scan_id"]),
            "--transform": self.settings.kind,
            "--spacing-mm": self.settings.spacing_mm,
            "--threads": self.settings.threads,
        }
        given = [str(word) for option in words.items() for word in option]
        command.run(parser.parse_args([*map(str, self.sources(scan)), *given, "--midspace"]))

    def outputs(self, scan: Scan) -> Sequence[Path]:
        """What ``register --midspace`` leaves, the sidecar first."""
        from . import command, store

        names = [command.SIDECAR, command.WARPED, *command.MIDWAY, store.AFFINE, store.DISPLACEMENT, store.INVERSE]
        if self.settings.kind == "svf":
            names += [store.VELOCITY, store.INVERSE_VELOCITY]
        return [self.results.longitudinal(scan["scan_id"]) / name for name in names]

    def sources(self, scan: Scan) -> Sequence[Path]:
        """The first session's scan and the later one's."""
        path = self.results.synthetic if self.through == "synthsr" else self.results.raw
        return [path(self.first[scan["scan_id"]]), path(scan["scan_id"])]

    def _settings(self) -> str:
        return f"{super()._settings()} {self.through}"


class LandmarkErrors(Task):
    """Errors at the points of the last session, carried to the first, per contrast, method and spacing.

    The rule of BraTS-Reg (Baheti 2021, arXiv 2112.06979): the follow-up's landmarks are carried to the scan before the
    operation, and the distance to where they are there is the error.
    """

    def __init__(
        self,
        results: Results,
        settings: Settings,
        scans: Sequence[dict[str, Any]],
        *,
        points: Mapping[tuple[str, str], Landmarks],
        spacings_mm: Sequence[float],
    ) -> None:
        super().__init__(results, settings, scans)
        self.spacings_mm = spacings_mm
        self.points = points
        self.first: dict[str, dict[str, Any]] = {}
        self.last: dict[str, dict[str, Any]] = {}
        for participant, sessions in by_session(scans).items():
            known = [name for name in sessions if (participant, name) in self.points]
            if len(known) < 2:
                continue
            before, after = sessions[known[0]], sessions[known[-1]]
            for kind in sorted({scan["kind"] for scan in before} & {scan["kind"] for scan in after}):
                moving, fixed = (reference([s for s in each if s["kind"] == kind]) for each in (before, after))
                self.first[fixed["scan_id"]], self.last[fixed["scan_id"]] = moving, fixed
                self.rows.append(fixed)

    def work(self, scan: Scan) -> None:
        """Register a contrast by both methods at every spacing; what a killed job left is taken over."""
        from dataclasses import replace

        from synthsr import files

        from . import pairs, points

        fixed, moving = self.last[scan["scan_id"]], self.first[scan["scan_id"]]
        pair = (fixed["participant_id"], fixed["session_id"]), (moving["participant_id"], moving["session_id"])
        lines = ["\t".join(ERROR_COLUMNS)]
        for method in METHODS:
            path = self.results.synthetic if method == "synthsr" else self.results.raw
            target, source = (pairs.Image.load(path(one["scan_id"])) for one in (fixed, moving))
            found: pairs.Registration | None = None
            for spacing_mm in self.spacings_mm:
                record = self.outputs(scan)[0].with_name(f"{method}_{spacing_mm:g}mm.json")
                errors = _errors_of(record, self.key(scan))
                if errors is None:
                    settings = replace(self.settings, spacing_mm=spacing_mm)
                    if found is None:
                        found = pairs.register(target, source, settings=settings)
                    elif settings.kind == "svf":  # What is linear does not depend on the spacing.
                        found = pairs.bend(target, source, found.forward.linear, settings=settings)
                    errors = points.errors_mm(points.carried(self.points[pair[0]], found.forward), self.points[pair[1]])
                    files.write_json(record, {"Key": self.key(scan), "LandmarkErrorsMM": errors})
                lines += [
                    "\t".join([scan["participant_id"], fixed["kind"], f"{spacing_mm:g}", method, name, f"{mm:.4f}"])
                    for name, mm in errors.items()
                ]
        files.write_text(self.outputs(scan)[0], "\n".join(lines) + "\n")

    def outputs(self, scan: Scan) -> Sequence[Path]:
        """Table of errors."""
        return [self.results.registration("landmarks") / scan["scan_id"] / "errors.tsv"]

    def sources(self, scan: Scan) -> Sequence[Path]:
        """The scans of both sessions and their synthetic T1s."""
        both = [one[scan["scan_id"]]["scan_id"] for one in (self.last, self.first)]
        return [path(name) for name in both for path in (self.results.raw, self.results.synthetic)]

    def _settings(self) -> str:
        spacings = " ".join(f"{mm:g}" for mm in self.spacings_mm)
        return f"{self.settings.kind} {spacings} {self.settings.iterations}"


def _errors_of(record: Path, key: str) -> dict[str, float] | None:
    """Errors of an earlier run on the same scans with the same settings."""
    import json

    if not record.is_file():
        return None
    content = json.loads(record.read_text(encoding="utf-8"))
    return dict(content["LandmarkErrorsMM"]) if content.get("Key") == key else None


def read_points(path: Path, links: Path | None = None) -> dict[tuple[str, str], Landmarks]:
    """Landmarks by participant and session.

    Parameters
    ----------
    path
        Table of ``participant_id`` and ``session_id`` (or ``study_uid``), ``landmark``, ``x_mm``, ``y_mm``, ``z_mm``
        (RAS), or the folder of BraTS-Reg, whose ``BraTSReg_001/BraTSReg_001_00_0000_landmarks.csv`` is of
        ``sub-BraTSReg001``, ``ses-00``.
    links
        Table of ``participant_id``, ``session_id`` and ``study_uid``, for a table of the last.

    Raises
    ------
    DataError
        If it is none such, or a coordinate is missing.
    """
    import numpy as np

    from .. import tsv
    from . import points

    if path.is_dir():
        found = {}
        for file in sorted(path.glob("*/*_landmarks.csv")):
            case, session = file.name.split("_")[1:3]
            found[f"sub-BraTSReg{case}", f"ses-{session}"] = points.read(file)
        if not found:
            raise DataError(f"{path}: holds no */BraTSReg_*_landmarks.csv; give BraTS-Reg's folder, or a table")
        return found
    columns, signs = points.LAYOUTS[0]
    table = tsv.read(path, columns=columns, numbers=columns[1:])
    table = with_sessions(table, path, links)
    places = table[list(columns[1:])].to_numpy(dtype=float)
    if not np.isfinite(places).all():
        line = int((~np.isfinite(places)).any(axis=1).argmax()) + 2
        raise DataError(f"{path}: line {line}: a coordinate is missing")
    return {
        (str(participant), str(session)): points.Landmarks(
            tuple(rows["landmark"]), rows[list(columns[1:])].to_numpy(dtype=float), columns, signs
        )
        for (participant, session), rows in table.groupby(list(SESSION), sort=True)
    }


def with_sessions(table: pd.DataFrame, path: Path, links: Path | None) -> pd.DataFrame:
    """A table whose rows are of sessions, with ``participant_id`` and ``session_id``.

    Parameters
    ----------
    table, path
        As read, with these columns or with ``study_uid``; where from.
    links
        Table of ``participant_id``, ``session_id`` and ``study_uid``, for a table of the last: rows of studies that it
        does not know are left out.

    Raises
    ------
    DataError
        If the columns are missing.
    """
    from .. import tsv

    if links is not None and "study_uid" in table:
        known = tsv.read(links, columns=(*SESSION, "study_uid"))[[*SESSION, "study_uid"]]
        table = table.drop(columns=[name for name in SESSION if name in table]).merge(known, on="study_uid")
    lacking = [column for column in SESSION if column not in table]
    if lacking:
        raise DataError(
            f"{path}: lacks the column {', '.join(lacking)}; name sessions by participant_id and session_id, or by "
            "study_uid and --links the study's private table of sessions"
        )
    return table


def collect_errors(results: Results) -> pd.DataFrame:
    """Errors of all shards' scans, as ``python -m analysis landmarks`` reads them.

    Raises
    ------
    DataError
        If no shard has been worked through.
    """
    import pandas as pd

    from .. import batch, tsv

    shards = sorted(results.registration("landmarks").glob("shard-*.tsv"))
    if not shards:
        raise DataError(f"{results.registration('landmarks')}: holds no table of a shard; run landmarks first")
    done = {row["path"] for shard in shards for row in batch.rows(shard) if row["status"] == batch.DONE}
    tables = [tsv.read(results.root / path, columns=ERROR_COLUMNS) for path in sorted(done)]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=list(ERROR_COLUMNS))
