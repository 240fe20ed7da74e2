"""Store 200 small studies in Orthanc and fetch all of them by C-GET, C-MOVE and DICOMweb, each cut in the middle.

The PACS is gone after about half of the images, and the command is run again when it is back. Exit code 1 if an image
is missing, changed or was fetched twice.

PYTHONPATH=tests python benchmarks/fetch_pacs.py --out fetched.tsv
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import orthanc
import pandas as pd

from analysis import tsv


def compare(root: Path, n_studies: int) -> pd.DataFrame:
    """Fetch by each way.

    Returns
    -------
    A row per way: images that came before the cut and after, whether they are sound, seconds for both runs.
    """
    orthanc.make_studies(root / "made", n_studies)
    server = orthanc.Orthanc(root / "orthanc")
    rows = []
    try:
        server.store(sorted((root / "made").iterdir()))
        lines = [{"accession_number": f"A{number:03d}"} for number in range(n_studies)]
        for way in ("get", "move", "web"):
            (root / way).mkdir()
            client = orthanc.Client(root / way, server)
            found = client.fetch_in_spite_of_a_cut(way, lines)
            is_sound = (
                found.n_cut == 1
                and found.is_resumed_without_fetching_twice
                and found.n_files == n_studies * orthanc.N_SLICES
                and set(client.table["status"]) == {"done"}
                and orthanc.same_as_stored(client.files, server)
            )
            row = {"way": way, "n_files_first": found.n_files_first, "n_files": found.n_files, "is_sound": is_sound}
            rows.append({**row, "needed_s": round(found.needed_s, 1)})
    finally:
        server.stop()
    return pd.DataFrame(rows)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=200, help="how many (%(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="table to write")
    arguments = parser.parse_args()
    if reason := orthanc.lacking():
        print(reason, file=sys.stderr)
        return 69
    with tempfile.TemporaryDirectory(prefix="fetch-pacs-") as folder:
        table = compare(Path(folder), arguments.studies)
    tsv.write(table, arguments.out)
    print(table.to_string(index=False))
    return int(not table["is_sound"].all())


if __name__ == "__main__":
    sys.exit(main())
