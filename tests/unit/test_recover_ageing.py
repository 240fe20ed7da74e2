"""Planted effects are found as often as intervals and tests promise (the whole run: benchmarks/recover_ageing.py)."""

import runpy
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "recover_ageing.py"


@pytest.fixture(scope="module")
def benchmark() -> dict:
    return runpy.run_path(str(SCRIPT))


def shares(rows) -> dict[str, float]:
    return {row["part"]: row["share"] for row in rows}


@pytest.mark.parametrize("noise", ["Laplace", "normal"])
def test_band_covers_the_planted_median(benchmark, noise):
    rows = list(benchmark["bands"](noise=noise, participants=60, cohorts=30, replicates=200))
    found = shares(rows)
    assert 0.90 <= found["all ages"] <= 0.99
    assert min(share for part, share in found.items() if part.endswith("years")) > 0.8
    # As wide as it must be: two standard errors of a median of some ten people, in standard deviations.
    assert 0.8 < rows[0]["width"] < 2.2
    assert 0.01 < found["5"] < 0.08 and 0.01 < found["95"] < 0.08


def test_no_slope_and_no_difference_of_slopes_are_rejected_at_about_five_percent(benchmark):
    found = {}
    for participants in (30, 100):
        shared = shares(benchmark["slopes"](noise="Laplace", participants=participants, repeats=100))
        assert set(shared) == {"linear fit", "measured − true"}
        found |= {(participants, part): share for part, share in shared.items()}
    # Each within 2.8 standard errors; all together not too seldom either.
    assert all(share <= 0.11 for share in found.values()), found
    assert sum(found.values()) / 4 >= 0.015, found


def test_intervals_of_agreement_cover_the_planted_values(benchmark):
    rows = benchmark["agreements"](participants=20, scans=4, repeats=80)
    found = shares(row for row in rows if row["check"] == "agreement in interval")
    assert set(found) == set(benchmark["agreement"].INTERVALS)
    assert all(share >= 0.87 for share in found.values()), found
    assert sum(found.values()) / len(found) < 0.995
