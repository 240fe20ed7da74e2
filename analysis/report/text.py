"""Values from tables as people write them."""

from __future__ import annotations

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


def p_value(text: Any) -> str:
    """A p value as people write it."""
    if text in (tsv.MISSING, ""):
        return NONE
    value = float(text)
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}" if value < 0.01 else f"{value:.2f}"


def with_interval(value: str, low: str, high: str) -> str:
    """``0.81 (0.73 to 0.88)``; the value alone where there is no interval."""
    return value if NONE in (low, high) else f"{value} ({low} to {high})"


def capitalised(text: str) -> str:
    """First letter upper case, the rest left alone."""
    return text[:1].upper() + text[1:]
