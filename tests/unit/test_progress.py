"""Long work says how far it is: a bar in a terminal, lines in a log, and nothing of short work."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import termios
from collections.abc import Iterator

import pytest

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


def test_hours_are_told() -> None:
    assert progress._in_words(4000) == "1 h 7 min"
