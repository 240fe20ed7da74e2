"""Values from tables as people write them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

from analysis import tsv

#: Stands where there is no value.
NONE = "–"


def number(text: Any, digits: int = 2, factor: float = 1.0) -> str:
    """A number from a table with ``digits`` decimals, a true minus sign, and an en dash where there is none."""
    if text in (tsv.MISSING, "", None) or text != text:
        return NONE
    return f"{float(text) * factor:z,.{digits}f}".replace("-", "−").replace(",", "\u202f")


def millilitres(text: Any, digits: int = 2) -> str:
    """A volume in mm³ as millilitres."""
    return number(text, digits, 1e-3)


def number_of(count: int, one: str, many: str = "") -> str:
    """``1 scan``, ``2 scans``; ``many`` where an s does not make it so."""
    return f"{count} {one if count == 1 else many or one + 's'}"


def bound(limit: float, typical: float) -> str:
    """``at least 1.10``: a limit in words, by the side of it on which the typical value lies."""
    return f"at {'most' if limit > typical else 'least'} {number(limit)}"


def p_value(text: Any) -> str:
    """A p value as people write it."""
    if text in (tsv.MISSING, ""):
        return NONE
    value = float(text)
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}" if value < 0.01 else f"{value:.2f}"


def with_interval(value: str, low: str, high: str) -> str:
    """``0.81 (0.73 to 0.88)``; the value alone where there is no interval."""
    return value if NONE in (low, high) else f"{value} ({low} to {high})"


def without_paths(reason: str) -> str:
    """Drop the names of folders from a message: ``/data/x/scan.nii.gz: constant`` → ``scan.nii.gz: constant``."""
    return re.sub(r"(?<!\S)(?:/|(?=[^\s/]+/[^\s/]+/))(?:[^\s/]+/)+", "", reason).strip()


def counted(reasons: Iterable[tuple[str, str]]) -> list[tuple[str, str, int]]:
    """Reasons by stage, the commonest first: those that differ only in numbers or names of scans count as one.

    Returns
    -------
    Stage, the first of the reasons without folders, and how many there are.
    """
    examples: dict[tuple[str, str], str] = {}
    counts: Counter[tuple[str, str]] = Counter()
    for stage, reason in reasons:
        text = without_paths(reason) or "no reason given"
        kind = (stage, re.sub(r"sub-\S+|\d+(\.\d+)?", "#", text))
        examples.setdefault(kind, text)
        counts[kind] += 1
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0][1]))
    return [(kind[0], examples[kind], count) for kind, count in ranked]


def capitalised(text: str) -> str:
    """First letter upper case, the rest left alone."""
    return text[:1].upper() + text[1:]
