"""How often the statistics of ageing and agreement find what was planted in simulated cohorts; no image is involved.

Volumes are drawn from known curves (white matter peaking at 30 years, ventricles growing ever faster, hippocampus
falling late) with scatter that grows with age, effects of ICV and sex, and several correlated scans per participant;
the scatter is Laplace's, as the model has it, or normal, as it has not. Counted is how often intervals cover the
planted value and how often tests reject what is not there. The bounds are those that the project set itself; a row
that breaks one makes the exit code 1.

python benchmarks/recover_ageing.py --out recovery.tsv
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
from scipy import stats

from analysis import tsv
from analysis.statistics import ageing, agreement

Array = npt.NDArray[np.float64]

#: What the project demands of coverage, and of rejections at 5 %.
COVERAGE, REJECTION = (0.92, 0.98), (0.036, 0.064)
COLUMNS = ("check", "arm", "part", "n", "share", "low", "high", "width", "holds")
AGES_YEARS = (18.0, 90.0)
PEAK_YEARS = 30.0
#: Share of a deviation's variance that a participant's scans have in common.
SHARED = 0.8
MEAN_ICV_MM3 = 1.5e6


@dataclass(frozen=True)
class Planted:
    """One structure.

    Attributes
    ----------
    curve
        Median volume (mm³) at an age (years), of mean ICV and between the sexes.
    spread_mm3
        Standard deviation about it in the middle of the ages; it grows by e over 70 years.
    """

    curve: Callable[[Array], Array]
    spread_mm3: float


STRUCTURES = {
    "Cerebral-White-Matter": Planted(
        lambda age: 4.5e5 * np.exp(-np.where(age < PEAK_YEARS, 1.5, 1.0) * ((age - PEAK_YEARS) / 85) ** 2), 2e4
    ),
    "Lateral-Ventricle": Planted(lambda age: 1.2e4 + 3e3 * np.exp((age - 30) / 22), 4e3),
    "Hippocampus": Planted(lambda age: 8e3 - 1.5e3 / (1 + np.exp((75 - age) / 8)), 500.0),
}
NOISES: dict[str, Callable[[Array], Array]] = {
    "Laplace": lambda normal: stats.laplace.ppf(stats.norm.cdf(normal)) / np.sqrt(2),
    "normal": lambda normal: normal,
}


def cohort(
    rng: np.random.Generator, structure: str, *, participants: int, noise: str, flat: bool = False
) -> pd.DataFrame:
    """Table as :func:`ageing.fit_structure` takes it, one to three scans per participant; ``flat`` without ageing."""
    planted = STRUCTURES[structure]
    person = np.repeat(np.arange(participants), rng.integers(1, 4, participants))
    age = rng.uniform(*AGES_YEARS, participants)[person]
    male = rng.integers(0, 2, participants)[person].astype(float)
    icv = MEAN_ICV_MM3 + 1.6e5 * (male - 0.5) + 1e5 * rng.standard_normal(participants)[person]
    table = pd.DataFrame({"participant_id": person.astype(str), "age_years": age, "male": male, "ICV": icv})
    common, own = rng.standard_normal(participants)[person], rng.standard_normal(len(person))
    deviation = NOISES[noise](np.sqrt(SHARED) * common + np.sqrt(1 - SHARED) * own)
    median = planted.curve(np.full_like(age, 50.0) if flat else age)
    head = per_icv(planted) * (icv - MEAN_ICV_MM3) + 0.5 * planted.spread_mm3 * (male - 0.5)
    table[structure] = median + head + planted.spread_mm3 * np.exp((age - np.mean(AGES_YEARS)) / 70) * deviation
    return table


def per_icv(planted: Planted) -> float:
    """Change of a structure's volume per change of ICV."""
    return float(0.7 * planted.curve(np.array([50.0]))[0] / MEAN_ICV_MM3)


def bands(*, noise: str, participants: int, cohorts: int, replicates: int) -> Iterator[dict[str, Any]]:
    """Coverage of the planted median by the band, per structure and decade; of the peak; shares beyond centiles.

    Each cohort has one of the structures, in turn. Widths are in planted standard deviations.
    """
    settings = ageing.Settings(replicates=replicates)
    points, peaks, scores = [], [], []
    for index in range(cohorts):
        rng = np.random.default_rng([index, participants, list(NOISES).index(noise)])
        name = list(STRUCTURES)[index % len(STRUCTURES)]
        table = cohort(rng, name, participants=participants, noise=noise)
        planted, fit = STRUCTURES[name], ageing.fit_structure(table, name, settings)
        assert fit.model is not None
        # Volumes are corrected to the cohort's mean ICV.
        moved = per_icv(planted) * (table["ICV"].mean() - MEAN_ICV_MM3)
        age = fit.curve["age_years"].to_numpy()
        truth, low, high = planted.curve(age) + moved, fit.curve["low_mm3"], fit.curve["high_mm3"]
        inside, width = (low <= truth) & (truth <= high), (high - low) / planted.spread_mm3
        points.append(
            pd.DataFrame({"structure": name, "decade": age.astype(int) // 10 * 10, "covered": inside, "width": width})
        )
        scores.append(ageing.score(table, fit.model)["z"])
        if name == "Cerebral-White-Matter":
            peaks.append([fit.summary["peak_low_years"], fit.summary["peak_high_years"]])
    everything, arm = pd.concat(points), f"{noise} scatter, {participants} participants"
    yield row("median in band", arm, "all ages", everything, COVERAGE)
    for part, found in everything.groupby("structure", sort=False):
        yield row("median in band", arm, str(part), found)
    for decade in sorted(set(everything["decade"])):
        yield row("median in band", arm, f"{decade} to {decade + 9} years", everything[everything["decade"] == decade])
    known = np.array(peaks)[np.isfinite(peaks).all(axis=1)]
    located = (known[:, 0] <= PEAK_YEARS) & (known[:, 1] >= PEAK_YEARS)
    yield row("peak in interval", arm, "white matter, where located",
              pd.DataFrame({"covered": located, "width": known[:, 1] - known[:, 0]}))  # fmt: skip
    for z in (-1.645, 1.645):
        beyond = pd.DataFrame({"covered": np.sign(z) * pd.concat(scores) > abs(z), "width": np.nan})
        yield row("volumes beyond centile", arm, "5" if z < 0 else "95", beyond)


def slopes(*, noise: str, participants: int, repeats: int) -> Iterator[dict[str, Any]]:
    """Rejections of a slope that is not there, and of a difference of slopes that is not there."""
    arm, name = f"{noise} scatter, {participants} participants", "Hippocampus"
    spread = STRUCTURES[name].spread_mm3
    none, same = [], []
    for index in range(repeats):
        rng = np.random.default_rng([index, participants, list(NOISES).index(noise), 1])
        table = cohort(rng, name, participants=participants, noise=noise, flat=True)
        groups, _ = pd.factorize(table["participant_id"])
        covariates = ageing.covariates_of(table, name)[1]
        volume, age = table[name].to_numpy(), table["age_years"].to_numpy()
        found = ageing.straight(volume, age, covariates=covariates, groups=groups, confidence=0.95)
        reach = found["slope_high_mm3_per_year"] - found["slope_low_mm3_per_year"]
        none.append([found["p_value"] < 0.05, reach / spread])
        # Truth and measurement: as different as two scans of one participant.
        table["ICV true"], table[f"{name} true"] = table["ICV"] + 1e4 * rng.standard_normal(len(table)), table[name]
        table[name] += 0.5 * spread * NOISES[noise](rng.standard_normal(len(table)))
        compared = agreement.compare_slopes(table, name)
        reach = compared["difference_high_mm3_per_year"] - compared["difference_low_mm3_per_year"]
        same.append([compared["p_value"] < 0.05, reach / spread])
    # Least squares move with the data: an interval covers a slope exactly as often as no slope is not rejected.
    yield row("null slope rejected", arm, "linear fit", pd.DataFrame(none, columns=["covered", "width"]), REJECTION)
    yield row("null difference of slopes rejected", arm, "measured − true",
              pd.DataFrame(same, columns=["covered", "width"]), REJECTION)  # fmt: skip


def agreements(*, participants: int, scans: int, repeats: int) -> Iterator[dict[str, Any]]:
    """Coverage of the intervals of agreement, and of bootstrap percentiles; ``scans`` is the most of a participant."""
    arm = f"{participants} participants, up to {scans} scans"
    truth = population()
    found: dict[str, list[Any]] = {name: [] for name in agreement.INTERVALS}
    percentiles: dict[str, list[Any]] = {"pearson_r": [], "concordance": []}
    for index in range(repeats):
        rng = np.random.default_rng([index, participants, scans, 2])
        person = np.repeat(np.arange(participants), rng.integers(1, scans + 1, participants))
        measured, true = measurements(rng, person)
        compared = agreement.compare_structure(
            pd.DataFrame({"participant_id": person.astype(str), "X": measured, "X true": true}), "X"
        )
        for name, (first, second) in agreement.INTERVALS.items():
            low, high = compared[first], compared[second]
            found[name].append([low <= truth[name] <= high, high - low])
        for name, (low, high) in bootstrap_percentiles(rng, measured, true, person=person).items():
            percentiles[name].append([low <= truth[name] <= high, high - low])
    for name, rows in found.items():
        yield row("agreement in interval", arm, name, pd.DataFrame(rows, columns=["covered", "width"]), COVERAGE)
    for name, rows in percentiles.items():
        yield row("for comparison: cluster bootstrap", arm, name, pd.DataFrame(rows, columns=["covered", "width"]))


def bootstrap_percentiles(
    rng: np.random.Generator, measured: Array, true: Array, *, person: npt.NDArray[np.int64]
) -> dict[str, Array]:
    """95 % intervals from 500 draws of participants with all their scans, by each participant's sums."""
    x, y = measured - measured.mean(), true - measured.mean()
    sums = np.stack([np.bincount(person, values) for values in (np.ones_like(x), x, y, x * x, y * y, x * y)], axis=1)
    times = rng.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=500)
    n, x, y, xx, yy, xy = (times @ sums).T
    variance, true_variance, shared = xx / n - (x / n) ** 2, yy / n - (y / n) ** 2, xy / n - x * y / n**2
    values = {
        "pearson_r": shared / np.sqrt(variance * true_variance),
        "concordance": 2 * shared / (variance + true_variance + ((x - y) / n) ** 2),
    }
    return {name: np.quantile(drawn, [0.025, 0.975]) for name, drawn in values.items()}


def measurements(rng: np.random.Generator, person: npt.NDArray[np.int64]) -> tuple[Array, Array]:
    """Measured and true hippocampi (mm³): too large, regressing to the mean, erring per participant and per scan."""
    n = int(person.max()) + 1
    true = 7500 + 700 * rng.standard_normal(n)[person]
    erring = 300 * rng.standard_normal(n)[person] + 250 * rng.standard_normal(len(person))
    return 7800 + 0.8 * (true - 7500) + erring, true


def population() -> dict[str, float]:
    """What :func:`measurements` have as their number grows; percentages from a large sample."""
    variance, true_variance, shared = (0.8 * 700) ** 2 + 300**2 + 250**2, 700.0**2, 0.8 * 700**2
    r, spread = shared / np.sqrt(variance * true_variance), np.sqrt(variance + true_variance - 2 * shared)
    measured, true = measurements(np.random.default_rng(0), np.arange(2_000_000))
    relative = (measured - true) / true * 100
    return {
        "pearson_r": r,
        "spearman_r": 6 / np.pi * np.arcsin(r / 2),
        "concordance": 2 * shared / (variance + true_variance + 300**2),
        "bias_mm3": 300.0,
        "bias_percent": float(relative.mean()),
        "mean_absolute_error_percent": float(np.abs(relative).mean()),
        "spread_mm3": spread,
        "limit_low_mm3": 300 - 1.96 * spread,
        "limit_high_mm3": 300 + 1.96 * spread,
    }


def row(
    check: str, arm: str, part: str, found: pd.DataFrame, bounds: tuple[float, float] | None = None
) -> dict[str, Any]:
    """Row of the table: ``found`` has what was ``covered`` and the ``width`` of the interval."""
    share = float(found["covered"].mean())
    low, high = bounds or (np.nan, np.nan)
    holds = "" if bounds is None else "yes" if low <= share <= high else "no"
    values = (check, arm, part, len(found), share, low, high, float(found["width"].mean()), holds)
    return dict(zip(COLUMNS, values, strict=True))


def recover(*, cohorts: int, repeats: int, replicates: int) -> Iterator[dict[str, Any]]:
    """All rows, as they are found."""
    for noise in NOISES:
        for participants in (200, 60):
            yield from bands(noise=noise, participants=participants, cohorts=cohorts, replicates=replicates)
        for participants in (200, 30):
            yield from slopes(noise=noise, participants=participants, repeats=2 * repeats)
    for participants, scans in ((41, 20), (41, 1), (15, 3)):
        yield from agreements(participants=participants, scans=scans, repeats=repeats)


def main() -> int:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="TABLE.tsv")
    parser.add_argument("--cohorts", type=int, default=200, help="behind each band (default %(default)s)")
    parser.add_argument(
        "--repeats",
        type=int,
        default=1000,
        help="of intervals of agreement, twice as many of slopes (default %(default)s)",
    )
    parser.add_argument("--replicates", type=int, default=300, help="of the bootstrap (default %(default)s)")
    given = parser.parse_args()
    rows = []
    for found in recover(cohorts=given.cohorts, repeats=given.repeats, replicates=given.replicates):
        rows.append(found)
        print("\t".join(f"{value:.3f}" if isinstance(value, float) else str(value) for value in found.values()))
        sys.stdout.flush()
    tsv.write(pd.DataFrame(rows, columns=list(COLUMNS)), given.out)
    return int(any(found["holds"] == "no" for found in rows))


if __name__ == "__main__":
    sys.exit(main())
