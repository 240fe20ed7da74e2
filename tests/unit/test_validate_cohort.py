"""The validation's page: who is compared, by which arms, and that its numbers are those of the statistics."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import jsonschema
import pandas as pd
import pytest
import yaml
from results_maker import make_results, run_arms

from analysis import cli, tsv

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "benchmarks" / "validate_cohort.py"))


def test_only_controls_of_the_patients_ages_are_compared(script):
    sessions = pd.DataFrame(
        {"study_uid": list("abcde"), "age_years": [30.0, 59.0, 61.0, 70.0, 88.0],
         "diagnosis": ["Control", "Control", "AD", "Control", "AD"], "sex": "F"}
    )  # fmt: skip
    found = script["compared"](sessions)
    assert list(found.columns) == ["study_uid", "diagnosis"]
    assert list(found["diagnosis"]) == ["n/a", "n/a", "AD", "Control", "AD"]


def scans(kinds: list[tuple[str, float]], people: int = 8) -> pd.DataFrame:
    rows = [{"participant_id": f"sub-{person}", "contrast": contrast, "spacing_mm": spacing}
            for person in range(people) for contrast, spacing in kinds]  # fmt: skip
    return pd.DataFrame(rows, columns=["participant_id", "contrast", "spacing_mm"])


def test_arms_are_every_kind_of_scan_by_both_methods_and_valid_configuration(script):
    kinds = [("T1w", 1.0), ("T1w", 3.0), ("FLAIR", 5.0), ("T1w", 7.0)]
    both = scans(kinds)
    arms = script["choose_arms"](pd.concat([both, scans([("T2w", 5.0)], 2)]), both)
    assert list(arms) == ["real-1mm", "synthsr-T1w-2to4mm", "cubic-T1w-2to4mm", "synthsr-T1w-over6mm",
                          "cubic-T1w-over6mm", "synthsr-FLAIR-4to6mm", "cubic-FLAIR-4to6mm"]  # fmt: skip
    assert arms["real-1mm"]["volumes"] == arms["cubic-FLAIR-4to6mm"]["volumes"]
    assert arms["synthsr-T1w-2to4mm"] == {"contrast": "T1w", "spacing_mm": [2.0, 4.0]}
    schema = yaml.safe_load((ROOT / "workflow" / "schemas" / "config.schema.yaml").read_text())
    jsonschema.validate(arms, schema["properties"]["arms"])
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"a/b": {}, "c": {}}, schema["properties"]["arms"])
    assert script["choose_arms"](scans(kinds[1:]), scans(kinds[1:])) == {}
    assert script["choose_arms"](scans(kinds[:1]), scans(kinds[:1])) == {}


@pytest.fixture(scope="module")
def study(script, tmp_path_factory):
    """Both studies as the pipeline leaves them, of schematic people, and the clinic that they come from."""
    made = script["Study"](tmp_path_factory.mktemp("validation"))
    make_results(made.main.root)
    make_results(made.cubic.root)
    truth = made.main.root / "truth.tsv"
    assert cli.main(["agreement", str(made.main.volumes), str(truth), "--out",
                     str(made.main.statistics("agreement"))]) == 0  # fmt: skip
    sessions = tsv.read(made.main.sessions)
    links = sessions.assign(study_uid="uid-" + sessions["participant_id"], patient_id=sessions["participant_id"])
    tsv.write(links, made.links)
    ill = [("Control", "Control", "AD")[person % 3] for person in range(len(links))]
    people = links.assign(diagnosis=ill)
    tsv.write(people.drop(columns=["participant_id", "session_id"]), made.clinic / "sessions.tsv")
    tsv.write(people, made.root / "people.tsv")
    groups = ["--groups", "AD", "Control", "--replicates", "100"]
    run_arms(made.main, ["--participants", made.root / "people.tsv", *groups])
    known = tsv.read(truth).merge(links, on=["participant_id", "session_id"])
    tsv.write(known[["study_uid", "structure", "volume_mm3"]], made.clinic / "truth.tsv")
    script["further_statistics"](made)
    return made


def cells(page: str, heading: str, row: str) -> list[str]:
    part = page.split(f"## {heading}")[1].split("\n## ")[0]
    line = next(line for line in part.splitlines() if line.startswith(f"| {row} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_page_shows_the_numbers_of_the_statistics(script, study):
    page = script["document"](study, ROOT / "config" / "clinic" / "validation.yaml", "validation-ageing.png")
    agreement = tsv.read(study.main.statistics("agreement") / "agreement.tsv").set_index("structure")
    row = cells(page, "Agreement with the truth", "Hippocampus")
    assert row[-2] == "{:.2f} · {:.1f}".format(
        *agreement.loc["Hippocampus", ["pearson_r", "mean_absolute_error_percent"]].astype(float)
    )
    groups = tsv.read(study.main.statistics("arms") / "groups.tsv")
    wanted = groups[(groups["structure"] == "Hippocampus") & (groups["method"] == "cubic")].iloc[0]
    assert cells(page, "Alzheimer", "cubic")[6].startswith(f"{float(wanted['auroc']):.2f} (")
    assert cells(page, "Alzheimer", "real-1mm")[1] == "–"
    assert "`config/clinic/validation.yaml`" in page and "28 Control, " not in page.split("\n")[0]
    assert re.search(r"45 sessions \(30 Control, 15 AD\)", page) and "![Curves" in page
    # Tables are whole: every row has the cells of its head.
    for block in re.findall(r"(?:^\|.*\n)+", page, flags=re.MULTILINE):
        assert len({line.count("|") for line in block.splitlines()}) == 1


def test_curves_of_the_controls_tell_the_measured_from_the_true(script, study):
    controls = tsv.read(study.root / "controls.tsv")
    assert len(controls) == 30
    page = script["document"](study, study.root / "mine.yaml", "a.png")
    row = cells(page, "Ageing of the controls", "Hippocampus")
    true, measured = (
        script["median_at"](script["curve"](study, name), "Hippocampus", 30) for name in ("truth", "synthsr")
    )
    assert row[1] == f"{true / 1000:.2f}" and row[2] == script["number"](100 * (measured / true - 1), 1)
    assert "`mine.yaml`" in page and str(study.root) not in page
    assert script["figures"].png(script["draw"](study)).startswith(b"\x89PNG")


def test_without_patients_or_references_the_page_says_so(script, tmp_path):
    made = script["Study"](tmp_path)
    assert list(script["arm_lines"](made.main, "Hippocampus")) == [
        "There are not enough 1 mm T1s and patients to compare."
    ]
