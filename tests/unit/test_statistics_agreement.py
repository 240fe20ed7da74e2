"""Measured against true volumes: known answers, links, poor input."""

import numpy as np
import pandas as pd
import pytest

from analysis import cli, tsv
from analysis.statistics import agreement


def pairs(measured, true) -> pd.DataFrame:
    return pd.DataFrame(
        {"participant_id": [str(i) for i in range(len(true))], "X": np.asarray(measured, float), "X true": true}
    )


TRUE = np.array([100.0, 110, 120, 130, 150, 170])


def test_identical_volumes_agree_perfectly():
    row = agreement.compare_structure(pairs(TRUE, TRUE), "X")
    for column in ("pearson_r", "spearman_r", "concordance"):
        assert row[column] == pytest.approx(1)
    assert row["bias_mm3"] == row["limit_low_mm3"] == row["mean_absolute_error_percent"] == 0


def test_a_shift_is_bias_and_lowers_concordance_only():
    row = agreement.compare_structure(pairs(TRUE + 10, TRUE), "X")
    assert row["pearson_r"] == pytest.approx(1) and row["bias_mm3"] == pytest.approx(10)
    assert row["limit_low_mm3"] == pytest.approx(10) and row["limit_high_mm3"] == pytest.approx(10)
    assert row["concordance"] == pytest.approx(2 * TRUE.var() / (2 * TRUE.var() + 100))
    assert row["bias_percent"] == pytest.approx(np.mean(10 / TRUE * 100))


def normal_pairs(n: int, *, scans: int = 1, seed: int = 0) -> pd.DataFrame:
    """Pairs of volumes with a correlation of 0.8, ``scans`` of each participant."""
    rng = np.random.default_rng(seed)
    person = np.repeat(np.arange(n), scans)
    true = 100 + 10 * rng.normal(size=n)[person]
    measured = 20 + 0.8 * true + 4 * rng.normal(size=n)[person] + 4 * rng.normal(size=len(person))
    return pairs(measured, true).assign(participant_id=person.astype(str))


def test_everything_against_direct_formulas():
    from scipy.stats import pearsonr, spearmanr

    table = normal_pairs(40)
    measured, true = table["X"].to_numpy(), table["X true"].to_numpy()
    row = agreement.compare_structure(table, "X")
    assert row["pearson_r"] == pytest.approx(pearsonr(measured, true).statistic)
    assert row["spearman_r"] == pytest.approx(spearmanr(measured, true).statistic)
    # Lin 1989: one less the mean square difference over what it would be without correlation.
    apart = measured.var() + true.var() + (measured.mean() - true.mean()) ** 2
    assert row["concordance"] == pytest.approx(1 - np.mean((measured - true) ** 2) / apart)
    assert row["mean_absolute_error_percent"] == pytest.approx(100 * np.mean(np.abs(measured - true) / true))


def test_intervals_of_single_scans_are_the_textbooks():
    from scipy.stats import chi2, pearsonr, t

    table = normal_pairs(400)
    measured, true = table["X"].to_numpy(), table["X true"].to_numpy()
    row = agreement.compare_structure(table, "X")
    reference = pearsonr(measured, true).confidence_interval(0.95)
    assert row["pearson_low"] == pytest.approx(reference.low, abs=0.01)
    assert row["pearson_high"] == pytest.approx(reference.high, abs=0.01)
    difference = measured - true
    reach = t.ppf(0.975, 399) * difference.std(ddof=1) / np.sqrt(400)
    assert row["bias_low_mm3"] == pytest.approx(difference.mean() - reach, abs=1e-6)
    assert row["bias_high_mm3"] == pytest.approx(difference.mean() + reach, abs=1e-6)
    # The standard deviation's interval is near that of chi-square.
    ends = difference.std(ddof=1) * np.sqrt(399 / chi2.ppf([0.975, 0.025], 399))
    assert (row["spread_low_mm3"], row["spread_high_mm3"]) == pytest.approx(tuple(ends), rel=0.03)
    # Bland & Altman 1986: the standard error of a limit is about the root of 3 s² / n.
    half = (row["limit_high_to_mm3"] - row["limit_high_from_mm3"]) / 2
    assert half == pytest.approx(1.966 * np.sqrt(3 * difference.var(ddof=1) / 400), rel=0.1)


def test_the_same_scan_twice_does_not_narrow_intervals():
    table = normal_pairs(30)
    once, twice = (agreement.compare_structure(rows, "X") for rows in (table, pd.concat([table] * 2)))
    for name, ends in agreement.INTERVALS.items():
        if not name.startswith(("limit", "spread")):  # The standard deviation has n − 1 in it.
            for column in (name, *ends):
                assert twice[column] == pytest.approx(once[column]), column
    assert twice["n_scans"] == 2 * once["n_scans"] and twice["n_participants"] == once["n_participants"]


def test_limits_of_several_scans_each_by_hand():
    """Bland & Altman 2007: 2, 2 and 3 scans; analysis of variance worked out here."""
    difference = np.array([1.0, 3, 6, 8, 0, 1, 2])
    table = pairs(100 + difference, np.full(7, 100.0)).assign(participant_id=list("aabbccc"))
    within = (2 + 2 + 2) / (7 - 3)
    means, counts = np.array([2.0, 7, 1]), np.array([2, 2, 3])
    between = np.sum(counts * (means - 3) ** 2) / 2
    spread = np.sqrt(within + (between - within) / ((7 - (4 + 4 + 9) / 7) / 2))
    row = agreement.compare_structure(table, "X")
    assert row["bias_mm3"] == pytest.approx(3)
    assert row["limit_low_mm3"] == pytest.approx(3 - 1.96 * spread)
    assert row["limit_high_mm3"] == pytest.approx(3 + 1.96 * spread)
    assert spread > difference.std(ddof=1)


def test_limits_of_single_scans_by_hand():
    row = agreement.compare_structure(pairs([12, 9, 15], [10.0, 10, 10]), "X")
    assert row["limit_low_mm3"] == pytest.approx(2 - 1.96 * 3) and row["limit_high_mm3"] == pytest.approx(2 + 1.96 * 3)


@pytest.mark.parametrize(
    ("measured", "true", "note"),
    [([1, 2], [1.0, 2], "2 scans"), ([1, 2, np.nan], [1.0, 2, 3], "2 scans"), ([5, 5, 5], [1.0, 2, 3], "the same")],
)
def test_too_few_or_no_variance_is_a_documented_na(measured, true, note):
    row = agreement.compare_structure(pairs(measured, true), "X")
    assert np.isnan(row["pearson_r"]) and note in row["note"]


def test_zero_true_volume_gives_no_percentage():
    row = agreement.compare_structure(pairs([1, 2, 3], [0.0, 2, 3]), "X")
    assert np.isnan(row["bias_percent"]) and row["bias_mm3"] == pytest.approx(1 / 3)
    assert row["note"] == "no percentages: a true volume is zero"


def test_one_participant_has_no_intervals():
    row = agreement.compare_structure(pairs([1, 2, 4], [1.0, 2, 3]).assign(participant_id="a"), "X")
    assert row["pearson_r"] > 0.9 and np.isnan(row["pearson_low"])
    assert row["note"] == "no intervals: 1 participants, 3 are the least"


@pytest.fixture
def tables(tmp_path):
    rng = np.random.default_rng(0)
    rows = [
        {
            "participant_id": f"sub-{p}",
            "session_id": "ses-1",
            "structure": name,
            "volume_mm3": base * (1 + 0.1 * rng.normal()),
        }
        for p in range(8)
        for name, base in (("Left-Thalamus", 7000), ("Right-Thalamus", 7000), ("ICV", 1.5e6))
    ]
    table = pd.DataFrame(rows)
    uid = "1.2.826." + table["participant_id"].str[4:]
    scans = [
        table.assign(scan_id=table["participant_id"] + contrast, contrast=contrast, spacing_mm=spacing)
        for contrast, spacing in (("T1w", 1.0), ("FLAIR", 5.0), ("T2w", 6.0))
    ]
    tsv.write(pd.concat(scans), tmp_path / "volumes.tsv")
    tsv.write(table.assign(study_uid=uid)[["study_uid", "structure", "volume_mm3"]], tmp_path / "truth.tsv")
    links = table.assign(study_uid=uid)[["participant_id", "session_id", "study_uid"]].drop_duplicates()
    tsv.write(links.assign(patient="secret"), tmp_path / "links.tsv")
    tsv.write(table, tmp_path / "truth_by_session.tsv")
    return tmp_path


def test_truth_by_study_uid_through_links_leaves_no_uid(tables):
    arguments = ["agreement", str(tables / "volumes.tsv"), str(tables / "truth.tsv"), "--out", str(tables / "out")]
    assert cli.main(arguments) == 65
    assert cli.main([*arguments, "--links", str(tables / "links.tsv")]) == 0
    found = tsv.read(tables / "out" / "agreement.tsv", numbers=("pearson_r", "n_scans")).set_index("structure")
    assert list(found.index) == ["Thalamus", "ICV"]
    assert found.loc["ICV", "pearson_r"] == pytest.approx(1) and found.loc["ICV", "n_scans"] == 8
    assert not any(b"1.2.826" in path.read_bytes() for path in (tables / "out").iterdir())


def call(tables, *more: str) -> int:
    given = [str(tables / "volumes.tsv"), str(tables / "truth_by_session.tsv"), "--out", str(tables / "out")]
    return cli.main(["agreement", *given, *more])


def test_scans_are_compared_by_spacing_and_contrast(tables):
    volumes = tsv.read(tables / "volumes.tsv", numbers=("volume_mm3",))
    rng = np.random.default_rng(1)
    worse = volumes["volume_mm3"] * (1 + 0.2 * rng.normal(size=len(volumes)))
    volumes["volume_mm3"] = volumes["volume_mm3"].where(volumes["contrast"] != "T2w", worse)
    tsv.write(volumes, tables / "volumes.tsv")
    assert call(tables) == 0
    scans = tsv.read(tables / "out" / "agreement_scans.tsv", numbers=("pearson_r", "n_scans", "n_participants"))
    icv = scans[scans["structure"] == "ICV"].set_index(["group_by", "group"])
    assert list(icv.index) == [
        ("all", "all"),
        *(("spacing", group) for group in ("under 2 mm", "4–6 mm", "6 mm and more")),
        *(("contrast", group) for group in ("FLAIR", "T1w", "T2w")),
    ]
    assert icv["n_scans"].tolist() == [24] + 6 * [8] and (icv["n_participants"] == 8).all()
    assert icv.loc[("spacing", "4–6 mm"), "pearson_r"] == pytest.approx(1)
    assert icv.loc[("spacing", "6 mm and more"), "pearson_r"] == icv.loc[("contrast", "T2w"), "pearson_r"] < 0.9
    # The median of two good scans and a bad one is good.
    assert tsv.read(tables / "out" / "agreement.tsv", numbers=("pearson_r",))["pearson_r"].min() == pytest.approx(1)


def test_published_layout_repeats_the_tables(tables):
    assert call(tables) == 0
    wide = tsv.read(tables / "out" / "agreement_pearson.tsv", numbers=("Thalamus", "ICV", "n_scans"))
    assert list(wide) == ["level", "group_by", "group", "n_scans", "n_participants", "Thalamus", "ICV"]
    assert wide["level"].tolist() == ["session", *7 * ["scan"]] and wide["n_scans"].tolist() == [8, 24, *6 * [8]]
    scans = tsv.read(tables / "out" / "agreement_scans.tsv", numbers=("pearson_r",))
    np.testing.assert_allclose(wide["ICV"].iloc[1:], scans.loc[scans["structure"] == "ICV", "pearson_r"])


def test_volumes_of_sessions_are_compared_without_scans(tables):
    volumes = tsv.read(tables / "volumes.tsv").query("contrast == 'T1w'").drop(columns="scan_id")
    tsv.write(volumes, tables / "volumes.tsv")
    assert call(tables) == 0
    assert len(tsv.read(tables / "out" / "agreement.tsv")) == 2
    assert tsv.read(tables / "out" / "agreement_scans.tsv").empty
    assert "nothing is compared per scan" in (tables / "out" / "agreement.json").read_text()


def test_unknown_spacing_and_contrast_are_in_no_group(tables):
    volumes = tsv.read(tables / "volumes.tsv").assign(spacing_mm="n/a").drop(columns="contrast")
    tsv.write(volumes, tables / "volumes.tsv")
    assert call(tables) == 0
    assert set(tsv.read(tables / "out" / "agreement_scans.tsv")["group"]) == {"all"}


def test_figures_show_panels(tables):
    assert call(tables) == 0
    for name in ("agreement.png", "agreement_differences.png"):
        assert (tables / "out" / name).stat().st_size > 10_000


def test_duplicate_rows_are_refused(tables, capsys):
    lines = (tables / "truth_by_session.tsv").read_text().splitlines()
    (tables / "truth_by_session.tsv").write_text("\n".join([*lines, lines[1]]) + "\n")
    assert call(tables) == 65
    assert f"truth_by_session.tsv: lines 2 and {len(lines) + 1} are both" in capsys.readouterr().err


def test_a_session_of_two_studies_is_refused(tables, capsys):
    links = tsv.read(tables / "links.tsv")
    tsv.write(links.assign(session_id="ses-1", participant_id="sub-0"), tables / "links.tsv")
    given = [str(tables / "volumes.tsv"), str(tables / "truth.tsv"), "--links", str(tables / "links.tsv")]
    assert cli.main(["agreement", *given, "--out", str(tables / "out")]) == 65
    message = capsys.readouterr().err
    assert "links.tsv: lines 2 and 3 are both for participant_id sub-0" in message and "1.2.826" not in message


def test_truth_of_several_scans_is_their_median(tables):
    truth = tsv.read(tables / "truth_by_session.tsv", numbers=("volume_mm3",))
    scans = [truth.assign(scan_id=f"run-{run}", volume_mm3=truth["volume_mm3"] * off)
             for run, off in enumerate((1.0, 0.2, 3.0))]  # fmt: skip
    tsv.write(pd.concat(scans), tables / "truth_by_session.tsv")
    assert call(tables) == 0
    found = tsv.read(tables / "out" / "agreement.tsv", numbers=("bias_mm3", "concordance"))
    assert found["concordance"].tolist() == pytest.approx([1, 1]) and found["bias_mm3"].abs().max() < 1e-3


def test_scans_of_different_people_may_have_one_name(tables):
    """As where scans are called by their run: their spacing and contrast are their own."""
    volumes = tsv.read(tables / "volumes.tsv")
    volumes["scan_id"] = "run-1"
    own = {f"sub-{p}": ("T1w", 1.0) if p < 3 else ("FLAIR", 5.0) for p in range(8)}
    kept = volumes[volumes["contrast"] == volumes["participant_id"].map({p: c for p, (c, _) in own.items()})]
    tsv.write(kept, tables / "volumes.tsv")
    assert call(tables) == 0
    scans = tsv.read(tables / "out" / "agreement_scans.tsv", numbers=("n_scans",)).query("structure == 'ICV'")
    assert scans.set_index("group")["n_scans"].to_dict() == {"all": 8, "under 2 mm": 3, "4–6 mm": 5, "FLAIR": 5,
                                                             "T1w": 3}  # fmt: skip


def test_missing_and_impossible_volumes_leave_their_scan_out(tables):
    volumes = tsv.read(tables / "volumes.tsv")
    is_icv = volumes.index[volumes["structure"] == "ICV"]
    for place, text in zip(is_icv, ("n/a", "", "inf", "-5"), strict=False):
        volumes.loc[place, "volume_mm3"] = text
    tsv.write(volumes, tables / "volumes.tsv")
    assert call(tables) == 0
    scans = tsv.read(tables / "out" / "agreement_scans.tsv", numbers=("n_scans", "pearson_r"))
    icv = scans[(scans["structure"] == "ICV") & (scans["group"] == "all")].iloc[0]
    assert icv["n_scans"] == 20 and icv["pearson_r"] == pytest.approx(1)


def aged(n: int = 60, *, seed: int = 1) -> pd.DataFrame:
    """Sessions whose true volume loses 20 mm³ a year; a quarter of that is not measured."""
    rng = np.random.default_rng(seed)
    age, male = rng.uniform(20, 90, n), rng.integers(0, 2, n).astype(float)
    icv = 1.45e6 + 1e5 * male + 1e5 * rng.normal(size=n)
    true = 8000 - 20 * (age - 55) + 0.004 * (icv - icv.mean()) + 100 * rng.normal(size=n)
    measured = 9000 + 0.75 * (true - 8000) + 60 * rng.normal(size=n)
    keys = {"participant_id": [f"sub-{i}" for i in range(n)], "session_id": "ses-1"}
    volumes = {"Hippocampus": measured, "Hippocampus true": true, "ICV": 1.05 * icv, "ICV true": icv}
    return pd.DataFrame({**keys, "age_years": age, "male": male, **volumes})


def test_slopes_are_measured_and_true_and_their_difference():
    row = agreement.compare_slopes(aged(), "Hippocampus")
    for which, planted in (("true", -20), ("measured", -15), ("difference", 5)):
        low, high = row[f"{which}_low_mm3_per_year"], row[f"{which}_high_mm3_per_year"]
        assert low < planted < high and row[f"{which}_mm3_per_year"] == pytest.approx((low + high) / 2)
    assert row["p_value"] < 1e-6
    difference = row["measured_mm3_per_year"] - row["true_mm3_per_year"]
    assert row["difference_mm3_per_year"] == pytest.approx(difference)
    # Paired: narrower than two independent slopes would allow.
    reach = {w: row[f"{w}_high_mm3_per_year"] - row[f"{w}_mm3_per_year"] for w in ("true", "measured", "difference")}
    assert reach["difference"] < np.hypot(reach["true"], reach["measured"])


def test_slopes_need_ages_icv_and_people():
    assert "20 are the least" in agreement.compare_slopes(aged(10), "Hippocampus")["note"]
    without = aged().drop(columns="ICV true")
    assert agreement.compare_slopes(without, "Hippocampus")["note"] == "not compared: no measured and true ICV"
    same = agreement.compare_slopes(aged().assign(Hippocampus=5.0), "Hippocampus")
    assert np.isnan(same["p_value"]) and same["note"].startswith("not compared: measured volumes: more than half")


def test_slopes_through_the_command(tables):
    table = aged()
    keys = ["participant_id", "session_id"]
    for name, suffix in (("volumes.tsv", ""), ("truth_by_session.tsv", " true")):
        wide = table[[*keys, f"Hippocampus{suffix}", f"ICV{suffix}"]]
        wide.columns = [*keys, "Hippocampus", "ICV"]
        tsv.write(wide.melt(keys, var_name="structure", value_name="volume_mm3"), tables / name)
    people = table.assign(sex=table["male"].map({1.0: "M", 0.0: "F"}))[["participant_id", "age_years", "sex"]]
    people.loc[0, "age_years"] = np.nan
    tsv.write(people, tables / "people.tsv")
    assert call(tables, "--participants", str(tables / "people.tsv")) == 0
    slopes = tsv.read(tables / "out" / "agreement_slopes.tsv", numbers=agreement.SLOPE_COLUMNS[1:-1])
    row = slopes.set_index("structure").loc["Hippocampus"]
    assert row["n_participants"] == 59 and row["difference_low_mm3_per_year"] < 5 < row["difference_high_mm3_per_year"]
    assert "Slopes: 1 row without a known age left out." in (tables / "out" / "agreement.json").read_text()


def test_no_common_session_is_said(tables):
    text = (tables / "truth_by_session.tsv").read_text().replace("ses-1", "ses-9")
    (tables / "other.tsv").write_text(text)
    arguments = ["agreement", str(tables / "volumes.tsv"), str(tables / "other.tsv"), "--out", str(tables / "out")]
    assert cli.main(arguments) == 0
    assert "0 scans with truth" in tsv.read(tables / "out" / "agreement.tsv").loc[0, "note"]
