"""Errors at landmarks: planted improvement, pairs as clusters, poor input."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis import cli, tsv
from analysis.statistics import landmarks

SETTINGS = landmarks.Settings(replicates=400)
NUMBERS = sorted({*landmarks.COLUMNS, *landmarks.TESTS_COLUMNS} - {"contrast", "method", "note"})


def trial(seed: int = 0, n_pairs: int = 30) -> pd.DataFrame:
    """Errors in long form; SynthSR errs 15 % less, and with less scatter on T2."""
    rng = np.random.default_rng(seed)
    rows = []
    for pair in range(n_pairs):
        difficulty = rng.normal()
        for landmark in range(int(rng.integers(4, 11))):
            for contrast, gain in (("T1", 0.85), ("T2", 0.7)):
                for spacing_mm in (5.0, 20.0):
                    direct = 3 * np.exp(0.3 * difficulty + 0.5 * rng.normal())
                    for method, error in (("direct", direct), ("synthsr", gain * direct + 0.2 * rng.normal())):
                        rows.append({"pair": f"p{pair:02d}", "contrast": contrast, "spacing_mm": spacing_mm,
                                     "method": method, "landmark": landmark, "error_mm": abs(error)})  # fmt: skip
    return pd.DataFrame(rows)


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    tsv.write(trial(), tmp_path / "errors.tsv")
    return tmp_path


def call(folder: Path) -> int:
    return cli.main(["landmarks", str(folder / "errors.tsv"), "--out", str(folder / "out"), "--replicates", "400"])


def result(folder: Path, name: str) -> pd.DataFrame:
    return tsv.read(folder / "out" / name, numbers=NUMBERS)


def test_planted_improvement_through_the_command(inputs):
    assert call(inputs) == 0
    table, tests = result(inputs, "landmarks.tsv"), result(inputs, "landmarks_tests.tsv")
    assert len(table) == 8 and len(tests) == 4
    assert list(tests["contrast"]) == ["T1", "T1", "T2", "T2"] and list(tests["spacing_mm"]) == [5, 20, 5, 20]
    errors = trial().query("contrast == 'T2' and spacing_mm == 5").pivot(
        index=["pair", "landmark"], columns="method", values="error_mm"
    )  # fmt: skip
    rows = table.query("contrast == 'T2' and spacing_mm == 5").set_index("method")
    for method in landmarks.METHODS:
        assert rows.loc[method, "mean_mm"] == pytest.approx(errors[method].mean(), rel=1e-4)
        assert rows.loc[method, "sd_mm"] == pytest.approx(errors[method].std(), rel=1e-4)
        assert rows.loc[method, "mean_low_mm"] < rows.loc[method, "mean_mm"] < rows.loc[method, "mean_high_mm"]
    row = tests.query("contrast == 'T2' and spacing_mm == 5").iloc[0]
    medians = errors.groupby("pair").median()
    assert row["medians_p"] == pytest.approx(stats.wilcoxon(medians["synthsr"] - medians["direct"]).pvalue, rel=1e-4)
    assert row["difference_mm"] == pytest.approx((errors["synthsr"] - errors["direct"]).mean(), rel=1e-4)
    assert row["difference_low_percent"] < -30 < row["difference_high_percent"] < -20
    assert row["sd_difference_high_mm"] < 0 and row["errors_p"] < 1e-4
    assert (tests["n_pairs"] == 30).all() and (tests["n_landmarks"] == len(errors)).all()
    assert json.loads((inputs / "out" / "landmarks.json").read_text())["notes"] == []
    assert (inputs / "out" / "landmarks.png").stat().st_size > 10_000


def test_rerun_leaves_every_file_alone(inputs):
    call(inputs)
    before = {path.name: path.stat().st_mtime_ns for path in (inputs / "out").iterdir()}
    assert set(before) == {"landmarks.tsv", "landmarks_tests.tsv", "landmarks.json", "landmarks.png"}
    call(inputs)
    assert before == {path.name: path.stat().st_mtime_ns for path in (inputs / "out").iterdir()}


def test_copies_of_landmarks_are_no_evidence():
    """A pair's landmarks that all say the same must leave interval and tests as with one landmark."""
    rng = np.random.default_rng(1)
    once = pd.DataFrame({"pair": np.arange(25), "direct": rng.exponential(3, 25), "synthsr": rng.exponential(3, 25)})
    (one, _), single = landmarks.compare_cell(once, SETTINGS)
    (many, _), repeated = landmarks.compare_cell(once.loc[np.repeat(np.arange(25), 8)], SETTINGS)
    assert many["mean_low_mm"] == pytest.approx(one["mean_low_mm"])
    assert repeated["difference_high_mm"] == pytest.approx(single["difference_high_mm"])
    assert repeated["medians_p"] == pytest.approx(single["medians_p"])
    assert repeated["errors_p"] == pytest.approx(single["errors_p"], abs=0.02)
    assert single["errors_p"] == pytest.approx(
        stats.wilcoxon(once["direct"], once["synthsr"], method="asymptotic", correction=False).pvalue
    )


def test_bootstrap_of_means_and_deviations_is_that_of_drawn_pairs():
    rng = np.random.default_rng(2)
    number = np.repeat(np.arange(12), rng.integers(1, 6, 12))
    errors = rng.exponential(2, (len(number), 2))
    means, deviations = landmarks.bootstrap(errors, number, SETTINGS)
    times = np.random.default_rng(SETTINGS.seed).multinomial(12, np.full(12, 1 / 12), size=SETTINGS.replicates)
    for replicate in (0, 7, 399):
        drawn = np.repeat(errors, times[replicate][number], axis=0)
        np.testing.assert_allclose(means[replicate], drawn.mean(axis=0))
        np.testing.assert_allclose(deviations[replicate], drawn.std(axis=0, ddof=1))


def test_interval_of_the_difference_covers():
    covered = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        pair = np.repeat(np.arange(25), 6)
        direct = 3 * np.exp(0.3 * rng.normal(size=25)[pair] + 0.5 * rng.normal(size=150))
        cell = pd.DataFrame(
            {"pair": pair, "direct": direct, "synthsr": direct * (0.85 + 0.1 * rng.normal(size=25)[pair])}
        )
        _, row = landmarks.compare_cell(cell, landmarks.Settings(replicates=200))
        covered.append(row["difference_low_percent"] <= -15 <= row["difference_high_percent"])
    assert 0.88 <= np.mean(covered) <= 0.99


@pytest.mark.parametrize(
    ("spoil", "note"),
    [
        (lambda table: table[table["pair"] == "p00"], "not compared: 1 pairs"),
        (lambda table: table[table["pair"] < "p02"], "not compared: 2 pairs"),
        (lambda table: table.assign(error_mm=2.5), "both methods err alike"),
    ],
)
def test_what_cannot_be_compared_is_a_documented_na(inputs, spoil, note):
    tsv.write(spoil(trial()), inputs / "errors.tsv")
    assert call(inputs) == 0
    row = result(inputs, "landmarks_tests.tsv").iloc[0]
    assert note in row["note"] and np.isnan(row["medians_p"]) and np.isnan(row["errors_p"])


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
def test_unknown_errors_leave_the_landmark_out_of_both_methods(inputs, value):
    table = trial()
    table.loc[0, "error_mm"] = value
    tsv.write(table[1:] if np.isnan(value) else table, inputs / "errors.tsv")
    assert call(inputs) == 0
    rows = result(inputs, "landmarks.tsv").query("contrast == 'T1' and spacing_mm == 5")
    assert rows["n_landmarks"].tolist() == [len(trial()) // 8 - 1] * 2
    assert json.loads((inputs / "out" / "landmarks.json").read_text())["notes"] == [
        "1 row without the error of both methods left out."
    ]


def test_one_method_or_no_rows_give_a_note(inputs):
    whole = trial()
    for table, note in ((whole[whole["method"] == "direct"], "rows without the error"), (whole.head(0), "no errors")):
        tsv.write(table, inputs / "errors.tsv")
        assert call(inputs) == 0
        assert result(inputs, "landmarks.tsv").empty
        assert note in json.loads((inputs / "out" / "landmarks.json").read_text())["notes"][0]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda text: text.replace("synthsr", "cubic", 1), "line 3: the method is not direct or synthsr"),
        (lambda text: text.replace("\t5\t", "\tn/a\t", 1), "line 2: spacing_mm is no positive number"),
        (lambda text: text.replace("error_mm", "error"), "lacks the column error_mm"),
        (lambda text: text + text.splitlines()[1] + "\n", "are both for pair p00"),
        (lambda text: text.replace("\t5\t", "\tfive\t", 1), "'five' is not a number"),
    ],
)
def test_wrong_errors_are_refused_by_line(inputs, spoil, message, capsys):
    (inputs / "errors.tsv").write_text(spoil((inputs / "errors.tsv").read_text()))
    assert call(inputs) == 65
    assert message in capsys.readouterr().err and not (inputs / "out").exists()
