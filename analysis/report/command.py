"""A site of HTML pages about the cohort and every scan, to be opened from disk.

Reads the results folder through :class:`analysis.layout.Results` and writes ``index.html`` (the cohort; complete in
itself), ``scans.html`` (a list of all scans to search, look through and decide on) and ``scans/SCAN_ID.html``. Pictures
of scans are those that ``pictures`` has made. The pages load nothing from the network, bear no date, and what is
unchanged is left untouched.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("results", type=Path, metavar="RESULTS", help="results folder of a study")
    parser.add_argument("--pictures", type=int, default=12, metavar="N", help="scans to show on the cohort page "
                        "(default %(default)s)")  # fmt: skip
    parser.add_argument("--exclusions", type=Path, metavar="TABLE", help="what a person decided, as given to the gate")


def run(arguments: argparse.Namespace) -> None:
    """Write the site."""
    from analysis.errors import DataError
    from analysis.layout import Results

    from . import content, site

    if not arguments.results.is_dir():
        raise DataError(f"{arguments.results}: no such folder; give the results folder of a study")
    results = Results(arguments.results)
    cohort = content.collect(results)
    site.write(cohort, results.report.parent, n_pictures=arguments.pictures, exclusions=arguments.exclusions)
    print(f"report: {len(cohort.included)} scans of {cohort.n_participants} people → {results.report}")
