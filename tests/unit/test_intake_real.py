"""Test scans of real scanners and real patients through inventory and conversion."""

from __future__ import annotations

import csv
from pathlib import Path

import nibabel as nib
import pytest

from analysis import batch, tsv
from analysis.cli import main
from analysis.layout import Results


def intake(source: Path, root: Path, *options: str) -> Results:
    results = Results(root / "results")
    folders = ["--out", str(results.root), "--private", str(root / "private")]
    assert main(["inventory", str(source), *folders, *options]) == 0
    assert main(["convert", str(results.batch("select", "0001")), *folders]) == 0
    return results


def test_three_scanners_in_one_folder(data_folder: Path, tmp_path: Path) -> None:
    results = intake(data_folder / "dicom", tmp_path)
    series = tsv.read(results.series, numbers=("spacing_mm", "in_plane_mm"))
    assert set(series.decision) == {"include"}
    converted = batch.read(results.batch("convert", "0001"))
    assert set(converted.status) == {batch.DONE}
    expected = {
        ("PDw", "ax"): ((256, 256, 20), (0.859, 0.859, 7.07), 28, "F"),  # its header says 5 and 2 mm
        ("T1w", "sag"): ((256, 256, 35), (1.016, 1.016, 4.8), 51, "M"),
    }
    sessions = tsv.read(results.sessions, numbers=("age_years",)).set_index("participant_id")
    assert len(sessions) == 3
    rows = {scan.n_slices: scan for scan in series.itertuples()}
    assert rows["170"].contrast == "T1w" and rows["170"].plane == "sag"
    for (contrast, plane), (shape, zooms_mm, age_years, sex) in expected.items():
        scan = rows[str(shape[2])]
        assert (scan.contrast, scan.plane, scan.missing_slices) == (contrast, plane, "0")
        image = nib.load(results.raw(scan.scan_id))
        assert image.shape == shape
        assert image.header.get_zooms() == pytest.approx(zooms_mm, abs=2e-3)
        assert scan.spacing_mm == pytest.approx(zooms_mm[2], rel=0.015)
        person = sessions.loc[scan.participant_id]
        assert (person.age_years, person.sex) == (age_years, sex)
    three_d = nib.load(results.raw(rows["170"].scan_id))
    assert three_d.shape == (256, 256, 170)
    assert three_d.header.get_zooms() == pytest.approx((1, 1, 1), abs=1e-3)


def test_longitudinal_patients_as_bids(data_folder: Path, tmp_path: Path) -> None:
    folder = data_folder / "ms" / "longitudinal"
    source = tmp_path / "bids"
    with (folder / "demographics.csv").open() as stream:
        people = {f"{int(row['patient_id']):02d}": row for row in csv.DictReader(stream)}
    lines = ["participant_id\tage\tsex"]
    for patient in ("04", "20"):
        person = people[patient]
        lines.append(f"sub-{patient}\t{person['patient_age_at_first_study']}\t{person['sex']}")
        for path in sorted((folder / f"raw_{patient}").glob("study*_*.nii.gz")):
            study, contrast = path.name.removesuffix(".nii.gz").removeprefix("study").split("_")
            suffix = {"T1W": "T1w", "T2W": "T2w", "FLAIR": "FLAIR"}[contrast]
            anat = source / f"sub-{patient}" / f"ses-{study}" / "anat"
            anat.mkdir(parents=True, exist_ok=True)
            (anat / f"sub-{patient}_ses-{study}_{suffix}.nii.gz").symlink_to(path)
    (source / "participants.tsv").write_text("\n".join(lines) + "\n")
    results = intake(source, tmp_path, "--format", "bids")
    series = tsv.read(results.series, numbers=("spacing_mm",))
    assert set(series.decision) == {"include"} and set(series.plane) == {"ax"}
    assert series.spacing_mm.between(2.9, 3.4).all()
    converted = batch.read(results.batch("convert", "0001"))
    assert set(converted.status) == {batch.DONE}
    assert "sub-04_ses-1_FLAIR" in set(converted.scan_id)


def test_series_of_real_scanners_are_told_by_their_physics(data_folder: Path, tmp_path: Path) -> None:
    """MPRAGE of Philips, thick T1 gradient echo of Siemens, proton density of GE, whose header says 5 and 2 mm."""
    results = Results(tmp_path / "results")
    assert main(["inventory", str(data_folder / "dicom"), "--out", str(results.root)]) == 0
    series = tsv.read(results.series, numbers=("spacing_mm", "oblique_degrees")).set_index("n_slices").sort_index()
    assert list(series.index) == ["170", "20", "35"]
    assert list(series.contrast) == ["T1w", "PDw", "T1w"] and set(series.modality) == {"MR"}
    assert list(series.plane) == ["sag", "ax", "sag"] and set(series.field_tesla) == {"3", "1.5"}
    assert series.spacing_mm.to_numpy() == pytest.approx([1.0, 7.07, 4.8], rel=0.015)
    assert series.oblique_degrees.to_numpy() == pytest.approx([4.1, 7.7, 0], abs=0.1)
    assert set(series.missing_slices) == set(series.duplicate_slices) == {"0"} and set(series.n_volumes) == {"1"}
    assert set(series.tilt_degrees) == {"0"} and set(series.decision) == {"include"}
    starts = ("gradient echo (", "spin echo, long repetition and early echo (", "gradient echo (")
    assert all(told.startswith(start) for told, start in zip(series.evidence, starts, strict=True))
    assert not any("against" in told for told in series.evidence)
