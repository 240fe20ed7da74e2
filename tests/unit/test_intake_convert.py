"""Conversion: right geometry, the same bytes again, nothing identifying, bad scans as rows."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from pathlib import Path

import dicom_maker as maker
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from pydicom import dcmread

from analysis import batch, tsv
from analysis.cli import main
from analysis.intake import nifti
from analysis.layout import Results
from synthsr.errors import DataError

#: What the maker writes into headers and names of files.
IDENTIFYING = ("MRN-4711", "Muster", "1.2.3.4", "19500102", "20210304", "Nowhere", "/export", "secret")


def inventory(root: Path, *options: str) -> int:
    source = str(root / "export")
    return main(["inventory", source, "--out", str(root / "results"), "--private", str(root / "private"), *options])


def convert(root: Path) -> pd.DataFrame:
    results = Results(root / "results")
    table = str(results.batch("select", "0001"))
    assert main(["convert", table, "--out", str(results.root), "--private", str(root / "private")]) == 0
    return batch.read(results.batch("convert", "0001"))


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def bids(root: Path, name: str, data: np.ndarray, *, spacing_mm: float = 10.0) -> Path:
    path = root / "export" / name.split("_")[0] / "anat" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, np.diag([10.0, 10.0, spacing_mm, 1.0])), path)
    return path


@pytest.fixture
def noise() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(16, 16, 16)).astype(np.float32)


def mark(path: Path, row: int, column: int) -> np.ndarray:
    """Make one pixel the brightest; where it lies, in mm, as NIfTI counts (x to the right, y to the front)."""
    image = dcmread(path)
    pixels = image.pixel_array.copy()
    pixels[row, column] = 4000
    image.PixelData = pixels.tobytes()
    image.save_as(path)
    along_row, along_column = np.reshape(image.ImageOrientationPatient, (2, 3))
    place = np.array(image.ImagePositionPatient) + 7 * (column * along_row + row * along_column)
    return place * (-1, -1, 1)


def brightest(path: Path) -> np.ndarray:
    """Where the brightest voxel of an image lies, in mm."""
    image = nib.load(path)
    voxel = np.unravel_index(np.argmax(image.get_fdata()), image.shape)
    return nib.affines.apply_affine(image.affine, voxel)


@pytest.mark.parametrize("form", ["ax", "cor", "sag", "reversed", "multi-frame"])
def test_every_pixel_comes_to_lie_where_its_header_says(tmp_path: Path, form: str) -> None:
    plane = form if form in maker.ORIENTATIONS else "ax"
    places = maker.positions(20, 6.5, plane)
    paths = maker.write_series(tmp_path / "export", plane=plane, places=places[::-1] if form == "reversed" else places)
    expected = mark(paths[3], row=5, column=11)
    if form == "multi-frame":
        maker.as_multi_frame(paths)
    assert inventory(tmp_path) == 0
    (row,) = convert(tmp_path).to_dict("records")
    assert row["status"] == batch.DONE, row["reason"]
    path = tmp_path / "results" / row["path"]
    np.testing.assert_allclose(brightest(path), expected, atol=1e-3)
    assert nib.load(path).shape == (32, 32, 20)
    assert nib.load(path).header.get_zooms() == pytest.approx((7, 7, 6.5), abs=1e-3)


def test_an_image_that_lies_elsewhere_is_noticed(tmp_path: Path) -> None:
    (path,) = maker.write_series(tmp_path, places=maker.positions(1, 6.5))
    affine = np.diag([-7.0, 7.0, 6.5, 1.0])
    affine[:3, 3] = 100, 100 - 31 * 7, 0
    values = np.zeros((32, 32, 20))
    nifti._check_place(nib.Nifti1Image(values, affine), path)
    mirrors = [
        nib.orientations.inv_ornt_aff(turned, values.shape)
        for turned in (((0, -1), (1, 1), (2, 1)), ((0, 1), (1, -1), (2, 1)))
    ]
    wrong = [affine @ mirror for mirror in mirrors] + [nib.affines.from_matvec(np.eye(3), (0, 0, 20)) @ affine]
    for place in wrong:
        with pytest.raises(DataError, match="mm from where their headers say"):
            nifti._check_place(nib.Nifti1Image(values, place), path)


def test_phases_are_converted_to_two_images(tmp_path: Path) -> None:
    phases = [{"AcquisitionNumber": 1}] * 20 + [{"AcquisitionNumber": 2, "ContrastBolusAgent": "Gd"}] * 20
    paths = maker.write_series(tmp_path / "export", {**maker.T1, "each": phases}, places=maker.positions(20, 6.0) * 2)
    expected = mark(paths[2], row=1, column=2), mark(paths[29], row=3, column=4)
    assert inventory(tmp_path) == 0
    table = convert(tmp_path)
    assert set(table.status) == {batch.DONE}
    (native,) = [path for path in table.path if "_ce-" not in path]
    (enhanced,) = [path for path in table.path if "_ce-gd_" in path]
    for path, place in zip((native, enhanced), expected, strict=True):
        np.testing.assert_allclose(brightest(tmp_path / "results" / path), place, atol=1e-3)


def test_a_full_disk_of_temporary_files_rejects_nothing(tmp_path: Path, monkeypatch, capsys) -> None:
    maker.write_series(tmp_path / "export")
    assert inventory(tmp_path) == 0
    monkeypatch.setattr(nifti, "LEAST_FREE_BYTES", 1 << 60)
    monkeypatch.setattr("dcm2niix.bin", shutil.which("false"))
    folders = ["--out", str(tmp_path / "results"), "--private", str(tmp_path / "private")]
    assert main(["convert", str(Results(tmp_path / "results").batch("select", "0001")), *folders]) == 69
    assert "TMPDIR" in capsys.readouterr().err


def test_dual_echo_is_converted_to_two_images(tmp_path: Path) -> None:
    echoes = [{"EchoTime": "20", "EchoNumbers": 1}] * 20 + [{"EchoTime": "100", "EchoNumbers": 2}] * 20
    maker.write_series(tmp_path / "export", {**maker.PD, "each": echoes}, places=maker.positions(20, 6.0) * 2)
    assert inventory(tmp_path) == 0
    table = convert(tmp_path)
    assert list(table.contrast) == ["PDw", "T2w"] and set(table.status) == {batch.DONE}
    sidecars = [Path(str(tmp_path / "results" / path).replace(".nii.gz", ".json")) for path in table.path]
    assert [json.loads(sidecar.read_text())["EchoTime"] for sidecar in sidecars] == [0.02, 0.1]


def test_tilted_ct_stands_upright(tmp_path: Path) -> None:
    tilt = np.radians(15)
    tags = {
        "Modality": "CT",
        "GantryDetectorTilt": "15",
        "RescaleIntercept": "-500",
        "RescaleSlope": "1",
        "ImageOrientationPatient": [1, 0, 0, 0, round(np.cos(tilt), 6), round(-np.sin(tilt), 6)],
    }
    maker.write_series(tmp_path / "export", tags, places=maker.positions(30, 5.0))
    assert inventory(tmp_path) == 0
    (row,) = convert(tmp_path).to_dict("records")
    affine = nib.load(tmp_path / "results" / row["path"]).affine[:3, :3]
    directions = affine / np.linalg.norm(affine, axis=0)
    np.testing.assert_allclose(directions.T @ directions, np.eye(3), atol=1e-4)


def test_nothing_identifies_outside_private(tmp_path: Path, capfd) -> None:
    tags = {**maker.T1, "SeriesDescription": "secret", "ProtocolName": "secret", "PatientComments": "secret"}
    maker.write_series(tmp_path / "export", tags)
    maker.write_series(tmp_path / "export", {**maker.T2, "ImageComments": "secret"}, series="2")
    cut = maker.write_series(tmp_path / "export", maker.T2, series="3")
    cut[0].write_bytes(cut[0].read_bytes()[:-10])
    (tmp_path / "export" / "Muster.dcm").write_text("text\n" * 50)
    assert inventory(tmp_path) == 0
    convert(tmp_path)
    texts = {"messages": "".join(capfd.readouterr()).replace(str(tmp_path), "").encode()}
    for name, data in contents(tmp_path / "results").items():
        image = nib.load(tmp_path / "results" / name).to_bytes() if name.endswith(".nii.gz") else b""
        texts[name] = data + image + name.encode()
    for name, data in texts.items():
        found = [word for word in IDENTIFYING if word.encode() in data]
        assert not found, f"{name} holds {found}"
    private = b"".join(contents(tmp_path / "private").values())
    assert b"MRN-4711" in private and b"Muster.dcm" in private


def test_header_and_sidecar_are_clean(tmp_path: Path) -> None:
    maker.write_series(tmp_path / "export", {**maker.T1, "PatientComments": "secret"})
    assert inventory(tmp_path) == 0
    (row,) = convert(tmp_path).to_dict("records")
    path = tmp_path / "results" / row["path"]
    header = nib.load(path).header
    for name in ("descrip", "aux_file", "db_name", "intent_name"):
        assert bytes(header[name]).strip(b"\0") == b""
    assert not header.extensions
    sidecar = json.loads(path.with_name(path.name.replace(".nii.gz", ".json")).read_text())
    assert sidecar["EchoTime"] == 0.012 and sidecar["Manufacturer"] == "Siemens"
    assert not {"SeriesDescription", "InstitutionName", "AcquisitionTime", "PatientName"} & set(sidecar)


def test_again_gives_the_same_bytes_and_touches_nothing(tmp_path: Path) -> None:
    maker.write_series(tmp_path / "export")
    assert inventory(tmp_path) == 0
    convert(tmp_path)
    results = tmp_path / "results"
    before = contents(results)
    for path in results.rglob("*.*"):
        os.utime(path, (0, 0))
    convert(tmp_path)
    assert all(path.stat().st_mtime == 0 for path in results.rglob("*.*") if path.is_file())
    next(results.rglob("*.nii.gz")).unlink()
    convert(tmp_path)
    assert contents(results) == before


def test_files_that_vanish_stop_the_job_but_not_what_is_done(tmp_path: Path, capsys) -> None:
    maker.write_series(tmp_path / "export")
    assert inventory(tmp_path) == 0
    (tmp_path / "export").rename(tmp_path / "away")
    folders = ["--out", str(tmp_path / "results"), "--private", str(tmp_path / "private")]
    table = str(Results(tmp_path / "results").batch("select", "0001"))
    assert main(["convert", table, *folders]) == 78
    assert "20 of the 20 files" in (message := capsys.readouterr().err) and "run the inventory again" in message
    assert not list((tmp_path / "results").rglob("*.nii.gz"))
    (tmp_path / "away").rename(tmp_path / "export")
    assert list(convert(tmp_path).status) == [batch.DONE]
    (tmp_path / "export").rename(tmp_path / "away")
    assert list(convert(tmp_path).status) == [batch.DONE]


def test_series_found_broken_later_is_rejected(tmp_path: Path) -> None:
    paths = maker.write_series(tmp_path / "export")
    maker.write_series(tmp_path / "export", maker.T1, patient="Z", study="1.2.9")
    assert inventory(tmp_path) == 0
    assert set(convert(tmp_path).status) == {batch.DONE}
    paths[0].write_bytes(paths[0].read_bytes()[:-10])
    assert inventory(tmp_path) == 0
    table = convert(tmp_path)
    assert sorted(table.status) == [batch.DONE, batch.REJECTED]
    assert "truncated" in "".join(table.reason)


def test_bids_names_stay_and_good_images_are_linked(tmp_path: Path, noise: np.ndarray) -> None:
    path = bids(tmp_path, "sub-a1_acq-x_T1w.nii.gz", noise, spacing_mm=12.0)
    bids(tmp_path, "sub-a1_FLAIR.nii", noise)
    mgz = path.with_name("sub-a1_T2w.mgz")
    nib.save(nib.MGHImage(noise, np.diag([10.0, 10.0, 10.0, 1.0])), mgz)
    bids(tmp_path, "sub-a1_bold.nii.gz", noise)
    path.with_name("sub-a1_acq-x_T1w.json").write_text('{"EchoTime": 0.003, "PatientName": "secret"}')
    mode = path.stat().st_mode
    assert inventory(tmp_path, "--format", "bids") == 0
    table = convert(tmp_path).set_index("scan_id")
    assert sorted(table.index) == ["sub-a1_FLAIR", "sub-a1_T2w", "sub-a1_acq-x_T1w"]
    assert set(table.status) == {batch.DONE} and set(table.session_id) == {"ses-01"}
    anat = tmp_path / "results" / "rawdata" / "sub-a1" / "anat"
    link = anat / "sub-a1_acq-x_T1w.nii.gz"
    assert link.is_symlink() and link.readlink() == path and path.stat().st_mode == mode
    assert json.loads((anat / "sub-a1_acq-x_T1w.json").read_text()) == {"EchoTime": 0.003}
    for name in ("sub-a1_FLAIR.nii.gz", "sub-a1_T2w.nii.gz"):
        np.testing.assert_array_equal(nib.load(anat / name).get_fdata(dtype=np.float32), noise)
    series = tsv.read(tmp_path / "results" / "intake" / "series.tsv")
    assert "suffix" in series.loc[series.decision == "exclude", "reason"].iloc[0]


def test_bids_ct_must_be_in_hounsfield_units(tmp_path: Path) -> None:
    x_mm = 10 * (np.indices((16,) * 3) - 7.5)
    hounsfield = np.where((x_mm**2).sum(axis=0) < 65**2, 35, -1000).astype(np.int16)
    bids(tmp_path, "sub-1_ct.nii.gz", hounsfield)
    bids(tmp_path, "sub-2_ct.nii.gz", hounsfield + np.int16(1000))
    assert inventory(tmp_path, "--format", "bids") == 0
    series = tsv.read(tmp_path / "results" / "intake" / "series.tsv")
    assert set(series.modality) == {"CT"} and set(series.contrast) == {"ct"}
    table = convert(tmp_path).set_index("scan_id")
    assert table.status["sub-1_ct"] == batch.DONE
    assert table.status["sub-2_ct"] == batch.REJECTED and "Hounsfield" in table.reason["sub-2_ct"]


def test_bids_bad_images_are_named(tmp_path: Path, noise: np.ndarray) -> None:
    holed = noise.copy()
    holed[3, 3, 3] = np.nan
    bids(tmp_path, "sub-1_T1w.nii.gz", holed)
    bids(tmp_path, "sub-2_T1w.nii.gz", np.full_like(noise, 7))
    bids(tmp_path, "sub-3_T1w.nii.gz", np.stack([noise, noise], axis=-1))
    bids(tmp_path, "sub-4_T1w.nii.gz", noise).write_text("not an image")
    cut = bids(tmp_path, "sub-5_T1w.nii.gz", noise)
    cut.write_bytes(cut.read_bytes()[:-4000])
    bids(tmp_path, "sub-6_T1w.nii.gz", noise)
    dangling = bids(tmp_path, "sub-7_T1w.nii.gz", noise)
    dangling.unlink()
    dangling.symlink_to("../../.git/annex/objects/missing.nii.gz")
    placeless = bids(tmp_path, "sub-8_T1w.nii.gz", noise)
    content = bytearray(gzip.decompress(placeless.read_bytes()))
    content[280:296] = np.full(4, np.nan, "<f4").tobytes()  # first row of the affine
    placeless.write_bytes(gzip.compress(content))
    colours = np.zeros(noise.shape, [(channel, "u1") for channel in "RGB"])
    bids(tmp_path, "sub-9_T1w.nii.gz", colours)
    assert inventory(tmp_path, "--format", "bids") == 0
    series = tsv.read(tmp_path / "results" / "intake" / "series.tsv").set_index("participant_id")
    for name, reason in {
        "sub-3": "16 x 16 x 16 x 2 voxels",
        "sub-4": "cannot be read",
        "sub-7": "a link to content that is not there; fetch it (datalad get) or remove it",
    }.items():
        assert series.decision[name] == "exclude"
        assert series.reason[name].startswith(f"{name}_T1w.nii.gz: ") and reason in series.reason[name]
    table = convert(tmp_path).set_index("scan_id")
    for scan_id, reason in {
        "sub-1_T1w": "not finite",
        "sub-2_T1w": "constant",
        "sub-5_T1w": "truncated",
        "sub-8_T1w": "affine",
        "sub-9_T1w": "colours",
    }.items():
        assert table.status[scan_id] == batch.REJECTED
        assert table.reason[scan_id].startswith(f"{scan_id}.nii.gz: ") and reason in table.reason[scan_id]
    assert table.status["sub-6_T1w"] == batch.DONE
    assert len(list((tmp_path / "results" / "rawdata").rglob("*.nii.gz"))) == 1


@pytest.mark.parametrize("kind", [np.int64, np.uint64, np.uint8])
def test_bids_whole_numbers_of_any_size_are_converted(tmp_path: Path, kind: type) -> None:
    data = np.arange(4096).reshape(16, 16, 16).astype(kind)
    path = tmp_path / "export" / "sub-1" / "anat" / "sub-1_T1w.nii"
    path.parent.mkdir(parents=True)
    nib.save(nib.Nifti1Image(data, np.diag([10.0, 10.0, 10.0, 1.0]), dtype=kind), path)
    assert inventory(tmp_path, "--format", "bids") == 0
    (row,) = convert(tmp_path).to_dict("records")
    assert row["status"] == batch.DONE, row["reason"]
    np.testing.assert_array_equal(np.asanyarray(nib.load(tmp_path / "results" / row["path"]).dataobj), data)


def test_bids_a_rejected_image_does_not_block_its_namesake(tmp_path: Path, noise: np.ndarray) -> None:
    bids(tmp_path, "sub-1_T1w.nii", noise).write_text("not an image")
    bids(tmp_path, "sub-1_T1w.nii.gz", noise)
    bids(tmp_path, "sub-2_T1w.nii", noise)
    bids(tmp_path, "sub-2_T1w.nii.gz", noise)
    assert inventory(tmp_path, "--format", "bids") == 0
    series = tsv.read(tmp_path / "results" / "intake" / "series.tsv")
    assert sorted(series.loc[series.decision == "include", "scan_id"]) == ["sub-1_T1w", "sub-2_T1w"]
    assert "another file has the same name" in "".join(series.reason)
    assert list(convert(tmp_path).status) == [batch.DONE, batch.DONE]


def test_bids_a_compressed_image_takes_over_name_and_batch(tmp_path: Path, noise: np.ndarray) -> None:
    path = bids(tmp_path, "sub-1_T1w.nii", noise)
    assert inventory(tmp_path, "--format", "bids") == 0
    convert(tmp_path)
    path.unlink()
    bids(tmp_path, "sub-1_T1w.nii.gz", noise)
    assert inventory(tmp_path, "--format", "bids") == 0
    selected = tsv.read(Results(tmp_path / "results").batch("select", "0001"))
    assert list(selected.scan_id) == ["sub-1_T1w"]
    assert list(convert(tmp_path).status) == [batch.DONE]
    assert (tmp_path / "results/rawdata/sub-1/anat/sub-1_T1w.nii.gz").is_symlink()


@pytest.mark.parametrize("folder", ["sub-1/ses-2/anat", "sub-1/anat", "sub-2/ses-1/anat"])
def test_bids_an_image_in_the_wrong_folder_is_rejected(tmp_path: Path, noise: np.ndarray, folder: str) -> None:
    path = tmp_path / "export" / folder / "sub-1_ses-1_T1w.nii.gz"
    path.parent.mkdir(parents=True)
    nib.save(nib.Nifti1Image(noise, np.eye(4)), path)
    assert inventory(tmp_path, "--format", "bids") == 0
    (reason,) = tsv.read(tmp_path / "results" / "intake" / "series.tsv").reason
    assert "participant and session" in reason


def test_bids_changed_image_is_checked_again(tmp_path: Path, noise: np.ndarray) -> None:
    bids(tmp_path, "sub-1_T1w.nii.gz", noise)
    assert inventory(tmp_path, "--format", "bids") == 0
    before = convert(tmp_path).sha256[0]
    bids(tmp_path, "sub-1_T1w.nii.gz", noise + 1)
    assert convert(tmp_path).sha256[0] != before


def test_bids_ages(tmp_path: Path, noise: np.ndarray) -> None:
    bids(tmp_path, "sub-1_T1w.nii.gz", noise)
    bids(tmp_path, "sub-2_T1w.nii.gz", noise)
    people = tmp_path / "export" / "participants.tsv"
    unknown = {f"sub-{number}": age for number, age in enumerate(("N/A", "", "89+", "> 89", "≥90"), start=3)}
    for name in unknown:
        bids(tmp_path, f"{name}_T1w.nii.gz", noise)
    lines = ["participant_id\tage\tsex", "sub-1\t34.5\tmale", "sub-2\tn/a\tF"]
    lines += [f"{name}\t{age}\tF" for name, age in unknown.items()]
    people.write_text("\n".join(lines) + "\n", encoding="utf-8")
    (tmp_path / "export" / "sub-2" / "sub-2_sessions.tsv").write_text("session_id\tage\nses-01\t71\n")
    assert inventory(tmp_path, "--format", "bids") == 0
    sessions = tsv.read(tmp_path / "results" / "intake" / "sessions.tsv")
    assert list(sessions.age_years) == ["34.5", "71", *["n/a"] * 5] and list(sessions.sex) == ["M", *["F"] * 6]


def test_bids_age_as_text_names_file_and_line(tmp_path: Path, noise: np.ndarray, capsys) -> None:
    bids(tmp_path, "sub-1_T1w.nii.gz", noise)
    (tmp_path / "export" / "participants.tsv").write_text("participant_id\tage\nsub-1\tthirty\n")
    assert inventory(tmp_path, "--format", "bids") == 65
    message = capsys.readouterr().err
    assert all(part in message for part in ("participants.tsv", "line 2", "thirty", "write a number or n/a"))
    assert not (tmp_path / "results").exists()


def test_missing_dcm2niix_stops_the_job(tmp_path: Path, monkeypatch, capsys) -> None:
    maker.write_series(tmp_path / "export")
    assert inventory(tmp_path) == 0
    monkeypatch.setattr("dcm2niix.bin", str(tmp_path / "nowhere" / "dcm2niix"))
    folders = ["--out", str(tmp_path / "results"), "--private", str(tmp_path / "private")]
    assert main(["convert", str(Results(tmp_path / "results").batch("select", "0001")), *folders]) == 69
    assert "dcm2niix cannot be started" in capsys.readouterr().err
    assert not Results(tmp_path / "results").batch("convert", "0001").exists()
