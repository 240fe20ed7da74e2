"""Bad DICOM input, each kind a made file: rejected or repaired with a reason in the table, everything else finished."""

from __future__ import annotations

import errno
import io
import os
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import dicom_maker as maker
import numpy as np
import pandas as pd
import pytest
from pydicom import dcmread, dcmwrite, uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence

from analysis import tsv
from analysis.cli import main
from analysis.intake import dicom, headers, index
from analysis.intake.index import Index
from analysis.intake.sources import archive
from analysis.intake.sources.folder import Folder
from analysis.layout import Private, Results

GOOD = "1.2.77"


class Intake:
    """A source with one good series beside what is tested, and the tables after its inventory."""

    def __init__(self, root: Path) -> None:
        self.root, self.source = root, root / "export"
        maker.write_series(self.source / "good", maker.FLAIR, patient="good", study=GOOD)
        self.results, self.private = Results(root / "results"), Private(root / "private")

    def run(self, source: Path | None = None) -> pd.DataFrame:
        """Rows of all series but the good one, with the identity that the private table has of them."""
        assert main(["inventory", str(source or self.source), "--out", str(self.results.root)]) == 0
        series = tsv.read(self.results.series)
        identity = tsv.read(self.private.series)[["series_id", "patient_id", "study_uid", "faulty_path"]]
        rows = series.merge(identity, on="series_id")
        if source is None:
            good = rows[rows.study_uid == GOOD]
            assert list(good.decision) == ["include"] and list(good.contrast) == ["FLAIR"]
        return rows[rows.study_uid != GOOD]

    def only(self) -> pd.Series:
        (row,) = [row for _, row in self.run().iterrows()]
        return row


@pytest.fixture
def intake(tmp_path: Path) -> Intake:
    return Intake(tmp_path)


@pytest.mark.parametrize(
    "patient", ["../../x", "/etc/x", "x" * 300, "Zoë\N{SNOWMAN}", "$(id)", "=cmd|' /C calc'!A0", "a\tb", "-rf *"]
)
def test_any_patient_id_is_only_text(intake: Intake, patient: str) -> None:
    maker.write_series(intake.source / "odd", {**maker.T1, "SpecificCharacterSet": "ISO_IR 192"}, patient=patient)
    row = intake.only()
    assert row.decision == "include" and row.scan_id.startswith(row.participant_id)
    assert not [path for path in intake.root.rglob("*") if path.name in ("x", "passwd") or "$(id)" in path.name]
    published = intake.results.series.read_text() + intake.results.sessions.read_text()
    assert patient not in published and not any(cell.startswith("=") for cell in published.split())


def test_executable_preamble(intake: Intake) -> None:
    for path in maker.write_series(intake.source / "elf")[:1]:
        path.write_bytes(b"\x7fELF\x02\x01\x01" + path.read_bytes()[7:])
    assert "executable program" in intake.only().reason


def test_tiff_preamble_is_legitimate(intake: Intake) -> None:
    for path in maker.write_series(intake.source / "tiff"):
        path.write_bytes(b"II*\0" + path.read_bytes()[4:])
    assert intake.only().decision == "include"


@pytest.mark.parametrize("is_undefined", [True, False], ids=["undefined length", "defined length"])
def test_deeply_nested_sequences(intake: Intake, is_undefined: bool) -> None:
    (path,) = maker.write_series(intake.source / "deep", places=[np.zeros(3)])
    data = path.read_bytes()
    content = b""
    tag = struct.pack("<HH", 0x0009, 0x1010)
    if is_undefined:
        opening = tag + b"SQ\0\0" + b"\xff" * 4 + b"\xfe\xff\x00\xe0" + b"\xff" * 4
        closing = b"\xfe\xff\x0d\xe0" + bytes(4) + b"\xfe\xff\xdd\xe0" + bytes(4)
        content = opening * 5000 + closing * 5000
    else:
        for _ in range(2000):
            item = b"\xfe\xff\x00\xe0" + struct.pack("<I", len(content)) + content
            content = tag + b"SQ\0\0" + struct.pack("<I", len(item)) + item
    place = data.index(struct.pack("<HH", 0x0010, 0x0010))
    path.write_bytes(data[:place] + content + data[place:])
    row = intake.only()
    if is_undefined:
        assert "nested" in row.reason
    else:  # stepped over by its length
        assert "1 slices" in row.reason


def test_rows_65535(intake: Intake) -> None:
    maker.write_series(intake.source / "one", {**maker.T1, "Rows": 65535}, study="1.2.5")
    compressed = maker.write_series(intake.source / "two", maker.T1, study="1.2.6")
    for path in compressed:
        image = dcmread(path)
        image.compress(uid.RLELossless)
        image.Rows = 65535
        image.save_as(path)
    rows = intake.run().set_index("study_uid")
    assert "truncated" in rows.reason["1.2.5"] and "65535 rows" in rows.reason["1.2.6"]


@pytest.mark.parametrize("damage", ["cut", "fragment too long", "no end"])
def test_broken_pixel_data(intake: Intake, damage: str) -> None:
    paths = maker.write_series(intake.source / "broken")
    if damage == "cut":
        paths[7].write_bytes(paths[7].read_bytes()[:-100])
    else:
        for path in paths:
            image = dcmread(path)
            image.compress(uid.RLELossless)
            image.save_as(path)
        data = paths[7].read_bytes()
        if damage == "no end":
            data = data[:-8]
        else:
            place = data.rindex(b"\xfe\xff\x00\xe0")
            data = data[: place + 4] + struct.pack("<I", 1 << 30) + data[place + 8 :]
        paths[7].write_bytes(data)
    row = intake.only()
    assert "truncated" in row.reason and row.faulty_path == str(paths[7])


def test_inflates_to_too_much(intake: Intake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(headers, "MOST_INFLATED_BYTES", 1 << 22)
    (path,) = maker.write_series(intake.source / "bomb", places=[np.zeros(3)])
    image = dcmread(path)
    image.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
    image.PixelData = bytes(1 << 24)
    image.save_as(path)
    assert path.stat().st_size < 1 << 16
    assert "inflates to more" in intake.only().reason


def test_tilted_gantry(intake: Intake) -> None:
    tilt = np.radians(20)
    directions = [1, 0, 0, 0, round(np.cos(tilt), 6), round(-np.sin(tilt), 6)]
    tags = {"Modality": "CT", "ImageOrientationPatient": directions}
    maker.write_series(intake.source / "ct", tags, places=maker.positions(30, 5.0), study="1.2.5")
    maker.write_series(intake.source / "mr", {**maker.T1, **tags, "Modality": "MR"}, study="1.2.6")
    maker.write_series(intake.source / "straight", {"Modality": "CT"}, study="1.2.7")
    rows = intake.run().set_index("study_uid")
    assert list(rows.tilt_degrees[["1.2.5", "1.2.6", "1.2.7"]]) == ["20", "20", "0"]
    assert rows.decision["1.2.5"] == "include"
    assert float(rows.spacing_mm["1.2.5"]) == pytest.approx(5 * np.cos(tilt), abs=1e-3)
    assert "lean by 20 degrees" in rows.reason["1.2.6"]


def test_missing_duplicate_and_reversed_slices(intake: Intake) -> None:
    places = maker.positions(24, 5.0)
    maker.write_series(intake.source / "gap", places=places[:9] + places[12:], study="1.2.5")
    maker.write_series(intake.source / "twice", places=[*places, places[4], places[5]], study="1.2.6")
    maker.write_series(intake.source / "reversed", places=places[::-1], study="1.2.7")
    maker.write_series(intake.source / "uneven", places=[*places[:20], places[19] + [0, 0, 6.5]], study="1.2.8")
    rows = intake.run().set_index("study_uid")
    assert (rows.missing_slices["1.2.5"], rows.reason["1.2.5"]) == ("3", "3 slices are missing")
    assert rows.duplicate_slices["1.2.6"] == "2" and "2 slices are there more than once" in rows.reason["1.2.6"]
    assert (rows.n_slices["1.2.6"], rows.spacing_mm["1.2.6"]) == ("24", "5")
    assert (rows.decision["1.2.7"], rows.spacing_mm["1.2.7"], rows.plane["1.2.7"]) == ("include", "5", "ax")
    assert "unevenly" in rows.reason["1.2.8"]


def test_three_plane_localizer(intake: Intake) -> None:
    places = [place for plane in ("ax", "cor", "sag") for place in maker.positions(5, 10.0, plane)]
    planes = ["ax"] * 5 + ["cor"] * 5 + ["sag"] * 5
    maker.write_series(intake.source / "localizer", places=places, planes=planes)
    row = intake.only()
    assert row.contrast == "localizer" and "3 orientations" in row.reason


def test_two_thick_stacks_are_no_localizer(intake: Intake) -> None:
    places = [place for plane in ("ax", "cor") for place in maker.positions(20, 6.0, plane)]
    maker.write_series(intake.source / "stacks", places=places, planes=["ax"] * 20 + ["cor"] * 20)
    row = intake.only()
    assert row.contrast == "T1w" and "2 orientations, several stacks" in row.reason


def two_phases(**second: object) -> dict:
    """Tags of 20 slices, acquired twice; what the second phase has besides."""
    agent = {"AcquisitionNumber": 2, "ContrastBolusAgent": "Gd", **second}
    return {**maker.T1, "each": [{"AcquisitionNumber": 1}] * 20 + [agent] * 20}


def test_two_phases_in_one_series_become_two_scans(intake: Intake) -> None:
    maker.write_series(intake.source / "phases", two_phases(), places=maker.positions(20, 6.0) * 2)
    rows = intake.run()
    assert list(rows.decision) == ["include"] * 2 and set(rows.n_slices + rows.n_volumes) == {"201"}
    assert rows.series_id.nunique() == 2 and sorted(rows.contrast_agent) == ["n/a", "yes"]
    files = tsv.read(intake.private.files).merge(rows, on="series_id")
    phases = {
        agent: {dcmread(path).AcquisitionNumber for path in part.path}
        for agent, part in files.groupby("contrast_agent")
    }
    assert phases == {"n/a": {1}, "yes": {2}}


@pytest.mark.parametrize(
    ("tags", "places", "reason"),
    [
        (two_phases(AcquisitionNumber=1), maker.positions(20, 6.0) * 2, "2 images at one position"),
        (two_phases(FlipAngle=30), maker.positions(20, 6.0) * 2, "2 images at one position"),
        (two_phases(), maker.positions(20, 6.0) + maker.positions(21, 6.5)[1:], "slices are"),
        ({**maker.T1, "each": [{"AcquisitionNumber": number} for number in range(5) for _ in range(12)]},
         maker.positions(12, 9.0) * 5, "5 images at one position"),
    ],
    ids=["not told apart", "other flip angle", "other places", "time series"],
)  # fmt: skip
def test_what_is_not_two_phases(intake: Intake, tags: dict, places: list, reason: str) -> None:
    maker.write_series(intake.source / "phases", tags, places=places)
    assert reason in intake.only().reason


def test_series_split_over_two_studies_is_one(intake: Intake) -> None:
    paths = maker.write_series(intake.source / "split", study="1.2.5")
    for path in paths[12:]:
        image = dcmread(path)
        image.StudyInstanceUID = "1.2.6"
        image.save_as(path)
    row = intake.only()
    assert (row.decision, row.n_slices, row.study_uid) == ("include", "20", "1.2.5")


@pytest.mark.parametrize("other", [{"PatientSex": "M"}, {"StudyDate": "20220304"}], ids=["sex", "day"])
def test_series_of_two_people_under_one_uid_stay_apart(intake: Intake, other: dict) -> None:
    places = maker.positions(40, 6.0)
    maker.write_series(intake.source / "one", patient="A", places=places[:20], study="1.2.5")
    maker.write_series(intake.source / "two", {**maker.T1, **other}, patient="B", places=places[20:], study="1.2.5")
    rows = intake.run()
    assert sorted(rows.patient_id) == ["A", "B"] and set(rows.n_slices) == {"20"}


def test_of_two_copies_the_whole_one_counts(intake: Intake) -> None:
    cut = maker.write_series(intake.source / "a")[3]
    cut.write_bytes(cut.read_bytes()[:-100])
    maker.write_series(intake.source / "b")
    row = intake.only()
    assert (row.decision, row.n_slices) == ("include", "20")


def test_one_instance_uid_for_all_images(intake: Intake) -> None:
    maker.write_series(intake.source / "same", {**maker.T1, "SOPInstanceUID": "1.2.3"})
    row = intake.only()
    assert (row.decision, row.n_slices) == ("include", "20")


@pytest.mark.parametrize("what", ["mirrored", "turned", "shifted", "drifting", "far"])
def test_slices_that_make_no_stack(intake: Intake, what: str) -> None:
    places = maker.positions(20, 6.0)
    turned = {"ImageOrientationPatient": [0.999, 0.0447, 0, -0.0447, 0.999, 0]}
    each: list[dict] = [{}] * 20
    if what == "mirrored":
        each = [{}] * 10 + [{"ImageOrientationPatient": [-1, 0, 0, 0, 1, 0]}] * 10
    elif what == "turned":
        each = [{}] * 10 + [turned] * 10
    elif what == "shifted":
        places = [place + np.array([0, 5 * (8 <= index < 12), 0]) for index, place in enumerate(places)]
    elif what == "drifting":
        places = maker.positions(12, 5.0)
        places += [places[-1] + [0, 0, 5.6 * index] for index in range(1, 13)]
    else:
        each = [{}] * 7 + [{"ImagePositionPatient": [0, 0, "1e200"]}] + [{}] * 12
    maker.write_series(
        intake.source / "odd", {**maker.T1, "each": [*each, *[{}] * (len(places) - len(each))]}, places=places
    )
    reason = {"mirrored": "2 orientations", "turned": "2 orientations", "far": "gives no position"}
    assert reason.get(what, "unevenly spaced, or shifted") in intake.only().reason


def test_images_of_two_echo_times(intake: Intake) -> None:
    times = [{"EchoTime": "12"}] * 10 + [{"EchoTime": "20"}] * 10
    maker.write_series(intake.source / "echoes", {**maker.T1, "each": times})
    assert intake.only().reason == "images of different echo time"


@pytest.mark.parametrize("name", ["Ref_Head_SENSE", "ASSET Calibration", "coil_survey"])
def test_calibration_is_no_scan(intake: Intake, name: str) -> None:
    tags = {"ScanningSequence": "GR", "EchoTime": "1", "RepetitionTime": "4", "SeriesDescription": name}
    maker.write_series(intake.source / "calibration", tags)
    assert intake.only().decision == "exclude"


def test_same_series_number_in_two_studies(intake: Intake) -> None:
    maker.write_series(intake.source / "one", maker.T1, study="1.2.5", series="3")
    maker.write_series(intake.source / "two", maker.T2, study="1.2.6", series="3")
    rows = intake.run()
    assert list(rows.decision) == ["include"] * 2 and sorted(rows.contrast) == ["T1w", "T2w"]
    assert rows.participant_id.nunique() == 1 and rows.session_id.nunique() == 2


@pytest.mark.parametrize("what", ["orientation", "pixel size"])
def test_multi_frame_with_two_geometries(intake: Intake, what: str) -> None:
    path = maker.as_multi_frame(maker.write_series(intake.source / "frames"))
    image = dcmread(path)
    for frame in image.PerFrameFunctionalGroupsSequence[10:]:
        group = Dataset()
        if what == "orientation":
            group.ImageOrientationPatient = list(maker.ORIENTATIONS["sag"])
            frame.PlaneOrientationSequence = Sequence([group])
        else:
            group.PixelSpacing, group.SliceThickness = [3.5, 3.5], 5
            frame.PixelMeasuresSequence = Sequence([group])
    if what == "orientation":
        shared = image.SharedFunctionalGroupsSequence[0]
        for frame in image.PerFrameFunctionalGroupsSequence[:10]:
            frame.PlaneOrientationSequence = shared.PlaneOrientationSequence
        del shared.PlaneOrientationSequence
    else:
        shared = image.SharedFunctionalGroupsSequence[0]
        for frame in image.PerFrameFunctionalGroupsSequence[:10]:
            frame.PixelMeasuresSequence = shared.PixelMeasuresSequence
        del shared.PixelMeasuresSequence
    image.save_as(path)
    assert ("2 orientations" if what == "orientation" else "different pixel size") in intake.only().reason


def test_secondary_capture_and_knee(intake: Intake) -> None:
    capture = {"SOPClassUID": uid.SecondaryCaptureImageStorage, "ImageType": ["DERIVED", "SECONDARY"]}
    maker.write_series(intake.source / "capture", {**maker.T1, **capture}, study="1.2.5")
    maker.write_series(
        intake.source / "screen", {**maker.T1, "ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}, study="1.2.6"
    )
    maker.write_series(intake.source / "knee", {**maker.PD, "BodyPartExamined": "KNEE"}, study="1.2.7")
    maker.write_series(intake.source / "said", {**maker.PD, "SeriesDescription": "PD_sag_Knee_left"}, study="1.2.8")
    maker.write_series(intake.source / "burned", {**maker.T1, "BurnedInAnnotation": "YES"}, study="1.2.9")
    rows = intake.run().set_index("study_uid")
    assert list(rows.contrast[["1.2.5", "1.2.6"]]) == ["screenshot"] * 2
    assert all("secondary capture" in reason for reason in rows.reason[["1.2.5", "1.2.6"]])
    assert set(rows.reason[["1.2.7", "1.2.8"]]) == {"body part is not the head"}
    assert "burned-in" in rows.reason["1.2.9"]


def test_missing_study_uid_keeps_studies_apart(intake: Intake) -> None:
    for number, day in enumerate(("20200101", "20210101"), start=1):
        made = intake.source / day
        for path in maker.write_series(made, {**maker.T1, "StudyDate": day}, study=f"1.2.{number}", patient="P"):
            image = dcmread(path)
            del image.StudyInstanceUID
            image.save_as(path)
    rows = intake.run()
    assert list(rows.decision) == ["include"] * 2
    assert rows.participant_id.nunique() == 1 and sorted(rows.session_id) == ["ses-01", "ses-02"]


def test_missing_series_uid_is_a_row_for_each_file(intake: Intake) -> None:
    for path in maker.write_series(intake.source / "bare", places=maker.positions(2, 5.0)):
        image = dcmread(path)
        del image.SeriesInstanceUID
        image.save_as(path)
    rows = intake.run()
    assert len(rows) == 2 and all("no SeriesInstanceUID" in reason for reason in rows.reason)


def test_ages_and_dates(intake: Intake) -> None:
    maker.write_series(intake.source / "old", {**maker.T1, "PatientAge": "094Y"}, patient="old", study="1.2.5")
    stars = {"StudyDate": "***", "PatientBirthDate": "***", "PatientAge": "***Y"}
    maker.write_series(intake.source / "stars", {**maker.T1, **stars}, patient="stars", study="1.2.6")
    rows = intake.run().set_index("patient_id")
    assert set(rows.decision) == {"include"}
    ages = tsv.read(intake.results.sessions).set_index("participant_id").age_years
    assert "94" not in ages[rows.participant_id["old"]]
    assert ages[rows.participant_id["stars"]] == "n/a"
    assert "***" not in intake.private.sessions.read_text()


def write_dicomdir(folder: Path, references: list[list[str]]) -> Path:
    """A DICOMDIR that names these files."""
    directory = Dataset()
    directory.file_meta = FileMetaDataset()
    directory.file_meta.MediaStorageSOPClassUID = uid.MediaStorageDirectoryStorage
    directory.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    directory.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    directory.FileSetID = "CD"
    records = []
    for reference in references:
        record = Dataset()
        record.DirectoryRecordType = "IMAGE"
        record.ReferencedFileID = reference
        records.append(record)
    directory.DirectoryRecordSequence = Sequence(records)
    path = folder / "DICOMDIR"
    dcmwrite(path, directory, enforce_file_format=True)
    return path


@pytest.mark.parametrize("is_given", [True, False], ids=["DICOMDIR", "its folder"])
def test_dicomdir_that_escapes(intake: Intake, is_given: bool) -> None:
    outside = maker.write_series(intake.root / "outside", maker.T2, patient="outside", study="1.2.6")
    folder = intake.source / "cd" / "IMAGES"
    made = maker.write_series(folder, patient="inside", study="1.2.5")
    numbered = [path.rename(folder / f"IM{index:04d}") for index, path in enumerate(made)]
    (folder / "LINK").symlink_to(outside[1])
    references = [["IMAGES", path.name] for path in numbered]
    references += [["..", "..", "outside", outside[0].name], ["IMAGES", "LINK"], ["/etc", "passwd"], ["IMAGES", "GONE"]]
    path = write_dicomdir(intake.source / "cd", references)
    if not is_given:
        (folder / "LINK").unlink()
    rows = intake.run(path) if is_given else intake.run()
    included = rows[rows.decision == "include"]
    assert list(included.patient_id) == ["inside"] and list(included.n_slices) == ["20"]
    reasons = "\n".join(rows[rows.decision == "exclude"].reason)
    assert f"names {3 if is_given else 2} files outside its folder" in reasons
    assert f"of whose files {1 if is_given else 2} are not there" in reasons


def make_zip(path: Path, files: list[Path], odd: Callable[[zipfile.ZipFile], None] | None = None) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        for file in files:
            made.write(file, f"study/{file.name}")
        if odd:
            odd(made)


def make_tar(path: Path, files: list[Path], odd: Callable[[tarfile.TarFile], None] | None = None) -> None:
    with tarfile.open(path, "w:gz") as made:
        for file in files:
            made.add(file, f"study/{file.name}")
        if odd:
            odd(made)


def test_zip_with_escape_and_link(intake: Intake) -> None:
    files = maker.write_series(intake.root / "made")

    def odd(made: zipfile.ZipFile) -> None:
        made.writestr("../../escaped.dcm", files[0].read_bytes())
        made.writestr("/etc/escaped.dcm", files[0].read_bytes())
        made.writestr("..\\escaped.dcm", files[0].read_bytes())
        link = zipfile.ZipInfo("study/link.dcm")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        made.writestr(link, "/etc/passwd")
        made.writestr("study/viewer.exe", b"MZ" + bytes(1000))
        made.writestr("study/inner.zip", b"PK")

    make_zip(intake.source / "Muster^Erika.zip", files, odd)
    rows = intake.run()
    assert list(rows[rows.decision == "include"].n_slices) == ["20"]
    reasons = "\n".join(rows[rows.decision == "exclude"].reason)
    assert "3 members have names that lead out of it" in reasons and "1 members are links" in reasons
    assert "1 members are archives themselves" in reasons and "Muster" not in reasons
    unpacked = [path for path in intake.private.unpacked.rglob("*") if path.is_file()]
    assert len(unpacked) == 21 and not any(path.is_symlink() for path in unpacked)  # and archive.json
    assert not list(intake.root.rglob("escaped*")) and not list(intake.root.rglob("*.exe"))


def test_tar_with_escape_link_and_device(intake: Intake) -> None:
    files = maker.write_series(intake.root / "made")

    def odd(made: tarfile.TarFile) -> None:
        for name, kind in (("link", tarfile.SYMTYPE), ("hard", tarfile.LNKTYPE), ("fifo", tarfile.FIFOTYPE)):
            member = tarfile.TarInfo(f"study/{name}.dcm")
            member.type, member.linkname = kind, "/etc/passwd"
            made.addfile(member)
        member = tarfile.TarInfo("../escaped.dcm")
        member.size = files[0].stat().st_size
        made.addfile(member, io.BytesIO(files[0].read_bytes()))

    make_tar(intake.source / "export.tar.gz", files, odd)
    rows = intake.run()
    assert list(rows[rows.decision == "include"].n_slices) == ["20"]
    reasons = "\n".join(rows[rows.decision == "exclude"].reason)
    assert "3 members are links or devices" in reasons and "1 members have names" in reasons
    assert not list(intake.root.rglob("escaped*"))


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_damaged_archives(intake: Intake, kind: str) -> None:
    files = maker.write_series(intake.root / "made")
    path = intake.source / f"export.{kind}"
    (make_zip if kind == "zip" else make_tar)(path, files)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 3 // 4])
    (intake.source / "broken.tar").symlink_to(intake.root / "nothing.tar")
    (intake.source / "other.7z").write_bytes(b"7z")
    (intake.source / "1.dcm.gz").write_bytes(b"\x1f\x8b")
    rows = intake.run()
    reasons = "\n".join(rows.reason)
    assert (
        "damaged or cut off" in reasons
        and "an archive that cannot be read" in reasons
        and reasons.count("unpack it") == 2
    )
    if kind == "tar.gz":  # what came before the cut is read
        assert 0 < int(rows[rows.contrast == "T1w"].n_slices.iloc[0]) < 20


def test_damaged_zips_never_stop_the_inventory(tmp_path: Path) -> None:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as writing:
        for index in range(3):
            writing.writestr(f"{index}.dcm", bytes(128) + b"DICM" + bytes(range(256)))
    whole, rng = made.getvalue(), np.random.default_rng(0)
    counts = []
    for number in range(60):
        data = bytearray(whole)
        for place in rng.integers(len(data) - 250, len(data), 3):  # the table of contents
            data[place] = rng.integers(256)
        (tmp_path / "e.zip").write_bytes(data)
        found = list(archive.Archive(tmp_path / "e.zip", unpacked=tmp_path / str(number)).files())
        counts.append(sum(isinstance(item, Path) for item in found))
    assert min(counts) == 0 and max(counts) == 3


@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES])
def test_an_archive_that_the_system_does_not_give_is_a_row_and_tried_again(
    intake: Intake, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    make_tar(intake.source / "export.tar.gz", maker.write_series(intake.root / "made"))

    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(code, os.strerror(code), "Muster^Erika.tar.gz")

    monkeypatch.setattr(tarfile, "open", refuse)
    row = intake.only()
    assert "an archive that cannot be read" in row.reason and "Muster" not in row.reason
    monkeypatch.undo()
    assert "include" in set(intake.run().decision)


def test_a_full_disk_while_unpacking_stops(intake: Intake, monkeypatch: pytest.MonkeyPatch) -> None:
    make_tar(intake.source / "export.tar.gz", maker.write_series(intake.root / "made"))
    monkeypatch.setattr(archive, "LEAST_FREE_BYTES", 1 << 60)
    assert main(["inventory", str(intake.source), "--out", str(intake.results.root)]) == 69
    monkeypatch.undo()
    assert list(intake.run().decision) == ["include"]


def test_archive_bomb(intake: Intake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "LEAST_CAP_BYTES", 1 << 20)
    first = maker.write_series(intake.root / "made")[0].read_bytes()

    def odd(made: zipfile.ZipFile) -> None:
        made.writestr("bomb.dcm", first + bytes(1 << 22))

    make_zip(intake.source / "bomb.zip", [], odd)
    assert (intake.source / "bomb.zip").stat().st_size < 1 << 15
    assert "unpacks to more than 100 times" in intake.only().reason
    size = sum(path.stat().st_size for path in intake.private.unpacked.rglob("*"))
    assert size < 1 << 20


def test_tar_of_endless_names(intake: Intake) -> None:
    def odd(made: tarfile.TarFile) -> None:
        member = tarfile.TarInfo("././@LongLink")
        member.type, member.size = tarfile.GNUTYPE_LONGNAME, 1 << 22
        made.addfile(member, io.BytesIO(bytes(1 << 22)))

    make_tar(intake.source / "names.tar.gz", maker.write_series(intake.root / "made"), odd)
    rows = intake.run()
    assert list(rows[rows.decision == "include"].n_slices) == ["20"]  # those before it
    assert "damaged" in "".join(rows.reason)


def test_tar_that_inflates_to_too_much_without_an_image(intake: Intake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "LEAST_CAP_BYTES", 1 << 20)

    def odd(made: tarfile.TarFile) -> None:
        member = tarfile.TarInfo("zeros")
        member.size = 1 << 24
        made.addfile(member, io.BytesIO(bytes(1 << 24)))

    make_tar(intake.source / "bomb.tar.gz", [], odd)
    assert "unpacks to more than 100 times" in intake.only().reason


def test_archives_are_unpacked_once_and_again_when_they_change(intake: Intake) -> None:
    files = maker.write_series(intake.root / "made")
    path = intake.source / "export.zip"
    make_zip(path, files)
    before = intake.run().set_index("patient_id")
    made = {file: file.stat().st_mtime_ns for file in intake.private.unpacked.rglob("*.dcm")}
    after = intake.run().set_index("patient_id")
    assert {file: file.stat().st_mtime_ns for file in intake.private.unpacked.rglob("*.dcm")} == made
    pd.testing.assert_frame_equal(before, after)
    make_zip(path, files[:15])
    assert list(intake.run().n_slices) == ["15"]
    assert len(list(intake.private.unpacked.rglob("*.dcm"))) == 15
    assert not list(intake.private.unpacked.glob(".part-*"))


def test_archive_itself_as_source(intake: Intake) -> None:
    path = intake.root / "export.tar.gz"
    make_tar(path, maker.write_series(intake.root / "made"))
    assert list(intake.run(path).decision) == ["include"]


@pytest.mark.parametrize("name", ["missing", "notes.txt"])
def test_what_is_no_source_is_named(intake: Intake, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    (intake.root / "notes.txt").write_text("no source")
    assert main(["inventory", str(intake.root / name), "--out", str(intake.results.root)]) == 65
    assert "DICOMDIR" in capsys.readouterr().err


def test_a_second_run_reads_only_what_is_new(intake: Intake, monkeypatch: pytest.MonkeyPatch) -> None:
    maker.write_series(intake.source / "first", study="1.2.5")
    (intake.source / "LICENSE").write_text("do as you like\n" * 20)
    (intake.source / "no.dcm").write_text("no image\n" * 20)
    before = intake.run()
    read: list[Path] = []
    real = headers.read

    def count(path: Path) -> headers.Header | None:
        read.append(path)
        return real(path)

    monkeypatch.setattr(headers, "read", count)
    pd.testing.assert_frame_equal(intake.run(), before)
    assert not read
    new = maker.write_series(intake.source / "second", study="1.2.6")
    os.utime(intake.source / "first" / "1.2.5.1.1.dcm", (1, 1))
    (intake.source / "no.dcm").unlink()
    rows = intake.run()
    assert len(read) == len(new) + 1
    assert len(rows) == 3 and "no longer in the source" in set(rows.reason)


def test_a_file_that_the_system_does_not_give_is_tried_again(intake: Intake, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = maker.write_series(intake.source / "closed", places=maker.positions(20, 6.0))
    real = headers.read

    def refuse(path: Path) -> headers.Header | None:  # root, as tests may run, can read every file
        if path == paths[5]:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(headers, "read", refuse)
    reasons = "".join(intake.run().reason)
    assert "does not let be read" in reasons and "PermissionError" in reasons and "1 slices are missing" in reasons
    monkeypatch.undo()
    assert "include" in set(intake.run().decision)


def test_a_damaged_index_is_made_anew(intake: Intake) -> None:
    before = intake.run()
    intake.private.index.write_bytes(b"no database" * 1000)
    pd.testing.assert_frame_equal(intake.run(), before)


def test_one_run_at_a_time(intake: Intake, capsys: pytest.CaptureFixture[str]) -> None:
    from analysis.intake.lock import locked

    with locked(intake.private.root):
        assert main(["inventory", str(intake.source), "--out", str(intake.results.root)]) == 69
    assert "another run" in capsys.readouterr().err
    intake.run()


def _syntaxes(path: Path) -> list[bytes]:
    """The same image as plain, implicit, big-endian, deflated, compressed file, and with umlauts."""
    variants = []
    for syntax in (uid.ImplicitVRLittleEndian, uid.DeflatedExplicitVRLittleEndian, uid.RLELossless, None):
        image = dcmread(path)
        if syntax == uid.RLELossless:
            image.compress(syntax)
        elif syntax:
            image.file_meta.TransferSyntaxUID = syntax
        else:
            image.SpecificCharacterSet, image.SeriesDescription = "ISO_IR 100", "Schädel"
        content = io.BytesIO()
        image.save_as(content)
        variants.append(content.getvalue())
    return [path.read_bytes(), *variants]


def test_both_readers_say_the_same(tmp_path: Path) -> None:
    path = maker.write_series(tmp_path, {**maker.FLAIR, "ContrastBolusAgent": "Gd", "PatientAge": "034Y"})[0]
    file = tmp_path / "variant.dcm"
    for data in _syntaxes(path):
        for end in (len(data), len(data) - 30):
            file.write_bytes(data[:end])
            with file.open("rb") as stream:
                assert headers.read(file) == headers._read_any(stream)


def test_both_readers_say_the_same_of_damaged_headers(tmp_path: Path) -> None:
    (path,) = maker.write_series(tmp_path, maker.FLAIR, places=[np.zeros(3)])
    whole, file = path.read_bytes(), tmp_path / "damaged.dcm"
    rng = np.random.default_rng(0)
    for _ in range(100):
        data = bytearray(whole)
        for place in rng.integers(300, 1100, 2):
            data[place] = rng.integers(256)
        file.write_bytes(data)
        answers = []
        for reader in (headers.read, lambda path: headers._read_any(path.open("rb"))):
            try:
                answers.append(reader(file))
            except Exception:
                answers.append(None)
        if answers[0] is not None and answers[1] is not None:
            assert answers[0].texts == answers[1].texts


def test_deflated_content_that_is_cut(tmp_path: Path) -> None:
    (path,) = maker.write_series(tmp_path, places=[np.zeros(3)])
    image = dcmread(path)
    image.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
    image.save_as(path)
    assert headers.read(path).fault == ""
    path.write_bytes(path.read_bytes()[:-200])
    assert "deflated" in headers.read(path).fault


def test_several_processes_find_the_same(intake: Intake, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        maker.write_series(intake.source / f"{number}", study=f"1.2.{number}")
    (intake.source / "no.dcm").write_text("no image\n" * 20)
    one, two = Index(intake.root / "one.sqlite"), Index(intake.root / "two.sqlite")
    source = Folder(intake.source, unpacked=intake.root / "unpacked")
    alone = dicom.find_series(source, one, processes=1)
    monkeypatch.setattr(index, "FEW", 1)
    together = dicom.find_series(source, two, processes=2)
    assert len(alone) == 5
    for first, second in zip(alone, together, strict=True):
        assert first.description() == second.description() and list(first.paths) == list(second.paths)
    assert two.update([], processes=1) == 0
