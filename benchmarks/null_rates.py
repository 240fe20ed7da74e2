"""How often tests reject where nothing is there to find: what the null_*.py scripts share."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from synthsr import files

ALPHA = 0.05
#: Rates that count as calibrated: two standard errors of a rate of 0.05 in 1,000 cohorts.
BAND = (0.036, 0.064)
#: Which tests reject in one cohort.
Row = dict[str, bool]
#: Name → one cohort's tests.
Experiments = Mapping[str, Callable[[np.random.Generator], Row]]


def rates(experiments: Experiments, cohorts: int, seed: int) -> Iterator[tuple[str, str, float]]:
    """Experiment, test, and the share of cohorts in which it rejects."""
    for number, (name, experiment) in enumerate(experiments.items()):
        rng = np.random.default_rng([seed, number])
        found = pd.DataFrame([experiment(rng) for _ in range(cohorts)])
        for test in found:
            yield name, str(test), float(found[test].mean())


def main(experiments: Experiments, description: str | None, *, cohorts: int) -> None:
    """Run a script from the command line; ``cohorts`` is its default."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--cohorts", type=int, default=cohorts, help="cohorts per experiment (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed (default %(default)s)")
    arguments = parser.parse_args()
    rows = [
        {"experiment": experiment, "test": test, "rejected": rate, "within_band": BAND[0] <= rate <= BAND[1]}
        for experiment, test, rate in rates(experiments, arguments.cohorts, arguments.seed)
    ]
    content = {"alpha": ALPHA, "band": BAND, "cohorts": arguments.cohorts, "seed": arguments.seed, "rates": rows}
    files.write_json(arguments.out, content)
    for row in rows:
        print(f"{row['rejected']:.4f} {'' if row['within_band'] else '(outside) '}{row['experiment']}: {row['test']}")
