"""How often the comparison of groups finds the medians, AUROC and effect size planted in simulated cohorts.

Hippocampi are drawn for controls and patients about as far apart as those of Iglesias et al., Science Advances 2023
(medians 543 mm³ apart, AUROC 0.81), with effects of age, sex and ICV and with normal or skewed scatter; no image is
involved. Counted is how often an interval covers the planted value; medians and areas are held against theirs as the
mean over cohorts in parts of the planted value. The bounds of coverage are those that the project set itself; a row
that breaks one makes the exit code 1. What follows from a model that an arm does not obey has no bounds there: one
shift for all (Hodges–Lehmann) and equal normal scatter (effect size).

python benchmarks/recover_groups.py --out recovery.tsv
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from recover_ageing import COLUMNS, COVERAGE, row

from analysis import tsv
from analysis.statistics import groups

Array = npt.NDArray[np.float64]

LEVELS = ("Control", "AD")
MEAN_MM3 = {"Control": 7500.0, "AD": 6957.0}
#: Standard deviation that age, sex and ICV do not explain; with them it is about 440 mm³.
SPREAD_MM3 = 400.0
#: Standard deviation of what two methods add to the truth, where methods are compared.
ERRORS_MM3 = {"SynthSR": 150.0, "cubic": 350.0}
#: Mean estimates may depart so far from the planted value (parts of it).
RATIO = (0.99, 1.01)
#: People of each group behind the planted values: medians are known to 0.6 mm³, areas to 0.0004.
MANY = 1_000_000
#: Intervals, each by the columns of :data:`groups.COLUMNS`: planted value, low, high.
INTERVALS = {
    "AUROC": ("auroc", "auroc_low", "auroc_high"),
    "difference of medians": ("difference_mm3", "difference_low_mm3", "difference_high_mm3"),
    "shift": ("shift_mm3", "shift_low_mm3", "shift_high_mm3"),
    "effect size": ("effect_size", "effect_low", "effect_high"),
}


@dataclass(frozen=True)
class Arm:
    """One kind of cohort.

    Attributes
    ----------
    sizes
        Controls and patients.
    scatter
        Draws so many deviations of mean 0 and standard deviation 1.
    widening
        Patients' scatter over the controls'.
    models
        Intervals of :data:`INTERVALS` whose model the arm obeys.
    """

    sizes: tuple[int, int]
    scatter: Callable[[np.random.Generator, int], Array]
    widening: float
    models: tuple[str, ...]


def normal(rng: np.random.Generator, n: int) -> Array:
    """Symmetric scatter."""
    return rng.standard_normal(n)


def skewed(rng: np.random.Generator, n: int) -> Array:
    """A gamma distribution's scatter, of skewness 1."""
    return (rng.gamma(4.0, size=n) - 4) / 2


ARMS = {
    "50 and 50, normal": Arm((50, 50), normal, 1.0, ("AUROC", "difference of medians", "shift", "effect size")),
    "50 and 50, skewed": Arm((50, 50), skewed, 1.0, ("AUROC", "difference of medians", "shift")),
    "15 and 40, patients scatter more": Arm((15, 40), normal, 1.5, ("AUROC", "difference of medians")),
}


def cohort(rng: np.random.Generator, arm: Arm, sizes: tuple[int, int]) -> pd.DataFrame:
    """Table as :func:`groups.compare_groups` takes it; both groups have the same ages, sexes and ICVs."""
    diagnosis = np.repeat(LEVELS, sizes)
    n, is_patient = len(diagnosis), diagnosis == LEVELS[1]
    age, male = rng.uniform(60, 85, n), rng.integers(0, 2, n).astype(float)
    icv = 1.5e6 + 1.2e5 * (male - 0.5) + 8e4 * rng.standard_normal(n)
    covaried = -15 * (age - 72.5) + 0.0015 * (icv - 1.5e6)
    own = SPREAD_MM3 * arm.scatter(rng, n) * np.where(is_patient, arm.widening, 1)
    people = pd.MultiIndex.from_arrays([np.arange(n), diagnosis], names=["participant_id", "diagnosis"])
    return pd.DataFrame(
        {
            "Hippocampus": np.where(is_patient, MEAN_MM3["AD"], MEAN_MM3["Control"]) + covaried + own,
            "ICV": icv,
            "age_years": age,
            "male": male,
        },
        index=people,
    )


def measured(rng: np.random.Generator, table: pd.DataFrame, method: str) -> pd.DataFrame:
    """The table with a method's errors added to the volumes."""
    return table.assign(Hippocampus=table["Hippocampus"] + ERRORS_MM3[method] * rng.standard_normal(len(table)))


def planted(arm: Arm) -> dict[str, float]:
    """What a cohort tends to as it grows, from :data:`MANY` random pairs of a control and a patient."""
    rng = np.random.default_rng(1)
    table = cohort(rng, arm, (MANY, MANY))
    first, second = groups.values_by_group(table, "Hippocampus", LEVELS)
    by_method = [groups.values_by_group(measured(rng, table, name), "Hippocampus", LEVELS) for name in ERRORS_MM3]
    areas = [float(np.mean(one > other)) for one, other in by_method]
    return {
        "median_mm3": float(np.median(first)),
        "other_median_mm3": float(np.median(second)),
        "auroc": float(np.mean(first > second)),
        "difference_mm3": float(np.median(first) - np.median(second)),
        "shift_mm3": float(np.median(first - second)),
        # Cohen's d by the pooled variance that least squares tend to, groups weighted as in the arm.
        "effect_size": (MEAN_MM3["Control"] - MEAN_MM3["AD"])
        / (SPREAD_MM3 * float(np.sqrt(np.average([1, arm.widening**2], weights=arm.sizes)))),
        "auroc_difference": areas[0] - areas[1],
    }


def recover(name: str, *, cohorts: int, replicates: int) -> Iterator[dict[str, Any]]:
    """Rows of one arm."""
    arm = ARMS[name]
    truth, settings = planted(arm), groups.Settings(replicates=replicates)
    found, methods = [], []
    for index in range(cohorts):
        rng = np.random.default_rng([index, list(ARMS).index(name)])
        table = cohort(rng, arm, arm.sizes)
        found.append(groups.compare_groups(table, "Hippocampus", LEVELS, settings))
        used = {method: measured(rng, table, method) for method in ERRORS_MM3}
        methods.append(groups.compare_methods(used, "Hippocampus", tuple(used), LEVELS, settings))
    rows = pd.DataFrame(found)
    for column in ("median_mm3", "other_median_mm3", "auroc"):
        # The mean over cohorts, in parts of the planted value, and the estimates' scatter in the same.
        ratio = rows[column] / truth[column]
        estimates = pd.DataFrame({"covered": ratio, "width": ratio.std()})
        yield row("mean estimate over planted", name, column, estimates, RATIO)
    for part, (value, low, high) in INTERVALS.items():
        inside = (rows[low] <= truth[value]) & (truth[value] <= rows[high])
        covered = pd.DataFrame({"covered": inside, "width": rows[high] - rows[low]})
        yield row("planted in interval", name, part, covered, COVERAGE if part in arm.models else None)
    pairs = pd.DataFrame(methods)
    inside = pairs["difference_low"].le(truth["auroc_difference"]) & pairs["difference_high"].ge(
        truth["auroc_difference"]
    )
    covered = pd.DataFrame({"covered": inside, "width": pairs["difference_high"] - pairs["difference_low"]})
    yield row("planted in interval", name, "difference of two methods' AUROCs", covered, COVERAGE)


def main() -> int:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="TABLE.tsv")
    parser.add_argument("--cohorts", type=int, default=1000, help="of each arm (default %(default)s)")
    parser.add_argument("--replicates", type=int, default=1000, help="of the bootstrap (default %(default)s)")
    given = parser.parse_args()
    rows = []
    for name in ARMS:
        for found in recover(name, cohorts=given.cohorts, replicates=given.replicates):
            rows.append(found)
            print("\t".join(f"{value:.4f}" if isinstance(value, float) else str(value) for value in found.values()))
            sys.stdout.flush()
    tsv.write(pd.DataFrame(rows, columns=list(COLUMNS)), given.out)
    return int(any(found["holds"] == "no" for found in rows))


if __name__ == "__main__":
    sys.exit(main())
