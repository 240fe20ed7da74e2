"""Inventory of DICOM folders: decisions, geometry, pseudonyms that stay, nothing identifying outside private."""

from __future__ import annotations

import os
from pathlib import Path

import dicom_maker as maker
import numpy as np
import pandas as pd
import pytest
from pydicom import dcmread, dcmwrite, uid
from pydicom.dataset import Dataset

from analysis import tsv
from analysis.cli import main
from analysis.intake import dicom
from analysis.intake.index import Index
from analysis.intake.series import to_path
from analysis.intake.sources.folder import Folder
from analysis.layout import Private, Results


class Clinic:
    """A source folder with its results and private folder."""

    def __init__(self, root: Path) -> None:
        self.source, self.results, self.private = root / "export", Results(root / "results"), Private(root / "private")
        self.source.mkdir()

    def inventory(self, *options: str) -> int:
        folders = ["--out", str(self.results.root), "--private", str(self.private.root)]
        return main(["inventory", str(self.source), *folders, *options])

    @property
    def series(self) -> pd.DataFrame:
        return tsv.read(self.results.series)

    def only(self) -> pd.Series:
        assert len(self.series) == 1
        return self.series.iloc[0]


@pytest.fixture
def clinic(tmp_path: Path) -> Clinic:
    return Clinic(tmp_path)


@pytest.mark.parametrize(
    ("tags", "contrast"),
    [
        (maker.T1, "T1w"),
        (maker.T2, "T2w"),
        (maker.PD, "PDw"),
        (maker.FLAIR, "FLAIR"),
        (maker.MPRAGE, "T1w"),
        ({**maker.FLAIR, "SeriesDescription": "T1 tse"}, "FLAIR"),  # physics outvotes text
        ({"SeriesDescription": "t2_flair_ax"}, "FLAIR"),  # text where there is no physics
        ({"SeriesDescription": "T2_tse"}, "T2w"),
        ({"Modality": "CT"}, "ct"),
    ],
)
def test_contrast_of_kept_series(clinic: Clinic, tags: dict, contrast: str) -> None:
    maker.write_series(clinic.source / "a" / "b", tags)
    assert clinic.inventory() == 0
    row = clinic.only()
    assert (row.decision, row.contrast) == ("include", contrast)
    assert row.scan_id == f"{row.participant_id}_ses-01_acq-ax_run-1_{contrast}"


@pytest.mark.parametrize(
    ("tags", "shape", "contrast", "reason"),
    [
        ({**maker.T1, "ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, {}, "localizer", "localizer"),
        (
            {**maker.T2, "SamplesPerPixel": 3, "BitsAllocated": 8, "PixelData": bytes(3 * maker.SIZE**2)},
            {},
            "derived",
            "colours, not grey levels",
        ),
        (maker.T1, {"planes": ["ax"] * 10 + ["sag"] * 10}, "localizer", "2 orientations"),
        ({**maker.T2, "ImageType": ["DERIVED", "PRIMARY", "MIP"]}, {}, "derived", "derived"),
        ({**maker.T2, "ImageType": ["DERIVED", "SECONDARY"]}, {}, "derived", "secondary capture"),
        ({**maker.T2, "DiffusionBValue": 1000.0}, {}, "DWI", "diffusion"),
        ({**maker.T2, "SeriesDescription": "ep2d_diff_3scan"}, {}, "DWI", "diffusion"),
        ({**maker.T1, "ScanningSequence": "GR", "EchoTime": "20"}, {}, "T2starw", "none of T1w"),
        ({**maker.MPRAGE, "SeriesDescription": "TOF 3D"}, {}, "MRA", "angiography"),
        ({"SeriesDescription": "mystery"}, {}, "other", "none of T1w"),
        ({**maker.T1, "Modality": "PT"}, {}, "other", "neither MR nor CT"),
        ({**maker.T1, "BodyPartExamined": "LSPINE"}, {}, "other", "body part"),
        (maker.T1, {"places": maker.positions(12, 6.0) * 2}, "T1w", "more than three dimensions: 2 images"),
        (maker.T1, {"places": maker.positions(9, 12.0)}, "T1w", "9 slices"),
        (maker.T1, {"places": maker.positions(20, 4.0)}, "T1w", "80 mm across"),
        (maker.T1, {"pixel_mm": 3.0}, "T1w", "96 mm in the slice"),
        (
            maker.T1,
            {"places": [p for i, p in enumerate(maker.positions(20, 6.0)) if i not in (4, 9, 10)]},
            "T1w",
            "3 slices are missing",
        ),
    ],
)
def test_reason_of_excluded_series(clinic: Clinic, tags: dict, shape: dict, contrast: str, reason: str, capsys) -> None:
    maker.write_series(clinic.source, tags, **shape)
    assert clinic.inventory() == 0
    assert "none of the 1 series can be used" in capsys.readouterr().out
    row = clinic.only()
    assert (row.decision, row.contrast, row.scan_id, row.batch) == ("exclude", contrast, "n/a", "n/a")
    assert reason in row.reason
    assert not clinic.results.batches("select").exists()


@pytest.mark.parametrize("plane", ["ax", "cor", "sag"])
def test_geometry_comes_from_positions_in_any_order(clinic: Clinic, plane: str) -> None:
    order = np.random.default_rng(0).permutation(20)
    places = maker.positions(20, 7.07, plane)
    maker.write_series(clinic.source, plane=plane, places=[places[index] for index in order])
    assert clinic.inventory() == 0
    row = clinic.only()
    assert (row.plane, row.n_slices, row.n_volumes, row.missing_slices) == (plane, "20", "1", "0")
    assert (row["rows"], row["columns"], row.in_plane_mm, row.thickness_mm) == ("32", "32", "7", "5")
    assert float(row.spacing_mm) == pytest.approx(7.07, abs=1e-3)


def test_copies_of_files_do_not_count(clinic: Clinic) -> None:
    maker.write_series(clinic.source / "first")
    maker.write_series(clinic.source / "again")
    assert clinic.inventory() == 0
    assert (clinic.only().n_slices, clinic.only().n_volumes) == ("20", "1")


SYNTAXES = {
    "implicit": uid.ImplicitVRLittleEndian,
    "explicit": uid.ExplicitVRLittleEndian,
    "big-endian": uid.ExplicitVRBigEndian,
    "deflated": uid.DeflatedExplicitVRLittleEndian,
    "compressed": uid.RLELossless,
}


@pytest.mark.parametrize("form", SYNTAXES)
def test_any_transfer_syntax_is_read_and_a_cut_file_noticed(clinic: Clinic, form: str) -> None:
    paths = maker.write_series(clinic.source)
    for path in paths:
        image = dcmread(path)
        if form == "compressed":
            image.compress(uid.RLELossless)
        image.file_meta.TransferSyntaxUID = SYNTAXES[form]
        if form == "big-endian":  # pydicom does not turn the order of header and pixels at once
            image = _rebuilt(image)
        image.save_as(path)
    assert clinic.inventory() == 0
    assert clinic.only().n_slices == "20"
    paths[5].write_bytes(paths[5].read_bytes()[:-20])
    assert clinic.inventory() == 0
    assert "exclude" in set(clinic.series.decision) and "include" not in set(clinic.series.decision)


def _rebuilt(image: Dataset) -> Dataset:
    fresh = Dataset()
    fresh.update({element.tag: element for element in image})
    fresh.file_meta = image.file_meta
    return fresh


def test_file_without_preamble_is_read(clinic: Clinic) -> None:
    for path in maker.write_series(clinic.source):
        image = _rebuilt(dcmread(path))
        del image.file_meta
        path.unlink()
        dcmwrite(path.with_suffix(""), image, implicit_vr=True, little_endian=True)
    assert clinic.inventory() == 0


def test_multi_frame_file_is_a_series(clinic: Clinic) -> None:
    maker.as_multi_frame(maker.write_series(clinic.source, maker.T2, plane="cor"))
    assert clinic.inventory() == 0
    row = clinic.only()
    assert (row.contrast, row.plane, row.n_slices, row.spacing_mm, row.in_plane_mm) == ("T2w", "cor", "20", "6", "7")


def test_links_to_folders_are_followed_but_not_in_circles(clinic: Clinic, tmp_path: Path) -> None:
    maker.write_series(tmp_path / "archive")
    (clinic.source / "archive").symlink_to(tmp_path / "archive")
    (tmp_path / "archive" / "circle").symlink_to(clinic.source)
    os.mkfifo(clinic.source / "pipe.dcm")
    (clinic.source / "gone.dcm").symlink_to(tmp_path / "nothing")
    assert clinic.inventory() == 0
    assert sorted(clinic.series.decision) == ["exclude", "include"]


def test_odd_file_names_survive_in_the_private_table(clinic: Clinic) -> None:
    odd = os.fsdecode(b'M\xfcller "A"\t50%\n')  # Latin-1, as old archives have it
    for path in maker.write_series(clinic.source):
        path.rename(path.with_name(f"{path.name} {odd}.dcm"))
    assert clinic.inventory() == 0 and clinic.inventory() == 0
    paths = [to_path(text) for text in tsv.read(clinic.private.files).path]
    assert len(paths) == 20 and all(path.is_file() for path in paths)


def test_damaged_headers_never_stop_the_inventory(tmp_path: Path) -> None:
    paths = maker.write_series(tmp_path)
    whole = [path.read_bytes() for path in paths]
    rng = np.random.default_rng(0)
    for _ in range(20):
        for path, data in zip(paths[:8], whole, strict=False):
            damaged = bytearray(data)
            for place in rng.integers(132, 1100, rng.integers(1, 12)):
                damaged[place] = rng.integers(256)
            path.write_bytes(damaged)
        found = dicom.find_series(Folder(tmp_path, unpacked=tmp_path / "unpacked"), Index(tmp_path / "index.sqlite"))
        assert sum(len(list(series.paths)) for series in found) <= len(paths)
        assert all(series.source_key and "Muster" not in series.reason for series in found)


def test_dual_echo_becomes_two_scans(clinic: Clinic) -> None:
    echoes = [{"EchoTime": "20"}] * 20 + [{"EchoTime": "100"}] * 20
    maker.write_series(clinic.source, {**maker.PD, "each": echoes}, places=maker.positions(20, 6.0) * 2)
    assert clinic.inventory() == 0
    assert sorted(clinic.series.contrast) == ["PDw", "T2w"]
    assert set(clinic.series.n_volumes) == {"1"}


def test_identifier_changed_halfway_is_one_patient_and_a_copy_is_two(clinic: Clinic) -> None:
    changed = [{"PatientID": "A"}] * 12 + [{"PatientID": "B"}] * 8
    maker.write_series(clinic.source / "changed", {**maker.T1, "each": changed}, study="1.2.8")
    maker.write_series(clinic.source / "one", maker.T1, patient="C", study="1.2.9")
    maker.write_series(clinic.source / "two", maker.T1, patient="D", study="1.2.9")
    assert clinic.inventory() == 0
    assert list(clinic.series.n_slices) == ["20"] * 3
    assert sorted(tsv.read(clinic.private.sessions).patient_id) == ["A", "C", "D"]


def test_age_and_sex(clinic: Clinic) -> None:
    anonymous = {"PatientBirthDate": "", "PatientSex": "O"}
    maker.write_series(clinic.source, {**maker.T1, "PatientAge": "034Y"}, patient="A", study="1.2.1")
    maker.write_series(clinic.source, {**maker.T1, "PatientAge": "018M"}, patient="B", study="1.2.2")
    maker.write_series(clinic.source, maker.T1, patient="C", study="1.2.3")
    maker.write_series(clinic.source, {**maker.T1, **anonymous}, patient="D", study="1.2.4")
    maker.write_series(clinic.source, {**maker.T1, "PatientAge": "000Y"}, patient="E", study="1.2.5")
    maker.write_series(clinic.source, {**maker.T1, "PatientAge": "999Y"}, patient="F", study="1.2.6")
    assert clinic.inventory() == 0
    public = ["participant_id", "session_id"]
    sessions = tsv.read(clinic.private.sessions)[[*public, "patient_id"]].merge(tsv.read(clinic.results.sessions))
    sessions = sessions.set_index("patient_id").sort_index()
    assert list(sessions.age_years) == ["34", "1.5", "71.17", "n/a", "71.17", "71.17"]
    assert list(sessions.sex) == ["F", "F", "F", "n/a", "F", "F"]


def test_unreadable_files_are_rows_and_the_cohort_goes_on(clinic: Clinic, capsys) -> None:
    maker.write_series(clinic.source / "good")
    cut = maker.write_series(clinic.source / "cut", maker.T2, patient="Other", study="1.2.5")
    cut[3].write_bytes(cut[3].read_bytes()[:-500])
    header = maker.write_series(clinic.source / "header", maker.T2, patient="Third", study="1.2.6")
    header[3].write_bytes(header[3].read_bytes()[:700])
    (clinic.source / "Muster_Erika.dcm").write_text("not an image at all\n" * 20)
    (clinic.source / "LICENSE").write_text("do as you like\n" * 20)
    assert clinic.inventory() == 0
    assert "62 files, of which 1 are not DICOM" in capsys.readouterr().out
    excluded = clinic.series[clinic.series.decision == "exclude"]
    assert len(clinic.series) == 4
    assert sum("truncated" in reason for reason in excluded.reason) == 2
    row = excluded[excluded.reason.str.contains("not a readable DICOM file")].iloc[0]
    assert row.participant_id == "n/a"
    assert all("export it again" in reason for reason in excluded.reason)
    faulty = tsv.read(clinic.private.series).set_index("series_id").faulty_path
    assert faulty[row.series_id].endswith("Muster_Erika.dcm")
    assert {str(cut[3]), str(header[3])} < set(faulty)


def test_a_closed_folder_is_a_row_that_does_not_name_it(clinic: Clinic, monkeypatch) -> None:
    maker.write_series(clinic.source / "good")
    (clinic.source / "Muster").mkdir()
    scandir = os.scandir

    def refuse(path: Path) -> object:  # root, as tests may run, can read every folder
        if Path(path).name == "Muster":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert clinic.inventory() == 0
    row = clinic.series[clinic.series.decision == "exclude"].iloc[0]
    assert row.reason.startswith("a folder that cannot be read") and "Muster" not in "".join(row)
    assert str(clinic.source / "Muster") in set(tsv.read(clinic.private.series).faulty_path)


def test_errors_of_the_system_do_not_name_files(clinic: Clinic, monkeypatch, capsys) -> None:
    def refuse(arguments: object) -> None:
        raise PermissionError(13, "Permission denied", "/export/Muster/1.dcm")

    monkeypatch.setattr("analysis.intake.command.run", refuse)
    assert clinic.inventory() == 69
    message = capsys.readouterr().err
    assert "PermissionError, Permission denied" in message and "Muster" not in message


def test_empty_folder_is_named(clinic: Clinic, capsys) -> None:
    assert clinic.inventory() == 65
    assert str(clinic.source) in (message := capsys.readouterr().err)
    assert "give the folder" in message
    assert not clinic.results.root.exists()


def test_private_folder_is_closed_and_not_below_results(clinic: Clinic) -> None:
    maker.write_series(clinic.source)
    assert clinic.inventory() == 0
    assert clinic.private.root.stat().st_mode & 0o777 == 0o700
    clinic.private = Private(clinic.results.root / "private")
    assert clinic.inventory() == 78


def test_names_and_batches_stay_when_studies_arrive(clinic: Clinic) -> None:
    for number, patient in enumerate(("M", "B", "X")):
        maker.write_series(clinic.source, maker.T1, patient=patient, study=f"1.2.{number + 10}")
    assert clinic.inventory("--batch-size", "2") == 0
    first = clinic.series
    files = [*clinic.results.root.rglob("*.tsv"), *clinic.results.root.rglob("*.json")]
    for path in files:
        os.utime(path, (0, 0))

    assert clinic.inventory("--batch-size", "2") == 0
    assert all(path.stat().st_mtime == 0 for path in files), "an unchanged rerun touches nothing"

    # A new patient, a second study of a known one, a second run in a known study.
    maker.write_series(clinic.source, maker.T1, patient="A", study="1.2.20")
    maker.write_series(clinic.source, {**maker.T1, "StudyDate": "20200101"}, patient="B", study="1.2.21")
    maker.write_series(clinic.source, maker.T1, patient="X", study="1.2.12", series="2")
    assert clinic.inventory("--batch-size", "2") == 0
    second = clinic.series
    pd.testing.assert_frame_equal(second.head(3), first)
    names = dict(tsv.read(clinic.private.sessions)[["patient_id", "participant_id"]].to_numpy())
    assert set(second.scan_id.tail(3)) == {
        f"{names['A']}_ses-01_acq-ax_run-1_T1w",
        f"{names['B']}_ses-02_acq-ax_run-1_T1w",
        f"{names['X']}_ses-01_acq-ax_run-2_T1w",
    }
    assert sorted(second.batch.head(3)) == ["0001", "0001", "0002"]
    assert sorted(second.batch.tail(3)) == ["0003", "0003", "0004"]
    for batch in ("0001", "0002"):
        assert clinic.results.batch("select", batch).stat().st_mtime == 0


def test_batches_have_about_as_many_voxels(clinic: Clinic) -> None:
    for number, n_slices in enumerate((20, 34, 24, 36, 22, 32)):
        maker.write_series(
            clinic.source, patient=f"{number}", study=f"1.2.{number + 10}", places=maker.positions(n_slices, 6.0)
        )
    assert clinic.inventory("--batch-size", "3") == 0
    series = clinic.series.astype({"n_slices": int})
    # Sums of 82 and 86 slices; half of the study has up to 102.
    assert series.groupby("batch").n_slices.apply(sorted).to_dict() == {"0001": [22, 24, 36], "0002": [20, 32, 34]}


def test_series_that_are_gone_are_left_out_unless_converted(clinic: Clinic) -> None:
    for name in ("kept", "gone"):
        maker.write_series(clinic.source / name, patient=name, study=f"1.2.{len(name)}.{ord(name[0])}")
    text = clinic.source / "notes.dcm"
    text.write_text("text\n" * 50)
    assert clinic.inventory() == 0
    rows = tsv.read(clinic.private.series).set_index("patient_id")
    converted = clinic.results.raw(rows.scan_id["kept"])
    converted.parent.mkdir(parents=True)
    converted.touch()
    for path in list(clinic.source.iterdir()):
        path.rename(clinic.source.parent / path.name)
    maker.write_series(clinic.source, patient="new", study="1.2.9")
    assert clinic.inventory() == 0
    after = clinic.series.set_index("series_id")
    assert after.decision[rows.series_id["kept"]] == "include"
    gone = after.loc[rows.series_id[["gone", ""]]]
    assert set(gone.decision) == {"exclude"} and set(gone.reason) == {"no longer in the source"}
    (clinic.source.parent / "gone").rename(clinic.source / "gone")
    assert clinic.inventory() == 0
    back = clinic.series.set_index("series_id").loc[rows.series_id["gone"]]
    assert (back.decision, back.scan_id) == ("include", rows.scan_id["gone"])


def test_sessions_are_numbered_by_date(clinic: Clinic) -> None:
    maker.write_series(clinic.source, {**maker.T1, "StudyDate": "20220101"}, study="1.2.1")
    maker.write_series(clinic.source, {**maker.T1, "StudyDate": "20210101"}, study="1.2.2")
    assert clinic.inventory() == 0
    dates = tsv.read(clinic.private.sessions).set_index("session_id").study_date
    assert (dates["ses-01"], dates["ses-02"]) == ("20210101", "20220101")


def test_no_patient_id_counts_by_study(clinic: Clinic) -> None:
    maker.write_series(clinic.source, maker.T1, patient="", study="1.2.1")
    maker.write_series(clinic.source, maker.T1, patient="", study="1.2.2")
    assert clinic.inventory() == 0
    assert len(set(tsv.read(clinic.results.sessions).participant_id)) == 2


def test_a_scan_that_breaks_keeps_its_place(clinic: Clinic) -> None:
    paths = maker.write_series(clinic.source)
    maker.write_series(clinic.source, maker.T1, patient="Z", study="1.2.9")
    assert clinic.inventory() == 0
    paths[0].write_bytes(paths[0].read_bytes()[:-10])
    assert clinic.inventory() == 0
    assert sorted(clinic.series.decision) == ["exclude", "include"]
    assert len(tsv.read(clinic.results.batch("select", "0001"))) == 2
