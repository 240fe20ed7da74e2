"""Arms of a comparison: cubic interpolation in place of SynthSR, and the volumes of one kind of scan."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch

from analysis import batch, cli, interpolate, layout, tsv
from analysis.layout import Results, sidecar_of
from synthsr import labels, preprocess
from synthsr.networks import UNet, UNetConfig
from synthsr.weights.storage import save_network

#: Slices 4 mm apart along the third axis; stored as LAS, as PIR, and oblique.
THICK = np.array([[1.0, 0, 0, -12], [0, 1, 0, -11], [0, 0, 4, -14], [0, 0, 0, 1]])
MIRRORED = np.diag([-1.0, 1, 1, 1])


def hill(points: np.ndarray) -> np.ndarray:
    """A polynomial of third degree in every coordinate (mm), which cubic splines reproduce exactly."""
    x, y, z = np.moveaxis(points / 16, -1, 0)
    return 50 + 20 * x - 9 * y**2 + 12 * z - 14 * z**3 + 6 * x * z**2


def sampled(shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
    voxels = np.moveaxis(np.indices(shape), 0, -1)
    return hill(voxels @ affine[:3, :3].T + affine[:3, 3]).astype(np.float32)


def oblique() -> np.ndarray:
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(0.2), -np.sin(0.2)], [np.sin(0.2), np.cos(0.2)]]
    return turn @ THICK


def stored(affine: np.ndarray, shape: tuple[int, int, int], codes: str) -> tuple[np.ndarray, tuple[int, ...]]:
    """The same field of view, its voxels stored in another order."""
    change = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(affine), nib.orientations.axcodes2ornt(codes)
    )
    turned = nib.orientations.apply_orientation(np.empty(shape), change)
    return affine @ nib.orientations.inv_ornt_aff(change, shape), turned.shape


@pytest.mark.parametrize(
    ("affine", "codes"), [(THICK, "RAS"), (THICK, "LAS"), (THICK, "PIR"), (THICK, "SLA"), (oblique(), "LIP")]
)
def test_cubic_interpolation_is_exact_where_it_must_be(affine, codes):
    """However the voxels are stored, the value at a point of the world is the polynomial's (linearly, 0.4 are lost)."""
    affine, shape = stored(affine, (24, 22, 8), codes)
    data = sampled(shape, affine)
    _, grid = preprocess.prepare(data, affine)
    made = interpolate.on_grid(data, affine, grid)
    assert made.shape == grid.shape and made.dtype == np.float32
    inside = np.zeros(grid.shape, bool)
    inside[2:-2, 2:-2, 2:-2] = True
    expected = sampled(grid.shape, grid.affine).clip(data.min(), data.max())
    np.testing.assert_allclose(made[inside], expected[inside], atol=1e-3)


def test_a_1_mm_scan_is_left_as_it_is():
    data = np.random.default_rng(0).uniform(0, 100, (9, 8, 7)).astype(np.float32)
    _, grid = preprocess.prepare(data, np.eye(4))
    np.testing.assert_allclose(interpolate.on_grid(data, np.eye(4), grid), data, atol=1e-4)


def test_few_slices_and_overshoot_stay_within_the_scan():
    data = np.zeros((6, 6, 3), np.float32)
    data[..., 1] = 80
    affine = np.diag([1.0, 1, 6, 1])
    _, grid = preprocess.prepare(data, affine)
    made = interpolate.on_grid(data, affine, grid)
    assert made.shape == (6, 6, 18) and made.min() == 0 and made.max() <= 80


def write_scans(root: Path, contrasts: list[str]) -> Results:
    """Two scans as the stage convert leaves them."""
    results, rng, rows = Results(root), np.random.default_rng(0), []
    for number, contrast in enumerate(contrasts, start=1):
        scan_id = f"sub-{number}_ses-01_{contrast}"
        path = results.raw(scan_id)
        path.parent.mkdir(parents=True)
        data = rng.uniform(-1000 if contrast == "ct" else 0, 1000, (24, 24, 6)).astype(np.float32)
        nib.save(nib.Nifti1Image(data, THICK), path)
        row = dict.fromkeys(batch.COLUMNS, "x") | {"scan_id": scan_id, "contrast": contrast, "status": batch.DONE}
        rows.append(row | {"path": path.relative_to(root).as_posix()})
    tsv.write(pd.DataFrame(rows), results.batch("convert", "0001"))
    return results


def test_the_cubic_arm_needs_no_network_and_says_what_it_is(tmp_path):
    results = write_scans(tmp_path / "results", ["T2w", "ct"])
    options = ["--out", str(results.root), "--threads", "1"]
    table = str(results.batch("convert", "0001"))
    assert cli.main(["synthesise", table, "--synthesiser", "cubic", "--weights", "none/at/all", *options]) == 0
    made = results.interpolated("sub-1_ses-01_T2w")
    assert made.name == "sub-1_ses-01_desc-cubic_T2w.nii.gz" and nib.load(made).shape == (24, 24, 24)
    facts = json.loads(sidecar_of(made).read_text())
    assert facts["Synthetic"] is False and facts["Sources"] == ["sub-1_ses-01_T2w.nii.gz"]
    assert float(nib.load(made).get_fdata().max()) > 900
    ct = nib.load(results.interpolated("sub-2_ses-01_ct")).get_fdata()
    assert (ct.min(), ct.max()) == (0, 80)

    torch.manual_seed(0)
    save_network(UNet(UNetConfig(1, len(labels.segmentation_numbers()), 2, 2, 2)), tmp_path / "s.safetensors", {})
    again = ["segment", str(results.batch("synthesise", "0001")), "--weights", str(tmp_path / "s.safetensors")]
    assert cli.main([*again, "--device", "cpu", *options]) == 0
    rows = batch.read(results.batch("segment", "0001"))
    assert set(rows["status"]) == {batch.DONE}
    names = {Path(path).name for path in rows["path"]}
    assert names == {f"sub-{n}_ses-01_mod-{kind}_desc-cubic_volumes.tsv" for n, kind in ((1, "T2w"), (2, "ct"))}
    assert results.segmentation("sub-1_ses-01_T2w", description="cubic").is_file()

    times = {path: path.stat().st_mtime_ns for path in results.root.rglob("*.nii.gz")}
    assert cli.main(["synthesise", table, "--synthesiser", "cubic", *options]) == 0
    assert {path: path.stat().st_mtime_ns for path in results.root.rglob("*.nii.gz")} == times


def test_names_tell_what_made_an_image():
    results = Results(Path("r"))
    for image, expected in ((results.synthetic("sub-1_T2w"), "synthsr"), (results.interpolated("sub-1_T2w"), "cubic")):
        assert layout.description_of(image.as_posix()) == expected


@pytest.fixture
def volumes(tmp_path: Path) -> Path:
    scans = [("a", "T1w", 1.0, 10), ("b", "T1w", 5.0, 12), ("c", "T1w", 5.0, 20), ("d", "FLAIR", 5.0, 40)]
    rows = [
        {"participant_id": "sub-1", "session_id": "ses-01", "scan_id": scan, "structure": structure,
         "volume_mm3": factor * volume, "contrast": contrast, "spacing_mm": spacing}
        for scan, contrast, spacing, volume in scans for structure, factor in (("ICV", 100), ("Left-Hippocampus", 1))
    ]  # fmt: skip
    tsv.write(pd.DataFrame(rows), tmp_path / "volumes.tsv")
    return tmp_path / "volumes.tsv"


@pytest.mark.parametrize(
    ("options", "expected", "n_scans"),
    [
        (["--contrast", "T1w", "--spacing-mm", "0", "2"], 10, "1"),
        (["--contrast", "T1w", "--spacing-mm", "5", "7"], 16, "2"),
        (["--contrast", "T1w"], 12, "3"),
        (["--spacing-mm", "1", "5"], 10, "1"),
        ([], 16, "4"),
    ],
)
def test_an_arm_is_the_median_of_its_scans(volumes, tmp_path, options, expected, n_scans):
    assert cli.main(["arm", str(volumes), *options, "--out", str(tmp_path / "arm.tsv")]) == 0
    table = tsv.read(tmp_path / "arm.tsv", numbers=["volume_mm3"]).set_index("structure")
    assert table.loc["Left-Hippocampus", "volume_mm3"] == expected
    assert table.loc["ICV", "volume_mm3"] == 100 * expected and table.loc["ICV", "n_scans"] == n_scans


def test_an_arm_without_scans_is_named_with_what_there_is(volumes, tmp_path, capsys):
    out = ["--out", str(tmp_path / "arm.tsv")]
    assert cli.main(["arm", str(volumes), "--contrast", "PDw", "--spacing-mm", "2", "4", *out]) == 65
    message = capsys.readouterr().err
    assert "no PDw scans with slices 2 to under 4 mm apart" in message and "T1w 1 to 5 mm" in message
    assert cli.main(["arm", str(volumes), "--spacing-mm", "4", "2", *out]) == 78
    assert not (tmp_path / "arm.tsv").exists()
    tsv.write(tsv.read(volumes).head(0), volumes)
    assert cli.main(["arm", str(volumes), "--contrast", "PDw", *out]) == 0
    assert tsv.read(tmp_path / "arm.tsv").empty
