"""A simulated clinic of miniature heads."""

from __future__ import annotations

from miniature_head import SHAPE, numbers

from analysis.simulate.clinic import Clinic

__all__ = ["SHAPE", "SMALL", "numbers"]

#: Fits the miniature: small stacks, one head size, coarse pixels.
SMALL = Clinic(
    patients=2,
    second_scans=1,
    localizers=1,
    four_dimensional=1,
    icv_female_mm3=33_000,
    icv_male_mm3=36_000,
    shape_mm=1.0,
    shape_length_mm=15,
    truth_mm=1,
    spacing_min_mm=4,
    matrix=32,
    pixel_min_mm=1.9,
    pixel_max_mm=2.0,
)
