"""Statistics as sections of the page: figures, a small table, method, sources, limits; what has not run is left out.

The figures are those that the statistics drew; the tables are the part of theirs that a page can hold, with a link to
the whole. No markup here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import tsv
from analysis.layout import Results
from analysis.statistics import agreement, cohort, figures

from .text import NONE, millilitres, number, p_value, with_interval

#: Where every structure would be too many rows (several arms, several sites): these.
FEW_STRUCTURES = ("Hippocampus", "Amygdala", "Thalamus", "Lateral-Ventricle", "Cerebral-Cortex")
#: Rows of lists of maxima, and sites side by side.
LONGEST, WIDEST = 10, 6
#: Notes of a table's rows are in this column.
NOTE = "Note"


@dataclass(frozen=True)
class Figure:
    """A picture that a statistic drew.

    Attributes
    ----------
    path
        PNG.
    alt
        What those who do not see it miss.
    caption
        What is drawn.
    """

    path: Path
    alt: str
    caption: str


@dataclass(frozen=True)
class Table:
    """Rows of text.

    Attributes
    ----------
    caption
        What they tell.
    sources
        Whole tables that they are taken from.
    head
        Names of the columns; the first column heads its row.
    rows
        A text per column.
    n_texts
        How many columns, from the left, hold words and not numbers.
    """

    caption: str
    sources: tuple[Path, ...]
    head: tuple[str, ...]
    rows: list[list[str]]
    n_texts: int = 1

    def without_empty_notes(self) -> Table:
        """The same without a last column :data:`NOTE` in which nothing stands."""
        if self.head[-1] != NOTE or any(row[-1] for row in self.rows):
            return self
        return replace(self, head=self.head[:-1], rows=[row[:-1] for row in self.rows])


@dataclass(frozen=True)
class Section:
    """A statistic on the page.

    Attributes
    ----------
    anchor, title, lead
        Name in addresses, heading, what was asked of whom.
    figures, tables
        What was found.
    notes
        What was left out.
    method
        How it was computed.
    sources
        Publications.
    limits
        What may not be concluded.
    """

    anchor: str
    title: str
    lead: str
    figures: list[Figure]
    tables: list[Table]
    notes: list[str] = field(default_factory=list)
    method: str = ""
    sources: list[str] = field(default_factory=list)
    limits: str = ""


@dataclass(frozen=True)
class Outputs:
    """The folder of one analysis.

    Attributes
    ----------
    folder
        Where.
    facts
        Its JSON file.
    """

    folder: Path
    facts: dict[str, Any]

    @classmethod
    def find(cls, folder: Path, name: str, table: str) -> Outputs | None:
        """The folder, if ``name.json`` and the table are there."""
        facts = folder / f"{name}.json"
        if not (facts.is_file() and (folder / table).is_file()):
            return None
        return cls(folder, json.loads(facts.read_text(encoding="utf-8")))

    def rows(self, table: str, structures: Sequence[str] | None = None) -> list[dict[str, str]]:
        """Rows of a table as text; of some structures, in the page's order, if they are named."""
        rows = [{str(key): str(value) for key, value in row.items()} for row in self.frame(table).to_dict("records")]
        if structures is None:
            return rows
        return [row for name in structures for row in rows if row["structure"] == name]

    def main(self, table: str) -> list[dict[str, str]]:
        """Rows of the structures that are worth a row."""
        present = list(dict.fromkeys(self.frame(table)["structure"]))
        return self.rows(table, figures.main_structures(present))

    def frame(self, table: str) -> pd.DataFrame:
        """A table, every column text; empty if it is not there."""
        path = self.folder / table
        return tsv.read(path) if path.is_file() else pd.DataFrame()

    def pictures(self, *given: tuple[str, str, str]) -> list[Figure]:
        """Figures that are there, of file name, description and caption."""
        return [
            Figure(self.folder / name, f"{alt}; the numbers are in the tables below.", caption)
            for name, alt, caption in given
            if (self.folder / name).is_file()
        ]

    def remarks(self) -> dict[str, Any]:
        """Notes, method and sources as a section takes them."""
        return {
            "notes": list(self.facts.get("notes", [])),
            "method": str(self.facts.get("method", "")),
            "sources": list(self.facts.get("sources", [])),
        }


def collect(results: Results) -> list[Section]:
    """Sections of all statistics that have run, in the order of the page."""
    builders: tuple[Callable[[Results], Section | None], ...] = (
        agreement_section,
        groups_section,
        arms_section,
        asymmetry_section,
        landmarks_section,
        lesion_map_section,
        tbm_section,
        thickness_section,
        harmonise_section,
    )
    found = [section for build in builders if (section := build(results)) is not None]
    return [replace(one, tables=[table.without_empty_notes() for table in one.tables]) for one in found]


def agreement_section(results: Results) -> Section | None:
    """Measured against true volumes, per structure and by slice distance."""
    found = Outputs.find(results.statistics("agreement"), "agreement", "agreement.tsv")
    if found is None:
        return None
    tables = [
        Table(
            "Agreement per structure, both sides together. Bias is measured minus true; limits hold 95 % of the "
            "differences.",
            (found.folder / "agreement.tsv",),
            (
                "Structure",
                "n",
                "Pearson r (95 % interval)",
                "Spearman",
                "Concordance",
                "Bias (ml)",
                "Bias (%)",
                "Limits (ml)",
                "Mean error (%)",
                NOTE,
            ),
            [
                [
                    figures.readable(row["structure"]),
                    row["n_scans"],
                    with_interval(*(number(row[name]) for name in ("pearson_r", "pearson_low", "pearson_high"))),
                    number(row["spearman_r"]),
                    number(row["concordance"]),
                    millilitres(row["bias_mm3"]),
                    number(row["bias_percent"], 1),
                    f"{millilitres(row['limit_low_mm3'])} to {millilitres(row['limit_high_mm3'])}",
                    number(row["mean_absolute_error_percent"], 1),
                    row["note"],
                ]
                for row in found.rows("agreement.tsv")
            ],
        ),
        *by_spacing(found),
    ]
    return Section(
        "agreement",
        "Measured against true volumes",
        f"{found.facts['n_rows']} sessions of {found.facts['n_participants']} people whose true volumes are known.",
        found.pictures(
            (
                "agreement.png",
                "Measured against true volume, one panel per structure, with the line of identity",
                "Each point is one session; dashed: measured equals true.",
            ),
            (
                "agreement_differences.png",
                "Measured minus true against true volume, one panel per structure, with bias and limits of agreement",
                "Differences after Bland and Altman: bias and limits of agreement, each with its 95 % interval.",
            ),
        ),
        tables,
        **found.remarks(),
        limits="Simulated patients are alike in what the simulation leaves out: no real cohort agrees as well because "
        "this one does. A correlation is high where people differ much, and says nothing of bias.",
    )


def correlation_and_error(row: Mapping[Any, str]) -> str:
    """``0.93 · 4.5 %``: Pearson's r and mean absolute error of a row of agreement."""
    return f"{number(row['pearson_r'])} · {number(row['mean_absolute_error_percent'], 1)} %"


def by_spacing(found: Outputs) -> list[Table]:
    """Pearson's r and mean error of single scans by the distance of their slices."""
    table = found.frame("agreement_scans.tsv")
    if table.empty:
        return []
    chosen = table[table["group_by"].isin([agreement.EVERYTHING, "spacing"])]
    groups = list(dict.fromkeys(chosen["group"]))
    cells = {
        (
            row["structure"],
            row["group"],
        ): correlation_and_error(row)
        for row in chosen.to_dict("records")
    }
    told = {agreement.EVERYTHING: "All"}
    sizes = {group: chosen.loc[chosen["group"] == group, "n_scans"].astype(int).max() for group in groups}
    names = figures.main_structures(list(dict.fromkeys(chosen["structure"])))
    return [
        Table(
            "Single scans by the distance of their slices: Pearson r · mean error in per cent of the true volume.",
            (
                found.folder / "agreement_scans.tsv",
                found.folder / "agreement_pearson.tsv",
                found.folder / "agreement_slopes.tsv",
            ),
            ("Structure", *(f"{told.get(group, group)} (n = {sizes[group]})" for group in groups)),
            [[figures.readable(name), *(cells.get((name, group), NONE) for group in groups)] for name in names],
        )
    ]


GROUP_HEAD = ("Difference (ml)", "Rank sum p", "AUROC", "Effect size")
GROUP_LIMITS = (
    "Groups differ; that does not tell to which of them a person belongs. An AUROC is of these people, measured by "
    "these networks: not of a test for a disease. Effect sizes are corrected for sex, age and ICV; AUROCs and medians "
    "are not."
)


def group_cells(row: dict[str, str]) -> list[str]:
    """Cells of :data:`GROUP_HEAD`."""
    return [
        with_interval(
            *(millilitres(row[name]) for name in ("difference_mm3", "difference_low_mm3", "difference_high_mm3"))
        ),
        p_value(row["rank_sum_p"]),
        with_interval(*(number(row[name]) for name in ("auroc", "auroc_low", "auroc_high"))),
        with_interval(*(number(row[name]) for name in ("effect_size", "effect_low", "effect_high"))),
    ]


def groups_section(results: Results) -> Section | None:
    """Two groups of people."""
    found = Outputs.find(results.statistics("groups"), "groups", "groups.tsv")
    if found is None:
        return None
    first, other = found.facts["groups"]
    return Section(
        "groups",
        f"{first} against {other}",
        f"Volumes of {found.facts['n_participants']} people, one value each: {first} and {other}.",
        found.pictures(
            (
                "groups.png",
                f"Volumes of {first} and {other}, one panel per structure",
                f"Each point is one person; boxes are quartiles of {first} and {other}.",
            )
        ),
        [
            Table(
                f"{first} / {other}, both sides together; differences are {first} minus {other}, in brackets 95 % "
                "intervals.",
                (found.folder / "groups.tsv",),
                ("Structure", "People", "Medians (ml)", *GROUP_HEAD, NOTE),
                [
                    [
                        figures.readable(row["structure"]),
                        f"{row['n']} / {row['other_n']}",
                        f"{millilitres(row['median_mm3'])} / {millilitres(row['other_median_mm3'])}",
                        *group_cells(row),
                        row["note"],
                    ]
                    for row in found.main("groups.tsv")
                ],
            )
        ],
        **found.remarks(),
        limits=GROUP_LIMITS,
    )


def arms_section(results: Results) -> Section | None:
    """Several ways of measuring the same people: each against the first, and groups by each."""
    held = {
        folder.name.removeprefix("arm-"): outputs
        for folder in sorted(results.statistics("arms").parent.glob("arm-*"))
        if (outputs := Outputs.find(folder, "agreement", "agreement.tsv")) is not None
    }
    compared = Outputs.find(results.statistics("arms"), "groups", "groups.tsv")
    if not held and compared is None:
        return None
    if compared is not None:
        held = {name: held[name] for name in compared.facts["methods"] if name in held}
    tables = [against_reference(held)] if held else []
    remarks: dict[str, Any] = next(iter(held.values())).remarks() | {"notes": []} if held else {}
    if compared is not None:
        tables += arm_groups(compared)
        both = compared.remarks()
        for name in ("method", "sources"):
            remarks[name] = both[name] if not held else remarks[name] + both[name]
    arms_of: dict[str, list[str]] = {}
    for name, outputs in held.items():
        for note in outputs.facts.get("notes", []):
            arms_of.setdefault(note, []).append(name)
    notes = [f"{', '.join(names)}: {note}" for note, names in arms_of.items()]
    return Section(
        "arms",
        "Several ways of measuring the same people",
        "Each arm is the median over a session's scans of one kind.",
        []
        if compared is None
        else compared.pictures(
            (
                "groups.png",
                "Volumes of both groups, side by side for every arm, one panel per structure",
                "Each point is one person; only people whom all arms have measured.",
            )
        ),
        tables,
        **(remarks | {"notes": notes if compared is None else notes + compared.remarks()["notes"]}),
        limits="Arms share the segmenter: what it gets wrong in all of them does not show here.",
    )


def against_reference(held: dict[str, Outputs]) -> Table:
    """Correlation and error of every arm against the first."""
    cells = {
        (name, row["structure"]): correlation_and_error(row)
        for name, outputs in held.items()
        for row in outputs.rows("agreement.tsv", FEW_STRUCTURES)
    }
    names = [name for name in FEW_STRUCTURES if any((arm, name) in cells for arm in held)]
    return Table(
        "Every arm against the first, which stands for true: Pearson r · mean error in per cent.",
        tuple(outputs.folder / "agreement.tsv" for outputs in held.values()),
        ("Arm", *map(figures.readable, names)),
        [[arm, *(cells.get((arm, name), NONE) for name in names)] for arm in held],
    )


def arm_groups(compared: Outputs) -> list[Table]:
    """Both groups by every arm, and AUROCs against that of the first arm."""
    first, other = compared.facts["groups"]
    reference = compared.facts["methods"][0]
    pairs = {
        (row["structure"], row["other_method"]): row
        for row in compared.rows("groups_methods.tsv", FEW_STRUCTURES)
        if row["method"] == reference
    }
    rows = []
    for row in compared.rows("groups.tsv", FEW_STRUCTURES):
        pair = pairs.get((row["structure"], row["method"]))
        against = [NONE, NONE]
        if pair is not None:
            names = ("auroc_difference", "difference_low", "difference_high")
            against = [with_interval(*(number(pair[name]) for name in names)), p_value(pair["p_value"])]
        rows.append([figures.readable(row["structure"]), row["method"], *group_cells(row), *against])
    return [
        Table(
            f"{first} minus {other} by every arm, on the people whom all arms have measured, and how far the arm's "
            f"AUROC lies under that of {reference}.",
            (compared.folder / "groups.tsv", compared.folder / "groups_methods.tsv"),
            ("Structure", "Arm", *GROUP_HEAD, "AUROC under", "p"),
            rows,
            n_texts=2,
        )
    ]


def asymmetry_section(results: Results) -> Section | None:
    """Volumes beside one-sided lesions."""
    found = Outputs.find(results.statistics("asymmetry"), "asymmetry", "asymmetry.tsv")
    if found is None:
        return None
    facts = found.facts
    return Section(
        "asymmetry",
        "Beside one-sided lesions",
        f"{facts['n_participants']} people whose lesion lies to more than two thirds on one side "
        f"({facts['n_lesions_one_sided']} of {facts['n_lesions_given']} lesions given, {facts['n_left']} on the left).",
        found.pictures(
            (
                "asymmetry.png",
                "Volumes on the lesion's side and on the other, one panel per structure",
                "Each person has two points: the side of the lesion, and the other.",
            )
        ),
        [
            Table(
                "Mean volumes on the lesion's side and on the other, and how both go with the lesion's volume.",
                (found.folder / "asymmetry.tsv",),
                (
                    "Structure",
                    "n",
                    "Same side (ml)",
                    "Other side (ml)",
                    "Difference (%)",
                    "Effect size",
                    "p (FDR)",
                    "r with lesion, same side",
                    "Other side",
                    NOTE,
                ),
                [
                    [
                        figures.readable(row["structure"]),
                        row["n"],
                        millilitres(row["ipsilateral_mm3"]),
                        millilitres(row["contralateral_mm3"]),
                        number(row["difference_percent"], 1),
                        number(row["effect_size"]),
                        p_value(row["signed_rank_fdr"]),
                        *(
                            f"{number(row[f'{side}_r'])} (p {p_value(row[f'{side}_r_p'])})"
                            for side in ("ipsilateral", "contralateral")
                        ),
                        row["note"],
                    ]
                    for row in found.rows("asymmetry.tsv")
                ],
            )
        ],
        **found.remarks(),
        limits="Within and beside large lesions SynthSR may smooth or invent anatomy, so that a smaller volume there "
        "need not be atrophy.",
    )


def landmarks_section(results: Results) -> Section | None:
    """Registration errors, directly and through SynthSR."""
    found = Outputs.find(results.statistics("landmarks"), "landmarks", "landmarks.tsv")
    if found is None:
        return None
    by = ("contrast", "spacing_mm")
    errors = {(*(row[name] for name in by), row["method"]): row for row in found.rows("landmarks.tsv")}

    def mean(row: dict[str, str], method: str) -> str:
        error = errors.get((row["contrast"], row["spacing_mm"], method))
        return NONE if error is None else f"{number(error['mean_mm'])} ± {number(error['sd_mm'])}"

    return Section(
        "landmarks",
        "Registration: errors at landmarks",
        "The same pairs registered as they are and through their synthetic T1s.",
        found.pictures(
            (
                "landmarks.png",
                "Error at landmarks by contrast and spacing of control points, directly and through SynthSR",
                "Mean error with its 95 % interval, and standard deviation, directly and through SynthSR.",
            )
        ),
        [
            Table(
                "Mean ± standard deviation of the error (mm); differences are SynthSR minus direct, negative where "
                "SynthSR errs less.",
                (found.folder / "landmarks.tsv", found.folder / "landmarks_tests.tsv"),
                (
                    "Contrast",
                    "Control points (mm)",
                    "Pairs / landmarks",
                    "Direct",
                    "SynthSR",
                    "Difference (mm)",
                    "p, medians",
                    "p, errors",
                    NOTE,
                ),
                [
                    [
                        row["contrast"],
                        row["spacing_mm"],
                        f"{row['n_pairs']} / {row['n_landmarks']}",
                        mean(row, "direct"),
                        mean(row, "synthsr"),
                        with_interval(*(number(row[f"difference{end}_mm"]) for end in ("", "_low", "_high"))),
                        p_value(row["medians_p"]),
                        p_value(row["errors_p"]),
                        row["note"],
                    ]
                    for row in found.rows("landmarks_tests.tsv")
                ],
            )
        ],
        **found.remarks(),
        limits="The registration was made outside this pipeline; its settings are not known here.",
    )


def lesion_map_section(results: Results) -> Section | None:
    """Where lesions lie, and where a score goes with them."""
    found = Outputs.find(results.statistics("lesion-map"), "lesion_map", "lesion_maxima.tsv")
    if found is None:
        return None
    score = found.facts.get("settings", {}).get("score")
    maxima = found.rows("lesion_maxima.tsv")
    tables = [
        Table(
            "Local maxima of the maps, the largest of each; in the masks' space, right, anterior and superior positive."
            + (f" {len(maxima) - LONGEST} more in the whole table." if len(maxima) > LONGEST else ""),
            (found.folder / "lesion_maxima.tsv", found.folder / "lesions.tsv", found.folder / "lesion_regions.tsv"),
            ("Map", "Region", "Value", "People", "x, y, z (mm)"),
            [
                [
                    row["map"].replace("_", " "),
                    row["region"] or NONE,
                    number(row["value"], 0 if row["map"].endswith("count") else 2),
                    row["n_participants"],
                    ", ".join(number(row[f"{axis}_mm"], 0) for axis in "xyz"),
                ]
                for row in maxima[:LONGEST]
            ],
            n_texts=2,
        )
    ]
    return Section(
        "lesion-map",
        "Where lesions lie",
        f"{found.facts['n_masks']} masks in one space"
        + (f"; {score} is known of {found.facts['n_with_score']}." if score else "."),
        found.pictures(
            (
                "lesion_map.png",
                "Axial slices of the lesions' probability"
                + (f", of where {score} goes with a lesion, and {score} against lesion volume" if score else ""),
                "Probability of a lesion per voxel"
                + (f", statistic of {score} per voxel, and {score} against the lesion's volume." if score else "."),
            )
        ),
        tables,
        **found.remarks(),
        limits="A map is of these people's lesions: voxels that few have lesioned cannot be tested, lesions follow "
        "vessels, and where one region goes with a score its neighbours of the same territory do too.",
    )


def tbm_section(results: Results) -> Section | None:
    """Voxel-wise comparison of two groups."""
    found = Outputs.find(results.statistics("tbm"), "tbm", "tbm_maxima.tsv")
    if found is None:
        return None
    (first, n_first), (other, n_other) = found.facts["groups"].items()
    counts = {name: found.facts[f"n_voxels_{name}_larger_significant_fdr"] for name in (first, other)}
    maxima = found.rows("tbm_maxima.tsv")
    larger_in = {"first larger": first, "second larger": other}
    shown = [row for way in larger_in for row in [one for one in maxima if one["direction"] == way][: LONGEST // 2]]
    return Section(
        "tbm",
        f"Tensor-based morphometry: {first} against {other}",
        f"{n_first} {first} and {n_other} {other}; of {found.facts['n_voxels_tested']} voxels tested, {counts[first]} "
        f"are larger in {first} and {counts[other]} in {other} (false discovery rate 0.05).",
        found.pictures(
            (
                "tbm.png",
                f"Axial slices of the statistic of {first} against {other}",
                f"z of the rank sum per voxel (positive where {first} is larger), the significant of it, and the "
                "difference of medians.",
            )
        ),
        [
            Table(
                "The largest local maxima of z either way; right, anterior and superior positive.",
                (found.folder / "tbm_maxima.tsv",),
                ("Larger in", "z", "p (FDR)", "Difference of medians", "AUROC", "x, y, z (mm)"),
                [
                    [
                        larger_in[row["direction"]],
                        number(row["z"]),
                        p_value(row["p_fdr"]),
                        number(row["median_difference"], 3),
                        number(row["auroc"]),
                        ", ".join(number(row[f"{axis}_mm"], 0) for axis in "xyz"),
                    ]
                    for row in shown
                ],
            )
        ],
        **found.remarks(),
        limits="The Jacobians were made outside this pipeline. They are as sharp as that registration's "
        "regularisation, and an effect in one voxel stands for its neighbourhood.",
    )


def thickness_section(results: Results) -> Section | None:
    """Cortical thickness per vertex."""
    found = Outputs.find(results.statistics("thickness"), "thickness", "thickness_effects.tsv")
    if found is None:
        return None
    corrected = ", ".join(found.facts["corrected_for"]) or "nothing"
    return Section(
        "thickness",
        "Cortical thickness",
        f"{found.facts['contrast']}: {found.facts['n_participants']} people, corrected for {corrected}.",
        found.pictures(
            (
                "thickness.png",
                "Mean thickness against the contrast, and the distribution of t",
                "Everybody's mean thickness, and the distribution of t over vertices with that of no effect.",
            )
        ),
        [
            Table(
                "Linear model at every vertex, and of the mean over vertices.",
                (found.folder / "thickness_effects.tsv", found.folder / "thickness_means.tsv"),
                (
                    "Hemisphere",
                    "People",
                    "Vertices tested",
                    "Significant (FDR 0.05)",
                    "Largest t",
                    "Smallest t",
                    "Effect on the mean (mm)",
                    "p of the mean",
                ),
                [
                    [
                        {"lh": "Left", "rh": "Right"}.get(row["hemisphere"], row["hemisphere"]),
                        row["n_participants"],
                        number(row["n_vertices_tested"], 0),
                        number(row["n_vertices_significant_fdr"], 0),
                        number(row["largest_t"]),
                        number(row["smallest_t"]),
                        number(row["mean_effect_mm"], 3),
                        p_value(row["mean_p"]),
                    ]
                    for row in found.rows("thickness_effects.tsv")
                ],
            )
        ],
        **found.remarks(),
        limits="The overlays are FreeSurfer's, made outside this pipeline. From synthetic T1s thickness is reliable at "
        "3 mm T1s, not from 5 mm FLAIR (Iglesias et al., NeuroImage 2021).",
    )


def harmonise_section(results: Results) -> Section | None:
    """Differences between sites, taken out."""
    folders = [results.statistics(f"harmonise-{level}") for level in ("sessions", "scans")]
    found = next((one for one in (Outputs.find(f, "harmonise", "harmonise_sites.tsv") for f in folders) if one), None)
    if found is None:
        return None
    sizes = found.facts["rows_per_site"]
    sites = list(sizes)[:WIDEST]
    rows = {(row["structure"], row["site"]): row for row in found.rows("harmonise_sites.tsv")}
    there = dict.fromkeys(name for name, _ in rows)
    names = [name for base in (*FEW_STRUCTURES, cohort.ICV) for name in there if cohort.unsided(name) == base]

    def cell(structure: str, site: str) -> str:
        row = rows.get((structure, site))
        return NONE if row is None else f"{millilitres(row['shift_mm3'])} · {number(row['scale'])}"

    more = f" The first {WIDEST} of {len(sizes)} sites." if len(sizes) > WIDEST else ""
    return Section(
        "harmonise",
        "Differences between sites, taken out",
        f"{found.facts['n_rows']} rows of {found.facts['n_participants']} people at {len(sizes)} sites (column "
        f"{found.facts['site']}); kept: {', '.join(found.facts['kept']) or 'nothing'}. The other statistics read "
        "harmonised volumes, but for the comparison with a truth and among arms.",
        found.pictures(
            (
                "harmonise.png",
                "Volumes by site before and after",
                "Each point is a structure: its mean at a site, in SDs of all rows.",
            )
        ),
        [
            Table(
                f"What a site added (ml) and by what it multiplied the spread.{more}",
                (found.folder / "harmonise_sites.tsv",),
                ("Structure", *(f"{site} (n = {sizes[site]})" for site in sites)),
                [[figures.readable(name), *(cell(name, site) for site in sites)] for name in names],
            )
        ],
        **found.remarks(),
        limits="What differs between sites for another reason, such as who is sent there, is taken out as well unless "
        "it is kept.",
    )
