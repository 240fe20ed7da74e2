from __future__ import annotations

import dataclasses
import hashlib
import shutil
import subprocess
from pathlib import Path

import dcm2niix
import nibabel as nib
import numpy as np
import pandas as pd
import pydicom
import pytest
from simulated_head import SMALL, numbers

from analysis import cli
from analysis.errors import ConfigurationError, DataError
from analysis.simulate import anatomy, build, clinic
from synthsr import labels


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The miniature on disk, stored left-inferior-anterior as FreeSurfer does."""
    path = tmp_path_factory.mktemp("base") / "head.nii.gz"
    ras = nib.Nifti1Image(numbers(), np.eye(4))
    lia = nib.orientations.axcodes2ornt("LIA")
    nib.save(ras.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(ras.affine), lia)), path)
    return path


@pytest.fixture(scope="module")
def made(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("clinic")
    build.build(SMALL, anatomy=base, out=out)
    return out


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_same_seed_same_bytes_whatever_the_jobs(made: Path, base: Path, tmp_path: Path) -> None:
    build.build(SMALL, anatomy=base, out=tmp_path, jobs=2)
    assert digests(tmp_path) == digests(made)


def test_another_seed_is_another_clinic_and_takes_its_place(made: Path, base: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    build.build(
        dataclasses.replace(SMALL, seed=2, patients=1, localizers=0, four_dimensional=0), anatomy=base, out=tmp_path
    )
    assert [path.name for path in (tmp_path / "dicom").iterdir()] == ["SIM0001"], "the second patient is gone"
    assert not set(pd.read_table(tmp_path / "truth.tsv").study_uid) & set(pd.read_table(made / "truth.tsv").study_uid)


def test_only_what_is_missing_is_made_again(made: Path, base: Path) -> None:
    before = digests(made)
    times = {path: path.stat().st_mtime_ns for path in made.rglob("*") if path.is_file()}
    lost = next((made / "dicom" / "SIM0002").rglob("*.dcm"))
    lost.unlink()
    lines: list[str] = []
    build.build(SMALL, anatomy=base, out=made, report=lines.append)
    assert lines[:-1] == ["SIM0002 made"]
    assert digests(made) == before
    changed = {path for path, time in times.items() if path.stat().st_mtime_ns != time}
    assert all("SIM0002" in path.as_posix() for path in changed)


def test_what_somebody_else_put_there_stays(tmp_path: Path) -> None:
    for name, text in (("MRN4711", '{"key": ""}'), ("SIM0007", '{"name": "theirs"}'), ("SIM0008", "text")):
        record, study = tmp_path / "patients" / f"{name}.json", tmp_path / "dicom" / name / "1.dcm"
        for path, content in ((record, text), (study, "scan")):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
    before = digests(tmp_path)
    build._forget(tmp_path, [])
    assert digests(tmp_path) == before


def test_tables(made: Path) -> None:
    people, truth = pd.read_table(made / "patients.tsv"), pd.read_table(made / "truth.tsv")
    assert list(people.patient_id) == ["SIM0001", "SIM0002"]
    assert people.age_years.between(20, 90).all()
    known = {label.name for label in labels.table()}
    assert set(truth.structure) - known == {"ICV"}
    for _, rows in truth.groupby("study_uid"):
        volumes = rows.set_index("structure").volume_mm3
        assert volumes.drop("ICV").sum() == pytest.approx(volumes["ICV"], rel=1e-4)
    header = pydicom.dcmread(next((made / "dicom" / "SIM0001").rglob("*.dcm")))
    assert header.StudyInstanceUID == people.study_uid[0]
    assert str(header.PatientName).startswith("Simulated^")
    assert int(header.PatientAge[:-1]) == int(people.age_years[0])


def test_converted_scans_lie_as_rendered(made: Path, base: Path, tmp_path: Path) -> None:
    """dcm2niix finds one volume per scan, in place: its affine is ours up to the order of its axes."""
    for series in sorted(made.glob("dicom/*/*_*")):
        kind = series.name.split("_")[1]
        out = tmp_path / series.parent.name / series.name
        out.mkdir(parents=True)
        subprocess.run([dcm2niix.bin, "-z", "n", "-o", out, series], check=True, capture_output=True)
        images = [nib.load(path) for path in sorted(out.glob("*.nii"))]
        if kind == "localizer":
            assert len(images) == 3
        elif kind in ("DWI", "BOLD"):
            assert [image.ndim for image in images] == [4]
        else:
            (image,) = images
            slices = sorted((pydicom.dcmread(path) for path in series.iterdir()), key=lambda d: d.InstanceNumber)
            first, last = slices[0], slices[-1]
            voxel = np.linalg.inv(image.affine) @ [*(np.array(first.ImagePositionPatient) * [-1, -1, 1]), 1]
            end = np.linalg.inv(image.affine) @ [*(np.array(last.ImagePositionPatient) * [-1, -1, 1]), 1]
            assert abs(end[2] - voxel[2]) == pytest.approx(len(slices) - 1, abs=1e-2)
            for header, position in ((first, voxel), (last, end)):
                i, j, k = np.rint(position[:3]).astype(int)
                assert position[:3] == pytest.approx([i, j, k], abs=0.02)
                plane = image.dataobj[..., k]
                i_step, j_step = (1 if i == 0 else -1), (1 if j == 0 else -1)
                assert (header.pixel_array == plane[::i_step, ::j_step].T).all()


def test_left_hippocampus_is_on_the_left(base: Path) -> None:
    loaded = anatomy.load(base, grid_mm=2)
    left, right = (np.argwhere(loaded.numbers == number)[:, 0].mean() for number in (17, 53))
    assert left < right
    assert loaded.volumes_mm3[loaded.structures.index(17)] > loaded.volumes_mm3[loaded.structures.index(53)]


def test_command(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "clinic.yaml"
    config.write_text("patiens: 3\n", encoding="utf-8")
    assert cli.main(["simulate", str(config), "--out", str(tmp_path / "x"), "--anatomy", str(base)]) == 78
    assert "'patiens'" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("patients: 0", "patients"),
        ("seed: one", "seed"),
        ("seed: true", "seed"),
        ("truth_mm: 0.3", "truth_mm"),
        ("youngest_years: 95", "youngest_years"),
        ("second_scans: 41", "second_scans"),
        ("spacing_min_mm: .nan", "spacing_min_mm"),
        ("- 1", "expected"),
        ("a: [", "YAML"),
    ],
)
def test_settings_that_cannot_be(text: str, named: str, tmp_path: Path) -> None:
    path = tmp_path / "clinic.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationError, match=named):
        clinic.read(path)


def test_shipped_configuration_is_read() -> None:
    shipped = clinic.read(Path(__file__).parents[2] / "config" / "clinic.yaml")
    assert shipped.patients >= 40
    assert shipped.second_scans >= 10


def test_base_anatomies_that_cannot_be(tmp_path: Path) -> None:
    for name, data, affine, message in (
        ("coarse", numbers(), np.diag([2.0, 2, 2, 1]), "1 mm"),
        ("unknown", numbers() + 600, np.eye(4), "labels.tsv"),
        ("empty", numbers() * 0, np.eye(4), "no label"),
    ):
        path = tmp_path / f"{name}.nii.gz"
        nib.save(nib.Nifti1Image(data.astype(np.uint16), affine), path)
        with pytest.raises(DataError, match=message):
            anatomy.load(path, grid_mm=2)
    with pytest.raises(DataError, match="cannot be read"):
        anatomy.load(tmp_path / "missing.nii.gz", grid_mm=2)
