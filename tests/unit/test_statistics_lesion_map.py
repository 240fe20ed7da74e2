"""Lesion maps: sides, counts, regions, classes, planted symptoms, and every kind of poor input."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import stats

from analysis import cli, tsv
from analysis.statistics import imageset, lesion_map
from synthsr import io
from synthsr.preprocess import Grid

SHAPE = (16, 18, 14)
#: Stored from right to left: the first voxels are the right side's. x = 0 at index 8.
GRID = Grid(SHAPE, np.array([[-2.0, 0, 0, 16], [0, 2, 0, -18], [0, 0, 2, -14], [0, 0, 0, 1]]))
N = 40


def write_mask(folder: Path, name: str, mask: np.ndarray, grid: Grid = GRID) -> Path:
    path = folder / f"sub-{name}_lesion.nii.gz"
    io.save(mask, grid, path)
    return path


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Lesions of a left block A in half of the people, which cost points, and of random blocks, which do not."""
    folder = tmp_path_factory.mktemp("masks")
    rng = np.random.default_rng(0)
    masks, scores = [], []
    for person in range(N):
        mask = np.zeros(SHAPE, np.uint8)
        i, j, k = rng.integers(0, (5, 12, 8))
        size = 2 + person % 3
        mask[i : i + 4, j : j + 4, k : k + size] = 1
        if person % 2:
            mask[10:13, 4:8, 3:6] = 1
        masks.append(mask)
        scores.append(round(4 * (person % 2) + 3 * rng.exponential(), 1))
        write_mask(folder, f"{person:02d}", mask)
    names = [f"sub-{person:02d}" for person in range(N)]
    tsv.write(pd.DataFrame({"participant_id": names, "points": scores}), folder / "people.tsv")
    return folder, np.stack(masks).astype(bool), np.array(scores)


def call(folder: Path, out: Path, *more: str, people: str = "people.tsv") -> int:
    given = ["--participants", str(folder / people), "--score", "points"] if people else []
    return cli.main(["lesion-map", str(folder), "--out", str(out), "--permutations", "200", *given, *more])


def image(path: Path) -> np.ndarray:
    return np.asanyarray(nib.load(path).dataobj)


def test_counts_sides_and_maxima(cohort, tmp_path):
    folder, masks, _ = cohort
    assert call(folder, tmp_path, people="") == 0
    np.testing.assert_array_equal(image(tmp_path / "lesion_count.nii.gz"), masks.sum(axis=0))
    np.testing.assert_allclose(image(tmp_path / "lesion_probability.nii.gz"), masks.mean(axis=0), rtol=1e-6)
    np.testing.assert_array_equal(nib.load(tmp_path / "lesion_count.nii.gz").affine, GRID.affine)
    table = tsv.read(tmp_path / "lesions.tsv", numbers=("left_mm3", "right_mm3", "volume_mm3"))
    # Indices above 8 lie left of the midplane, which is the plane of index 8.
    assert table["left_mm3"].tolist() == (8 * masks[:, 9:].sum(axis=(1, 2, 3))).tolist()
    assert table["right_mm3"].tolist() == (8 * masks[:, :8].sum(axis=(1, 2, 3))).tolist()
    assert table["volume_mm3"].tolist() == (8 * masks.sum(axis=(1, 2, 3))).tolist()
    assert table["participant_id"].tolist() == [f"sub-{person:02d}" for person in range(N)]
    top = tsv.read(tmp_path / "lesion_maxima.tsv", numbers=("value", "x_mm", "y_mm", "z_mm")).iloc[0]
    assert (top["value"], top["x_mm"], top["z_mm"]) == (20, -6, -6) and -10 <= top["y_mm"] <= -4
    assert not (tmp_path / "symptom_z.nii.gz").exists()
    assert (tmp_path / "lesion_map.png").stat().st_size > 10_000


def test_t_map_is_a_direct_computation(cohort, tmp_path):
    folder, masks, scores = cohort
    assert call(folder, tmp_path, "--test", "t", "--minimum", "5") == 0
    t, p = image(tmp_path / "symptom_t.nii.gz"), image(tmp_path / "symptom_p.nii.gz")
    tested = (masks.sum(axis=0) >= 5) & (masks.sum(axis=0) <= N - 5)
    assert (t[~tested] == 0).all() and (p[~tested] == 1).all() and tested.sum() > 50
    for voxel in np.argwhere(tested)[:: tested.sum() // 40]:
        lesioned = masks[(slice(None), *voxel)]
        theirs = stats.ttest_ind(scores[lesioned], scores[~lesioned])
        assert t[tuple(voxel)] == pytest.approx(theirs.statistic, rel=1e-5)
        assert p[tuple(voxel)] == pytest.approx(theirs.pvalue, rel=1e-4)
    adjusted = stats.false_discovery_control(p[tested].astype(float))
    np.testing.assert_allclose(image(tmp_path / "symptom_p_fdr.nii.gz")[tested], adjusted, rtol=1e-4)


def test_planted_symptom_is_found_where_it_is_by_the_rank_test(cohort, tmp_path):
    folder, masks, scores = cohort
    assert call(folder, tmp_path) == 0
    z, p_fwe = image(tmp_path / "symptom_z.nii.gz"), image(tmp_path / "symptom_p_fwe.nii.gz")
    assert (p_fwe[10:13, 4:8, 3:6] < 0.05).all() and (z[10:13, 4:8, 3:6] > 2.5).all()
    lesioned = masks[:, 11, 5, 4]
    theirs = stats.mannwhitneyu(scores[lesioned], scores[~lesioned], method="asymptotic", use_continuity=False)
    assert image(tmp_path / "symptom_p.nii.gz")[11, 5, 4] == pytest.approx(theirs.pvalue, rel=1e-4)
    content = json.loads((tmp_path / "lesion_map.json").read_text())
    assert content["symptom"]["n_participants"] == content["n_masks"] == N
    pearson, spearman = content["volume_and_score"]
    volume = masks.sum(axis=(1, 2, 3))
    assert pearson["r"] == pytest.approx(stats.pearsonr(volume, scores).statistic)
    assert pearson["low"] == pytest.approx(stats.pearsonr(volume, scores).confidence_interval().low)
    assert spearman["r"] == pytest.approx(stats.spearmanr(volume, scores).statistic)
    assert spearman["low"] < spearman["r"] < spearman["high"]


def test_volume_is_corrected_for_as_in_a_linear_model(cohort, tmp_path):
    folder, masks, scores = cohort
    assert call(folder, tmp_path, "--test", "t", "--correct-volume") == 0
    design = np.column_stack([np.ones(N), masks.sum(axis=(1, 2, 3)), masks[:, 11, 5, 4]]).astype(float)
    expected = sm.OLS(scores, design).fit().tvalues[2]
    assert image(tmp_path / "symptom_t.nii.gz")[11, 5, 4] == pytest.approx(expected, rel=1e-5)


def test_same_numbers_again(cohort, tmp_path):
    folder = cohort[0]
    for name in ("one", "two"):
        assert call(folder, tmp_path / name) == 0
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_classes_and_regions(tmp_path):
    first, second = np.zeros((2, *SHAPE), np.uint8)
    first[2:4, 2, 2] = 1
    first[2:4, 3, 2] = 4
    second[2, 2, 2] = 4
    for name, mask in (("a", first), ("b", second)):
        write_mask(tmp_path / "masks", name, mask)
    atlas = np.zeros(SHAPE, np.int16)
    atlas[2], atlas[3] = 7, 9
    io.save(atlas, GRID, tmp_path / "atlas.nii.gz")
    (tmp_path / "names.txt").write_text("7 near\n9 far\n")
    more = ["--atlas", str(tmp_path / "atlas.nii.gz"), "--atlas-names", str(tmp_path / "names.txt")]
    assert call(tmp_path / "masks", tmp_path / "out", *more, "--classes", "1=core", "4=rim", "5=none", people="") == 0
    out = tmp_path / "out"
    assert image(out / "lesion-rim_count.nii.gz").sum() == 3 and image(out / "lesion_count.nii.gz")[2, 2, 2] == 2
    assert image(out / "lesion-none_count.nii.gz").sum() == 0
    volumes = tsv.read(out / "lesions.tsv", numbers=("core_mm3", "rim_mm3", "none_mm3", "volume_mm3"))
    assert volumes["core_mm3"].tolist() == [16, 0] and volumes["rim_mm3"].tolist() == [16, 8]
    assert volumes["volume_mm3"].tolist() == [32, 8] and volumes["none_mm3"].tolist() == [0, 0]
    numbers = ("n_voxels", "n_participants", "mean_probability", "max_probability", "lesion_share")
    regions = tsv.read(out / "lesion_regions.tsv", numbers=numbers).set_index(["class", "region"])
    near = regions.loc[("lesion", "near")]
    assert near["n_participants"] == 2 and near["max_probability"] == 1 and near["n_voxels"] == 18 * 14
    assert near["mean_probability"] == pytest.approx(3 / 2 / (18 * 14), rel=1e-5)
    assert near["lesion_share"] == pytest.approx(0.6) and regions.loc[("core", "far"), "n_participants"] == 1
    assert call(tmp_path / "masks", tmp_path / "out", "--classes", "1=core", people="") == 65
    # Without names every number found is a class.
    assert call(tmp_path / "masks", tmp_path / "plain", people="") == 0
    assert image(tmp_path / "plain" / "lesion-4_count.nii.gz").sum() == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda mask: mask * 0.5, "interpolated mask"),
        (lambda mask: np.where(mask > 0, np.nan, 0), "NaN or infinite"),
        (lambda mask: mask[:-1], "is not that of"),
        (lambda mask: -mask, "whole numbers from 0"),
    ],
)
def test_unusable_masks_are_named(cohort, tmp_path, capsys, change, message):
    folder = tmp_path / "masks"
    for person in range(3):
        write_mask(folder, str(person), cohort[1][person].astype(np.float32))
    mask = change(cohort[1][3].astype(np.float32)).astype(np.float32)
    write_mask(folder, "odd", mask, Grid(mask.shape, GRID.affine))
    assert call(folder, tmp_path / "out", people="") == 65
    error = capsys.readouterr().err
    assert "sub-odd_lesion.nii.gz" in error and message in error
    assert not (tmp_path / "out").exists()


def change_table(folder: Path, out: Path, **columns) -> str:
    """Another table of people, beside the masks' folder."""
    table = tsv.read(folder / "people.tsv").assign(**columns)
    tsv.write(table, out)
    return str(out)


def test_poor_scores_are_refused_by_name(cohort, tmp_path, capsys):
    folder = cohort[0]
    for columns, message in (
        ({"points": 3}, "points is 3 for all 40"),
        ({"points": "n/a"}, "no points for any of the 40 masks"),
        ({"participant_id": "sub-00"}, "lines 2 and 3 are both for participant_id sub-00"),
        ({"points": "many"}, "'many' is not a number"),
        ({"participant_id": [f"x{i}" for i in range(N)]}, "the table's first participant is x0"),
    ):
        assert call(folder, tmp_path / "out", people=change_table(folder, tmp_path / "bad.tsv", **columns)) == 65
        assert message in capsys.readouterr().err
    assert cli.main(["lesion-map", str(folder), "--out", str(tmp_path / "out"), "--score", "points"]) == 78
    assert not (tmp_path / "out").exists()


def test_missing_scores_are_left_out_and_said(cohort, tmp_path):
    folder, masks, scores = cohort
    points = [f"{score}" if place % 4 else "n/a" for place, score in enumerate(scores)]
    points[1] = "inf"
    assert call(folder, tmp_path, people=change_table(folder, tmp_path / "people.tsv", points=points)) == 0
    content = json.loads((tmp_path / "lesion_map.json").read_text())
    assert content["symptom"]["n_participants"] == 29
    assert any("11 masks without points" in note for note in content["notes"])
    known = np.array([point not in ("n/a", "inf") for point in points])
    maxima = tsv.read(tmp_path / "lesion_maxima.tsv", numbers=("n_participants", "x_mm", "y_mm", "z_mm"))
    for which, counted in (("symptom_z", masks[known]), ("lesion_count", masks)):
        top = maxima[maxima["map"] == which].iloc[0]
        i, j, k = np.rint(np.linalg.solve(GRID.affine, [top["x_mm"], top["y_mm"], top["z_mm"], 1])[:3]).astype(int)
        assert top["n_participants"] == counted[:, i, j, k].sum()


def test_too_few_people_give_counts_and_a_note(cohort, tmp_path):
    folder = tmp_path / "masks"
    for person in range(4):
        write_mask(folder, f"{person:02d}", cohort[1][person].astype(np.uint8))
    write_mask(folder, "04", np.zeros(SHAPE, np.uint8))
    assert call(folder, tmp_path / "out", people=str(cohort[0] / "people.tsv")) == 0
    content = json.loads((tmp_path / "out" / "lesion_map.json").read_text())
    assert content["symptom"] is None and any("no voxel is lesioned in 10 or more" in note for note in content["notes"])
    assert any("1 of the 5 masks is empty" in note for note in content["notes"])
    assert not (tmp_path / "out" / "symptom_z.nii.gz").exists()


def test_one_mask_or_only_empty_ones(cohort, tmp_path):
    write_mask(tmp_path / "one", "00", cohort[1][0].astype(np.uint8))
    assert call(tmp_path / "one", tmp_path / "out", people="") == 0
    assert image(tmp_path / "out" / "lesion_count.nii.gz").max() == 1
    assert call(tmp_path / "one", tmp_path / "out1", people=str(cohort[0] / "people.tsv")) == 65
    write_mask(tmp_path / "empty", "00", np.zeros(SHAPE, np.uint8))
    assert call(tmp_path / "empty", tmp_path / "out2", people="") == 0
    assert tsv.read(tmp_path / "out2" / "lesion_maxima.tsv").empty


def test_wrong_classes_are_named(cohort, tmp_path, capsys):
    for given in ("core", "0=core", "1=a_b", "1=lesion"):
        assert call(cohort[0], tmp_path / "out", "--classes", given, people="") == 78
        assert given in capsys.readouterr().err


def test_left_is_left_in_real_data(data_folder):
    """The arterial atlas names its sides; the files are stored from right to left."""
    folder = data_folder / "soop"
    grid = imageset.common_grid([folder / "ArterialAtlas136.nii.gz", *sorted((folder / "NIfTI").iterdir())[:3]])
    assert nib.aff2axcodes(grid.affine) == ("L", "A", "S")
    side = lesion_map.sides(grid)
    atlas = lesion_map.read_atlas(folder / "ArterialAtlas136.nii.gz", grid)
    names = imageset.label_names(folder / "ArterialAtlas136.txt")
    assert len(names) == 32
    for number, name in names.items():
        mean = side[atlas == number].mean()
        assert mean < -0.5 if name.endswith("left") else mean > 0.5


@pytest.mark.parametrize(
    ("pattern", "number"), [("soop/NIfTI/*.nii.gz", 20), ("ms/cs/patient*/GOLD_STANDARD*.nii.gz", 15)]
)
def test_real_masks_are_counted_exactly(data_folder, tmp_path, pattern, number):
    """Masks in one space need no transform: every voxel's count is that of the files themselves."""
    masks = sorted(data_folder.glob(pattern))[:number]
    assert len(masks) == number
    assert cli.main(["lesion-map", *map(str, masks), "--out", str(tmp_path)]) == 0
    direct = np.sum([np.asarray(nib.load(mask).dataobj) > 0 for mask in masks], axis=0)
    assert (np.asarray(nib.load(tmp_path / "lesion_count.nii.gz").dataobj) == direct).all()
