"""Batches: what is remade, what is left alone, and what a bad scan does."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd
import pytest

from analysis import batch, journal, tsv
from analysis.errors import DataError, ToolError
from synthsr import progress

SCANS = pd.DataFrame(
    [
        {"scan_id": f"sub-{n}_ses-01_T1w", "participant_id": f"sub-{n}", "session_id": "ses-01", "contrast": "T1w"}
        for n in (1, 2, 3)
    ]
)


class Stage:
    """A stage that writes a scan's own name and a sidecar, and counts what it made."""

    def __init__(self, root: Path, fail: Mapping[str, BaseException] | None = None) -> None:
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


def test_a_table_that_is_not_there_or_not_whole_names_the_stage_that_makes_it(tmp_path: Path) -> None:
    path = tmp_path / "batches" / "segment" / "batch-0001.tsv"
    with pytest.raises(DataError, match=r"batch-0001\.tsv: no such table; the stage segment leaves it"):
        batch.rows(path)
    path.parent.mkdir(parents=True)
    path.write_text("scan_id\tstatus\n")
    with pytest.raises(DataError, match=r"lacks the column participant_id, .*run the stage segment again"):
        batch.rows(path)


@pytest.mark.parametrize("is_overlapped", [False, True])
def test_a_log_tells_how_far_the_batch_is(
    tmp_path: Path, is_overlapped: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "LOG_INTERVAL_S", 0.0)
    stage = Overlapped(tmp_path) if is_overlapped else Stage(tmp_path)
    stage.run()
    told = ["batches: scans: 1 of 3, 1 min left", "batches: scans: 2 of 3, 1 min left"]
    assert capsys.readouterr().err.splitlines() == told
    stage.run()
    assert capsys.readouterr().err == "", "nothing was left to do"


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


def test_a_killed_job_leaves_what_its_successor_goes_on_from(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {"sub-3_ses-01_T1w": KeyboardInterrupt()})
    with pytest.raises(KeyboardInterrupt):
        stage.run()
    begun = journal.read(stage.table)
    assert [row["scan_id"] for row in begun.rows] == ["sub-1_ses-01_T1w", "sub-2_ses-01_T1w"]
    assert begun.found == 0
    with journal.path_of(stage.table).open("a") as stream:
        stream.write('{"scan_id": "sub-3_ses-')  # killed while it wrote
    stage.fail.clear()
    stage.run()
    assert stage.made == ["sub-3_ses-01_T1w"]
    assert not journal.path_of(stage.table).exists()


class Overlapped(Stage):
    """The same in three parts, and what was in memory at a time."""

    def __init__(self, root: Path, fail: Mapping[str, BaseException] | None = None) -> None:
        super().__init__(root, fail)
        self.order: list[tuple[str, str]] = []
        self.lock, self.held, self.most = threading.Lock(), 0, 0

    def run(self, key: Callable[[Mapping[str, str]], str] = lambda scan: "1", n_scans: int = 3) -> pd.DataFrame:
        scans = pd.concat([SCANS.assign(scan_id=f"sub-{n}_ses-01_T1w") for n in range(n_scans)])[::3]
        return batch.run(scans, self.table, root=self.root, worker=self.steps(), outputs=self.outputs, key=key)

    def steps(self) -> batch.Steps:
        return batch.Steps(self.read, self.compute, self.write)

    def note(self, what: str, scan: Mapping[str, str], held: int = 0) -> None:
        with self.lock:
            self.order.append((what, scan["scan_id"][4:].partition("_")[0]))
            self.held += held
            self.most = max(self.most, self.held)

    def read(self, scan: Mapping[str, str]) -> str:
        self.note("read", scan, 1)
        return scan["scan_id"]

    def compute(self, scan: Mapping[str, str], read: str) -> str:
        assert read == scan["scan_id"]
        if read in self.fail:
            self.note("failed", scan, -1)
            raise self.fail[read]
        time.sleep(0.02)
        self.note("computed", scan)
        return read

    def write(self, scan: Mapping[str, str], made: str) -> None:
        assert made == scan["scan_id"]
        time.sleep(0.05)
        for path in self.outputs(scan):
            path.write_text(made)
        self.note("written", scan, -1)


def test_scans_are_read_ahead_and_written_behind_within_bounds(tmp_path: Path) -> None:
    stage = Overlapped(tmp_path, {"sub-2_ses-01_T1w": DataError("all voxels are NaN")})
    table = stage.run(n_scans=8)
    assert list(table["status"]) == [batch.DONE, batch.DONE, batch.REJECTED, *[batch.DONE] * 5]
    assert table["reason"][2] == "all voxels are NaN"
    place = {event: number for number, event in enumerate(stage.order)}
    assert place["read", "4"] < place["computed", "3"] < place["written", "3"]
    assert place["computed", "5"] < place["written", "4"]
    # One read ahead, one in work, and two behind.
    assert stage.most <= 3 + batch.UNWRITTEN
    assert all((tmp_path / f"{scan}.txt").read_text() == scan for scan in table["scan_id"][table["path"] != ""])


@pytest.mark.parametrize("part", ["read", "compute", "write"])
def test_a_failure_of_any_part_stops_the_job(tmp_path: Path, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Overlapped(tmp_path)

    def fail(scan: Mapping[str, str], *_: object) -> None:
        if scan["scan_id"].startswith("sub-2"):
            raise ToolError("no space left")

    whole = getattr(stage, part)
    monkeypatch.setattr(stage, part, lambda scan, *more: fail(scan) or whole(scan, *more))
    with pytest.raises(ToolError, match="no space left"):
        stage.run(n_scans=6)
    assert not stage.table.exists()
    states = {row["scan_id"][4]: row["status"] for row in journal.read(stage.table).rows}
    assert states == {"0": batch.DONE, "1": batch.DONE, "2": batch.FAILED}
    assert ("computed", "5") not in stage.order
