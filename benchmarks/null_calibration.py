"""How often the tests of the group statistics reject where nothing is there to find, at α = 0.05.

    python benchmarks/null_calibration.py --out FILE.json

Small cohorts are drawn without the effect in question, but with everything else a real one has (covariates, scatter
that differs between groups' sizes, landmarks that err together within a pair), and go through the commands' own
functions. Leaves the rejection rate of every test, and of every interval (whether it leaves out the null value).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import null_rates
import numpy as np
import pandas as pd
from null_rates import ALPHA, Row
from scipy import stats

from analysis.statistics import asymmetry, groups, landmarks

LEVELS = ("Control", "AD")


def outside(low: float, high: float, null: float = 0.0) -> bool:
    """Whether an interval leaves out the null value."""
    return not low <= null <= high


def people(rng: np.random.Generator, sizes: tuple[int, int], effect_mm3: float) -> tuple[pd.DataFrame, Any]:
    """Ages, sexes and ICVs by participant and diagnosis, and hippocampal volumes that depend on all of them."""
    n = sum(sizes)
    diagnosis = np.repeat(LEVELS, sizes)
    index = pd.MultiIndex.from_arrays(
        [[f"sub-{i}" for i in range(n)], diagnosis], names=["participant_id", "diagnosis"]
    )
    age, male = rng.uniform(55, 90, n), rng.permutation(np.arange(n) % 2).astype(float)
    icv = 1.45e6 + 1.5e5 * (male - 0.5) + 1e5 * rng.normal(size=n)
    true = 7500 - 30 * (age - 70) + 0.002 * (icv - 1.45e6) + 100 * male + 500 * rng.normal(size=n)
    true += effect_mm3 * (diagnosis == LEVELS[0])
    return pd.DataFrame({"ICV": icv, "age_years": age, "male": male}, index=index), true


def group_tests(rng: np.random.Generator, sizes: tuple[int, int]) -> Row:
    """One structure, no difference between the groups."""
    table, true = people(rng, sizes, 0)
    settings = groups.Settings(replicates=400)
    row = groups.compare_groups(table.assign(Hippocampus=true), "Hippocampus", LEVELS, settings)
    return {
        "rank sum": row["rank_sum_p"] < ALPHA,
        "AUROC against one half (DeLong)": row["auroc_p"] < ALPHA,
        "corrected effect": row["effect_p"] < ALPHA,
        "interval: difference of medians": outside(row["difference_low_mm3"], row["difference_high_mm3"]),
        "interval: Hodges–Lehmann shift": outside(row["shift_low_mm3"], row["shift_high_mm3"]),
        "interval: AUROC": outside(row["auroc_low"], row["auroc_high"], 0.5),
    }


def method_tests(rng: np.random.Generator, sizes: tuple[int, int]) -> Row:
    """Two methods of the same accuracy see groups that do differ."""
    table, true = people(rng, sizes, 600)
    used = {name: table.assign(Hippocampus=true + 250 * rng.normal(size=len(true))) for name in ("one", "other")}
    row = groups.compare_methods(used, "Hippocampus", tuple(used), LEVELS, groups.Settings())
    return {"difference of two AUROCs (DeLong)": row["p_value"] < ALPHA}


def asymmetry_tests(rng: np.random.Generator, sizes: tuple[int, int]) -> Row:
    """Lesions of random side and size that change no volume; the right side is naturally the larger."""
    n = sum(sizes)
    head = rng.normal(size=n)
    volumes = {side: 4000 + gap + 300 * head + 120 * rng.normal(size=n)
               for side, gap in (("Left-Hippocampus", 0), ("Right-Hippocampus", 60))}  # fmt: skip
    side = rng.choice(["Left", "Right"], n)
    table = pd.DataFrame({"side": side, "lesion_mm3": rng.lognormal(8, 1.5, n), **volumes})
    row = asymmetry.compare_structure(table, "Hippocampus")
    return {
        "ipsi- against contralateral (signed rank)": row["signed_rank_p"] < ALPHA,
        "ipsilateral correlation": row["ipsilateral_r_p"] < ALPHA,
        "contralateral correlation": row["contralateral_r_p"] < ALPHA,
    }


def landmark_tests(rng: np.random.Generator, sizes: tuple[int, int]) -> Row:
    """Both methods err alike on average, but one or the other better on all landmarks of a pair."""
    n_pairs = sum(sizes)
    pair = np.repeat(np.arange(n_pairs), rng.integers(4, 12, n_pairs))
    difficulty = rng.normal(size=n_pairs)[pair]
    errors = {
        method: 2 * np.exp(0.4 * difficulty + 0.25 * rng.normal(size=n_pairs)[pair] + 0.4 * rng.normal(size=len(pair)))
        for method in landmarks.METHODS
    }
    cell = pd.DataFrame({"pair": pair, **errors})
    _, row = landmarks.compare_cell(cell, landmarks.Settings(replicates=400))
    return {
        "medians of pairs (signed rank)": row["medians_p"] < ALPHA,
        "errors (signed rank of clusters)": row["errors_p"] < ALPHA,
        "interval: difference of mean errors": outside(row["difference_low_mm"], row["difference_high_mm"]),
        "for comparison: errors taken for independent": stats.wilcoxon(*errors.values()).pvalue < ALPHA,
    }


#: Sizes are of the two groups; of asymmetry and landmarks their sum counts.
EXPERIMENTS: null_rates.Experiments = {
    "groups, 25 and 25": partial(group_tests, sizes=(25, 25)),
    "groups, 15 and 40": partial(group_tests, sizes=(15, 40)),
    "methods, 25 and 25": partial(method_tests, sizes=(25, 25)),
    "asymmetry, 40": partial(asymmetry_tests, sizes=(20, 20)),
    "landmarks, 30 pairs": partial(landmark_tests, sizes=(15, 15)),
}


if __name__ == "__main__":
    null_rates.main(EXPERIMENTS, __doc__, cohorts=2000)
