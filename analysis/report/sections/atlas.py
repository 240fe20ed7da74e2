"""Section on the study's atlas: its pictures, the rounds of its construction, and whose registration stands out."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from analysis.layout import Results

from ..text import NONE, number
from .parts import Figure, Outputs, Section, Table

#: Measures of the members' registration, by their column: words and decimals.
MEASURES = {
    "lncc": ("Local correlation with the template", 3),
    "dice_mean": ("Mean Dice with the atlas's labels", 3),
    "jacobian_p1": ("Jacobian determinant, 1st percentile", 2),
    "jacobian_p99": ("Jacobian determinant, 99th percentile", 2),
    "folding_fraction": ("Part of voxels where space folds", 4),
}
METHOD = (
    "Every member is registered with the mean of the members' images, and the mean of their transforms is taken "
    "out, so that the atlas has the members' mean position, size and shape whoever they are; this is repeated until "
    "the template changes no more: rigid, then affine, then non-linear. Medians are voxel-wise, over scans that "
    "were each divided by their 95th percentile in the brain. A member is an outlier where a measure lies on its "
    "bad side more than 5 scaled median absolute deviations from the median of all, or space folds in more than 1 % "
    "of the brain."
)
SOURCES = [
    "Joshi et al., NeuroImage 2004, doi 10.1016/j.neuroimage.2004.07.068 (unbiased atlas)",
    "Iglesias et al., Science Advances 2023, doi 10.1126/sciadv.add3607 (figures 5 and 6: median templates, lesions)",
    "Modat et al., Journal of Medical Imaging 2014, doi 10.1117/1.JMI.1.2.024003 (block matching)",
]
LIMITS = (
    "The atlas is of these people. Its T1 template is of synthetic images, which a network has made up; the medians "
    "of other contrasts are of the scans themselves, and of different people where not everybody has each. The mean "
    "of many heads is blurred where they differ, as in the folds of the cortex and about lesions."
)


def atlas_section(results: Results) -> Section | None:
    """The study's atlas, or as much of it as is there."""
    found = Outputs.find(results.atlas, "atlas", "rounds.tsv")
    if found is None:
        return None
    members, outliers = found.facts.get("members"), found.facts.get("outliers")
    tables = [_rounds(found), *_quality(found), *_images(found.folder)]
    picture = found.folder / "atlas.png"
    return Section(
        "atlas",
        "Atlas of the study's people",
        f"{members} members; the registration of {outliers or 'none'} stands out."
        if members is not None and outliers is not None
        else "Built from the study's scans.",
        [
            Figure(
                picture,
                "Axial slices of the median of every contrast and curves over the rounds of construction; the numbers "
                "of the curves are in the table below.",
                "Median of the members' synthetic T1s and of the scans of every contrast; below, from round to round: "
                "sharpness of the template, standard deviation of the members about it, and mean displacement by the "
                "non-linear part.",
                (found.folder / "rounds.tsv",),
            )
        ]
        if picture.is_file()
        else [],
        tables,
        **{**found.remarks(), "method": METHOD, "sources": found.facts.get("sources", SOURCES)},
        limits=LIMITS,
    )


def _rounds(found: Outputs) -> Table:
    return Table(
        "Rounds of construction. Change is the root mean square difference from the round before over the template's "
        "root mean square in the brain; sharpness is the mean gradient per mm; variability is the members' standard "
        "deviation.",
        (found.folder / "rounds.tsv",),
        ("Round", "Kind", "Members", "Change (%)", "Sharpness", "Variability", "Mean displacement (mm)", "Converged"),
        [
            [
                row["round"],
                row["kind"],
                row["members"],
                number(row["change"], 2, 100),
                number(row["sharpness"], 4),
                number(row["variability"], 4),
                number(row["mean_displacement_mm"], 3),
                {"True": "yes", "False": "no"}.get(row["converged"], row["converged"]),
            ]
            for row in found.rows("rounds.tsv")
        ],
        n_texts=2,
    )


def _quality(found: Outputs) -> list[Table]:
    """Measures over all members, and the outliers; nothing if they were not measured."""
    members = found.frame("quality.tsv")
    if not len(members):
        return []
    rows = []
    for name, (words, digits) in MEASURES.items():
        values = pd.to_numeric(members[name], errors="coerce").dropna() if name in members else pd.Series(dtype=float)
        if len(values):
            shown = [number(value, digits) for value in values.quantile([0.5, 0.05, 0.95, 0, 1])]
            rows.append(
                [words, str(len(values)), f"{shown[0]} ({shown[1]} to {shown[2]})", f"{shown[3]} to {shown[4]}"]
            )
    path = (found.folder / "quality.tsv",)
    tables = [
        Table(
            "The members' registration.", path, ("Measure", "Members", "Median (5 to 95 %)", "Least to largest"), rows
        )
    ]
    outliers = [row for row in found.rows("quality.tsv") if row.get("outlier") == "yes"]
    if outliers:
        told = [[row["participant_id"], row["scan_id"] or NONE, row["reason"]] for row in outliers]
        tables.append(
            Table(
                "Members whose registration stands out: look at them, and leave them out if it is wrong.",
                (*path, found.folder / "outliers.tsv"),
                ("Participant", "Scan", "Why"),
                told,
                n_texts=3,
            )
        )
    return tables


def _images(folder: Path) -> list[Table]:
    """What of the atlas can be opened."""
    medians = sorted(folder.glob("median_*.nii.gz"))
    words = {
        folder / "template_T1w.nii.gz": "Median of the members' synthetic T1s",
        **{path: f"Median of the {path.name[7:-7]} scans" for path in medians},
        folder / "labels.nii.gz": "Most frequent label",
    }
    there = {path: told for path, told in words.items() if path.is_file()}
    rows = [[path.name, told] for path, told in there.items()]
    head = ("File", "What it is")
    return [Table("Images of the atlas.", tuple(there), head, rows, n_texts=2)] if rows else []
