"""What a scan's own page says: its facts, volumes against the cohort, measures of quality, warnings, provenance."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis import batch, gate, tsv, volumes
from analysis.errors import DataError
from analysis.intake.nifti import REPAIRS, WARNINGS
from analysis.layout import EMBEDDED, PICTURES, Results, description_of
from analysis.statistics import cohort as people

from . import measures
from .content import STAGES, Cohort
from .text import number_of, without_paths

#: Scans that make a cohort to be ranked in.
LEAST_SCANS = gate.COHORT_MINIMUM
#: How the scan was acquired: sidecar key, what it is called, unit.
ACQUISITION = (
    ("Manufacturer", "Manufacturer", ""),
    ("ManufacturersModelName", "Scanner", ""),
    ("MagneticFieldStrength", "Magnetic field", "T"),
    ("MRAcquisitionType", "Acquisition", ""),
    ("SliceThickness", "Slice thickness", "mm"),
    ("RepetitionTime", "Repetition time", "s"),
    ("EchoTime", "Echo time", "s"),
    ("InversionTime", "Inversion time", "s"),
    ("FlipAngle", "Flip angle", "°"),
)
#: Sidecar keys told of what was made.
OPTIONS = {"FlipAveraged": "averaged with its mirror image", "ComputedTomography": "computed tomography"}


#: Volumes by structure, in mm³.
Sizes = dict[str, float]


@dataclass(frozen=True)
class Volume:
    """A structure's volume and where it lies in the cohort.

    Attributes
    ----------
    structure
        Both sides together.
    both_mm3, left_mm3, right_mm3, share_percent
        Volume; NaN where there are no sides. Share of the intracranial volume.
    centile
        In the ageing model's distribution at this age, sex and ICV, 0 to 100; NaN where it is not known.
    rank_percent
        Of the share (of the ICV: the volume) among the cohort's scans, 0 to 100; NaN with less than
        :data:`LEAST_SCANS`.
    """

    structure: str
    both_mm3: float
    left_mm3: float
    right_mm3: float
    share_percent: float
    centile: float
    rank_percent: float

    @property
    def shown_percent(self) -> float:
        """The centile, or the rank where there is none."""
        return self.rank_percent if math.isnan(self.centile) else self.centile


@dataclass(frozen=True)
class Measure:
    """A measure of quality against its limit.

    Attributes
    ----------
    name
        As people call it.
    value, typical, limit
        NaN where it could not be measured.
    """

    name: str
    value: float
    typical: float
    limit: float

    @property
    def badness(self) -> float:
        """0 at the typical value, 1 at the limit, negative on the typical value's other side."""
        return (self.value - self.typical) / (self.limit - self.typical)

    @property
    def verdict(self) -> str:
        """In words."""
        return "not measured" if math.isnan(self.value) else "beyond the limit" if self.badness > 1 else "within"


@dataclass(frozen=True)
class MadeFile:
    """A file of a scan and what made it.

    Attributes
    ----------
    what, path
        What it is, and where below the results folder.
    tool, weights, weights_sha256, options
        From its sidecar.
    source_sha256
        Of the file that it was made from, as its sidecar tells.
    sha256
        Of the scan's files of that stage, as its batch table tells (:func:`analysis.batch.digest`).
    command
        That makes it again.
    remarks
        What the tool said when it made it, in its own words.
    """

    what: str
    path: str
    tool: str
    weights: str
    weights_sha256: str
    options: str
    source_sha256: str
    sha256: str
    command: str
    remarks: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class ScanPage:
    """Content of a scan's page.

    Attributes
    ----------
    scan_id, stage, included, by_person, reason
        As the gate's table has them.
    facts, acquisition
        What it is, and how it was acquired: name and value.
    volumes, volumes_by
        By structure, and what measured them; empty where nothing was measured.
    no_centiles, no_ranks
        Why no structure has a centile or a rank; empty where one has.
    measures, score
        Of quality.
    warnings
        What one should know before believing it.
    files
        Provenance.
    has_pictures
        Whether picture and viewer's data are there.
    """

    scan_id: str
    stage: str
    included: bool
    by_person: bool
    reason: str
    facts: list[tuple[str, str]]
    acquisition: list[tuple[str, str]]
    volumes: list[Volume] = field(default_factory=list)
    volumes_by: str = ""
    no_centiles: str = ""
    no_ranks: str = ""
    measures: list[Measure] = field(default_factory=list)
    score: float = math.nan
    warnings: list[str] = field(default_factory=list)
    files: list[MadeFile] = field(default_factory=list)
    has_pictures: bool = False


class Scans:
    """Pages of all scans that any stage behind the intake has seen.

    Parameters
    ----------
    cohort
        What the report knows of the cohort.
    """

    def __init__(self, cohort: Cohort) -> None:
        self.cohort = cohort
        self.results: Results = cohort.results
        self.limits = gate.read_limits()
        self._rows = {str(row["scan_id"]): row for row in cohort.every_scan.to_dict("records")}
        self._batches = {(str(row["stage"]), str(row["scan_id"])): row for row in cohort.batches.to_dict("records")}

    def __iter__(self) -> Iterator[ScanPage]:
        return (self.page(scan_id) for scan_id in sorted(self._rows))

    def page(self, scan_id: str) -> ScanPage:
        """Content of one page."""
        row = self._rows[scan_id]
        files = list(self._files(scan_id))
        raw = self.cohort.sidecar(self.results.raw(scan_id))
        sided, both, made_by = self._volumes(scan_id)
        is_ranked = made_by in ("", self._ranked_by)
        against = self._against_cohort(scan_id, sided, both, is_ranked=is_ranked)
        return ScanPage(
            scan_id=scan_id,
            stage=STAGES.get(str(row["stage"]), str(row["stage"])),
            included=row["included"] == "yes",
            by_person=row.get("decided_by") == "person",
            reason=without_paths(str(row["reason"])),
            facts=_facts(row),
            acquisition=_acquisition(raw),
            volumes=against,
            volumes_by=made_by,
            no_centiles=self._no_centiles(row) if all(math.isnan(one.centile) for one in against) else "",
            no_ranks=self._no_ranks(is_ranked) if all(math.isnan(one.rank_percent) for one in against) else "",
            measures=self._measures(row),
            score=float(row.get("score", math.nan)),
            warnings=self._warnings(row, raw, measured=len(both) > 0),
            files=files,
            has_pictures=scan_id in self._pictured
            and all(self.results.scan_page(scan_id, kind=kind).is_file() for kind in ("png", "js")),
        )

    def index(self, pages: Iterable[ScanPage]) -> dict[str, Any]:
        """What the page that lists all scans needs to know: columns, and a row per page."""
        columns = ("scan_id", "contrast", "plane", "spacing_mm", "age_years", "sex", "stage", "included", "by_person",
                   "score", "reason", "has_pictures")  # fmt: skip
        rows = []
        for page in pages:
            row = self._rows[page.scan_id]
            rows.append([
                page.scan_id, _text(row["contrast"]), _text(row["plane"]), _number(row["spacing_mm"], 2),
                _number(row["age_years"], 1), _text(row["sex"]), page.stage, page.included, page.by_person,
                _number(page.score, 2), page.reason, page.has_pictures,
            ])  # fmt: skip
        return {"columns": columns, "rows": rows}

    @cached_property
    def _pictured(self) -> set[str]:
        """Scans whose pictures were made, and of what they are now."""
        tables = sorted(self.results.batches(PICTURES).glob("batch-*.tsv"))
        return {row["scan_id"] for table in tables for row in batch.rows(table) if row["status"] == batch.DONE}

    @cached_property
    def _table(self) -> pd.DataFrame:
        """Volumes of the included scans in mm³, left and right apart, a row per scan."""
        if not self.results.volumes.is_file():
            return pd.DataFrame()
        return people.read_sided_volumes(self.results.volumes).set_index("scan_id").drop(columns=list(people.KEYS[:2]))

    @cached_property
    def _both(self) -> pd.DataFrame:
        """The same with both sides added up."""
        return people.add_sides(self._table)

    @cached_property
    def _makers(self) -> dict[str, str]:
        """What measured the volumes of the included scans: back end and version."""
        if not self.results.volumes.is_file():
            return {}
        table = tsv.read(self.results.volumes).drop_duplicates("scan_id")
        if not {"backend", "version"} <= set(table):
            return {}
        return dict(zip(table["scan_id"], table["backend"] + " " + table["version"], strict=True))

    @cached_property
    def _ranked_by(self) -> str:
        return next(iter(self._makers.values()), "")

    @cached_property
    def _sorted_shares(self) -> dict[str, npt.NDArray[np.float64]]:
        """Shares of the intracranial volume among the included scans, in order; of the ICV, the volumes."""
        if self._table.empty:
            return {}
        shares = {str(name): _share_percent(self._both, str(name)) for name in self._both}
        return {name: np.sort(values[np.isfinite(values)]) for name, values in shares.items()}

    @cached_property
    def _scores(self) -> pd.DataFrame:
        """Scan, structure, centile and note from the ageing model."""
        columns = ("scan_id", "structure", "centile", "note")
        analysis = self.cohort.ageing.get("scans")
        path = analysis.folder / "ageing_scores.tsv" if analysis else None
        if path is None or not path.is_file():
            return pd.DataFrame(columns=list(columns))
        return tsv.read(path, columns=columns, numbers=("centile",))

    @cached_property
    def _centiles(self) -> dict[tuple[str, str], float]:
        """By scan and structure."""
        keys = zip(self._scores["scan_id"], self._scores["structure"], strict=True)
        return dict(zip(keys, self._scores["centile"].to_numpy(dtype=float), strict=True))

    @cached_property
    def _unscored(self) -> dict[str, str]:
        """Why the ageing model gave a scan no centile, where it says so."""
        told = self._scores[self._scores["note"] != ""].drop_duplicates("scan_id")
        return dict(zip(told["scan_id"], told["note"], strict=True))

    def _no_centiles(self, row: Mapping[Any, Any]) -> str:
        analysis = self.cohort.ageing.get("scans")
        if analysis is None:
            return "the ageing analysis has not run"
        if not analysis.is_fitted:
            return f"no ageing curve was fitted ({analysis.why_not})"
        if row["included"] != "yes":
            return "the scan is not included"
        if row["age_years"] != row["age_years"]:
            return "the age is not known"
        return self._unscored.get(str(row["scan_id"]), "the ageing analysis has left this scan out")

    def _no_ranks(self, is_ranked: bool) -> str:
        if not is_ranked:
            return "most of the cohort was measured by another tool or version"
        known = number_of(len(self._table), "included scan")
        return f"the cohort has {known} with volumes, {LEAST_SCANS} are the least"

    @cached_property
    def _measured(self) -> dict[str, tuple[Sizes, Sizes]]:
        """Volumes of the included scans (mm³): sides apart, and both sides added up."""
        sided, both = self._table.to_dict("index"), self._both.to_dict("index")
        return {str(scan_id): (_known(sided[scan_id]), _known(both[scan_id])) for scan_id in sided}

    def _volumes(self, scan_id: str) -> tuple[Sizes, Sizes, str]:
        """Volumes of one scan (mm³), sides apart and added up, and what measured them; empty if nothing did."""
        if scan_id in self._measured:
            return *self._measured[scan_id], self._makers.get(scan_id, "")
        row = self._batches.get(("segment", scan_id))
        if row is None or row["status"] != batch.DONE:
            return {}, {}, ""
        try:
            found = volumes.read(self.results.root / str(row["path"]))
        except DataError:
            return {}, {}, ""  # the gate's reason says so
        (both,) = people.add_sides(pd.DataFrame([found.volumes_mm3])).to_dict("records")
        return found.volumes_mm3, _known(both), f"{EMBEDDED} {found.provenance.version}"

    def _against_cohort(self, scan_id: str, sided: Sizes, both: Sizes, *, is_ranked: bool) -> list[Volume]:
        icv_mm3, found = both.get(people.ICV, 0.0), []
        for name, size in both.items():
            share = 100 * size / icv_mm3 if icv_mm3 > 0 else math.nan
            found.append(
                Volume(
                    structure=name,
                    both_mm3=size,
                    left_mm3=sided.get(f"Left-{name}", math.nan),
                    right_mm3=sided.get(f"Right-{name}", math.nan),
                    share_percent=math.nan if name == people.ICV else share,
                    centile=self._centiles.get((scan_id, name), math.nan),
                    rank_percent=self._rank(name, size if name == people.ICV else share) if is_ranked else math.nan,
                )
            )
        return found

    def _rank(self, structure: str, share: float) -> float:
        """Per cent of the included scans with a smaller share; NaN where too few are known."""
        others = self._sorted_shares.get(structure, np.empty(0))
        if len(others) < LEAST_SCANS or math.isnan(share):
            return math.nan
        ends = [float(np.searchsorted(others, share, side)) for side in ("left", "right")]
        return 50 * sum(ends) / len(others)

    def _measures(self, row: Mapping[Any, Any]) -> list[Measure]:
        return [
            Measure(
                measures.NAMES.get(limit["measure"], limit["measure"]),
                float(row.get(limit["measure"], math.nan)),
                float(limit["typical"]),
                float(limit["limit"]),
            )
            for limit in self.limits.to_dict("records")
            if limit["measure"] in self.cohort.gate
        ]

    def _warnings(self, row: Mapping[Any, Any], raw: Mapping[str, Any], *, measured: bool) -> list[str]:
        told = []
        if row["included"] != "yes" and measured:
            told.append("Not included: its volumes are in no table and in no statistic.")
        told += [f"Mended by the intake: {text}" for text in raw.get(REPAIRS, [])]
        for column, what in (("missing_slices", "missing"), ("duplicate_slices", "there twice")):
            number = row.get(column, math.nan)
            if number == number and float(number) > 0:
                told.append(f"{number_of(int(number), 'slice')} {'is' if number == 1 else 'are'} {what}.")
        return told

    def _files(self, scan_id: str) -> Iterator[MadeFile]:
        """What a scan became, in the order it was made, as far as it came."""
        done = {
            stage: row for stage in STAGES if (row := self._batches.get((stage, scan_id))) is not None
            and row["status"] == batch.DONE
        }  # fmt: skip
        if "convert" in done:
            yield self._file("converted scan", self.results.raw(scan_id), "convert", done["convert"], "")
        if "synthesise" in done:
            image = self.results.root / str(done["synthesise"]["path"])
            made_by = description_of(image.name)
            weights = self.cohort.sidecar(image).get("WeightsName", "")
            what = "synthetic T1" if made_by == "synthsr" else "interpolated scan"
            yield self._file(what, image, "synthesise", done["synthesise"], weights)
            if "segment" in done:
                labelled = self.results.segmentation(scan_id, description=made_by)
                weights = self.cohort.sidecar(labelled).get("WeightsName", "")
                yield self._file("segmentation", labelled, "segment", done["segment"], weights)

    def _file(self, what: str, path: Path, stage: str, row: Mapping[Any, Any], weights: str) -> MadeFile:
        facts = self.cohort.sidecar(path)
        tool, _, sha256 = self.cohort.maker(path)
        before = {"convert": "select", "synthesise": "convert", "segment": "synthesise"}[stage]
        words = ["python", "-m", "analysis", stage, f"RESULTS/batches/{before}/{row['table']}", "--out", "RESULTS"]
        if stage == "convert":
            words += ["--private", "PRIVATE"]
        elif weights:
            words += ["--weights", weights]
        return MadeFile(
            what=what,
            path=path.relative_to(self.results.root).as_posix(),
            tool=tool,
            weights=str(weights),
            weights_sha256=sha256,
            options=", ".join(told for key, told in OPTIONS.items() if facts.get(key) is True),
            source_sha256=str(facts.get("SourceSHA256", "")),
            sha256=str(row["sha256"]),
            command=shlex.join(words),
            remarks=[str(text) for text in facts.get(WARNINGS, [])],
        )


def _known(sizes: Mapping[Any, Any]) -> Sizes:
    return {str(name): float(size) for name, size in sizes.items() if size == size}


def _share_percent(both: pd.DataFrame, name: str) -> npt.NDArray[np.float64]:
    """Share of the intracranial volume in per cent; of the ICV itself the volume."""
    values = both[name].to_numpy(dtype=float)
    if name == people.ICV:
        return values
    if people.ICV not in both:
        return np.full(len(values), math.nan)
    return np.asarray(100 * values / both[people.ICV].to_numpy(dtype=float))


def _facts(row: Mapping[Any, Any]) -> list[tuple[str, str]]:
    told = [
        ("Contrast", _text(row["contrast"])),
        ("Plane", _text(row["plane"])),
        ("Between slices", _with_unit(row["spacing_mm"], "mm")),
        ("In plane", _with_unit(row["in_plane_mm"], "mm")),
        ("Age", _with_unit(row["age_years"], "years")),
        ("Sex", {"F": "female", "M": "male"}.get(_text(row["sex"]), "")),
    ]
    return [(name, value) for name, value in told if value]


def _acquisition(raw: Mapping[str, Any]) -> list[tuple[str, str]]:
    given = [(name, raw[key], unit) for key, name, unit in ACQUISITION if key in raw]
    return [
        (name, _with_unit(value, unit) if isinstance(value, int | float) else str(value)) for name, value, unit in given
    ]


def _with_unit(value: Any, unit: str) -> str:
    return f"{float(value):.4g} {unit}".strip() if value == value and value not in ("", None) else ""


def _text(value: Any) -> str:
    return "" if value != value or value in (tsv.MISSING, None) else str(value)


def _number(value: Any, digits: int) -> float | None:
    return None if value != value or value is None else round(float(value), digits)
