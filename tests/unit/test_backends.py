"""Other laboratories' tools: their command lines, their files, and every way in which they fail, by stand-ins."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import stand_ins

from analysis import batch, cli, tsv, volumes
from analysis.backends import commands, outputs, subjects, suites
from analysis.backends.registry import BACKENDS
from analysis.errors import ConfigurationError, DataError
from analysis.layout import Results, sidecar_of
from synthsr import files, labels

SCAN = "sub-1_ses-01_T2w"
NAME = "sub-1_ses-01_T1w"


@pytest.fixture
def request_(tmp_path: Path) -> commands.Request:
    image = tmp_path / "input.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((24, 24, 24), np.float32), np.eye(4)), image)
    shutil.copyfile(image, tmp_path / "brain.nii.gz")
    return commands.Request(image, tmp_path, NAME, threads=2)


EXPECTED = {
    "recon-all": [f"recon-all -all -i DIR/input.nii.gz -openmp 2 -subjid {NAME} -sd DIR"],
    "recon-all-clinical": [f"recon-all-clinical.sh DIR/input.nii.gz {NAME} 2 DIR"],
    "samseg": ["run_samseg --input DIR/input.nii.gz --output DIR/samseg --threads 2"],
    "synthseg": [
        "mri_synthseg --i DIR/input.nii.gz --o DIR/synthseg.nii.gz --cpu --parc --qc DIR/qc.csv --robust --threads 2 "
        "--vol DIR/volumes.csv"
    ],
    "fast": ["bet input.nii.gz DIR/brain.nii.gz -m -R", "fast -t 1 -n 3 -o DIR/fast -S 1 DIR/brain.nii.gz"],
    "first": ["run_first_all -m auto -i DIR/input.nii.gz -o DIR/first"],
}


@pytest.mark.parametrize("backend", BACKENDS)
def test_command_lines(backend: str, request_: commands.Request) -> None:
    made = [" ".join(command).replace(str(request_.folder), "DIR") for command in commands.of(backend, request_)]
    assert made == EXPECTED[backend]


def test_nipype_asks_no_network(request_: commands.Request, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first interface of a process would ask for the latest version of nipype."""
    monkeypatch.setattr("nipype.interfaces.base.core.BaseInterface._etelemetry_version_data", None)
    asked: list[str] = []
    sys.addaudithook(lambda event, _: asked.append(event) if event == "socket.getaddrinfo" else None)
    list(commands.of("samseg", request_))
    assert asked == []


def test_stages_of_recon_all_are_called_one_after_the_other(request_: commands.Request, tmp_path: Path) -> None:
    staged = commands.Request(request_.image, tmp_path, NAME, 1, stages=("autorecon1", "autorecon2", "autorecon3"))
    made = [" ".join(command).replace(str(tmp_path), "DIR") for command in commands.of("recon-all", staged)]
    assert made == [
        f"recon-all -autorecon1 -i DIR/input.nii.gz -openmp 1 -subjid {NAME} -sd DIR",
        f"recon-all -autorecon2 -openmp 1 -subjid {NAME} -sd DIR",
        f"recon-all -autorecon3 -openmp 1 -subjid {NAME} -sd DIR",
    ]
    with pytest.raises(ConfigurationError, match="no stage autorecon4"):
        list(commands.of("recon-all", commands.Request(request_.image, tmp_path, NAME, stages=("autorecon4",))))


def test_ct_is_told_and_synthsr_has_its_command_line(request_: commands.Request, tmp_path: Path) -> None:
    ct = commands.Request(request_.image, tmp_path, NAME, 3, ct=True)
    assert "--ct" in next(commands.of("synthseg", ct))
    made = " ".join(commands.synthsr(ct, tmp_path / "t1.nii.gz")).replace(str(tmp_path), "DIR")
    assert made == "mri_synthsr --i DIR/input.nii.gz --o DIR/t1.nii.gz --cpu --ct --threads 3"


def test_a_folder_with_a_space_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="TMPDIR"):
        list(commands.of("samseg", commands.Request(tmp_path / "x.nii.gz", tmp_path / "a b", NAME)))


# The tools' files, as they write them.
ASEG = """\
# Title Segmentation Statistics
#
# Measure BrainSeg, BrainSegVol, Brain Segmentation Volume, 1150000.000000, mm^3
# Measure lhCortex, lhCortexVol, Left hemisphere cortical gray matter volume, 231415.9, mm^3
# Measure rhCortex, rhCortexVol, Right hemisphere cortical gray matter volume, 232415.9, mm^3
# Measure lhCerebralWhiteMatter, lhCerebralWhiteMatterVol, Left hemisphere cerebral white matter volume, 220000, mm^3
# Measure rhCerebralWhiteMatter, rhCerebralWhiteMatterVol, Right hemisphere cerebral white matter volume, 221000, mm^3
# Measure EstimatedTotalIntraCranialVol, eTIV, Estimated Total Intracranial Volume, 1487654.321, mm^3
# NRows 3
# ColHeaders  Index SegId NVoxels Volume_mm3 StructName normMean normStdDev normMin normMax normRange
  1   4      7433     7433.4  Left-Lateral-Ventricle            27.1   12.3    5.0   90.0   85.0
  2  10      8000     8000.5  Left-Thalamus-Proper              90.0    8.0   50.0  120.0   70.0
  3 251      1000      998.2  CC_Posterior                     100.0   10.0   50.0  150.0  100.0
"""
APARC = """\
# Table of FreeSurfer cortical parcellation anatomical statistics
# Measure Cortex, NumVert, Number of Vertices, 130000, unitless
# Measure Cortex, WhiteSurfArea, White Surface Total Area, 85000.5, mm^2
# Measure Cortex, MeanThickness, Mean Thickness, 2.51234, mm
# ColHeaders StructName NumVert SurfArea GrayVol ThickAvg ThickStd MeanCurv GausCurv FoldInd CurvInd
bankssts                                 1458   1006   2545  2.573 0.432     0.100     0.018       11     1.1
precuneus                                5400   3655   9500  2.401 0.540     0.120     0.022       60     4.9
"""


def test_aseg_stats_are_read(tmp_path: Path) -> None:
    path = tmp_path / "aseg.stats"
    path.write_text(ASEG)
    assert outputs.aseg(path) == {
        "Left-Lateral-Ventricle": 7433.4,
        "Left-Thalamus": 8000.5,
        "CC_Posterior": 998.2,
        "Left-Cerebral-Cortex": 231415.9,
        "Right-Cerebral-Cortex": 232415.9,
        "Left-Cerebral-White-Matter": 220000,
        "Right-Cerebral-White-Matter": 221000,
        "ICV": 1487654.321,
    }
    for text, message in ((ASEG[:-30], "values for 10 columns"), (ASEG.replace("eTIV", "TIV"), "eTIV"),
                          (ASEG[:300], "ColHeaders"), (ASEG.replace("8000.5", "much"), "not a number")):  # fmt: skip
        path.write_text(text)
        with pytest.raises(DataError, match=message):
            outputs.aseg(path)


def test_aseg_stats_of_freesurfer_5_are_read(tmp_path: Path) -> None:
    path = tmp_path / "aseg.stats"
    older = ASEG.replace("CerebralWhiteMatter", "CorticalWhiteMatter").replace("eTIV", "ICV")
    path.write_text(older.replace("EstimatedTotalIntraCranialVol", "IntraCranialVol"))
    volumes_mm3 = outputs.aseg(path)
    assert volumes_mm3["Right-Cerebral-White-Matter"] == 221000 and volumes_mm3["ICV"] == 1487654.321


@pytest.mark.parametrize("newer", [False, True])
def test_samseg_tells_the_icv_in_a_table_of_its_own(tmp_path: Path, newer: bool) -> None:
    icv = "# Measure Intra-Cranial, 1456789.100000, mm^3\n"
    structures = "# Measure Unknown, 9876543.2, mm^3\n# Measure Left-Thalamus, 7012.300000, mm^3\n"
    (tmp_path / "samseg.stats").write_text(icv * newer + structures)
    with pytest.raises(DataError, match=r"sbtiv\.stats was not made"):
        outputs.samseg(tmp_path)
    (tmp_path / "sbtiv.stats").write_text(icv)
    assert outputs.samseg(tmp_path) == {"ICV": 1456789.1, "Left-Thalamus": 7012.3}


def test_thickness_and_area_are_read(tmp_path: Path) -> None:
    path = tmp_path / "lh.aparc.stats"
    path.write_text(APARC)
    rows = list(outputs.aparc(path, "lh"))
    assert [row["structure"] for row in rows] == ["bankssts", "precuneus", "cortex"]
    assert {**rows[0]} == {"structure": "bankssts", "side": "left", "thickness_mm": 2.573, "area_mm2": 1006,
                           "volume_mm3": 2545}  # fmt: skip
    assert (rows[2]["thickness_mm"], rows[2]["area_mm2"]) == (2.51234, 85000.5)
    path.write_text(APARC.replace("2.401", "nan"))
    with pytest.raises(DataError, match="precuneus is nan mm thick"):
        list(outputs.aparc(path, "lh"))


@pytest.mark.parametrize("first", ["subject", ""])
def test_tables_of_synthseg_are_read(tmp_path: Path, first: str) -> None:
    path = tmp_path / "volumes.csv"
    names = (
        "total intracranial,left cerebral white matter,left inferior lateral ventricle,3rd ventricle,brain-stem,csf,"
    )
    names += "left accumbens area,right ventral DC,ctx-lh-bankssts"
    path.write_text(f"{first},{names}\nsub-1,1456789.1,2.5,3,4,5,6,7,8,9\n")
    assert outputs.synthseg_table(path) == {
        "ICV": 1456789.1,
        "Left-Cerebral-White-Matter": 2.5,
        "Left-Inf-Lat-Vent": 3,
        "3rd-Ventricle": 4,
        "Brain-Stem": 5,
        "CSF": 6,
        "Left-Accumbens-area": 7,
        "Right-VentralDC": 8,
        "ctx-lh-bankssts": 9,
    }
    path.write_text(f"{first},{names}\n")
    with pytest.raises(DataError, match="expected a header and one row"):
        outputs.synthseg_table(path)


def test_fast_and_first_are_measured_in_their_images(request_: commands.Request) -> None:
    """Voxels of 2 mm³; FAST's shares are fractions."""
    affine = np.diag([1.0, 1, 2, 1])
    nib.save(nib.Nifti1Image(np.zeros((24, 24, 24), np.float32), affine), request_.image)
    share = np.zeros((24, 24, 24), np.float32)
    for number in range(3):
        share[:] = 0
        share[: number + 1, 0, 0] = 0.25
        nib.save(nib.Nifti1Image(share, affine), request_.folder / f"fast_pve_{number}.nii.gz")
    expected = {"FAST-CSF": 0.5, "FAST-Grey-Matter": 1.0, "FAST-White-Matter": 1.5}
    assert outputs.fast_volumes(request_) == pytest.approx(expected)
    numbers = np.zeros((24, 24, 24), np.int16)
    numbers[5:9, 3, 3] = 17
    numbers[2, 2, 2] = 999
    nib.save(nib.Nifti1Image(numbers, affine), request_.folder / "first.nii.gz")
    assert outputs.label_volumes(request_.folder / "first.nii.gz") == {"Left-Hippocampus": 8.0}
    nib.save(nib.Nifti1Image(share, affine), request_.folder / "first.nii.gz")
    with pytest.raises(DataError, match="no label map"):
        outputs.label_volumes(request_.folder / "first.nii.gz")


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({}, "no volume at all"),
        ({"ICV": 1e6, "Left-Hippocampus": 0.0}, "Left-Hippocampus is 0"),
        ({"Right-Cerebral-White-Matter": 0.0}, "Right-Cerebral-White-Matter is 0"),
        ({"ICV": 0.0}, "ICV is 0"),
        ({"3rd-Ventricle": float("nan")}, "3rd-Ventricle is nan"),
        ({"CC_Central": -1.0}, "CC_Central is -1"),
    ],
)
def test_volumes_that_no_head_has_are_refused(sizes: dict[str, float], message: str) -> None:
    with pytest.raises(DataError, match=message):
        outputs.check_volumes(sizes, "somewhere")
    outputs.check_volumes({"ICV": 1e6, "5th-Ventricle": 0.0, "Left-Hippocampus": 3000}, "somewhere")


def test_a_table_that_ends_too_early_is_refused(request_: commands.Request) -> None:
    """Every row that is there is sound; what was cut off is missing."""
    numbers = np.zeros((24, 24, 24), np.int16)
    numbers[12, 12, 12] = 17
    nib.save(nib.Nifti1Image(numbers, np.eye(4)), request_.folder / "labels.nii.gz")
    found = outputs.Found({"ICV": 1e6, "Left-Hippocampus": 3000.0}, request_.folder / "labels.nii.gz")
    with pytest.raises(DataError, match=r"lacks Left-Accumbens-area, .*Right-Hippocampus"):
        outputs.checked(found, request_)
    assert outputs.checked(found, request_, is_whole_brain=False) is found


# Whole batches, by stand-ins.
@pytest.fixture
def study(tmp_path: Path) -> Results:
    """One scan with its synthetic T1, in a study whose path has a space."""
    results = Results(tmp_path / "a study" / "results")
    image = np.random.default_rng(0).uniform(0, 100, (24, 28, 24)).astype(np.float32)
    affine = np.diag([2.0, 2, 2, 1])
    for path in (results.raw(SCAN), results.synthetic(SCAN)):
        path.parent.mkdir(parents=True)
        nib.save(nib.Nifti1Image(image, affine), path)
    made = {"WeightsName": "synthsr", "WeightsSHA256": "7" * 64, "GeneratedBy": {"Name": "x", "Version": "0.1.0"}}
    files.write_json(sidecar_of(results.synthetic(SCAN)), made)
    row = {"scan_id": SCAN, "participant_id": "sub-1", "session_id": "ses-01", "contrast": "T2w", "status": batch.DONE,
           "reason": "", "path": results.synthetic(SCAN).relative_to(results.root).as_posix(), "sha256": "1",
           "key": "2"}  # fmt: skip
    tsv.write(pd.DataFrame([row]), results.batch("synthesise", "0001"))
    return results


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return stand_ins.install(tmp_path / "tools")


def segment(results: Results, backend: str, *arguments: str) -> int:
    table = str(results.batch("synthesise", "0001"))
    return cli.main(["segment", table, "--out", str(results.root), "--backend", backend, *arguments])


def outcome(results: Results, backend: str) -> dict[str, str]:
    return batch.read(results.batches(f"segment-{backend}") / "batch-0001.tsv").iloc[0].to_dict()


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_back_end_leaves_the_same_tables(backend: str, study: Results, home: Path) -> None:
    assert segment(study, backend, "--home", str(home)) == 0
    row = outcome(study, backend)
    assert row["status"] == batch.DONE, row["reason"]
    table = tsv.read(study.root / row["path"], numbers=["volume_mm3", "icv_mm3"])
    assert tuple(table.columns) == volumes.COLUMNS
    assert set(table["backend"]) == {backend} and set(table["version"]) == {"stand-in 1.0"}
    assert (table["volume_mm3"] > 0).all() and set(table["scan_id"]) == {SCAN}
    has_icv = backend not in ("fast", "first")
    assert (table["icv_mm3"] > 1.4e6).all() if has_icv else table["icv_mm3"].isna().all()
    if backend != "fast":
        sizes = table.set_index("structure")
        assert sizes.loc["Left-Hippocampus", "label"] == "17" and sizes.loc["Right-Thalamus", "side"] == "right"
    found = volumes.read(study.root / row["path"])
    assert found.provenance.synthesiser == ("none" if BACKENDS[backend].reads_scan else "synthsr 0.1.0")
    if "syn" in backend or "clinical" in backend:
        assert found.quality["thalamus"] == 0.91
    description = "scan" if BACKENDS[backend].reads_scan else "synthsr"
    image = nib.load(study.segmentation(SCAN, description=description, backend=backend))
    assert image.shape == (24, 28, 24) and np.asarray(image.dataobj).max() > 0
    if BACKENDS[backend].keeps_subject:
        assert (study.subject(SCAN, backend=backend) / "stats" / "lh.aparc.stats").is_file()
        surfaces = study.scan_surfaces(SCAN, description=description, backend=backend)
        rows = tsv.read(surfaces, numbers=["thickness_mm", "area_mm2", "volume_mm3"])
        assert len(rows) == 6 and rows["thickness_mm"].between(2, 3).all()


def test_a_scan_that_is_done_is_left_alone_and_another_version_makes_it_again(study: Results, home: Path) -> None:
    assert segment(study, "synthseg", "--home", str(home)) == 0
    path = study.root / outcome(study, "synthseg")["path"]
    os.utime(path, (1, 1))
    assert segment(study, "synthseg", "--home", str(home)) == 0
    assert path.stat().st_mtime == 1
    (home / "build-stamp.txt").write_text("stand-in 2.0\n")
    assert segment(study, "synthseg", "--home", str(home)) == 0
    assert set(tsv.read(path)["version"]) == {"stand-in 2.0"}


#: One back end has every fault, the others those that their own files can have.
FAULTS = [("synthseg", fault) for fault in ("exit", "nothing", "cut", "zero", "nan", "elsewhere")]
FAULTS += [("recon-all", "nothing"), ("recon-all", "cut"), ("recon-all", "nan"), ("recon-all-clinical", "cut")]
FAULTS += [("samseg", "cut"), ("samseg", "zero"), ("fast", "cut"), ("fast", "nan"), ("fast", "elsewhere")]
FAULTS += [("first", "nothing"), ("first", "cut"), ("first", "elsewhere")]


@pytest.mark.parametrize(("backend", "fault"), FAULTS)
def test_no_exit_code_is_believed(
    backend: str, fault: str, study: Results, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a tool leaves undone costs its scan, not the batch, and leaves nothing that looks whole."""
    monkeypatch.setenv("STAND_IN_FAULT", fault)
    assert segment(study, backend, "--home", str(home)) == 0
    row = outcome(study, backend)
    assert row["status"] == batch.REJECTED and row["reason"]
    if fault == "exit":
        assert "ended with code 1" in row["reason"]
    assert not list(study.root.glob(f"segmentation-{backend}/**/*.*"))


def test_what_is_missing_is_told_before_any_scan(
    study: Results, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("FREESURFER_HOME", "FSLDIR", "FS_LICENSE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    assert segment(study, "synthseg") == ConfigurationError.exit_code
    assert "mri_synthseg is not in the PATH" in capsys.readouterr().err
    (home / "license.txt").unlink()
    assert segment(study, "synthseg", "--home", str(home)) == ConfigurationError.exit_code
    assert "FreeSurfer needs a licence file and none was found" in capsys.readouterr().err
    assert segment(study, "first", "--home", str(home)) == 0  # FSL needs none
    assert segment(study, "synthseg", "--container", str(home / "no.sif")) == ConfigurationError.exit_code
    assert "no.sif does not exist" in capsys.readouterr().err
    assert not study.batches("segment-synthseg").exists()


def test_tools_are_found_by_environment_and_path(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FREESURFER_HOME", str(home))
    by_variable = suites.locate(suites.FREESURFER, {})
    assert by_variable.obstacle(["recon-all"]) == "" and by_variable.version() == "stand-in 1.0"
    assert suites.locate(suites.FREESURFER, {"home": str(tmp_path)}).home == tmp_path
    monkeypatch.delenv("FSLDIR", raising=False)
    monkeypatch.setenv("PATH", str(home / "bin"), prepend=os.pathsep)
    assert suites.locate(suites.FSL, {}).obstacle(["bet", "fast"]) == ""


def test_a_container_gets_the_folder_the_licence_and_the_command(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for apptainer that drops its own arguments and runs the rest."""
    bins, image = tmp_path / "bins", tmp_path / "freesurfer.sif"
    bins.mkdir()
    image.touch()
    script = bins / "apptainer"
    script.write_text(f'#!/bin/sh\nwhile [ "$1" != "{image}" ]; do shift; done\nshift\nexec "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(bins), prepend=os.pathsep)
    found = suites.locate(suites.FREESURFER, {"container": str(image), "licence": str(home / "license.txt")})
    command = found.command(["recon-all", "-all"], tmp_path)
    assert command == [
        *("apptainer", "exec", "--cleanenv", "--bind", str(tmp_path)),
        *("--bind", f"{home / 'license.txt'}:/licence.txt:ro", "--env", "FS_LICENSE=/licence.txt"),
        *("--pwd", str(tmp_path), str(image), "recon-all", "-all"),
    ]
    fsl = suites.locate(suites.FSL, {"container": str(image)}).command(["bet"], tmp_path)
    assert fsl[5:9] == ["--env", "FSLOUTPUTTYPE=NIFTI_GZ", "--env", "FSLSUBALREADYRUN=true"]
    assert found.obstacle(["recon-all"]) == ""
    monkeypatch.setenv("FREESURFER_HOME", str(home))
    assert found.version() == "stand-in 1.0"


def test_the_suites_own_setup_is_read(home: Path, tmp_path: Path) -> None:
    (home / "SetUpFreeSurfer.sh").write_text('export TOLD="by $FREESURFER_HOME"\nfalse\n')
    found = suites.locate(suites.FREESURFER, {"home": str(home)})
    command = found.command(["sh", "-c", 'echo "$TOLD, $1"', "sh", "two words"], tmp_path)
    said = subprocess.run(command, env=found.environment(), capture_output=True, text=True, check=True).stdout
    assert said == f"by {home}, two words\n"


def test_run_first_all_does_not_submit_jobs_of_its_own(home: Path) -> None:
    assert suites.locate(suites.FSL, {"home": str(home)}).environment()["FSLSUBALREADYRUN"] == "true"


def test_ct_is_clipped_for_the_tool_that_has_no_option_for_it(
    study: Results, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan_id = SCAN.replace("T2w", "ct")
    raw = study.raw(scan_id)
    hounsfield = np.linspace(-1000, 1500, 24**3, dtype=np.float32).reshape(24, 24, 24)
    nib.save(nib.Nifti1Image(hounsfield, np.diag([2.0, 2, 2, 1])), raw)
    row = {**batch.rows(study.batch("synthesise", "0001"))[0], "scan_id": scan_id, "contrast": "ct"}
    tsv.write(pd.DataFrame([row]), study.batch("synthesise", "0001"))
    for backend, seen in (("recon-all-clinical", (0.0, 80.0)), ("synthseg", (-1000.0, 1500.0))):
        monkeypatch.setenv("STAND_IN_SEEN", str(study.root / backend))
        assert segment(study, backend, "--home", str(home)) == 0
        assert outcome(study, backend)["status"] == batch.DONE
        assert tuple(map(float, (study.root / backend).read_text().split())) == seen


def test_mri_synthsr_takes_the_place_of_synthsr(study: Results, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its T1 lies on the grid that the segmenter expects, with the flag; faults cost the scan."""
    table = study.batch("convert", "0001")
    row = {
        **batch.rows(study.batch("synthesise", "0001"))[0],
        "path": study.raw(SCAN).relative_to(study.root).as_posix(),
    }
    tsv.write(pd.DataFrame([row]), table)
    study.synthetic(SCAN).unlink()
    command = ["synthesise", str(table), "--out", str(study.root), "--synthesiser", "mri_synthsr", "--home", str(home)]
    for fault in ("nothing", "zero", "nan"):
        monkeypatch.setenv("STAND_IN_FAULT", fault)
        assert cli.main(command) == 0
        assert batch.rows(study.batch("synthesise", "0001"))[0]["status"] == batch.REJECTED
        assert not study.synthetic(SCAN).exists()
    monkeypatch.delenv("STAND_IN_FAULT")
    assert cli.main(command) == 0
    assert nib.load(study.synthetic(SCAN)).shape == (48, 56, 48)
    facts = json.loads(sidecar_of(study.synthetic(SCAN)).read_text())
    assert facts["Synthetic"] is True and facts["GeneratedBy"] == {"Name": "mri_synthsr", "Version": "stand-in 1.0"}
    assert volumes.synthesiser_of(sidecar_of(study.synthetic(SCAN))) == ("mri_synthsr stand-in 1.0", "n/a")


# Subjects that exist already.
@pytest.fixture
def finished(study: Results, home: Path) -> Path:
    """A folder with one finished subject, made by the stand-in."""
    assert segment(study, "recon-all", "--home", str(home)) == 0
    folder = study.root.parent / "subjects"
    shutil.copytree(study.subject(SCAN, backend="recon-all").parent, folder)
    shutil.rmtree(study.root / "segmentation-recon-all")
    shutil.rmtree(study.batches("segment-recon-all"))
    return folder


def test_finished_subjects_are_imported_and_no_program_is_needed(study: Results, finished: Path) -> None:
    before = sorted(path.relative_to(finished) for path in finished.rglob("*"))
    assert segment(study, "recon-all", "--subjects", str(finished)) == 0
    row = outcome(study, "recon-all")
    assert row["status"] == batch.DONE, row["reason"]
    found = volumes.read(study.root / row["path"])
    assert found.provenance.version == "freesurfer-stand-in-7.4.1"
    assert found.provenance.synthesiser == "unknown: imported"
    assert sorted(path.relative_to(finished) for path in finished.rglob("*")) == before
    assert not study.subject(SCAN, backend="recon-all").exists()


def damage(subject: Path, how: str) -> None:
    scripts = subject / "scripts"
    if how == "absent":
        shutil.rmtree(subject)
    elif how == "error":
        (scripts / "recon-all.error").touch()
    elif how == "unfinished":
        (scripts / "recon-all-status.log").write_text("#@# autorecon2\n")
    elif how == "no table":
        (subject / "stats" / "aseg.stats").unlink()
    elif how == "no labels":
        (subject / "mri" / "aseg.mgz").unlink()
    else:
        process = {"running": os.getpid(), "stale": 2**22 + 1}[how]
        text = f"------\nSUBJECT x\nDATE today\nUSER y\nHOST {socket.gethostname()}\nPROCESSID {process} \nOS Linux\n"
        (scripts / "IsRunning.lh+rh").write_text(text)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("absent", "no such subject"),
        ("error", "ended with an error"),
        ("unfinished", "does not end with 'finished without error'"),
        ("no table", "aseg.stats was not made"),
        ("no labels", "aseg.mgz was not made"),
        ("running", "recon-all may be at work on it; it is not resumed"),
        ("stale", "stale: its process is gone; it is not resumed"),
    ],
)
def test_unsound_subjects_are_refused(study: Results, finished: Path, how: str, message: str) -> None:
    damage(finished / SCAN, how)
    assert segment(study, "recon-all", "--subjects", str(finished)) == 0
    row = outcome(study, "recon-all")
    assert row["status"] == batch.REJECTED and message in row["reason"]


def test_a_run_of_another_machine_is_stale_after_two_silent_days(tmp_path: Path) -> None:
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    path = scripts / "IsRunning.lh+rh"
    path.write_text("HOST elsewhere\nPROCESSID 1\n")
    assert not subjects.running(tmp_path)[0].is_stale
    os.utime(path, (1, 1))
    assert subjects.running(tmp_path)[0].is_stale


def test_structures_have_the_names_of_the_one_table() -> None:
    own = {label.name for label in labels.table()} | {volumes.ICV}
    assert set(outputs.NAMES.values()) <= own
    assert {side + name for name in outputs.FIRST_SIDED for side in ("Left-", "Right-")} <= own
