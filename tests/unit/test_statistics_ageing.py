"""The ageing command: a planted curve, scores, independent fits, and every kind of poor input."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from analysis import cli, tsv
from analysis.statistics import ageing, cohort, linear


def planted_median(age: np.ndarray) -> np.ndarray:
    return 8000 + 15 * (age - 20) - 0.6 * np.maximum(age - 45, 0) ** 2


def simulate(seed: int, n: int) -> pd.DataFrame:
    """Joined table with repeated, correlated scans of some participants."""
    rng = np.random.default_rng(seed)
    person = np.repeat(np.arange(n), rng.choice([1, 2, 3], n, p=[0.6, 0.3, 0.1]))
    age, male = rng.uniform(20, 90, n)[person], rng.integers(0, 2, n).astype(float)[person]
    icv = 1.45e6 + 1.5e5 * male + 1e5 * rng.normal(size=n)[person]
    noise = 0.8 * rng.laplace(size=n)[person] + 0.4 * rng.laplace(size=len(person))
    centred = 0.004 * (icv - icv.mean()) + 200 * (male - 0.5)
    y = planted_median(age) + centred + np.exp(5.5 + 0.008 * age) * noise
    return pd.DataFrame(
        {"participant_id": [f"sub-{p}" for p in person], "age_years": age, "male": male, "Hippocampus": y, "ICV": icv}
    )


def write_inputs(folder: Path, table: pd.DataFrame) -> tuple[Path, Path]:
    """The two tables that the command reads, with both sides and a midline structure."""
    rows = []
    for index, row in enumerate(table.to_dict("records")):
        scan = {"participant_id": row["participant_id"], "session_id": "ses-1", "scan_id": f"scan-{index}"}
        parts = {"Left-Hippocampus": 0.5, "Right-Hippocampus": 0.5, "3rd-Ventricle": 0.1}
        rows += [{**scan, "structure": name, "volume_mm3": row["Hippocampus"] * part} for name, part in parts.items()]
        rows.append({**scan, "structure": "ICV", "volume_mm3": row["ICV"]})
    people = table.drop_duplicates("participant_id")[["participant_id", "age_years"]].copy()
    people["sex"] = table.drop_duplicates("participant_id")["male"].map({1.0: "M", 0.0: "F"})
    tsv.write(pd.DataFrame(rows), folder / "volumes.tsv")
    tsv.write(people, folder / "people.tsv")
    return folder / "volumes.tsv", folder / "people.tsv"


def call(volumes: Path, people: Path, out: Path, *more: str) -> int:
    return cli.main(
        ["ageing", str(volumes), "--participants", str(people), "--out", str(out), "--replicates", "100", *more]
    )


def test_planted_curve_is_recovered_through_the_command(tmp_path):
    volumes, people = write_inputs(tmp_path, simulate(0, 300))
    assert call(volumes, people, tmp_path / "out") == 0
    curves = tsv.read(tmp_path / "out" / "ageing_curves.tsv", numbers=ageing.CURVE_COLUMNS[1:])
    assert set(curves["structure"]) == {"Hippocampus", "3rd-Ventricle", "ICV"}
    curve = curves[curves["structure"] == "Hippocampus"]
    assert np.abs(curve["median_mm3"] - planted_median(curve["age_years"].to_numpy())).max() < 300
    assert (curve["low_mm3"] < curve["high_mm3"]).all()
    assert (curve["centile5_mm3"] < curve["centile25_mm3"]).all()
    summary = tsv.read(tmp_path / "out" / "ageing_summary.tsv", numbers=ageing.SUMMARY_COLUMNS[1:-1])
    row = summary.set_index("structure").loc["Hippocampus"]
    assert row["icv_coefficient"] == pytest.approx(0.004, abs=0.001)
    assert row["male_minus_female_mm3"] == pytest.approx(200, abs=200)
    assert row["knots"] == 6 and 45 < row["peak_age_years"] < 70
    # The planted curve has its largest value at 57.5 years.
    assert 35 < row["peak_low_years"] <= 57.5 <= row["peak_high_years"] < 85
    expected = np.polyfit(age := np.linspace(20, 90, 701), planted_median(age), 1)[0]
    assert row["slope_mm3_per_year"] == pytest.approx(expected, abs=4)
    assert row["slope_low_mm3_per_year"] < expected < row["slope_high_mm3_per_year"]


def straight(table: pd.DataFrame) -> dict[str, float]:
    return ageing.straight(
        table["Hippocampus"].to_numpy(),
        table["age_years"].to_numpy(),
        covariates=ageing.covariates_of(table, "Hippocampus")[1],
        groups=pd.factorize(table["participant_id"])[0],
        confidence=0.95,
    )


def test_linear_fit_agrees_with_statsmodels():
    from statsmodels.api import OLS, add_constant

    table = simulate(1, 400)
    covariates = ageing.covariates_of(table, "Hippocampus")[1]
    age, groups = table["age_years"].to_numpy(), pd.factorize(table["participant_id"])[0]
    found = straight(table)
    model = OLS(table["Hippocampus"].to_numpy(), add_constant(np.column_stack([age, covariates])))
    reference = model.fit(cov_type="cluster", cov_kwds={"groups": groups}, use_t=True)
    assert found["slope_mm3_per_year"] == pytest.approx(reference.params[1])
    reach = found["slope_high_mm3_per_year"] - found["slope_mm3_per_year"]
    assert reach == pytest.approx(1.97 * reference.bse[1], rel=0.03)


def test_error_of_single_scans_is_hc2():
    from statsmodels.api import OLS, add_constant

    table = simulate(3, 25).drop_duplicates("participant_id")
    covariates, age = ageing.covariates_of(table, "Hippocampus")[1], table["age_years"].to_numpy()
    volume = table["Hippocampus"].to_numpy()
    line = linear.fit(volume, age, covariates=covariates, groups=np.arange(25))
    reference = OLS(volume, add_constant(np.column_stack([age, covariates]))).fit(cov_type="HC2")
    assert np.sqrt(np.sum(line.contributions**2)) == pytest.approx(reference.bse[1])
    assert 10 < line.freedom < 21


def test_two_ages_make_welchs_test():
    """The slope is a difference of means; of groups of one size Bell and McCaffrey's freedom is 2 n − 2."""
    from scipy.stats import ttest_ind

    volume, age = np.random.default_rng(0).normal(size=24) + np.repeat([0.0, 1.0], 12), np.repeat([40.0, 41.0], 12)
    line = linear.fit(volume, age, covariates=np.empty((24, 0)), groups=np.arange(24))
    reference = ttest_ind(volume[12:], volume[:12])
    low, high, p_value = linear.inference(line, confidence=0.95)
    assert line.freedom == pytest.approx(22) and p_value == pytest.approx(reference.pvalue)
    assert (low, high) == pytest.approx(tuple(reference.confidence_interval(0.95)))


def test_scans_said_twice_change_neither_slope_nor_error():
    table = simulate(3, 25)
    once, twice = straight(table), straight(pd.concat([table, table]))
    assert twice == {name: pytest.approx(value, rel=1e-6) for name, value in once.items()}


def test_slope_p_and_r_of_single_scans_are_scipys():
    """Without covariates and with one scan each; the error is near the textbook's."""
    from scipy.stats import linregress

    table = simulate(2, 300).drop_duplicates("participant_id").assign(male=1.0, ICV=1.5e6)
    found, reference = straight(table), linregress(table["age_years"], table["Hippocampus"])
    assert found["slope_mm3_per_year"] == pytest.approx(reference.slope)
    assert found["pearson_r"] == pytest.approx(reference.rvalue)
    assert np.log10(found["p_value"]) == pytest.approx(np.log10(reference.pvalue), rel=0.2)


def test_rerun_leaves_every_file_alone(tmp_path):
    volumes, people = write_inputs(tmp_path, simulate(0, 30))
    out = tmp_path / "out"
    call(volumes, people, out)
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    tables = {"ageing_curves.tsv", "ageing_summary.tsv", "ageing_scores.tsv"}
    assert set(before) == {*tables, "ageing.json", "ageing.png"}
    call(volumes, people, out)
    assert before == {path.name: path.stat().st_mtime_ns for path in out.iterdir()}


def test_scores_are_standard_normal_and_follow_the_centiles(tmp_path):
    table = simulate(0, 300)
    volumes, people = write_inputs(tmp_path, table)
    assert call(volumes, people, tmp_path / "out") == 0
    numbers = ("age_years", "corrected_mm3", "centile", "z")
    scores = tsv.read(tmp_path / "out" / "ageing_scores.tsv", numbers=numbers)
    assert list(scores)[:3] == ["participant_id", "session_id", "scan_id"]
    assert scores.groupby("structure").size().eq(len(table)).all()
    mine = scores[scores["structure"] == "Hippocampus"]
    np.testing.assert_allclose(norm.cdf(mine["z"]) * 100, mine["centile"], atol=0.01)
    assert mine["z"].mean() == pytest.approx(0, abs=0.1) and mine["z"].std() == pytest.approx(1, abs=0.1)
    curves = tsv.read(tmp_path / "out" / "ageing_curves.tsv", numbers=ageing.CURVE_COLUMNS[1:])
    curve = curves[curves["structure"] == "Hippocampus"]
    for centile in ageing.CENTILES:
        at_age = np.interp(mine["age_years"], curve["age_years"], curve[f"centile{centile}_mm3"])
        agree = (mine["corrected_mm3"] < at_age) == (mine["centile"] < centile)
        assert agree.mean() > 0.99


def test_reference_group_is_fitted_alone_and_everybody_scored(tmp_path):
    table = simulate(0, 200)
    is_ill = table["participant_id"].str[-1] == "7"
    table["Hippocampus"] -= 1500 * is_ill
    table.loc[table.index[table["participant_id"] == "sub-7"], "age_years"] = 97.0
    volumes, people = write_inputs(tmp_path, table)
    known = tsv.read(people)
    tsv.write(known.assign(diagnosis=np.where(known["participant_id"].str[-1] == "7", "AD", "Control")), people)
    assert call(volumes, people, tmp_path / "out", "--reference-group", "Control") == 0
    controls = tmp_path / "controls"
    controls.mkdir()
    assert call(*write_inputs(controls, table[~is_ill]), controls / "out") == 0
    curves = [folder / "out" / "ageing_curves.tsv" for folder in (tmp_path, controls)]
    assert curves[0].read_text() == curves[1].read_text()
    scores = tsv.read(tmp_path / "out" / "ageing_scores.tsv", numbers=("z",)).query("structure == 'Hippocampus'")
    ill = scores[scores["participant_id"].str[-1] == "7"]
    assert ill["z"].median() < -1.5 < -0.2 < scores.drop(ill.index)["z"].median()
    old = scores[scores["participant_id"] == "sub-7"]
    assert old["z"].isna().all() and old["note"].str.contains("age outside the reference").all()
    assert json.loads((tmp_path / "out" / "ageing.json").read_text())["reference_group"] == "Control"


def test_reference_group_of_one_sex_scores_that_sex(tmp_path):
    table = simulate(0, 100)
    fit = ageing.fit_structure(table[table["male"] == 1], "Hippocampus", ageing.Settings(replicates=100))
    inside = table[table["age_years"].between(*fit.model.age_range_years)]
    scores = ageing.score(inside, fit.model)
    assert (scores["z"].notna() == (inside["male"] == 1)).all()
    assert scores.loc[inside["male"] == 0, "note"].eq("nobody of this sex in the reference").all()


def test_a_reference_group_that_nobody_is_in_is_named(tmp_path, capsys):
    volumes, people = write_inputs(tmp_path, simulate(0, 20))
    assert call(volumes, people, tmp_path / "out", "--reference-group", "Control") == 65
    assert "lacks the column diagnosis" in capsys.readouterr().err
    tsv.write(tsv.read(people).assign(diagnosis="AD"), people)
    assert call(volumes, people, tmp_path / "out", "--reference-group", "Control") == 65
    assert "nobody has the diagnosis 'Control'; there are: AD" in capsys.readouterr().err


def test_a_flat_curve_has_no_clear_peak():
    rng = np.random.default_rng(0)
    flat = simulate(0, 60).assign(Hippocampus=lambda t: 8000 + 300 * rng.normal(size=len(t)))
    summary = ageing.fit_structure(flat, "Hippocampus", ageing.Settings(replicates=100)).summary
    assert "no clear peak" in summary["note"] or "no peak" in summary["note"]


def test_one_participant_with_many_scans_is_a_documented_na(tmp_path):
    table = simulate(0, 40).assign(participant_id="sub-0", age_years=50.0, male=1.0)
    volumes, people = write_inputs(tmp_path, table)
    assert call(volumes, people, tmp_path / "out") == 0
    summary = tsv.read(tmp_path / "out" / "ageing_summary.tsv").set_index("structure")
    assert "1 participants, 20 are the least" in summary.loc["Hippocampus", "note"]


def test_people_twice_in_their_table_are_refused(tmp_path, capsys):
    volumes, people = write_inputs(tmp_path, simulate(0, 20))
    lines = people.read_text().splitlines()
    people.write_text("\n".join([*lines, lines[1]]) + "\n")
    assert call(volumes, people, tmp_path / "out") == 65
    assert f"people.tsv: lines 2 and {len(lines) + 1} are both for participant_id sub-0" in capsys.readouterr().err


def test_few_participants_use_few_knots_and_say_so(tmp_path):
    volumes, people = write_inputs(tmp_path, simulate(0, 30))
    call(volumes, people, tmp_path / "out")
    assert any(
        note.startswith("3 knots instead of 6")
        for note in json.loads((tmp_path / "out/ageing.json").read_text())["notes"]
    )


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda table: table.head(3), "participants, 20 are the least"),
        (lambda table: table.head(0), "There are no volumes."),
        (lambda table: table.assign(age_years=50.0), "ages span 0 years"),
        (lambda table: table.assign(Hippocampus=100.0), "the same"),
        (lambda table: table.assign(age_years=np.nan), "0 participants"),
    ],
)
def test_what_cannot_be_fitted_is_a_documented_na(tmp_path, spoil, reason):
    table = spoil(simulate(0, 40))
    volumes, people = write_inputs(tmp_path, table if len(table) else simulate(0, 40))
    if not len(table):
        volumes.write_text("participant_id\tsession_id\tscan_id\tstructure\tvolume_mm3\n")
    assert call(volumes, people, tmp_path / "out") == 0
    summary = tsv.read(tmp_path / "out" / "ageing_summary.tsv").set_index("structure")
    notes = json.loads((tmp_path / "out" / "ageing.json").read_text())["notes"]
    assert any("knots" in note for note in notes) == summary["knots"].ne(tsv.MISSING).any(), "where a curve was fitted"
    if len(table):
        assert reason in summary.loc["Hippocampus", "note"]
        assert summary.loc["Hippocampus", "slope_mm3_per_year"] == tsv.MISSING
    else:
        assert summary.empty
        assert notes == [reason]
        assert "no volumes" in ageing.draw({}, table).texts[0].get_text()
        assert tsv.read(tmp_path / "out" / "ageing_scores.tsv").columns[0] == "participant_id"
    assert (tmp_path / "out" / "ageing.png").stat().st_size > 0


def test_one_sex_unknown_sex_and_missing_values(tmp_path):
    table = simulate(0, 40)
    table.loc[0, "Hippocampus"] = np.nan
    one_sex = ageing.fit_structure(table.assign(male=1.0), "Hippocampus", ageing.Settings(replicates=100))
    assert np.isnan(one_sex.summary["male_minus_female_mm3"]) and one_sex.summary["note"].startswith("1 row without")
    volumes, people = write_inputs(tmp_path, table)
    people.write_text(people.read_text().replace("\tM\n", "\tn/a\n").replace("\tF\n", "\tO\n"))
    assert call(volumes, people, tmp_path / "out") == 0
    assert "Nobody's sex" in (tmp_path / "out" / "ageing.json").read_text()


def test_sexes_are_bids_words_and_strangers_are_said(tmp_path):
    table = simulate(0, 40)
    volumes, people = write_inputs(tmp_path, table)
    assert call(volumes, people, tmp_path / "letters") == 0
    known = tsv.read(people)
    tsv.write(known.assign(sex=known["sex"].map({"M": "male", "F": "Female"})), people)
    assert call(volumes, people, tmp_path / "words") == 0
    assert (tmp_path / "letters/ageing_scores.tsv").read_text() == (tmp_path / "words/ageing_scores.tsv").read_text()
    tsv.write(known.assign(participant_id="x" + known["participant_id"]), people)
    assert call(volumes, people, tmp_path / "strangers") == 0
    notes = json.loads((tmp_path / "strangers" / "ageing.json").read_text())["notes"]
    assert notes[0] == f"{len(table)} rows left out, as the table of participants lacks their participant_id."
    assert not any("sex" in note for note in notes)


def test_degenerate_cohorts_give_numbers_or_a_reason():
    settings, table = ageing.Settings(replicates=100), simulate(0, 40)
    men = ["sub-3"]
    one_man = ageing.fit_structure(table.assign(male=table["participant_id"].isin(men) * 1.0), "Hippocampus", settings)
    assert np.isfinite(one_man.summary["p_value"]) and len(one_man.curve)
    bound = ageing.fit_structure(table.assign(ICV=1.4e6 + 1e5 * table["male"]), "Hippocampus", settings)
    assert "cannot be told apart" in bound.summary["note"]
    without_icv = ageing.fit_structure(table.drop(columns="ICV"), "Hippocampus", settings)
    assert "no ICV" in without_icv.summary["note"] and without_icv.curve.empty
    ages = np.where(np.arange(len(table)) < 2, 70.0, 50.0)
    assert np.isfinite(
        ageing.fit_structure(table.assign(age_years=ages), "Hippocampus", settings).curve["median_mm3"]
    ).all()
    explained = ageing.fit_structure(table.assign(Hippocampus=0.3 * table["ICV"]), "Hippocampus", settings)
    assert "ICV and sex leave no scatter" in explained.summary["note"] and np.isnan(explained.summary["p_value"])
    exact = ageing.fit_structure(table.assign(Hippocampus=100 - table["age_years"]), "Hippocampus", settings)
    assert exact.summary["slope_mm3_per_year"] == pytest.approx(-1)
    np.testing.assert_allclose(exact.curve["median_mm3"], 100 - exact.curve["age_years"], atol=0.01)


def test_panels_hold_all_that_is_drawn():
    table = simulate(0, 40)
    fit = ageing.fit_structure(table, "Hippocampus", ageing.Settings(replicates=100))
    (axis,) = ageing.draw({"Hippocampus": fit}, table.head(0)).axes
    bottom, top = axis.get_ylim()
    drawn = np.concatenate([line.get_ydata() for line in axis.lines])
    assert bottom < drawn.min() and drawn.max() < top and len(axis.lines) == 5


def test_ages_in_groups_give_a_reason_not_an_error():
    """Quantiles between two of the ages are knots of their own: five of them for three ages."""
    table = simulate(0, 61).drop_duplicates("participant_id", ignore_index=True)
    grouped = table.assign(age_years=np.repeat([30.0, 50.0, 70.0], [14, 22, 25]))
    fit = ageing.fit_structure(grouped, "Hippocampus", ageing.Settings(replicates=100))
    assert fit.curve.empty and "too few different ages for a curve of 5 knots" in fit.summary["note"]
    fewer = ageing.fit_structure(grouped, "Hippocampus", ageing.Settings(replicates=100, knots=2))
    assert np.isfinite(fewer.curve["median_mm3"]).all()


def test_text_for_an_age_names_file_and_line(tmp_path, capsys):
    volumes, people = write_inputs(tmp_path, simulate(0, 20))
    lines = people.read_text().splitlines()
    lines[4] = "\t".join(["sub-3", "forty", "F"])
    people.write_text("\n".join(lines) + "\n")
    assert call(volumes, people, tmp_path / "out") == 65
    message = capsys.readouterr().err
    assert "people.tsv: line 5, column age_years: 'forty'" in message
    assert not (tmp_path / "out").exists()


def test_duplicate_rows_are_refused(tmp_path, capsys):
    volumes, people = write_inputs(tmp_path, simulate(0, 20))
    lines = volumes.read_text().splitlines()
    volumes.write_text("\n".join([*lines, lines[1]]) + "\n")
    assert call(volumes, people, tmp_path / "out") == 65
    assert f"lines 2 and {len(lines) + 1} are both" in capsys.readouterr().err


def test_ages_are_joined_by_session_where_the_table_has_them(tmp_path):
    volumes = pd.DataFrame({"participant_id": ["a", "a"], "session_id": ["1", "2"], "ICV": [1.0, 2.0]})
    people = pd.DataFrame(
        {"participant_id": ["a", "a"], "session_id": ["1", "2"], "age_years": [30, 40.0], "male": 1.0}
    )
    joined, notes = cohort.with_people(volumes, people)
    assert joined["age_years"].tolist() == [30, 40] and not notes


def test_sides_are_added_only_where_both_are_there():
    wide = pd.DataFrame(
        {"ICV": [9.0, 9], "Right-Hippocampus": [1.0, np.nan], "Left-Hippocampus": [2.0, 2], "Left-Putamen": [4.0, 4]}
    )
    added = cohort.add_sides(wide)
    assert list(added.columns) == ["Left-Putamen", "Hippocampus", "ICV"]
    assert added["Hippocampus"].tolist()[0] == 3 and np.isnan(added["Hippocampus"].tolist()[1])
