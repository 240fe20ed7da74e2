"""How well sessions tell their mirrored scans, on volumes whose answer is known."""

from __future__ import annotations

import sys
from pathlib import Path

import measure_sides
import pandas as pd
import pytest

from analysis import tsv


def test_exchanged_sides() -> None:
    sizes = pd.DataFrame({"Left-Putamen": [1.0], "Right-Putamen": [2.0], "Brain-Stem": [3.0]})
    turned = measure_sides.mirrored(sizes)
    assert list(turned) == list(sizes) and turned.iloc[0].tolist() == [2, 1, 3]


def test_sessions_of_three(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """All scans of a person alike: every mirrored one is told, and no other."""
    person = {"Left-Putamen": 100.0, "Right-Putamen": 90.0, "Left-Amygdala": 50.0, "Right-Amygdala": 56.0}
    rows = [
        {"participant_id": "p", "session_id": "s", "scan_id": scan, "structure": name, "volume_mm3": size * factor}
        for scan, factor in (("a", 1.0), ("b", 1.1), ("c", 0.9))
        for name, size in person.items()
    ]
    tsv.write(pd.DataFrame(rows), tmp_path / "volumes.tsv")
    monkeypatch.setattr(sys, "argv", ["script", str(tmp_path / "volumes.tsv")])
    measure_sides.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("3 scans, 3 pairs of a session: cosine 1.00 to 1.00")
    assert [line.split(": ")[1].split(" ")[0] for line in lines[1:]] == ["0.0%", "0.0%", "100.0%"]
