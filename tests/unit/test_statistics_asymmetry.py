"""Volumes beside and opposite a lesion: the two-thirds rule, planted loss, sessions, poor input."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis import cli, tsv
from analysis.statistics import asymmetry, cohort

LOSS = {"Thalamus": 0.15, "Hippocampus": 0.0, "Putamen": 0.1}


def clinic(seed: int = 0, n: int = 80) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Volumes of both sides in long form, two scans each, and lesions; the larger the lesion, the greater the loss."""
    rng = np.random.default_rng(seed)
    lesion, share = rng.lognormal(9, 1, n), rng.uniform(0.75, 1, n)
    is_left = np.arange(n) % 2 == 0
    rows = []
    for person in range(n):
        key = {"participant_id": f"sub-{person:02d}", "session_id": "ses-1"}
        for name, loss in LOSS.items():
            head = 5000 * (1 + 0.05 * rng.normal())
            for side in ("Left", "Right"):
                hit = (side == "Left") == is_left[person]
                volume = head * (1 - hit * loss * (0.5 + stats.norm.cdf(np.log(lesion[person]) - 9)))
                volume *= 1 + 0.02 * rng.normal()
                of_scan = {**key, "structure": f"{side}-{name}"}
                rows += [{**of_scan, "scan_id": f"{person}_{scan}", "volume_mm3": volume + off}
                         for scan, off in (("a", -10), ("b", 10))]  # fmt: skip
        rows += [{**key, "scan_id": f"{person}_{scan}", "structure": "Brain-Stem", "volume_mm3": 2e4} for scan in "ab"]
    left = lesion * np.where(is_left, share, 1 - share)
    lesions = pd.DataFrame({"participant_id": [f"sub-{i:02d}" for i in range(n)], "left_mm3": left,
                            "right_mm3": lesion - left})  # fmt: skip
    return pd.DataFrame(rows), lesions


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    volumes, lesions = clinic()
    tsv.write(volumes, tmp_path / "volumes.tsv")
    tsv.write(lesions, tmp_path / "lesions.tsv")
    return tmp_path


def call(folder: Path, *extra: str) -> int:
    tables = [str(folder / "volumes.tsv"), "--lesions", str(folder / "lesions.tsv")]
    return cli.main(["asymmetry", *tables, "--out", str(folder / "out"), *extra])


def result(folder: Path) -> pd.DataFrame:
    numbers = [column for column in asymmetry.COLUMNS if column not in ("structure", "note")]
    return tsv.read(folder / "out" / "asymmetry.tsv", numbers=numbers).set_index("structure")


def notes(folder: Path) -> list[str]:
    found = json.loads((folder / "out" / "asymmetry.json").read_text())["notes"]
    assert isinstance(found, list)
    return found


def test_planted_loss_through_the_command(inputs):
    assert call(inputs) == 0
    table = result(inputs)
    assert list(table.index) == ["Thalamus", "Putamen", "Hippocampus"]  # anatomical order, both sides only
    assert (table["n"] == 80).all() and (table["n_left"] == 40).all()
    assert table.loc["Thalamus", "difference_percent"] == pytest.approx(-15, abs=2)
    assert table.loc["Thalamus", "effect_size"] < -1.5 and table.loc["Thalamus", "paired_effect_size"] < -2
    assert table.loc["Thalamus", "signed_rank_fdr"] < 1e-6 < table.loc["Hippocampus", "signed_rank_p"]
    assert abs(table.loc["Hippocampus", "effect_size"]) < 0.2
    assert table.loc["Thalamus", "ipsilateral_r_high"] < 0 and table.loc["Thalamus", "ipsilateral_r_p"] < 0.001
    assert table.loc["Thalamus", "contralateral_r_low"] < 0 < table.loc["Thalamus", "contralateral_r_high"]
    assert notes(inputs) == [] and (inputs / "out" / "asymmetry.png").stat().st_size > 10_000


def test_numbers_are_those_of_a_direct_computation(inputs):
    call(inputs)
    row = result(inputs).loc["Putamen"]
    volumes, lesions = clinic()
    wide = volumes.groupby(["participant_id", "structure"])["volume_mm3"].median().unstack()
    is_left = (lesions["left_mm3"] > lesions["right_mm3"]).to_numpy()
    one, two = wide["Left-Putamen"].to_numpy(), wide["Right-Putamen"].to_numpy()
    ipsilateral, contralateral = np.where(is_left, one, two), np.where(is_left, two, one)
    assert row["ipsilateral_mm3"] == pytest.approx(ipsilateral.mean(), rel=1e-5)
    assert row["contralateral_sd_mm3"] == pytest.approx(contralateral.std(ddof=1), rel=1e-5)
    spread = np.sqrt((ipsilateral.var(ddof=1) + contralateral.var(ddof=1)) / 2)
    assert row["effect_size"] == pytest.approx((ipsilateral.mean() - contralateral.mean()) / spread, rel=1e-4)
    assert row["signed_rank_p"] == pytest.approx(stats.wilcoxon(ipsilateral, contralateral).pvalue, rel=1e-4)
    lesion = (lesions["left_mm3"] + lesions["right_mm3"]).to_numpy()
    reference = stats.pearsonr(lesion, ipsilateral)
    assert row["ipsilateral_r"] == pytest.approx(reference.statistic, rel=1e-4)
    assert row["ipsilateral_r_p"] == pytest.approx(reference.pvalue, rel=1e-4)
    assert row["contralateral_r"] == pytest.approx(stats.pearsonr(lesion, contralateral).statistic, rel=1e-4)


def test_two_thirds_rule():
    lesions = pd.DataFrame(
        {
            "participant_id": list("abcdefg"),
            "left_mm3": [20.0, 20.1, 0, 50, 0, np.nan, 1],
            "right_mm3": [10.0, 9.9, 7, 60, 0, 5, 0],
        }
    )
    chosen, left_out = asymmetry.one_sided(lesions)
    assert chosen["participant_id"].tolist() == ["b", "c", "g"]
    assert chosen["side"].tolist() == ["Left", "Right", "Left"] and chosen["lesion_mm3"].tolist() == [30, 7, 1]
    assert left_out == ["1 row without the lesion's volume on both sides left out.", "1 row without a lesion left out.",
                        "2 rows whose lesion has at most two thirds on one side left out."]  # fmt: skip


def test_lesions_by_session_join_their_session_and_the_first_counts():
    volumes = pd.DataFrame({"participant_id": list("aab"), "session_id": ["1", "2", "1"],
                            "Left-Thalamus": [1.0, 2, 3], "Right-Thalamus": [4.0, 5, 6]})  # fmt: skip
    lesions = pd.DataFrame({"participant_id": list("aac"), "session_id": ["2", "1", "1"], "lesion_mm3": [9.0, 8, 7],
                            "side": ["Left", "Right", "Left"]})  # fmt: skip
    table, left_out = asymmetry.with_volumes(lesions, volumes)
    assert table[["session_id", "lesion_mm3", "Left-Thalamus"]].values.tolist() == [["1", 8.0, 1.0]]
    assert left_out == ["1 row of one-sided lesions without volumes left out.",
                        "1 row of participants' later sessions left out."]  # fmt: skip
    whole, _ = asymmetry.with_volumes(lesions.iloc[1:].drop(columns="session_id"), volumes)
    assert whole["Left-Thalamus"].tolist() == [1.5]


@pytest.mark.parametrize(
    ("spoil", "note"),
    [
        (lambda table: table.iloc[:1], "not compared: 1 participants"),
        (lambda table: table.assign(left_mm3=np.nan), "not compared: 0 participants"),
        (lambda table: table.assign(right_mm3=table["left_mm3"]), "not compared: 0 participants"),
        (lambda table: table.iloc[:0], "not compared: 0 participants"),
        (lambda table: table.assign(left_mm3=5.0, right_mm3=0.0), "no ipsilateral correlation"),
    ],
)
def test_what_cannot_be_compared_is_a_documented_na(inputs, spoil, note):
    tsv.write(spoil(clinic()[1]), inputs / "lesions.tsv")
    assert call(inputs) == 0
    row = result(inputs).loc["Thalamus"]
    assert note in row["note"] and np.isnan(row["ipsilateral_r"])
    assert np.isnan(row["signed_rank_p"]) == ("not compared" in note)


def test_equal_sides_are_a_documented_na(inputs):
    volumes = clinic()[0].assign(volume_mm3=5000.0)
    tsv.write(volumes, inputs / "volumes.tsv")
    assert call(inputs) == 0
    row = result(inputs).loc["Thalamus"]
    assert row["difference_mm3"] == 0 and row["ipsilateral_mm3"] == 5000
    assert row[["effect_size", "paired_effect_size", "signed_rank_p", "signed_rank_fdr", "ipsilateral_r"]].isna().all()
    assert "all differences are the same" in row["note"]


def test_unknown_volumes_leave_their_people_out(inputs):
    volumes = clinic()[0]
    unknown = volumes["participant_id"].isin(["sub-00", "sub-01"]) & (volumes["structure"] == "Left-Thalamus")
    tsv.write(volumes.assign(volume_mm3=volumes["volume_mm3"].mask(unknown)), inputs / "volumes.tsv")
    call(inputs)
    table = result(inputs)
    assert table["n"].to_dict() == {"Thalamus": 78, "Putamen": 80, "Hippocampus": 80}


def test_lesions_as_the_hospital_knows_them(inputs):
    """Its own participant_id is another's; what identifies people does not survive."""
    call(inputs)
    expected = (inputs / "out" / "asymmetry.tsv").read_text()
    lesions = tsv.read(inputs / "lesions.tsv")
    links = lesions[["participant_id"]].assign(
        session_id="ses-1", study_uid="1.2.840." + lesions["participant_id"].str[4:]
    )
    tsv.write(links, inputs / "links.tsv")
    tsv.write(lesions.assign(study_uid=links["study_uid"], participant_id="sub-00"), inputs / "lesions.tsv")
    assert call(inputs) == 65
    assert call(inputs, "--links", str(inputs / "links.tsv")) == 0
    assert (inputs / "out" / "asymmetry.tsv").read_text() == expected
    assert not any(b"1.2.840" in path.read_bytes() for path in (inputs / "out").iterdir())


def test_volumes_without_sides_or_without_rows_give_a_note(inputs):
    for text in ("sub-00\tses-1\tBrain-Stem\t2e4\n", ""):
        (inputs / "volumes.tsv").write_text(f"participant_id\tsession_id\tstructure\tvolume_mm3\n{text}")
        assert call(inputs) == 0
        assert result(inputs).empty and "no volumes of structures with a left and a right side" in notes(inputs)[0]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda text: text.replace("left_mm3", "left"), "lacks the column left_mm3"),
        (lambda text: text.replace("sub-03\t", "sub-03\tlarge"), "line 5, column left_mm3"),
        (lambda text: text + text.splitlines()[1] + "\n", "lines 2 and 82 are both for participant_id sub-00"),
    ],
)
def test_wrong_lesions_are_refused_by_line(inputs, spoil, message, capsys):
    (inputs / "lesions.tsv").write_text(spoil((inputs / "lesions.tsv").read_text()))
    assert call(inputs) == 65
    assert message in capsys.readouterr().err and not (inputs / "out").exists()


def test_sides_are_kept_apart_or_added_up(inputs):
    sided = cohort.read_sided_volumes(inputs / "volumes.tsv")
    added = cohort.read_volumes(inputs / "volumes.tsv")
    assert {"Left-Thalamus", "Right-Thalamus"} <= set(sided) and "Thalamus" in added
    np.testing.assert_allclose(added["Thalamus"], sided["Left-Thalamus"] + sided["Right-Thalamus"])
    assert list(added.columns[:3]) == list(sided.columns[:3]) == list(cohort.KEYS)
