"""Tensor-based morphometry: planted differences, scipy's numbers, and poor input."""

import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis import cli, tsv
from synthsr import io
from synthsr.preprocess import Grid

SHAPE = (12, 14, 10)
GRID = Grid(SHAPE, np.array([[-3.0, 0, 0, 18], [0, 3, 0, -21], [0, 0, 3, -15], [0, 0, 0, 1]]))
GROUPS = ["AD"] * 14 + ["CN"] * 17 + ["MCI"] * 3


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Noise, with a block that shrinks in AD, and a border that is zero in everybody."""
    folder = tmp_path_factory.mktemp("tbm")
    rng = np.random.default_rng(0)
    values = rng.normal(0, 0.1, (len(GROUPS), *SHAPE)).astype(np.float32)
    values[:14, 3:6, 4:8, 3:6] -= 0.3
    values[:, 0] = 0
    for index, data in enumerate(values):
        io.save(data, GRID, folder / "maps" / f"sub-{index:02d}_logjac.nii.gz")
    people = pd.DataFrame({"participant_id": [f"sub-{i:02d}" for i in range(len(GROUPS))], "diagnosis": GROUPS})
    tsv.write(people, folder / "people.tsv")
    return folder, values.astype(float)


def call(folder, out, *more, people=None, groups=("AD", "CN")) -> int:
    return cli.main(["tbm", str(folder / "maps"), "--participants", str(people or folder / "people.tsv"), "--groups",
                     *groups, "--out", str(out), *more])  # fmt: skip


def image(path) -> np.ndarray:
    return np.asanyarray(nib.load(path).dataobj)


def test_maps_are_scipys_and_find_the_planted_block(study, tmp_path):
    folder, values = study
    assert call(folder, tmp_path) == 0
    z, p_fdr, auroc = (image(tmp_path / f"tbm_{name}.nii.gz") for name in ("z", "p_fdr", "auroc"))
    patients, controls = values[:14], values[14:31]
    for voxel in np.random.default_rng(1).integers((1, 0, 0), SHAPE, (40, 3)):
        at = (slice(None), *voxel)
        theirs = stats.mannwhitneyu(patients[at], controls[at], method="asymptotic", use_continuity=False)
        assert 2 * stats.norm.sf(abs(z[tuple(voxel)])) == pytest.approx(theirs.pvalue, rel=1e-4)
        assert auroc[tuple(voxel)] == pytest.approx(theirs.statistic / (14 * 17), rel=1e-5)
    difference = np.median(patients, axis=0) - np.median(controls, axis=0)
    found = image(tmp_path / "tbm_median_difference.nii.gz")
    np.testing.assert_allclose(found[1:], difference[1:], atol=1e-6)
    block = np.zeros(SHAPE, bool)
    block[3:6, 4:8, 3:6] = True
    assert (p_fdr[block] < 0.05).mean() > 0.9 and (p_fdr[~block] < 0.05).mean() < 0.01
    expected = stats.false_discovery_control(2 * stats.norm.sf(np.abs(z[1:].astype(float))), axis=None)
    np.testing.assert_allclose(p_fdr[1:].ravel(), expected, rtol=1e-3)
    assert (z[0] == 0).all() and (p_fdr[0] == 1).all() and (auroc[0] == 0.5).all()
    content = json.loads((tmp_path / "tbm.json").read_text())
    assert content["groups"] == {"AD": 14, "CN": 17} and content["n_voxels_tested"] == 11 * 14 * 10
    assert content["n_voxels_CN_larger_significant_fdr"] > 30
    assert any("140 voxels with the same value" in note for note in content["notes"])
    assert any("3 of 34 images in neither group" in note for note in content["notes"])
    maxima = tsv.read(tmp_path / "tbm_maxima.tsv", numbers=("x_mm", "y_mm", "z_mm", "z"))
    lowest = maxima[maxima["direction"] == "second larger"].iloc[0]
    assert 3 <= lowest["x_mm"] <= 9 and -9 <= lowest["y_mm"] <= 0 and -6 <= lowest["z_mm"] <= 0
    assert lowest["z"] == pytest.approx(z.min(), rel=1e-4)


def test_blocks_and_swapped_groups_change_nothing_but_the_sign(study, tmp_path, monkeypatch):
    from analysis.statistics import voxelwise

    assert call(study[0], tmp_path / "one") == 0
    monkeypatch.setattr(voxelwise, "BLOCK_VALUES", 500)
    assert call(study[0], tmp_path / "two", groups=("CN", "AD")) == 0
    np.testing.assert_allclose(image(tmp_path / "one" / "tbm_z.nii.gz"), -image(tmp_path / "two" / "tbm_z.nii.gz"))
    assert not [path for path in (tmp_path / "one").iterdir() if path.name.startswith("tmp")]


def test_mask_limits_what_is_tested(study, tmp_path):
    mask = np.zeros(SHAPE, np.uint8)
    mask[2:7] = 1
    io.save(mask, GRID, tmp_path / "mask.nii.gz")
    assert call(study[0], tmp_path / "out", "--mask", str(tmp_path / "mask.nii.gz")) == 0
    assert json.loads((tmp_path / "out" / "tbm.json").read_text())["n_voxels_tested"] == mask.sum()
    io.save(mask[:-1], Grid((11, 14, 10), GRID.affine), tmp_path / "mask.nii.gz")
    assert call(study[0], tmp_path / "out", "--mask", str(tmp_path / "mask.nii.gz")) == 65
    io.save(0 * mask, GRID, tmp_path / "mask.nii.gz")
    assert call(study[0], tmp_path / "out", "--mask", str(tmp_path / "mask.nii.gz")) == 65


@pytest.mark.parametrize(
    ("columns", "groups", "message"),
    [
        ({}, ("AD", "FTD"), "diagnosis is FTD for 0 of the 34 images, 3 are the least"),
        ({"diagnosis": "AD"}, ("AD", "CN"), "values of the images' participants: AD"),
        ({"diagnosis": "n/a"}, ("AD", "CN"), "diagnosis is AD for 0"),
        ({}, ("AD", "AD"), "two different groups"),
        ({"participant_id": "sub-00"}, ("AD", "CN"), "lines 2 and 3"),
    ],
)
def test_poor_groups_are_refused(study, tmp_path, capsys, columns, groups, message):
    folder = study[0]
    tsv.write(tsv.read(folder / "people.tsv").assign(**columns), tmp_path / "people.tsv")
    assert call(folder, tmp_path / "out", people=tmp_path / "people.tsv", groups=groups) == 65
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_one_subject_nan_and_identical_images(study, tmp_path, capsys):
    folder, values = study
    io.save(values[0].astype(np.float32), GRID, tmp_path / "maps" / "sub-00_logjac.nii.gz")
    assert call(tmp_path, tmp_path / "out", people=folder / "people.tsv") == 65
    for index in range(31):
        io.save(values[0].astype(np.float32), GRID, tmp_path / "maps" / f"sub-{index:02d}_logjac.nii.gz")
    assert call(tmp_path, tmp_path / "out", people=folder / "people.tsv") == 0
    assert json.loads((tmp_path / "out" / "tbm.json").read_text())["n_voxels_tested"] == 0
    assert not image(tmp_path / "out" / "tbm_z.nii.gz").any()
    bad = values[0].astype(np.float32)
    bad[5, 5, 5] = np.nan
    io.save(bad, GRID, tmp_path / "maps" / "sub-03_logjac.nii.gz")
    assert call(tmp_path, tmp_path / "out", people=folder / "people.tsv") == 65
    assert "sub-03_logjac.nii.gz: 1 voxels are NaN" in capsys.readouterr().err
