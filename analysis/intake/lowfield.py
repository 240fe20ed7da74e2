"""Scans of low-field scanners: which T1 and T2 go together into the published model (Iglesias et al., Radiology 2022).

That model sees both contrasts of one examination (``synthsr weights import --low-field``, ``synthsr predict --also``).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping

#: Magnets up to this are low field; the model's were 0.064 T.
GREATEST_TESLA = 0.2
COLUMNS = ("participant_id", "session_id", "t1_scan_id", "t2_scan_id")


def pairs(rows: Iterable[Mapping[str, str]]) -> list[dict[str, str]]:
    """T1 and T2 of the same session and plane, of all rows of the table of series.

    Repeated scans are paired in the order of their names; those with contrast agent, and those left over, are not.
    """
    examinations: dict[tuple[str, str, str], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        is_low = _number(row["field_tesla"]) <= GREATEST_TESLA
        if is_low and row["decision"] == "include" and row["scan_id"] and row["contrast_agent"] != "yes":
            key = row["participant_id"], row["session_id"], row["plane"]
            examinations[key][row["contrast"]].append(row["scan_id"])
    return [
        dict(zip(COLUMNS, (participant_id, session_id, t1, t2), strict=True))
        for (participant_id, session_id, _), scans in sorted(examinations.items())
        for t1, t2 in zip(sorted(scans["T1w"]), sorted(scans["T2w"]), strict=False)
    ]


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
