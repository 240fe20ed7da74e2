"""A clinic of small scans of the miniature head, for the tests of the simulated clinic."""

from __future__ import annotations

from miniature_head import numbers as numbers

from analysis.simulate.clinic import Clinic, Group, Planned

#: Fits the miniature: small stacks, one head size, coarse pixels.
SMALL = Clinic(
    patients=2,
    series=(
        Planned(kind=("localizer",), share=0.5),
        Planned(kind=("T1w", "T2w", "FLAIR")),
        Planned(kind=("T1w", "T2w", "FLAIR"), share=0.5),
        Planned(kind=("DWI",), share=0.5),
    ),
    icv_female_mm3=33_000,
    icv_male_mm3=36_000,
    shape_mm=1.0,
    shape_length_mm=15,
    truth_mm=1,
    sampling_mm=1,
    spacing_min_mm=4,
    matrix=32,
    pixel_min_mm=1.9,
    pixel_max_mm=2.0,
)
#: One patient with a lesion of each kind, twice scanned.
STROKE, TUMOUR = (
    Group(diagnosis=diagnosis, sessions=2, interval_years=0.5, lesion_min_ml=1.2, lesion_max_ml=1.2)
    for diagnosis in ("Stroke", "Tumour")
)
