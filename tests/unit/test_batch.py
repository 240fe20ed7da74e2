"""Batches: what is remade, what is left alone, and what a bad scan does."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd
import pytest

from analysis import batch, tsv
from analysis.errors import DataError, ToolError

SCANS = pd.DataFrame(
    [
        {"scan_id": f"sub-{n}_ses-01_T1w", "participant_id": f"sub-{n}", "session_id": "ses-01", "contrast": "T1w"}
        for n in (1, 2, 3)
    ]
)


class Stage:
    """A stage that writes a scan's own name and a sidecar, and counts what it made."""

    def __init__(self, root: Path, fail: Mapping[str, Exception] | None = None) -> None:
        self.root, self.table, self.made = root, root / "batches" / "batch-0001.tsv", list[str]()
        self.fail = dict(fail or {})

    def outputs(self, scan: Mapping[str, str]) -> list[Path]:
        return [self.root / f"{scan['scan_id']}.{ending}" for ending in ("txt", "json")]

    def work(self, scan: Mapping[str, str]) -> None:
        self.made.append(scan["scan_id"])
        if scan["scan_id"] in self.fail:
            raise self.fail[scan["scan_id"]]
        for path in self.outputs(scan):
            path.write_text(scan["scan_id"])

    def run(self, key: Callable[[Mapping[str, str]], str] = lambda scan: "1") -> pd.DataFrame:
        self.made.clear()
        return batch.run(SCANS, self.table, root=self.root, worker=self.work, outputs=self.outputs, key=key)


def test_second_run_makes_nothing_and_leaves_the_table(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.run()
    os.utime(stage.table, (1, 1))
    stage.run()
    assert stage.made == []
    assert stage.table.stat().st_mtime == 1


@pytest.mark.parametrize("ending", ["txt", "json"])
@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_text("changed")])
def test_only_what_is_missing_or_changed_is_remade(
    tmp_path: Path, damage: Callable[[Path], object], ending: str
) -> None:
    stage = Stage(tmp_path)
    stage.run()
    before = stage.table.read_bytes()
    damage(tmp_path / f"sub-2_ses-01_T1w.{ending}")
    stage.run()
    assert stage.made == ["sub-2_ses-01_T1w"]
    assert stage.table.read_bytes() == before


def test_a_changed_key_remakes_its_row(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.run()
    stage.run(key=lambda scan: "2" if scan["scan_id"].startswith("sub-3") else "1")
    assert stage.made == ["sub-3_ses-01_T1w"]


def test_bad_data_rejects_its_row_and_the_rest_goes_on(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {"sub-2_ses-01_T1w": DataError("all voxels are NaN")})
    table = stage.run().set_index("scan_id")
    assert table["status"].to_dict() == {
        "sub-1_ses-01_T1w": batch.DONE,
        "sub-2_ses-01_T1w": batch.REJECTED,
        "sub-3_ses-01_T1w": batch.DONE,
    }
    assert table.loc["sub-2_ses-01_T1w", "reason"] == "all voxels are NaN"
    following = batch.run(
        batch.read(stage.table),
        tmp_path / "next" / "batch-0001.tsv",
        root=tmp_path,
        worker=stage.work,
        outputs=stage.outputs,
        key=lambda s: "1",
    )
    assert list(following["scan_id"]) == ["sub-1_ses-01_T1w", "sub-3_ses-01_T1w"]


def test_a_broken_tool_stops_the_job_without_a_table(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {"sub-2_ses-01_T1w": ToolError("dcm2niix is not installed")})
    with pytest.raises(ToolError):
        stage.run()
    assert not stage.table.exists()


def test_rejections_are_tried_again_and_the_same_outcome_leaves_the_table(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {"sub-2_ses-01_T1w": DataError("dcm2niix ended with code -9")})
    stage.run()
    os.utime(stage.table, (1, 1))
    stage.run()
    assert stage.made == ["sub-2_ses-01_T1w"]
    assert stage.table.stat().st_mtime == 1
    stage.fail.clear()
    assert set(stage.run()["status"]) == {batch.DONE}


def test_text_in_a_number_column_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "participants.tsv"
    path.write_text("participant_id\tage_years\nsub-1\t50\nsub-2\told\n")
    with pytest.raises(DataError, match=r"participants\.tsv: line 3, column age_years: 'old' is not a number"):
        tsv.read(path, numbers=["age_years"])
