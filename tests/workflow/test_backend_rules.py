"""The rule of other laboratories' tools, run by Snakemake with stand-ins; and the tables of several back ends."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import stand_ins
from test_dry_runs import snakemake

from analysis import batch, tsv
from analysis.layout import Results, sidecar_of
from synthsr import files

SCAN = "sub-1_ses-01_T2w"


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A study whose scan has its synthetic T1, and the tools."""
    root = tmp_path / "study"
    results = Results(root / "results")
    for path in (results.raw(SCAN), results.synthetic(SCAN)):
        path.parent.mkdir(parents=True)
        grey = np.random.default_rng(0).uniform(0, 100, (24, 24, 24)).astype(np.float32)
        nib.save(nib.Nifti1Image(grey, np.diag([2.0, 2, 2, 1])), path)
    made = {"WeightsName": "synthsr", "WeightsSHA256": "7" * 64, "GeneratedBy": {"Name": "x", "Version": "0.1.0"}}
    files.write_json(sidecar_of(results.synthetic(SCAN)), made)
    path = results.synthetic(SCAN).relative_to(results.root).as_posix()
    row = {"scan_id": SCAN, "participant_id": "sub-1", "session_id": "ses-01", "contrast": "T2w", "status": batch.DONE,
           "reason": "", "path": path, "sha256": "1", "key": "2"}  # fmt: skip
    tsv.write(pd.DataFrame([row]), results.batch("synthesise", "0001"))
    (tmp_path / "source").mkdir()
    home = stand_ins.install(tmp_path / "tools")
    (root / "config.yaml").write_text(
        f"dicom: {tmp_path / 'source'}\nbackends: [embedded, recon-all, first]\nrecon_all: {{stages: [autorecon1, "
        f"autorecon3]}}\nmultichannel: {{weights: synthsr, contrasts: [T1w, FLAIR]}}\n"
        f"tools:\n  freesurfer: {{home: {home}}}\n  fsl: {{home: {home}}}\n"
    )
    return root


@pytest.mark.parametrize("backend", ["recon-all", "first"])
def test_a_tool_runs_by_its_rule(study: Path, backend: str) -> None:
    table = Results(study / "results").batches(f"segment-{backend}") / "batch-0001.tsv"
    result = snakemake(study, str(table.relative_to(study)), "--cores", "1", "--allowed-rules", "segment_by_tool",
                       "--configfile", str(study / "config.yaml"))  # fmt: skip
    log = study / "logs" / f"segment-{backend}" / "batch-0001.log"
    assert result.returncode == 0, result.stdout + result.stderr + (log.read_text() if log.is_file() else "")
    row = batch.read(table).iloc[0]
    assert row["status"] == batch.DONE, row["reason"]
    said = log.read_text()
    commands = [line for line in said.splitlines() if line.startswith("+ ")]
    assert len(commands) == {"recon-all": 2, "first": 1}[backend]
    assert all(part in said for part in {"recon-all": ("-autorecon1 -i", "-autorecon3")}.get(backend, ("-m auto",)))


def test_every_back_end_has_its_jobs_and_its_tables(study: Path) -> None:
    configured = ["--configfile", str(study / "config.yaml")]
    planned = snakemake(study, "volumes", "--dry-run", "--printshellcmds", "--cores", "1", *configured)
    assert planned.returncode == 0, planned.stdout + planned.stderr
    for name in ("volumes.tsv", "recon-all/surfaces.parquet", "first/volumes_sessions.json"):
        assert f"results/tables/{name}" in planned.stdout
    assert "--backends embedded recon-all first" in planned.stdout
    assert "--weights synthsr --contrasts T1w FLAIR --segmentation segmentation" in planned.stdout
    assert "--multichannel results/multichannel/sessions.tsv" in planned.stdout
    wrong = snakemake(study, "--dry-run", "--cores", "1", *configured, "--config", "backends=[freesurfer]")
    assert wrong.returncode != 0 and "freesurfer" in wrong.stdout + wrong.stderr
