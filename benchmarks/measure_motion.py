"""The gate's measure of motion on real scans: as they are, and with motion planted into them.

    python benchmarks/measure_motion.py SCANS... [--draws 3] [--out TABLE]

The planted motion is that of ``gate_failures.py``, another simulation than the one the network learnt from. Prints a
row per scan and writes the same as TSV.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import gate_failures
import numpy as np
import pandas as pd

from analysis import gate, motion, tsv
from synthsr import inference, io, preprocess


def probability(scan: gate_failures.Scan) -> float:
    """The gate's measure of a scan."""
    seen, _ = preprocess.prepare(*scan)
    return motion.probability(motion.shipped(), seen[0, 0].numpy(), scan[1])


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scans", nargs="+", type=Path, metavar="SCAN")
    parser.add_argument("--draws", type=int, default=3, help="of motion, per scan (default: %(default)s)")
    parser.add_argument("--out", type=Path, metavar="TABLE")
    given = parser.parse_args()
    inference.prepare_process(None)
    limit = float(gate.read_limits().set_index("measure")["limit"]["motion"])
    rows = []
    for path in given.scans:
        scan = io.load(path)
        row = {"scan": f"{path.parent.name}/{path.name}", "as_it_is": probability(scan)}
        for draw in range(given.draws):
            rng = np.random.default_rng([gate_failures.SEED, draw])
            row[f"moved_{draw + 1}"] = probability(gate_failures.shaken(scan, rng))
        rows.append(row)
        print("  ".join(f"{value:.2f}" if isinstance(value, float) else value for value in row.values()), flush=True)
    table = pd.DataFrame(rows)
    moved = table.drop(columns=["scan", "as_it_is"])
    print(f"limit {limit:g}: {int((table['as_it_is'] > limit).sum())} of {len(table)} scans beyond it as they are, "
          f"{int((moved > limit).to_numpy().sum())} of {moved.size} with motion")  # fmt: skip
    if given.out:
        tsv.write(table, given.out)


if __name__ == "__main__":
    main()
