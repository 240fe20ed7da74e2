"""What the report says, as tables and counts: no picture and no markup here."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import batch, gate, tsv
from analysis.layout import Results, description_of, sidecar_of
from synthsr.weights.registry import registered

from . import sections
from .ageing import Analysis, Trend, trends
from .sections.parts import Section
from .text import counted

SERIES_COLUMNS = ("series_id", "participant_id", "session_id", "scan_id", "contrast", "plane", "decision", "reason")
SERIES_NUMBERS = ("in_plane_mm", "spacing_mm", "thickness_mm")
#: Numbers of series that a scan's page tells where the inventory has counted them.
SERIES_COUNTS = ("missing_slices", "duplicate_slices")
GATE_COLUMNS = ("scan_id", "participant_id", "session_id", "contrast", "stage", "included", "reason")
#: Planes as people call them.
PLANES = {"ax": "axial", "cor": "coronal", "sag": "sagittal"}
#: Batch stages as the page names them.
STAGES = {"convert": "converted", "synthesise": "synthesised", "segment": "segmented"}
#: Stands for a stage where a person turned scans away.
PERSON = "a person"
#: Station that a scan did not reach which was turned away at a stage.
MISSED = {"intake": "chosen", **STAGES, "quality gate": "included", PERSON: "included"}
#: Reasons of one station that its box has room for.
SHOWN_REASONS = 3


@dataclass(frozen=True)
class Reason:
    """Why scans were turned away: all reasons that differ only in their numbers or file names.

    Attributes
    ----------
    stage
        Where.
    text
        The first of them.
    count
        How many.
    """

    stage: str
    text: str
    count: int

    @property
    def told(self) -> str:
        """The text, and whether a person said so."""
        return f"{self.text} (decided by a person)" if self.stage == PERSON else self.text


@dataclass(frozen=True)
class Step:
    """One station of a scan's way.

    Attributes
    ----------
    name
        What was reached.
    count
        How many reached it.
    lost
        How many of the station before did not.
    reasons
        Why, the commonest first.
    """

    name: str
    count: int
    lost: int
    reasons: list[Reason]

    @property
    def shown(self) -> list[Reason]:
        """The commonest; all of them where a line about the others would take as much room as the last of them."""
        return self.reasons if len(self.reasons) <= SHOWN_REASONS + 1 else self.reasons[:SHOWN_REASONS]

    @property
    def n_others(self) -> int:
        """How many were turned away for reasons that are not shown."""
        return sum(reason.count for reason in self.reasons[len(self.shown) :])


@dataclass(frozen=True)
class Cohort:
    """All that the page shows.

    Attributes
    ----------
    results
        Paths.
    series, sessions, gate
        The tables of these names; empty where a stage has not run.
    batches
        Rows of all batch tables, with their ``stage`` and the ``table``'s name.
    ageing
        Ageing analyses by level, ``sessions`` and ``scans``.
    trends
        Changes with age held against the true ones.
    sections
        The other statistics that have run.
    """

    results: Results
    series: pd.DataFrame
    sessions: pd.DataFrame
    gate: pd.DataFrame
    batches: pd.DataFrame
    ageing: dict[str, Analysis]
    trends: list[Trend]
    sections: list[Section]
    _sidecars: dict[Path, dict[str, Any]] = field(default_factory=dict, repr=False)

    @cached_property
    def every_scan(self) -> pd.DataFrame:
        """All rows of the gate, with geometry, age and sex."""
        # The gate measures spacing again, on the file; the report tells the inventory's.
        scans = self.gate.drop(columns="spacing_mm", errors="ignore")
        counts = [name for name in SERIES_COUNTS if name in self.series]
        geometry = self.series.drop_duplicates("scan_id")[["scan_id", "plane", *SERIES_NUMBERS, *counts]]
        people = self.sessions.drop_duplicates(["participant_id", "session_id"])
        people = people[["participant_id", "session_id", "age_years", "sex"]]
        scans = scans.merge(geometry, on="scan_id", how="left").merge(
            people, on=["participant_id", "session_id"], how="left"
        )
        scans["plane"] = scans["plane"].replace(PLANES)
        return scans.fillna({"plane": tsv.MISSING, "sex": tsv.MISSING}).sort_values("scan_id", ignore_index=True)

    @cached_property
    def included(self) -> pd.DataFrame:
        """Scans that passed the gate, with geometry, age and sex."""
        return self.every_scan[self.every_scan["included"] == "yes"].reset_index(drop=True)

    @property
    def n_participants(self) -> int:
        """People with an included scan."""
        return int(self.included["participant_id"].nunique())

    @property
    def n_sessions(self) -> int:
        """Sessions with an included scan."""
        return len(self.included[["participant_id", "session_id"]].drop_duplicates())

    @cached_property
    def flow(self) -> list[Step]:
        """Stations from series found to scans included."""
        counts = {"series found": len(self.series), "chosen": int((self.series["decision"] == "include").sum())}
        for stage, name in STAGES.items():
            rows = self.batches[self.batches["stage"] == stage]
            counts[name] = int((rows["status"] == batch.DONE).sum())
        counts["included"] = len(self.included)
        names = list(counts)
        lost = [0, *(max(counts[a] - counts[b], 0) for a, b in pairwise(names))]
        return [
            Step(name, counts[name], gone, [reason for reason in self.reasons if MISSED[reason.stage] == name])
            for name, gone in zip(names, lost, strict=True)
        ]

    @cached_property
    def reasons(self) -> list[Reason]:
        """Why scans were turned away, each of them once, the commonest reason first within each stage."""
        rejected = self.batches[self.batches["status"] == batch.REJECTED]
        # A scan whose series the intake has come to exclude bears its reason in the batch table as well.
        rejected = rejected[rejected["scan_id"].isin(self.series["scan_id"])]
        by_person = self.gate.reindex(columns=["decided_by"])["decided_by"] == "person"
        turned_away = [
            *(("intake", reason) for reason in self.series.loc[self.series["decision"] != "include", "reason"]),
            *rejected[["stage", "reason"]].itertuples(index=False),
            *(
                ("quality gate", reason)
                for reason in self.gate.loc[self._judged & self._refused & ~by_person, "reason"]
            ),
            *((PERSON, reason) for reason in self.gate.loc[self._judged & self._refused & by_person, "reason"]),
        ]
        order = list(MISSED)
        found = counted((str(stage), str(reason)) for stage, reason in turned_away)
        return [Reason(*reason) for reason in sorted(found, key=lambda reason: order.index(reason[0]))]

    @property
    def _refused(self) -> pd.Series:
        return self.gate["included"] != "yes"

    @property
    def _judged(self) -> pd.Series:
        """Scans that the gate itself turned away; those of earlier stages are in their batch tables already."""
        rejected = self.batches.loc[self.batches["status"] == batch.REJECTED, "scan_id"]
        return ~self.gate["scan_id"].isin(set(rejected))

    @property
    def mix(self) -> pd.DataFrame:
        """Included scans by contrast and plane: number, spacing between slices and within them."""
        rows = [
            {
                "contrast": contrast,
                "plane": plane,
                "scans": len(scans),
                "people": scans["participant_id"].nunique(),
                "spacing": spread(scans["spacing_mm"]),
                "in_plane": spread(scans["in_plane_mm"]),
            }
            for (contrast, plane), scans in self.included.groupby(["contrast", "plane"], sort=True)
        ]
        return pd.DataFrame(rows, columns=["contrast", "plane", "scans", "people", "spacing", "in_plane"])

    def quality(self, limits: pd.DataFrame) -> pd.DataFrame:
        """Measures of quality over all segmented scans: a row per limit (:func:`analysis.gate.read_limits`)."""
        rows = []
        for limit in limits.to_dict("records"):
            name, typical, edge = limit["measure"], float(limit["typical"]), float(limit["limit"])
            if name not in self.gate or not (known := self.gate[name].dropna().astype(float)).size:
                continue
            low, middle, high = known.quantile([0.05, 0.5, 0.95])
            beyond = int(((known - typical) / (edge - typical) > 1).sum())
            rows.append((name, typical, edge, len(known), middle, low, high, beyond))
        columns = ["measure", "typical", "limit", "scans", "median", "percentile5", "percentile95", "beyond_limit"]
        return pd.DataFrame(rows, columns=columns)

    @property
    def demographics(self) -> pd.DataFrame:
        """People, sessions and scans by sex, with age at the first session."""
        rows = []
        for sex, told in (("F", "women"), ("M", "men"), (None, "sex unknown")):
            chosen = ~self.included["sex"].isin(["F", "M"]) if sex is None else self.included["sex"] == sex
            scans = self.included[chosen]
            if scans.empty:
                continue
            persons = scans.sort_values(["participant_id", "session_id"]).drop_duplicates("participant_id")
            age = persons["age_years"].astype(float)
            rows.append(
                {
                    "sex": told,
                    "people": len(persons),
                    "sessions": len(scans[["participant_id", "session_id"]].drop_duplicates()),
                    "scans": len(scans),
                    "age_median_years": age.median(),
                    "age_quartile1_years": age.quantile(0.25),
                    "age_quartile3_years": age.quantile(0.75),
                    "age_least_years": age.min(),
                    "age_greatest_years": age.max(),
                    "age_unknown": int(age.isna().sum()),
                }
            )
        columns = ["sex", "people", "sessions", "scans", "age_median_years", "age_quartile1_years",
                   "age_quartile3_years", "age_least_years", "age_greatest_years", "age_unknown"]  # fmt: skip
        return pd.DataFrame(rows, columns=columns)

    @property
    def people(self) -> pd.DataFrame:
        """One row per participant with an included scan: age at the first session, sex."""
        return self.included.sort_values(["participant_id", "session_id"]).drop_duplicates("participant_id")

    def has(self, anchor: str) -> bool:
        """Whether there is the section of that name."""
        return any(section.anchor == anchor for section in self.sections)

    @cached_property
    def at_1mm(self) -> dict[str, Path]:
        """Images at 1 mm, by scan: synthetic T1s, or the scans themselves interpolated."""
        made = self.batches[(self.batches["stage"] == "synthesise") & (self.batches["status"] == batch.DONE)]
        return {scan_id: self.results.root / path for scan_id, path in zip(made["scan_id"], made["path"], strict=True)}

    @property
    def is_synthetic(self) -> bool:
        """Whether SynthSR made the images at 1 mm, as it does but in an arm to compare it with."""
        return all(description_of(self.at_1mm[scan_id].name) == "synthsr" for scan_id in self.included["scan_id"])

    def images(self, scan_id: str) -> dict[str, Path]:
        """What an included scan became, in the order it was made."""
        image = self.at_1mm[scan_id]
        made_by = description_of(image.name)
        return {
            "converted scan": self.results.raw(scan_id),
            "synthetic T1" if made_by == "synthsr" else "interpolated scan": image,
            "segmentation": self.results.segmentation(scan_id, description=made_by),
        }

    @property
    def has_starter_weights(self) -> bool:
        """Whether anything was made by the weights shipped with the package."""
        shipped = {entry.sha256 for entry in registered().values() if entry.source == "shipped"}
        return any(row["sha256"] in shipped for row in self.provenance)

    @cached_property
    def provenance(self) -> list[dict[str, Any]]:
        """What made the included scans' files: a row per tool, version and weights, with the number of files."""
        counts: Counter[tuple[str, str, str, str]] = Counter()
        for scan_id in self.included["scan_id"]:
            for what, image in self.images(scan_id).items():
                counts[(what, *self.maker(image))] += 1
        names = ("what", "tool", "weights", "sha256")
        return [{**dict(zip(names, maker, strict=True)), "files": count} for maker, count in sorted(counts.items())]

    def sidecar(self, image: Path) -> dict[str, Any]:
        """What an image's JSON sidecar says; nothing if there is none."""
        if image not in self._sidecars:
            path = sidecar_of(image)
            facts = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
            self._sidecars[image] = facts if isinstance(facts, dict) else {}
        return self._sidecars[image]

    def maker(self, image: Path) -> tuple[str, str, str]:
        """Tool with version, weights and their SHA-256, from an image's sidecar."""
        facts = self.sidecar(image)
        if not facts:
            return "no sidecar", tsv.MISSING, tsv.MISSING
        tool: dict[str, Any] = facts.get("GeneratedBy") or {}
        name = tool.get("Name") or facts.get("ConversionSoftware") or tsv.MISSING
        version = tool.get("Version") or facts.get("ConversionSoftwareVersion") or ""
        return f"{name} {version}".strip(), str(facts.get("WeightsName", "–")), str(facts.get("WeightsSHA256", "–"))


def collect(results: Results) -> Cohort:
    """Read everything; a stage that has not run gives an empty table."""
    batches = [
        batch.read(path).assign(stage=stage, table=path.name)
        for stage in STAGES
        for path in sorted(results.batches(stage).glob("batch-*.tsv"))
    ]
    ageing = {level: Analysis.find(results.statistics(f"ageing-{level}")) for level in ("sessions", "scans")}
    return Cohort(
        results=results,
        series=_table(results.series, SERIES_COLUMNS, SERIES_NUMBERS, SERIES_COUNTS),
        sessions=_table(results.sessions, ("participant_id", "session_id", "sex"), ("age_years",)),
        gate=_table(
            results.gate, GATE_COLUMNS, ("icv_mm3",), tuple(dict.fromkeys(("score", *gate.read_limits()["measure"])))
        ),
        batches=pd.concat(batches) if batches else pd.DataFrame(columns=[*batch.COLUMNS, "stage", "table"]),
        ageing={level: analysis for level, analysis in ageing.items() if analysis},
        trends=trends(results),
        sections=sections.collect(results),
    )


def spread(values: pd.Series) -> str:
    """``5`` or ``3–7`` (least and greatest, rounded to 0.1), ``n/a`` where nothing is known."""
    known = values.dropna()
    if known.empty:
        return tsv.MISSING
    low, high = f"{known.min():.3g}", f"{known.max():.3g}"
    return low if low == high else f"{low}–{high}"


def _table(path: Path, text: tuple[str, ...], numbers: tuple[str, ...], if_there: tuple[str, ...] = ()) -> pd.DataFrame:
    """Read a table that must have texts and numbers, and may have more numbers; an empty one if it is not there."""
    if not path.is_file():
        empty = pd.DataFrame(columns=[*text, *numbers], dtype=str)
        return empty.astype(dict.fromkeys(numbers, float))
    return tsv.read(path, columns=(*text, *numbers), numbers=(*numbers, *if_there))
