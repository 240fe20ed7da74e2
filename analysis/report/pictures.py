"""Figures of the cohort page that no statistic draws: people, how scans were acquired, how good they are."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.statistics import figures

from . import measures

Array = npt.NDArray[Any]

SEXES = {"F": "women", "M": "men"}
AGE_STEP_YEARS, SPACING_STEP_MM = 5, 0.5
COLOURS = (figures.ORANGE, figures.BLUE, figures.GREEN, figures.PURPLE, figures.VERMILION, figures.GREY)
HATCHES = ("", "///", "...", "xx", "\\\\", "++")
#: Fewer values are shown one by one; more in as many bars as a small panel has room for, limits included.
FEW_VALUES, N_BARS = 20, 40
#: Letters in a line of a panel's title.
TITLE_WIDTH = 40


def choose(scans: pd.DataFrame, number: int) -> pd.DataFrame:
    """Up to ``number`` scans, taking turns over contrasts and planes so that each kind is seen."""
    turn = scans.groupby(["contrast", "plane"]).cumcount()
    kind = scans.groupby(["contrast", "plane"]).ngroup()
    order = pd.DataFrame({"turn": turn, "kind": kind}).sort_values(["turn", "kind"]).index[:number]
    return scans.loc[order].sort_values(["contrast", "plane", "scan_id"])


def ages(persons: pd.DataFrame) -> pd.DataFrame:
    """People per age group (column ``age_from_years``) and sex."""
    sexes = persons["sex"].map(SEXES).fillna("sex unknown")
    return _counted(persons["age_years"], sexes, AGE_STEP_YEARS, "age_from_years", [*SEXES.values(), "sex unknown"])


def spacings(scans: pd.DataFrame) -> pd.DataFrame:
    """Scans per spacing between slices (column ``spacing_from_mm``) and contrast."""
    contrasts = sorted(scans["contrast"].unique())
    # Bins are centred on whole and half millimetres.
    return _counted(
        scans["spacing_mm"] + SPACING_STEP_MM / 2, scans["contrast"], SPACING_STEP_MM, "spacing_from_mm", contrasts
    ).assign(spacing_from_mm=lambda table: table["spacing_from_mm"] - SPACING_STEP_MM / 2)


def people(by_age: pd.DataFrame, by_spacing: pd.DataFrame) -> bytes:
    """Histograms of :func:`ages` and :func:`spacings`, side by side."""
    figure, (left, right) = figures.panels(2, width_inch=4.4, height_inch=2.8)
    _stacked(left, by_age, AGE_STEP_YEARS)
    left.set_xlabel("age at first session (years)")
    left.set_ylabel("people")
    _stacked(right, by_spacing, SPACING_STEP_MM)
    right.set_xlabel("spacing between slices (mm)")
    right.set_ylabel("scans")
    return figures.png(figure)


def quality(scans: pd.DataFrame, limits: pd.DataFrame) -> bytes | None:
    """Every measure of quality over all segmented scans, with its limits.

    Parameters
    ----------
    scans
        Rows of the gate.
    limits
        ``measure`` and ``limit``; a measure may have two.

    Returns
    -------
    PNG, or None where nothing was measured.
    """
    known = limits[[name in scans and bool(scans[name].notna().any()) for name in limits["measure"]]]
    if known.empty:
        return None
    named = scans.rename(columns=measures.NAMES), known.replace({"measure": measures.NAMES})
    return distributions(*named, scans["included"] == "yes", words=("included", "left out"), what="scans")


def distributions(
    table: pd.DataFrame, limits: pd.DataFrame, is_good: pd.Series, *, words: tuple[str, str], what: str
) -> bytes:
    """Values of every measure in ``limits``, of good rows and of others, as a PNG: a histogram, or a mark per value.

    Parameters
    ----------
    table
        A column per measure.
    limits
        ``measure`` as it is written above its panel, and ``limit``; a measure may have two, or NaN for none.
    is_good
        Of every row of the table.
    words
        What good rows and others are called.
    what
        Is counted.
    """
    names = list(dict.fromkeys(limits["measure"]))
    figure, axes = figures.panels(len(names), columns=3, width_inch=3.0, height_inch=1.9)
    shown: dict[str, Any] = {}
    for axis, name in zip(axes, names, strict=True):
        bounds = limits.loc[limits["measure"] == name, "limit"].dropna().to_numpy(dtype=float)
        draw_distribution(axis, [table.loc[chosen, name].dropna() for chosen in (is_good, ~is_good)], bounds, words)
        if axis.patches:
            axis.set_ylabel(what)
        axis.set_title(textwrap.fill(name, TITLE_WIDTH), fontsize=8.5)
        handles, told = axis.get_legend_handles_labels()
        shown |= dict(zip(told, handles, strict=True))
    order = [name for name in (*words, "limit") if name in shown]
    figure.legend(
        [shown[name] for name in order], order, loc="outside upper center", ncols=3, frameon=False, fontsize=8.5
    )
    return figures.png(figure)


def draw_distribution(axis: Any, groups: Sequence[pd.Series], limits: Array, words: Sequence[str]) -> None:
    """Bars, or a mark for each of fewer than :data:`FEW_VALUES`.

    Parameters
    ----------
    axis
        Where.
    groups
        Values of good rows and of others, each drawn if there are any.
    limits
        Shape (n,); where lines are drawn.
    words
        A name per group, for the legend.
    """
    everything = np.concatenate([*groups, limits])
    low, high = float(everything.min()), float(everything.max())
    if low == high:
        low, high = min(0.0, 2 * low), max(0.0, 2 * low) or float(low == 0)
    looks = [
        (values, colour, marker, word)
        for values, colour, marker, word in zip(groups, (figures.BLUE, figures.ORANGE), "oD", words, strict=True)
        if len(values)
    ]
    if sum(len(values) for values in groups) < FEW_VALUES:
        for place, (values, colour, marker, word) in enumerate(looks):
            axis.plot(values, np.full(len(values), -place), marker, color=colour, alpha=0.6, ms=6, mew=0, label=word,
                      clip_on=False)  # fmt: skip
        axis.set_ylim(-len(looks), 1)
        axis.set_yticks([])
    else:
        values, colours, _, told = zip(*looks, strict=True)
        bins = np.linspace(low, high, N_BARS + 1)
        axis.hist(values, bins=bins, stacked=True, color=colours, label=told)
        _count_in_whole_numbers(axis)
    for limit in limits:
        axis.axvline(limit, color="black", lw=1.2, ls="--", label="limit")
    # No room below zero or above one where no value lies there: most measures are shares, and cannot.
    room = 0.04 * (high - low)
    axis.set_xlim(low - room if low < 0 else max(low - room, 0), high + room if high > 1 else min(high + room, 1))
    axis.locator_params(axis="x", nbins=5)


def _counted(values: pd.Series, kinds: pd.Series, step: float, name: str, order: Sequence[str]) -> pd.DataFrame:
    """Rows per bin of ``step``, from the first to the last that holds anything, a column per kind."""
    known = values.notna()
    start = np.floor(values[known].to_numpy(dtype=float) / step)
    table = pd.crosstab(start, kinds[known].to_numpy())
    if len(table):
        table = table.reindex(np.arange(start.min(), start.max() + 1), fill_value=0)
    columns = [kind for kind in order if kind in table]
    counts: pd.DataFrame = table[columns].rename_axis(None, axis=1)
    counts.insert(0, name, counts.index.to_numpy(dtype=float) * step)
    return counts.reset_index(drop=True)


def _stacked(axis: Any, counts: pd.DataFrame, step: float) -> None:
    """Bars, with hatches beside colours so that they can be told apart without them."""
    if not len(counts):
        axis.text(0.5, 0.5, "not known", ha="center", va="center", transform=axis.transAxes)
        return
    start, below = counts.iloc[:, 0].to_numpy(), np.zeros(len(counts))
    for place, name in enumerate(counts.columns[1:]):
        height = counts[name].to_numpy(dtype=float)
        look = {"color": COLOURS[place % len(COLOURS)], "hatch": HATCHES[place % len(HATCHES)], "edgecolor": "white"}
        axis.bar(start, height, width=step, bottom=below, align="edge", label=name, linewidth=0.6, **look)
        below += height
    axis.legend(frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(counts.columns) - 1)
    _count_in_whole_numbers(axis)


def _count_in_whole_numbers(axis: Any) -> None:
    axis.yaxis.get_major_locator().set_params(integer=True)
