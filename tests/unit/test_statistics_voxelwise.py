"""Voxel-wise tests against scipy and statsmodels, permutation, and what is common to sets of images."""

import runpy
from pathlib import Path

import null_rates
import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats

from analysis.errors import DataError
from analysis.statistics import coding, imageset, voxelwise
from synthsr import io
from synthsr.preprocess import Grid

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "null_voxelwise.py"
#: Stored from right to left, as FSL's and SPM's templates are.
LAS = np.array([[-2.0, 0, 0, 21], [0, 2, 0, -30], [0, 0, 2, -10], [0, 0, 0, 1]])


@pytest.mark.parametrize("ties", [False, True])
def test_rank_sum_is_scipys(ties):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(200, 31))
    values = np.round(2 * values) if ties else values
    first = rng.permutation(31) < 12
    z, auroc = voxelwise.rank_sum(values, first)
    theirs = stats.mannwhitneyu(values[:, first], values[:, ~first], axis=1, method="asymptotic", use_continuity=False)
    np.testing.assert_allclose(voxelwise.two_sided_p(z), theirs.pvalue, rtol=1e-10)
    np.testing.assert_allclose(auroc, theirs.statistic / (12 * 19))
    np.testing.assert_array_equal(np.sign(z), np.sign(np.round(auroc - 0.5, 12)))


def test_rank_sum_of_equal_values_is_unknown_and_of_separate_groups_certain():
    z, auroc = voxelwise.rank_sum(np.array([[1.0, 1, 1, 1], [5, 6, 1, 2]]), np.array([True, True, False, False]))
    assert np.isnan(z[0]) and auroc.tolist() == [0.5, 1.0]


def test_correlations_give_the_t_of_the_linear_model():
    rng = np.random.default_rng(1)
    covariates = rng.normal(size=(40, 2))
    score = rng.normal(size=40) + covariates @ [1, -2]
    voxels = (rng.normal(size=(30, 40)) + covariates[:, 0] > 0).astype(np.uint8)
    basis = voxelwise.orthonormal(covariates)
    t = voxelwise.t_of(voxelwise.correlations(voxels, score[None], basis)[:, 0], 40 - 4)
    for voxel, found in zip(voxels, t, strict=True):
        model = sm.OLS(score, np.column_stack([np.ones(40), covariates, voxel])).fit()
        assert found == pytest.approx(model.tvalues[3])
        assert voxelwise.two_sided_t_p(np.array([found]), 36)[0] == pytest.approx(model.pvalues[3])


def test_correlations_without_covariates_are_students_and_wilcoxons():
    rng = np.random.default_rng(2)
    score, lesioned = np.round(3 * rng.exponential(size=50)), rng.permutation(50) < 14
    basis = voxelwise.orthonormal(np.empty((50, 0)))
    t = voxelwise.t_of(voxelwise.correlations(lesioned[None], score[None], basis), 48).item()
    assert t == pytest.approx(stats.ttest_ind(score[lesioned], score[~lesioned]).statistic)
    z = voxelwise.correlations(lesioned[None], stats.rankdata(score)[None], basis).item() * np.sqrt(49)
    theirs = stats.mannwhitneyu(score[lesioned], score[~lesioned], method="asymptotic", use_continuity=False)
    assert voxelwise.two_sided_p(np.array(z)) == pytest.approx(theirs.pvalue)


def test_covariates_that_add_nothing_do_not_count():
    x = np.random.default_rng(0).normal(size=(20, 1))
    assert voxelwise.orthonormal(np.hstack([x, 3 * x + 1, np.full((20, 1), 7.0)])).shape == (20, 2)
    explained = voxelwise.correlations(2 * x.T + 5, x.T, voxelwise.orthonormal(x))
    assert explained.item() == 0


def test_largest_correlations_are_those_of_every_permutation():
    """Few enough people that the permutations' distribution is known exactly."""
    from itertools import permutations

    rows = np.array([[1, 1, 0, 0, 0], [0, 1, 0, 1, 0], [1, 0, 1, 1, 0]], dtype=np.uint8)
    score = np.array([1.0, 2, 4, 7, 11])
    basis = voxelwise.orthonormal(np.empty((5, 0)))
    exact = [np.abs([np.corrcoef(row, order)[0, 1] for row in rows]).max() for order in permutations(score)]
    drawn = voxelwise.largest_correlations(rows, score, basis, permutations=4000, seed=0)
    assert set(np.round(drawn, 9)) <= set(np.round(exact, 9))
    for share in (0.5, 0.9):
        assert np.quantile(drawn, share) == pytest.approx(np.quantile(exact, share), abs=0.02)
    again = voxelwise.largest_correlations(rows, score, basis, permutations=4000, seed=0)
    assert (again == drawn).all()


def test_family_wise_p_counts_the_identity_and_ties():
    largest = np.array([0.1, 0.2, 0.3, 0.4])
    np.testing.assert_allclose(voxelwise.family_wise_p(np.array([-0.9, 0.4, 0.25]), largest), [0.2, 0.4, 0.6])


def test_nothing_is_found_at_about_the_nominal_rate():
    """Of 80 cohorts, within 3.3 standard errors of 5 % (the whole run: benchmarks/null_voxelwise.py)."""
    experiments = runpy.run_path(str(SCRIPT))["EXPERIMENTS"]
    found = null_rates.rates(experiments, 80, 3)
    rejected = {(name, test): rate for name, test, rate in found if "not kept" not in name}
    assert len(rejected) >= 15
    assert {test: rate for test, rate in rejected.items() if rate > 0.131} == {}
    assert 0.02 < np.mean(list(rejected.values())) < 0.07


def test_participants_are_named_by_file_or_folder(tmp_path):
    def named(*names):
        return imageset.participants([tmp_path / name for name in names])

    assert named("wsub-01_x.nii.gz", "wsub-2_x.nii.gz") == ["sub-01", "sub-2"]
    assert named("sub-1/lesion.nii.gz", "sub-2/lesion.nii.gz") == ["sub-1", "sub-2"]
    assert named("a.b.nii.gz", "c.nii") == ["a.b", "c"]
    assert named("patient1/gold.nii.gz", "patient2/gold.nii.gz") == ["patient1", "patient2"]
    assert named("X/surf/lh.thickness", "Y/surf/lh.thickness") == ["X", "Y"]
    with pytest.raises(DataError, match="both look like images of sub-1"):
        named("sub-1_ses-1_x.nii.gz", "sub-1_ses-2_x.nii.gz")


def test_images_are_found_in_folders_and_by_patterns(tmp_path):
    for name in ("b.nii.gz", "a.nii", "notes.txt", "deep/c.nii.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [path.name for path in imageset.find_images([tmp_path])] == ["a.nii", "b.nii.gz"]
    assert [path.name for path in imageset.find_images([tmp_path / "*" / "*.nii.gz"])] == ["c.nii.gz"]
    for pattern in ("nothing*.nii", "**.nii"):
        with pytest.raises(DataError, match="no such file"):
            imageset.find_images([tmp_path / pattern])


def test_the_image_on_another_grid_is_named(tmp_path):
    shifted = LAS.copy()
    shifted[0, 3] += 1
    for name, affine in (("odd", shifted), ("one", LAS), ("two", LAS)):
        io.save(np.zeros((8, 9, 10), np.uint8), Grid((8, 9, 10), affine), tmp_path / f"{name}.nii.gz")
    paths = imageset.find_images([tmp_path])
    with pytest.raises(DataError, match=r"odd\.nii\.gz: its grid .* is not that of 2 of the 3"):
        imageset.common_grid(paths)
    assert imageset.common_grid(paths[1:]).shape == (8, 9, 10)


def test_maxima_are_in_millimetres_largest_first_and_plateaus_count_once():
    values = np.zeros((20, 20, 20))
    values[4:7, 5, 5] = 3  # a plateau
    values[15, 15, 15] = 7
    values[13, 15, 15] = 7  # near the last
    assert imageset.maxima(values, LAS) == [((13, 15, 15), (-5.0, 0.0, 20.0)), ((5, 5, 5), (11.0, -20.0, 0.0))]
    assert imageset.maxima(np.zeros((9, 9, 9)), LAS) == []


def test_names_of_labels(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("1|ACAL|anterior cerebral artery left|1\n2\tmiddle\n\n3 posterior cerebral\n")
    assert imageset.label_names(path) == {1: "anterior cerebral artery left", 2: "middle", 3: "posterior cerebral"}
    path.write_text("one two\n")
    with pytest.raises(DataError, match="line 1"):
        imageset.label_names(path)
    path.write_bytes("1 hémisphère\n".encode("latin-1"))
    with pytest.raises(DataError, match="UTF-8"):
        imageset.label_names(path)


def test_columns_become_numbers():
    import pandas as pd

    def coded(texts, name):
        return coding.coded(pd.Series(texts, name=name), Path("people.tsv"))

    np.testing.assert_array_equal(coded(["40", "n/a", "400", "inf"], "age_years"), [[40], [np.nan], [np.nan], [np.nan]])
    np.testing.assert_array_equal(coded(["M", "f", "O", "Male"], "sex"), [[1], [0], [np.nan], [1]])
    groups = coded(["b", "a", "c", ""], "diagnosis")
    np.testing.assert_array_equal(groups, [[1, 0], [0, 0], [0, 1], [np.nan, np.nan]])
    assert coded(["n/a", ""], "x").shape == (2, 1)
    # One typing error must not make a group of every age.
    for texts, name in (
        (["40", "forty", "41"], "age_years"),
        (["forty", "fifty"], "age_years"),
        (["3", "x", "4"], "x"),
    ):
        with pytest.raises(DataError, match=f"people.tsv: column {name}: '.*' is not a number"):
            coded(texts, name)
