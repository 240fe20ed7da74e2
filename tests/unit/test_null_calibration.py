"""Tests of the group statistics reject at about 5 % where there is nothing to find (the whole run: benchmarks/)."""

import runpy
from pathlib import Path

import null_rates
import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "null_calibration.py"
COHORTS = 120


@pytest.fixture(scope="module")
def rejected() -> dict[str, float]:
    found = null_rates.rates(runpy.run_path(str(SCRIPT))["EXPERIMENTS"], COHORTS, 1)
    return {f"{experiment}: {test}": rate for experiment, test, rate in found}


def test_nothing_is_found_at_about_the_nominal_rate(rejected):
    """Within 3.3 standard errors of 5 %, of 120 cohorts."""
    wrong = {test: rate for test, rate in rejected.items() if rate > 0.116 and "for comparison" not in test}
    assert not wrong and len(rejected) == 20
    assert 0.03 < sum(rejected.values()) / len(rejected) < 0.08


def test_landmarks_of_a_pair_are_no_independent_evidence(rejected):
    """The plain signed rank test rejects too often; this run would notice."""
    assert rejected["landmarks, 30 pairs: for comparison: errors taken for independent"] > 0.116
