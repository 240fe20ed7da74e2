"""What the preflight command says of a bare machine, of one with tools, and of a study that asks for them."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import stand_ins

from analysis import cli, doctor
from analysis.backends.registry import NAMES
from analysis.errors import ConfigurationError, ToolError


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but the system's own programs."""
    for name in ("FREESURFER_HOME", "FSLDIR", "FS_LICENSE", "MODULESHOME", "LMOD_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")


def findings(**settings: object) -> dict[str, doctor.Finding]:
    return {row.name: row for row in doctor.examine(settings)}


def test_a_bare_machine_is_told_completely_and_at_once() -> None:
    environment = {"PATH": "/usr/bin:/bin", "HOME": os.environ.get("HOME", "/")}
    before = os.times()
    said = subprocess.run(
        [sys.executable, "-m", "analysis", "doctor"], env=environment, capture_output=True, text=True, check=True
    ).stdout
    after = os.times()
    # Processor time: what the clock says depends on what else the machine does.
    assert after.children_user + after.children_system - before.children_user - before.children_system < 2
    for name in (*NAMES, "mri_synthsr", "Python", "torch", "dcm2niix", "FreeSurfer", "FSL", "containers", "NiftyReg"):
        assert name in said
    assert "give its folder as tools.freesurfer.home or FREESURFER_HOME" in said


def test_tools_are_told_with_version_and_place(tmp_path: Path) -> None:
    home = stand_ins.install(tmp_path / "tools", version="7.4.1")
    assert findings()["back end synthseg"].state == doctor.MISSING
    found = findings(tools={"freesurfer": {"home": str(home)}, "fsl": {"home": str(home)}})
    assert found["FreeSurfer"].what == f"7.4.1, {home}"
    assert all(found[f"back end {name}"].state == doctor.OK for name in NAMES)
    (home / "license.txt").unlink()
    found = findings(tools={"freesurfer": {"home": str(home)}, "fsl": {"home": str(home)}})
    assert "needs a licence file" in found["back end recon-all"].what
    assert found["back end first"].state == doctor.OK


def test_a_module_that_jobs_will_load_is_not_missing(tmp_path: Path) -> None:
    module = {"freesurfer": {"module": "freesurfer/7.4.1"}}
    found = findings(tools=module)
    assert found["back end synthseg"].state == found["synthesiser mri_synthsr"].state == doctor.NOTE
    assert found["back end first"].state == doctor.MISSING
    home = stand_ins.install(tmp_path / "tools")
    (home / "license.txt").unlink()
    found = findings(tools={"freesurfer": {**module["freesurfer"], "home": str(home)}})
    assert found["back end synthseg"].state == doctor.MISSING, "its programs are here, the licence is not"


def test_a_container_that_nothing_can_run_is_told(tmp_path: Path) -> None:
    image = tmp_path / "freesurfer.sif"
    image.touch()
    found = findings(tools={"freesurfer": {"container": str(image)}})
    assert found["FreeSurfer"].state == doctor.NOTE and str(image) in found["FreeSurfer"].what
    assert "apptainer or singularity is not installed" in found["back end synthseg"].what


def test_the_exit_code_is_that_of_what_the_study_asks_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("backends: [embedded]\n")
    assert cli.main(["doctor", "--configfile", str(path)]) == 0
    path.write_text("backends: [embedded, synthseg]\n")
    assert cli.main(["doctor", "--configfile", str(path)]) == ToolError.exit_code
    assert "missing: back end synthseg" in capsys.readouterr().err
    path.write_text("synthesiser: mri_synthsr\n")
    assert cli.main(["doctor", "--configfile", str(path)]) == ToolError.exit_code
    assert "missing: synthesiser mri_synthsr" in capsys.readouterr().err
    path.write_text(f"backends: [embedded, recon-all]\nrecon_all: {{subjects: {tmp_path}}}\n")
    assert cli.main(["doctor", "--configfile", str(path)]) == 0  # imported: no program is needed
    path.write_text("weights: {synthsr: /nowhere/x.safetensors}\n")
    assert cli.main(["doctor", "--configfile", str(path)]) == ToolError.exit_code
    assert "missing: weights of synthsr" in capsys.readouterr().err
    for text, said in (
        ("- a list\n", "holds no `key: value` lines"),
        ("tools: {fsl\nweights: secret: x\n", "line 2, column 8: "),
        (None, "cannot be read (No such file or directory); give the study's configuration"),
    ):
        path.unlink() if text is None else path.write_text(text)
        assert cli.main(["doctor", "--configfile", str(path)]) == ConfigurationError.exit_code
        told = capsys.readouterr().err
        assert said in told and "secret" not in told


def test_the_converter_is_the_one_inside_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = findings()["DICOM input"]
    assert inside.state == doctor.OK and f"dcm2niix {metadata.version('dcm2niix')}, " in inside.what
    (other := tmp_path / "dcm2niix").write_text("#!/bin/sh\n")
    other.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert findings()["DICOM input"] == inside
    monkeypatch.setattr(doctor.util, "find_spec", lambda name: None)
    lacking = findings()["DICOM input"]
    assert lacking.state == doctor.MISSING
    assert "pip install dcm2niix" in lacking.what and f"{other} is not used" in lacking.what


def test_subjects_that_somebody_works_on_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scripts = tmp_path / "sub-1" / "scripts"
    scripts.mkdir(parents=True)
    assert cli.main(["doctor", "--subjects", str(tmp_path)]) == 0
    assert "no IsRunning file" in capsys.readouterr().out
    (scripts / "IsRunning.lh").write_text("HOST elsewhere\nPROCESSID 12\n")
    os.utime(scripts / "IsRunning.lh", (1, 1))
    assert cli.main(["doctor", "--subjects", str(tmp_path)]) == 0
    assert cli.main(["doctor", "--subjects", str(tmp_path / "absent")]) == ConfigurationError.exit_code
    assert "give that of FreeSurfer's subjects" in capsys.readouterr().err
    assert cli.main(["doctor", "--subjects", str(tmp_path)]) == 0
    assert "IsRunning.lh of elsewhere" in (said := capsys.readouterr().out) and "stale" in said


def test_what_the_configuration_asks_for_and_is_not_here(tmp_path: Path) -> None:
    """Only what is asked for; the workflow says it before it begins."""
    asked: dict[str, Any] = {"backends": ["embedded", "first", "recon-all"], "recon_all": {"subjects": str(tmp_path)}}
    assert [row.name for row in doctor.lacking(asked)] == ["back end first"]
    home = stand_ins.install(tmp_path / "tools")
    assert doctor.lacking({**asked, "tools": {"fsl": {"home": str(home)}}}) == []
    assert [row.name for row in doctor.lacking({"synthesiser": "mri_synthsr"})] == ["synthesiser mri_synthsr"]


def test_what_nobody_asked_for_is_not_called_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configuration = tmp_path / "config.yaml"
    configuration.write_text("backends: [embedded, first]\n")
    assert cli.main(["doctor", "--configfile", str(configuration)]) == 69
    lines = [line for line in capsys.readouterr().out.splitlines() if "back end" in line]
    missing = [line for line in lines if f" {doctor.MISSING} " in line]
    assert len(lines) == len(NAMES) and len(missing) == 1 and "back end first" in missing[0]
