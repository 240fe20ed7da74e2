"""The measuring script of the inventory, on few small files."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import measure_inventory
import pytest

from analysis.intake import dicom
from analysis.intake.index import Index
from analysis.intake.sources.folder import Folder


def test_inventory_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure_inventory, "SIZE", 16)
    monkeypatch.setattr(measure_inventory, "PROTOCOL", measure_inventory.PROTOCOL[:2])
    monkeypatch.setattr(measure_inventory, "FILES_PER_PATIENT", 33)
    assert measure_inventory.write_files(tmp_path / "files", 50) == 66
    series = tmp_path / "files" / "1" / "PAT000001" / "study_000001" / "002_t1_tse_sag"
    assert len(list(series.iterdir())) == 24
    options = ["--files", "50", "--folder", str(tmp_path / "files"), "--processes", "1"]
    monkeypatch.setattr(sys, "argv", ["measure_inventory.py", *options, "--out", str(tmp_path / "found.json")])
    measure_inventory.main()
    runs = json.loads((tmp_path / "found.json").read_text())["runs"]
    assert [run["files"] for run in runs] == [33, 66, 66]
    assert all(run["peak_mb"] > 20 and run["files_per_second"] > 0 for run in runs)


def test_measured_files_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure_inventory, "SIZE", 16)
    measure_inventory.write_files(tmp_path / "files", 1)
    source = Folder(tmp_path / "files", unpacked=tmp_path / "unpacked")
    found = dicom.find_series(source, Index(tmp_path / "index.sqlite"), processes=1)
    contrasts = ["localizer", "T1w", "T2w", "FLAIR", "DWI", "T1w"]
    assert [series.contrast for series in sorted(found, key=lambda series: series.series_uid)] == contrasts
    assert {series.n_slices for series in found} == {9, 24, 28, 56, 160}
