"""Sections on maps: lesions, tensor-based morphometry, cortical thickness, and registration."""

from __future__ import annotations

from analysis.layout import Results

from ..text import NONE, number, p_value, with_interval
from .parts import NOTE, Outputs, Section, Table

#: Local maxima shown of a map.
LONGEST = 5


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
        limits="Landmarks tell of the places where they are, and of how well they were placed. Unless the errors are "
        "this study's own (registration/landmarks/errors.tsv), the registration's settings are not known here.",
    )


def lesion_map_section(results: Results) -> Section | None:
    """Where lesions lie, and where a score goes with them."""
    found = Outputs.find(results.statistics("lesion-map"), "lesion_map", "lesion_maxima.tsv")
    if found is None:
        return None
    score = found.facts.get("settings", {}).get("score")
    maxima = found.rows("lesion_maxima.tsv")
    # The tail of a statistic that is signed has maxima of its own.
    kinds = [(row["map"], row["value"].startswith("-")) for row in maxima]
    shown = [row for place, row in enumerate(maxima) if kinds[:place].count(kinds[place]) < LONGEST]
    tables = [
        Table(
            f"Local maxima of every map, the {LONGEST} largest of each; in the masks' space, right, anterior and "
            f"superior positive. {len(maxima) - len(shown)} more are in the whole table.",
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
                for row in shown
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
    shown = [row for way in larger_in for row in [one for one in maxima if one["direction"] == way][:LONGEST]]
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
