"""One self-contained HTML page about the cohort: what came in, what became of it, curves, pictures, limits.

Reads the results folder through :class:`analysis.layout.Results` and writes ``index.html``. The page loads nothing
from anywhere, bears no date, and an unchanged cohort leaves it untouched.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("results", type=Path, metavar="RESULTS", help="results folder of a study")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of index.html (default: RESULTS/report)")
    parser.add_argument("--pictures", type=int, default=12, metavar="N", help="scans to show (default %(default)s)")


def run(arguments: argparse.Namespace) -> None:
    """Write the page."""
    from analysis.errors import DataError
    from analysis.layout import Results
    from synthsr import files

    from . import content, page

    if not arguments.results.is_dir():
        raise DataError(f"{arguments.results}: no such folder; give the results folder of a study")
    results = Results(arguments.results)
    folder: Path = arguments.out or results.report.parent
    cohort = content.collect(results)
    files.write_text(folder / "index.html", page.render(cohort, folder=folder, n_pictures=arguments.pictures))
    print(f"report: {len(cohort.included)} scans of {cohort.n_participants} people → {folder / 'index.html'}")
