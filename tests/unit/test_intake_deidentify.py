"""De-identified DICOM: nothing that names anybody goes on, whatever field it stands in; what science needs does."""

from __future__ import annotations

import io
import shutil
import threading
from datetime import date
from pathlib import Path

import dicom_maker as maker
import leaks
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from pydicom import dcmread, dcmwrite
from pydicom.datadict import DicomDictionary, dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.tag import Tag
from pydicom.uid import ImplicitVRLittleEndian, JPEG2000Lossless, RLELossless, SecondaryCaptureImageStorage

from analysis import tsv
from analysis.cli import main
from analysis.errors import ConfigurationError, DataError
from analysis.intake import codestream, nifti, profile
from analysis.intake.key import Key
from analysis.intake.words import technical
from analysis.layout import Private, Results

#: What a hospital's header would hold, by kind of element.
PLANTED = {
    **dict.fromkeys(("LO", "SH", "LT", "ST", "UT", "UC"), "Quokka 4711-0815"),
    **{"PN": "Quokka^Erika", "CS": "QUOKKA", "AE": "QUOKKA", "UR": "http://quokka.example/4711-0815"},
    **{"DA": "19431207", "DT": "19431207101112", "TM": "101112.13", "UI": "1.2.276.0.7.19431207.4711"},
}
SECRETS = ("Quokka", "Erika", "4711-0815", "19431207", "101112.13", "1.2.276.0.7", "MRN-4711", "1.2.3.4.", "Nowhere")
#: Elements on which reading depends.
LEFT_ALONE = {
    *("SpecificCharacterSet", "SOPClassUID", "TransferSyntaxUID", "Modality", "ImageType", "PhotometricInterpretation"),
    *("ScanningSequence", "BurnedInAnnotation", "ConversionType", "PatientSex", "RescaleType"),
}


def deidentify(root: Path, *options: str) -> pd.DataFrame:
    assert main(["deidentify", str(root / "export"), "--out", str(root / "out"), *options]) == 0
    return tsv.read(root / "out" / "series.tsv")


def written(root: Path) -> list[Dataset]:
    return [dcmread(path) for path in sorted((root / "out").rglob("*.dcm"))]


def plant(image: Dataset) -> int:
    """Put an identifier into every element of the standard that can hold one."""
    planted = 0
    for tag, (vr, _, _, _, keyword) in DicomDictionary.items():
        if vr in PLANTED and keyword and keyword not in LEFT_ALONE and tag >> 16 not in (0x0000, 0x0002, 0xFFFE):
            setattr(image, keyword, PLANTED[vr])
            planted += 1
    return planted


def test_no_field_of_the_standard_lets_an_identifier_through(tmp_path: Path, capfd) -> None:
    folder = tmp_path / "export" / "Quokka_Erika" / "4711-0815"
    for path in maker.write_series(folder, places=maker.positions(2, 6.0)):
        image = dcmread(path)
        keep = {name: getattr(image, name) for name in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")}
        assert plant(image) > 1500
        for name, value in keep.items():
            setattr(image, name, value)
        nested = Dataset()
        plant(nested)
        image.AnatomicRegionSequence = [nested]
        image.private_block(0x0029, "SIEMENS CSA HEADER", create=True).add_new(0x10, "OB", b"Quokka 4711-0815")
        image.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0D, "CS", "QUOKKA")
        image.add_new(Tag(0x6000, 0x3000), "OW", b"Quokka")
        image.preamble = b"\x7fELF Quokka".ljust(128, b"\0")
        image.file_meta.SourceApplicationEntityTitle = "QUOKKA"
        image.save_as(path.with_name(f"Quokka {path.name}"), enforce_file_format=True)
        path.unlink()
    table = deidentify(tmp_path)
    assert list(table.decision) == ["written"] and list(table.n_files) == ["2"]
    assert leaks.find([tmp_path / "out"], SECRETS) == []
    assert not [secret for secret in SECRETS if secret in "".join(capfd.readouterr()).replace(str(tmp_path), "")]
    assert leaks.find([tmp_path / "private"], ["Quokka", "Erika"]), "the linking table says who it is"


def test_what_science_needs_stays(tmp_path: Path) -> None:
    paths = maker.write_series(tmp_path / "export", {**maker.T1, "SeriesDescription": "Ax T1 SE Muster 2021"})
    pixels = {dcmread(path).PixelData for path in paths}
    deidentify(tmp_path)
    images = written(tmp_path)
    assert {image.PixelData for image in images} == pixels
    one = images[0]
    assert (one.SeriesDescription, one.EchoTime, one.RepetitionTime) == ("Ax T1 SE", 12, 500)
    assert (one.Manufacturer, one.PatientSex, one.PatientAge) == ("SIEMENS", "F", "071Y")
    assert one.PatientIdentityRemoved == "YES" and one.LongitudinalTemporalInformationModified == "MODIFIED"
    codes = [code.CodeValue for code in one.DeidentificationMethodCodeSequence]
    assert codes == ["113100", "113107", "113105", "113108", "113111"]
    root = tmp_path / "again"
    folders = ["--out", str(root / "results"), "--private", str(root / "private")]
    assert main(["inventory", str(tmp_path / "out"), *folders]) == 0
    (row,) = tsv.read(Results(root / "results").series).to_dict("records")
    assert (row["decision"], row["contrast"], row["n_slices"], row["spacing_mm"]) == ("include", "T1w", "20", "6")


def test_intervals_between_dates_stay(tmp_path: Path) -> None:
    for study, (patient, day) in enumerate([("A", "20210304"), ("A", "20210320"), ("B", "20210304")], start=1):
        maker.write_series(
            tmp_path / "export", {**maker.T1, "StudyDate": day}, patient=patient, study=f"1.2.3.{study}",
            places=maker.positions(2, 6.0),
        )  # fmt: skip
    deidentify(tmp_path)
    days: dict[str, set[date]] = {}
    for image in written(tmp_path):
        day = image.StudyDate
        days.setdefault(image.PatientID, set()).add(date(int(day[:4]), int(day[4:6]), int(day[6:])))
    pair, single = sorted(days.values(), key=len, reverse=True)
    assert (max(pair) - min(pair)).days == 16
    assert single.isdisjoint(pair) and max(pair | single).year < 1925


def test_identifiers_of_objects_agree(tmp_path: Path) -> None:
    first = maker.write_series(tmp_path / "export", places=maker.positions(2, 6.0))
    second = maker.write_series(tmp_path / "export", maker.T2, series="2", places=maker.positions(2, 6.0))
    for path in (*first, *second):
        image = dcmread(path)
        image.FrameOfReferenceUID = "1.2.3.4.99"
        reference = Dataset()
        reference.ReferencedSOPClassUID = image.SOPClassUID
        reference.ReferencedSOPInstanceUID = "1.2.3.4.1.1"
        image.ReferencedImageSequence = [reference]
        image.save_as(path)
    deidentify(tmp_path)
    images = written(tmp_path)
    names = ("StudyInstanceUID", "FrameOfReferenceUID", "SeriesInstanceUID", "SOPInstanceUID")
    assert [len({image[name].value for image in images}) for name in names] == [1, 1, 2, 4]
    assert {image.ReferencedImageSequence[0].ReferencedSOPInstanceUID for image in images} < {
        image.SOPInstanceUID for image in images
    }
    assert {image.file_meta.MediaStorageSOPInstanceUID == image.SOPInstanceUID for image in images} == {True}
    assert {image.ReferencedImageSequence[0].ReferencedSOPClassUID for image in images} == {images[0].SOPClassUID}


@pytest.mark.parametrize(
    ("tags", "age"),
    [
        ({"PatientAge": "094Y"}, "090Y"),
        ({"PatientAge": "090Y"}, "090Y"),
        ({"PatientAge": "089Y"}, "089Y"),
        ({"PatientAge": "018M"}, "018M"),
        ({"PatientBirthDate": "19200102"}, "090Y"),
        ({"PatientBirthDate": "20200102"}, "014M"),
        ({"PatientBirthDate": "***", "StudyDate": "***"}, None),
    ],
)
def test_ages_over_89_are_one_group(tmp_path: Path, tags: dict, age: str | None) -> None:
    maker.write_series(tmp_path / "export", {**maker.T1, **tags}, places=maker.positions(1, 6.0))
    deidentify(tmp_path)
    (image,) = written(tmp_path)
    assert image.get("PatientAge") == age and not image.PatientBirthDate


def test_private_elements_that_the_standard_calls_safe_stay(tmp_path: Path) -> None:
    (path,) = maker.write_series(tmp_path / "export", places=maker.positions(1, 6.0))
    image = dcmread(path)
    siemens = image.private_block(0x0019, "SIEMENS MR HEADER", create=True)
    siemens.add_new(0x0C, "IS", "1000")
    siemens.add_new(0x0F, "SH", "Fast")
    image.private_block(0x0029, "SIEMENS CSA HEADER", create=True).add_new(0x10, "OB", b"CSA")
    image.save_as(path)
    deidentify(tmp_path)
    (image,) = written(tmp_path)
    assert image.private_block(0x0019, "SIEMENS MR HEADER")[0x0C].value == 1000
    assert [element.tag for element in image if element.tag.is_private] == [Tag(0x0019, 0x0010), Tag(0x0019, 0x100C)]


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"BurnedInAnnotation": "YES"}, "burned-in"),
        ({"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}, "picture of a screen"),
        ({"SamplesPerPixel": 3, "BitsAllocated": 8, "PixelData": bytes(3 * maker.SIZE**2)}, "colours"),
        ({"SOPClassUID": SecondaryCaptureImageStorage}, "not an MR or CT image"),
        ({"ConversionType": "WSD"}, "picture of a screen"),
        ({"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "PixelData": bytes(maker.SIZE**2)}, "eight bits"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "colours"),
        ({"ImagePositionPatient": None}, "no place in the patient"),
    ],
)
def test_series_that_may_show_a_name_are_held_back(tmp_path: Path, tags: dict, reason: str) -> None:
    each = [{}] * 2 + [tags]
    maker.write_series(tmp_path / "export", {**maker.T1, "each": each}, places=maker.positions(3, 6.0))
    (row,) = deidentify(tmp_path).to_dict("records")
    assert (row["decision"], row["n_files"]) == ("held back", "0") and reason in row["reason"]
    assert written(tmp_path) == []


def test_what_is_held_back_today_is_gone_tomorrow(tmp_path: Path) -> None:
    maker.write_series(tmp_path / "export", places=maker.positions(2, 6.0))
    assert list(deidentify(tmp_path).n_files) == ["2"]
    (late,) = maker.write_series(
        tmp_path / "export" / "late", {**maker.T1, "BurnedInAnnotation": "YES"}, places=maker.positions(1, 6.0)
    )
    assert late.is_file() and list(deidentify(tmp_path).decision) == ["held back"]
    assert written(tmp_path) == []


def test_no_date_that_others_know_tells_the_shift(tmp_path: Path) -> None:
    """A scanner's installation, or the day of the export, would give all dates of all patients away."""
    known = {**dict.fromkeys(("InstanceCreationDate", "ContentDate", "DateOfInstallation"), "20190521")}
    known |= dict.fromkeys(("DateOfManufacture", "DateOfLastCalibration", "StudyReadDate"), "20190521")
    tags = {**maker.T1, **known, "AcquisitionDateTime": "20210304101112"}
    maker.write_series(tmp_path / "export", tags, places=maker.positions(1, 6.0))
    deidentify(tmp_path)
    (image,) = written(tmp_path)
    moved = Key.of(tmp_path / "private" / "pseudonyms.key").shifted("20190521", "MRN-4711")
    kept = {element.keyword: element.value for element in image if element.VR in ("DA", "DT") and element.value}
    assert {name for name, value in kept.items() if moved in str(value)} == set()
    assert kept["StudyDate"] == kept["AcquisitionDate"] == kept["AcquisitionDateTime"]
    assert {name for name, value in kept.items() if value != kept["StudyDate"]} <= set(known)


def test_text_beside_the_pixels_goes(tmp_path: Path) -> None:
    (path,) = maker.write_series(tmp_path / "export", places=maker.positions(1, 6.0))
    image = dcmread(path)
    pixels = image.PixelData
    image.PixelData += b"Quokka^Erika"
    image.save_as(path)
    assert b"Quokka" in path.read_bytes()
    deidentify(tmp_path)
    assert written(tmp_path)[0].PixelData == pixels and leaks.find([tmp_path / "out"], ["Quokka"]) == []


def test_comments_of_compressed_pixels_go(tmp_path: Path) -> None:
    (path,) = maker.write_series(tmp_path / "export", places=maker.positions(1, 6.0))
    image = dcmread(path)
    pixels, stream = image.pixel_array, io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG2000", no_jp2=True, irreversible=False, comment="Quokka^Erika")
    image.PixelData = encapsulate([stream.getvalue() + b"4711-0815"])
    image["PixelData"].is_undefined_length = True
    image.file_meta.TransferSyntaxUID = JPEG2000Lossless
    image.save_as(path)
    assert leaks.find([tmp_path / "export"], ["Quokka", "4711-0815"])
    deidentify(tmp_path)
    (image,) = written(tmp_path)
    assert leaks.find([tmp_path / "out"], ["Quokka", "4711-0815"]) == []
    frame = next(generate_frames(image.PixelData, number_of_frames=1))
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(frame))), pixels)


@pytest.mark.parametrize("form", [{}, {"progressive": True}, {"restart_marker_blocks": 1}])
def test_comments_of_jpeg_go(form: dict) -> None:
    values = np.random.default_rng(0).integers(0, 255, (40, 40), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, "JPEG", quality=95, comment="Quokka", exif=b"Exif\0\0Quokka", **form)
    first, second = stream.getvalue(), stream.getvalue()[:-2] + b"\xff\xff\xd9Quokka"
    made = codestream.without_comments(encapsulate([first, second]), 2)
    assert b"Quokka" in first and b"Quokka" not in made and b"Exif" not in made
    for frame in generate_frames(made, number_of_frames=2):
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(frame))), np.asarray(Image.open(stream)))
    for broken in (first[: len(first) // 2], first[:2] + b"\xff\xe0", b"JXL of any text", first[:2] + b"\0" * 20):
        with pytest.raises(DataError):
            codestream.without_comments(encapsulate([broken]), 1)


def test_overlays_in_the_pixels_hold_a_series_back(tmp_path: Path) -> None:
    (path,) = maker.write_series(tmp_path / "export", places=maker.positions(1, 6.0))
    image = dcmread(path)
    image.add_new(Tag(0x6000, 0x0102), "US", 12)
    image.save_as(path)
    (row,) = deidentify(tmp_path).to_dict("records")
    assert row["decision"] == "held back" and "graphics" in row["reason"]


def test_damaged_files_are_rows_and_the_others_go_on(tmp_path: Path) -> None:
    good = maker.write_series(tmp_path / "export", places=maker.positions(4, 6.0))
    good[0].write_bytes(good[0].read_bytes()[:-500])
    (tmp_path / "export" / "Quokka.dcm").write_text("<script>alert(1)</script>" * 20)
    (tmp_path / "export" / "notes.txt").write_text("nothing")
    table = deidentify(tmp_path).set_index("decision")
    assert table.n_files["written"] == "3" and "1 files cannot be read or are truncated" in table.reason["written"]
    assert "not a readable DICOM file" in table.reason["held back"]
    links = tsv.read(tmp_path / "private" / "deidentified.tsv")
    assert any(path.endswith("Quokka.dcm") for path in links.path)


def test_identifiers_that_look_like_physics_take_nothing_away(tmp_path: Path) -> None:
    tags = {**maker.T1, "PatientName": "Mr^Se", "PatientID": "1234", "StudyID": "1000", "RepetitionTime": "512.345"}
    paths = maker.write_series(tmp_path / "export", tags, places=[np.array([-71.1234, 1000.5, 12.34])])
    assert "1234" in str(dcmread(paths[0]).ImagePositionPatient)
    deidentify(tmp_path)
    (image,) = written(tmp_path)
    assert (image.Modality, image.ScanningSequence, image.RepetitionTime) == ("MR", "SE", 512.345)
    assert list(image.ImagePositionPatient) == [-71.1234, 1000.5, 12.34] and not image.StudyID
    assert list(image.ImageType) == ["ORIGINAL", "PRIMARY", "M"] and image.Manufacturer == "SIEMENS"


def test_multi_frame_files_keep_their_geometry(tmp_path: Path) -> None:
    frames = dcmread(maker.as_multi_frame(maker.write_series(tmp_path / "export", places=maker.positions(3, 6.0))))
    deidentify(tmp_path)
    (image,) = written(tmp_path)
    assert image.SharedFunctionalGroupsSequence == frames.SharedFunctionalGroupsSequence
    places = [group.PlanePositionSequence for group in image.PerFrameFunctionalGroupsSequence]
    assert places == [group.PlanePositionSequence for group in frames.PerFrameFunctionalGroupsSequence]


@pytest.mark.parametrize("form", ["compressed", "implicit without preamble"])
def test_files_of_other_forms_are_readable_after(tmp_path: Path, form: str) -> None:
    (path,) = maker.write_series(tmp_path / "export", places=maker.positions(1, 6.0))
    image = dcmread(path)
    pixels = image.pixel_array
    if form == "compressed":
        image.compress(RLELossless)
        image.save_as(path)
    else:
        dcmwrite(path, Dataset(image), implicit_vr=True, little_endian=True)
        assert path.read_bytes()[128:132] != b"DICM"
    deidentify(tmp_path)
    (image,) = written(tmp_path)
    np.testing.assert_array_equal(image.pixel_array, pixels)
    expected = RLELossless if form == "compressed" else ImplicitVRLittleEndian
    assert image.file_meta.TransferSyntaxUID == expected


def test_identifier_changed_halfway_is_one_patient_and_a_copy_is_two(tmp_path: Path) -> None:
    changed = [{"PatientID": "A"}] * 3 + [{"PatientID": "B"}] * 2
    maker.write_series(
        tmp_path / "export", {**maker.T1, "each": changed}, study="1.2.8", places=maker.positions(5, 6.0)
    )
    for patient in ("C", "D"):
        folder = tmp_path / "export" / patient
        maker.write_series(folder, patient=patient, study="1.2.9", places=maker.positions(2, 6.0))
    table = deidentify(tmp_path)
    assert sorted(table.n_files) == ["2", "2", "5"] and table.participant_id.nunique() == 3
    assert sorted(tsv.read(tmp_path / "private" / "deidentified.tsv").patient_id) == ["A", "C", "D"]
    assert {image.PatientID for image in written(tmp_path)} == set(table.participant_id)


def test_elements_of_messages_are_left_out(tmp_path: Path) -> None:
    """Old exports leave some in images; they are no reason to lose a slice."""
    (path,) = maker.write_series(
        tmp_path / "export", {**maker.T1, "ConversionType": ""}, places=maker.positions(1, 6.0)
    )
    image = dcmread(path)
    image.add_new(Tag(0x0000, 0x0002), "UI", "1.2.840.10008.1.1")
    profile.deidentify(image, Key(b"1" * 32))
    assert Tag(0x0000, 0x0002) not in image and profile.held_back(dcmread(path)) == ""
    image.save_as(path, enforce_file_format=True)


def test_archives_are_sources_too(tmp_path: Path) -> None:
    maker.write_series(tmp_path / "loose", places=maker.positions(2, 6.0))
    (tmp_path / "export").mkdir()
    shutil.make_archive(str(tmp_path / "export" / "Quokka"), "zip", tmp_path / "loose")
    assert list(deidentify(tmp_path).n_files) == ["2"]
    assert leaks.find([tmp_path / "out"], SECRETS) == []


def test_without_options_only_the_basic_profile_remains(tmp_path: Path) -> None:
    maker.write_series(tmp_path / "export", {**maker.T1, "PatientAge": "050Y"}, places=maker.positions(1, 6.0))
    deidentify(tmp_path, "--retain")
    (image,) = written(tmp_path)
    assert not image.StudyDate and "SeriesDescription" not in image and "PatientAge" not in image
    assert not image.PatientSex and image.LongitudinalTemporalInformationModified == "REMOVED"
    assert [code.CodeValue for code in image.DeidentificationMethodCodeSequence] == ["113100"]


def test_again_and_in_the_inventory_a_patient_has_the_same_name(tmp_path: Path) -> None:
    for patient in ("A", "../../x", "=cmd|' /C calc'!A0", "Ä" * 300, "$(id)"):
        study, places = f"1.2.{len(patient)}.{ord(patient[0])}", maker.positions(3, 6.0)
        maker.write_series(tmp_path / "export", patient=patient, study=study, places=places)
    first = deidentify(tmp_path)
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.dcm")}
    links = (tmp_path / "private" / "deidentified.tsv").read_text()
    assert "\n=cmd" not in links and "%3Dcmd" in links
    pd.testing.assert_frame_equal(deidentify(tmp_path), first)
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.dcm")} == before
    assert all(path.resolve().is_relative_to(tmp_path) for path in before) and len(before) == 15
    folders = ["--out", str(tmp_path / "results"), "--private", str(tmp_path / "private")]
    assert main(["inventory", str(tmp_path / "export"), *folders]) == 0
    assert set(tsv.read(Results(tmp_path / "results").series).participant_id) == set(first.participant_id)
    assert main(["inventory", str(tmp_path / "export"), *folders]) == 0
    assert len(tsv.read(Private(tmp_path / "private").sessions)) == 5


def test_output_and_key_stay_apart(tmp_path: Path, capsys) -> None:
    maker.write_series(tmp_path / "export", places=maker.positions(1, 6.0))
    source, out = str(tmp_path / "export"), str(tmp_path / "out")
    assert main(["deidentify", source, "--out", out, "--private", f"{out}/private"]) == 78
    assert main(["deidentify", source, "--out", f"{source}/out"]) == 78
    assert main(["deidentify", str(tmp_path / "nowhere"), "--out", out]) == 65
    (tmp_path / "empty").mkdir()
    assert main(["deidentify", str(tmp_path / "empty"), "--out", out]) == 65
    assert "give a folder beside it" in capsys.readouterr().err


def test_key_is_closed_and_one_for_all(tmp_path: Path) -> None:
    path = tmp_path / "private" / "key"
    made: list[str] = []
    runs = [threading.Thread(target=lambda: made.append(Key.of(path).participant("A"))) for _ in range(8)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert len(made) == 8 and len(set(made)) == 1
    assert path.stat().st_mode & 0o777 == 0o600 and list(path.parent.iterdir()) == [path]
    secret = path.read_text().strip()
    assert secret not in repr(Key.of(path)) and Key.of(path).participant("B") not in made
    path.chmod(0o644)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        Key.of(path)
    path.chmod(0o600)
    path.write_text("")
    with pytest.raises(ConfigurationError, match="is no key") as error:
        Key.of(path)
    path.write_text(f"{secret}0\n")
    with pytest.raises(ConfigurationError, match="is no key"):
        Key.of(path)
    assert secret not in str(error.value)


def test_another_key_gives_other_names() -> None:
    one, other = Key(b"1" * 32), Key(b"2" * 32)
    assert one.participant("A") != other.participant("A") and one.uid("1.2") != other.uid("1.2")
    shifts = {one.shift_days(str(patient)) for patient in range(200)}
    assert len(shifts) > 150 and max(shifts) - min(shifts) > 3000
    assert one.shifted("20210304", "A") != "20210304" and one.shifted("***", "A") == one.shifted("", "A") == ""
    assert len(one.uid("1.2")) <= 64


def test_sidecars_keep_physics_and_lose_people() -> None:
    header = Dataset()
    header.PatientName, header.PatientID = "Quokka^Li", "4711-0815"
    content = {
        **{"EchoTime": 0.1, "ImageType": ["ORIGINAL", "PRIMARY"], "SoftwareVersions": "syngo MR E11"},
        **{"SequenceName": "tse2d Quokkas", "CoilString": "HEA;4711-0815", "ReceiveCoilName": "Head Li"},
        **{"InstitutionName": "Nowhere", "DeviceSerialNumber": "12", "PatientName": "x", "ImageComments": "y"},
        "PulseSequenceType": "a" * 100,
    }
    kept = profile.sidecar(content, profile.Identifiers.of(header))
    assert list(kept) == ["SoftwareVersions", "ImageType", "EchoTime"]
    assert "ReceiveCoilName" in profile.sidecar(content)


def test_names_are_known_in_other_spellings() -> None:
    header = Dataset()
    header.PatientName, header.PatientID, header.StudyDate = "Grünwald^Zoë", "4711-0815", "20210304"
    header.ScheduledProcedureStepSequence = [Dataset()]
    header.ScheduledProcedureStepSequence[0].PersonName = "Wombat"
    known = profile.Identifiers.of(header)
    for text in ("GRUENWALD", "GRUNWALD T1", "zoe", "47110815", "4711_0815 T1", "2021-03-04", "x_wombat_y"):
        assert known.are_in(text), text
    assert not any(map(known.are_in, ("T1 SE", "4711", "Head coil 32", "2021")))


def test_warnings_of_the_converter_quote_nothing() -> None:
    header = Dataset()
    header.PatientName = "Wombat"
    messages = [
        "Warning: interpolated protocol 'Dr Quokka's head' may be unsuitable for dwidenoise. dicom/000000.dcm",
        "Warning: odd file of WOMBAT",
        "Found 12 DICOM file(s)",
    ]
    told = nifti._warnings(messages, profile.Identifiers.of(header))
    assert told == ["Warning: interpolated protocol '…' may be unsuitable for dwidenoise. dicom/000000.dcm"]


def test_texts_of_local_codes_and_unknown_uids_go() -> None:
    header = Dataset()
    header.PatientID = "4711"
    header.AnatomicRegionSequence = [
        profile._code("T-A0100", "Brain"), profile._code("Q1", "Dr Quokka"), profile._code("Q2", "Dr Quokka"),
    ]  # fmt: skip
    for code, scheme in zip(header.AnatomicRegionSequence, ("SRT", "99QUOKKA", ""), strict=True):
        code.CodingSchemeDesignator = scheme
    header.AnatomicRegionSequence[0].ContextUID = "1.2.840.10008.6.1.1"
    header.ReferencedSOPClassUID = "1.2.840.10008.47110815"
    header.PatientBodyMassIndex = "22.5"
    profile.deidentify(header, Key(b"1" * 32), options=frozenset())
    first, *others = header.AnatomicRegionSequence
    assert (first.CodeMeaning, first.ContextUID) == ("Brain", "1.2.840.10008.6.1.1")
    assert not any("CodeMeaning" in code or "CodeValue" in code for code in others)
    assert header.ReferencedSOPClassUID.startswith("2.25.") and "PatientBodyMassIndex" not in header


def test_words_in_the_field_of_the_modality_are_not_told(tmp_path: Path) -> None:
    maker.write_series(tmp_path / "export", {**maker.T1, "Modality": "QUOKKA"}, places=maker.positions(1, 6.0))
    assert list(deidentify(tmp_path).modality) == ["n/a"]
    assert (profile.modality_of(" ct "), profile.modality_of("MULLER")) == ("CT", "")


def test_descriptions_keep_technical_words_only() -> None:
    assert technical("t2_tse_tra Muster 4711 +KM") == ["t2", "tse", "tra", "+", "KM"]
    assert technical("<script>alert(1)</script> =cmd|calc") == []


def test_the_standards_table_is_there_and_elements_named_here_exist() -> None:
    table = profile._table()
    assert len(table) > 600
    assert [table[tag_for_keyword(name)] for name in ("PatientName", "ImageComments", "StudyInstanceUID")] == [
        "Z",
        "X",
        "U",
    ]
    for keyword in profile.TECHNICAL | profile.DESCRIPTORS | profile._NUMBERS_OF_PEOPLE | profile._SHIFTED:
        assert dictionary_VR(keyword)
    assert np.isnan(profile.told_age_years(float("nan"))) and profile.told_age_years(94.3) == 90


def test_errors_that_nobody_foresaw_quote_no_header(tmp_path: Path, monkeypatch, capsys) -> None:
    maker.write_series(tmp_path / "export", places=maker.positions(1, 6.0))

    name, number = ("".join(parts) for parts in (("Quo", "kka"), ("47", "11")))  # lines of the program are told

    def fail(*_: object, **__: object) -> None:
        raise ValueError(name) from KeyError(number)

    monkeypatch.setattr(Key, "participant", fail)
    assert main(["deidentify", str(tmp_path / "export"), "--out", str(tmp_path / "out")]) == 70
    told = capsys.readouterr().err
    assert "ValueError" in told and "deidentify.py" in told and not any(word in told for word in ("Quokka", "4711"))
