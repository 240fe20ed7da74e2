"""Sections on two groups of people, and on several ways of measuring the same people."""

from __future__ import annotations

from typing import Any

from analysis.layout import Results
from analysis.statistics import figures

from ..text import NONE, millilitres, number, p_value, with_interval
from .parts import FEW_STRUCTURES, NOTE, Outputs, Section, Table
from .volumes import correlation_and_error

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
        remarks["method"] = " ".join(text for text in (remarks.get("method", ""), both["method"]) if text)
        remarks["sources"] = list(dict.fromkeys([*remarks.get("sources", []), *both["sources"]]))
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
