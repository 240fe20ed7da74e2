"""How far a study is, from what its stages leave while they run."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest

from analysis import batch, cli, journal, status, tsv
from analysis.layout import PICTURES, Results


def scans(numbers: Sequence[int], states: Sequence[str] = ()) -> pd.DataFrame:
    rows = [
        {column: "" for column in batch.COLUMNS} | {"scan_id": f"sub-{number}_T1w", "status": state}
        for number, state in zip(numbers, states or [batch.DONE] * len(numbers), strict=True)
    ]
    return pd.DataFrame(rows, columns=list(batch.COLUMNS))


@pytest.fixture
def results(tmp_path: Path) -> Results:
    """Three batches of four scans: one through, one at work, one untouched by the networks."""
    results = Results(tmp_path / "results")
    for number in (1, 2, 3):
        members = range(4 * number, 4 * number + 4)
        tsv.write(scans(members), results.batch("select", f"000{number}"))
        tsv.write(scans(members, ["done", "done", "done", "rejected"]), results.batch("convert", f"000{number}"))
    tsv.write(scans([4, 5, 6]), results.batch("synthesise", "0001"))
    tsv.write(scans([4, 5, 6], ["done", "done", "rejected"]), results.batch("segment", "0001"))
    (tmp_path / "benchmarks" / "segment").mkdir(parents=True)
    (tmp_path / "benchmarks" / "segment" / "batch-0001.tsv").write_text("s\th:m:s\n36.0\t0:00:36\n")
    return results


def test_counts_of_finished_and_running_batches(results: Results) -> None:
    table = results.batch("synthesise", "0002")
    rows = [{**row, "status": batch.DONE} for row in scans([8, 9]).to_dict("records")]
    with pytest.raises(InterruptedError), journal.writing(table, rows[:1]) as write:
        write(rows[1])
        raise InterruptedError
    os.utime(journal.path_of(table), (time.time() + 100,) * 2)  # as if the one scan had taken so long
    convert, synthesise, segment, pictures = status.stages(results)
    assert (convert.done, convert.rejected, convert.waiting, convert.scan_s) == (9, 3, 0, None)
    assert (synthesise.done, synthesise.waiting, synthesise.running) == (5, 4, 1)
    assert synthesise.scan_s == pytest.approx(100, abs=2)
    assert (segment.done, segment.rejected, segment.waiting, segment.running) == (2, 1, 6, 0)
    assert segment.scan_s == 12
    assert (pictures.done, pictures.waiting) == (0, 8)
    assert status.seconds_left([convert, synthesise, segment], jobs=1) == pytest.approx(4 * 100 + 6 * 12, abs=8)
    assert status.seconds_left([convert], jobs=1) == 0


def test_a_failed_and_a_silent_job_do_not_run(results: Results) -> None:
    table = results.batch("synthesise", "0002")
    row = {**scans([8]).to_dict("records")[0], "status": batch.FAILED, "reason": "no space left"}
    with pytest.raises(InterruptedError), journal.writing(table, []) as write:
        write(row)
        raise InterruptedError
    synthesise = status.stages(results)[1]
    assert (synthesise.failed, synthesise.running, synthesise.waiting) == (1, 0, 5)
    with pytest.raises(InterruptedError), journal.writing(table, []):
        raise InterruptedError
    assert status.stages(results)[1].running == 1
    os.utime(journal.path_of(table), (time.time() - 2 * status.SILENCE_S,) * 2)
    assert status.stages(results)[1].running == 0


def test_what_a_person_reads(results: Results, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status", "--out", str(results.root)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:5]] == ["stage", "convert", "synthesise", "segment", "pictures"]
    assert lines[3].split() == ["segment", "2", "1", "0", "6", "0", "12.0", "2", "min"]
    assert lines[5] == "left in all: ? (1 job at a time; no scan of synthesise, pictures is through yet)"
    assert "gate: not made yet" in lines
    results.gate.parent.mkdir()
    results.gate.touch()
    os.utime(results.gate, (1, 1))
    cli.main(["status", "--out", str(results.root)])
    assert "gate: older than what it is made from: to be made again" in capsys.readouterr().out
    # A report's pictures come after the gate, which does not wait for them.
    os.utime(results.gate)
    tsv.write(scans([4, 5]), results.batch(PICTURES, "0001"))
    os.utime(results.batch(PICTURES, "0001"), (time.time() + 100,) * 2)
    cli.main(["status", "--out", str(results.root)])
    assert "gate: made" in capsys.readouterr().out
    assert cli.main(["status", "--out", str(results.root / "nowhere")]) == 65


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(None, "?"), (0, "0 min"), (61, "2 min"), (7300, "2 h 2 min"), (90000, "1 d 1 h")],
)
def test_durations(seconds: float | None, expected: str) -> None:
    assert status.duration(seconds) == expected
