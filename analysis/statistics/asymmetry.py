"""Volumes on the side of a lesion against those on the other side, such as after a stroke.

Lesions with more than two thirds of their volume in one hemisphere count (Iglesias et al., Science Advances 2023, table
3): mean ipsi- and contralateral volume of every structure that has two sides, effect size, paired test, and
correlation of each side's volume with that of the lesion.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    "structure",
    "n",
    "n_left",
    "ipsilateral_mm3",
    "ipsilateral_sd_mm3",
    "contralateral_mm3",
    "contralateral_sd_mm3",
    "difference_mm3",
    "difference_percent",
    "effect_size",
    "paired_effect_size",
    "signed_rank_p",
    "signed_rank_fdr",
    "ipsilateral_r",
    "ipsilateral_r_low",
    "ipsilateral_r_high",
    "ipsilateral_r_p",
    "contralateral_r",
    "contralateral_r_low",
    "contralateral_r_high",
    "contralateral_r_p",
    "note",
)
#: A lesion counts if more than this share of its volume lies on one side.
LEAST_SHARE = 2 / 3
#: Fewer people give a documented NA.
MINIMUM = 3
SOURCES = ("Iglesias et al., Science Advances 2023, doi 10.1126/sciadv.add3607 (table 3)",)
METHOD = (
    "One value per participant: the median over scans, of the first session of the table of lesions. Lesions with more "
    "than two thirds of their volume on one side count. Differences are ipsilateral minus contralateral, so negative "
    "where the lesion's side is smaller. Effect size: difference of means over the root of the mean of both variances; "
    "paired effect size: mean over standard deviation of the differences (the paper does not state its form). Test: "
    "Wilcoxon signed rank, exact up to 50 people without ties; false discovery rate: Benjamini–Hochberg over "
    "structures. Correlation: Pearson's r of a side's volume with the whole lesion's, interval by Fisher's transform, "
    "p of its t test."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("volumes", type=Path, metavar="VOLUMES.tsv", help="participant_id, session_id, [scan_id], "
                        "structure (Left-…, Right-…), volume_mm3")  # fmt: skip
    parser.add_argument("--lesions", type=Path, required=True, metavar="LESIONS.tsv",
                        help="participant_id, [session_id], left_mm3, right_mm3: the lesion on each side")  # fmt: skip
    parser.add_argument("--links", type=Path, metavar="TABLE.tsv", help="participant_id, session_id, study_uid, "
                        "patient_id, for lesions known by one of the latter two")  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for table, JSON and figure")


def run(arguments: argparse.Namespace) -> None:
    """Compare and write ``asymmetry.tsv``, ``asymmetry.json`` and ``asymmetry.png``."""
    import pandas as pd

    from analysis import dictionary, tsv
    from synthsr import files

    from . import cohort, figures, univariate

    volumes = cohort.read_sided_volumes(arguments.volumes)
    lesions = read_lesions(arguments.lesions, arguments.links)
    chosen, notes = one_sided(lesions)
    table, left_out = with_volumes(chosen, volumes)
    names = sided_structures(volumes)
    if not names:
        notes.append("There are no volumes of structures with a left and a right side.")
    rows = [compare_structure(table, name) for name in names]
    rates = univariate.false_discovery_rates([row["signed_rank_p"] for row in rows])
    rows = [row | {"signed_rank_fdr": float(rate)} for row, rate in zip(rows, rates, strict=True)]
    out: Path = arguments.out
    tsv.write(pd.DataFrame(rows, columns=list(COLUMNS)), out / "asymmetry.tsv")
    figures.write(draw(table, rows), out / "asymmetry.png")
    notes += left_out
    files.write_json(
        out / "asymmetry.json",
        {
            "analysis": "asymmetry",
            "n_lesions_given": len(lesions),
            "n_lesions_one_sided": len(chosen),
            "n_participants": len(table),
            "n_left": int((table["side"] == "Left").sum()),
            "notes": notes,
            "method": METHOD,
            "sources": list(SOURCES),
            "columns": dictionary.of_folder("statistics/asymmetry"),
        },
    )
    print(f"asymmetry: {len(names)} structures, {len(table)} participants → {out}")
    for note in notes:
        print(f"  {note}")


def read_lesions(path: Path, links: Path | None = None) -> pd.DataFrame:
    """Read lesions' volumes on both sides (mm³) by participant [and session]; what is infinite or negative is NaN.

    Raises
    ------
    DataError
        If a column is missing, a volume is text, or somebody (or a session) has two rows.
    """
    import numpy as np

    from . import cohort

    sides = ["left_mm3", "right_mm3"]
    table = cohort.read_keyed(path, columns=sides, numbers=sides, links=links)
    table[sides] = table[sides].where(np.isfinite(table[sides]) & (table[sides] >= 0))
    return table


def one_sided(lesions: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Keep lesions with more than two thirds of their volume on one side.

    Returns
    -------
    Keys, ``lesion_mm3`` (both sides) and ``side`` (``Left`` or ``Right``), and a note for everything left out.
    """
    import numpy as np

    from . import cohort

    total = lesions["left_mm3"] + lesions["right_mm3"]
    largest = lesions[["left_mm3", "right_mm3"]].max(axis=1)
    decided = largest > LEAST_SHARE * total
    notes = [
        f"{cohort.counted(rows.sum())} {what} left out."
        for rows, what in (
            (total.isna(), "without the lesion's volume on both sides"),
            (total == 0, "without a lesion"),
            ((total > 0) & ~decided, "whose lesion has at most two thirds on one side"),
        )
        if rows.any()
    ]
    chosen = lesions.assign(
        lesion_mm3=total, side=np.where(lesions["left_mm3"] > lesions["right_mm3"], "Left", "Right")
    )
    return chosen[decided].drop(columns=["left_mm3", "right_mm3"]).reset_index(drop=True), notes


def with_volumes(lesions: pd.DataFrame, volumes: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Join lesions with volumes, one row per participant, and a note for everything left out."""
    from . import cohort

    keys = [key for key in cohort.KEYS[:2] if key in lesions]
    joined = lesions.merge(cohort.per_participant(volumes, keys).reset_index(), on=keys).sort_values(keys)
    notes = []
    if len(joined) < len(lesions):
        notes.append(f"{cohort.counted(len(lesions) - len(joined))} of one-sided lesions without volumes left out.")
    table = joined.drop_duplicates("participant_id").reset_index(drop=True)
    if len(table) < len(joined):
        notes.append(f"{cohort.counted(len(joined) - len(table))} of participants' later sessions left out.")
    return table, notes


def sided_structures(volumes: pd.DataFrame) -> list[str]:
    """Names, without side, of structures of which both sides have a column; anatomical order."""
    from . import cohort

    keys = [key for key in cohort.KEYS if key in volumes]
    both = cohort.add_sides(volumes.set_index(keys))
    return [name for name in cohort.structures(both) if {f"Left-{name}", f"Right-{name}"} <= set(volumes)]


def by_side(table: pd.DataFrame, structure: str) -> pd.DataFrame:
    """``ipsilateral`` and ``contralateral`` volumes (mm³), ``lesion_mm3`` and ``side`` of people with both sides."""
    used = table.dropna(subset=[f"Left-{structure}", f"Right-{structure}"])
    left, is_left = used[f"Left-{structure}"], used["side"] == "Left"
    right = used[f"Right-{structure}"]
    sides = {"ipsilateral": left.where(is_left, right), "contralateral": right.where(is_left, left)}
    return used[["lesion_mm3", "side"]].assign(**sides)


def compare_structure(table: pd.DataFrame, structure: str) -> dict[str, Any]:
    """Row of one structure; ``table`` has ``side``, ``lesion_mm3`` and the sided volumes (mm³) of each participant."""
    import numpy as np

    from . import univariate

    used = by_side(table, structure)
    row: dict[str, Any] = {
        **dict.fromkeys(COLUMNS, np.nan),
        "structure": structure,
        "n": len(used),
        "n_left": int((used["side"] == "Left").sum()),
        "note": "",
    }
    if len(used) < MINIMUM:
        return row | {"note": f"not compared: {len(used)} participants, {MINIMUM} are the least"}
    volumes = {side: used[side].to_numpy(dtype=float) for side in ("ipsilateral", "contralateral")}
    ipsilateral, contralateral = volumes.values()
    difference = ipsilateral - contralateral
    gap, usual = float(difference.mean()), float(contralateral.mean())
    spread = float(np.sqrt((ipsilateral.var(ddof=1) + contralateral.var(ddof=1)) / 2))
    paired_spread = float(difference.std(ddof=1))
    row |= {
        "difference_mm3": gap,
        "difference_percent": 100 * gap / usual if usual > 0 else np.nan,
        "effect_size": gap / spread if spread > 0 else np.nan,
        "paired_effect_size": gap / paired_spread if paired_spread > 0 else np.nan,
        "signed_rank_p": univariate.signed_rank_p(difference),
    }
    notes = []
    if not paired_spread > 0:
        notes.append("no paired effect size: all differences are the same")
    for side, volume in volumes.items():
        r, low, high, p_value = univariate.pearson(used["lesion_mm3"].to_numpy(dtype=float), volume)
        row |= {f"{side}_mm3": float(volume.mean()), f"{side}_sd_mm3": float(volume.std(ddof=1)),
                f"{side}_r": r, f"{side}_r_low": low, f"{side}_r_high": high, f"{side}_r_p": p_value}  # fmt: skip
        if np.isnan(r):
            notes.append(f"no {side} correlation: all volumes or all lesions are the same")
    return row | {"note": "; ".join(notes)}


def draw(table: pd.DataFrame, rows: list[dict[str, Any]]) -> Any:
    """Small multiples of the main structures: both sides' volumes against the lesion's."""
    from . import figures

    compared = {row["structure"]: row for row in rows if row["n"] >= MINIMUM}
    if not compared:
        return figures.saying(
            "No asymmetry: fewer than three people with a one-sided lesion and volumes of both sides."
        )
    names = [name for name in figures.main_structures(list(compared)) if name in compared]
    figure, axes = figures.panels(len(names))
    for axis, name in zip(axes, names, strict=True):
        used, row = by_side(table, name), compared[name]
        for side, colour in (("contralateral", figures.BLUE), ("ipsilateral", figures.VERMILION)):
            axis.scatter(used["lesion_mm3"] / 1000, used[side] / 1000, s=9, color=colour, alpha=0.5, linewidths=0,
                         label=side)  # fmt: skip
            axis.axhline(row[f"{side}_mm3"] / 1000, color=colour, lw=1.2)
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter("{x:g}")
        axis.set_title(f"{figures.readable(name)}, r = {row['ipsilateral_r']:.2f}", fontsize=9.5)
    figure.supxlabel("volume of the lesion (ml), with r of the ipsilateral side", fontsize=9)
    figure.supylabel("volume (ml), line: mean", fontsize=9)
    handles = axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=2, frameon=False, fontsize=8.5)
    return figure
