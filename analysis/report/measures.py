"""Measures of quality as people call them, the same in figures and tables."""

#: By the names of the gate's limits.
NAMES = {
    "icv_litres": "Intracranial volume (l)",
    "edge_share": "Brain cut by the field of view (share of its largest section)",
    "noise_share": "Noise (share of the brain's brightness)",
    "motion": "Motion (mean probability over slices)",
    "agreement_dice": "Agreement of the segmentations of scan and synthetic T1 (Dice)",
    "grey_white_contrast": "Contrast of white and grey matter in the synthetic T1 (share of the white)",
    "asymmetry": "Difference of the hemispheres (share of their sum)",
    "entropy": "Unsureness of the segmenter (nats)",
    "cohort_distance": "Distance of the volumes from the cohort's (robust z)",
    "session_shift_mm": "Shift against the session's other scans (mm)",
    "session_sides": "Left and right as in the session's other scans (1; −1 if mirrored)",
}
