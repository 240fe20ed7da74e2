"""How well a session tells which of its scans is mirrored left to right.

    python benchmarks/measure_sides.py STUDY/results/tables/volumes.tsv

Networks treat both sides alike, so that a mirrored scan has the volumes of the scan itself with left and right
exchanged. Of every three scans of a session each is judged as it is, mirrored, and beside a mirrored one. Prints how
alike any two scans of a session are in what their sides differ by, and the shares beyond the gate's limit.
"""

from __future__ import annotations

import argparse
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from analysis import gate, tsv


def mirrored(volumes_mm3: pd.DataFrame) -> pd.DataFrame:
    """The same scans with left and right exchanged."""
    exchanged = {name: name.replace("Left-", "Right-") if name.startswith("Left-") else name.replace("Right-", "Left-")
                 for name in volumes_mm3}  # fmt: skip
    return volumes_mm3.rename(columns=exchanged)[volumes_mm3.columns]


def sides(scans: list[pd.Series]) -> list[float]:
    """The gate's measure of the scans of one session."""
    session = pd.DataFrame(scans).reset_index(drop=True)
    return gate.session_sides(session, pd.Series("session", index=session.index)).tolist()


def main() -> None:
    """Read, judge, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("volumes", type=Path, metavar="TABLE", help="of a study, a row per scan and structure")
    given = parser.parse_args()
    table = tsv.read(given.volumes, numbers=("volume_mm3",))
    keys = ["participant_id", "session_id", "scan_id"]
    sizes = table.pivot_table(index=keys, columns="structure", values="volume_mm3")
    turned = mirrored(sizes)
    pairs, as_they_are, beside, found = [], [], [], []
    for _, session in sizes.groupby(level=keys[:2]):
        scans = [row for _, row in session.iterrows()]
        for first, second in combinations(scans, 2):
            # The measure wants two others; the same one twice is one.
            pairs.append(sides([first, second, second])[0])
        for three in combinations(range(len(scans)), 3):
            as_they_are += sides([scans[place] for place in three])
            for odd in three:
                others = [scans[place] for place in three if place != odd]
                told = sides([turned.loc[session.index[odd]], *others])
                found.append(told[0])
                beside += told[1:]
    limit = float(gate.read_limits().set_index("measure")["limit"]["session_sides"])
    print(f"{len(sizes)} scans, {len(pairs)} pairs of a session: cosine {min(pairs):.2f} to {max(pairs):.2f}, "
          f"median {np.median(pairs):.2f}")  # fmt: skip
    for what, values in (("sound", as_they_are), ("sound beside a mirrored one", beside), ("mirrored", found)):
        if values:
            share = np.mean(np.array(values) < limit)
            print(f"{what}, of three scans: {share:.1%} of {len(values)} beyond the limit of {limit:g}")


if __name__ == "__main__":
    main()
