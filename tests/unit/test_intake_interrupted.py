"""Intakes that are killed, meet a full disk or a closed folder: nothing half-written, and the rerun completes."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import dicom_maker as maker
import kill_intake
import pytest

from analysis.cli import main
from analysis.intake import index


def make_source(root: Path, n_series: int) -> Path:
    for number in range(n_series):
        tags, person, places = maker.T1 if number % 2 else maker.T2, number // 2, maker.positions(12, 9.0)
        maker.write_series(
            root / "export", tags, patient=f"P{person}", study=f"1.2.{person}", series=f"{number}", places=places
        )
    return root / "export"


def test_killed_intake_completes_to_the_same_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "COMMIT", 5)
    table = kill_intake.compare(make_source(tmp_path, 4), tmp_path, n_kills=4, batch_size=2)
    assert len(table) == 5 and table.half_written.sum() == 0
    end = table.iloc[-1]
    assert (end.differing, end.n_files) == (0, len(kill_intake.contents(tmp_path / "undisturbed"))) and end.n_files > 20


def test_half_written_files_would_be_seen(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    for name, content in {"a.json": '{"a": ', "b.tsv": "a\tb\n1", "c.nii.gz": "", "good.tsv": "a\n1\n"}.items():
        (tmp_path / "results" / name).write_text(content)
    (tmp_path / "results" / "c.nii.gz").write_bytes(b"\x1f\x8b\x08half")
    assert {Path(name).name for name in kill_intake.half_written(tmp_path)} == {"a.json", "b.tsv", "c.nii.gz"}


def test_full_disk_of_the_index_stops_and_the_rerun_completes(tmp_path: Path, monkeypatch, capsys) -> None:
    command = ["inventory", str(make_source(tmp_path, 4)), "--out", str(tmp_path / "results")]
    monkeypatch.setattr(index, "_TABLES", f"{index._TABLES} PRAGMA max_page_count = 10;")
    assert main(command) == 69
    assert "full" in (message := capsys.readouterr().err) and "see to space" in message
    assert not (tmp_path / "results").exists()
    monkeypatch.undo()
    assert main(command) == 0
    assert "4 series found, 4 included" in capsys.readouterr().out


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_full_or_closed_disk_stops_and_the_rerun_completes(tmp_path: Path, monkeypatch, capsys, code: int) -> None:
    source = make_source(tmp_path, 3)
    folders = ["--out", str(tmp_path / "results"), "--private", str(tmp_path / "private")]
    assert main(["inventory", str(source), *folders]) == 0
    replace, renamed = Path.replace, []

    def refuse(path: Path, target: Path) -> Path:
        if str(target).endswith(".nii.gz"):
            renamed.append(target)
            if len(renamed) == 2:
                raise OSError(code, os.strerror(code), str(target))
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", refuse)
    table = str(tmp_path / "results" / "batches" / "select" / "batch-0001.tsv")
    assert main(["convert", table, *folders]) == 69
    message = capsys.readouterr().err
    assert os.strerror(code) in message and "sub-" not in message
    assert len(list((tmp_path / "results").rglob("*.nii.gz"))) == 1
    assert list(kill_intake.half_written(tmp_path)) == [] and not list((tmp_path / "results").rglob(".part-*"))
    monkeypatch.undo()
    assert main(["convert", table, *folders]) == 0
    assert len(list((tmp_path / "results").rglob("*.nii.gz"))) == 3
