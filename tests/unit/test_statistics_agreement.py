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


def test_interval_is_scipys_and_counts_participants_not_scans():
    from scipy.stats import pearsonr

    measured = TRUE + np.array([3.0, -20, 5, 9, -14, 8])
    row = agreement.compare_structure(pairs(measured, TRUE), "X")
    reference = pearsonr(measured, TRUE).confidence_interval(0.95)
    assert row["pearson_low"] == pytest.approx(reference.low, abs=1e-3)
    assert row["pearson_high"] == pytest.approx(reference.high, abs=1e-3)
    twice = pd.concat([pairs(measured, TRUE)] * 2)
    assert agreement.compare_structure(twice, "X")["pearson_low"] == pytest.approx(row["pearson_low"])


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
    tsv.write(pd.concat([table.assign(scan_id=f"scan-{i}") for i in (1, 2)]), tmp_path / "volumes.tsv")
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
    assert found.loc["ICV", "pearson_r"] == pytest.approx(1) and found.loc["ICV", "n_scans"] == 16
    assert not any(b"1.2.826" in path.read_bytes() for path in (tables / "out").iterdir())


def test_truth_by_session(tables):
    arguments = ["agreement", str(tables / "volumes.tsv"), str(tables / "truth_by_session.tsv"), "--out"]
    assert cli.main([*arguments, str(tables / "out")]) == 0
    assert (tables / "out" / "agreement.png").stat().st_size > 10_000


def test_no_common_session_is_said(tables):
    text = (tables / "truth_by_session.tsv").read_text().replace("ses-1", "ses-9")
    (tables / "other.tsv").write_text(text)
    arguments = ["agreement", str(tables / "volumes.tsv"), str(tables / "other.tsv"), "--out", str(tables / "out")]
    assert cli.main(arguments) == 0
    assert "0 scans with truth" in tsv.read(tables / "out" / "agreement.tsv").loc[0, "note"]
