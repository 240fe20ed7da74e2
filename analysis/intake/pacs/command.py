"""Fetch the studies of a table of accession numbers or patients from a PACS into a folder for the inventory.

TABLE has one or more of the columns accession_number, patient_id, date_from and date_to (YYYY-MM-DD). The folder names
patients and gets mode 0700; its table fetched.tsv tells what came and what did not. Run again, the command fetches what
is missing. It ends with exit code 69 if the PACS is out of reach; what the PACS does not have or refuses is a row.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("pacs", type=Path, metavar="PACS_YAML", help="how to reach it; config/pacs.yaml is an example")
    parser.add_argument("table", type=Path, metavar="TABLE", help="what to fetch")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="private folder to fetch into")


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    from analysis.intake.lock import locked

    from . import configuration, table
    from .fetch import fetch

    pacs = configuration.read(arguments.pacs)
    wanted = table.read(arguments.table)
    if not pacs.is_encrypted:
        print("the connection to the PACS is not encrypted: names and images can be read on their way")
    with locked(arguments.out), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # would print values of headers
        fetched = fetch(pacs, wanted, arguments.out)
    counts = fetched["status"].value_counts().sort_index()
    print(f"{len(wanted)} lines; series: {', '.join(f'{count} {status}' for status, count in counts.items())}")
