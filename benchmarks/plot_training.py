"""Loss and validation curves of training runs, as a picture; runs that went on from one another are joined.

python benchmarks/plot_training.py runs/starter runs/on runs/calibrated --out docs/training.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd

COLOURS = {"dice": "tab:blue", "soft_dice": "tab:blue", "l1": "tab:orange"}


def joined(runs: list[Path], network: str, table: str) -> pd.DataFrame:
    """One table of several runs: steps and seconds count on, a run's number in column ``run``."""
    parts, steps, seconds = [], 0, 0.0
    for number, run in enumerate(runs):
        path = run / network / table
        if not path.is_file():
            continue
        # A run broken off before its first checkpoint logs its first steps twice.
        part = pd.read_csv(path, sep="\t").drop_duplicates("step", keep="last")
        log = pd.read_csv(run / network / "log.tsv", sep="\t")
        parts.append(part.assign(run=number, step=part["step"] + steps, seconds=part["seconds"] + seconds))
        steps, seconds = steps + int(log["step"].max()), seconds + float(log["seconds"].max())
    return pd.concat(parts) if parts else pd.DataFrame()


def main() -> None:
    """Draw the curves of both networks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    networks = [name for name in ("segmentation", "synthsr") if len(joined(given.runs, name, "log.tsv"))]
    figure, axes = plt.subplots(1, len(networks), figsize=(6 * len(networks), 3.6), layout="constrained", squeeze=False)
    for axis, name in zip(axes[0], networks, strict=True):
        log = joined(given.runs, name, "log.tsv")
        for number, part in log.groupby("run"):
            label = "training loss, mean of 50" if number == log["run"].min() else None
            axis.plot(part["step"], part["loss"].rolling(50, min_periods=1).mean(), color="0.6", label=label)
            if number != log["run"].min():
                axis.axvline(part["step"].min(), color="0.8", lw=0.8)
        title = f"{name}: {log['step'].max()} steps, {log['seconds'].max() / 3600:.1f} h"
        axis.set(title=title, xlabel="step", ylabel="loss", ylim=(0, 4 if name == "segmentation" else 0.4))
        validation = joined(given.runs, name, "validation.tsv")
        other = axis.twinx()
        for column, colour in COLOURS.items():
            if column in validation:
                other.plot(
                    validation["step"], validation[column], "o-", ms=3, color=colour, label=f"validation {column}"
                )
        other.set_ylim(0, 1)
        handles = [
            a + b for a, b in zip(axis.get_legend_handles_labels(), other.get_legend_handles_labels(), strict=True)
        ]
        axis.legend(*handles)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(given.out, dpi=110)


if __name__ == "__main__":
    main()
