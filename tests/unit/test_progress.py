"""Long work says how far it is: a bar in a terminal, lines in a log, and nothing of short work."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import dicom_maker
import pytest
from results_maker import make_results

from analysis import cli
from synthsr import progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A clock on which a look costs 25 s."""
    times = iter(range(0, 100000, 25))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(times)))
    yield


@pytest.mark.usefixtures("clock")
def test_lines_in_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress.tracked("abcdefgh", what="scans", total=8)) == list("abcdefgh")
    assert capsys.readouterr().err.splitlines() == ["scans: 3 of 8, 2 min left", "scans: 6 of 8, 1 min left"]


def test_short_work_is_silent_in_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    list(progress.tracked(range(5), what="scans", total=5))
    assert capsys.readouterr().err == ""


def test_what_ends_early_ends(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError):
        for item in progress.tracked([1, 0], what="scans", total=2):
            1 / item
    assert capsys.readouterr().err == ""


def test_bar_in_a_terminal() -> None:
    code = (
        "from synthsr.progress import say, tracked\n"
        "for name in tracked(['one', 'two'], what='scans', total=2):\n"
        "    say(f'{name} done')\n"
    )
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=theirs, text=True, check=True)
    shown = os.read(ours, 10000).decode()
    os.close(theirs)
    os.close(ours)
    assert "scans" in shown and "0/2" in shown
    assert done.stdout.splitlines() == ["one done", "two done"]


def test_commands_tell_what_they_work_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "LOG_INTERVAL_S", 0.0)
    for number in "12":
        dicom_maker.write_series(tmp_path / "source", patient=f"Quokka^{number}", study=f"1.{number}", series=number)

    def told(*words: str | Path) -> str:
        assert cli.main([str(word) for word in words]) == 0
        return capsys.readouterr().err

    source, out = tmp_path / "source", tmp_path / "results"
    lines = told("inventory", source, "--out", out)
    assert "headers read: 1 of " in lines and "series judged: 1 of 2, 1 min left" in lines
    lines += told("deidentify", source, "--out", tmp_path / "shared")
    assert "series copied: 1 of 2, 1 min left" in lines
    assert "Quokka" not in lines and str(tmp_path) not in lines
    make_results(tmp_path / "study", n_people=2)
    assert "pages of scans: 1 of 3, 1 min left" in told("report", tmp_path / "study")


def test_hours_are_told() -> None:
    assert progress._in_words(4000) == "1 h 7 min"
