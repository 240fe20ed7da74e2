"""Loss and validation curves of a training run, as a picture.

python benchmarks/plot_training.py runs/starter --out docs/training.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd


def main() -> None:
    """Draw the curves of every network of the run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    networks = [name for name in ("segmentation", "synthsr") if (given.run / name / "log.tsv").is_file()]
    figure, axes = plt.subplots(1, len(networks), figsize=(6 * len(networks), 3.6), layout="constrained", squeeze=False)
    for axis, name in zip(axes[0], networks, strict=True):
        log = pd.read_csv(given.run / name / "log.tsv", sep="\t")
        axis.plot(
            log["step"], log["loss"].rolling(50, min_periods=1).mean(), color="0.6", label="training loss, mean of 50"
        )
        axis.set(
            title=f"{name}: {log['step'].max()} steps, {log['seconds'].max() / 3600:.1f} h",
            xlabel="step",
            ylabel="loss",
            ylim=(0, 4),
        )
        validation = pd.read_csv(given.run / name / "validation.tsv", sep="\t")
        other = axis.twinx()
        for column, colour in (("dice", "tab:blue"), ("soft_dice", "tab:blue"), ("l1", "tab:orange")):
            if column in validation:
                other.plot(
                    validation["step"], validation[column], "o-", ms=3, color=colour, label=f"validation {column}"
                )
        other.set_ylim(0, 1)
        axis.legend(
            *(a + b for a, b in zip(axis.get_legend_handles_labels(), other.get_legend_handles_labels(), strict=True))
        )
    given.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(given.out, dpi=110)


if __name__ == "__main__":
    main()
