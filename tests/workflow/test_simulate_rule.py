"""Simulated patients as a target of its own, and as the input of a study."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

ROOT = Path(__file__).parents[2]

CLINIC = """\
patients: 2
anatomy: head.nii.gz
series: [{kind: T2w}]
icv_female_mm3: 33000
icv_male_mm3: 36000
matrix: 32
pixel_min_mm: 1.9
pixel_max_mm: 2
"""


def write_head(path: Path) -> None:
    """A head of a few shells: skin, bone, fluid, both hemispheres' white matter."""
    x, y, z = np.indices((52, 52, 52)) - 25.5
    radius = np.sqrt(x**2 + y**2 + z**2)
    shells = np.select([radius < 18, radius < 20, radius < 22, radius < 24], [np.where(x < 0, 2, 41), 24, 515, 511], 0)
    nib.save(nib.Nifti1Image(shells.astype(np.uint16), np.eye(4)), path)


def snakemake(study: Path, *arguments: str) -> str:
    study.mkdir(parents=True, exist_ok=True)
    result = subprocess.run(
        [sys.executable, "-m", "snakemake", "--snakefile", ROOT / "Snakefile", "--directory", study, *arguments],
        cwd=ROOT,
        env={**os.environ, "HOME": str(study), "XDG_CACHE_HOME": str(study)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_target_makes_patients_and_goes_on_from_those_that_are_there(tmp_path: Path) -> None:
    study = tmp_path / "study"
    study.mkdir()
    write_head(study / "head.nii.gz")
    (study / "mine.yaml").write_text(CLINIC)
    given = ["simulate", "--cores", "1", "--config", "clinic=mine.yaml"]
    snakemake(study, *given)
    truth = pd.read_table(study / "clinic" / "truth.tsv")
    assert set(truth.patient_id) == {"SIM0001", "SIM0002"}
    made = {path: path.stat().st_mtime_ns for path in (study / "clinic" / "dicom").rglob("*.dcm")}
    (study / "clinic" / "truth.tsv").unlink()
    snakemake(study, *given)
    assert {path: path.stat().st_mtime_ns for path in made} == made
    pd.testing.assert_frame_equal(pd.read_table(study / "clinic" / "truth.tsv"), truth)


def test_shipped_clinic_is_a_study_s_input(tmp_path: Path) -> None:
    """Simulated first, then found by the inventory; the truth is compared with what is measured."""
    plan = snakemake(tmp_path / "study", "--dry-run", "--cores", "4", "--config", "clinic=config/clinic.yaml")
    for rule in ("rule simulate:", "checkpoint inventory:", "rule agreement:"):
        assert rule in plan
