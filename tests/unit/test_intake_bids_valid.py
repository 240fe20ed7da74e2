"""The converted dataset is BIDS: the real validator says so."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import dicom_maker as maker
import nibabel as nib
import numpy as np
import pytest

from analysis import tsv
from analysis.cli import main
from analysis.layout import Results

CT = {"Modality": "CT", "RescaleIntercept": "-500", "RescaleSlope": "1"}


@pytest.fixture(scope="module")
def validator() -> str:
    program = shutil.which("bids-validator-deno", path=str(Path(sys.executable).parent)) or ""
    if not program:
        pytest.skip("bids-validator-deno is not installed; pip install bids-validator-deno")
    return program


def intake(source: Path, root: Path, *options: str) -> Results:
    results, folders = Results(root / "results"), ["--out", str(root / "results"), "--private", str(root / "private")]
    assert main(["inventory", str(source), *folders, *options]) == 0
    assert main(["convert", str(results.batch("select", "0001")), *folders]) == 0
    return results


def errors(validator: str, dataset: Path) -> list[str]:
    done = subprocess.run([validator, "--json", str(dataset)], capture_output=True, text=True, check=False)
    issues = json.loads(done.stdout)["issues"]["issues"]
    assert issues, "the validator recommends something to everybody"
    return [f"{issue['code']} {issue.get('location')}" for issue in issues if issue["severity"] == "error"]


def test_converted_dicom_is_valid(tmp_path: Path, validator: str) -> None:
    source = tmp_path / "export"
    maker.write_series(source, maker.T1)
    maker.write_series(source, maker.T1, series="2")
    maker.write_series(source, {**maker.T1, "ContrastBolusAgent": "Gd"}, series="3")
    maker.write_series(source, CT, series="4")
    maker.write_series(source, {**maker.FLAIR, "StudyDate": "20210324"}, study="1.2.3.5")
    results = intake(source, tmp_path)
    rawdata = results.root / "rawdata"
    assert errors(validator, rawdata) == []
    names = {path.name.partition("_acq-")[2] for path in rawdata.rglob("*.nii.gz")}
    assert names == {
        *("ax_run-1_T1w.nii.gz", "ax_run-2_T1w.nii.gz", "ax_ce-gd_run-1_T1w.nii.gz"),
        *("ax_run-1_ct.nii.gz", "ax_run-1_FLAIR.nii.gz"),
    }
    scans = {path.parent.name: tsv.read(path) for path in rawdata.rglob("*_scans.tsv")}
    assert [len(scans[name]) for name in ("ses-01", "ses-02")] == [3, 1]
    days = [np.datetime64(scans[name].acq_time[0][:10]) for name in ("ses-01", "ses-02")]
    assert (days[1] - days[0]).astype(int) == 20 and days[1] < np.datetime64("1925-01-01")
    assert all((path / name).is_file() for path in rawdata.glob("sub-*/ses-01") for name in scans["ses-01"].filename)


def test_linked_dataset_is_valid(tmp_path: Path, validator: str) -> None:
    values = np.random.default_rng(0).normal(100, 30, (20, 20, 20)).astype(np.float32)
    for name in ("sub-1/anat/sub-1_T1w", "sub-2/ses-a/anat/sub-2_ses-a_acq-x_FLAIR"):
        path = tmp_path / "export" / f"{name}.nii.gz"
        path.parent.mkdir(parents=True)
        nib.save(nib.Nifti1Image(values, np.diag([9.0, 9.0, 9.0, 1.0])), path)
    (tmp_path / "export" / "participants.tsv").write_text("participant_id\tage\tsex\nsub-1\t94\tF\nsub-2\t30\tM\n")
    results = intake(tmp_path / "export", tmp_path, "--format", "bids")
    assert errors(validator, results.root / "rawdata") == []
    assert list(tsv.read(results.root / "rawdata" / "participants.tsv").age_years) == ["90", "30"]
    assert list(tsv.read(results.sessions).age_years) == ["90", "30"]
