"""Loss and validation curves of training runs; runs that went on from one another are joined."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .. import files
from .config import NETWORKS
from .record import LOG, VALIDATION

if TYPE_CHECKING:
    import pandas as pd

#: Columns of ``validation.tsv`` between 0 and 1, on the right-hand axis; and those on the axis of the loss.
SHARES = {"dice": "tab:blue", "soft_dice": "tab:blue", "real_dice": "tab:green"}
LOSSES = {"cross_entropy": "tab:red", "loss": "tab:red", "l1": "tab:orange"}
SMOOTHED_STEPS = 50


def joined(runs: Sequence[Path], network: str, table: str) -> pd.DataFrame:
    """One table of several runs: steps and seconds count on, a run's number in column ``run``."""
    import pandas as pd

    parts, steps, seconds = [], 0, 0.0
    for number, run in enumerate(runs):
        path = run / network / table
        if not path.is_file():
            continue
        # A run broken off before its first checkpoint logs its first steps twice.
        part = pd.read_csv(path, sep="\t").drop_duplicates("step", keep="last")
        log = pd.read_csv(run / network / LOG, sep="\t")
        parts.append(part.assign(run=number, step=part["step"] + steps, seconds=part["seconds"] + seconds))
        steps, seconds = steps + int(log["step"].max()), seconds + float(log["seconds"].max())
    return pd.concat(parts) if parts else pd.DataFrame()


def draw_curves(runs: Sequence[Path], target: Path) -> None:
    """Draw the curves of both networks into a PNG file; the same tables give the same bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    networks = [name for name in NETWORKS if len(joined(runs, name, LOG))]
    figure = Figure(figsize=(6 * len(networks), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    for position, name in enumerate(networks, start=1):
        axis = figure.add_subplot(1, len(networks), position)
        log = joined(runs, name, LOG)
        for number, part in log.groupby("run"):
            first = number == log["run"].min()
            smooth = part["loss"].rolling(SMOOTHED_STEPS, min_periods=1).mean()
            axis.plot(part["step"], smooth, color="0.6", label="training loss, mean of 50" if first else None)
            if not first:
                axis.axvline(part["step"].min(), color="0.8", lw=0.8)
        title = f"{name}: {log['step'].max()} steps, {log['seconds'].max() / 3600:.1f} h"
        axis.set(title=title, xlabel="step", ylabel="loss", ylim=(0, 1.1 * float(log["loss"].quantile(0.99))))
        other = axis.twinx()
        other.set_ylim(0, 1)
        validation = joined(runs, name, VALIDATION)
        for where, colours in ((other, SHARES), (axis, LOSSES)):
            for column, colour in colours.items():
                if column in validation:
                    seen = validation.dropna(subset=column)
                    where.plot(seen["step"], seen[column], "o-", ms=3, color=colour, label=f"validation {column}")
        handles = [
            a + b for a, b in zip(axis.get_legend_handles_labels(), other.get_legend_handles_labels(), strict=True)
        ]
        axis.legend(*handles, fontsize="small")
    with files.whole(target) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
