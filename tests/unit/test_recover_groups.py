"""Planted medians, AUROC and effect size are found (the whole run: benchmarks/recover_groups.py)."""

import numpy as np
import pytest
import recover_groups
from scipy.stats import norm

COHORTS = 100


@pytest.fixture(autouse=True)
def fewer(monkeypatch):
    monkeypatch.setattr(recover_groups, "MANY", 300_000)


@pytest.mark.parametrize("arm", ["50 and 50, normal", "15 and 40, patients scatter more"])
def test_planted_groups_are_recovered(arm):
    rows = list(recover_groups.recover(arm, cohorts=COHORTS, replicates=200))
    means = {row["part"]: row for row in rows if row["check"] == "mean estimate over planted"}
    assert set(means) == {"median_mm3", "other_median_mm3", "auroc"}
    for row in means.values():
        # Within 3.3 standard errors of a mean over cohorts, and of what is planted by so many people.
        assert abs(row["share"] - 1) < 3.3 * row["width"] / np.sqrt(COHORTS) + 0.001, row
    covered = {row["part"]: row for row in rows if row["check"] == "planted in interval"}
    obeyed = {*recover_groups.ARMS[arm].models, "difference of two methods' AUROCs"}
    assert {part for part, row in covered.items() if row["holds"]} == obeyed
    # Within 3.3 standard errors of 0.95.
    assert all(covered[part]["share"] > 0.87 for part in obeyed), covered
    assert sum(covered[part]["share"] for part in obeyed) / len(obeyed) < 0.995
    # As wide as two errors of an AUROC of 0.8 are by Hanley and McNeil's formula: 0.17 of 50 and 50, 0.24 of 15 and 40.
    assert 0.12 < covered["AUROC"]["width"] < 0.32


def test_planted_area_is_that_of_normal_distributions():
    """Age, sex and ICV add to the scatter what their ranges say; the area follows from the normal distribution."""
    truth = recover_groups.planted(recover_groups.ARMS["50 and 50, normal"])
    explained = (15 * 25) ** 2 / 12 + 0.0015**2 * (6e4**2 + 8e4**2)
    assert truth["auroc"] == pytest.approx(norm.cdf(543 / np.sqrt(2 * (400**2 + explained))), abs=0.004)
    assert truth["median_mm3"] == pytest.approx(7500, abs=4) and truth["difference_mm3"] == pytest.approx(543, abs=6)
    assert truth["effect_size"] == pytest.approx(543 / 400)
