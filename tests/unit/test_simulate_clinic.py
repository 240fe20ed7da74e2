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
from simulated_head import SMALL, TUMOUR, numbers

from analysis import cli
from analysis.errors import ConfigurationError, DataError
from analysis.intake import bids as intake_bids
from analysis.intake import dicom as intake_dicom
from analysis.intake.index import Index
from analysis.intake.sources.folder import Folder
from analysis.simulate import anatomy, build, clinic, dicom, patients, protocols
from analysis.simulate.clinic import Group, Planned
from analysis.simulate.geometry import ORIENTATIONS, Stack
from analysis.simulate.tissues import Sequence
from synthsr import labels

CONFIGURATIONS = sorted((Path(__file__).parents[2] / "config").glob("clinic*.yaml"))
CONFIGURATIONS += sorted((Path(__file__).parents[2] / "config" / "clinic").glob("*.yaml"))
#: One patient with everything that an archive holds; slices so thick that there are few.
ARCHIVE = dataclasses.replace(
    SMALL,
    patients=1,
    spacing_min_mm=6,
    series=tuple(
        Planned(kind=(kind,), orientation=("axial",))
        for kind in ("localizer", "MPRAGE", "T1CE", "T2w", "PDw", "FLAIR", "CT", "DWI", "BOLD", "T1w", *clinic.COPIES)
    ),
)


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
    build.build(SMALL, anatomies=[base], out=out)
    return out


@pytest.fixture(scope="module")
def archive(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("archive")
    build.build(ARCHIVE, anatomies=[base], out=out)
    return out


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_same_seed_same_bytes_whatever_the_jobs(made: Path, base: Path, tmp_path: Path) -> None:
    build.build(SMALL, anatomies=[base], out=tmp_path, jobs=2)
    assert digests(tmp_path) == digests(made)


def test_more_patients_leave_the_earlier_ones_as_they_are(made: Path, base: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    lines: list[str] = []
    grown = dataclasses.replace(SMALL, patients=3)
    build.build(grown, anatomies=[base], out=tmp_path, report=lines.append)
    assert lines[:-1] == ["SIM0003 made"]
    before, after = digests(made), digests(tmp_path)
    kept = {name for name in before if "SIM" in name}
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    first, second = (pd.read_table(folder / "truth.tsv") for folder in (made, tmp_path))
    pd.testing.assert_frame_equal(second[second.patient_id != "SIM0003"].reset_index(drop=True), first)


def test_another_seed_is_another_clinic_and_takes_its_place(made: Path, base: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    build.build(dataclasses.replace(SMALL, seed=2, patients=1), anatomies=[base], out=tmp_path)
    assert [path.name for path in (tmp_path / "dicom").iterdir()] == ["SIM0001"], "the second patient is gone"
    assert not set(pd.read_table(tmp_path / "truth.tsv").study_uid) & set(pd.read_table(made / "truth.tsv").study_uid)


def test_only_what_is_missing_is_made_again(made: Path, base: Path) -> None:
    before = digests(made)
    times = {path: path.stat().st_mtime_ns for path in made.rglob("*") if path.is_file()}
    lost = next((made / "dicom" / "SIM0002").rglob("*.dcm"))
    lost.unlink()
    lines: list[str] = []
    build.build(SMALL, anatomies=[base], out=made, report=lines.append)
    assert lines[:-1] == ["SIM0002 made"]
    assert digests(made) == before
    changed = {path for path, time in times.items() if path.stat().st_mtime_ns != time}
    assert all("SIM0002" in path.as_posix() for path in changed)


def test_an_error_stops_everybody(tmp_path: Path) -> None:
    """The first patient has a tumour and no cerebrum for it: the others are not made before that is told."""
    without = np.where(np.isin(numbers(), labels.CORTEX), 24, numbers()).astype(np.uint16)
    path = tmp_path / "head.nii.gz"
    nib.save(nib.Nifti1Image(without, np.eye(4)), path)
    config = dataclasses.replace(SMALL, patients=20, groups=(TUMOUR, Group()))
    with pytest.raises(DataError, match="SIM0001 has no cerebral cortex"):
        build.build(config, anatomies=[path], out=tmp_path / "clinic", jobs=2)
    assert len(list((tmp_path / "clinic").glob("patients/*"))) < 5


def test_picture_of_a_ct_is_no_ct(tmp_path: Path) -> None:
    patient = patients.draw(SMALL)[0]
    stack = Stack(*ORIENTATIONS["axial"], np.zeros(3), 16, 1.0, 1, 3.0, 3.0)
    series = protocols.Series("capture", "axial", (stack,), (Sequence("x_ray", 0, 0),), 3.0)
    dicom.write_series(
        tmp_path / "picture",
        [np.zeros((1, 16, 16), dtype=np.float32)],
        series,
        patient=patient,
        visit=patient.visits[0],
        vendor=protocols.VENDORS[0],
        number=12,
        uids=dicom.uid_maker("a test"),
    )
    header = pydicom.dcmread(tmp_path / "picture" / "00001.dcm")
    assert "RescaleIntercept" not in header and "ImagePositionPatient" not in header
    assert header.SeriesTime == "101200" and header.AcquisitionTime.startswith("101200")


def test_what_somebody_else_put_there_stays(base: Path, tmp_path: Path) -> None:
    for name, text in (("MRN4711", '{"key": ""}'), ("SIM0007", '{"name": "theirs"}'), ("SIM0008", "text")):
        record, study = tmp_path / "patients" / f"{name}.json", tmp_path / "dicom" / name / "1.dcm"
        for path, content in ((record, text), (study, "scan")):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
    before = digests(tmp_path)
    build._forget(build.Job(SMALL, ((base, ""),), tmp_path, "dicom"), [])
    assert digests(tmp_path) == before


def test_tables(made: Path) -> None:
    sessions, truth, scans = (pd.read_table(made / f"{name}.tsv") for name in ("sessions", "truth", "scans"))
    assert list(sessions.patient_id) == ["SIM0001", "SIM0002"]
    assert sessions.age_years.between(20, 90).all()
    assert set(sessions.diagnosis) == {"Control"}
    known = {label.name for label in labels.table()}
    assert set(truth.structure) - known == {"ICV"}
    for _, rows in truth.groupby("study_uid"):
        volumes = rows.set_index("structure").volume_mm3
        assert volumes.drop("ICV").sum() == pytest.approx(volumes["ICV"], rel=1e-4)
    assert (truth.lesion_mm3 == 0).all()
    assert not (made / "lesions.tsv").exists() and not (made / "landmarks.tsv").exists()
    assert all((made / path).is_dir() for path in scans.path)
    header = pydicom.dcmread(next((made / scans.path[0]).iterdir()))
    assert (header.StudyInstanceUID, header.SeriesInstanceUID) == (sessions.study_uid[0], scans.series_uid[0])
    assert str(header.PatientName).startswith("Simulated^")
    assert int(header.PatientAge[:-1]) == int(sessions.age_years[0])


def test_converted_scans_lie_as_rendered(archive: Path, tmp_path: Path) -> None:
    """dcm2niix finds one volume per scan, in place: its affine is ours up to the order of its axes."""
    for series in sorted(archive.glob("dicom/SIM*/study-*/*_*")):
        kind = series.name.split("_")[1]
        if kind in clinic.COPIES:
            continue
        out = tmp_path / series.name
        out.mkdir()
        subprocess.run([dcm2niix.bin, "-z", "n", "-x", "i", "-o", out, series], check=True, capture_output=True)
        images = [nib.load(path) for path in sorted(out.glob("*.nii"))]
        if kind == "localizer":
            assert len(images) == 3
        elif kind in ("DWI", "BOLD"):
            assert [image.ndim for image in images] == [4]
        else:
            (image,) = images
            slices = sorted((pydicom.dcmread(path) for path in series.iterdir()), key=lambda d: d.InstanceNumber)
            first, last = slices[0], slices[-1]
            intercept = -1024 if kind == "CT" else 0
            voxel = np.linalg.inv(image.affine) @ [*(np.array(first.ImagePositionPatient) * [-1, -1, 1]), 1]
            end = np.linalg.inv(image.affine) @ [*(np.array(last.ImagePositionPatient) * [-1, -1, 1]), 1]
            assert abs(end[2] - voxel[2]) == pytest.approx(len(slices) - 1, abs=1e-2)
            for header, position in ((first, voxel), (last, end)):
                i, j, k = np.rint(position[:3]).astype(int)
                assert position[:3] == pytest.approx([i, j, k], abs=0.02)
                plane = np.asarray(image.dataobj[..., k])
                i_step, j_step = (1 if i == 0 else -1), (1 if j == 0 else -1)
                assert (header.pixel_array.astype(int) + intercept == plane[::i_step, ::j_step].T).all()


def test_intake_knows_every_series(archive: Path, tmp_path: Path) -> None:
    """Contrast by physics; what is no scan is left out for what it is, and a copy does not count."""
    scans = pd.read_table(archive / "scans.tsv").set_index("kind")
    source, index = Folder(archive / "dicom", unpacked=tmp_path / "unpacked"), Index(tmp_path / "index.sqlite")
    found = {series.series_uid: series for series in intake_dicom.find_series(source, index, processes=1)}
    assert set(found) == set(scans.series_uid)
    expected = {"MPRAGE": "T1w", "T1CE": "T1w", "T2w": "T2w", "PDw": "PDw", "FLAIR": "FLAIR", "CT": "ct", "T1w": "T1w"}
    for kind, contrast in expected.items():
        assert found[scans.series_uid[kind]].contrast == contrast, kind
    reasons = {"localizer": "localizer", "DWI": "diffusion", "BOLD": "time series", "MIP": "derived"}
    reasons["capture"] = "secondary capture"
    for kind, reason in reasons.items():
        assert reason in found[scans.series_uid[kind]].reason, kind
    assert scans.series_uid["duplicate"] == scans.series_uid["T1w"]
    assert len(list(found[scans.series_uid["T1w"]].paths)) == scans.slices["T1w"]


def test_projection_is_the_brightest_around(archive: Path) -> None:
    scan, projection = (
        np.stack([pydicom.dcmread(path).pixel_array for path in sorted(archive.glob(f"dicom/SIM*/study-1/*_{kind}/*"))])
        for kind in ("T1w", "MIP")
    )
    middle = len(scan) // 2
    brightest = scan[middle - 2 : middle + 3].max(axis=0)
    # Scaled by another percentile.
    assert np.corrcoef(projection[middle].ravel(), brightest.ravel())[0, 1] > 0.999


def test_bids(base: Path, tmp_path: Path) -> None:
    """The intake takes every scan, where it lies and with age and sex; the other format's folder is gone."""
    config = dataclasses.replace(
        SMALL,
        patients=1,
        groups=(TUMOUR,),
        series=(Planned(kind=("localizer",)), Planned(kind=("T1CE",)), Planned(kind=("T1CE",)), Planned(kind=("CT",))),
    )
    build.build(config, anatomies=[base], out=tmp_path)
    build.build(config, anatomies=[base], out=tmp_path, scans_as="bids")
    assert not (tmp_path / "dicom" / "SIM0001").exists()
    scans, truth, sessions = (pd.read_table(tmp_path / f"{name}.tsv") for name in ("scans", "truth", "sessions"))
    assert list(scans.kind) == ["T1CE", "T1CE", "CT"] * 2
    assert set(truth.session_id) == {"ses-01", "ses-02"}
    found = {series.paths[0]: series for series in intake_bids.find_series(tmp_path / "bids")}
    assert len(found) == len(scans)
    for row in scans.itertuples():
        series = found[(tmp_path / row.path).absolute()]
        assert series.reason == "" or row.kind == "CT"
        person = sessions[sessions.session_id == row.session_id].iloc[0]
        assert (series.session_id, series.sex) == (row.session_id, person.sex)
        assert series.age_years == pytest.approx(person.age_years, abs=1e-3)
        image, mask = nib.load(tmp_path / row.path), nib.load(tmp_path / row.lesion_mask)
        assert image.header.get_zooms() == pytest.approx([row.pixel_mm, row.pixel_mm, row.spacing_mm], rel=1e-3)
        assert image.shape == mask.shape and np.allclose(image.affine, mask.affine)
        classes = set(np.unique(np.asarray(mask.dataobj)).tolist())
        assert classes <= ({0, 1, 2, 3} if row.session_id == "ses-01" else {0, 2, 4}) and len(classes) > 1


def test_patients_take_turns_with_the_label_maps_of_a_folder(base: Path, tmp_path: Path) -> None:
    maps = tmp_path / "maps"
    maps.mkdir()
    for name in ("a", "b"):
        shutil.copy(base, maps / f"{name}.nii.gz")
    nib.save(nib.Nifti1Image(np.flip(numbers(), 1).copy(), np.eye(4)), maps / "b.nii.gz")
    config = dataclasses.replace(SMALL, patients=3, series=(Planned(kind=("localizer",)),))
    build.build(config, anatomies=build.find_anatomies(maps), out=tmp_path / "clinic")
    assert list(pd.read_table(tmp_path / "clinic" / "sessions.tsv").anatomy) == ["a.nii.gz", "b.nii.gz", "a.nii.gz"]
    with pytest.raises(DataError, match="no label map"):
        build.find_anatomies(tmp_path / "clinic" / "dicom")


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
    config.write_text("anatomy: $NOWHERE/maps\n", encoding="utf-8")
    assert cli.main(["simulate", str(config), "--out", str(tmp_path / "x")]) == 65
    assert "$NOWHERE/maps: no such label map" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("patients: 0", "patients"),
        ("seed: one", "seed"),
        ("seed: true", "seed"),
        ("truth_mm: 0", "truth_mm"),
        ("groups: [{youngest_years: 95}]", "youngest_years"),
        ("groups: [{diagnosis: Flu}]", "Flu"),
        ("groups: []", "groups"),
        ("groups: [5]", "groups: expected"),
        ("series: [{kind: T3w}]", "T3w"),
        ("series: [{share: 0.5}]", "kind"),
        ("series: [{kind: T1w, share: 1.5}]", "share"),
        ("series: [{kind: T1w, plane: axial}]", "'plane'"),
        ("series: [{kind: T1w, spacing_mm: thick}]", "spacing_mm"),
        ("series: [{kind: MIP}]", "MIP"),
        ("spacing_min_mm: .nan", "spacing_min_mm"),
        ("motion: 2", "motion"),
        ("- 1", "expected"),
        ("a: [", "YAML"),
    ],
)
def test_settings_that_cannot_be(text: str, named: str, tmp_path: Path) -> None:
    path = tmp_path / "clinic.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationError, match=named.replace("$", r"\$")):
        clinic.read(path)


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: path.stem)
def test_shipped_configurations_are_read(path: Path) -> None:
    shipped = clinic.read(path)
    assert shipped.patients >= 40
    assert len(patients.draw(shipped)) == shipped.patients


def test_validation_cohort() -> None:
    """Sixty patients at the least, thirty of them with Alzheimer's; a reference and scans of 3, 5 and 7 mm for all."""
    (path,) = (path for path in CONFIGURATIONS if path.stem == "validation")
    cohort = patients.draw(clinic.read(path))
    assert len(cohort) >= 60
    assert sum(patient.group.diagnosis == "AD" for patient in cohort) == 30
    for patient in cohort:
        (visit,) = patient.visits
        assert visit.orders[0].kind == "MPRAGE"
        assert {3, 5, 7} <= {order.spacing_mm for order in visit.orders}


def test_groups_and_series_have_their_shares() -> None:
    config = clinic.Clinic(
        patients=90,
        groups=(Group(share=2), Group(diagnosis="AD", youngest_years=60)),
        series=(Planned(kind=("T1w", "T2w", "FLAIR")), Planned(kind=("T1w", "T2w", "FLAIR"), share=0.3)),
    )
    cohort = patients.draw(config)
    assert sum(patient.group.diagnosis == "AD" for patient in cohort) == 30
    for diagnosis, least in (("Control", 20), ("AD", 60)):
        ages = sorted(p.age_years(p.visits[0]) for p in cohort if p.group.diagnosis == diagnosis)
        assert np.diff([least, *ages, 90]).max() < 4 * (90 - least) / len(ages), "ages are spread evenly"
        women = [p.sex == "F" for p in cohort if p.group.diagnosis == diagnosis]
        assert np.mean(women) == pytest.approx(0.5, abs=0.05)
    orders = [patient.visits[0].orders for patient in cohort]
    assert sum(len(several) == 2 for several in orders) == pytest.approx(27, abs=3)
    pairs = [several for several in orders if len(several) == 2]
    assert all(one.kind != other.kind and one.orientation != other.orientation for one, other in pairs)
    counts = pd.Series([several[0].kind for several in orders]).value_counts()
    assert counts.min() >= 25


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
