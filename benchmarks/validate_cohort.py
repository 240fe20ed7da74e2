"""A virtual cohort through the whole pipeline, with SynthSR and with cubic interpolation, held against the truth.

    python benchmarks/validate_cohort.py --out DIR --cores 2 --write docs/validation.md

simulates the patients of a clinic (config/clinic/validation.yaml), runs the pipeline on their DICOM in DIR/synthsr, and
without SynthSR on the same converted scans in DIR/cubic, and writes what was found as Markdown with a figure beside it:
agreement with the true volumes by slice distance, Alzheimer's patients against controls of their age by every kind of
scan, ageing of the controls. Called again it goes on where it stopped: patients, scans and statistics that are there
are not made again (after a run that was killed, first ``snakemake --unlock --directory DIR/synthsr --configfile
DIR/synthsr/config.yaml``, or of ``cubic``). Another base anatomy is a key of the clinic's configuration (``anatomy``).

Of the 64 patients (256 scans) SynthSR and segmentation took 17 seconds a scan beside other work on two cores, the
simulation about 25 seconds of the processor a patient; 4 GB of disk.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from analysis import cli, tsv
from analysis.layout import CONTRASTS, Private, Results
from analysis.report import content
from analysis.report.text import NONE, millilitres, number, p_value, with_interval
from analysis.statistics import ageing, agreement, figures
from synthsr import files

ROOT = Path(__file__).parents[1]
LEVELS = ("Control", "AD")
#: Structures of the page's tables: those of Iglesias et al., Science Advances 2023, tables 1 and 2.
STRUCTURES = (
    *("Cerebral-White-Matter", "Cerebral-Cortex", "Lateral-Ventricle", "Thalamus", "Caudate", "Putamen", "Pallidum"),
    *("Hippocampus", "Amygdala", "ICV"),
)
AGEING = ("Cerebral-White-Matter", "Cerebral-Cortex", "Lateral-Ventricle", "Thalamus", "Hippocampus", "Amygdala")
#: The arm that the others are held against: 1 mm scans as they are.
REFERENCE = "real-1mm"
BOUNDS_MM = (0.0, *agreement.SPACING_BOUNDS_MM, 20.0)
MINIMUM_PARTICIPANTS = 6


class Study:
    """Folders of the validation.

    Attributes
    ----------
    root
        The folder.
    main, cubic
        Results of the two studies.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.main, self.cubic = (Results(self.root / name / "results") for name in ("synthsr", "cubic"))

    @property
    def clinic(self) -> Path:
        """The simulated patients."""
        return self.main.root.parent / "clinic"

    @property
    def links(self) -> Path:
        """Pseudonyms of their sessions."""
        return Private(self.main.root.parent / "private").sessions

    def snakemake(self, study: Results, configuration: dict[str, Any], *targets: str, cores: int) -> None:
        """Run the pipeline; its failure ends the script with its exit code."""
        file = study.root.parent / "config.yaml"
        files.write_text(file, yaml.safe_dump(configuration, sort_keys=False))
        command = [sys.executable, "-m", "snakemake", *targets, "--snakefile", ROOT / "Snakefile", "--directory",
                   file.parent, "--cores", str(cores), "--rerun-incomplete", "--configfile", file]  # fmt: skip
        done = subprocess.run([str(word) for word in command], cwd=ROOT, check=False)
        if done.returncode:
            sys.exit(done.returncode)


def compared(sessions: pd.DataFrame) -> pd.DataFrame:
    """Diagnoses of the patients and of the controls within the patients' ages; of others unknown.

    Parameters
    ----------
    sessions
        Of the clinic: ``study_uid``, ``age_years``, ``diagnosis``.
    """
    ill = sessions.loc[sessions["diagnosis"] == LEVELS[1], "age_years"]
    outside = ~sessions["age_years"].between(ill.min(), ill.max())
    return sessions[["study_uid"]].assign(diagnosis=sessions["diagnosis"].mask(outside, tsv.MISSING))


def choose_arms(main: pd.DataFrame, cubic: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Arms of the comparison: the 1 mm T1 as it is, then every contrast and slice distance by both methods.

    Parameters
    ----------
    main, cubic
        Volumes of both studies, a row per scan and structure, with ``contrast`` and ``spacing_mm``.

    Returns
    -------
    As the key ``arms`` of the configuration has them; empty without enough 1 mm T1s.
    """
    theirs = "../cubic/results/tables/volumes.tsv"
    found: dict[str, dict[str, Any]] = {}
    kinds = sorted(set(main["contrast"]) & set(cubic["contrast"]), key=CONTRASTS.index)
    for contrast in kinds:
        for low, high in pairwise(BOUNDS_MM):
            people = [
                table.loc[(table["contrast"] == contrast) & table["spacing_mm"].between(low, high, inclusive="left"),
                          "participant_id"].nunique() for table in (main, cubic)
            ]  # fmt: skip
            if min(people) < MINIMUM_PARTICIPANTS:
                continue
            scans = {"contrast": contrast, "spacing_mm": [low, high]}
            if contrast == "T1w" and low == 0:
                found = {REFERENCE: {"volumes": theirs, **scans}, **found}
                continue
            kind = f"{contrast}-{low:g}to{high:g}mm" if high < BOUNDS_MM[-1] else f"{contrast}-over{low:g}mm"
            found |= {f"synthsr-{kind}": scans, f"cubic-{kind}": {"volumes": theirs, **scans}}
    return found if REFERENCE in found and len(found) > 1 else {}


def run(study: Study, clinic: Path, *, cores: int, weights: dict[str, str]) -> None:
    """Simulate, run both studies, compare."""
    main: dict[str, Any] = {"clinic": str(clinic.resolve()), "weights": weights}
    study.snakemake(study.main, main, "simulate", cores=cores)
    sessions = tsv.read(study.clinic / "sessions.tsv", numbers=["age_years"])
    if set(LEVELS) <= set(sessions["diagnosis"]):
        tsv.write(compared(sessions), study.root / "diagnoses.tsv")
        main |= {"groups": {"diagnoses": str(study.root / "diagnoses.tsv"), "levels": list(LEVELS)}}
    study.snakemake(study.main, main, cores=cores)
    other = {"bids": str(study.main.root / "rawdata"), "synthesiser": "cubic", "weights": weights}
    study.snakemake(study.cubic, other, cores=cores)
    tables = [tsv.read(results.volumes, numbers=["spacing_mm"]) for results in (study.main, study.cubic)]
    arms = choose_arms(*tables)
    if arms:
        study.snakemake(study.main, main | {"arms": arms}, cores=cores)
    further_statistics(study)


def further_statistics(study: Study) -> None:
    """What the two studies leave out: the cubic arm against the truth, and ageing of the controls by truth and arms."""
    links = tsv.read(study.links)[["participant_id", "session_id", "study_uid"]]
    people = tsv.read(study.clinic / "sessions.tsv").merge(links, on="study_uid")
    columns = ["participant_id", "session_id", "age_years", "sex"]
    tsv.write(people.loc[people["diagnosis"] == LEVELS[0], columns], study.root / "controls.tsv")
    truth = tsv.read(study.clinic / "truth.tsv").merge(links, on="study_uid")
    tsv.write(truth[["participant_id", "session_id", "structure", "volume_mm3"]], study.root / "truth.tsv")
    against = ["agreement", study.cubic.volumes, study.root / "truth.tsv", "--participants", study.main.sessions]
    curves = {"truth": study.root / "truth.tsv", "synthsr": study.main.session_volumes,
              "cubic": study.cubic.session_volumes}  # fmt: skip
    command([*against, "--out", study.root / "agreement-cubic"])
    for name, volumes in curves.items():
        command(
            ["ageing", volumes, "--participants", study.root / "controls.tsv", "--out", study.root / f"ageing-{name}"]
        )


def command(words: Sequence[str | Path]) -> None:
    """Call ``python -m analysis``; its failure ends the script with its exit code."""
    code = cli.main([str(word) for word in words])
    if code:
        sys.exit(code)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table."""
    return [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *(f"| {' | '.join(row)} |" for row in rows), ""]


def agreement_lines(folder: Path) -> list[str]:
    """Pearson's r and mean error per structure, of scans by slice distance and of sessions."""
    scans, sessions = (tsv.read(folder / name) for name in ("agreement_scans.tsv", "agreement.tsv"))
    scans = scans[scans["group_by"].isin([agreement.EVERYTHING, "spacing"])]
    groups = list(dict.fromkeys(scans["group"]))
    sizes = {group: scans.loc[scans["group"] == group, "n_scans"].astype(int).max() for group in groups}
    parts = {group: scans[scans["group"] == group] for group in groups} | {"sessions": sessions}
    cells = {
        (group, row["structure"]): f"{number(row['pearson_r'])} · {number(row['mean_absolute_error_percent'], 1)}"
        for group, part in parts.items()
        for row in part.to_dict("records")
    }
    bias = {row["structure"]: number(row["bias_percent"], 1) for row in sessions.to_dict("records")}
    told = [f"{'all scans' if group == agreement.EVERYTHING else group} ({sizes[group]})" for group in groups]
    return table(
        ("structure", *told, "median of a session", "its bias, %"),
        [
            [figures.readable(name), *(cells.get((group, name), NONE) for group in parts), bias[name]]
            for name in STRUCTURES
            if name in bias
        ],
    )


def arm_lines(results: Results, structure: str) -> Iterator[str]:
    """The structure by every arm: against the 1 mm T1, and both groups."""
    folder = results.statistics("arms")
    if not (folder / "groups.tsv").is_file():
        yield "There are not enough 1 mm T1s and patients to compare."
        return
    rows = [row for row in tsv.read(folder / "groups.tsv").to_dict("records") if row["structure"] == structure]
    pairs = tsv.read(folder / "groups_methods.tsv")
    pairs = pairs[(pairs["structure"] == structure) & (pairs["method"] == REFERENCE)].set_index("other_method")
    lines = []
    for row in rows:
        arm, held = row["method"], results.statistics(f"arm-{row['method']}") / "agreement.tsv"
        against = [NONE, NONE, NONE]
        if held.is_file():
            one = tsv.read(held).set_index("structure").loc[structure]
            against = [number(one["mean_absolute_error_percent"], 1), number(one["bias_percent"], 1)]
            against.append(with_interval(*(number(one[name]) for name in ("pearson_r", "pearson_low", "pearson_high"))))
        lines.append([
            arm,
            *against,
            millilitres(row["difference_mm3"]),
            p_value(row["rank_sum_p"]),
            with_interval(*(number(row[name]) for name in ("auroc", "auroc_low", "auroc_high"))),
            p_value(pairs.loc[arm, "p_value"]) if arm in pairs.index else NONE,
            with_interval(*(number(row[name]) for name in ("effect_size", "effect_low", "effect_high"))),
        ])  # fmt: skip
    first = rows[0]
    yield f"{first['n']} {first['group']} and {first['other_n']} {first['other_group']} whom all arms have measured."
    yield ""
    yield from table(("arm", "error, %", "bias, %", "Pearson r", "difference of medians, ml", "rank sum p", "AUROC",
                      f"p against {REFERENCE}", "effect size"), lines)  # fmt: skip


def ageing_lines(study: Study) -> list[str]:
    """Median volumes at some ages as truth has them, and how far the measured medians lie from them."""
    curves = {name: curve(study, name) for name in ("truth", "synthsr", "cubic")}
    true = curves["truth"]
    if true.empty:
        return ["Too few controls for curves of ageing.", ""]
    youngest, oldest = true["age_years"].min(), true["age_years"].max()
    ages = [age for age in range(30, 90, 20) if youngest <= age <= oldest]
    rows = []
    for name in AGEING:
        cells = [figures.readable(name)]
        for age in ages:
            medians = {arm: median_at(table_, name, age) for arm, table_ in curves.items()}
            cells += [millilitres(medians["truth"])]
            cells += [number(100 * (medians[arm] / medians["truth"] - 1), 1) for arm in ("synthsr", "cubic")]
        rows.append(cells)
    head = [text for age in ages for text in (f"true median at {age}, ml", "SynthSR, %", "cubic, %")]
    return table(("structure", *head), rows)


def curve(study: Study, name: str) -> pd.DataFrame:
    """Fitted curves of one source."""
    numbers = ("age_years", "median_mm3", "low_mm3", "high_mm3")
    return tsv.read(study.root / f"ageing-{name}" / "ageing_curves.tsv", columns=ageing.CURVE_COLUMNS, numbers=numbers)


def median_at(curves: pd.DataFrame, structure: str, age_years: float) -> float:
    """Fitted median (mm³) at the age of the curve that lies nearest; NaN without a curve."""
    own = curves[curves["structure"] == structure]
    if own.empty:
        return float("nan")
    return float(own.loc[(own["age_years"] - age_years).abs().idxmin(), "median_mm3"])


def draw(study: Study) -> Any:
    """Curves of ageing: truth, SynthSR, cubic."""
    curves = {name: curve(study, name) for name in ("truth", "synthsr", "cubic")}
    names = [name for name in AGEING if all((table_["structure"] == name).any() for table_ in curves.values())]
    if not names:
        return figures.saying("Too few controls for curves of ageing.")
    figure, axes = figures.panels(len(names), columns=3, width_inch=3.2)
    colours = {"truth": figures.GREY, "synthsr": figures.BLUE, "cubic": figures.ORANGE}
    for axis, name in zip(axes, names, strict=True):
        for arm, table_ in curves.items():
            own = table_[table_["structure"] == name]
            axis.fill_between(own["age_years"], own["low_mm3"] / 1000, own["high_mm3"] / 1000, color=colours[arm],
                              alpha=0.18, lw=0)  # fmt: skip
            axis.plot(own["age_years"], own["median_mm3"] / 1000, color=colours[arm], lw=1.6,
                      ls="--" if arm == "truth" else "-", label={"synthsr": "SynthSR"}.get(arm, arm))  # fmt: skip
        axis.set_title(figures.readable(name), fontsize=9.5)
    figure.supxlabel("age (years)", fontsize=9)
    figure.supylabel("corrected volume (ml)", fontsize=9)
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False, fontsize=8.5
    )
    return figure


def document(study: Study, clinic: Path, figure: str) -> str:
    """The page, as Markdown.

    Parameters
    ----------
    study
        Where everything lies.
    clinic
        The clinic's configuration.
    figure
        Name of the figure beside the page.
    """
    made = content.collect(study.main)
    without = content.collect(study.cubic)
    sessions = tsv.read(study.clinic / "sessions.tsv", numbers=["age_years"])
    who = ", ".join(f"{count} {diagnosis}" for diagnosis, count in sessions["diagnosis"].value_counts().items())
    weights = sorted({(row["weights"], row["sha256"][:12]) for row in made.provenance if row["sha256"] != NONE})
    gate = [f"{len(one.included)} of {int((one.series['decision'] == 'include').sum())}" for one in (made, without)]
    lines = [
        "# Validation on a virtual cohort",
        "",
        "Made by `python benchmarks/validate_cohort.py`, as found; nothing is chosen by hand. Patients are simulated "
        "(their scans by physics that shares no code with the training of the networks), so that their true volumes "
        "are known: counted on their anatomy. Real cohorts are less alike; no published number is reproduced here.",
        "",
        f"{len(sessions)} sessions ({who}) of `{files_name(clinic)}`, {sessions['age_years'].min():.0f} to "
        f"{sessions['age_years'].max():.0f} years. Included scans: {gate[0]} with SynthSR, {gate[1]} by cubic "
        f"interpolation. Weights (SHA-256): {', '.join(f'{name} {digest}…' for name, digest in weights)}. Both arms "
        "are segmented by the same network.",
        "",
        "## Agreement with the truth",
        "",
        "Pearson r · mean absolute error in per cent of the true volume, both sides together; in brackets scans.",
        "",
        "With SynthSR:",
        "",
        *agreement_lines(study.main.statistics("agreement")),
        "By cubic interpolation of the same scans:",
        "",
        *agreement_lines(study.root / "agreement-cubic"),
        "## Alzheimer's disease",
        "",
        "Hippocampus. Errors and r are against the volume from the session's 1 mm T1 as it is, by the same segmenter; "
        "AUROC and effect size (corrected for sex, age and ICV) with 95 % intervals.",
        "",
        *arm_lines(study.main, "Hippocampus"),
        "Published, of real T1s (Iglesias et al., NeuroImage 2021, table 2): at 3, 5 and 7 mm errors of 4.5, 7.6 "
        "and 10.1 % by cubic interpolation and of 3.3, 2.9 and 3.0 % by SynthSR, effect sizes of 1.35, 1.22 and 0.98 "
        "against 1.36, 1.33 and 1.30, and of 1.38 at 1 mm. From 5 mm FLAIR by SynthSR (Science Advances 2023, figure "
        "3) an AUROC of 0.76, of 0.81 from real 1 mm T1s.",
        "",
        "## Ageing of the controls",
        "",
        "Medians of the model of `python -m analysis ageing` (corrected for ICV and sex, one volume per session) "
        "fitted to the truth, and how far those fitted to the measured volumes lie from them.",
        "",
        *ageing_lines(study),
        f"![Curves of ageing by truth, SynthSR and cubic interpolation]({figure})",
        "",
        "Bands are 95 % confidence intervals of the median.",
        "",
    ]
    return "\n".join(lines)


def files_name(clinic: Path) -> str:
    """The clinic's configuration as the project knows it; its name alone where it is another."""
    path = clinic.resolve()
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name


def main() -> None:
    """Run and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the studies")
    parser.add_argument(
        "--clinic", type=Path, default=ROOT / "config" / "clinic" / "validation.yaml", help="its patients"
    )
    parser.add_argument("--cores", type=int, default=2, help="as Snakemake takes them (default: %(default)s)")
    parser.add_argument("--synthsr", default="synthsr", metavar="NAME_OR_PATH", help="weights (default: %(default)s)")
    parser.add_argument("--segmentation", default="segmentation", metavar="NAME_OR_PATH", help="default: %(default)s")
    parser.add_argument("--write", type=Path, metavar="FILE.md", help="the page (default: DIR/validation.md)")
    given = parser.parse_args()
    study = Study(given.out)
    weights = {name: absolute(getattr(given, name)) for name in ("synthsr", "segmentation")}
    run(study, given.clinic, cores=given.cores, weights=weights)
    page = given.write or study.root / "validation.md"
    figures.write(draw(study), page.with_name(f"{page.stem}-ageing.png"))
    files.write_text(page, document(study, given.clinic, f"{page.stem}-ageing.png"))
    print(f"{page}; reports: {study.main.report}, {study.cubic.report}")


def absolute(weights: str) -> str:
    """A path that holds from any folder; a shipped name as it is."""
    return str(Path(weights).resolve()) if Path(weights).is_file() else weights


if __name__ == "__main__":
    main()
