"""Two groups: planted differences through the command, the corrected effect size, several methods, poor input."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.api import OLS, add_constant
from statsmodels.stats.effect_size import _noncentrality_t

from analysis import cli, tsv
from analysis.statistics import cohort, groups

LEVELS = ("Control", "AD")
SETTINGS = groups.Settings(replicates=200)


def people(seed: int = 0, n: int = 60, *, effect: float = 600.0) -> pd.DataFrame:
    """People by participant and diagnosis; patients are older, and their hippocampi smaller by ``effect``."""
    rng = np.random.default_rng(seed)
    diagnosis = np.where(np.arange(n) % 2 == 0, *LEVELS)
    age = rng.uniform(60, 80, n) + 5 * (diagnosis == "AD")
    male = rng.permutation(n) % 2.0
    icv = 1.45e6 + 1.5e5 * (male - 0.5) + 1e5 * rng.normal(size=n)
    volume = 7500 - 30 * (age - 70) + 0.002 * (icv - 1.45e6) + 400 * rng.normal(size=n) - effect * (diagnosis == "AD")
    index = pd.MultiIndex.from_arrays(
        [[f"sub-{i:03d}" for i in range(n)], diagnosis], names=["participant_id", "diagnosis"]
    )
    return pd.DataFrame({"Hippocampus": volume, "ICV": icv, "age_years": age, "male": male}, index=index)


def long_form(table: pd.DataFrame, *, noise: float = 0.0, seed: int = 0) -> pd.DataFrame:
    """Three scans of everybody, of which the median is right and the others far off."""
    rng = np.random.default_rng(seed)
    rows = []
    for (person, _), row in table.iterrows():
        volume = row["Hippocampus"] + noise * rng.normal()
        for scan, off in enumerate((0.0, -3000.0, 2000.0)):
            scan_of = {"participant_id": person, "session_id": "ses-1", "scan_id": f"{person}_{scan}"}
            for side in ("Left-", "Right-"):
                rows.append({**scan_of, "structure": f"{side}Hippocampus", "volume_mm3": (volume + off) / 2})
            rows.append({**scan_of, "structure": "ICV", "volume_mm3": row["ICV"]})
    return pd.DataFrame(rows)


def participants_of(table: pd.DataFrame) -> pd.DataFrame:
    made = table.reset_index()[["participant_id", "diagnosis", "age_years", "male"]]
    return made.assign(sex=made.pop("male").map({1.0: "M", 0.0: "F"}))


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    table = people()
    tsv.write(long_form(table), tmp_path / "volumes.tsv")
    tsv.write(long_form(table, noise=300, seed=1), tmp_path / "noisy.tsv")
    tsv.write(participants_of(table), tmp_path / "people.tsv")
    return tmp_path


def call(
    folder: Path, *extra: str, volumes: tuple[str, ...] = ("volumes.tsv",), levels: tuple[str, str] = LEVELS
) -> int:
    tables = [text.replace("=", f"={folder}/") if "=" in text else str(folder / text) for text in volumes]
    arguments = ["groups", *tables, "--participants", str(folder / "people.tsv"), "--groups", *levels]
    return cli.main([*arguments, "--replicates", "200", "--out", str(folder / "out"), *extra])


def result(folder: Path, name: str = "groups.tsv") -> pd.DataFrame:
    columns = groups.COLUMNS if name == "groups.tsv" else groups.METHODS_COLUMNS
    texts = {"structure", "method", "other_method", "group", "other_group", "note"}
    return tsv.read(folder / "out" / name, numbers=[column for column in columns if column not in texts])


def notes(folder: Path) -> list[str]:
    found = json.loads((folder / "out" / "groups.json").read_text())["notes"]
    assert isinstance(found, list)
    return found


def test_planted_difference_through_the_command(inputs):
    assert call(inputs) == 0
    table = people()
    row = result(inputs).set_index("structure").loc["Hippocampus"]
    first, second = groups.values_by_group(table, "Hippocampus", LEVELS)
    assert row["n"] == row["other_n"] == 30
    assert row["median_mm3"] == pytest.approx(np.median(first), rel=1e-5)
    assert row["difference_mm3"] == pytest.approx(np.median(first) - np.median(second), rel=1e-4)
    assert row["difference_low_mm3"] < 750 < row["difference_high_mm3"]  # 600, and 150 for five years of age
    assert row["shift_low_mm3"] < 750 < row["shift_high_mm3"]
    assert row["rank_sum_p"] == pytest.approx(stats.mannwhitneyu(first, second).pvalue, rel=1e-4)
    assert row["shapiro_p"] == pytest.approx(stats.shapiro(first).pvalue, rel=1e-4)
    assert row["other_shapiro_p"] == pytest.approx(stats.shapiro(second).pvalue, rel=1e-4)
    assert row["auroc"] == pytest.approx(np.mean(first[:, None] > second), rel=1e-4) and row["auroc"] > 0.7
    assert row["auroc_low"] < row["auroc"] < row["auroc_high"] and row["auroc_p"] < 0.001
    assert row["effect_low"] < 600 / 400 < row["effect_high"]
    assert (result(inputs)["rank_sum_fdr"] >= result(inputs)["rank_sum_p"]).all()
    assert not (inputs / "out" / "groups_methods.tsv").exists()
    assert (inputs / "out" / "groups.png").stat().st_size > 10_000
    assert notes(inputs) == []


def test_the_other_order_turns_every_sign(inputs):
    call(inputs)
    one = result(inputs).set_index("structure").loc["Hippocampus"]
    call(inputs, levels=("AD", "Control"))
    other = result(inputs).set_index("structure").loc["Hippocampus"]
    assert other["auroc"] == pytest.approx(1 - one["auroc"], abs=1e-5)
    for column in ("difference_mm3", "shift_mm3", "effect_size"):
        assert other[column] == pytest.approx(-one[column], rel=1e-4)
    assert other["effect_low"] == pytest.approx(-one["effect_high"], rel=1e-4)
    assert other["rank_sum_p"] == pytest.approx(one["rank_sum_p"], rel=1e-4)


def test_rerun_leaves_every_file_alone(inputs):
    call(inputs)
    before = {path.name: path.stat().st_mtime_ns for path in (inputs / "out").iterdir()}
    assert set(before) == {"groups.tsv", "groups.json", "groups.png"}
    call(inputs)
    assert before == {path.name: path.stat().st_mtime_ns for path in (inputs / "out").iterdir()}


def test_effect_without_covariates_is_cohens_d():
    table = people().assign(ICV=1.4e6, age_years=70.0, male=1.0)
    found, note = groups.corrected_effect(table, "Hippocampus", LEVELS)
    first, second = groups.values_by_group(table, "Hippocampus", LEVELS)
    pooled = np.sqrt((29 * first.var(ddof=1) + 29 * second.var(ddof=1)) / 58)
    assert not note and found["effect_size"] == pytest.approx((first.mean() - second.mean()) / pooled)
    assert found["effect_p"] == pytest.approx(stats.ttest_ind(first, second).pvalue)


def test_effect_and_its_interval_are_statsmodels():
    table = people(1)
    found, _ = groups.corrected_effect(table, "Hippocampus", LEVELS)
    group = (table.index.get_level_values(1) == "Control").astype(float)
    design = add_constant(np.column_stack([group, table[["age_years", "male", "ICV"]]]))
    reference = OLS(table["Hippocampus"].to_numpy(), design).fit()
    assert found["effect_size"] == pytest.approx(reference.params[1] / np.sqrt(reference.scale))
    assert found["effect_p"] == pytest.approx(reference.pvalues[1])
    unit = reference.bse[1] / np.sqrt(reference.scale)
    bounds = unit * _noncentrality_t(reference.tvalues[1], reference.df_resid).confint
    assert (found["effect_low"], found["effect_high"]) == pytest.approx(tuple(bounds), rel=1e-6)
    without_icv, _ = groups.corrected_effect(table, "ICV", LEVELS)
    reference = OLS(table["ICV"].to_numpy(), design[:, :4]).fit()
    assert without_icv["effect_p"] == pytest.approx(reference.pvalues[1])


def test_correction_removes_what_age_explains():
    """Patients are five years older and no more: the raw groups differ, the corrected ones do not."""
    effects = [groups.corrected_effect(people(seed, effect=0), "Hippocampus", LEVELS)[0] for seed in range(60)]
    assert np.mean([found["effect_size"] for found in effects]) == pytest.approx(0, abs=0.12)
    raw = [np.subtract(*map(np.mean, groups.values_by_group(people(seed, effect=0), "Hippocampus", LEVELS)))
           for seed in range(60)]  # fmt: skip
    assert np.mean(raw) == pytest.approx(150, abs=60)
    planted = [groups.corrected_effect(people(seed), "Hippocampus", LEVELS)[0] for seed in range(150)]
    covered = [found["effect_low"] <= 1.5 <= found["effect_high"] for found in planted]
    assert 0.90 <= np.mean(covered) <= 0.99


def test_methods_on_the_same_people(inputs):
    text = (inputs / "noisy.tsv").read_text().splitlines(keepends=True)
    (inputs / "noisy.tsv").write_text("".join(line for line in text if not line.startswith(("sub-003", "sub-010"))))
    assert call(inputs, volumes=("volumes.tsv", "cubic=noisy.tsv")) == 0
    table = result(inputs)
    hippocampus = table[table["structure"] == "Hippocampus"].set_index("method")
    assert list(hippocampus.index) == ["volumes", "cubic"]
    assert (hippocampus["n"] == 29).all() and (hippocampus["other_n"] == 29).all()
    assert "2 not measured by all methods" in hippocampus.loc["volumes", "note"]
    pair = result(inputs, "groups_methods.tsv").set_index("structure").loc["Hippocampus"]
    assert (pair["auroc"], pair["other_auroc"]) == pytest.approx(tuple(hippocampus["auroc"]))
    assert pair["auroc_difference"] == pytest.approx(pair["auroc"] - pair["other_auroc"], abs=1e-5)
    assert pair["difference_low"] < pair["auroc_difference"] < pair["difference_high"]
    assert 0.8 < pair["pearson_low"] < pair["pearson_r"] < 1 and 0 < pair["p_value"] < 1
    assert call(inputs, volumes=("cubic=volumes.tsv", "cubic=noisy.tsv")) == 78


def test_a_method_against_itself_is_not_tested(inputs):
    assert call(inputs, volumes=("volumes.tsv", "again=volumes.tsv")) == 0
    pair = result(inputs, "groups_methods.tsv").set_index("structure").loc["Hippocampus"]
    assert pair["auroc_difference"] == 0 and np.isnan(pair["p_value"]) and "no scatter" in pair["note"]
    assert pair["pearson_r"] == pytest.approx(1)


@pytest.mark.parametrize("key", ["participant_id", "study_uid", "patient_id"])
def test_diagnoses_from_another_table(inputs, key, capsys):
    table = tsv.read(inputs / "people.tsv")
    links = table[["participant_id"]].assign(session_id="ses-1", study_uid="1.2.840." + table["participant_id"].str[4:])
    links = links.assign(patient_id="Smith-" + table["participant_id"].str[4:])
    tsv.write(links, inputs / "links.tsv")
    known = table[["diagnosis"]].assign(**{key: links[key]})
    tsv.write(known, inputs / "diagnoses.tsv")
    tsv.write(table.drop(columns="diagnosis"), inputs / "people.tsv")
    assert call(inputs) == 65 and "lacks the column diagnosis" in capsys.readouterr().err
    extra = ["--diagnoses", str(inputs / "diagnoses.tsv")]
    if key != "participant_id":
        assert call(inputs, *extra) == 65 and "--links" in capsys.readouterr().err
    extra += ["--links", str(inputs / "links.tsv")]
    assert call(inputs, *extra) == 0
    assert result(inputs).set_index("structure").loc["Hippocampus", "n"] == 30
    assert not any(text in path.read_bytes() for path in (inputs / "out").iterdir() for text in (b"1.2.840", b"Smith"))
    tsv.write(pd.concat([known, known.tail(1)]), inputs / "diagnoses.tsv")
    assert call(inputs, *extra) == 65
    message = capsys.readouterr().err
    assert "lines 61 and 62" in message and "Smith" not in message and "1.2.840" not in message


def test_a_change_of_diagnosis_leaves_the_person_out(inputs):
    table = tsv.read(inputs / "people.tsv").assign(session_id="ses-1")
    later = table.head(1).assign(session_id="ses-2", diagnosis="AD")
    other = table.iloc[[2]].assign(session_id="ses-2", diagnosis="MCI")
    tsv.write(pd.concat([table, later, other]), inputs / "people.tsv")
    volumes = tsv.read(inputs / "volumes.tsv")
    again = volumes[volumes["participant_id"].isin(["sub-000", "sub-002"])].assign(session_id="ses-2")
    tsv.write(pd.concat([volumes, again]), inputs / "volumes.tsv")
    assert call(inputs) == 0
    assert notes(inputs) == ["3 rows whose diagnosis is not Control or AD left out.",
                             "1 with both diagnoses, at different sessions, left out."]  # fmt: skip
    assert result(inputs).set_index("structure").loc["Hippocampus", "n"] == 29


@pytest.mark.parametrize(
    ("spoil", "note"),
    [
        (lambda table: table.iloc[::2], "30 Control and 0 AD, 3 of each"),
        (lambda table: table.iloc[:1], "1 Control and 0 AD"),
        (lambda table: table.iloc[:4], "2 Control and 2 AD"),
        (lambda table: table.assign(Hippocampus=4000.0), "all volumes are the same"),
        (lambda table: table.assign(Hippocampus=np.nan), "0 Control and 0 AD"),
        (lambda table: table.assign(Hippocampus=-9000.0), "0 Control and 0 AD"),
    ],
)
def test_what_cannot_be_compared_is_a_documented_na(inputs, spoil, note):
    tsv.write(long_form(spoil(people())), inputs / "volumes.tsv")
    if note == "all volumes are the same":
        volumes = tsv.read(inputs / "volumes.tsv", numbers=["volume_mm3"])
        tsv.write(volumes.assign(volume_mm3=volumes["volume_mm3"].where(volumes["structure"] == "ICV", 4e3)),
                  inputs / "volumes.tsv")  # fmt: skip
    assert call(inputs) == 0
    row = tsv.read(inputs / "out" / "groups.tsv").set_index("structure").loc["Hippocampus"]
    assert note in row["note"]
    assert (row.drop(["method", "group", "other_group", "n", "other_n", "note"]) == tsv.MISSING).all()


def test_two_empty_tables_give_a_note(inputs):
    (inputs / "volumes.tsv").write_text("participant_id\tsession_id\tstructure\tvolume_mm3\n")
    (inputs / "people.tsv").write_text("participant_id\tsession_id\tage_years\tsex\tdiagnosis\n")
    assert call(inputs) == 0
    assert notes(inputs) == ["There are no volumes."] and result(inputs).empty


@pytest.mark.parametrize(
    ("spoil", "note", "corrected"),
    [
        ({"age_years": "n/a"}, "age, sex and ICV are known of 0 Control and 0 AD", 0),
        ({"sex": "n/a"}, "age, sex and ICV are known of 0 Control and 0 AD", 0),
        ({"sex": "F"}, "", 60),
        ({"age_years": "140"}, "age, sex and ICV are known of 0 Control and 0 AD", 0),
    ],
)
def test_what_is_unknown_of_people_touches_only_the_correction(inputs, spoil, note, corrected):
    tsv.write(tsv.read(inputs / "people.tsv").assign(**spoil), inputs / "people.tsv")
    assert call(inputs) == 0
    row = result(inputs).set_index("structure").loc["Hippocampus"]
    assert note in row["note"] and row["n_corrected"] == corrected
    assert np.isfinite(row["auroc_p"]) and np.isfinite(row["effect_size"]) == bool(corrected)


def test_some_unknown_ages_leave_some_out_of_the_correction(inputs):
    table = tsv.read(inputs / "people.tsv")
    table.loc[:9, "age_years"] = tsv.MISSING
    tsv.write(table, inputs / "people.tsv")
    call(inputs)
    row = result(inputs).set_index("structure").loc["Hippocampus"]
    assert (row["n"], row["n_corrected"]) == (30, 50) and np.isfinite(row["effect_size"])


def test_confounded_and_exact_designs_have_no_effect():
    table = people()
    is_control = (table.index.get_level_values("diagnosis") == "Control").astype(float)
    for spoilt, reason in (
        (table.assign(male=is_control), "cannot be told apart"),
        (table.assign(Hippocampus=100 + 3 * table["age_years"] + is_control), "no scatter"),
        (table.drop(columns="ICV"), "no ICV"),
        (table.iloc[:6].assign(male=[0, 1, 1, 0, 0, 1]), None),
    ):
        found, note = groups.corrected_effect(spoilt, "Hippocampus", LEVELS)
        if reason is None:
            assert np.isfinite(found["effect_p"])
        else:
            assert reason in note and "effect_size" not in found


def test_groups_that_do_not_overlap_say_so():
    row = groups.compare_groups(people(effect=9000), "Hippocampus", LEVELS, SETTINGS)
    assert row["auroc"] == 1 and np.isnan(row["auroc_low"]) and "do not overlap" in row["note"]
    assert row["rank_sum_p"] < 1e-8


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda text: text.replace("\tAD\t", "\tMCI\t"),
            "nobody of the study has the diagnosis 'AD'; there are: Control, MCI",
        ),
        (lambda text: text.replace("\tAD\t", "\t\t").replace("\tControl\t", "\tn/a\t"), "there are: none"),
        (lambda text: text.replace("diagnosis", "group"), "lacks the column diagnosis"),
        (lambda text: text + text.splitlines()[1] + "\n", "lines 2 and 62 are both for participant_id sub-000"),
    ],
)
def test_wrong_people_are_refused_by_name(inputs, spoil, message, capsys):
    (inputs / "people.tsv").write_text(spoil((inputs / "people.tsv").read_text()))
    assert call(inputs) == 65
    assert message in capsys.readouterr().err and not (inputs / "out").exists()


def test_duplicate_volumes_and_equal_groups_are_refused(inputs, capsys):
    assert call(inputs, levels=("AD", "AD")) == 78
    lines = (inputs / "volumes.tsv").read_text().splitlines()
    (inputs / "volumes.tsv").write_text("\n".join([*lines, lines[1]]) + "\n")
    assert call(inputs) == 65
    assert f"lines 2 and {len(lines) + 1} are both" in capsys.readouterr().err


def test_diagnosis_does_not_disturb_ages_and_sexes(inputs):
    found = cohort.read_people(inputs / "people.tsv")
    assert list(found.columns) == ["participant_id", "age_years", "male", "diagnosis"]
    tsv.write(tsv.read(inputs / "people.tsv").drop(columns="diagnosis"), inputs / "people.tsv")
    assert list(cohort.read_people(inputs / "people.tsv").columns) == ["participant_id", "age_years", "male"]


def test_a_sex_that_contradicts_itself_is_unknown():
    rows = pd.DataFrame(
        {"participant_id": list("aaabbb"), "male": [1.0, 1, 0, 1, np.nan, 1], "ICV": [1.0, 3, 2, 4, 5, 9]}
    )
    found = cohort.per_participant(rows)
    assert np.isnan(found.loc["a", "male"]) and found.loc["b", "male"] == 1 and found["ICV"].tolist() == [2, 5]


def test_methods_are_named_and_paths_may_have_an_equals_sign():
    found = groups.named_paths(["one=a/v.tsv", "site=x/two.tsv", "/b/site=1/three.tsv"])
    assert {name: str(path) for name, path in found.items()} == {
        "one": "a/v.tsv", "site": "x/two.tsv", "three": "/b/site=1/three.tsv"
    }  # fmt: skip
