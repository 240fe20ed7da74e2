"""Inventories that are killed at random moments: nothing lost, nothing half-written, the next run as if undisturbed."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

import dicom_maker as maker
import numpy as np
import pytest

from analysis import tsv
from analysis.cli import main
from analysis.intake import index
from analysis.intake.key import Key
from analysis.layout import Private, Results

N_KILLS = 10


def inventory(source: Path, root: Path) -> int:
    folders = ["--out", str(root / "results"), "--private", str(root / "private"), "--processes", "1"]
    return main(["inventory", str(source), *folders])


def tables(root: Path) -> dict[str, str]:
    """What is published and the linking tables, without temporary files."""
    results = {path: path.read_text() for path in (root / "results").rglob("*") if path.is_file()}
    private = {path: path.read_text() for path in (root / "private").glob("*.tsv")}
    both = {str(path.relative_to(root)): text for path, text in (results | private).items()}
    return {name: text for name, text in both.items() if not Path(name).name.startswith(".part-")}


def test_killed_inventories_lose_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "export"
    for number in range(40):
        places = maker.positions(4, 6.0)
        maker.write_series(source / f"{number}", patient=f"P{number // 2}", study=f"1.2.{number + 1}", places=places)
    monkeypatch.setattr(index, "COMMIT", 20)
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    for root in (undisturbed, disturbed):
        Private(root / "private").root.mkdir(parents=True, mode=0o700)
    Key.of(Private(undisturbed / "private").key)
    shutil.copy(Private(undisturbed / "private").key, Private(disturbed / "private").key)
    begin = time.monotonic()
    assert inventory(source, undisturbed) == 0
    longest_s = time.monotonic() - begin

    rng = np.random.default_rng(0)
    for delay_s in sorted(rng.uniform(0, longest_s, N_KILLS)):
        child = os.fork()
        if child == 0:
            os._exit(inventory(source, disturbed))
        time.sleep(delay_s)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        series = Results(disturbed / "results").series
        assert not series.exists() or len(tsv.read(series)) == 40
    assert inventory(source, disturbed) == 0
    assert tables(disturbed) == tables(undisturbed)
