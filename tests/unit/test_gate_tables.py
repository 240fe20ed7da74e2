"""The gate's decisions, and the tables made of what passed it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from analysis import batch, cli, gate, tsv
from analysis.layout import Results

ICV_MM3 = {"sub-1_ses-01_T1w": 1.5e6, "sub-1_ses-01_T2w": 1.6e6, "sub-1_ses-01_FLAIR": 1.4e6, "sub-2_ses-01_T1w": 1.0e6}


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
            volumes = {"Left-Hippocampus": ICV_MM3[scan_id] / 400, "ICV": ICV_MM3[scan_id]}
            table = pd.DataFrame({"image": scan_id, "structure": list(volumes), "label": ["17", "n/a"]})
            tsv.write(table.assign(volume_mm3=list(volumes.values())), path)
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
    assert "1.00 l is under 1.1 l" in scans.loc["sub-2_ses-01_T1w", "reason"]
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
    path.write_text("\n".join(line for line in path.read_text().splitlines() if "ICV" not in line) + "\n")
    results.scan_volumes(lost).unlink()
    # The gate has not looked again: the tables leave out what they cannot read.
    assert cli.main(["tables", "--out", str(results.root)]) == 0
    assert set(tsv.read(results.volumes)["scan_id"]) == {kept}
    assert cli.main(["gate", "--out", str(results.root)]) == 0
    scans = tsv.read(results.gate).set_index("scan_id")
    assert list(scans.loc[[lost, damaged, kept], "included"]) == ["no", "no", "yes"]
    assert "no such table" in scans.loc[lost, "reason"]
    assert "0 rows of ICV" in scans.loc[damaged, "reason"]
    assert scans.loc[[lost, damaged], "reason"].str.contains("--forcerun segment").all()


@pytest.mark.parametrize(
    ("icv_mm3", "included"), [(1.099e6, False), (1.1e6, True), (2.3e6, False), (float("nan"), False)]
)
def test_icv_limits(icv_mm3: float, included: bool) -> None:
    assert (gate.judge(icv_mm3) == "") is included
