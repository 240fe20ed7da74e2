"""Statistics as sections of the page: figures, a small table, method, sources, limits; what has not run is left out.

The figures are those that the statistics drew; the tables are the part of theirs that a page can hold, with a link to
the whole. No markup here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from analysis.layout import Results

from .atlas import atlas_section
from .groups import arms_section, groups_section
from .images import landmarks_section, lesion_map_section, tbm_section, thickness_section
from .parts import Section
from .registration import registration_section
from .volumes import agreement_section, asymmetry_section, harmonise_section


def collect(results: Results) -> list[Section]:
    """Sections of all statistics that have run, in the order of the page."""
    builders: tuple[Callable[[Results], Section | None], ...] = (
        agreement_section,
        groups_section,
        arms_section,
        asymmetry_section,
        registration_section,
        landmarks_section,
        atlas_section,
        lesion_map_section,
        tbm_section,
        thickness_section,
        harmonise_section,
    )
    found = [section for build in builders if (section := build(results)) is not None]
    return [replace(one, tables=[table.without_empty_notes() for table in one.tables]) for one in found]
