"""Real scans through the whole pipeline: DICOM of three vendors, and thick scans of two patients as BIDS."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import pandas as pd
import pytest

from analysis import tsv
from analysis.layout import Results

Run = Callable[..., str]


def volumes(results: Results) -> pd.DataFrame:
    """Volumes in millilitres, scans × structures."""
    table = tsv.read(results.volumes, numbers=["volume_mm3"])
    return table.pivot(index="scan_id", columns="structure", values="volume_mm3") / 1000


@pytest.fixture(scope="module")
def scanners(data_folder: Path, tmp_path_factory: pytest.TempPathFactory, snakemake: Run) -> Results:
    """Study of the three DICOM series, in one folder."""
    study = tmp_path_factory.mktemp("scanners")
    snakemake(study, "--config", f"dicom={data_folder / 'dicom'}")
    return Results(study / "results")


def test_three_scanners_have_their_true_geometry(scanners: Results) -> None:
    spacing_mm = {}
    for scan_id in tsv.read(scanners.gate)["scan_id"]:
        zooms = nib.load(scanners.raw(scan_id)).header.get_zooms()
        spacing_mm[tuple(nib.load(scanners.raw(scan_id)).shape)] = float(max(zooms))
        synthetic = nib.load(scanners.synthetic(scan_id))
        assert nib.aff2axcodes(synthetic.affine) == ("R", "A", "S")
        assert synthetic.header.get_zooms() == (1, 1, 1)
    assert sorted(spacing_mm.values()) == pytest.approx([1.0, 4.8, 7.07], abs=0.08)


def test_three_scanners_give_plausible_heads(scanners: Results) -> None:
    table = volumes(scanners)
    assert len(table) == 3
    assert table["ICV"].between(1100, 1900).all(), table["ICV"]
    left, right = table["Left-Hippocampus"], table["Right-Hippocampus"]
    assert ((left - right).abs() / (left + right) * 2 < 0.25).all()


def test_three_scanners_give_plausible_hippocampi(scanners: Results) -> None:
    table = volumes(scanners)
    for side in ("Left-Hippocampus", "Right-Hippocampus"):
        assert table[side].between(2.0, 6.0).all(), table[side]


def test_contrasts_of_one_patient_agree_on_the_head(data_folder: Path, tmp_path: Path, snakemake: Run) -> None:
    source = tmp_path / "bids"
    for raw in sorted((data_folder / "ms" / "longitudinal").glob("raw_*/study*_*W.nii.gz")) + sorted(
        (data_folder / "ms" / "longitudinal").glob("raw_*/study*_FLAIR.nii.gz")
    ):
        if "_to_" in raw.name:
            continue
        patient, (study, contrast) = raw.parent.name[-2:], raw.name.split(".")[0].split("_")
        suffix = {"T1W": "T1w", "T2W": "T2w"}.get(contrast, contrast)
        folder = source / f"sub-{patient}" / f"ses-{study[-1]}" / "anat"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"sub-{patient}_ses-{study[-1]}_{suffix}.nii.gz").symlink_to(raw)
    (source / "dataset_description.json").write_text('{"Name": "Longitudinal MS", "BIDSVersion": "1.9.0"}')
    (source / "participants.tsv").write_text("participant_id\tage\tsex\nsub-04\t33\tF\nsub-20\t50\tF\n")
    # What follows the volumes is made of the other study.
    snakemake(tmp_path / "study", "results/tables/volumes.tsv", "--config", f"bids={source}")
    icv = volumes(Results(tmp_path / "study" / "results"))["ICV"]
    assert len(icv) == 5
    for _, of_patient in icv.groupby(icv.index.str[:6]):
        assert of_patient.max() / of_patient.min() < 1.05, icv
