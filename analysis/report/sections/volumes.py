"""Sections on volumes: against known ones, beside one-sided lesions, between sites."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from analysis.layout import Results
from analysis.statistics import agreement, cohort, figures

from ..text import NONE, millilitres, number, p_value, with_interval
from .parts import FEW_STRUCTURES, NOTE, Outputs, Section, Table

#: Sites side by side.
WIDEST = 6


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
    cells = {(row["structure"], row["group"]): correlation_and_error(row) for row in chosen.to_dict("records")}
    told = {agreement.EVERYTHING: "All"}
    sizes = {group: chosen.loc[chosen["group"] == group, "n_scans"].astype(int).max() for group in groups}
    names = figures.main_structures(list(dict.fromkeys(chosen["structure"])))
    return [
        Table(
            "Single scans by the distance of their slices: Pearson r · mean error in per cent of the true volume.",
            (found.folder / "agreement_scans.tsv", found.folder / "agreement_pearson.tsv"),
            ("Structure", *(f"{told.get(group, group)} (n = {sizes[group]})" for group in groups)),
            [[figures.readable(name), *(cells.get((name, group), NONE) for group in groups)] for name in names],
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
        f"{facts['n_lesions_one_sided']} of {facts['n_lesions_given']} lesions given lie to more than two thirds on "
        f"one side. There are volumes of {facts['n_participants']} people with such a lesion, {facts['n_left']} "
        "of them on the left.",
        found.pictures(
            (
                "asymmetry.png",
                "Volumes on the lesion's side and on the other against the lesion's volume, one panel per structure",
                "Volumes on the lesion's side (ipsilateral) and on the other (contralateral) against the lesion's "
                "volume, which has a logarithmic axis; lines: means. Each person has two points.",
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
