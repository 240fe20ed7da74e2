"""The gate's decisions, and the tables made of what passed it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import batch, cli, gate, tables, tsv, volumes
from analysis.errors import DataError
from analysis.layout import Results

ICV_MM3 = {"sub-1_ses-01_T1w": 1.5e6, "sub-1_ses-01_T2w": 1.6e6, "sub-1_ses-01_FLAIR": 1.4e6, "sub-2_ses-01_T1w": 1.0e6}
#: What a good scan measures.
QUALITY = {"spacing_mm": 5.0, "edge_share": 0.0, "noise_share": 0.03, "motion": 0.05, "agreement_dice": 0.8,
           "grey_white_contrast": 0.33, "asymmetry": 0.01, "entropy": 0.3,
           "centre_x_mm": 1.0, "centre_y_mm": 2.0, "centre_z_mm": 3.0}  # fmt: skip
MADE = volumes.Provenance("embedded", "0.1.0", "5" * 64, "synthsr 0.2", "7" * 64)


def write_scan(path: Path, scan_id: str, sizes: dict[str, float], made: volumes.Provenance = MADE, **quality: float):
    measures = {**QUALITY, "icv_litres": sizes.get("ICV", math.nan) / 1e6, **quality}
    volumes.write(path, scan_id, volumes.ScanVolumes(sizes, made, measures))


@pytest.fixture
def results(tmp_path: Path) -> Results:
    """Three scans of one session, one scan too small for a head, and one that the conversion rejected."""
    made = Results(tmp_path)
    ids = [*ICV_MM3, "sub-3_ses-01_T1w"]
    people = {scan_id: scan_id.split("_")[0] for scan_id in ids}
    rows = []
    for scan_id in ids:
        done = scan_id in ICV_MM3
        path = made.scan_volumes(scan_id)
        if done:
            write_scan(path, scan_id, {"Left-Hippocampus": ICV_MM3[scan_id] / 400, "ICV": ICV_MM3[scan_id]})
        rows.append(
            {
                "scan_id": scan_id,
                "participant_id": people[scan_id],
                "session_id": "ses-01",
                "contrast": scan_id.rsplit("_", 1)[1],
                "status": batch.DONE if done else batch.REJECTED,
                "reason": "" if done else "17 voxels are NaN",
                "path": path.relative_to(tmp_path).as_posix() if done else "",
                "sha256": "",
                "key": "",
            }
        )
    tsv.write(pd.DataFrame(rows), made.batch("convert", "0001"))
    tsv.write(pd.DataFrame([row for row in rows if row["status"] == batch.DONE]), made.batch("segment", "0001"))
    tsv.write(pd.DataFrame({"scan_id": ids, "spacing_mm": 5.0, "plane": "ax"}), made.series)
    sessions = {"participant_id": ["sub-1", "sub-2", "sub-3"], "session_id": "ses-01", "age_years": [50, 60, None]}
    tsv.write(pd.DataFrame({**sessions, "sex": ["F", "M", "F"]}), made.sessions)
    assert cli.main(["gate", "--out", str(tmp_path)]) == 0
    assert cli.main(["tables", "--out", str(tmp_path)]) == 0
    return made


def test_every_scan_has_a_decision_and_every_exclusion_a_reason(results: Results) -> None:
    scans = tsv.read(results.gate).set_index("scan_id")
    assert len(scans) == 5
    assert scans["included"].to_dict() == {
        **dict.fromkeys(ICV_MM3, "yes"),
        "sub-2_ses-01_T1w": "no",
        "sub-3_ses-01_T1w": "no",
    }
    assert "too small: not a whole head" in scans.loc["sub-2_ses-01_T1w", "reason"]
    assert scans.loc["sub-3_ses-01_T1w", "reason"] == "17 voxels are NaN"
    assert scans.loc["sub-3_ses-01_T1w", "stage"] == "convert"


def test_tables_hold_included_scans_and_session_medians(results: Results) -> None:
    scans = tsv.read(results.volumes, numbers=["volume_mm3", "age_years"])
    assert set(scans["scan_id"]) == set(ICV_MM3) - {"sub-2_ses-01_T1w"}
    assert set(scans["age_years"]) == {50}
    sessions = tsv.read(results.session_volumes, numbers=["volume_mm3", "n_scans"]).set_index("structure")
    assert sessions.loc["ICV", "volume_mm3"] == 1.5e6
    assert sessions.loc["ICV", "n_scans"] == 3
    assert pd.read_parquet(results.volumes.with_suffix(".parquet")).shape[0] == len(scans)


def test_nothing_included_leaves_empty_tables(results: Results) -> None:
    table = tsv.read(results.gate)
    tsv.write(table.assign(included="no"), results.gate)
    assert cli.main(["tables", "--out", str(results.root)]) == 0
    assert tsv.read(results.volumes).empty


def test_a_lost_or_damaged_table_of_volumes_is_a_reason(results: Results) -> None:
    lost, damaged, kept = list(ICV_MM3)[:3]
    path = results.scan_volumes(damaged)
    path.write_text(path.read_text().replace("\t3500.000", "\tmuch").replace("\t4000.000", "\tmuch"))
    results.scan_volumes(lost).unlink()
    # The gate has not looked again: the tables leave out what they cannot read.
    assert cli.main(["tables", "--out", str(results.root)]) == 0
    assert set(tsv.read(results.volumes)["scan_id"]) == {kept}
    assert cli.main(["gate", "--out", str(results.root)]) == 0
    scans = tsv.read(results.gate).set_index("scan_id")
    assert list(scans.loc[[lost, damaged, kept], "included"]) == ["no", "no", "yes"]
    assert "no such table" in scans.loc[lost, "reason"]
    assert "is damaged" in scans.loc[damaged, "reason"]
    assert scans.loc[[lost, damaged], "reason"].str.contains("--forcerun segment").all()


@pytest.mark.parametrize(
    ("icv_mm3", "included"), [(1.099e6, False), (1.1e6, True), (2.2e6, True), (2.3e6, False), (float("nan"), False)]
)
def test_icv_limits(icv_mm3: float, included: bool) -> None:
    scans = pd.DataFrame({"scan_id": ["a"], "reason": [""], "icv_mm3": [icv_mm3], "icv_litres": [icv_mm3 / 1e6]})
    judged = gate.judge(scans, gate.read_limits()).iloc[0]
    assert (judged["included"] == "yes") is included
    assert bool(judged["reason"]) is not included


def test_the_score_is_that_of_the_worst_measure_and_its_reason_is_told() -> None:
    limits = gate.read_limits().set_index("measure")
    row = limits.loc["agreement_dice"]
    values = [row["typical"], (row["typical"] + row["limit"]) / 2, row["limit"] - 0.01, float("nan")]
    scans = pd.DataFrame({"scan_id": list("abcd"), "reason": "", "icv_mm3": 1.5e6, "icv_litres": 1.5,
                          "agreement_dice": values}, index=list("abcd"))  # fmt: skip
    judged = gate.judge(scans, gate.read_limits())
    assert judged["score"].tolist()[:2] == pytest.approx([0, 0.5])
    assert judged["included"].tolist() == ["yes", "yes", "no", "yes"]
    assert row["reason"] in judged.loc["c", "reason"] and "limit" in judged.loc["c", "reason"]


def test_a_scan_far_from_its_cohort_is_told_and_cohorts_need_their_number() -> None:
    rng = np.random.default_rng(0)
    names = [f"structure-{number}" for number in range(10)]
    sizes = pd.DataFrame(np.exp(rng.normal(8, 0.1, (40, 10))), columns=names).assign(ICV=1.5e6)
    sizes.loc[0, names] *= 3
    distance = gate.cohort_distance(sizes)
    assert distance[0] > 3 > distance[1:].max() and distance[1:].mean() == pytest.approx(0.7, abs=0.15)
    assert gate.cohort_distance(sizes.head(gate.COHORT_MINIMUM - 1)).isna().all()


def test_a_brain_elsewhere_than_in_the_other_scans_of_its_session() -> None:
    centre = pd.DataFrame({"x": [0.0, 1, 60, 5, 5], "y": 0.0, "z": 0.0})
    shift = gate.session_shift(centre, pd.Series(["s", "s", "s", "t", "t"]))
    assert shift.tolist()[:3] == [1, 0, 59]
    assert shift[3:].isna().all()


def test_only_scans_that_pass_know_left_from_right() -> None:
    """Of three scans one is noisy: its sides are not held against the others, of which one is mirrored."""
    sound = {
        "Left-Amygdala": 110.0,
        "Right-Amygdala": 100.0,
        "Left-Putamen": 90.0,
        "Right-Putamen": 100.0,
        "ICV": 1.5e6,
    }
    mirrored = {
        "Left-Amygdala": 100.0,
        "Right-Amygdala": 110.0,
        "Left-Putamen": 100.0,
        "Right-Putamen": 90.0,
        "ICV": 1.5e6,
    }
    noisy = {**QUALITY, "noise_share": 0.9}
    read = {
        name: volumes.ScanVolumes(sizes, MADE, quality)
        for name, sizes, quality in (("a", sound, QUALITY), ("b", mirrored, QUALITY), ("c", mirrored, noisy))
    }
    scans = pd.DataFrame({"participant_id": "p", "session_id": "s"}, index=list(read))
    found = gate.measures(scans, read, gate.read_limits())["session_sides"]
    assert found.isna().all()
    read["c"] = volumes.ScanVolumes(sound, MADE, QUALITY)
    assert gate.measures(scans, read, gate.read_limits())["session_sides"]["b"] == pytest.approx(-1)


def test_a_mirrored_scan_is_told_by_its_session() -> None:
    rng = np.random.default_rng(0)
    structures = ("Hippocampus", "Amygdala", "Putamen", "Thalamus")
    left, right = (1000 * np.exp(rng.normal(0, 0.1, len(structures))) for _ in range(2))
    person, mirrored = (
        {f"{side}-{name}": size for side, sizes in each.items() for name, size in zip(structures, sizes, strict=True)}
        for each in ({"Left": left, "Right": right}, {"Left": right, "Right": left})
    )
    noisy = [{k: v * np.exp(rng.normal(0, 0.01)) for k, v in each.items()} for each in [person] * 5 + [mirrored]]
    table = pd.DataFrame([{**each, "ICV": 1.5e6, "Brain-Stem": 2e4} for each in noisy], index=list("abcdef"))
    sides = gate.session_sides(table, pd.Series(dict(zip("abcdef", "sstttt", strict=True))))
    assert sides[["a", "b"]].isna().all(), "two scans contradict each other at most"
    assert (sides[["c", "d", "e"]] > 0.8).all() and sides["f"] < -0.8
    three = gate.session_sides(table.loc[["c", "d", "f"]], pd.Series("s", index=["c", "d", "f"]))
    assert three["f"] < -0.8 and three[["c", "d"]].abs().max() < 0.2, "sound scans stay in, beside a mirrored one"
    alike = table.assign(**{f"{side}-{name}": 1000.0 for side in ("Left", "Right") for name in structures})
    of_three = pd.concat([table.loc[["c", "f"]], alike.loc[["d"]]])
    told = gate.session_sides(of_three, pd.Series("s", index=["c", "d", "f"]))
    assert told.isna().all(), "a brain that is the same on both sides tells nothing, and two are too few"
    assert gate.session_sides(table[["ICV"]], pd.Series("s", index=table.index)).isna().all()
    limits = gate.read_limits().set_index("measure").loc["session_sides"]
    assert limits["limit"] < 0 < limits["typical"]


def test_a_person_overrules_the_gate(results: Results, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small, good, unmade = "sub-2_ses-01_T1w", "sub-1_ses-01_T2w", "sub-3_ses-01_T1w"
    path = tmp_path / "exclusions.tsv"
    decided = {"scan_id": [small, good, unmade, "sub-9_ses-01_T1w"], "included": ["yes", "no", "yes", "no"],
               "reason": ["a child", "wrong patient", "why not", "?"]}  # fmt: skip
    tsv.write(pd.DataFrame(decided), path)
    assert cli.main(["gate", "--out", str(results.root), "--exclusions", str(path)]) == 0
    scans = tsv.read(results.gate).set_index("scan_id")
    assert scans["included"][[small, good, unmade]].tolist() == ["yes", "no", "no"]
    assert scans["decided_by"][[small, good, unmade]].tolist() == ["person", "person", "gate"]
    assert scans.loc[good, "reason"] == "wrong patient" and scans.loc[unmade, "reason"] == "17 voxels are NaN"
    assert "sub-9_ses-01_T1w" in capsys.readouterr().out
    tsv.write(pd.DataFrame({"scan_id": [small], "included": ["maybe"], "reason": ["?"]}), path)
    assert cli.main(["gate", "--out", str(results.root), "--exclusions", str(path)]) == DataError.exit_code


def test_session_means_are_weighted_by_the_gates_score(results: Results) -> None:
    ids = [scan_id for scan_id in ICV_MM3 if scan_id.startswith("sub-1")]
    write_scan(results.scan_volumes(ids[0]), ids[0], {"Left-Hippocampus": 8000.0, "ICV": 1.5e6}, agreement_dice=0.53)
    for command in ("gate", "tables"):
        assert cli.main([command, "--out", str(results.root)]) == 0
    scores = tsv.read(results.gate, numbers=["score"]).set_index("scan_id")["score"]
    assert 0.8 < scores[ids[0]] < 1
    table = tsv.read(results.session_volumes, numbers=["volume_mm3", "volume_weighted_mm3"]).set_index("structure")
    weights = np.maximum(1 - scores[ids], 0.05)
    expected = np.average([8000, 4000, 3500], weights=weights)
    assert table.loc["Left-Hippocampus", "volume_weighted_mm3"] == pytest.approx(expected, rel=1e-3)
    assert table.loc["Left-Hippocampus", "volume_mm3"] == 4000


def test_tables_tell_where_volumes_come_from_and_have_a_dictionary(results: Results) -> None:
    scans = tsv.read(results.volumes, numbers=["icv_mm3", "volume_mm3"])
    assert set(scans["segmenter_sha256"]) == {"5" * 64} and set(scans["synthesiser_sha256"]) == {"7" * 64}
    assert set(scans["synthesiser"]) == {"synthsr 0.2"} and set(scans["version"]) == {"0.1.0"}
    one = scans[scans["scan_id"] == "sub-1_ses-01_T2w"]
    assert set(one["icv_mm3"]) == {1.6e6} and set(one["side"]) == {"left", "midline"}
    for path in (results.volumes, results.session_volumes):
        dictionary = json.loads(path.with_suffix(".json").read_text())
        assert list(dictionary) == list(tsv.read(path).columns)
        assert all(entry["Description"] for entry in dictionary.values())
        parquet = pd.read_parquet(path.with_suffix(".parquet"))
        assert list(parquet.columns) == list(dictionary) and parquet["volume_mm3"].dtype == float
        assert parquet.loc[parquet["structure"] == "ICV", "label"].isna().all()


def test_other_back_ends_have_tables_of_their_own_and_borrow_the_icv_they_lack(results: Results) -> None:
    scan_id = "sub-1_ses-01_T1w"
    path = results.scan_volumes(scan_id, backend="first")
    write_scan(path, scan_id, {"Left-Hippocampus": 3500.0}, volumes.Provenance("first", "6.0.7"))
    row = {"scan_id": scan_id, "participant_id": "sub-1", "session_id": "ses-01", "contrast": "T1w", "status": "done",
           "reason": "", "path": path.relative_to(results.root).as_posix(), "sha256": "", "key": ""}  # fmt: skip
    tsv.write(pd.DataFrame([row]), results.batches("segment-first") / "batch-0001.tsv")
    assert cli.main(["tables", "--out", str(results.root), "--backends", "embedded", "first"]) == 0
    assert set(tsv.read(results.volumes)["backend"]) == {"embedded"}
    first = tsv.read(results.tables("first") / "volumes.tsv", numbers=["volume_mm3"]).set_index("structure")
    assert first.loc["Left-Hippocampus", "volume_mm3"] == 3500 and first.loc["ICV", "volume_mm3"] == 1.5e6
    assert set(first["icv_backend"]) == {"embedded"} and set(first["backend"]) == {"first"}
    assert cli.main(["tables", "--out", str(results.root), "--backends", "first", "embedded"]) == 0
    assert set(tsv.read(results.volumes)["backend"]) == {"first"}
    assert len(tsv.read(results.tables("embedded") / "volumes.tsv")) == 6


def test_thickness_and_area_of_all_included_scans(results: Results) -> None:
    scan_id = "sub-1_ses-01_T1w"
    path = results.scan_volumes(scan_id, backend="recon-all")
    write_scan(path, scan_id, {"Left-Hippocampus": 3500.0, "ICV": 1.45e6}, volumes.Provenance("recon-all", "7.4.1"))
    rows = {"scan_id": scan_id, "structure": ["bankssts", "cortex"], "side": "left", "thickness_mm": [2.5, 2.4],
            "area_mm2": [1000.0, 85000], "volume_mm3": [2500, np.nan], "backend": "recon-all",
            "version": "7.4.1"}  # fmt: skip
    tsv.write(pd.DataFrame(rows), results.scan_surfaces(scan_id, backend="recon-all"))
    row = {"scan_id": scan_id, "participant_id": "sub-1", "session_id": "ses-01", "contrast": "T1w", "status": "done",
           "reason": "", "path": path.relative_to(results.root).as_posix(), "sha256": "", "key": ""}  # fmt: skip
    tsv.write(pd.DataFrame([row]), results.batches("segment-recon-all") / "batch-0001.tsv")
    assert cli.main(["tables", "--out", str(results.root), "--backends", "embedded", "recon-all"]) == 0
    made = pd.read_parquet(results.tables("recon-all") / "surfaces.parquet")
    assert made["area_mm2"].tolist() == [1000, 85000] and set(made["participant_id"]) == {"sub-1"}
    assert set(tsv.read(results.tables("recon-all") / "volumes.tsv")["icv_backend"]) == {"recon-all"}


@pytest.mark.parametrize("key", ["participant_id", "patient_id"])
def test_participants_are_joined_by_explicit_keys_and_the_unmatched_are_told(results: Results, key: str) -> None:
    names = {"participant_id": ["sub-1", "sub-7"], "patient_id": ["P1", "P7"]}[key]
    path, links = results.root / "people.tsv", results.root / "links.tsv"
    tsv.write(pd.DataFrame({key: names, "apoe": ["e4", "e3"], "sex": ["M", "M"]}), path)
    ids = ["sub-1", "sub-2", "sub-3"]
    tsv.write(pd.DataFrame({"participant_id": ids, "session_id": "ses-01", "patient_id": ["P1", "P2", "P3"]}), links)
    given = ["--participants", str(path), *(["--links", str(links)] if key == "patient_id" else [])]
    assert cli.main(["tables", "--out", str(results.root), *given]) == 0
    scans = tsv.read(results.volumes)
    assert set(scans["apoe"]) == {"e4"} and set(scans["sex"]) == {"F"}
    unmatched = tsv.read(results.tables() / "participants_unmatched.tsv")
    told = unmatched[["missing_in", "participant_id", "line"]].to_numpy().tolist()
    assert told == [["table", "sub-2", "n/a"], ["table", "sub-3", "n/a"], ["study", "n/a", "3"]]
    assert "P7" not in (results.tables() / "participants_unmatched.tsv").read_text()


def test_duckdb_reads_the_tables(results: Results) -> None:
    duckdb = pytest.importorskip("duckdb")
    tables_glob = f"'{results.tables()}/**/volumes.parquet'"
    database = duckdb.connect()
    query = f"SELECT median(volume_mm3) FROM {tables_glob} WHERE structure = 'ICV'"
    assert database.execute(query).fetchall() == [(1.5e6,)]
    columns = [row[0] for row in database.execute(f"DESCRIBE SELECT * FROM {tables_glob}").fetchall()]
    assert columns == [column.name for column in tables.SCANS]
