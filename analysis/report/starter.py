"""How far volumes by the shipped starter weights are off, as ``docs/validation.md`` has it.

The page says it itself: who is given a folder of results has no documentation at hand.
"""

#: Mean absolute error of single scans in per cent of the true volume, both sides together, with SynthSR.
ERRORS_PERCENT = {
    "ICV": 2.3,
    "Cerebral-White-Matter": 13.7,
    "Cerebral-Cortex": 15.9,
    "Lateral-Ventricle": 17.2,
    "Thalamus": 19.7,
    "Hippocampus": 24.9,
    "Caudate": 28.8,
    "Putamen": 39.8,
    "Amygdala": 43.6,
    "Pallidum": 85.5,
}
#: Patients of whom these are.
N_PATIENTS = 64
#: Fall of the controls' median volume from 30 to 70 years in ml: true, and measured with SynthSR.
FALLS_ML = {"Cerebral-Cortex": (91.6, 7.0), "Cerebral-White-Matter": (45.0, 11.8)}
