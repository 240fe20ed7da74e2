"""AUROC with DeLong's variance, and the small tests that commands share, against independent implementations."""

import itertools

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from analysis.statistics import roc, univariate


def scores(seed: int, m: int, n: int, *, shift: float = 0.7, ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    first, second = rng.normal(shift, 1, m), rng.normal(0, 1.4, n)
    return (np.round(first), np.round(second)) if ties else (first, second)


def kernel(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return (first[:, None] > second) + 0.5 * (first[:, None] == second)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("m", "n"), [(2, 3), (20, 31), (60, 9)])
def test_area_is_sklearns(m, n, ties):
    first, second = scores(m, m, n, ties=ties)
    truth = np.r_[np.ones(m), np.zeros(n)]
    assert roc.area(first, second).value == pytest.approx(roc_auc_score(truth, np.r_[first, second]), abs=1e-12)
    assert roc.area(second, first).value == pytest.approx(1 - roc.area(first, second).value, abs=1e-12)


@pytest.mark.parametrize("ties", [False, True])
def test_error_is_that_of_all_pairs(ties):
    """DeLong's sums written out over all m·n pairs, of one measure and of the difference of two."""
    first, second = scores(1, 20, 31, ties=ties)
    other = first + scores(2, 20, 31)[0], second + scores(2, 20, 31)[1]
    for wanted, found in (
        (kernel(first, second), roc.area(first, second)),
        (kernel(first, second) - kernel(*other), roc.difference((first, second), other)),
    ):
        by_first, by_second = wanted.mean(axis=1), wanted.mean(axis=0)
        parts = np.sum((by_first - wanted.mean()) ** 2) / 19 / 20, np.sum((by_second - wanted.mean()) ** 2) / 30 / 31
        assert found.value == pytest.approx(wanted.mean())
        assert found.error == pytest.approx(np.sqrt(sum(parts)))


def test_published_example():
    """Hanley & McNeil, Radiology 1982: 109 CT ratings; area, error and symmetric interval as Stata's roctab prints."""
    abnormal = np.repeat(np.arange(1.0, 6), [3, 2, 2, 11, 33])
    normal = np.repeat(np.arange(1.0, 6), [33, 6, 6, 11, 2])
    found = roc.area(abnormal, normal)
    assert (round(found.value, 4), round(found.error, 4)) == (0.8932, 0.0307)
    assert found.value - stats.norm.ppf(0.975) * found.error == pytest.approx(0.83295, abs=1e-5)


def test_error_agrees_with_the_bootstrap():
    first, second = scores(3, 60, 60)
    rng = np.random.default_rng(0)
    drawn = [roc.area(rng.choice(first, 60), rng.choice(second, 60)).value for _ in range(1500)]
    assert roc.area(first, second).error == pytest.approx(np.std(drawn), rel=0.08)


@pytest.mark.parametrize("ties", [False, True])
def test_p_against_one_half_is_brunner_and_munzels(ties):
    first, second = scores(4, 14, 23, ties=ties)
    assert roc.area(first, second).p_value(0.5) == pytest.approx(stats.brunnermunzel(first, second).pvalue)


def test_interval_covers_and_stays_within_bounds():
    true = stats.norm.cdf(1.2 / np.sqrt(2))
    covered = []
    for seed in range(600):
        rng = np.random.default_rng(seed)
        low, high = roc.area(rng.normal(1.2, 1, 20), rng.normal(0, 1, 20)).logit_interval()
        assert 0 < low < high < 1
        covered.append(low <= true <= high)
    assert 0.92 <= np.mean(covered) <= 0.985


def test_groups_that_do_not_overlap_have_no_interval():
    found = roc.area(np.array([5.0, 6, 7]), np.array([1.0, 2, 3]))
    assert (found.value, found.error) == (1, 0)
    assert np.isnan([*found.logit_interval(), *found.interval(), found.p_value(0.5)]).all()


def test_a_measure_does_not_differ_from_a_rescaled_copy():
    first, second = scores(5, 12, 15)
    found = roc.difference((first, second), (np.exp(first), np.exp(second)))
    assert (found.value, found.error) == (0, 0)


def test_intervals_of_differences_cover():
    shift, medians = [], []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        first, second = rng.exponential(1, 25) + 0.5, rng.exponential(1, 30)
        shift.append(univariate.hodges_lehmann(first, second)[1:])
        medians.append(univariate.median_difference_interval(first, second, replicates=300, seed=0))
    for low, high in (np.transpose(shift), np.transpose(medians)):
        assert 0.92 <= np.mean((low <= 0.5) & (high >= 0.5)) <= 0.985


def test_shift_and_its_interval_are_dual_to_the_rank_sum():
    first, second = scores(6, 25, 30)
    estimate, low, high = univariate.hodges_lehmann(first, second)
    assert estimate == pytest.approx(np.median(np.subtract.outer(first, second)))
    for bound, step in ((low, 1e-9), (high, -1e-9)):
        within, beyond = (stats.mannwhitneyu(first - bound - sign * step, second).pvalue for sign in (1, -1))
        assert beyond < 0.055 and within > 0.045 and within > beyond
    assert np.isnan(univariate.hodges_lehmann(first[:3], second[:3])[1:]).all()


def test_shapiro_only_where_it_exists():
    values = np.random.default_rng(0).exponential(size=40)
    assert (
        univariate.shapiro_p(values) == pytest.approx(stats.shapiro(values).pvalue) and stats.shapiro(values)[1] < 0.01
    )
    for poor in (values[:2], np.ones(10), np.arange(6000.0)):
        assert np.isnan(univariate.shapiro_p(poor))


def test_pearson_is_scipys_where_it_exists():
    x, y = np.random.default_rng(0).normal(size=(2, 20))
    reference = stats.pearsonr(x, y)
    expected = (reference.statistic, *reference.confidence_interval(0.95), reference.pvalue)
    assert univariate.pearson(x, y) == pytest.approx(expected)
    r, low, high, _ = univariate.pearson(x[:3], y[:3])
    assert np.isfinite(r) and np.isnan([low, high]).all()
    assert univariate.pearson(x, x)[:3] == pytest.approx((1, 1, 1))
    for poor in ((x[:2], y[:2]), (np.ones(20), y)):
        assert np.isnan(univariate.pearson(*poor)).all()


def test_false_discovery_rates_skip_what_is_unknown():
    from statsmodels.stats.multitest import multipletests

    p_values = np.array([0.01, np.nan, 0.04, 0.03, 0.5])
    found = univariate.false_discovery_rates(p_values)
    known = ~np.isnan(p_values)
    np.testing.assert_allclose(found[known], multipletests(p_values[known], method="fdr_bh")[1])
    assert np.isnan(found[1]) and np.isnan(univariate.false_discovery_rates([np.nan])).all()
    assert len(univariate.false_discovery_rates([])) == 0


@pytest.mark.parametrize("n", [9, 40])
def test_clusters_of_one_are_wilcoxons_test(n):
    differences = np.random.default_rng(n).normal(0.3, 1, n)
    reference = stats.wilcoxon(differences, method="exact" if n < 12 else "asymptotic", correction=False)
    assert univariate.clustered_signed_rank_p(differences, np.arange(n)) == pytest.approx(reference.pvalue)


def test_clusters_are_turned_over_whole():
    differences, clusters = np.random.default_rng(4).normal(0.4, 1, 30), np.repeat(np.arange(10), [1, 2, 3, 4, 5] * 2)
    ranks = np.sign(differences) * stats.rankdata(np.abs(differences))
    sums = [ranks[clusters == cluster].sum() for cluster in range(10)]
    totals = [abs(np.dot(signs, sums)) for signs in itertools.product((-1, 1), repeat=10)]
    exact = univariate.clustered_signed_rank_p(differences, clusters)
    assert exact == pytest.approx(np.mean(np.array(totals) > abs(ranks.sum()) - 1e-6)) and 0.01 < exact < 0.99
    names = np.array([f"pair-{cluster}" for cluster in clusters])
    assert univariate.clustered_signed_rank_p(differences[::-1], names[::-1]) == pytest.approx(exact)
    normal = 2 * stats.norm.sf(abs(ranks.sum()) / np.sqrt(np.sum(np.square(sums))))
    assert exact == pytest.approx(normal, abs=0.03)
    for same in (np.zeros(5), np.array([])):
        assert np.isnan(univariate.clustered_signed_rank_p(same, np.arange(len(same))))
    assert np.isnan(univariate.signed_rank_p(np.zeros(5)))
