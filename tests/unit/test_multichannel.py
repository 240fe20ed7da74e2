"""One synthetic T1 of several scans of a session: which scans, how they lie, and where its volumes end up."""

from __future__ import annotations

import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import ndimage

from analysis import batch, cli, multichannel, tsv, volumes
from analysis.errors import ConfigurationError
from analysis.layout import Results
from synthsr import labels
from synthsr.networks import UNet, UNetConfig
from synthsr.weights.storage import save_network

T1, FLAIR = "sub-1_ses-01_T1w", "sub-1_ses-01_FLAIR"
#: By how much the second scan's header is wrong.
SHIFT_MM = np.array([3.0, -4.0, 2.0])


def gate_table(rows: list[tuple[str, str, float]]) -> pd.DataFrame:
    """Scans with decision and score."""
    table = pd.DataFrame(rows, columns=["scan_id", "included", "score"])
    parts = table["scan_id"].str.split("_")
    table["participant_id"], table["session_id"], table["contrast"] = parts.str[0], parts.str[1], parts.str[-1]
    return table


def test_the_best_included_scan_of_every_contrast_is_taken() -> None:
    names = ["sub-1_ses-01_run-1_T1w", "sub-1_ses-01_run-2_T1w", FLAIR, "sub-2_ses-01_T1w", "sub-2_ses-01_FLAIR"]
    gate = gate_table(list(zip(names, ["yes", "yes", "yes", "yes", "no"], [0.8, 0.3, 0.5, 0.1, 0.1], strict=True)))
    (row, scans), *others = multichannel.choose(gate, ["FLAIR", "T1w"])
    assert not others
    assert scans == [FLAIR, "sub-1_ses-01_run-2_T1w"]
    assert (row["scan_id"], row["participant_id"], row["session_id"]) == ("sub-1_ses-01", "sub-1", "ses-01")


@pytest.fixture
def results(tmp_path: Path) -> Results:
    """A session of a T1 and a FLAIR in slices, of the same blobs, whose headers are some millimetres apart."""
    made = Results(tmp_path / "results")
    rng = np.random.default_rng(3)
    blobs = ndimage.gaussian_filter(rng.standard_normal((32, 36, 32)), 2.5)
    window = np.hanning(32)[:, None, None] * np.hanning(36)[:, None] * np.hanning(32)
    grey = (window * (1 + blobs / blobs.std())).clip(0)
    t1, flair = grey * 300, (grey.max() - grey)[:, :, ::2] * 80 * window[:, :, ::2] ** 0.25
    affine = np.diag([2.0, 2, 2, 1])
    moved = np.diag([2.0, 2, 4, 1])
    moved[:3, 3] += SHIFT_MM
    rows = []
    for scan_id, data, place in ((T1, t1, affine), (FLAIR, flair, moved)):
        path = made.raw(scan_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(data.astype(np.float32), place), path)
        contrast = scan_id.rsplit("_", 1)[1]
        rows.append({"scan_id": scan_id, "participant_id": "sub-1", "session_id": "ses-01", "contrast": contrast,
                     "status": batch.DONE, "reason": "", "path": path.relative_to(made.root).as_posix(),
                     "sha256": contrast, "key": ""})  # fmt: skip
    tsv.write(pd.DataFrame(rows), made.batch("convert", "0001"))
    tsv.write(gate_table([(T1, "yes", 0.1), (FLAIR, "yes", 0.2)]).assign(icv_mm3=1.5e6), made.gate)
    return made


@pytest.fixture
def weights(tmp_path: Path) -> tuple[str, str]:
    """A synthesiser of two scans and their reliability maps that answers with the second scan; a segmenter."""
    network = UNet(UNetConfig(4, features=1, levels=2, residual=1))
    for parameter in network.head.parameters():
        torch.nn.init.zeros_(parameter)
    save_network(network, tmp_path / "synthsr.safetensors", {"task": "synthsr", "reliability_maps": True})
    torch.manual_seed(0)
    segmenter = UNet(UNetConfig(1, len(labels.segmentation_numbers()), 2, 2, 2))
    save_network(segmenter, tmp_path / "segmentation.safetensors", {"task": "segmentation"})
    return str(tmp_path / "synthsr.safetensors"), str(tmp_path / "segmentation.safetensors")


def test_a_session_is_aligned_synthesised_measured_and_tabulated(results: Results, weights: tuple[str, str]) -> None:
    command = ["multichannel", "--out", str(results.root), "--weights", weights[0], "--contrasts", "T1w", "FLAIR",
               "--segmentation", weights[1], "--threads", "1"]  # fmt: skip
    assert cli.main(command) == 0
    row = batch.rows(results.multichannel_sessions)[0]
    assert row["status"] == batch.DONE, row["reason"]
    # The answer is the FLAIR, and lies where the T1 has the same anatomy: dark where the T1 is bright. By the headers
    # as they were the correlation is −0.51, at the right place −0.78 (of grey levels that end at 128).
    answer = nib.load(results.multichannel("sub-1_ses-01", "T1w.nii.gz"))
    truth = ndimage.zoom(nib.load(results.raw(T1)).get_fdata(), 2, order=1, grid_mode=True, mode="nearest")
    inner = tuple(slice(n // 4, -n // 4) for n in answer.shape)
    assert answer.shape == truth.shape
    assert np.corrcoef(answer.get_fdata()[inner].ravel(), truth[inner].ravel())[0, 1] < -0.75
    found = volumes.read(results.root / row["path"])
    assert found.quality["moved_FLAIR_mm"] == pytest.approx(np.linalg.norm(SHIFT_MM), abs=1.0)
    assert found.icv_mm3 > 0 and (results.multichannel("sub-1_ses-01", "dseg.nii.gz")).is_file()
    # Called again, nothing is made again.
    image = results.multichannel("sub-1_ses-01", "T1w.nii.gz")
    os.utime(image, (1, 1))
    assert cli.main(command) == 0 and image.stat().st_mtime == 1

    path = results.scan_volumes(T1)
    made = volumes.Provenance("embedded", "0.1.0")
    volumes.write(path, T1, volumes.ScanVolumes({"Left-Hippocampus": 3000.0, "ICV": 1.5e6}, made, {}))
    scan = {**batch.rows(results.batch("convert", "0001"))[0], "path": path.relative_to(results.root).as_posix()}
    tsv.write(pd.DataFrame([scan]), results.batch("segment", "0001"))
    tsv.write(pd.DataFrame({"scan_id": [T1], "spacing_mm": 2.0, "plane": "axial"}), results.series)
    person = {"participant_id": ["sub-1"], "session_id": "ses-01", "age_years": 60, "sex": "F"}
    tsv.write(pd.DataFrame(person), results.sessions)
    for given, expected in ((["--multichannel", str(results.multichannel_sessions)], found.volumes_mm3), ([], {})):
        assert cli.main(["tables", "--out", str(results.root), *given]) == 0
        table = tsv.read(results.session_volumes, numbers=["volume_mm3", "volume_multichannel_mm3"])
        sizes = table.set_index("structure").loc["Left-Hippocampus"]
        assert sizes["volume_mm3"] == 3000 and len(table) == 2
        wanted = expected.get("Left-Hippocampus", np.nan)
        assert sizes["volume_multichannel_mm3"] == pytest.approx(wanted, rel=1e-4, nan_ok=True)


def test_weights_of_another_number_of_scans_stop_the_job(
    results: Results, weights: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["multichannel", "--out", str(results.root), "--weights", weights[0], "--contrasts", "T1w",
               "--segmentation", weights[1]]  # fmt: skip
    assert cli.main(command) == ConfigurationError.exit_code
    assert "take 2 scans" in capsys.readouterr().err
