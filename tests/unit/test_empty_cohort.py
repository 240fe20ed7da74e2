"""A source of which nothing can be used: every command runs, and the report says why."""

from __future__ import annotations

from pathlib import Path

import dicom_maker as maker
import pandas as pd
import pytest

from analysis import tsv
from analysis.cli import main
from analysis.layout import Private, Results


def test_every_command_on_an_empty_cohort(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, results, private = tmp_path / "export", Results(tmp_path / "results"), Private(tmp_path / "private")
    maker.write_series(source, {**maker.T1, "Modality": "PT"})
    out = ["--out", str(results.root)]
    assert main(["inventory", str(source), *out, "--private", str(private.root)]) == 0
    assert not results.batches("select").exists()
    assert main(["gate", *out]) == 0
    assert main(["tables", *out]) == 0
    for level, volumes in (("scans", results.volumes), ("sessions", results.session_volumes)):
        people = ["--participants", str(results.sessions), "--out", str(results.statistics(f"ageing-{level}"))]
        assert main(["ageing", str(volumes), *people]) == 0
    truth = pd.DataFrame({"study_uid": ["1.2.3.4"], "structure": ["ICV"], "volume_mm3": [1.5e6]})
    tsv.write(truth, tmp_path / "truth.tsv")
    tables = [str(results.session_volumes), str(tmp_path / "truth.tsv"), "--links", str(private.sessions)]
    assert main(["agreement", *tables, "--out", str(results.statistics("agreement"))]) == 0
    known = pd.DataFrame({"study_uid": ["1.2.3.4"], "diagnosis": ["AD"], "left_mm3": [9.0], "right_mm3": [0.0]})
    tsv.write(known, tmp_path / "known.tsv")
    given = [str(tmp_path / "known.tsv"), "--links", str(private.sessions), "--out"]
    people = ["--participants", str(results.sessions), "--groups", "Control", "AD"]
    groups = ["groups", str(results.session_volumes), *people, "--diagnoses", *given]
    assert main([*groups, str(results.statistics("groups"))]) == 0
    asymmetry = ["asymmetry", str(results.session_volumes), "--lesions", *given]
    assert main([*asymmetry, str(results.statistics("asymmetry"))]) == 0
    assert main(["report", str(results.root)]) == 0
    assert capsys.readouterr().err == ""
    for table in (results.gate, results.volumes, results.session_volumes):
        assert tsv.read(table).empty
    assert pd.read_parquet(results.volumes.with_suffix(".parquet")).empty
    page = results.report.read_text(encoding="utf-8")
    assert "Nothing was included" in page and "modality PT is neither MR nor CT" in page
