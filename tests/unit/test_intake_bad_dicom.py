"""DICOM that the inventory takes and conversion must see through: reasons in the table, everything else finished."""

from __future__ import annotations

import io
from collections.abc import Callable

import dicom_maker as maker
import leaks
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit, RLELossless

from analysis import batch, tsv
from analysis.cli import main
from analysis.intake import lowfield
from analysis.layout import Results

CT = {"Modality": "CT", "RescaleSlope": "1"}


def jpeg(image: Dataset, *, broken: bool) -> None:
    """Replace the pixels by a JPEG; of a broken one, the compressed data are noise behind a sound head."""
    pixels = (image.pixel_array // 4).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=90)
    fragment = bytearray(stream.getvalue())
    if broken:
        fragment = fragment[:200]
    image.BitsAllocated = image.BitsStored = 8
    image.HighBit = 7
    image.PixelData = encapsulate([bytes(fragment)])
    image["PixelData"].VR = "OB"
    image.file_meta.TransferSyntaxUID = JPEGBaseline8Bit


def broken_jpeg(image: Dataset) -> None:
    jpeg(image, broken=True)


def broken_rle(image: Dataset) -> None:
    """One of which dcm2niix says nothing, and makes a slice of zeros."""
    image.compress(RLELossless)
    image.PixelData = encapsulate([b"\x02" + bytes(63) + b"\x81\x00" * 20])


def identified(image: Dataset) -> None:
    image.ImageComments = "Quokka Erika, born 7.12.1943"
    image.SoftwareVersions = "Quokka 3"
    for creator in ("SIEMENS CSA HEADER", "QUOKKA PACS"):
        image.private_block(0x0029, creator, create=True).add_new(0x10, "OB", b"Quokka^Erika 4711-0815")
    image.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0F, "SH", "Quokka")


def cut_in_memory(image: Dataset) -> None:
    image.PixelData = image.PixelData[: len(image.PixelData) // 2]


#: What is done to every image of a series, its tags and pixel size, and what the reason says; empty: it is converted.
CASES: dict[str, tuple[Callable[[Dataset], None] | None, dict, dict, str]] = {
    "sound": (None, maker.T1, {}, ""),
    "jpeg": (lambda image: jpeg(image, broken=False), maker.T1, {}, ""),
    "identified": (identified, maker.T1, {}, ""),
    "broken-jpeg": (broken_jpeg, maker.T1, {}, "compressed pixel data"),
    "broken-rle": (broken_rle, maker.T1, {}, "slice 8 along axis 3 is blank"),
    "truncated": (cut_in_memory, maker.T1, {}, "truncated"),
    "constant": (lambda image: setattr(image, "PixelData", bytes(2 * maker.SIZE**2)), maker.T1, {}, "constant"),
    "wide": (None, maker.T1, {"pixel_mm": 16.0}, "field of view 512 mm"),
    "ct": (None, {**CT, "RescaleIntercept": "-500"}, {}, ""),
    "ct-raw": (None, {**CT, "RescaleIntercept": "0"}, {}, "no Hounsfield units"),
    "low-field": (None, {**maker.T2, "MagneticFieldStrength": "0.064"}, {}, ""),
    "low-field T1": (None, {**maker.T1, "MagneticFieldStrength": "0.064"}, {}, ""),
}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Results, pd.DataFrame]:
    root = tmp_path_factory.mktemp("bad")
    for index, (name, (spoil, tags, shape, _)) in enumerate(CASES.items(), start=1):
        patient, _, is_second = name.partition(" ")
        study, series = f"1.2.3.{index - bool(is_second)}", "2" if is_second else "1"
        paths = maker.write_series(root / "export", tags, patient=patient, study=study, series=series, **shape)
        for path in paths[7:8] if name.startswith("broken") else paths if spoil else []:
            image = dcmread(path)
            image.PatientName = "Quokka^Erika"
            spoil(image)
            image.save_as(path)
    folders = ["--out", str(root / "results"), "--private", str(root / "private")]
    assert main(["inventory", str(root / "export"), *folders]) == 0
    results = Results(root / "results")
    assert main(["convert", str(results.batch("select", "0001")), *folders]) == 0
    links = tsv.read(root / "private" / "series.tsv").set_index("series_id")
    table = tsv.read(results.series).set_index("series_id")
    table = table.assign(patient=links.patient_id, series_uid=links.series_uid)
    converted = batch.read(results.batch("convert", "0001")).set_index("scan_id")
    for series_id, row in table.iterrows():
        if row.scan_id in converted.index:
            table.loc[series_id, "reason"] += converted.reason[row.scan_id]
    second = table.series_uid.str.endswith(".2")
    return results, table.set_index(table.patient.mask(second, table.patient + " T1"))


@pytest.mark.parametrize("name", CASES)
def test_each_has_its_reason_or_is_converted(study: tuple[Results, pd.DataFrame], name: str) -> None:
    results, table = study
    row, reason = table.loc[name], CASES[name][3]
    assert reason in row.reason and bool(reason) == bool(row.reason)
    is_there = row.scan_id != tsv.MISSING and results.raw(row.scan_id).is_file()
    assert is_there == (not reason)


def test_identifiers_in_comments_and_private_elements_stay_behind(study: tuple[Results, pd.DataFrame]) -> None:
    results, _ = study
    assert leaks.find([results.root], ("Quokka", "Erika", "4711-0815", "1943", "truncated-")) == []


def test_low_field_t1_and_t2_are_paired(study: tuple[Results, pd.DataFrame]) -> None:
    results, table = study
    (pair,) = tsv.read(results.low_field).to_dict("records")
    assert pair == {
        "participant_id": table.participant_id["low-field"],
        "session_id": "ses-01",
        "t1_scan_id": table.scan_id["low-field T1"],
        "t2_scan_id": table.scan_id["low-field"],
    }


def test_low_field_pairs_leave_out_what_does_not_belong() -> None:
    row = {"participant_id": "sub-1", "session_id": "ses-01", "plane": "ax", "decision": "include"}
    row |= {"field_tesla": "0.064", "contrast_agent": "no"}
    rows = [
        row | {"contrast": "T1w", "scan_id": "a_T1w"},
        row | {"contrast": "T2w", "scan_id": "b_T2w", "session_id": "ses-02"},
        row | {"contrast": "T2w", "scan_id": "c_T2w", "plane": "cor"},
        row | {"contrast": "T2w", "scan_id": "d_T2w", "field_tesla": "1.5"},
        row | {"contrast": "T2w", "scan_id": "e_T2w", "field_tesla": "n/a"},
        row | {"contrast": "T2w", "scan_id": "f_T2w", "contrast_agent": "yes"},
        row | {"contrast": "T2w", "scan_id": "", "decision": "exclude"},
    ]
    assert lowfield.pairs(rows) == []
    assert len(lowfield.pairs([*rows, row | {"contrast": "T2w", "scan_id": "g_T2w"}])) == 1
