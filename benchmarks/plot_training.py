"""Loss and validation curves of training runs, as a picture; runs that went on from one another are joined.

python benchmarks/plot_training.py runs/starter runs/on runs/calibrated --out docs/training.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

from synthsr.train.figure import draw_curves


def main() -> None:
    """Draw the curves of both networks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    draw_curves(given.runs, given.out)


if __name__ == "__main__":
    main()
